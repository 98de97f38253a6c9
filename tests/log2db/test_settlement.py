"""Settlement: what each line of a journal does to the database, all or nothing, once."""

import sqlite3
from collections.abc import Iterator

import pytest

from app.models.db import DAL, execute, rows, transaction
from log2db import settlement
from log2db.settlement import MAX_RECORDS, Fenced, ForeignJournal, resume, settle, steps
from matching.config import Var
from matching.disk import SystemDisk
from matching.events import (
    Accepted,
    Amended,
    Canceled,
    Decremented,
    LimitChanged,
    PhaseChanged,
    SettingChanged,
    Trade,
    Triggered,
)
from matching.journal import Batch, Position, beginning, read_batches
from matching.order import CancelReason, Phase, Side, format_price
from tests.database import add_user, only_sqlite
from tests.log2db.journals import LINEAGE, START, JournalFile

AT = START + 60_000_000


@pytest.fixture
def journal(var: Var) -> JournalFile:
    return JournalFile(var)


def _batches(journal: JournalFile, after: Position | None = None) -> Iterator[Batch]:
    file = SystemDisk().open(journal.path)
    try:
        yield from read_batches(file, journal.header, after)
    finally:
        file.close()


def _settle_all(db: DAL, journal: JournalFile) -> Position:
    """What log2db does with a journal, in one go."""
    with transaction(db, write=True):
        position = resume(db, journal.header)
    for step in steps(_batches(journal, position)):
        with transaction(db, write=True):
            settle(db, journal.header, position, step, at=AT)
        position = step.after
    return position


def _orders(db: DAL) -> list[str]:
    with transaction(db):
        found = rows(
            db,
            "SELECT oid, created_by, buy_sell, quantity, price, stop_price, filled, status, reason"
            " FROM buy_sell_order ORDER BY oid",
        )
    return [
        f"#{oid} {owner}:{side} {quantity}@{format_price(price)}/{format_price(stop)}"
        f" filled {filled} {status}{reason and ' ' + reason}"
        for oid, owner, side, quantity, price, stop, filled, status, reason in found
    ]


def _positions(db: DAL) -> list[str]:
    with transaction(db):
        found = rows(db, "SELECT owner, shares, cost, cash FROM position ORDER BY owner")
    return [
        f"{owner}: {shares} for {format_price(cost)}, cash {format_price(cash)}"
        for owner, shares, cost, cash in found
    ]


def _cash(db: DAL) -> list[str]:
    with transaction(db):
        return [
            format_price(cash)
            for (cash,) in rows(db, "SELECT actual_cash FROM auth_user ORDER BY id")
        ]


def test_orders_and_matches_become_rows_positions_and_cash(db: DAL, journal: JournalFile) -> None:
    for name in ("alice", "bob"):
        add_user(db, name, cash="10000")
    journal.play("1:sell intc 100@50.25 id=a1", "2:buy intc 150@50.25 tif=day stp=maker")
    position = _settle_all(db, journal)
    assert _orders(db) == [
        "#1 1:sell 100@50.25/0.00 filled 100 filled",
        "#2 2:buy 150@50.25/0.00 filled 100 partially_filled",
    ]
    assert _positions(db) == [
        "1: -100 for 5025.00, cash 5025.00",
        "2: 100 for 5025.00, cash -5025.00",
    ]
    assert _cash(db) == ["15025.00", "4975.00"]
    with transaction(db):
        assert rows(
            db,
            "SELECT ticker, lineage, seq, tid, quantity, price, buyer, seller, buy_oid, sell_oid,"
            ' taker, buyer_fee, seller_fee, match_time, created_on FROM "match"',
        ) == [("intc", LINEAGE, 5, 1, 100, 502_500, 2, 1, 2, 1, "buy", 0, 0, START + 2000, AT)]
        assert rows(
            db,
            "SELECT seq, client_id, tif, stp, post, cod, created_on, modified_on"
            " FROM buy_sell_order ORDER BY oid",
        ) == [
            (3, "a1", "gtc", "taker", "F", "F", START + 1000, START + 2000),
            (4, "", "day", "maker", "F", "F", START + 2000, START + 2000),
        ]
        assert rows(db, 'SELECT seq, "offset", batch, h, time, closed FROM log_position') == [
            (6, position.offset, 2, position.chain, START + 2000, "F")
        ]
    assert position == journal.journal.position


