"""Amends on their way: what R17 asks for until the database shows what became of them."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from app.models import amends, intents, portfolio
from app.models.amends import Amending, Change, Order
from app.models.db import DAL, close, execute, insert, open_database, rows, transaction
from app.models.intents import Refused, Request
from app.models.products import Product
from matching.config import Var
from matching.order import Side, TimeInForce, format_price, parse_price
from tests.app.models.intc import PRODUCT, levels, terms
from tests.database import uri_of

TS = 1_700_000_000_000
SENT = TS * 1000


def _journal(db: DAL, owner: int, text: str, *, filled: int = 0, oid: int = 1) -> Order:
    """log2db has written the order's row; the order as its matching server has it."""
    side, quantity, price, stop = terms(text)
    status = "pending_stop" if stop else "partially_filled" if filled else "open"
    with transaction(db, write=True):
        insert(
            db,
            "buy_sell_order",
            ticker="intc",
            lineage="a",
            oid=oid,
            created_by=owner,
            buy_sell=str(side),
            quantity=quantity,
            filled=filled,
            price=price,
            stop_price=stop,
            status=status,
            tif="gtc",
            stp="taker",
        )
    return _order(text, oid=oid)


def _order(text: str, *, oid: int = 1, client_id: str = "", tif: str = "gtc") -> Order:
    side, _, price, stop = terms(text)
    return Order(
        oid=oid, side=side, price=price, stop=stop, tif=TimeInForce(tif), client_id=client_id
    )


def _change(text: str) -> Change:
    """`10@5/6`; what is left out stays."""
    _, quantity, price, stop = terms(f"buy {text}")
    return Change(quantity=quantity, price=price or None, stop=stop or None)


def _reserve(
    db: DAL,
    owner: int,
    order: Order,
    text: str,
    *,
    bids: str = "",
    product: Product = PRODUCT,
    lineage: str = "a",
) -> Amending:
    with transaction(db, write=True):
        return amends.reserve(
            db,
            owner,
            product,
            order,
            _change(text),
            lineage=lineage,
            bids=levels(bids),
            last=parse_price("100"),
            ts=TS,
            at=SENT,
        )


def _available(db: DAL, owner: int) -> str:
    with transaction(db):
        return format_price(portfolio.cash(db, owner).available)


def _change_row(db: DAL, assignments: str, *, seq: int) -> None:
    """log2db has come to record `seq`, and by then the order is so."""
    with transaction(db, write=True):
        if assignments:
            execute(db, f"UPDATE buy_sell_order SET {assignments}")
        execute(db, "UPDATE log_position SET seq = ?", seq)


def _hold(db: DAL, owner: int, shares: int, cost: str) -> None:
    key = {"ticker": "intc", "lineage": "a", "owner": owner}
    with transaction(db, write=True):
        insert(db, "position", shares=shares, cost=parse_price(cost), **key)


@pytest.mark.parametrize(
    ("order", "filled", "shares", "change", "before", "on_its_way"),
    [
        ("buy 10@50", 0, 0, "10@60", "500.00", "400.00"),
        ("buy 10@50", 0, 0, "20", "500.00", "0.00"),
        ("buy 10@50", 0, 0, "10@40", "500.00", "500.00"),
        ("buy 10@50", 0, 0, "5@90", "500.00", "500.00"),
        ("buy 10@50", 4, 0, "12", "700.00", "600.00"),
        ("buy 10@50", 4, 0, "3@90", "700.00", "700.00"),
        ("buy 10@50/40", 0, 0, "10@50/45", "500.00", "500.00"),
        ("buy 10/40", 0, 0, "10/60", "580.00", "370.00"),
        ("sell 10@50", 0, 0, "10@60", "500.00", "400.00"),
        ("sell 10@50", 0, 0, "5@60", "500.00", "500.00"),
        ("sell 10@50", 0, 10, "10@60", "1000.00", "1000.00"),
        ("sell 10@50", 0, 10, "12", "1000.00", "900.00"),
        ("sell 10@1/50", 0, 0, "10@1/60", "500.00", "400.00"),
    ],
)
def test_while_it_is_on_its_way_an_order_counts_as_the_larger_of_old_and_new(
    db: DAL,
    alice: int,
    order: str,
    filled: int,
    shares: int,
    change: str,
    before: str,
    on_its_way: str,
) -> None:
    order = order.replace(" 10/", " 10@0/")
    change = change.replace("10/", "10@0/")
    if shares:
        _hold(db, alice, shares, "0")
    known = _journal(db, alice, order, filled=filled)
    assert _available(db, alice) == before
    _reserve(db, alice, known, change)
    assert _available(db, alice) == on_its_way


