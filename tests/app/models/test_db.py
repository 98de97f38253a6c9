"""The database: one schema for everybody, and transactions that are what they say."""

import shutil
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pydal import Field
from pydal.helpers.classes import DatabaseStoredFile

from app.models import db as database
from app.models import tables
from app.models.db import (
    DAL,
    DatabaseAway,
    close,
    execute,
    in_transaction,
    insert,
    insert_many,
    lock_row,
    lock_table,
    migrate,
    open_database,
    rows,
    rows_among,
    transaction,
    update_many,
)
from matching.config import Var
from matching.exits import ExitCode, Fatal
from tests.database import (
    END_CONNECTIONS,
    add_user,
    command,
    make_database,
    make_var,
    only_postgres,
    only_sqlite,
    own_database,
    uri_of,
)
from tests.processes import running
from tests.waiting import PATIENCE_SECONDS

TABLES = {
    "auth_user",
    "session",
    "product",
    "product_limit",
    "order_intent",
    "amend_intent",
    "ledger",
    "buy_sell_order",
    "match",
    "position",
    "log_position",
}

MIGRATE = """
import sys
from pathlib import Path
from app.models.db import migrate
from app.models.settings import database_uri
from matching.config import Var
var = Var(Path(sys.argv[1]))
migrate(database_uri(var), var)
"""

MIGRATE_AND_DIE = (
    """
import os, signal
from app.models import tables
define = tables.define
def define_and_die(db):
    define(db)
    os.kill(os.getpid(), signal.SIGKILL)
tables.define = define_and_die
"""
    + MIGRATE
)


def _pragma(db: DAL, name: str) -> object:
    return rows(db, f"PRAGMA {name}")[0][0]


def _schema(var: Var) -> list[tuple[str, ...]]:
    """Names and definitions of tables, columns and indexes."""
    if uri_of(var).startswith("postgres"):
        return command(
            uri_of(var),
            "SELECT table_name, column_name, data_type, is_nullable"
            " FROM information_schema.columns WHERE table_schema = 'public'"
            " UNION ALL SELECT indexname, indexdef, '', '' FROM pg_indexes"
            " WHERE schemaname = 'public' ORDER BY 1, 2",
        )
    with closing(sqlite3.connect(var.database_file)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def _tables(var: Var) -> set[str]:
    return {row[0] for row in _schema(var)} & TABLES


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases opened from now on do not wait long for a lock."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)


@only_sqlite
def test_every_connection_is_set_up_whatever_its_thread(db: DAL) -> None:
    def look() -> tuple[object, ...]:
        with transaction(db):
            found = (
                _pragma(db, "journal_mode"),
                _pragma(db, "synchronous"),
                _pragma(db, "busy_timeout"),
                _pragma(db, "foreign_keys"),
                db._adapter.connection.isolation_level,
                db._adapter.connection,
            )
        close(db)
        return found

    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(look).result()
    here = look()
    assert here[:5] == elsewhere[:5] == ("wal", 1, 5000, 1, None)
    assert here[5] is not elsewhere[5]


@only_sqlite
def test_a_write_transaction_has_the_database_to_itself_from_its_begin_on(
    var: Var, impatient: None
) -> None:
    db = make_database(var)
    other = open_database(uri_of(var))
    with transaction(db, write=True):
        # Nothing has been written yet: only BEGIN IMMEDIATE keeps the other one out.
        with pytest.raises(DatabaseAway, match="locked"), transaction(other, write=True):
            pytest.fail("two write transactions at once")
        with transaction(other):
            assert rows(other, "SELECT COUNT(*) FROM auth_user") == [(0,)]
    with transaction(other, write=True):
        pass
    for each in (db, other):
        close(each)


def test_a_read_transaction_is_one_view_however_much_is_written_meanwhile(
    db: DAL, var: Var
) -> None:
    other = open_database(uri_of(var))
    with transaction(db):
        before = rows(db, "SELECT COUNT(*) FROM auth_user")
        add_user(other, "late")
        assert rows(db, "SELECT COUNT(*) FROM auth_user") == before == [(0,)]
    with transaction(db):
        assert rows(db, "SELECT COUNT(*) FROM auth_user") == [(1,)]
    close(other)


def test_whatever_is_raised_takes_everything_back(db: DAL) -> None:
    user = add_user(db, "alice")

    def fail() -> None:
        with transaction(db, write=True):
            execute(db, "UPDATE auth_user SET actual_cash = 7 WHERE id = ?", user.id)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with transaction(db):
        assert rows(db, "SELECT actual_cash FROM auth_user") == [(0,)]


@only_sqlite
def test_a_connection_that_raised_an_operational_error_is_thrown_away(
    var: Var, impatient: None
) -> None:
    db = make_database(var)
    holder = sqlite3.connect(var.database_file, isolation_level=None)
    with transaction(db):
        first = db._adapter.connection
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseAway), transaction(db, write=True):
        pass
    holder.execute("COMMIT")
    holder.close()
    with transaction(db, write=True):
        assert db._adapter.connection is not first
    close(db)


