"""R7: stop orders, from waiting outside the book to the end of what they set off."""

from collections.abc import Sequence

import pytest

from matching.engine import Engine
from matching.events import Event
from matching.order import parse_price
from tests.matching.trading_tables import Trading, check, command_of, event_text


def test_r7_a_stop_waits_outside_the_book_and_its_levels() -> None:
    check("""
        1:buy intc 10@50.40/50.30  | #1 accepted
        1:sell intc 10/50.10       | #2 accepted
        book                       | bids -; asks -
        stops                      | #1 #2
        order 1                    | #1 buy 10, 0 filled, 10 remaining, pending_stop
        2:sell intc 5@50.40        | #3 accepted
        2:buy intc 5               | #4 accepted; #4 canceled 5 self_trade
    """)


def test_r7_a_print_at_or_above_its_stop_elects_a_buy_stop() -> None:
    check("""
        1:buy intc 1@51/50.30 | #1 accepted
        1:buy intc 1@51/50.31 | #2 accepted
        2:sell intc 1@50.29   | #3 accepted
        3:buy intc 1@50.29    | #4 accepted; trade 1@50.29 maker #3 taker #4
        2:sell intc 1@50.30   | #5 accepted
        3:buy intc 1@50.30    | #6 accepted; trade 1@50.30 maker #5 taker #6; #1 triggered
        2:sell intc 1@50.99   | #7 accepted; trade 1@51.00 maker #1 taker #7; #2 triggered
        queues                | bids #2; asks -
    """)


def test_r7_a_print_at_or_below_its_stop_elects_a_sell_stop() -> None:
    check("""
        1:sell intc 1@49/50.30 | #1 accepted
        1:sell intc 1@49/50.29 | #2 accepted
        2:buy intc 1@50.31     | #3 accepted
        3:sell intc 1@50.31    | #4 accepted; trade 1@50.31 maker #3 taker #4
        2:buy intc 1@50.30     | #5 accepted
        3:sell intc 1@50.30    | #6 accepted; trade 1@50.30 maker #5 taker #6; #1 triggered
        2:buy intc 1@49.01     | #7 accepted; trade 1@49.00 maker #1 taker #7; #2 triggered
        queues                 | bids -; asks #2
    """)


def test_of_2010_stops_were_compared_with_the_limit_price_and_inverted() -> None:
    check("""
        # The limit prices stand on the wrong side of the stops: only the stops may count.
        2:sell intc 1@50.00   | #1 accepted
        1:buy intc 5@49/50.30 | #2 accepted
        1:sell intc 5@51/49.90 | #3 accepted
        3:buy intc 1@50.00    | #4 accepted; trade 1@50.00 maker #1 taker #4
        stops                 | #2 #3
        2:sell intc 1@50.30   | #5 accepted
        3:buy intc 1@50.30    | #6 accepted; trade 1@50.30 maker #5 taker #6; #2 triggered
        book                  | bids 5@49.00; asks -
        3:sell intc 1@49.90   | #7 accepted
        2:buy intc 1@49.90    | #8 accepted; trade 1@49.90 maker #7 taker #8; #3 triggered
        book                  | bids 5@49.00; asks 5@51.00
    """)


def test_r7_a_triggered_stop_without_a_price_is_a_market_order() -> None:
    check("""
        1:buy intc 10/50.30 | #1 accepted
        2:sell intc 1@50.30 | #2 accepted
        2:sell intc 4@50.50 | #3 accepted
        3:buy intc 1@50.30  | #4 accepted
                            | trade 1@50.30 maker #2 taker #4
                            | #1 triggered
                            | trade 4@50.50 maker #3 taker #1
                            | #1 canceled 6 no_liquidity
    """)


def test_r7_a_triggered_stop_limit_takes_new_time_priority_and_has_no_stop_any_more() -> None:
    check("""
        1:buy intc 10@50.30/50.30 id=s | #1 accepted
        2:sell intc 1@50.30            | #2 accepted
        3:buy intc 11@50.30            | #3 accepted; trade 1@50.30 maker #2 taker #3; #1 triggered
        queues                         | bids #3 #1; asks -
        find 1:s                       | #1 buy 10, 0 filled, 10 remaining, open
        2:sell intc 1@50.30            | #4 accepted; trade 1@50.30 maker #3 taker #4
    """)


