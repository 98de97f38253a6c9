"""What an auction ties up (R10, R17): its uncross asks for no cash that was not kept for it.

A short sell rests at its limit, and may trade at a higher price when the book is uncrossed: all
that comes at that price ties up more than the limit said.
"""

import random
from collections import deque

import msgspec
import pytest

from app.models import amends, intents, portfolio
from app.models.amends import Change, Order
from app.models.db import DAL, rows, transaction
from app.models.intents import Request
from log2db.__main__ import settle_rest
from matching.config import Var
from matching.order import Side, TimeInForce, format_price, parse_price
from tests.app.models.intc import PRODUCT
from tests.database import add_user
from tests.log2db.journals import LINEAGE, JournalFile

AUCTIONS = 12


@pytest.fixture
def journal(var: Var, db: DAL) -> JournalFile:
    for name in ("alice", "bob", "carol"):
        add_user(db, name, cash="10000")
    return JournalFile(var)


def _settle(db: DAL, journal: JournalFile) -> None:
    deque(settle_rest("intc", journal.path, db), maxlen=0)


def _cash(db: DAL, owner: int = 1) -> portfolio.Cash:
    with transaction(db):
        return portfolio.cash(db, owner)


def _short_orders(db: DAL) -> str:
    return format_price(_cash(db).short_orders)


def test_the_gap_that_an_uncross_above_the_limit_left(db: DAL, journal: JournalFile) -> None:
    journal.play("set intc band=5", "phase intc auction", "1:sell intc 10@100", "2:buy intc 10@104")
    _settle(db, journal)
    before = _cash(db)
    assert format_price(before.short_orders) == "1050.00", "100.00, and the band"
    journal.play("2:buy intc 10@104", "phase intc continuous")
    _settle(db, journal)
    after = _cash(db)
    assert format_price(after.short_positions) == "2080.00", "it traded at 104.00"
    assert after.available >= before.available


@pytest.mark.parametrize(
    ("band", "order", "short_orders"),
    [
        ("5", "1:sell intc 10@98", "1050.00"),
        ("5", "1:sell intc 10@105", "1050.00"),
        ("2.5", "1:sell intc 10@98", "1025.00"),
        # Without a band no rule bounds it: 5 % above last, or above a limit that is higher.
        ("0", "1:sell intc 10@98", "1050.00"),
        ("0", "1:sell intc 10@110", "1155.00"),
        # A stop waits for a print, and is not in the auction.
        ("5", "1:sell intc 10@97/99", "990.00"),
    ],
)
def test_a_short_sell_in_an_auction_ties_up_what_it_may_trade_at(
    db: DAL, journal: JournalFile, band: str, order: str, short_orders: str
) -> None:
    journal.play(f"set intc band={band}", order, "phase intc auction")
    _settle(db, journal)
    assert _short_orders(db) == short_orders


def test_it_does_until_the_book_is_uncrossed_whatever_is_in_between(
    db: DAL, journal: JournalFile
) -> None:
    journal.play("set intc band=5", "2:sell intc 1@102", "3:buy intc 1@102", "1:sell intc 10@103")
    told = []
    for phase in ("halted", "closed", "auction", "halted", "closed", "continuous", "halted"):
        journal.play(f"phase intc {phase}")
        _settle(db, journal)
        told.append((phase, _short_orders(db)))
    assert told == [
        ("halted", "1030.00"),
        ("closed", "1030.00"),
        ("auction", "1071.00"),  # last is 102.00
        ("halted", "1071.00"),
        ("closed", "1071.00"),
        ("continuous", "1030.00"),
        ("halted", "1030.00"),
    ]


def test_of_the_band_in_force_and_the_one_that_managers_want_the_dearer_counts(
    db: DAL, journal: JournalFile
) -> None:
    journal.play("set intc band=5", "phase intc auction", "1:sell intc 10@98")
    _settle(db, journal)
    _add_product(db, band=80_000)
    assert _short_orders(db) == "1080.00"
    with transaction(db, write=True):
        rows(db, "UPDATE product SET band = 10000")
    assert _short_orders(db) == "1050.00"


