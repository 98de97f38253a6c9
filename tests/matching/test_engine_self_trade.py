"""R5: what happens when an order meets another one of its own owner."""

import pytest

from tests.matching.trading_tables import check


def test_r5_taker_is_the_default_and_cancels_the_rest_of_the_incoming_order() -> None:
    check("""
        2:sell intc 5@50.25  | #1 accepted
        1:sell intc 10@50.25 | #2 accepted
        2:sell intc 10@50.26 | #3 accepted
        1:buy intc 20@50.30  | #4 accepted
                             | trade 5@50.25 maker #1 taker #4
                             | #4 canceled 15 self_trade
        queues               | bids -; asks #2 #3
        1:buy intc 20@50.30 stp=taker | #5 accepted; #5 canceled 20 self_trade
    """)


def test_r5_maker_cancels_the_resting_order_and_goes_on() -> None:
    check("""
        1:sell intc 10@50.25          | #1 accepted
        2:sell intc 10@50.25          | #2 accepted
        1:sell intc 10@50.26          | #3 accepted
        1:buy intc 15@50.26 stp=maker | #4 accepted
                                      | #1 canceled 10 self_trade
                                      | trade 10@50.25 maker #2 taker #4
                                      | #3 canceled 10 self_trade
        book                          | bids 5@50.26; asks -
    """)


def test_r5_both_cancels_both_the_resting_one_first() -> None:
    check("""
        2:sell intc 5@50.24          | #1 accepted
        1:sell intc 10@50.25         | #2 accepted
        1:sell intc 10@50.25         | #3 accepted
        1:buy intc 15@50.26 stp=both | #4 accepted
                                     | trade 5@50.24 maker #1 taker #4
                                     | #2 canceled 10 self_trade
                                     | #4 canceled 10 self_trade
        queues                       | bids -; asks #3
    """)


def test_r5_decrement_reduces_both_by_the_smaller_open_quantity() -> None:
    check("""
        1:sell intc 10@50.25             | #1 accepted
        2:buy intc 4@50.25               | #2 accepted; trade 4@50.25 maker #1 taker #2
        1:buy intc 4@50.25 stp=decrement | #3 accepted
                                         | #1 decremented 4
                                         | #3 decremented 4
                                         | #3 canceled 0 self_trade
        order 1                          | #1 sell 6, 4 filled, 2 remaining, partially_filled
        book                             | bids -; asks 2@50.25
    """)


def test_r5_decrement_that_uses_up_the_resting_order_goes_on() -> None:
    check("""
        1:sell intc 6@50.25               | #1 accepted
        2:sell intc 6@50.25               | #2 accepted
        1:buy intc 15@50.25 stp=decrement | #3 accepted
                                          | #1 decremented 6
                                          | #3 decremented 6
                                          | #1 canceled 0 self_trade
                                          | trade 6@50.25 maker #2 taker #3
        order 3                           | #3 buy 9, 6 filled, 3 remaining, partially_filled
        book                              | bids 3@50.25; asks -
    """)


def test_r5_decrement_of_equal_quantities_cancels_both_the_resting_one_first() -> None:
    check("""
        1:buy intc 6@50.25 id=a            | #1 accepted
        1:sell intc 6 stp=decrement id=b   | #2 accepted
                                           | #1 decremented 6
                                           | #2 decremented 6
                                           | #1 canceled 0 self_trade
                                           | #2 canceled 0 self_trade
        find 1:a                           | #1 buy 0, 0 filled, 0 remaining, canceled
        find 1:b                           | #2 sell 0, 0 filled, 0 remaining, canceled
    """)


def test_r5_decrement_then_the_rest_of_a_market_or_ioc_order_is_canceled() -> None:
    check("""
        1:sell intc 6@50.25                        | #1 accepted
        1:buy intc 8 stp=decrement                 | #2 accepted
                                                   | #1 decremented 6
                                                   | #2 decremented 6
                                                   | #1 canceled 0 self_trade
                                                   | #2 canceled 2 no_liquidity
        1:sell intc 6@50.25                        | #3 accepted
        1:buy intc 8@50.25 stp=decrement tif=ioc   | #4 accepted
                                                   | #3 decremented 6
                                                   | #4 decremented 6
                                                   | #3 canceled 0 self_trade
                                                   | #4 canceled 2 ioc
    """)


def test_r5_none_trades_with_oneself() -> None:
    check("""
        1:sell intc 10@50.25         | #1 accepted
        1:buy intc 10@50.25 stp=none | #2 accepted; trade 10@50.25 maker #1 taker #2
        position 1                   | 0
        last                         | 50.25
    """)


def test_r5_the_incoming_orders_mode_decides_not_the_resting_ones() -> None:
    check("""
        1:sell intc 10@50.25 stp=none | #1 accepted
        1:buy intc 4@50.25            | #2 accepted; #2 canceled 4 self_trade
        1:sell intc 10@50.20 stp=both | #3 accepted
        1:buy intc 4@50.20 stp=none   | #4 accepted; trade 4@50.20 maker #3 taker #4
    """)


def test_r5_does_not_hold_for_the_house() -> None:
    check("""
        sell intc 10@50.25        | #1 accepted
        0:buy intc 4@50.25        | #2 accepted; trade 4@50.25 maker #1 taker #2
        buy intc 6 stp=both tif=fok | #3 accepted; trade 6@50.25 maker #1 taker #3
    """)


def test_r5_an_own_order_that_is_not_reached_does_not_matter() -> None:
    check("""
        2:sell intc 10@50.25 | #1 accepted
        1:sell intc 10@50.25 | #2 accepted
        1:sell intc 10@50.26 | #3 accepted
        1:buy intc 10@50.25  | #4 accepted; trade 10@50.25 maker #1 taker #4
        1:buy intc 10@50.24  | #5 accepted
    """)


@pytest.mark.parametrize(
    ("mode", "what_happens"),
    [
        ("taker", "#6 canceled 5 self_trade"),
        ("maker", "#5 canceled 5 self_trade"),
        ("both", "#5 canceled 5 self_trade; #6 canceled 5 self_trade"),
        (
            "decrement",
            "#5 decremented 5; #6 decremented 5;"
            " #5 canceled 0 self_trade; #6 canceled 0 self_trade",
        ),
    ],
)
def test_r5_prints_no_trade_moves_no_last_and_fires_no_stop(mode: str, what_happens: str) -> None:
    check(f"""
        2:sell intc 1@50.00            | #1 accepted
        3:buy intc 1@50.00             | #2 accepted; trade 1@50.00 maker #1 taker #2
        4:buy intc 1@60.00/50.10       | #3 accepted
        4:sell intc 1@40.00/49.00      | #4 accepted
        1:sell intc 5@50.20            | #5 accepted
        1:buy intc 5@50.20 stp={mode}  | #6 accepted; {what_happens}
        last                           | 50.00
        stops                          | #3 #4
    """)


def test_r5_holds_for_an_order_that_a_stop_released() -> None:
    check("""
        1:sell intc 5@50.25          | #1 accepted
        2:sell intc 5@50.30          | #2 accepted
        2:buy intc 5/50.25 stp=both  | #3 accepted
        3:buy intc 5@50.25           | #4 accepted
                                     | trade 5@50.25 maker #1 taker #4
                                     | #3 triggered
                                     | #2 canceled 5 self_trade
                                     | #3 canceled 5 self_trade
    """)