@pytest.mark.parametrize(
    ("commands", "last_order"),
    [
        (["1:buy intc 5@50"], "#1 1:buy 5@50.00/0.00 filled 0 open"),
        (["1:buy intc 5"], "#1 1:buy 5@0.00/0.00 filled 0 canceled no_liquidity"),
        (["1:buy intc 5@50 tif=ioc"], "#1 1:buy 5@50.00/0.00 filled 0 canceled ioc"),
        (["1:buy intc 5@50 tif=fok"], "#1 1:buy 5@50.00/0.00 filled 0 canceled fok"),
        (["1:buy intc 5@50", "1:del intc 1"], "#1 1:buy 5@50.00/0.00 filled 0 canceled user"),
        (["1:buy intc 5@50", "1:del intc all"], "#1 1:buy 5@50.00/0.00 filled 0 canceled user"),
        (
            ["1:buy intc 5@50 tif=day", "phase intc closed"],
            "#1 1:buy 5@50.00/0.00 filled 0 canceled end_of_day",
        ),
        (["1:buy intc 5@50/60"], "#1 1:buy 5@50.00/60.00 filled 0 pending_stop"),
        (
            ["1:buy intc 5@0/60", "1:del intc all"],
            "#1 1:buy 5@0.00/60.00 filled 0 canceled user",
        ),
        (
            ["1:sell intc 5@50", "1:buy intc 3@50"],
            "#2 1:buy 3@50.00/0.00 filled 0 canceled self_trade",
        ),
    ],
)
def test_what_the_engine_decides_is_what_the_row_says(
    db: DAL, journal: JournalFile, commands: list[str], last_order: str
) -> None:
    journal.play(*commands)
    _settle_all(db, journal)
    assert _orders(db)[-1] == last_order


def test_a_triggered_stop_keeps_its_stop_price_and_its_time(db: DAL, journal: JournalFile) -> None:
    journal.play(
        "1:sell intc 2@60",
        "1:sell intc 2@61",
        "3:buy intc 3@0/60",
        "2:buy intc 2@60",
    )
    _settle_all(db, journal)
    assert _orders(db)[2] == "#3 3:buy 3@0.00/60.00 filled 2 canceled no_liquidity"
    with transaction(db):
        assert rows(db, "SELECT triggered_on FROM buy_sell_order WHERE oid = 3") == [
            (START + 4000,)
        ]


def test_every_form_of_line_is_settled(db: DAL, journal: JournalFile) -> None:
    """Amends, decrements, uncrosses, icebergs and limits, line by line."""
    journal.add("1:sell intc 100@10 peak=10", Accepted(1))
    journal.add("1:mod intc 1 80@11", Amended(1, 80, 110_000, 0))
    journal.add("2:sell intc 8@0/9", Accepted(2))
    journal.add("2:mod intc 2 6@0/8.50", Amended(2, 6, 0, 85_000))
    journal.add(
        "1:buy intc 30@11 stp=decrement",
        Accepted(3),
        Decremented(1, 30),
        Decremented(3, 30),
        Canceled(3, 0, CancelReason.SELF_TRADE),
    )
    journal.add("4:buy intc 10@12", Accepted(4))
    journal.add(
        "phase intc continuous",
        PhaseChanged(Phase.CONTINUOUS),
        Trade(1, 115_000, 10, 4, 1, 4, 1, None),
        Triggered(2),
        Canceled(2, 6, CancelReason.NO_LIQUIDITY),
        PhaseChanged(Phase.HALTED),
    )
    journal.add(
        "1:mod intc 1 5@11", Amended(1, 5, 110_000, 0), Canceled(1, 40, CancelReason.AMENDED)
    )
    journal.add("limit intc * max_quantity=5", LimitChanged(None, "max_quantity", 50_000))
    journal.journal.tick(at=journal.time)
    journal.journal.check(3, 32 * "0")
    journal.commit()
    _settle_all(db, journal)
    assert _orders(db) == [
        "#1 1:sell 5@11.00/0.00 filled 10 canceled amended",
        "#2 2:sell 6@0.00/8.50 filled 0 canceled no_liquidity",
        "#3 1:buy 0@11.00/0.00 filled 0 canceled self_trade",
        "#4 4:buy 10@12.00/0.00 filled 10 filled",
    ]
    assert _positions(db) == ["1: -10 for 115.00, cash 115.00", "4: 10 for 115.00, cash -115.00"]
    with transaction(db):
        assert rows(db, 'SELECT taker FROM "match"') == [("none",)]