def _add_product(db: DAL, *, band: int) -> None:
    urls = {"post_url": "", "quote_url": "", "ws_url": ""}
    with transaction(db, write=True):
        db.product.insert(name="intc", band=band, created_by=1, modified_by=1, **urls)


BANDED = msgspec.structs.replace(PRODUCT, band=50_000)


@pytest.mark.parametrize(
    ("is_settled", "is_auction", "reserved"),
    [(False, False, "1000.00"), (False, True, "1050.00"), (True, False, "1050.00")],
)
def test_a_new_order_counts_so_as_soon_as_market_or_database_know_of_the_auction(
    db: DAL, journal: JournalFile, is_settled: bool, is_auction: bool, reserved: str
) -> None:
    journal.play("set intc band=5")
    if is_settled:
        journal.play("phase intc auction")
    _settle(db, journal)
    wanted = Request(side=Side.SELL, quantity=10, price=1_000_000, client_id="web-1")
    market = {"bids": (), "last": 1_000_000, "is_auction": is_auction, "ts": 1, "at": 1}
    with transaction(db, write=True):
        intent = intents.reserve(db, 1, BANDED, wanted, asks=(), **market)  # type: ignore[arg-type]
    assert format_price(intent.reserved) == reserved
    assert format_price(_cash(db).intents) == reserved
    if not is_settled:
        journal.play("phase intc auction")
        _settle(db, journal)
    assert format_price(_cash(db).intents) == "1050.00", "also one on its way as it begins"


def test_so_does_an_amend(db: DAL, journal: JournalFile) -> None:
    journal.play("set intc band=5", "1:sell intc 10@100", "phase intc auction")
    order = Order(oid=1, side=Side.SELL, price=1_000_000, stop=0, tif=TimeInForce.GTC, client_id="")
    with transaction(db, write=True):
        amends.reserve(
            db,
            1,
            BANDED,
            order,
            Change(quantity=20),
            lineage=LINEAGE,
            bids=(),
            last=1_000_000,
            is_auction=True,
            ts=1,
            at=1,
        )
    assert format_price(_cash(db).intents) == "2100.00", "and the database has no row of it yet"
    _settle(db, journal)
    cash = _cash(db)
    assert format_price(cash.short_orders + cash.intents) == "2100.00"


@pytest.mark.parametrize("band", ["2", "10"])
def test_no_uncross_asks_for_more_than_was_tied_up(
    db: DAL, journal: JournalFile, band: str
) -> None:
    """Three traders, long and short, in one auction after the other: nobody has less available."""
    dice = random.Random(band)
    journal.play(f"set intc band={band} taker_fee=10 maker_fee=-1")
    uncrossed = 0
    for _ in range(AUCTIONS):
        journal.play("phase intc auction")
        reach = int(float(band))
        for _ in range(12):
            last = journal.engine.last or parse_price("100")
            price = last + dice.randrange(-reach * 100, reach * 100 + 1) * last // 10_000
            side, quantity = dice.choice(("buy", "sell")), dice.randrange(1, 20)
            journal.try_to_play(
                f"{dice.randrange(1, 4)}:{side} intc {quantity}@{format_price(price // 100 * 100)}"
            )
        journal.commit()
        _settle(db, journal)
        before = {owner: _cash(db, owner).available for owner in (1, 2, 3)}
        trades = journal.engine.next_tid
        journal.play("phase intc continuous")
        uncrossed += journal.engine.next_tid > trades
        _settle(db, journal)
        for owner, available in before.items():
            assert _cash(db, owner).available >= available - 1, "a part of a cost is rounded"
        journal.play(*(f"{owner}:del intc all" for owner in (1, 2, 3)))
    assert uncrossed > AUCTIONS // 2