def test_a_statement_of_ours_that_is_wrong_is_not_taken_for_a_database_that_is_away(
    db: DAL,
) -> None:
    driver = db._adapter.driver
    with pytest.raises(driver.DatabaseError, match="nowhere"), transaction(db):
        rows(db, "SELECT * FROM nowhere")
    with transaction(db):
        assert rows(db, "SELECT 1") == [(1,)]


@only_sqlite
def test_a_database_whose_folder_is_gone_is_away_until_it_is_back(var: Var) -> None:
    db = make_database(var)
    close(db)
    aside = var.root.with_name("aside")
    var.root.rename(aside)
    with pytest.raises(DatabaseAway), transaction(db):
        pass
    aside.rename(var.root)
    with transaction(db):
        assert rows(db, "SELECT COUNT(*) FROM product") == [(0,)]
    close(db)


def test_eight_processes_that_migrate_at_once_make_one_schema(
    var: Var, each_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL half of them have another `var/`, as on another machine."""
    elsewhere = make_var(tmp_path / "elsewhere") if each_database == "postgres" else var
    with ExitStack() as stack:
        crowd = [
            stack.enter_context(running("-c", MIGRATE, str(home.root), var=home.root))
            for home in (var, elsewhere) * 4
        ]
        codes = [process.wait() for process in crowd]
        assert codes == [0] * 8, [process.output for process in crowd]
    made = _schema(var)
    assert _tables(var) == TABLES
    with own_database(each_database) as uri:
        if uri is not None:
            monkeypatch.setenv("EMTE_DATABASE", uri)
        alone = make_var(tmp_path / "alone")
        close(make_database(alone))
        assert made == _schema(alone)


def test_a_migration_killed_in_the_middle_leaves_nothing_half_done(var: Var) -> None:
    with running("-c", MIGRATE_AND_DIE, str(var.root), var=var.root) as process:
        assert process.wait() == -signal.SIGKILL
    assert _tables(var) == set()
    migrate(uri_of(var), var)
    assert _tables(var) == TABLES


def test_a_migration_that_fails_can_be_tried_again_by_the_same_process(
    var: Var, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(tables, "INDEXES", ("CREATE INDEX IF NOT EXISTS nonsense",))
        with pytest.raises(Exception, match=r"syntax error|incomplete input"):
            migrate(uri_of(var), var)
    migrate(uri_of(var), var)
    assert _tables(var) == TABLES


def test_a_new_column_is_added_and_the_rows_stay(var: Var, monkeypatch: pytest.MonkeyPatch) -> None:
    db = make_database(var)
    user = add_user(db, "alice", cash="12.50")
    close(db)
    define = tables.define

    def define_more(db: DAL) -> None:
        auth_user = db.define_table

        def with_colour(name: str, *fields: object, **kwargs: object) -> object:
            more = [Field("colour", default="blue", notnull=True)] if name == "auth_user" else []
            return auth_user(name, *fields, *more, **kwargs)

        monkeypatch.setattr(db, "define_table", with_colour, raising=False)
        define(db)

    monkeypatch.setattr(tables, "define", define_more)
    migrate(uri_of(var), var)
    db = open_database(uri_of(var))
    with transaction(db):
        assert rows(db, "SELECT id, actual_cash, colour FROM auth_user") == [
            (user.id, 125_000, "blue")
        ]
    close(db)


def test_products_of_an_older_database_get_the_rules_of_a_new_journal(
    var: Var, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("collar", "band", "breaker", "maker_fee", "taker_fee", "rules_lineage")
    names += ("max_quantity", "max_open_orders", "max_position", "max_notional", "max_rate")

    define = tables.define

    def define_older(db: DAL) -> None:
        whole = db.define_table

        def older(name: str, *fields: Field, **kwargs: object) -> None:
            if name != "product_limit":
                kept = [field for field in fields if name != "product" or field.name not in names]
                whole(name, *kept, **kwargs)

        patched.setattr(db, "define_table", older, raising=False)
        define(db)

    with monkeypatch.context() as patched:
        patched.setattr(tables, "define", define_older)
        indexes = [index for index in tables.INDEXES if " limit_of " not in index]
        patched.setattr(tables, "INDEXES", indexes)
        db = make_database(var)
    by = add_user(db, "manager1", manager=True).id
    with transaction(db, write=True):
        insert(db, "product", name="gs", post_url="", quote_url="", ws_url="",
               created_by=by, modified_by=by)  # fmt: skip
    close(db)
    migrate(uri_of(var), var)
    db = open_database(uri_of(var))
    with transaction(db):
        assert rows(db, f"SELECT {', '.join(names)} FROM product") == [
            (0, 0, 0, 0, 0, "", 1_000_000, 0, 0, 0, 0)
        ]
    close(db)


@only_sqlite
def test_a_database_copied_elsewhere_is_known_there(db: DAL, tmp_path: Path) -> None:
    add_user(db, "alice")
    with transaction(db):
        original = Path(rows(db, "PRAGMA database_list")[0][2])
    elsewhere = make_var(tmp_path / "elsewhere")
    with transaction(db, write=True):  # nobody writes while we copy
        for file in original.parent.glob(f"{original.name}*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, elsewhere.root)
    copy = make_database(elsewhere)
    with transaction(copy):
        assert rows(copy, "SELECT username FROM auth_user") == [("alice",)]
    close(copy)


@only_sqlite
def test_who_only_opens_makes_no_database(var: Var) -> None:
    with pytest.raises(DatabaseAway, match=f"{var.database_file} does not exist"):
        open_database(uri_of(var))
    assert not var.database_file.exists()


@only_sqlite
def test_a_file_that_is_no_database_ends_the_process_with_one_line(var: Var) -> None:
    var.database_file.write_text("a shopping list\n" * 100)
    with pytest.raises(Fatal, match=f"{var.database_file}: file is not a database") as raised:
        migrate(uri_of(var), var)
    assert raised.value.code == ExitCode.DISK
    db = open_database(uri_of(var))
    with pytest.raises(Fatal, match="not a database"), transaction(db):
        pass


def test_who_only_opens_changes_no_schema(var: Var) -> None:
    var.database_file.touch()
    db = open_database(uri_of(var))
    with pytest.raises(db._adapter.driver.DatabaseError, match="product"), transaction(db):
        rows(db, "SELECT * FROM product")
    close(db)
    assert _tables(var) == set()


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("mysql://user:password@somewhere/emte", "expected sqlite:"),
        ("emte.db", "expected sqlite:"),
        ("postgres://user:password@127.0.0.1/emte", "needs its driver"),
    ],
)
def test_a_uri_that_cannot_be_opened_says_what_is_missing(
    uri: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Fatal, match=sentence) as raised:
        open_database(uri)
    assert raised.value.code == ExitCode.CONFIGURATION
    assert "user" not in raised.value.message.replace("user:password@host", "")


def test_an_account_with_money_in_the_ledger_cannot_be_deleted(db: DAL) -> None:
    user = add_user(db, "alice", cash="1")
    with pytest.raises(db._adapter.driver.IntegrityError), transaction(db, write=True):
        execute(db, "DELETE FROM auth_user WHERE id = ?", user.id)


def test_a_ticker_has_one_open_journal_at_most(db: DAL) -> None:
    row = {"ticker": "intc", "h": "", "seq": 0, "offset": 0, "batch": 0}
    with transaction(db, write=True):
        insert(db, "log_position", lineage="a", closed=True, **row)
        insert(db, "log_position", lineage="b", **row)
    with pytest.raises(database.Taken), transaction(db, write=True):
        insert(db, "log_position", lineage="c", **row)


def test_connections_of_many_threads_write_one_after_the_other(db: DAL) -> None:
    user = add_user(db, "alice")
    start = threading.Barrier(8)

    def add_one() -> None:
        start.wait()
        for _ in range(20):
            with transaction(db, write=True):
                lock_row(db, "auth_user", user.id)
                found = rows(db, "SELECT actual_cash FROM auth_user WHERE id = ?", user.id)
                execute(
                    db,
                    "UPDATE auth_user SET actual_cash = ? WHERE id = ?",
                    found[0][0] + 1,
                    user.id,
                )
        close(db)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(add_one) for _ in range(8)]:
            future.result()
    with transaction(db):
        assert rows(db, "SELECT actual_cash FROM auth_user") == [(160,)]


def test_of_two_transactions_that_wait_for_each_other_one_is_begun_anew(db: DAL) -> None:
    """On SQLite the second one does not begin before the first has ended."""
    users = [add_user(db, "alice").id, add_user(db, "bob").id]
    begun: list[int] = []
    held: set[int] = set()
    both = threading.Event()
    side_by_side = db._adapter.dbengine == "postgres"

    def pay(first: int, second: int) -> None:
        def work() -> None:
            begun.append(first)
            _add_one(db, first)
            held.add(first)
            if len(held) == 2:
                both.set()
            both.wait(PATIENCE_SECONDS if side_by_side else 0)
            _add_one(db, second)

        in_transaction(db, work, write=True)
        close(db)

    with ThreadPoolExecutor(2) as pool:
        for future in (pool.submit(pay, *users), pool.submit(pay, *reversed(users))):
            future.result()
    with transaction(db):
        assert rows(db, "SELECT actual_cash FROM auth_user") == [(2,), (2,)]
    # One that is begun anew before the other has ended may have to begin once more.
    assert len(begun) >= 3 if side_by_side else len(begun) == 2


def _add_one(db: DAL, user: int) -> None:
    execute(db, "UPDATE auth_user SET actual_cash = actual_cash + 1 WHERE id = ?", user)


def test_a_locked_table_is_read_and_not_written(var: Var, impatient: None) -> None:
    db = make_database(var)
    other = open_database(uri_of(var))
    with transaction(db, write=True):
        lock_table(db, "auth_user")
        with transaction(other):
            assert rows(other, "SELECT COUNT(*) FROM auth_user") == [(0,)]
        with pytest.raises(DatabaseAway):
            add_user(other, "alice")
    add_user(other, "alice")
    for each in (db, other):
        close(each)


@only_postgres
def test_a_connection_that_ends_in_a_migration_is_told_once_as_away(
    var: Var, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyDAL would log it with a traceback, and raise it too: the log stays free of errors."""
    define = tables.define

    def define_without_connection(db: database.DAL) -> None:
        DatabaseStoredFile.try_create_web2py_filesystem(db)
        command(uri_of(var), END_CONNECTIONS)
        define(db)

    with monkeypatch.context() as patched:
        patched.setattr(tables, "define", define_without_connection)
        with pytest.raises(DatabaseAway):
            migrate(uri_of(var), var)
    migrate(uri_of(var), var)
    assert _tables(var) == TABLES


@only_postgres
def test_a_database_that_is_up_to_date_is_migrated_while_others_write(
    var: Var, impatient: None
) -> None:
    db = make_database(var)
    with transaction(db, write=True):
        for table in TABLES:
            lock_table(db, f'"{table}"')
        migrate(uri_of(var), var)
    close(db)


@only_postgres
def test_who_waits_too_long_for_a_row_finds_the_database_busy(var: Var, impatient: None) -> None:
    db = make_database(var)
    user = add_user(db, "alice")
    other = open_database(uri_of(var))
    with transaction(db, write=True):
        lock_row(db, "auth_user", user.id)
        with pytest.raises(DatabaseAway, match="lock timeout"), transaction(other, write=True):
            lock_row(other, "auth_user", user.id)
    for each in (db, other):
        close(each)


@only_postgres
def test_a_connection_that_was_lost_while_idle_is_replaced_unnoticed(db: DAL, var: Var) -> None:
    add_user(db, "alice")
    command(uri_of(var), END_CONNECTIONS)
    with transaction(db, write=True):
        assert rows(db, "SELECT username FROM auth_user") == [("alice",)]


@only_postgres
def test_a_connection_that_is_lost_in_a_transaction_takes_everything_back(
    db: DAL, var: Var
) -> None:
    user = add_user(db, "alice")

    def pay_and_lose_the_connection() -> None:
        with transaction(db, write=True):
            _add_one(db, user.id)
            command(uri_of(var), END_CONNECTIONS)
            _add_one(db, user.id)

    with pytest.raises(DatabaseAway):
        pay_and_lose_the_connection()
    with transaction(db):
        assert rows(db, "SELECT actual_cash FROM auth_user") == [(0,)]


@only_postgres
def test_no_error_is_taken_for_a_commit(db: DAL) -> None:
    """PostgreSQL answers COMMIT after an error with ROLLBACK."""
    add_user(db, "alice")

    def go_on_after_an_error() -> None:
        with transaction(db, write=True), suppress(database.Taken):
            insert(db, "product", name="x", created_by=1, modified_by=99)

    with pytest.raises(RuntimeError, match="cannot be committed"):
        go_on_after_an_error()
    with transaction(db):
        assert rows(db, "SELECT COUNT(*) FROM product") == [(0,)]


@only_postgres
def test_a_reading_transaction_cannot_write(db: DAL) -> None:
    with pytest.raises(db._adapter.driver.DatabaseError, match="read-only"), transaction(db):
        execute(db, "DELETE FROM session")


@only_postgres
def test_no_connection_is_left_in_a_transaction(db: DAL, var: Var) -> None:
    with transaction(db):
        rows(db, "SELECT 1")
    other = open_database(uri_of(var))
    states = command(
        uri_of(var),
        "SELECT state FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert states == [("idle",)]
    close(other)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("postgres://nobody@127.0.0.1:1/emte", "Connection refused"),
        ("postgres://nobody:secret@127.0.0.1:1/emte", "Connection refused"),
    ],
)
def test_a_server_that_does_not_answer_is_a_database_that_is_away(uri: str, sentence: str) -> None:
    with pytest.raises(DatabaseAway, match=sentence) as raised:
        open_database(uri)
    assert "secret" not in str(raised.value)


