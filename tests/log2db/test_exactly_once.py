"""Exactly once: log2db ends between any two statements, and counts every record one time.

It is ended as a process is, its connection gone with it, before each statement and each commit of a
few transactions, and after them. What is in the database then is what a follower left alone leaves.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest

from app.models.db import (
    ATTEMPTS,
    DAL,
    DatabaseAway,
    close,
    execute,
    rows,
    transaction,
)
from log2db import __main__ as log2db
from log2db import settlement
from log2db.rebuild import rebuild
from log2db.verify import verify
from matching.config import Var
from matching.disk import SystemDisk
from matching.journal import Mark, read_mark, settled_path
from tests.database import add_user, only_postgres
from tests.log2db.journals import START, JournalFile

TABLES = {
    "log_position": "ticker",
    "buy_sell_order": "oid",
    '"match"': "seq",
    "position": "owner",
    "auth_user": "id",
}


class Ended(Exception):
    """The process is gone."""


@pytest.fixture
def journal(var: Var, db: DAL, monkeypatch: pytest.MonkeyPatch) -> JournalFile:
    """Orders, fills, amends, cancels and fees, in four transactions."""
    monkeypatch.setattr(settlement, "MAX_RECORDS", 6)
    monkeypatch.setattr(log2db, "now", lambda: START)
    for name in ("alice", "bob"):
        add_user(db, name, cash="1000")
    journal = JournalFile(var)
    journal.play("1:sell intc 10@5", "2:buy intc 4@5")
    journal.play("set intc taker_fee=10 maker_fee=-2", "2:buy intc 3@5", "3:buy intc 1@5")
    journal.play("1:mod intc 1 20@5.10", "2:sell intc 2@6")
    journal.play("2:buy intc 5@5.10", "1:del intc all")
    return journal


def _settle(db: DAL, journal: JournalFile) -> None:
    for _ in log2db.settle_rest("intc", journal.path, db):
        pass


@contextmanager
def before_statement(db: DAL, act: Callable[[str, Any], None]) -> Iterator[None]:
    """Call `act` with each statement that is to be sent, and its cursor; "COMMIT" for a commit.

    Also after a commit, as "COMMITTED": a process may end there as well.
    """
    adapter = db._adapter
    kind = type(adapter)
    cursor, commit = kind.cursor, adapter.commit

    class Watched:
        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def execute(self, sql: str, *values: Any) -> Any:
            act(sql, self.real)
            return self.real.execute(sql, *values)

        def executemany(self, sql: str, values: Any) -> Any:
            act(sql, self.real)
            return self.real.executemany(sql, values)

    def watched_commit() -> None:
        act("COMMIT", cursor.fget(adapter))
        commit()
        act("COMMITTED", cursor.fget(adapter))

    kind.cursor = property(lambda self: Watched(cursor.fget(self)))
    adapter.commit = watched_commit
    try:
        yield
    finally:
        kind.cursor = cursor
        adapter.commit = commit


def everything(db: DAL) -> dict[str, list[Any]]:
    """All rows but for their ids, which an undone transaction may use up."""
    with transaction(db):
        found = {}
        for table, order in TABLES.items():
            names = [name for name in db[table.strip('"')].fields if name != "id"]
            columns = ", ".join(f'"{name}"' for name in names)
            found[table] = rows(db, f"SELECT {columns} FROM {table} ORDER BY {order}")
        return found


def ways_to_end(db: DAL) -> tuple[type[Exception], ...]:
    """Ended, or what the driver or EMTE make of rolling back a connection that is closed."""
    return Ended, DatabaseAway, db._adapter.driver.Error


def _undo(db: DAL) -> None:
    """As if nothing had been settled."""
    with transaction(db, write=True):
        for table in ("log_position", "buy_sell_order", '"match"', "position"):
            execute(db, f"DELETE FROM {table}")
        execute(
            db,
            "UPDATE auth_user SET actual_cash ="
            " (SELECT SUM(amount) FROM ledger WHERE ledger.owner = auth_user.id)",
        )


def test_killed_at_any_statement_it_goes_on_where_it_was(db: DAL, journal: JournalFile) -> None:
    _settle(db, journal)
    expected = everything(db)
    assert len(expected['"match"']) == 4
    _undo(db)
    ends = 0

    def end_at(number: int) -> None:
        left = number

        def act(sql: str, cursor: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                cursor.connection.close()
                raise Ended(sql)

        with before_statement(db, act):
            _settle(db, journal)

    while True:
        try:
            end_at(ends + 1)
        except ways_to_end(db):
            ends += 1
            close(db)
        else:
            break
        _undo(db)
    assert ends >= 30, "four transactions of eight statements and a commit at least"
    assert everything(db) == expected


def test_killed_again_and_again_it_comes_to_the_end(db: DAL, journal: JournalFile) -> None:
    """Each new process gets a little further: to its seventh statement, then its eighth …"""
    _settle(db, journal)
    expected = everything(db)
    _undo(db)
    places = []
    for last in range(1, 100):
        sent = 0

        def act(sql: str, cursor: Any, last: int = last) -> None:
            nonlocal sent
            sent += 1
            if sent == last:
                cursor.connection.close()
                raise Ended(sql)

        try:
            with before_statement(db, act):
                _settle(db, journal)
        except ways_to_end(db):
            close(db)
        else:
            break
        with transaction(db):
            places += rows(db, "SELECT seq FROM log_position")
    assert len(set(places)) > 2, "it ended in the middle, more than once"
    assert places == sorted(places), "never back"
    assert everything(db) == expected
    mark = read_mark(settled_path(journal.path))
    assert mark is not None
    assert mark.seq == journal.seq


@only_postgres
@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_transaction_given_up_for_anothers_sake_is_made_again(
    db: DAL, journal: JournalFile, code: str
) -> None:
    _settle(db, journal)
    expected = everything(db)
    _undo(db)
    failures = 0

    def act(sql: str, cursor: Any) -> None:
        nonlocal failures
        if sql.startswith("UPDATE auth_user") and failures < ATTEMPTS - 1:
            failures += 1
            cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$")

    with before_statement(db, act):
        _settle(db, journal)
    assert failures == ATTEMPTS - 1
    assert everything(db) == expected


@only_postgres
def test_who_is_always_in_the_way_makes_the_database_count_as_away(
    db: DAL, journal: JournalFile
) -> None:
    def act(sql: str, cursor: Any) -> None:
        if sql.startswith("UPDATE log_position"):
            cursor.execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$")

    with before_statement(db, act), pytest.raises(DatabaseAway):
        _settle(db, journal)
    _settle(db, journal)


@only_postgres
def test_a_rebuild_between_reading_rows_and_changing_them_is_noticed(
    db: DAL, journal: JournalFile
) -> None:
    """From another machine, where no lock of files stops it; it ends at the very same record."""
    _settle(db, journal)
    place = journal.journal.mark
    journal.play("3:buy intc 1@6")
    rebuilt = False

    def act(sql: str, cursor: Any) -> None:
        nonlocal rebuilt
        if sql.startswith("UPDATE log_position") and not rebuilt:
            rebuilt = True
            with ThreadPoolExecutor(1) as elsewhere:
                elsewhere.submit(_rebuild, db, journal, place).result()

    with before_statement(db, act), pytest.raises(settlement.Fenced, match="made anew"):
        _settle(db, journal)
    _settle(db, journal)
    with closing(SystemDisk().open(journal.path)) as file:
        assert verify(db, file, "intc", None).differences == []


def _rebuild(db: DAL, journal: JournalFile, until: Mark) -> None:
    with closing(SystemDisk().open(journal.path)) as file, transaction(db, write=True):
        rebuild(db, file, until, run=None, at=START)
    close(db)
