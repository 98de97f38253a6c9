"""Verify: it agrees where the database is right, and finds every single thing that is not."""

import random
from collections.abc import Iterator

import pytest

from app.models.db import DAL, execute, insert, rows, transaction
from log2db.settlement import ForeignJournal, resume, settle, steps
from log2db.verify import MAX_LINES, Report, verify
from matching.config import Var
from matching.disk import SystemDisk, SystemFile
from matching.journal import JournalDamaged, read_batches
from tests.database import add_user, only_sqlite
from tests.log2db.journals import START, JournalFile


def trade_at_random(journal: JournalFile, dice: random.Random, count: int) -> None:
    """Orders of all kinds the engine offers, by four traders and the house, in batches."""
    for number in range(count):
        owner = dice.randrange(5)
        price = dice.randrange(90, 111)
        quantity = dice.randrange(1, 50)
        oid = max(1, journal.engine.next_oid - dice.randrange(1, 20))
        side = dice.choice(("buy", "sell"))
        texts = [
            f"{owner}:{side} intc {quantity}@{price} stp={dice.choice(('none', 'both', 'maker'))}",
            f"{owner}:{side} intc {quantity}@{price} tif={dice.choice(('ioc', 'fok', 'day'))}",
            f"{owner}:{side} intc {quantity} id=r{number}",
            f"{owner}:{side} intc {quantity}@0/{price}",
            f"{owner}:{side} intc {quantity}@{price} stp=decrement",
            f"{owner}:{side} intc {quantity}@{price} post",
            f"{owner}:del intc {oid}",
            f"{owner}:del intc all",
        ]
        journal.try_to_play(dice.choices(texts, weights=(8, 4, 4, 4, 4, 4, 4, 1))[0])
        if dice.random() < 0.1:
            journal.commit()
    journal.play("phase intc closed", "phase intc continuous")


@pytest.fixture
def journal(var: Var, db: DAL) -> JournalFile:
    """A few hundred orders, settled up to somewhere before the end."""
    for name in ("alice", "bob", "carol"):
        add_user(db, name, cash="10000")
    journal = JournalFile(var)
    trade_at_random(journal, random.Random(7), 300)
    return journal


@pytest.fixture
def file(journal: JournalFile) -> Iterator[SystemFile]:
    opened = SystemDisk().open(journal.path)
    yield opened
    opened.close()


def add_intent(db: DAL, owner: int, client_id: str, *, state: str) -> None:
    """An intent of 1@1.00 in intc, as the platform stores it."""
    terms = {"quantity": 1, "price": 10_000, "value_price": 10_000}
    texts = {"request": "", "buy_sell": "buy", "tif": "gtc", "stp": "taker", "state": state}
    with transaction(db, write=True):
        insert(
            db, "order_intent", owner=owner, ticker="intc", client_id=client_id, **terms, **texts
        )


def _settle(db: DAL, journal: JournalFile, file: SystemFile) -> None:
    with transaction(db, write=True):
        position = resume(db, journal.header)
    for step in steps(read_batches(file, journal.header, position)):
        with transaction(db, write=True):
            settle(db, journal.header, position, step, at=START)
        position = step.after


def _verify(db: DAL, journal: JournalFile, file: SystemFile) -> Report:
    return verify(db, file, "intc", journal.journal.mark)


def test_what_was_settled_agrees_order_by_order(
    db: DAL, journal: JournalFile, file: SystemFile
) -> None:
    _settle(db, journal, file)
    report = _verify(db, journal, file)
    assert report.differences == []
    assert report.summary.startswith("OK intc: ")
    assert report.summary.endswith(f"3 accounts agree up to record {journal.seq}")
    orders, matches = report.summary.split()[2], report.summary.split()[4]
    assert int(orders) > 200
    assert int(matches) > 50


def test_being_behind_is_told_and_is_no_difference(
    db: DAL, journal: JournalFile, file: SystemFile
) -> None:
    _settle(db, journal, file)
    journal.play("1:buy intc 1@1", "1:buy intc 1@1")
    report = _verify(db, journal, file)
    assert report.differences == []
    assert report.summary.endswith("; the database is 3 records behind")