def test_more_is_covered_to_the_ten_thousandth_or_refused(db: DAL, alice: int) -> None:
    order = _journal(db, alice, "buy 10@50")
    with pytest.raises(Refused, match=r"ties up 500\.01 more; 500\.00 is available") as refused:
        _reserve(db, alice, order, "1@1000.01")
    assert (refused.value.code, refused.value.rule) == ("insufficient_cash", "R17")
    assert _available(db, alice) == "500.00"
    _reserve(db, alice, order, "1@1000")
    assert _available(db, alice) == "0.00"
    _reserve(db, alice, order, "8@50")  # asks for nothing more


def test_a_sell_that_becomes_short_needs_cash_and_a_product_that_allows_it(
    db: DAL, alice: int
) -> None:
    _hold(db, alice, 10, "100")
    order = _journal(db, alice, "sell 10@50")
    with pytest.raises(Refused, match="more; 1,000") as refused:
        _reserve(db, alice, order, "31")
    assert refused.value.code == "insufficient_cash"
    with pytest.raises(Refused, match="more; 1,000"):
        _reserve(db, alice, order, "15@1", bids="100@201")  # it would sell at the best bid
    never_short = msgspec.structs.replace(PRODUCT, allow_short=False)
    with pytest.raises(Refused, match="beyond the shares held") as refused:
        _reserve(db, alice, order, "11", product=never_short)
    assert refused.value.code == "short_not_allowed"
    _reserve(db, alice, order, "9@90", product=never_short)


def test_from_its_record_on_the_database_alone_says_what_it_ties_up(db: DAL, alice: int) -> None:
    order = _journal(db, alice, "buy 10@50")
    amending = _reserve(db, alice, order, "10@60")
    with transaction(db, write=True):
        amends.settled_by(db, amending.id, seq=12)
    _change_row(db, "", seq=11)
    assert _available(db, alice) == "400.00", "log2db is not there yet"
    _change_row(db, "price = 600000, filled = 1, status = 'partially_filled'", seq=12)
    assert _available(db, alice) == "460.00"
    lower = _reserve(db, alice, _order("buy 10@60"), "10@20")
    with transaction(db, write=True):
        amends.settled_by(db, lower.id, seq=14)
        assert rows(db, "SELECT id FROM amend_intent") == [(lower.id,)], "the first is forgotten"
    _change_row(db, "price = 200000", seq=15)
    assert _available(db, alice) == "820.00"


def test_a_refused_one_is_free_again_at_once(db: DAL, alice: int) -> None:
    order = _journal(db, alice, "buy 10@50")
    amending = _reserve(db, alice, order, "10@60")
    with transaction(db, write=True):
        amends.dropped(db, amending.id)
    assert _available(db, alice) == "500.00"


@pytest.mark.parametrize("end", ["status = 'canceled'", "status = 'filled', filled = 10"])
def test_an_amend_of_an_order_that_is_over_counts_no_more(db: DAL, alice: int, end: str) -> None:
    order = _journal(db, alice, "buy 10@50")
    _reserve(db, alice, order, "10@60")
    _change_row(db, end, seq=11)
    assert _available(db, alice) == "1000.00"


def test_an_order_that_fills_while_it_is_amended_asks_for_what_is_left(db: DAL, alice: int) -> None:
    order = _journal(db, alice, "buy 10@50")
    _reserve(db, alice, order, "12@60")
    assert _available(db, alice) == "280.00"
    _change_row(db, "filled = 4, status = 'partially_filled'", seq=11)
    assert _available(db, alice) == "520.00"


def test_two_amends_at_once_count_as_the_larger_until_both_are_known(db: DAL, alice: int) -> None:
    order = _journal(db, alice, "buy 10@50")
    first = _reserve(db, alice, order, "10@90")
    _reserve(db, alice, order, "10@60")
    assert _available(db, alice) == "100.00", "the first may come after the second"
    with transaction(db, write=True):
        amends.settled_by(db, first.id, seq=11)
    _change_row(db, "price = 900000", seq=11)
    assert _available(db, alice) == "100.00", "the second is on its way"


def test_twenty_amends_at_once_never_promise_more_than_there_is(
    db: DAL, alice: int, var: Var
) -> None:
    orders = [_journal(db, alice, "buy 1@10", oid=oid) for oid in range(1, 21)]

    def amend(order: Order) -> bool:
        own = open_database(uri_of(var))
        try:
            _reserve(own, alice, order, "10@10")
        except Refused:
            return False
        finally:
            close(own)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(amend, orders)) == 8, "each takes 90.00 more of 800.00"
    assert _available(db, alice) == "80.00"


def test_an_order_that_the_database_does_not_show_yet_is_counted_once_with_its_amend(
    db: DAL, alice: int
) -> None:
    with transaction(db, write=True):
        sent = intents.reserve(
            db,
            alice,
            PRODUCT,
            Request(side=Side.BUY, quantity=10, price=parse_price("50"), client_id="web-1"),
            bids=[],
            asks=[],
            last=1_000_000,
            ts=TS,
            at=SENT,
        )
        intents.accepted(db, sent.id, oid=1, at=SENT)
    _reserve(db, alice, _order("buy 10@50", client_id="web-1"), "10@60")
    assert _available(db, alice) == "400.00"


