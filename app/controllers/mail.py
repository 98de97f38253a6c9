"""Mail: e-mails handed to the mail server of the settings, off the loop, one at a time.

Port 465 speaks TLS from the start; elsewhere TLS begins as soon as the server offers it. A password
of ours is sent under TLS only, or to this machine.
"""

import asyncio
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from app.controllers.base import Platform
from app.models.settings import Smtp

TLS_PORT = 465

PATIENCE_SECONDS = 10.0
"""How long the mail server may take for each of its answers."""


class NotSent(Exception):
    """The mail server is away, or did not take the e-mail: why, in one line."""


async def send(platform: Platform, *, to: str, subject: str, text: str) -> None:
    """Hand one e-mail to the mail server; NotSent if it does not take it."""
    smtp = platform.smtp
    assert smtp is not None
    message = EmailMessage()
    message["From"] = smtp.sender
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain=smtp.sender.rpartition("@")[2].rstrip(">"))
    message.set_content(text)
    loop = asyncio.get_running_loop()
    try:
        await loop.run_in_executor(platform.mailing, _hand_over, smtp, message, to)
    except (OSError, ValueError) as error:  # smtplib's own are OSErrors
        raise NotSent(" ".join(str(error).split()) or type(error).__name__) from error


def _hand_over(smtp: Smtp, message: EmailMessage, to: str) -> None:
    with _connect(smtp) as server:
        if smtp.user:
            server.login(smtp.user, smtp.password)
        server.send_message(message, to_addrs=[to])


def _connect(smtp: Smtp) -> smtplib.SMTP:
    trusted = ssl.create_default_context()
    if smtp.port == TLS_PORT:
        return smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=PATIENCE_SECONDS, context=trusted)
    server = smtplib.SMTP(smtp.host, smtp.port, timeout=PATIENCE_SECONDS)
    try:
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls(context=trusted)
        elif smtp.user and smtp.host not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"{smtp.host} offers no TLS, so that no password is sent to it")
    except BaseException:
        server.close()
        raise
    return server
