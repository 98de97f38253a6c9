"""Trades: which are shown to whom, in which order, and page by page."""

import random
from collections.abc import Callable

import pytest

from app.models import trades
from app.models.db import DAL, insert, rows, transaction
from app.models.trades import Fill, Place, Print, Wanted
from matching.order import Side
from tests.database import only_sqlite


def _follow(db: DAL, ticker: str, lineage: str = "a", *, closed: bool = False) -> None:
    insert(db, "log_position", ticker=ticker, lineage=lineage, h="", closed=closed)


def _match(
    db: DAL,
    ticker: str,
    seq: int,
    text: str,
    *,
    at: int,
    taker: str = "buy",
    lineage: str = "a",
    fees: tuple[int, int] = (0, 0),
) -> None:
    """`7 buys 10@5 of 8`, as the journal's record `seq`."""
    buyer, _, amount, _, seller = text.split()
    quantity, _, price = amount.partition("@")
    insert(
        db,
        "match",
        ticker=ticker,
        lineage=lineage,
        seq=seq,
        tid=seq * 10,
        quantity=int(quantity),
        price=int(price),
        buyer=int(buyer),
        seller=int(seller),
        buy_oid=seq + 1,
        sell_oid=seq + 2,
        taker=taker,
        buyer_fee=fees[0],
        seller_fee=fees[1],
        match_time=at,
    )


@pytest.fixture
def traded(db: DAL) -> DAL:
    with transaction(db, write=True):
        _follow(db, "intc", "old", closed=True)
        _follow(db, "intc")
        _follow(db, "gs")
        _match(db, "intc", 1, "7 buys 99@9 of 8", at=1, lineage="old")
        _match(db, "intc", 3, "7 buys 10@100 of 8", at=10, fees=(3, -1))
        _match(db, "gs", 4, "8 buys 5@70 of 7", at=20, taker="sell", fees=(-1, 2))
        _match(db, "intc", 5, "8 buys 1@101 of 9", at=30)
        _match(db, "intc", 7, "7 buys 2@102 of 7", at=40)
        _match(db, "intc", 9, "9 buys 4@103 of 7", at=50, taker="none")
    return db


def test_fills_are_the_owners_newest_first_with_fee_and_role(traded: DAL) -> None:
    with transaction(traded):
        found = trades.fills(traded, 7, Wanted(limit=9))
    assert found == [
        Fill(Place(50, "intc", 9, "sell"), 90, 11, 4, 103, 0, "none"),
        Fill(Place(40, "intc", 7, "sell"), 70, 9, 2, 102, 0, "buy"),
        Fill(Place(40, "intc", 7, "buy"), 70, 8, 2, 102, 0, "buy"),
        Fill(Place(20, "gs", 4, "sell"), 40, 6, 5, 70, 2, "sell"),
        Fill(Place(10, "intc", 3, "buy"), 30, 4, 10, 100, 3, "buy"),
    ]
    assert [fill.role for fill in found] == ["auction", "maker", "taker", "taker", "taker"]


def test_the_tape_is_everybodys_trades_and_nobodys_name(traded: DAL) -> None:
    with transaction(traded):
        found = trades.tape(traded, Wanted(limit=2))
    assert found == [
        Print(Place(50, "intc", 9), 90, 4, 103, "none"),
        Print(Place(40, "intc", 7), 70, 2, 102, "buy"),
    ]
    assert not {"buyer", "seller", "buy_oid", "sell_oid"} & set(Print.__struct_fields__)


@pytest.mark.parametrize(
    ("wanted", "seqs"),
    [
        (Wanted(limit=9, tickers=("gs",)), [4]),
        (Wanted(limit=9, tickers=()), []),
        (Wanted(limit=9, tickers=("nothing",)), []),
        (Wanted(limit=9, sides=(Side.BUY,)), [7, 3]),
        (Wanted(limit=9, sides=(Side.SELL,)), [9, 7, 4]),
        (Wanted(limit=9, since=20), [9, 7, 7, 4]),
        (Wanted(limit=9, until=40), [4, 3]),
        (Wanted(limit=9, since=20, until=21), [4]),
        (Wanted(limit=9, before=Place(40, "intc", 7, "sell")), [7, 4, 3]),
        (Wanted(limit=9, before=Place(40, "intc", 7, "buy")), [4, 3]),
        (Wanted(limit=9, before=Place(20, "gs", 4, "sell")), [3]),
    ],
)
def test_what_is_wanted_is_found(traded: DAL, wanted: Wanted, seqs: list[int]) -> None:
    with transaction(traded):
        assert [fill.place.seq for fill in trades.fills(traded, 7, wanted)] == seqs


@pytest.mark.parametrize("rows_a_read", [3, 128])
def test_pages_of_any_size_hold_every_trade_once(
    db: DAL, rows_a_read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trades, "ROWS_A_READ", rows_a_read)
    dice = random.Random(7)
    with transaction(db, write=True):
        for ticker in ("a", "b", "c"):
            _follow(db, ticker)
            at = 0
            for seq in range(1, 40):
                at += dice.choice((0, 0, 1))  # many at one moment
                text = f"{dice.choice((7, 8))} buys 1@1 of {dice.choice((7, 8))}"
                _match(db, ticker, seq, text, at=at)
        questions: list[Callable[[Wanted], list[Fill] | list[Print]]] = [
            lambda wanted: trades.fills(db, 7, wanted),
            lambda wanted: trades.tape(db, wanted),
        ]
        for ask in questions:
            everything = ask(Wanted(limit=1000))
            assert len(everything) > 80
            for limit in (1, 2, 7):
                paged: list[Fill | Print] = []
                place: Place | None = None
                while page := ask(Wanted(limit=limit, before=place)):
                    paged += page
                    place = Place.read(str(page[-1].place))
                assert paged == everything


@pytest.mark.parametrize(
    "text", ["", "5", "5-12-buy-", "5-12-give-intc", "x-12-buy-intc", "5-12-buy-intc'", "-1-1--a"]
)
def test_what_names_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        Place.read(text)


@only_sqlite
@pytest.mark.parametrize(
    ("question", "index"),
    [
        (lambda db, wanted: trades.fills(db, 7, wanted), {"match_buyer", "match_seller"}),
        (trades.tape, {"match_seq"}),
    ],
)
def test_a_page_is_found_by_an_index_and_not_sorted(
    traded: DAL,
    monkeypatch: pytest.MonkeyPatch,
    question: Callable[[DAL, Wanted], object],
    index: set[str],
) -> None:
    plans: list[str] = []

    def explain(database: DAL, sql: str, *values: object) -> list[tuple[object, ...]]:
        if '"match"' in sql:
            plans.extend(row[3] for row in rows(database, f"EXPLAIN QUERY PLAN {sql}", *values))
        return rows(database, sql, *values)

    monkeypatch.setattr(trades, "rows", explain)
    with transaction(traded):
        question(traded, Wanted(limit=9, before=Place(40, "intc", 7, "sell")))
    assert all(any(name in plan for plan in plans) for name in index), plans
    assert not [plan for plan in plans if "SCAN" in plan or "TEMP B-TREE" in plan]
