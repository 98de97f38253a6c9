"""The platform's settings (0.py in web2py): its name, its database, how long a log-in lasts."""

from matching.config import Var, setting

TITLE = "[E]xchange [M]atching and [T]rading [E]ngine"
SUBTITLE = "full-stack exchange and trading platform (fast, scalable, secure)"

SESSION_SECONDS = 14 * 24 * 3600
"""How long a log-in lasts."""

PASSWORD_ROUNDS = 600_000
"""Rounds of pbkdf2_sha256; a password hashed with fewer is hashed again at its next log-in."""


def database_uri(var: Var, flag: str | None = None) -> str:
    """`--database`, else $EMTE_DATABASE, else emte.toml's `database`, else var/emte.db.

    Either `sqlite:///absolute/path.db` or `postgres://user:password@host/name`.
    """
    return setting("database", flag, f"sqlite://{var.database_file}")
