"""What a new order must satisfy, and "Order of checks": a command has one answer."""

import pytest
from msgspec.structs import replace

from matching.account import CANCELED, Order
from matching.engine import Engine
from tests.matching.trading_tables import Trading, check


def test_a_quantity_of_0_is_no_order() -> None:
    check("""
        1:buy intc 0@50.25  | rejected invalid_order: the quantity must not be 0
        1:sell intc 0       | rejected invalid_order
    """)


def test_a_quantity_off_the_lot_grid_is_rejected_never_rounded() -> None:
    check(
        """
        1:buy intc 150@50.25 | rejected bad_lot: 150 is not a multiple of the lot, 100
        1:buy intc 99        | rejected bad_lot: 99 is not a multiple of the lot, 100
        1:buy intc 200@50.25 | #1 accepted
        """,
        lot=100,
    )


def test_a_price_off_the_tick_grid_is_rejected_never_rounded() -> None:
    check("""
        1:buy intc 1@50.255       | rejected bad_tick: 50.255 is not a multiple of 0.01
        1:buy intc 1@50.2501      | rejected bad_tick: 50.2501 is not a multiple of 0.01
        1:buy intc 1/50.255       | rejected bad_tick: 50.255 is not a multiple of 0.01
        1:buy intc 1@50.25/50.255 | rejected bad_tick: 50.255 is not a multiple of 0.01
        1:buy intc 1@50.25/50.26  | #1 accepted
    """)


def test_the_grid_is_the_products() -> None:
    check(
        """
        1:buy intc 1@50.02   | rejected bad_tick: 50.02 is not a multiple of 0.05
        1:buy intc 1@50.05   | #1 accepted
        """,
        tick=500,
    )
    check("1:buy intc 1@50.2501 | #1 accepted", tick=1)


def test_an_order_is_worth_at_most_10_to_the_15_ten_thousandths() -> None:
    check("""
        1:buy 100000@1000000.00       | #1 accepted
        2:buy 100001@1000000.00       | rejected invalid_order:
            | 100001 at 1000000.00 is worth 100001000000.00, more than 100000000000.00
        2:sell 100000@1/1000000.01    | rejected invalid_order:
            | 100000 at 1000000.01 is worth 100000001000.00, more than 100000000000.00
        0:buy 999999999999@999999999  | rejected invalid_order
        0:sell 999999999999           | #2 accepted
                                      | trade 100000@1000000.00 maker #1 taker #2
                                      | #2 canceled 999999899999 no_liquidity
    """)


def test_r16_one_order_has_a_total_of_at_most_a_million() -> None:
    check("""
        1:buy intc 1000000@50.25 | #1 accepted
        1:buy intc 1000001@50.25 | rejected max_quantity R16:
                                 | 1000001 is more than the 1000000 that one order may have
        1:buy intc 1000001       | rejected max_quantity R16
        1:buy intc 1000001/60    | rejected max_quantity R16
    """)


def test_r16_does_not_hold_for_the_house() -> None:
    check("""
        0:buy intc 1000001@50.25 | #1 accepted
        buy intc 2000000         | #2 accepted; #2 canceled 2000000 no_liquidity
    """)


def test_a_refusal_says_what_it_was_measured_by() -> None:
    check("""
        set intc band=5          | set band 5
        1:sell intc 1@105.01     | rejected price_band R12:
                                 | 105.01 is further than 5 % from the reference, 100.00
        1:sell intc 2@102        | #1 accepted
        2:buy intc 1@104 post    | rejected would_take R8:
                                 | a post-only buy at 104.00 would take the sell at 102.00
        2:buy intc 1@104         | #2 accepted; trade 1@102.00 maker #1 taker #2
        2:buy intc 1@96.89       | rejected price_band R12:
                                 | 96.89 is further than 5 % from last, 102.00
        2:buy intc 1@116/110     | rejected price_band R12:
                                 | 116.00 is further than 5 % from the stop, 110.00
        2:buy intc 1@100/102 | rejected stop_would_trigger R7:
                             | last, 102.00, has reached the stop 102.00 of this buy order already
    """)


def test_r16_a_refusal_says_how_far_it_went_and_how_far_it_may() -> None:
    check("""
        limit intc 1 max_open_orders=1 max_rate=2 | limit 1 max_open_orders 1; limit 1 max_rate 2
        limit intc 1 max_position=10 | limit 1 max_position 10
        limit intc 1 max_notional=600 | limit 1 max_notional 600.00
        1:buy intc 11@50         | rejected position_limit R16:
                                 | this buy could lead to 11 shares long, the limit is 10
        1:sell intc 11@50        | rejected position_limit R16:
                                 | this sell could lead to 11 shares short, the limit is 10
        1:buy intc 10@60.01      | rejected max_notional R16:
                                 | 10 at 60.01 is worth 600.10, the limit is 600.00
        1:buy intc 9@50          | #1 accepted
        1:buy intc 1@50          | rejected max_open_orders R16:
                                 | owner 1 has 1 other open orders already
        1:mod intc 1 8           | #1 amended 8@50.00
        1:mod intc 1 9           | rejected rate_limited R16:
                                 | more than 2 orders and amends within a second
    """)


