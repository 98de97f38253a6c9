"""A database of its own for a test, with traders in it: a real SQLite file, migrated as in life."""

from pathlib import Path

from app.models import accounts
from app.models.accounts import Registration, User
from app.models.db import DAL, migrate, open_database, transaction
from matching.config import Var
from matching.order import parse_price


def make_var(tmp_path: Path) -> Var:
    """A `var/` under the test's folder."""
    var = Var(tmp_path / "var")
    var.make()
    return var


def uri_of(var: Var) -> str:
    return f"sqlite://{var.database_file}"


def make_database(var: Var) -> DAL:
    """The migrated database of a `var/`."""
    migrate(uri_of(var), var)
    return open_database(uri_of(var))


def add_user(db: DAL, username: str, *, cash: str = "0", manager: bool = False) -> User:
    """An account with so much cash, whose password cannot be guessed (none was hashed)."""
    registration = Registration(
        username=username,
        first_name=username,
        last_name="Test",
        email=f"{username}@example.org",
        password="",
        manager=manager,
        actual_cash=parse_price(cash),
    )
    with transaction(db, write=True):
        return accounts.register(db, registration, "no hash", at=1)