def test_a_check_at_the_end_is_no_difference(
    db: DAL, journal: JournalFile, file: SystemFile
) -> None:
    journal.journal.check(journal.seq, 32 * "0")
    journal.commit()
    _settle(db, journal, file)
    assert _verify(db, journal, file).differences == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE buy_sell_order SET filled = filled + 1 WHERE oid = 5", "intc order 5: filled is "),
        ("UPDATE buy_sell_order SET status = 'x' WHERE oid = 5", "intc order 5: status is 'x'"),
        ("UPDATE buy_sell_order SET price = 1 WHERE oid = 5", "intc order 5: price is 1 in"),
        ("UPDATE buy_sell_order SET created_by = 9 WHERE oid = 5", "intc order 5: created_by is 9"),
        ("UPDATE buy_sell_order SET client_id = 'q' WHERE oid = 5", "order 5: client_id is 'q'"),
        ("UPDATE buy_sell_order SET modified_on = 0 WHERE oid = 5", "order 5: modified_on is 0"),
        ("UPDATE buy_sell_order SET oid = 9999 WHERE oid = 5", "order 9999: not in the journal"),
        ("DELETE FROM buy_sell_order WHERE oid = 5", "intc order 5: not in the database"),
        ('UPDATE "match" SET quantity = 7777 WHERE tid = 1', "quantity is 7777 in the database"),
        ('UPDATE "match" SET buyer = 9 WHERE tid = 1', "buyer is 9 in the database"),
        ('UPDATE "match" SET buyer_fee = 9 WHERE tid = 1', "buyer_fee is 9 in the database"),
        ('DELETE FROM "match" WHERE tid = 1', "not in the database"),
        ("UPDATE position SET shares = shares + 1 WHERE owner = 2", "position of owner 2: shares"),
        ("UPDATE position SET cost = cost + 1 WHERE owner = 2", "position of owner 2: cost is"),
        ("UPDATE position SET cash = cash + 1 WHERE owner = 4", "position of owner 4: cash is"),
        ("DELETE FROM position WHERE owner = 2", "position of owner 2: not in the database"),
        ("UPDATE auth_user SET actual_cash = actual_cash + 1 WHERE id = 2", "account 2 (bob): "),
        ("DELETE FROM ledger WHERE owner = 3", "account 3 (carol): actual cash is"),
        ("UPDATE log_position SET maker_fee = 5", "intc position in the journal: maker_fee is 5 "),
        ("UPDATE log_position SET taker_fee = 5", "intc position in the journal: taker_fee is 5 "),
        ("UPDATE log_position SET batch = 1", "intc position in the journal: batch is 1 in"),
        ("UPDATE log_position SET seq = seq - 1", "intc position in the journal: seq is "),
        ("UPDATE log_position SET seq = 1", "intc position in the journal: seq is 1 in"),
        ('UPDATE log_position SET "offset" = 7', "intc position in the journal: offset is 7 in"),
        ("UPDATE log_position SET band = 5", "intc position in the journal: band is 5 in"),
        ("UPDATE log_position SET last = 5", "intc position in the journal: last is 5 in"),
        ("UPDATE log_position SET auction = 'T'", "intc position in the journal: auction is 'T'"),
        ("UPDATE log_position SET time = 1", "intc position in the journal: time is 1 in"),
        (
            "INSERT INTO position (ticker, lineage, owner, shares, cost, cash)"
            " VALUES ('intc', 'b', 2, 0, 0, 7)",
            "position rows of intc, lineage b: the database has followed no such journal",
        ),
        (
            "UPDATE buy_sell_order SET ticker = 'gs' WHERE oid = 5",
            "buy_sell_order rows of gs, lineage ",
        ),
        ("UPDATE \"match\" SET lineage = 'b' WHERE tid = 1", "match rows of intc, lineage b: "),
    ],
)
def test_each_wrong_value_is_found_and_named(
    db: DAL, journal: JournalFile, file: SystemFile, statement: str, found: str
) -> None:
    _settle(db, journal, file)
    with transaction(db, write=True):
        assert execute(db, statement) == 1
    report = _verify(db, journal, file)
    assert any(found in line for line in report.differences), report.differences
    assert "differences in intc" in report.summary