def test_indexes_that_nothing_needs_any_more_go(var: Var, db: DAL) -> None:
    former = ("order_open", "order_client_id")
    with transaction(db, write=True):
        for name in former:
            execute(db, f"CREATE INDEX {name} ON buy_sell_order (created_by)")
        execute(db, "DROP INDEX order_client")
    migrate(uri_of(var), var)
    with transaction(db):
        assert database._indexes(db).isdisjoint(former)
        assert database._indexes(db) >= {"order_working", "order_client"}


def test_an_order_is_found_by_its_client_id_by_an_index(db: DAL) -> None:
    explain = "EXPLAIN QUERY PLAN" if database._is_sqlite(db) else "EXPLAIN"
    with transaction(db):
        if not database._is_sqlite(db):
            execute(db, "SET LOCAL enable_seqscan = off")  # so it has a choice of indexes only
        plan = rows(
            db,
            f"{explain} SELECT i.id FROM order_intent i"
            f" WHERE i.owner = 7 AND i.state IN {tables.OPEN_INTENTS} AND {tables.WITHOUT_ROW}",
        )
    assert "order_client" in str(plan)


def test_rows_among_numbers_are_searched_for_and_no_others_read(
    db: DAL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before PostgreSQL knows how many rows there are of a product."""
    plans: list[str] = []

    def explain(database: DAL, sql: str, *values: object) -> list[Any]:
        how = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN ANALYZE"
        plans.extend(str(row) for row in rows(database, f"{how} {sql}", *values))
        return rows(database, sql, *values)

    is_sqlite = database._is_sqlite(db)
    held = [(owner, 1, 0, 0) for owner in range(3_000)]
    with transaction(db, write=True):
        same = {"ticker": "intc", "lineage": "0" * 16}
        insert_many(db, "position", "owner, shares, cost, cash", held, same=same)
        monkeypatch.setattr(database, "rows", explain)
        select = "SELECT owner, shares FROM position WHERE ticker = ? AND lineage = ? AND owner"
        found = rows_among(db, select, *same.values(), among={7, 2_000, 1, 9_999})
    assert sorted(found) == [(1, 1), (7, 1), (2_000, 1)]
    plan = "\n".join(plans)
    assert "position_owner" in plan
    assert "SCAN" not in plan
    assert "Removed" not in plan


def test_text_comes_into_the_database_and_out_of_it_as_it_is(db: DAL) -> None:
    """On PostgreSQL many rows go in as arrays, whose text has marks of its own."""
    texts = ["", "NULL", "a,b", '"', "\\", '\\"', "{x}", " ", "'", "%s", "é"]
    owner = add_user(db, "alice").id
    with transaction(db, write=True):
        execute(db, "DELETE FROM ledger")
        insert_many(
            db,
            "ledger",
            "owner, amount, reason, deposit",
            [(owner, 1, text, "T") for text in texts],
        )
        stored = rows(db, "SELECT id, reason FROM ledger ORDER BY id")
        assert [reason for _, reason in stored] == texts
        changes = [(5, f"{reason}!", row) for row, reason in stored]
        assert update_many(db, "ledger", ["amount +", "reason"], changes) == len(texts)
        assert rows(db, "SELECT amount, reason FROM ledger ORDER BY id") == [
            (6, f"{text}!") for text in texts
        ]


@pytest.mark.parametrize("count", [0, 1, 224, 225, 226, 1000])
def test_any_number_of_rows_is_inserted_in_their_order(db: DAL, count: int) -> None:
    """SQLite takes 225 of them in one statement, with its 900 numbers."""
    add_user(db, "alice")
    values = [(1, number, "deposit", "T") for number in range(count)]
    with transaction(db, write=True):
        execute(db, "DELETE FROM ledger")
        insert_many(db, "ledger", "owner, amount, reason, deposit", values)
    with transaction(db):
        stored = rows(db, "SELECT amount FROM ledger ORDER BY id")
    assert stored == [(number,) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 448, 449, 450, 1000])
def test_what_is_the_same_in_all_rows_is_in_each_of_them(db: DAL, count: int) -> None:
    """SQLite takes 449 of them in one statement, with its 900 numbers."""
    add_user(db, "alice")
    values = [(f"{number} '?1'", number) for number in range(count)]
    with transaction(db, write=True):
        execute(db, "DELETE FROM ledger")
        insert_many(db, "ledger", "reason, amount", values, same={"deposit": "F", "owner": 1})
    with transaction(db):
        stored = rows(db, "SELECT reason, amount, deposit, owner FROM ledger ORDER BY id")
    assert stored == [(*value, "F", 1) for value in values]


@pytest.mark.parametrize("place", [0, 170, 359, 360, 399])
def test_of_rows_of_which_one_is_taken_none_is_inserted(db: DAL, place: int) -> None:
    """SQLite takes 180 of them in one statement, with its 900 numbers."""
    columns = "ticker, lineage, owner, shares, cost"
    with transaction(db, write=True):
        insert_many(db, "position", columns, [("x", "y", place, 1, 1)])

    def insert_them_all() -> None:
        with transaction(db, write=True):
            insert_many(db, "position", columns, [("x", "y", owner, 2, 2) for owner in range(400)])

    with pytest.raises(database.Taken):
        insert_them_all()
    with transaction(db):
        assert rows(db, "SELECT owner, shares FROM position") == [(place, 1)]