def test_an_order_that_a_program_sent_a_moment_ago_is_covered_whole_when_it_is_amended(
    db: DAL, alice: int
) -> None:
    with pytest.raises(Refused, match="is available"):
        _reserve(db, alice, _order("buy 10@50"), "21@50")
    _reserve(db, alice, _order("buy 10@50"), "11@50")
    assert _available(db, alice) == "450.00"
    _journal(db, alice, "buy 10@50")
    assert _available(db, alice) == "450.00"
    _change_row(db, "status = 'canceled'", seq=11)
    assert _available(db, alice) == "1000.00"


def test_one_without_an_answer_counts_until_the_reconciler_knows_a_record(
    db: DAL, alice: int
) -> None:
    order = _journal(db, alice, "buy 10@50")
    amending = _reserve(db, alice, order, "10@60")
    with transaction(db):
        assert amends.unsettled(db, older_than=SENT) == []
        (unsettled,) = amends.unsettled(db, older_than=SENT + 1)
    assert (unsettled.owner, unsettled.oid, unsettled.lineage) == (alice, 1, "a")
    assert unsettled.can_still_arrive(server_ms=TS + 5_000)
    assert not unsettled.can_still_arrive(server_ms=TS + 5_001)
    with transaction(db, write=True):
        amends.settled_by(db, amending.id, seq=30)
        amends.settled_by(db, amending.id, seq=99)  # another web server asked, too
        assert amends.unsettled(db, older_than=SENT + 1) == []
    _change_row(db, "", seq=29)
    assert _available(db, alice) == "400.00"
    _change_row(db, "", seq=30)
    assert _available(db, alice) == "500.00"


def test_what_is_of_a_closed_journal_counts_no_more_and_is_not_asked_about(
    db: DAL, alice: int
) -> None:
    order = _journal(db, alice, "buy 10@50")
    _reserve(db, alice, order, "10@60")
    with transaction(db, write=True):
        execute(db, "UPDATE log_position SET closed = 'T'")
        assert amends.unsettled(db, older_than=SENT + 1) == []
    assert _available(db, alice) == "1000.00"


def test_an_amend_in_a_journal_that_was_lost_is_forgotten(db: DAL, alice: int) -> None:
    lost = _reserve(db, alice, _order("buy 10@50"), "10@60", lineage="lost")
    with transaction(db, write=True):
        amends.settled_by(db, lost.id, seq=5)
    assert _available(db, alice) == "400.00"
    with transaction(db, write=True):
        (unsettled,) = amends.unsettled(db, older_than=SENT + 1)
        assert unsettled.seq == 5
        amends.dropped_if_lost(db, lost.id, lineage="elsewhere")  # the database does not follow it
        amends.dropped_if_lost(db, lost.id, lineage="lost")
    assert _available(db, alice) == "400.00"
    with transaction(db, write=True):
        amends.dropped_if_lost(db, lost.id, lineage="a")
    assert _available(db, alice) == "1000.00"


def test_who_buys_a_short_position_back_may_go_with_the_market(db: DAL, alice: int) -> None:
    _hold(db, alice, -5, "500")  # ties up all of the 1,000.00
    order = _journal(db, alice, "buy 5@100")
    assert _available(db, alice) == "-500.00"
    _reserve(db, alice, order, "5@110")
    with pytest.raises(Refused, match="available"):
        _reserve(db, alice, order, "50@110")


def test_the_limit_that_the_platform_gave_a_stop_market_goes_with_its_stop(
    db: DAL, alice: int
) -> None:
    _journal(db, alice, "buy 1@105/100")
    ours = _order("buy 1@105/100", client_id="web-1", tif="ioc")
    assert _reserve(db, alice, ours, "1@0/200").command.price == parse_price("210")
    assert _reserve(db, alice, ours, "1@300/200").command.price == parse_price("300")
    assert _reserve(db, alice, ours, "1").command.price is None
    other = _order("buy 1@105/100", client_id="web-1")
    assert _reserve(db, alice, other, "1@0/200").command.price is None


@pytest.mark.parametrize("change", ["0@5", f"{10**12 - 1}@100000"])
def test_nonsense_is_refused_before_it_is_stored(db: DAL, alice: int, change: str) -> None:
    order = _journal(db, alice, "buy 10@50")
    with pytest.raises(Refused) as refused:
        _reserve(db, alice, order, change)
    assert refused.value.code == "invalid_order"
    with transaction(db):
        assert rows(db, "SELECT id FROM amend_intent") == []
