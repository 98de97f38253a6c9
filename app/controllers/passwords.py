"""Passwords: changed by who knows the old one, or by a link that is mailed to who lost it.

Whoever asks for a link gets the same answer at once, whether or not there is such an account: the
account is looked up, and the mail sent, after the answer. A link works once, for an hour. Without a
mail server (`smtp_host`) it stands as a line in this server's log, for the operator to hand on.
"""

import logging

from app.controllers import mail
from app.controllers.base import (
    LOGIN,
    Answer,
    Audience,
    Platform,
    Problem,
    Redirect,
    Request,
    Result,
    expose,
)
from app.controllers.user import attempt, check_own_password, refusal, typed_name
from app.models import accounts
from app.models.accounts import Reset
from app.models.db import DatabaseAway, Invalid, now

LINK_ASKED = (
    "If there is such an account, a link to a new password is on its way to its e-mail address."
    " It works once, within an hour."
)

NEW_PASSWORD_FIELDS = ("password", "password_two")

MAIL = """\
Hello {username},

somebody, most likely you, lost the password of this account of EMTE.
Choose a new one here, within an hour:

{link}

The link works once. If it was not you, there is nothing to do: your password stays what it is.
"""

log = logging.getLogger("webserver")


@expose(
    Audience.TRADERS,
    view="user/change_password.html",
    methods=("GET", "POST"),
    fields=("old_password", *NEW_PASSWORD_FIELDS),
)
async def change_password(request: Request) -> Result:
    """The old password and twice the new one; every other browser of the trader is logged out."""
    if request.method == "GET":
        return {"errors": {}}
    try:
        password = accounts.validate_new_password(request.form)
        credentials, check = await check_own_password(request, "old_password")
        new_hash = await request.platform.hash(lambda: accounts.hash_password(password))
    except (Invalid, Problem) as reason:
        return refusal(reason)
    token = await request.platform.transactions.write(
        accounts.change_password, credentials, check, new_hash, at=now()
    )
    if token is None:
        return refusal(Invalid({"old_password": "This is not your password"}))
    message = "Your password is changed; other browsers of yours are logged out"
    return Redirect("/default/user/profile", message, session=token)


@expose(
    Audience.EVERYONE,
    view="user/request_reset_password.html",
    methods=("GET", "POST"),
    fields=("username",),
)
async def request_reset_password(request: Request) -> Result:
    """Username or e-mail of who lost the password."""
    if request.method == "GET":
        return {"username": "", "error": ""}
    name = typed_name(request)
    if not name:
        return Answer(400, {"username": "", "error": "Enter your username or e-mail address"})
    platform = request.platform
    try:
        with attempt(
            platform.resets, name.lower(), request.address, "Too many links were asked for"
        ):
            platform.start_errand(_hand_out_link(platform, name))
    except Problem as problem:
        return Answer(problem.status, {"username": name, "error": problem.message}, problem)
    return Redirect(LOGIN, LINK_ASKED)


async def _hand_out_link(platform: Platform, name: str) -> None:
    """Mail the link, or log it; where there is no such account, nothing."""
    try:
        reset = await platform.transactions.write(accounts.request_reset, name, at=now())
    except DatabaseAway as away:
        log.warning("no link to a new password is handed out: %s", away)
        return
    if reset is None:
        return
    link = f"{platform.url}/default/user/reset_password?key={reset.key}"
    if platform.smtp is None:
        log.info("smtp_host is not set: %s chooses a new password at %s", reset.username, link)
    else:
        await _mail_link(platform, reset, link)


async def _mail_link(platform: Platform, reset: Reset, link: str) -> None:
    text = MAIL.format(username=reset.username, link=link)
    try:
        await mail.send(platform, to=reset.email, subject="Your password at EMTE", text=text)
    except mail.NotSent as error:
        log.error("the mail with a new password's link to %s was not sent: %s", reset.email, error)


@expose(
    Audience.EVERYONE,
    view="user/reset_password.html",
    methods=("GET", "POST"),
    fields=("key", *NEW_PASSWORD_FIELDS),
)
async def reset_password(request: Request) -> Result:
    """Where the link leads: twice the new password. All sessions of the account end."""
    key = (request.form if request.method == "POST" else request.query).get("key", "")
    read, write = request.platform.transactions.read, request.platform.transactions.write
    useless = Answer(404, {"key": "", "is_good": False, "errors": {}})
    if await read(accounts.reset_owner, key, at=now()) is None:
        return useless
    if request.method == "GET":
        return {"key": key, "is_good": True, "errors": {}}
    try:
        password = accounts.validate_new_password(request.form)
        new_hash = await request.platform.hash(lambda: accounts.hash_password(password))
    except (Invalid, Problem) as reason:
        return refusal(reason, key=key, is_good=True)
    if not await write(accounts.reset_password, key, new_hash, at=now()):
        return useless
    return Redirect(LOGIN, "Your new password is stored: log in with it")