def test_r7_elected_stops_run_when_the_order_that_printed_has_finished() -> None:
    check("""
        1:buy intc 2@60/50.30 | #1 accepted
        2:sell intc 1@50.30   | #2 accepted
        2:sell intc 1@50.31   | #3 accepted
        2:sell intc 9@50.32   | #4 accepted
        3:buy intc 3@50.32    | #5 accepted
                              | trade 1@50.30 maker #2 taker #5
                              | trade 1@50.31 maker #3 taker #5
                              | trade 1@50.32 maker #4 taker #5
                              | #1 triggered
                              | trade 2@50.32 maker #4 taker #1
    """)


def test_r7_and_after_its_rest_has_been_canceled_or_has_joined_the_book() -> None:
    check("""
        1:sell intc 2/50.40  | #1 accepted
        2:sell intc 1@50.40  | #2 accepted
        3:buy intc 3@50.40   | #3 accepted
                             | trade 1@50.40 maker #2 taker #3
                             | #1 triggered
                             | trade 2@50.40 maker #3 taker #1
        1:buy intc 2/50.50   | #4 accepted
        2:sell intc 1@50.50  | #5 accepted
        3:buy intc 3@50.50 tif=ioc | #6 accepted
                             | trade 1@50.50 maker #5 taker #6
                             | #6 canceled 2 ioc
                             | #4 triggered
                             | #4 canceled 2 no_liquidity
    """)


def test_r7_the_nearest_buy_stop_is_the_lowest_within_a_price_the_first_to_enter() -> None:
    check("""
        1:buy intc 1@50/50.33 | #1 accepted
        1:buy intc 1@50/50.31 | #2 accepted
        1:buy intc 1@50/50.32 | #3 accepted
        1:buy intc 1@50/50.31 | #4 accepted
        2:sell intc 1@50.40   | #5 accepted
        3:buy intc 1@50.40    | #6 accepted
                              | trade 1@50.40 maker #5 taker #6
                              | #2 triggered; #4 triggered; #3 triggered; #1 triggered
    """)


def test_r7_the_nearest_sell_stop_is_the_highest_within_a_price_the_first_to_enter() -> None:
    check("""
        1:sell intc 1@60/50.31 | #1 accepted
        1:sell intc 1@60/50.33 | #2 accepted
        1:sell intc 1@60/50.32 | #3 accepted
        1:sell intc 1@60/50.33 | #4 accepted
        2:buy intc 1@50.20     | #5 accepted
        3:sell intc 1@50.20    | #6 accepted
                               | trade 1@50.20 maker #5 taker #6
                               | #2 triggered; #4 triggered; #3 triggered; #1 triggered
    """)


def test_r7_of_the_next_buy_and_the_next_sell_the_lower_oid_runs_first() -> None:
    check("""
        # The first print elects both sides at once: no last has kept any of them out.
        1:buy intc 1@40/50.32  | #1 accepted
        1:sell intc 1@60/50.38 | #2 accepted
        1:buy intc 1@40/50.31  | #3 accepted
        1:sell intc 1@60/50.39 | #4 accepted
        1:buy intc 1@40/50.30  | #5 accepted
        2:sell intc 1@50.35    | #6 accepted
        3:buy intc 1@50.35     | #7 accepted
                               | trade 1@50.35 maker #6 taker #7
                               | #4 triggered; #2 triggered
                               | #5 triggered; #3 triggered; #1 triggered
    """)


