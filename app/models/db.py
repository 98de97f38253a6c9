"""The database: migrated, opened, and read and written in transactions.

    db = open_database(uri)               # one for all threads: each gets its own connection
    with transaction(db):                 # BEGIN: one consistent view
        rows(db, "SELECT id FROM product WHERE name = ?", "intc")
    with transaction(db, write=True):     # nobody writes between check and store
        lock_row(db, "auth_user", 7)
        execute(db, "UPDATE product SET active = ? WHERE id = ?", "F", 3)

pyDAL defines the tables and connects; statements are written in the SQL that SQLite and PostgreSQL
share, since a pyDAL row costs 25 times a tuple.

SQLite runs in WAL mode with synchronous NORMAL: a power cut may lose the last transactions, and
what log2db lost it reads from the journal again. Its write transactions are IMMEDIATE: there is one
at a time. On PostgreSQL they are many, READ COMMITTED, and lock the rows that they decide by; each
statement sees what others have committed meanwhile. Reading ones are REPEATABLE READ.
"""

import fcntl
import importlib.util
import logging
import math
import os
import select
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeVar

from pydal import DAL as DAL  # exported: others name the type of what they hand on
from pydal.helpers.classes import DatabaseStoredFile
from pydal.migrator import InDBMigrator

from app.models import tables
from matching.config import Var
from matching.exits import ExitCode, Fatal

BUSY_SECONDS = 5.0
"""How long a statement waits for another process's lock before the database counts as away."""

CONNECT_SECONDS = 5.0
"""How long PostgreSQL may take to answer a new connection before it counts as away."""

ATTEMPTS = 5
"""How often a transaction is begun that others get in the way of, before the database is busy."""

_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""SQLite's primary codes that speak of the file and its locks, not of the statement."""


_LISTEN_SECONDS = 0.1
"""How often who waits for PostgreSQL looks whether the process is to end."""

_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}
"""A PostgreSQL whose machine has vanished is noticed in 20 s; the system's own patience is hours.

The last is in milliseconds, and of Linux only.
"""

_CONFLICTS = frozenset({"40001", "40P01"})
"""PostgreSQL's codes of a transaction given up for another's sake: serialization, deadlock."""

_IN_ERROR = 3
"""libpq's word for a transaction in which a statement has failed (PQTRANS_INERROR)."""

_CACHE_KIB = 32_768
"""So much of a SQLite file a connection keeps in memory: its own 2 MiB hold no index of a run."""

_CHECKPOINT_PAGES = 4_000
"""SQLite's write-ahead log grows so long (16 MB) before it is copied into the file and synced."""

_NUMBERS_A_STATEMENT = 900
"""SQLite takes 999 to 250,000 parameters in one statement, as it was built."""

MIGRATION_LOCK = 0x454D5445
"""The number of our advisory lock on PostgreSQL: EMTE."""

T = TypeVar("T")


class DatabaseAway(Exception):
    """The database cannot be reached, or another transaction was in the way: wait and try again."""


class Conflict(DatabaseAway):
    """Two transactions waited for each other, and this one was given up: run it again."""


class Taken(Exception):
    """A row with the same key is there already; the transaction can only be given up."""


class Doubled(Exception):
    """Rows are in the database twice, since it has lost the unique index that forbids it."""