def test_fees_are_paid_to_the_house_from_the_record_on_that_sets_them(
    db: DAL, journal: JournalFile
) -> None:
    for name in ("alice", "bob"):
        add_user(db, name, cash="0")

    def trade(number: int, taker: Side | None) -> None:
        journal.add("1:sell intc 10@100", Accepted(2 * number - 1))
        journal.add(
            "2:buy intc 10@100",
            Accepted(2 * number),
            Trade(number, 1_000_000, 10, 2, 1, 2 * number, 2 * number - 1, taker),
        )

    trade(1, Side.BUY)
    journal.add(
        "set intc maker_fee=-1.5 taker_fee=10",
        SettingChanged("maker_fee", -15_000),
        SettingChanged("taker_fee", 100_000),
    )
    trade(2, Side.BUY)
    journal.commit()
    _settle_all(db, journal)
    trade(3, Side.SELL)
    trade(4, None)
    journal.commit()
    _settle_all(db, journal)
    with transaction(db):
        assert rows(db, 'SELECT buyer_fee, seller_fee FROM "match" ORDER BY seq') == [
            (0, 0),
            (10_000, -1_500),
            (-1_500, 10_000),
            (0, 0),
        ]
    assert _positions(db) == [
        "0: 0 for 0.00, cash 1.70",
        "1: -40 for 4000.00, cash 3999.15",
        "2: 40 for 4000.00, cash -4000.85",
    ]
    assert _cash(db) == ["3999.15", "-4000.85"]


def test_owners_without_an_account_and_the_house_are_kept_by_number(
    db: DAL, journal: JournalFile
) -> None:
    user = add_user(db, "alice", cash="100")
    journal.play("0:sell intc 2@5", f"{user.id}:buy intc 1@5", "777:buy intc 1@5")
    _settle_all(db, journal)
    assert _positions(db) == [
        "0: -2 for 10.00, cash 10.00",
        "1: 1 for 5.00, cash -5.00",
        "777: 1 for 5.00, cash -5.00",
    ]
    assert _cash(db) == ["95.00"]


def test_who_trades_with_himself_has_what_he_had(db: DAL, journal: JournalFile) -> None:
    add_user(db, "alice", cash="100")
    journal.play("1:sell intc 2@5", "1:buy intc 2@5 stp=none")
    _settle_all(db, journal)
    assert _positions(db) == []
    assert _cash(db) == ["100.00"]
    assert [order.split()[-1] for order in _orders(db)] == ["filled", "filled"]


@pytest.mark.parametrize(
    ("trades", "shares", "cost"),
    [
        # +bought, −sold, each at a price: what is held in the end, and what it cost on average.
        ([(10, 100), (10, 200)], 20, 3000),
        ([(10, 100), (10, 200), (-5, 500)], 15, 2250),
        ([(3, 100), (-1, 500), (-1, 500)], 1, 100),
        ([(10, 100), (-10, 90)], 0, 0),
        ([(10, 100), (-15, 90)], -5, 450),
        ([(-10, 100), (4, 10)], -6, 600),
        ([(-10, 100), (-10, 50), (25, 40)], 5, 200),
        # A third of a share's cost is not lost: what is left takes the rest.
        ([(1, 100), (2, 101), (-1, 7), (-1, 7), (-1, 7)], 0, 0),
        ([(1, 100), (2, 101), (-1, 7)], 2, 202),
    ],
)
def test_cost_is_the_average_of_what_is_held(
    trades: list[tuple[int, int]], shares: int, cost: int
) -> None:
    holding = settlement.Holding()
    for quantity, price in trades:
        holding.trade(quantity, -quantity * price)
    assert (holding.shares, holding.cost) == (shares, cost)
    assert holding.new_cash == -sum(quantity * price for quantity, price in trades)


def test_an_order_made_in_one_transaction_is_changed_in_the_next(
    db: DAL, journal: JournalFile
) -> None:
    journal.play("1:sell intc 10@5")
    _settle_all(db, journal)
    journal.play("2:buy intc 4@5")
    _settle_all(db, journal)
    journal.play("2:buy intc 6@5", "3:sell intc 1@5", "3:del intc all")
    _settle_all(db, journal)
    assert _orders(db) == [
        "#1 1:sell 10@5.00/0.00 filled 10 filled",
        "#2 2:buy 4@5.00/0.00 filled 4 filled",
        "#3 2:buy 6@5.00/0.00 filled 6 filled",
        "#4 3:sell 1@5.00/0.00 filled 0 canceled user",
    ]


def test_steps_take_whole_batches_of_at_most_a_thousand_records(journal: JournalFile) -> None:
    def place(count: int) -> None:
        journal.play(*["1:buy intc 1@5"] * count)

    for count in (600, 397, 1, 1200, 3):
        place(count)
    sizes = [len(step.records) for step in steps(_batches(journal))]
    # A commit is a record too: 2 + 601 + 398 is one more than a thousand.
    assert sizes == [1 + 600, 397 + 1, 1200, 3]
    assert MAX_RECORDS + 1 == 2 + 601 + 398
    assert list(steps([])) == []