def test_r7_one_orders_prints_elect_together_between_its_first_and_its_last_price() -> None:
    check("""
        1:buy intc 1@40/50.32  | #1 accepted
        1:sell intc 1@60/50.31 | #2 accepted
        2:sell intc 1@50.31    | #3 accepted
        2:sell intc 1@50.32    | #4 accepted
        3:buy intc 2@50.32     | #5 accepted
                               | trade 1@50.31 maker #3 taker #5
                               | trade 1@50.32 maker #4 taker #5
                               | #1 triggered; #2 triggered
    """)


def test_r7_stops_elected_by_a_stops_trades_queue_behind_those_already_elected() -> None:
    check("""
        1:buy intc 1/50.30  | #1 accepted
        1:buy intc 1/50.50  | #2 accepted
        1:buy intc 1@40/50.40 | #3 accepted
        1:buy intc 1/50.30  | #4 accepted
        2:sell intc 1@50.30 | #5 accepted
        2:sell intc 1@50.45 | #6 accepted
        2:sell intc 1@50.46 | #7 accepted
        2:sell intc 9@50.50 | #8 accepted
        3:buy intc 1@50.30  | #9 accepted
                            | trade 1@50.30 maker #5 taker #9
                            | #1 triggered
                            | trade 1@50.45 maker #6 taker #1
                            | #4 triggered
                            | trade 1@50.46 maker #7 taker #4
                            | #3 triggered
        2:sell intc 1@40    | #10 accepted; trade 1@40.00 maker #3 taker #10
        3:buy intc 1@50.50  | #11 accepted
                            | trade 1@50.50 maker #8 taker #11
                            | #2 triggered
                            | trade 1@50.50 maker #8 taker #2
    """)


def test_r7_a_long_chain_of_stops_runs_to_its_end() -> None:
    trading = Trading()
    links = 100
    for link in range(1, links + 1):
        price = 500_000 + 100 * link
        trading.play(f"2:sell intc 1@{price // 10_000}.{price % 10_000:04d}")
        trading.play(f"1:buy intc 1/{price // 10_000}.{price % 10_000:04d}")
    answer = trading.play("3:buy intc 1@50.01")
    assert answer.count("triggered") == links
    assert answer.count("trade") == links
    assert answer.endswith(f"#{2 * links} triggered; #{2 * links} canceled 1 no_liquidity")


def test_r7_an_elected_stop_stays_elected_though_the_price_has_moved_away() -> None:
    check("""
        # The first sell stop sweeps down; the buy stop was elected at 50.30 and runs all the same.
        1:sell intc 5/50.30   | #1 accepted
        1:buy intc 1@40/50.30 | #2 accepted
        2:buy intc 1@50.30    | #3 accepted
        2:buy intc 5@45.00    | #4 accepted
        3:sell intc 1@50.30   | #5 accepted
                              | trade 1@50.30 maker #3 taker #5
                              | #1 triggered
                              | trade 5@45.00 maker #4 taker #1
                              | #2 triggered
        last                  | 45.00
        book                  | bids 1@40.00; asks -
    """)


def test_r7_a_stop_that_last_has_already_reached_is_rejected_equal_included() -> None:
    check("""
        1:buy intc 1/50.30     | #1 accepted
        1:del intc 1           | #1 canceled 1 user
        2:sell intc 1@50.30    | #2 accepted
        3:buy intc 1@50.30     | #3 accepted; trade 1@50.30 maker #2 taker #3
        1:buy intc 1/50.30     | rejected stop_would_trigger R7:
                               | last, 50.30, has reached the stop 50.30 of this buy order already
        1:buy intc 1@60/50.29  | rejected stop_would_trigger R7
        1:sell intc 1/50.30    | rejected stop_would_trigger R7:
                               | last, 50.30, has reached the stop 50.30 of this sell order already
        1:sell intc 1@40/50.31 | rejected stop_would_trigger R7
        1:buy intc 1/50.31     | #4 accepted
        1:sell intc 1/50.29    | #5 accepted
    """)