class Invalid(Exception):
    """A form was not filled in right: field name → sentence ("" for the form as a whole)."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__(str(errors))
        self.errors = errors


def migrate(uri: str, var: Var) -> None:
    """Bring the database's tables up to date; safe from any number of processes at once.

    One process at a time, by a file lock (and one machine, by PostgreSQL's own), and in one
    transaction, so that one killed in the middle leaves nothing half-done. The record of the schema
    lives in the database itself. Doubled if a unique index cannot be made.
    """
    # A connection that ends here raises DatabaseAway; pyDAL would log it too, with its traceback.
    logging.getLogger("pyDAL").setLevel(logging.CRITICAL)
    with (var.run_dir / "the-database.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        db = _connect(uri, migrate=True)
        try:
            with transaction(db, write=True), _one_commit(db):
                if not _is_sqlite(db):
                    _await_turn(db)
                tables.define(db)
                make_indexes(db)
        finally:
            close(db)
            # pyDAL remembers that its own table exists, even if that was rolled back.
            DatabaseStoredFile.web2py_filesystems.discard(db._uri)


def make_indexes(db: DAL) -> None:
    """Make the indexes that are not there, in a write transaction; Doubled if rows forbid one."""
    existing = _indexes(db)
    for name in tables.FORMER_INDEXES:
        if name in existing:
            db.executesql(f"DROP INDEX {name}")
    for statement in tables.INDEXES:
        # PostgreSQL would lock the table to find out that the index is there.
        name = statement.partition(" IF NOT EXISTS ")[2].split(" ")[0]
        if name not in existing:
            try:
                db.executesql(statement)
            except db._adapter.driver.IntegrityError as error:
                raise Doubled(
                    f"rows that unique index {name} forbids are in the database"
                ) from error


def open_database(uri: str) -> DAL:
    """The database, with its tables defined; every thread that uses it has its own connection.

    Fatal (78) for a uri that is neither SQLite's nor PostgreSQL's, or without the driver. A SQLite
    file that is not there is DatabaseAway: only `migrate` makes one.
    """
    db = _connect(uri, migrate=False)
    tables.define(db)
    close(db)  # this thread may never use it
    return db


@contextmanager
def transaction(db: DAL, *, write: bool = False) -> Iterator[None]:
    """One transaction: committed at the end, rolled back if anything is raised.

    A connection that raised an operational error is thrown away: what state it is in is anybody's
    guess. DatabaseAway if that error speaks of the database, not of the statement.
    """
    try:
        _begin(db, write=write)
        yield
        _commit(db)
    except BaseException as error:
        if not isinstance(error, _operational_errors(db)):
            _roll_back(db)
            raise
        close(db)
        if _is_away(db, error):
            kind = Conflict if getattr(error, "pgcode", None) in _CONFLICTS else DatabaseAway
            raise kind(str(error).strip().partition("\n")[0]) from error
        raise


def in_transaction(db: DAL, work: Callable[[], T], *, write: bool = False) -> T:
    """What `work()` returns, in one transaction; begun anew if another one got in its way."""
    for _ in range(ATTEMPTS - 1):
        with suppress(Conflict), transaction(db, write=write):
            return work()
    with transaction(db, write=write):
        return work()


def rows(db: DAL, sql: str, *values: object) -> list[Any]:
    """The rows of a SELECT, as tuples; `?` stands for a value on every database."""
    return db.executesql(_placeholders(db, sql), values) or []


def execute(db: DAL, sql: str, *values: object) -> int:
    """Run one statement; the number of rows it touched."""
    cursor = _cursor(db)
    cursor.execute(_placeholders(db, sql), values)
    return int(cursor.rowcount)


def rows_among(db: DAL, sql: str, *values: object, among: Iterable[int]) -> list[Any]:
    """The rows of a SELECT that ends in the name of a column, for every number of it in `among`."""
    wanted = sorted(among)
    if not _is_sqlite(db):
        # One search of an index for each number, by whatever PostgreSQL takes the table for: where
        # it has no statistics yet, it would read all rows of `values`, and leave most of them out.
        one = f"{sql} = wanted.number OFFSET 0"
        numbers = "unnest(?::bigint[]) AS wanted (number)"
        found_by_number = f"SELECT found.* FROM {numbers} CROSS JOIN LATERAL ({one}) AS found"
        return rows(db, found_by_number, _array(wanted), *values)
    found: list[Any] = []
    for first in range(0, len(wanted), _NUMBERS_A_STATEMENT):
        some = wanted[first : first + _NUMBERS_A_STATEMENT]
        found += rows(db, f"{sql} IN ({', '.join('?' * len(some))})", *values, *some)
    return found


def insert_many(
    db: DAL,
    table: str,
    columns: str,
    values: Sequence[Sequence[Any]],
    *,
    same: Mapping[str, object] = MappingProxyType({}),
    conflict: str = "",
) -> None:
    """Insert many rows: far faster than pyDAL's insert for each. conflict: an ON CONFLICT clause.

    `same` is what every row has in the columns that it names. Each other column's values are all
    numbers, or all text. Taken if a unique column already has one.
    """
    if not values:
        return
    into = f"INTO {table} ({', '.join([*same, columns])})"
    try:
        if _is_sqlite(db):
            _insert_many_on_sqlite(_cursor(db), into, [*same.values()], values, conflict)
        else:
            unnested, arrays = _unnested(values)
            selected = f"SELECT {'?, ' * len(same)}v.* FROM {unnested} v"
            execute(db, f"INSERT {into} {selected} {conflict}", *same.values(), *arrays)
    except db._adapter.driver.IntegrityError as error:
        raise Taken(table) from error


def update_many(
    db: DAL, table: str, changes: Sequence[str], values: Sequence[Sequence[Any]]
) -> int:
    """Update many rows: `values` are what each is changed to, and last its id. How many there were.

    A change is the name of a column, or `name +` for what is added to it.
    """
    if not values:
        return 0
    names = [change.removesuffix(" +") for change in changes]
    if _is_sqlite(db):
        terms = [
            f"{name} = ?" if name == change else f"{name} = {name} + ?"
            for name, change in zip(names, changes, strict=True)
        ]
        cursor = _cursor(db)
        cursor.executemany(f"UPDATE {table} SET {', '.join(terms)} WHERE id = ?", values)
        return int(cursor.rowcount)
    terms = [
        f"{name} = v.{name}" if name == change else f"{name} = t.{name} + v.{name}"
        for name, change in zip(names, changes, strict=True)
    ]
    unnested, arrays = _unnested(values)
    return execute(
        db,
        f"UPDATE {table} t SET {', '.join(terms)}"
        f" FROM {unnested} AS v ({', '.join(names)}, id) WHERE t.id = v.id",
        *arrays,
    )


def insert(db: DAL, table: str, **fields: object) -> int:
    """Insert one row; its id. Taken if a unique column already has the value."""
    try:
        return int(db[table].insert(**fields))
    except db._adapter.driver.IntegrityError as error:
        raise Taken(table) from error


def lock_row(db: DAL, table: str, row: int, *, shared: bool = False) -> None:
    """Nobody else changes this row until the transaction ends; what it holds is seen from now on.

    Any number may hold it `shared`, to read it. On SQLite a write transaction has the whole
    database to itself already.
    """
    if not _is_sqlite(db):
        rows(db, f"SELECT id FROM {table} WHERE id = ? FOR {'SHARE' if shared else 'UPDATE'}", row)


def lock_rows(db: DAL, table: str, ids: Iterable[int]) -> None:
    """As lock_row, for many rows that are about to be changed, in ascending order."""
    if not _is_sqlite(db):
        sql = f"SELECT id FROM {table} WHERE id = ANY(?::bigint[]) ORDER BY id FOR NO KEY UPDATE"
        rows(db, sql, _array(sorted(ids)))


def lock_table(db: DAL, table: str) -> None:
    """Nobody else writes to this table until the transaction ends; see lock_row."""
    if not _is_sqlite(db):
        execute(db, f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")


def close(db: DAL) -> None:
    """Close this thread's connection; the next statement opens a new one."""
    with suppress(Exception):  # it may be broken in any way; what remains is to forget it
        db._adapter.close(action=None)
    db._adapter.set_connection(None)


def end_waits(*, seconds: float) -> None:
    """This process is to end: PostgreSQL has so long for what it is asked, then counts as away.

    Signal handlers may call it. What waits for SQLite's locks ends by itself (BUSY_SECONDS).
    """
    _waits.end = time.monotonic() + seconds


class _Waits:
    """Until when this process waits for PostgreSQL, by `time.monotonic`."""

    end = math.inf


_waits = _Waits()
"""The only one: how psycopg2 waits is a matter of the process, as its end is."""


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def _connect(uri: str, *, migrate: bool) -> DAL:
    scheme, separator, rest = uri.partition("://")
    adapter_args = {"migrator": InDBMigrator, "logfile": None}
    driver_args: dict[str, object] = {}
    if separator and scheme == "sqlite":
        path = os.path.abspath(rest)
        if not migrate and not os.path.exists(path):
            raise DatabaseAway(f"{path} does not exist")  # SQLite would make an empty one
        uri = f"sqlite://{path}"
        driver_args = {"isolation_level": None, "timeout": BUSY_SECONDS}
    elif separator and scheme in ("postgres", "postgresql"):
        account, at, address = rest.partition("@")
        without_password = at and ":" not in account
        # pyDAL cannot do without a password; an empty one is none: trust, peer, or ~/.pgpass.
        uri = f"postgres://{account}{':' if without_password else ''}{at}{address}"
        driver_args = {
            "application_name": "emte",
            **_KEEPALIVE,
            "options": f"-c lock_timeout={BUSY_SECONDS:g}s",
        }
        if importlib.util.find_spec("psycopg2") is None:
            raise Fatal(
                ExitCode.CONFIGURATION,
                "PostgreSQL needs its driver: pip install 'emte[postgres]'",
            )
        _wait_with_an_end()
    else:
        raise Fatal(
            ExitCode.CONFIGURATION,
            f"database {scheme}…: expected sqlite:///path/to.db or postgres://user:password@host/name",
        )
    try:
        return DAL(
            uri,
            bigint_id=True,
            attempts=1,
            decode_credentials=True,
            migrate_enabled=migrate,
            adapter_args=adapter_args,
            driver_args=driver_args,
            after_connection=_prepare_connection,
            table_hash="emte",  # pyDAL's own is of the uri: a copy elsewhere would look empty
        )
    except SyntaxError as error:
        raise Fatal(ExitCode.CONFIGURATION, f"database {scheme}…: {error}") from error
    except RuntimeError as error:  # with a traceback in it: pyDAL's word for no answer
        lines = [line for line in str(error).splitlines() if "Error: " in line]
        raise DatabaseAway(lines[-1] if lines else "no answer") from error


def _wait_with_an_end() -> None:
    """Have psycopg2 wait in Python: its own wait lasts until the server answers, if ever."""
    from psycopg2 import OperationalError, extensions

    events = {extensions.POLL_READ: select.POLLIN, extensions.POLL_WRITE: select.POLLOUT}

    def wait(connection: Any) -> None:
        is_new = connection.status == extensions.STATUS_SETUP
        end = time.monotonic() + CONNECT_SECONDS if is_new else math.inf
        while (state := connection.poll()) != extensions.POLL_OK:
            poller = select.poll()
            poller.register(connection.fileno(), events[state])
            while not poller.poll(_LISTEN_SECONDS * 1000):
                if time.monotonic() > min(end, _waits.end):
                    raise OperationalError("PostgreSQL does not answer")

    extensions.set_wait_callback(wait)


def _prepare_connection(adapter: Any) -> None:
    if adapter.dbengine != "sqlite":
        return
    try:
        adapter.execute("PRAGMA journal_mode=WAL")
        adapter.execute("PRAGMA synchronous=NORMAL")
        adapter.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        adapter.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise Fatal(ExitCode.DISK, f"{adapter.dbpath}: {error}") from error


def _await_turn(db: DAL) -> None:
    """Wait for the other machines that migrate now, however many they are."""
    rows(db, "SELECT set_config('lock_timeout', '0', true)")
    rows(db, "SELECT pg_advisory_xact_lock(?)", MIGRATION_LOCK)
    rows(db, "SELECT set_config('lock_timeout', ?, true)", f"{BUSY_SECONDS:g}s")


def _indexes(db: DAL) -> set[str]:
    names = (
        "SELECT name FROM sqlite_master WHERE type = 'index'"
        if _is_sqlite(db)
        else "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()"
    )
    return {name for (name,) in rows(db, names)}


@contextmanager
def _one_commit(db: DAL) -> Iterator[None]:
    """Withhold the commits that pyDAL's migrator makes after every table: ours is the only one."""
    adapter = db._adapter
    commit = adapter.commit
    adapter.commit = lambda: None
    try:
        yield
    finally:
        adapter.commit = commit


def _begin(db: DAL, *, write: bool) -> None:
    if _is_sqlite(db):
        db.executesql("BEGIN IMMEDIATE" if write else "BEGIN")
        return
    try:
        _begin_on_postgres(db, write=write)
    except _operational_errors(db):
        # Lost while it was idle: nothing has been done yet, so a new connection will do.
        close(db)
        _begin_on_postgres(db, write=write)


def _begin_on_postgres(db: DAL, *, write: bool) -> None:
    _connection(db)  # a new one has had statements of pyDAL's
    db.rollback()  # psycopg2 began a transaction with the first of them
    mode = "READ COMMITTED" if write else "REPEATABLE READ READ ONLY"
    db.executesql(f"SET TRANSACTION ISOLATION LEVEL {mode}")


def _commit(db: DAL) -> None:
    if not _is_sqlite(db) and _connection(db).info.transaction_status == _IN_ERROR:
        # PostgreSQL would take COMMIT for a rollback, and say nothing.
        raise RuntimeError("a transaction in which a statement failed cannot be committed")
    db.commit()


def _cursor(db: DAL) -> Any:
    _connection(db)  # the cursor belongs to it
    return db._adapter.cursor


def _connection(db: DAL) -> Any:
    """The thread's connection to the database; pyDAL makes one if there is none."""
    connection = db._adapter.connection
    if connection is None:
        raise RuntimeError("pyDAL has no connection to the database")
    return connection


def _insert_many_on_sqlite(
    cursor: Any, into: str, same: list[object], values: Sequence[Sequence[Any]], conflict: str
) -> None:
    """As many rows a statement as its parameters allow, then the rest one by one.

    What is the same in all rows is handed over once a statement: ?1, ?2 …
    OR FAIL: else SQLite would copy each page first, to undo the statement alone if it fails.
    """
    width = len(values[0])
    shared = [f"?{number}" for number in range(1, len(same) + 1)]
    row = f"({', '.join([*shared, *'?' * width])})"
    at_once = (_NUMBERS_A_STATEMENT - len(same)) // width
    full = len(values) - len(values) % at_once
    if full:
        cursor.executemany(
            f"INSERT OR FAIL {into} VALUES {', '.join([row] * at_once)} {conflict}",
            (
                same + list(chain.from_iterable(values[first : first + at_once]))
                for first in range(0, full, at_once)
            ),
        )
    rest = [(*same, *each) for each in values[full:]]
    cursor.executemany(f"INSERT OR FAIL {into} VALUES {row} {conflict}", rest)


def _unnested(values: Sequence[Sequence[Any]]) -> tuple[str, list[str]]:
    """Rows as PostgreSQL takes them quickest, and parses them: an array for each column."""
    columns = list(zip(*values, strict=True))
    types = ("bigint" if isinstance(column[0], int) else "text" for column in columns)
    return f"unnest({', '.join(f'?::{name}[]' for name in types)})", list(map(_array, columns))


def _array(values: Sequence[int] | Sequence[str]) -> str:
    """PostgreSQL's text of an array."""
    if not values or isinstance(values[0], int):
        return f"{{{','.join(map(str, values))}}}"
    escaped = (str(value).replace("\\", r"\\").replace('"', r"\"") for value in values)
    return '{"' + '","'.join(escaped) + '"}'


def _placeholders(db: DAL, sql: str) -> str:
    return sql if _is_sqlite(db) else sql.replace("?", "%s")


def _is_sqlite(db: DAL) -> bool:
    return bool(db._adapter.dbengine == "sqlite")


def _operational_errors(db: DAL) -> tuple[type[Exception], ...]:
    driver = db._adapter.driver
    return driver.OperationalError, driver.InterfaceError


def _roll_back(db: DAL) -> None:
    try:
        db.rollback()
    except _operational_errors(db):
        close(db)


def _is_away(db: DAL, error: BaseException) -> bool:
    if not _is_sqlite(db):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _AWAY