@only_sqlite
def test_one_command_that_ends_more_orders_than_a_statement_has_parameters_is_settled(
    db: DAL, journal: JournalFile
) -> None:
    with transaction(db):  # SQLite's limit is 32,766 as it comes, 999 before 3.32, ours for now
        db._adapter.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
    journal.play(*["1:buy intc 1@5"] * 2_000)
    journal.play("1:del intc all")
    _settle_all(db, journal)
    with transaction(db):
        found = rows(db, "SELECT status, COUNT(*) FROM buy_sell_order GROUP BY status")
    assert found == [("canceled", 2_000)]


def test_of_two_followers_at_one_place_one_fails(db: DAL, journal: JournalFile) -> None:
    for name in ("alice", "bob"):
        add_user(db, name, cash="1000")
    with transaction(db, write=True):
        start = resume(db, journal.header)
    journal.play("1:sell intc 10@5", "2:buy intc 4@5")
    (step,) = steps(_batches(journal))
    with transaction(db, write=True):
        settle(db, journal.header, start, step, at=AT)
    settled = _everything(db)
    with pytest.raises(Fenced), transaction(db, write=True):
        settle(db, journal.header, start, step, at=AT)
    assert _everything(db) == settled


def test_a_closed_journal_takes_nothing_more(db: DAL, journal: JournalFile) -> None:
    position = _settle_all(db, journal)
    with transaction(db, write=True):
        execute(db, "UPDATE log_position SET closed = 'T'")
    journal.play("1:sell intc 10@5")
    (step,) = steps(_batches(journal, position))
    with pytest.raises(Fenced), transaction(db, write=True):
        settle(db, journal.header, position, step, at=AT)
    with pytest.raises(ForeignJournal, match="closed"), transaction(db, write=True):
        resume(db, journal.header)


def test_a_new_lineage_begins_only_when_the_old_one_is_closed(
    db: DAL, journal: JournalFile, var: Var
) -> None:
    add_user(db, "alice", cash="1000")
    journal.play("1:buy intc 10@5", "2:sell intc 4@5")
    _settle_all(db, journal)
    later = JournalFile(var, lineage="00112233445566ff")
    later.play("1:buy intc 1@5", "2:sell intc 1@5")
    with pytest.raises(ForeignJournal, match=LINEAGE), transaction(db, write=True):
        resume(db, later.header)
    with transaction(db, write=True):
        execute(db, "UPDATE log_position SET closed = 'T'")
    _settle_all(db, later)
    with transaction(db):
        assert rows(db, "SELECT lineage, oid FROM buy_sell_order ORDER BY id") == [
            (LINEAGE, 1),
            (LINEAGE, 2),
            (later.header.lineage, 1),
            (later.header.lineage, 2),
        ]
        assert rows(db, "SELECT shares FROM position WHERE owner = 1 ORDER BY id") == [(4,), (1,)]
    assert _cash(db) == ["975.00"]


def test_a_record_about_an_order_that_is_not_there_stops_the_settlement(
    db: DAL, journal: JournalFile
) -> None:
    journal.play("1:buy intc 10@5")
    position = _settle_all(db, journal)
    with transaction(db, write=True):
        execute(db, "DELETE FROM buy_sell_order")
    journal.play("1:del intc 1")
    (step,) = steps(_batches(journal, position))
    with pytest.raises(ForeignJournal, match="names order 1"), transaction(db, write=True):
        settle(db, journal.header, position, step, at=AT)


def test_the_same_match_cannot_be_stored_twice(db: DAL, journal: JournalFile) -> None:
    journal.play("1:buy intc 10@5", "2:sell intc 4@5")
    _settle_all(db, journal)
    start = beginning(journal.header)
    with transaction(db, write=True):
        execute(db, "UPDATE log_position SET seq = 0")
        execute(db, "DELETE FROM buy_sell_order")
    (step,) = steps(_batches(journal))
    already = "the database is at record 0, and has rows of what follows it already"
    with pytest.raises(ForeignJournal, match=already), transaction(db, write=True):
        settle(db, journal.header, start, step, at=AT)


def test_a_follower_begins_at_the_header_of_the_first_journal(
    db: DAL, journal: JournalFile
) -> None:
    with transaction(db, write=True):
        assert resume(db, journal.header) == beginning(journal.header)
    with transaction(db, write=True):
        assert resume(db, journal.header) == beginning(journal.header)


def _everything(db: DAL) -> list[object]:
    with transaction(db):
        return [
            rows(db, f'SELECT * FROM "{table}" ORDER BY id')
            for table in ("log_position", "buy_sell_order", "match", "position", "auth_user")
        ]