def test_r7_ioc_and_fok_on_a_stop_count_when_it_triggers() -> None:
    check("""
        1:buy intc 5@50.40/50.30 tif=ioc | #1 accepted
        1:buy intc 5@50.40/50.30 tif=fok | #2 accepted
        1:buy intc 2@50.40/50.30 tif=fok | #3 accepted
        stops                            | #1 #2 #3
        2:sell intc 1@50.30              | #4 accepted
        2:sell intc 8@50.40              | #5 accepted
        3:buy intc 1@50.30               | #6 accepted
                                         | trade 1@50.30 maker #4 taker #6
                                         | #1 triggered
                                         | trade 5@50.40 maker #5 taker #1
                                         | #2 triggered
                                         | #2 canceled 5 fok
                                         | #3 triggered
                                         | trade 2@50.40 maker #5 taker #3
    """)


def test_r7_an_ioc_stop_limit_that_finds_nothing_is_canceled_when_it_triggers() -> None:
    check("""
        1:buy intc 5@50.20/50.30 tif=ioc | #1 accepted
        2:sell intc 1@50.30              | #2 accepted
        3:buy intc 1@50.30               | #3 accepted
                                         | trade 1@50.30 maker #2 taker #3
                                         | #1 triggered
                                         | #1 canceled 5 ioc
    """)


def test_r7_a_waiting_stop_can_be_canceled() -> None:
    check("""
        1:buy intc 5@50.40/50.30 id=s | #1 accepted
        1:buy intc 5/50.30            | #2 accepted
        1:buy intc 5/50.30            | #3 accepted
        1:del intc id=s               | #1 canceled 5 user
        1:del intc 3                  | #3 canceled 5 user
        2:sell intc 1@50.30           | #4 accepted
        3:buy intc 1@50.30            | #5 accepted
                                      | trade 1@50.30 maker #4 taker #5
                                      | #2 triggered
                                      | #2 canceled 5 no_liquidity
        find 1:s                      | #1 buy 5, 0 filled, 0 remaining, canceled
    """)


def test_r7_no_stop_is_elected_by_orders_that_do_not_trade() -> None:
    check("""
        1:buy intc 1@51/50.30  | #1 accepted
        2:sell intc 1@50.40    | #2 accepted
        2:buy intc 1@50.35     | #3 accepted
        2:del intc all         | #2 canceled 1 user; #3 canceled 1 user
        stops                  | #1
    """)


@pytest.mark.parametrize("last", ["50.30", "50.31"])
def test_r7_on_entry_into_continuous_last_counts_as_a_print(last: str) -> None:
    """A call auction moves last while stops wait; it is moved by hand here."""
    engine = _halted_with("1:buy intc 5@50.20/50.30", "1:sell intc 5@50.40/50.31", last=last)
    events = [event_text(event, False) for event in _apply(engine, "phase intc continuous")]
    engine.check()
    assert events == ["phase continuous", "#1 triggered", "#2 triggered"]
    assert str(engine.book) == "bids 5@50.20; asks 5@50.40"


def test_r7_on_entry_into_continuous_a_stop_that_last_has_not_reached_waits_on() -> None:
    engine = _halted_with("1:buy intc 5/50.30", "1:sell intc 5/50.10", last="50.20")
    assert len(_apply(engine, "phase intc continuous")) == 1
    assert [order.status for order in engine.open_orders()] == ["pending_stop", "pending_stop"]


@pytest.mark.parametrize("phase", ["closed", "halted"])
def test_r7_no_stop_runs_outside_continuous(phase: str) -> None:
    engine = _halted_with("1:buy intc 5/50.30", last="50.40")
    other = "closed" if phase == "halted" else "halted"
    if phase == "halted":
        _apply(engine, f"phase intc {other}")
    assert len(_apply(engine, f"phase intc {phase}")) == 1
    assert [order.status for order in engine.open_orders()] == ["pending_stop"]


def _halted_with(*stops: str, last: str) -> Engine:
    engine = Engine("intc")
    for text in stops:
        _apply(engine, text)
    _apply(engine, "phase intc halted")
    engine.last = parse_price(last)
    return engine


def _apply(engine: Engine, text: str) -> Sequence[Event]:
    return engine.apply(command_of(text), at=1_700_000_000_000_000)
