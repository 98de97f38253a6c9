"""Databases of a test's own, made as in life: a SQLite file in its `var/`, or one on PostgreSQL.

A test that takes `each_database` (tests/conftest.py) runs on both; `only_sqlite` and
`only_postgres` mark those whose subject is one of them. The server is $EMTE_TEST_POSTGRES, else the
one at 127.0.0.1:5432 as the current user.
"""

import getpass
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from app.models import accounts, settings
from app.models.accounts import Registration, User
from app.models.db import DAL, migrate, open_database, transaction
from matching.config import Var
from matching.order import parse_price

DATABASES = ("sqlite", "postgres")

only_sqlite = pytest.mark.parametrize("each_database", ["sqlite"], indirect=True)
only_postgres = pytest.mark.parametrize("each_database", ["postgres"], indirect=True)


def make_var(tmp_path: Path) -> Var:
    """A `var/` under the test's folder."""
    var = Var(tmp_path / "var")
    var.make()
    return var


def uri_of(var: Var) -> str:
    """The database that EMTE's programs take under this `var/`, as the environment is now."""
    return settings.database_uri(var)


def make_database(var: Var) -> DAL:
    """The migrated database of a `var/`."""
    migrate(uri_of(var), var)
    return open_database(uri_of(var))


@contextmanager
def own_database(kind: str) -> Iterator[str | None]:
    """The URI of an empty database on PostgreSQL, emptied at the end; None for SQLite's default.

    Without a server the test is skipped, unless all must run.
    """
    if kind == "sqlite":
        yield None
        return
    uri = _free.pop() if _free else _make()
    try:
        yield uri
    finally:
        command(uri, END_CONNECTIONS)
        command(uri, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        _free.append(uri)


_free: list[str] = []
"""The URIs of databases that tests have given back, empty: to make one takes far longer."""

_RUN = secrets.randbits(31)
"""Which run of the tests this is: its databases are named by it."""

_NAME = re.compile(r"emte_test_([0-9a-f]{8})_[0-9a-f]{8}")

_claims: list[Any] = []
"""The connection that holds this run's lock, from its first database on until the run ends."""

END_CONNECTIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def drop_databases() -> None:
    """Leave nothing behind on PostgreSQL, once the last test has given its database back."""
    while _free:
        command(_server(), f"DROP DATABASE {_free.pop().rpartition('/')[2]} WITH (FORCE)")
    while _claims:
        _claims.pop().close()


def _make() -> str:
    server = _server()
    try:
        if not _claims:
            _claim(server)
        name = f"emte_test_{_RUN:08x}_{secrets.token_hex(4)}"
        command(server, f"CREATE DATABASE {name}")
    except psycopg2.OperationalError as error:
        sentence = f"no PostgreSQL to test with: {error}"
        if os.environ.get("EMTE_REQUIRE_ALL") == "1":
            pytest.fail(f"{sentence} (EMTE_REQUIRE_ALL=1)")
        pytest.skip(sentence)
    # No test cuts this server's power: it need not wait for the disk.
    command(server, f"ALTER DATABASE {name} SET synchronous_commit = off")
    return f"{server.rpartition('/')[0]}/{name}"


def _claim(server: str) -> None:
    """Hold this run's lock, and drop the databases of runs whose lock nobody holds: they ended."""
    claim = psycopg2.connect(server, connect_timeout=5)
    claim.autocommit = True
    with claim.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (_RUN,))
        cursor.execute("SELECT datname FROM pg_database")
        for (name,) in cursor.fetchall():
            made = _NAME.fullmatch(name)
            if made is None or int(made[1], 16) == _RUN:
                continue
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (int(made[1], 16),))
            if cursor.fetchone() == (True,):
                cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    _claims.append(claim)


def command(uri: str, sql: str) -> list[Any]:
    """Run one statement on PostgreSQL, past EMTE; what it returns."""
    with closing(psycopg2.connect(uri, connect_timeout=5)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []


def _server() -> str:
    default = f"postgres://{getpass.getuser()}@127.0.0.1:5432/postgres"
    return os.environ.get("EMTE_TEST_POSTGRES") or default


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
