"""The platform's settings (0.py in web2py): its name, database, mail, how long a log-in lasts."""

import msgspec

from matching.config import Var, setting
from matching.exits import ExitCode, Fatal

TITLE = "[E]xchange [M]atching and [T]rading [E]ngine"
SUBTITLE = "full-stack exchange and trading platform (fast, scalable, secure)"

SESSION_SECONDS = 14 * 24 * 3600
"""How long a log-in lasts."""

RESET_SECONDS = 3600
"""How long a link to a new password leads there."""

PASSWORD_ROUNDS = 600_000
"""Rounds of pbkdf2_sha256; a password hashed with fewer is hashed again at its next log-in."""


class Smtp(msgspec.Struct, frozen=True):
    """The mail server that the platform hands its e-mails to; `user` "": it asks for no log-in."""

    host: str
    port: int
    user: str
    password: str
    sender: str


def smtp() -> Smtp | None:
    """The settings smtp_host, smtp_port (587), smtp_user, smtp_password, smtp_from.

    None without smtp_host. Fatal (78) without smtp_from, or for a port that is none.
    """
    names = ("host", "port", "user", "password", "from")
    host, port, user, password, sender = (
        setting(f"smtp_{name}", None, "587" if name == "port" else "") for name in names
    )
    if not host:
        return None
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise Fatal(ExitCode.CONFIGURATION, f"smtp_port {port!r} is not a port")
    if not sender:
        raise Fatal(ExitCode.CONFIGURATION, "smtp_host needs smtp_from, the sender's address")
    return Smtp(host=host, port=int(port), user=user, password=password, sender=sender)


def manager_signup() -> bool:
    """Whether anybody may sign up as a manager, as in 2010: `manager_signup`, open or closed."""
    text = setting("manager_signup", None, "open")
    if text not in ("open", "closed"):
        raise Fatal(ExitCode.CONFIGURATION, f"manager_signup is open or closed, not {text!r}")
    return text == "open"


def public_url(default: str) -> str:
    """$EMTE_URL, else emte.toml's `url`, else `default`: the platform's address for browsers.

    Links in e-mails begin with it. What a request calls the host is never taken for it: whoever
    asks for another's new password could have the link lead to a place of their own.
    """
    return setting("url", None, default).rstrip("/")


def database_uri(var: Var, flag: str | None = None) -> str:
    """`--database`, else $EMTE_DATABASE, else emte.toml's `database`, else var/emte.db.

    Either `sqlite:///absolute/path.db` or `postgres://user:password@host/name`.
    """
    return setting("database", flag, f"sqlite://{var.database_file}")
