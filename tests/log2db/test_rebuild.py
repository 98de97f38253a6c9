"""Rebuild: whatever happened to the tables, afterwards they say what the journal says."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.models import intents, portfolio, runs
from app.models.db import (
    DAL,
    Doubled,
    close,
    execute,
    in_transaction,
    insert,
    migrate,
    rows,
    transaction,
)
from log2db.__main__ import settle_rest
from log2db.rebuild import Rebuilt, rebuild
from log2db.settlement import ForeignJournal
from log2db.verify import verify
from matching.config import Var
from matching.disk import SystemDisk
from matching.exits import ExitCode
from matching.journal import JournalDamaged, Mark, durable_path, read_mark, settled_path
from tests.database import add_user, make_database, uri_of
from tests.log2db.journals import START, JournalFile
from tests.log2db.test_exactly_once import Ended, before_statement, everything, ways_to_end
from tests.log2db.test_verify import add_intent, trade_at_random
from tests.processes import running

AT = START + 60_000_000


@pytest.fixture
def journal(var: Var, db: DAL) -> JournalFile:
    """A run that has ended, and a few hundred orders of the next one, all settled."""
    for name in ("alice", "bob", "carol"):
        add_user(db, name, cash="10000")
    journal = JournalFile(var)
    trade_at_random(journal, random.Random(3), 60)
    _settle(db, journal.path)
    with transaction(db, write=True):
        runs.end_run(db, by=0, at=journal.time)
    var.run_folder(1).mkdir(parents=True)
    for path in var.journal_dir.glob("intc.*"):
        path.rename(var.run_folder(1) / path.name)
    journal = JournalFile(var, lineage="00112233445566ff")
    journal.play("set intc taker_fee=10 maker_fee=-2 band=20")
    trade_at_random(journal, random.Random(7), 200)
    journal.play("phase intc auction", "1:buy intc 1@100 id=web-1", "1:sell intc 3@99")
    _settle(db, journal.path)
    return journal


def _settle(db: DAL, path: Path) -> None:
    for _ in settle_rest("intc", path, db):
        pass


def _rebuild(db: DAL, path: Path, *, run: int | None = None) -> Rebuilt:
    mark = read_mark(durable_path(path))
    assert mark is not None
    with closing(SystemDisk().open(path)) as file:
        return in_transaction(db, lambda: rebuild(db, file, mark, run=run, at=AT), write=True)


def _differences(db: DAL, path: Path) -> list[str]:
    with closing(SystemDisk().open(path)) as file:
        return verify(db, file, "intc", None).differences


def _past(var: Var) -> Path:
    return var.run_journal_file(1, "intc")


def _content(db: DAL) -> dict[str, list[Any]]:
    """All that a journal becomes, without ids and without the time of its settlement."""
    found = everything(db)
    place = [name for name in db.match.fields if name != "id"].index("created_on")
    found['"match"'] = sorted(row[:place] + row[place + 1 :] for row in found['"match"'])
    return {table: sorted(content) for table, content in found.items()}


NOW = "lineage = '00112233445566ff'"
NAMES = (
    "lineage, seq, tid, quantity, price, buyer, seller, buy_oid, sell_oid, taker, buyer_fee,"
    " seller_fee, match_time, created_on"
)


@pytest.mark.parametrize(
    "damage",
    [
        f"DELETE FROM buy_sell_order WHERE {NOW} AND oid < 50",
        f"DELETE FROM buy_sell_order WHERE {NOW}",
        f"UPDATE buy_sell_order SET oid = oid + 100000 WHERE {NOW}",
        f"UPDATE buy_sell_order SET status = 'open', filled = 0 WHERE {NOW}",
        f"UPDATE buy_sell_order SET lineage = 'elsewhere' WHERE {NOW}",
        f'DELETE FROM "match" WHERE {NOW} AND tid > 9',
        f'UPDATE "match" SET quantity = 1 WHERE {NOW}',
        # Doubled: under a number of its own, under an unknown journal.
        f'INSERT INTO "match" (ticker, {NAMES}) SELECT ticker,'
        f' {NAMES.replace("seq,", "seq + 1000000,")} FROM "match" WHERE {NOW}',
        f'INSERT INTO "match" (ticker, {NAMES}) SELECT ticker,'
        f' {NAMES.replace("lineage,", chr(39) + "copy" + chr(39) + ",")} FROM "match" WHERE {NOW}',
        f"DELETE FROM position WHERE {NOW}",
        f"UPDATE position SET shares = 7, cost = 7, cash = 7 WHERE {NOW}",
        f"UPDATE position SET owner = owner + 50 WHERE {NOW}",
        "INSERT INTO position (ticker, lineage, owner, shares, cost, cash)"
        " VALUES ('intc', 'copy', 1, 5, 5, 50000)",
        "UPDATE auth_user SET actual_cash = actual_cash + 70000",
        "UPDATE auth_user SET actual_cash = 0 WHERE id = 2",
        f"DELETE FROM log_position WHERE {NOW}",
        f"UPDATE log_position SET seq = 1 WHERE {NOW}",
        f"UPDATE log_position SET seq = seq + 1000000 WHERE {NOW}",
        f"UPDATE log_position SET h = '', \"offset\" = 3, batch = 9 WHERE {NOW}",
        f"UPDATE log_position SET time = 1, maker_fee = 5, taker_fee = 5, band = 5 WHERE {NOW}",
        f"UPDATE log_position SET auction = 'F', last = 5 WHERE {NOW}",
    ],
)
def test_whatever_was_damaged_is_as_it_was(
    var: Var, db: DAL, journal: JournalFile, damage: str
) -> None:
    whole = _content(db)
    with transaction(db, write=True):
        assert execute(db, damage) >= 1
    assert _content(db) != whole
    _rebuild(db, journal.path)
    assert _content(db) == whole
    assert _differences(db, journal.path) == []
    assert _differences(db, _past(var)) == []


def test_the_place_of_an_ended_run_comes_back_closed(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    whole = _content(db)
    with transaction(db, write=True):
        execute(db, "DELETE FROM log_position WHERE closed = 'T'")
        execute(db, "DELETE FROM run")
    _rebuild(db, journal.path)
    assert _differences(db, journal.path) == [], "its rows were of no journal then, and went"
    _rebuild(db, _past(var), run=1)
    assert _content(db) == whole
    with transaction(db):
        assert [run.number for run in runs.past(db)] == [1]


def test_what_is_whole_stays_as_it_is(var: Var, db: DAL, journal: JournalFile) -> None:
    whole = _content(db)
    made = _rebuild(db, journal.path)
    assert (made.seq, made.strays, made.accounts) == (journal.seq, 0, 0)
    assert made.orders > 100
    assert made.matches > 50
    _rebuild(db, _past(var), run=1)
    assert _content(db) == whole


def test_following_goes_on_where_the_rebuild_ended(db: DAL, journal: JournalFile) -> None:
    with transaction(db, write=True):
        execute(db, "DELETE FROM log_position WHERE closed = 'F'")
    _rebuild(db, journal.path)
    journal.play("phase intc continuous", "2:sell intc 4@99", "3:buy intc 4@99")
    _settle(db, journal.path)
    assert _differences(db, journal.path) == []


def test_what_is_not_durable_is_not_rebuilt(db: DAL, journal: JournalFile) -> None:
    durable = journal.seq
    journal.try_to_play("1:buy intc 1@1")
    journal.commit(durable=False)
    assert _rebuild(db, journal.path).seq == durable


def test_rows_that_are_there_twice_go_and_their_index_comes_back(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    whole = _content(db)
    with transaction(db, write=True):
        for table, index in (
            ("buy_sell_order", "order_oid"),
            ('"match"', "match_seq"),
            ("position", "position_owner"),
        ):
            names = ", ".join(name for name in db[table.strip('"')].fields if name != "id")
            execute(db, f"DROP INDEX {index}")
            execute(db, f"INSERT INTO {table} ({names}) SELECT {names} FROM {table} WHERE {NOW}")
    with pytest.raises(Doubled, match="order_oid"):
        migrate(uri_of(var), var)
    _rebuild(db, journal.path)
    assert _content(db) == whole
    migrate(uri_of(var), var)


def test_cash_stays_what_ledger_and_all_trades_say(db: DAL, journal: JournalFile) -> None:
    with transaction(db, write=True):
        insert(db, "ledger", owner=1, amount=500, reason="gift", created_on=1)
        execute(db, "UPDATE auth_user SET actual_cash = actual_cash + 500 WHERE id = 1")
        ledger = rows(db, "SELECT * FROM ledger ORDER BY id")
        before = rows(db, "SELECT id, actual_cash FROM auth_user ORDER BY id")
        execute(db, "UPDATE auth_user SET actual_cash = actual_cash - 9 WHERE id = 3")
        execute(db, "DELETE FROM position WHERE owner = 1")
    made = _rebuild(db, journal.path)
    with transaction(db):
        assert rows(db, "SELECT * FROM ledger ORDER BY id") == ledger
        after = rows(db, "SELECT id, actual_cash FROM auth_user ORDER BY id")
    assert made.accounts >= 1
    assert after[1:] == before[1:]
    assert after[0] != before[0], "owner 1's part of the ended run is still missing"


def test_intents_say_again_what_the_rows_say(db: DAL, journal: JournalFile) -> None:
    """web-1 is in the journal; web-2 got a row by mistake, and lost it; web-3 is on its way."""
    add_intent(db, 1, "web-1", state="accepted")
    add_intent(db, 2, "web-2", state="journaled")
    add_intent(db, 3, "web-3", state="reserved")
    add_intent(db, 3, "web-4", state="never")
    with transaction(db, write=True):
        execute(db, "DELETE FROM buy_sell_order WHERE client_id = 'web-1'")
    before = _available(db)
    _rebuild(db, journal.path)
    with transaction(db):
        states = [
            str(intent.state)
            for owner, client_id in ((1, "web-1"), (2, "web-2"), (3, "web-3"), (3, "web-4"))
            if (intent := intents.get(db, owner, "intc", client_id))
        ]
    assert states == ["journaled", "unknown", "reserved", "never"]
    assert _available(db) != before, "owner 2's is counted until the exchange was asked"
    assert _differences(db, journal.path) == []


def _available(db: DAL) -> list[int]:
    with transaction(db):
        return [portfolio.cash(db, owner).available for owner in (1, 2, 3)]


def test_killed_at_any_statement_it_has_done_nothing(db: DAL, journal: JournalFile) -> None:
    with transaction(db, write=True):
        execute(db, "UPDATE auth_user SET actual_cash = actual_cash + 1 WHERE id = 1")
        execute(db, "DELETE FROM position WHERE owner = 2")
    damaged = everything(db)
    left, ended_at = 0, ""

    def end(sql: str, cursor: Any) -> None:
        nonlocal left, ended_at
        left -= 1
        if not left:
            ended_at = sql
            cursor.connection.close()
            raise Ended(sql)

    for last in range(1, 200):
        left = last
        try:
            with before_statement(db, end):
                _rebuild(db, journal.path)
        except ways_to_end(db):
            close(db)
        if ended_at == "COMMITTED":
            break
        assert everything(db) == damaged
    assert last > 25
    assert _differences(db, journal.path) == []


def test_another_lineage_than_the_one_followed_is_refused(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    whole = _content(db)
    other = JournalFile(var, lineage="ffffffffffffffff")
    other.play("1:buy intc 1@5")
    with pytest.raises(ForeignJournal, match="the database follows 00112233445566ff"):
        _rebuild(db, other.path)
    other.mark(Mark(other.seq, other.journal.offset, "00112233445566ff"))
    with pytest.raises(ForeignJournal, match="its durable mark of 00112233445566ff"):
        _rebuild(db, other.path)
    assert _content(db) == whole


def test_a_damaged_journal_rebuilds_nothing(db: DAL, journal: JournalFile) -> None:
    whole = _content(db)
    data = bytearray(journal.path.read_bytes())
    data[len(data) // 2] ^= 1
    journal.path.write_bytes(data)
    with pytest.raises(JournalDamaged):
        _rebuild(db, journal.path)
    assert _content(db) == whole


def _run(var: Var, *arguments: str) -> tuple[int, str]:
    with running("-m", "log2db", *arguments, var=var.root) as process:
        return process.wait(), process.lines[-1]


def test_as_a_program_it_says_what_it_did(var: Var, db: DAL, journal: JournalFile) -> None:
    with transaction(db, write=True):
        execute(db, "UPDATE auth_user SET actual_cash = 1 WHERE id = 2")
    settled_path(journal.path).unlink()
    code, line = _run(var, "--rebuild", "intc")
    assert code == 0
    assert line.startswith(f"rebuilt intc up to record {journal.seq}: ")
    assert line.endswith(" matches; 1 accounts put right, 0 stray rows gone")
    assert read_mark(settled_path(journal.path)) == journal.journal.mark
    assert _run(var, "--verify", "intc")[0] == 0
    assert _run(var, "--rebuild", "intc", "--run", "1")[0] == 0
    assert _run(var, "--verify", "intc", "--run", "1")[0] == 0
    assert _run(var, "--rebuild", "gs") == (
        ExitCode.DISK,
        f"log2db: {var.journal_file('gs')}: No such file or directory",
    )


def test_it_refuses_while_a_follower_runs(var: Var, db: DAL, journal: JournalFile) -> None:
    with running("-m", "log2db", "-A", "intc", var=var.root) as follower:
        follower.wait_for_line("following")
        refused = (69, "log2db: another log2db follows intc")
        assert _run(var, "--rebuild", "intc") == refused


@pytest.fixture
def empty(var: Var, journal: JournalFile, db: DAL) -> Iterator[DAL]:
    """The database is lost: another one, with nothing in it."""
    for table in ("session", "product", "order_intent", "ledger", "position", "log_position"):
        with transaction(db, write=True):
            execute(db, f"DELETE FROM {table}")
    for table in ("run", '"match"', "buy_sell_order", "auth_user"):
        with transaction(db, write=True):
            execute(db, f"DELETE FROM {table}")
    close(db)
    database = make_database(var)
    yield database
    close(database)


def test_a_database_that_is_lost_is_brought_up_from_its_journals(
    var: Var, journal: JournalFile, empty: DAL
) -> None:
    """Accounts are gone: their owners are kept by number, until somebody signs up anew."""
    assert _run(var, "--rebuild", "intc")[0] == 0
    assert _run(var, "--rebuild", "intc", "--run", "1")[0] == 0
    assert _differences(empty, journal.path) == []
    assert _differences(empty, _past(var)) == []
    with transaction(empty):
        assert rows(empty, "SELECT lineage, closed, run FROM log_position ORDER BY run") == [
            ("00112233445566ff", "F", 0),
            (JournalFile(var, "gs").header.lineage, "T", 1),
        ]
        owners = rows(empty, "SELECT DISTINCT owner FROM position ORDER BY owner")
        trades = rows(
            empty, 'SELECT COUNT(*) FROM "match" WHERE lineage <> ?', journal.header.lineage
        )
        (past,) = runs.past(empty)
        assert runs.present(empty).number == 2
    assert {(1,), (2,), (3,), (4,)} <= set(owners)
    assert (past.number, past.tickers, past.trades) == (1, ["intc"], trades[0][0])
    assert START < past.begun_on < past.ended_on
    journal.play("phase intc continuous", "2:sell intc 4@99", "3:buy intc 4@99")
    _settle(empty, journal.path)
    assert _differences(empty, journal.path) == []