@pytest.mark.parametrize(
    ("index", "table", "number", "noun"),
    [
        ("order_oid", "buy_sell_order", "oid", "order"),
        ("match_seq", '"match"', "seq", "match"),
        ("position_owner", "position", "owner", "position of owner"),
    ],
)
def test_a_row_that_is_there_twice_is_found(
    db: DAL,
    journal: JournalFile,
    file: SystemFile,
    index: str,
    table: str,
    number: str,
    noun: str,
) -> None:
    """It takes a lost index too."""
    _settle(db, journal, file)
    names = ", ".join(name for name in db[table.strip('"')].fields if name != "id")
    with transaction(db, write=True):
        execute(db, f"DROP INDEX {index}")
        ((of,),) = rows(db, f"SELECT MIN({number}) FROM {table}")
        columns = f"INSERT INTO {table} ({names}) SELECT {names} FROM {table} WHERE {number} = ?"
        assert execute(db, columns, of) == 1
    report = _verify(db, journal, file)
    assert f"intc {noun} {of}: more than once in the database" in report.differences


def test_an_intent_whose_row_is_gone_is_found(
    db: DAL, journal: JournalFile, file: SystemFile
) -> None:
    """Its cash would be tied up by nobody, though the exchange may have its order."""
    journal.play("1:buy intc 1@1 id=web-1")
    _settle(db, journal, file)
    add_intent(db, 1, "web-1", state="journaled")
    assert _verify(db, journal, file).differences == []
    with transaction(db, write=True):
        execute(db, "UPDATE buy_sell_order SET client_id = 'q' WHERE client_id = 'web-1'")
    found = "intc intent web-1 of owner 1: its order is not in the database"
    assert found in _verify(db, journal, file).differences


def test_a_place_beyond_the_journals_end_is_told(
    db: DAL, journal: JournalFile, file: SystemFile
) -> None:
    _settle(db, journal, file)
    with transaction(db, write=True):
        execute(db, "UPDATE log_position SET seq = seq + 5")
    with pytest.raises(JournalDamaged, match=f"the journal ends at record {journal.seq}; the data"):
        _verify(db, journal, file)


def test_cash_that_was_paid_in_later_is_proved_by_its_ledger_row(
    db: DAL, journal: JournalFile, file: SystemFile
) -> None:
    _settle(db, journal, file)
    with transaction(db, write=True):
        insert(db, "ledger", owner=1, amount=500, reason="gift", created_on=1)
        execute(db, "UPDATE auth_user SET actual_cash = actual_cash + 500 WHERE id = 1")
    assert _verify(db, journal, file).differences == []


def test_many_differences_are_counted_and_the_first_ones_printed(
    db: DAL, journal: JournalFile, file: SystemFile
) -> None:
    _settle(db, journal, file)
    with transaction(db, write=True):
        changed = execute(db, "UPDATE buy_sell_order SET filled = -1")
    report = _verify(db, journal, file)
    assert len(report.differences) == MAX_LINES
    assert report.summary.startswith(f"{changed} differences in intc (the first {MAX_LINES} above)")


def test_a_journal_that_the_database_does_not_know_is_not_compared(
    db: DAL, journal: JournalFile, file: SystemFile
) -> None:
    with pytest.raises(ForeignJournal, match="has not followed"):
        _verify(db, journal, file)


def test_a_journal_that_was_changed_since_is_not_compared(
    db: DAL, journal: JournalFile, file: SystemFile
) -> None:
    _settle(db, journal, file)
    with transaction(db, write=True):
        execute(db, "UPDATE log_position SET h = ?", 32 * "0")
    with pytest.raises(JournalDamaged, match="it has changed since the database followed it"):
        _verify(db, journal, file)


@only_sqlite
def test_verifying_changes_nothing(db: DAL, journal: JournalFile, file: SystemFile) -> None:
    _settle(db, journal, file)
    before = journal.path.read_bytes()
    changes = db._adapter.connection.total_changes
    _verify(db, journal, file)
    assert db._adapter.connection.total_changes == changes
    assert journal.path.read_bytes() == before