CHECKS = [
    # An order that fails every check from its own on is told the first; mending it tells the next.
    ("1:buy intc 0@50.255/50.105 id=a1 post tif=ioc", "rejected duplicate_id R14"),
    ("1:buy intc 0@50.255/50.105 id=a2 post tif=ioc", "rejected invalid_order"),
    ("1:buy intc 2000001@50.255/50.105 post tif=ioc", "rejected bad_lot"),
    ("1:buy intc 2000010@50.255/50.105 post tif=ioc", "rejected bad_tick"),
    ("1:buy intc 2000010@50.20/50.105 post tif=ioc", "rejected bad_tick"),
    ("1:buy intc 2000010@50.20/50.10 post tif=ioc", "rejected invalid_order R8"),
    ("1:buy intc 2000010@50.20/50.10 peak=10", "rejected invalid_order R9"),
    ("1:buy intc 2000010@50.20/50.10", "rejected stop_would_trigger R7"),
    ("1:buy intc 2000010@50.20 post", "rejected max_quantity R16"),
    ("1:buy intc 1000000@50.20 post", "rejected would_take R8"),
    ("1:buy intc 10@50.19 post", "#4 accepted"),
]


@pytest.mark.parametrize(("command", "answer"), CHECKS)
def test_the_order_of_checks(command: str, answer: str) -> None:
    check(
        f"""
        1:sell intc 10@50.10 id=a1 | #1 accepted
        2:buy intc 10@50.10        | #2 accepted; trade 10@50.10 maker #1 taker #2
        3:sell intc 10@50.20       | #3 accepted
        {command}                  | {answer}
        """,
        lot=10,
    )


@pytest.mark.parametrize("phase", ["halted", "closed"])
def test_the_phase_is_checked_after_the_id_and_before_all_else(phase: str) -> None:
    check(
        f"""
        1:sell intc 10@50.10 id=a1   | #1 accepted
        phase intc {phase}           | phase {phase}
        1:buy intc 0@50.255 id=a1    | rejected duplicate_id R14
        1:buy intc 0@50.255          | rejected market_{phase} R11
        """,
        lot=10,
    )


def test_a_rejected_command_changes_nothing() -> None:
    """The tables assert it at every reject; here is that they could tell."""
    trading = Trading()
    trading.play("1:sell intc 10@50.10")
    trading.engine.next_oid += 1
    with pytest.raises(AssertionError):
        trading.play("1:sell intc 10@50.10")


def test_engine_check_finds_a_crossed_book() -> None:
    engine = _engine_with("1:buy intc 10@50.10", "1:sell intc 10@50.20")
    crossing = _open(engine, 2)
    engine.book.asks.remove(crossing)
    crossing.terms = replace(crossing.terms, price=500_000)
    engine.book.asks.add(crossing)
    with pytest.raises(AssertionError, match=r"crossed: bids 10@50\.10; asks 10@50\.00"):
        engine.check()


def test_engine_check_finds_an_order_that_neither_rests_nor_waits() -> None:
    engine = _engine_with("1:buy intc 10@50.10")
    engine.book.bids.remove(_open(engine, 1))
    with pytest.raises(AssertionError, match="is lost"):
        engine.check()


def test_engine_check_finds_a_market_order_at_rest() -> None:
    engine = _engine_with("1:buy intc 10@50.10")
    resting = _open(engine, 1)
    engine.book.bids.remove(resting)
    resting.terms = replace(resting.terms, price=0)
    engine.book.bids.add(resting)
    with pytest.raises(AssertionError, match="rests"):
        engine.check()


def test_engine_check_finds_a_stop_that_should_have_run() -> None:
    engine = _engine_with("1:buy intc 10/50.10")
    engine.last = 501_000
    with pytest.raises(AssertionError):
        engine.check()


def test_engine_check_finds_a_stop_that_hides_something() -> None:
    engine = _engine_with("1:buy intc 10/50.10")
    _open(engine, 1).hidden = 5
    with pytest.raises(AssertionError, match="waits"):
        engine.check()


def test_engine_check_finds_an_order_that_ended_and_does_not_say_how() -> None:
    engine = _engine_with("1:buy intc 10@50.10 id=a", "1:del intc 1")
    ended = _open(engine, 1)
    assert ended.hidden == CANCELED
    ended.hidden = 0
    with pytest.raises(AssertionError, match="is remembered"):
        engine.check()


def test_engine_check_finds_that_a_plain_order_would_be_taken_without_the_checks_it_needs() -> None:
    engine = _engine_with("set intc band=5")
    engine._unasked_price = 1_000_000
    with pytest.raises(AssertionError, match="1000000"):
        engine.check()
    engine = _engine_with("1:buy intc 10@50.10", "limit intc 1 max_quantity=20")
    engine._accounts[1].unasked = 30
    with pytest.raises(AssertionError, match="30"):
        engine.check()


def _engine_with(*texts: str) -> Engine:
    trading = Trading()
    for text in texts:
        trading.play(text)
    return trading.engine


def _open(engine: Engine, oid: int) -> Order:
    order = engine.order(oid)
    assert order is not None
    return order
