"""R1, R2, R4, R8, R13, R15: how orders meet, rest and end, as tables of commands and events."""

import pytest

from matching.engine import Broken, Engine
from matching.events import Event, Trade
from matching.order import NewOrder, Phase, Side
from tests.matching.trading_tables import check, command_of


def test_r1_the_best_price_trades_first_at_the_resting_orders_price() -> None:
    check("""
        1:sell intc 100@50.27 | #1 accepted
        1:sell intc 100@50.25 | #2 accepted
        1:sell intc 100@50.26 | #3 accepted
        2:buy intc 250@50.30  | #4 accepted
                              | trade 100@50.25 maker #2 taker #4
                              | trade 100@50.26 maker #3 taker #4
                              | trade 50@50.27 maker #1 taker #4
        book                  | bids -; asks 50@50.27
        position 2            | 250
        position 1            | -250
    """)


def test_r1_at_one_price_the_first_comer_trades_first() -> None:
    check("""
        1:buy intc 10@50.25  | #1 accepted
        2:buy intc 10@50.25  | #2 accepted
        3:buy intc 10@50.25  | #3 accepted
        4:sell intc 15@50.25 | #4 accepted
                             | trade 10@50.25 maker #1 taker #4
                             | trade 5@50.25 maker #2 taker #4
        queues               | bids #2 #3; asks -
        4:sell intc 10@50.25 | #5 accepted
                             | trade 5@50.25 maker #2 taker #5
                             | trade 5@50.25 maker #3 taker #5
        book                 | bids 5@50.25; asks -
    """)


def test_r1_a_partly_filled_order_keeps_its_place() -> None:
    check("""
        1:sell intc 10@50.25 | #1 accepted
        2:sell intc 10@50.25 | #2 accepted
        3:buy intc 4@50.25   | #3 accepted; trade 4@50.25 maker #1 taker #3
        3:buy intc 4@50.25   | #4 accepted; trade 4@50.25 maker #1 taker #4
        order 1              | #1 sell 10, 8 filled, 2 remaining, partially_filled
    """)


def test_r1_a_limit_order_trades_no_worse_than_its_limit() -> None:
    check("""
        1:sell intc 10@50.25 | #1 accepted
        1:sell intc 10@50.26 | #2 accepted
        2:buy intc 20@50.25  | #3 accepted; trade 10@50.25 maker #1 taker #3
        book                 | bids 10@50.25; asks 10@50.26
    """)


def test_the_unfilled_rest_of_a_limit_order_joins_the_book() -> None:
    check("""
        1:sell intc 100@50.25 | #1 accepted
        2:buy intc 150@50.25  | #2 accepted; trade 100@50.25 maker #1 taker #2
        book                  | bids 50@50.25; asks -
        order 2               | #2 buy 150, 100 filled, 50 remaining, partially_filled
    """)


def test_of_2010_two_crossing_limits_traded_at_the_midpoint_now_at_the_resting_price() -> None:
    check("""
        1:sell intc 10@50.00 | #1 accepted
        2:buy intc 10@51.00  | #2 accepted; trade 10@50.00 maker #1 taker #2
        2:buy intc 10@51.00  | #3 accepted
        1:sell intc 10@50.00 | #4 accepted; trade 10@51.00 maker #3 taker #4
    """)


def test_r2_a_market_order_sweeps_the_book_and_its_rest_is_canceled() -> None:
    check("""
        1:sell intc 10@50.25 | #1 accepted
        1:sell intc 10@99.00 | #2 accepted
        2:buy intc 30        | #3 accepted
                             | trade 10@50.25 maker #1 taker #3
                             | trade 10@99.00 maker #2 taker #3
                             | #3 canceled 10 no_liquidity
        book                 | bids -; asks -
    """)


@pytest.mark.parametrize("tif", ["gtc", "day", "ioc"])
def test_r2_gtc_day_and_ioc_mean_the_same_for_a_market_order(tif: str) -> None:
    check(f"""
        1:buy intc 10@50.25    | #1 accepted
        2:sell intc 4 tif={tif}  | #2 accepted; trade 4@50.25 maker #1 taker #2
        2:sell intc 10 tif={tif} | #3 accepted
                                 | trade 6@50.25 maker #1 taker #3
                                 | #3 canceled 4 no_liquidity
        book                   | bids -; asks -
    """)


def test_r2_on_an_empty_book_a_market_order_is_accepted_and_canceled() -> None:
    check("""
        2:buy intc 30   | #1 accepted; #1 canceled 30 no_liquidity
        2:sell intc 30@0 | #2 accepted; #2 canceled 30 no_liquidity
        last            | -
    """)


def test_of_2010_an_unfilled_market_order_rested_now_nothing_of_it_is_left() -> None:
    check("""
        2:buy intc 30        | #1 accepted; #1 canceled 30 no_liquidity
        1:sell intc 30@99.00 | #2 accepted
        book                 | bids -; asks 30@99.00
    """)


def test_r4_gtc_rests_until_filled_or_canceled_and_is_the_default() -> None:
    check("""
        1:buy intc 10@50.25         | #1 accepted
        1:buy intc 10@50.25 tif=gtc | #2 accepted
        phase intc closed           | phase closed
        phase intc continuous       | phase continuous
        2:sell intc 15@50.25        | #3 accepted
                                    | trade 10@50.25 maker #1 taker #3
                                    | trade 5@50.25 maker #2 taker #3
        1:del intc 2                | #2 canceled 5 user
    """)


def test_r4_day_rests_and_is_canceled_when_the_session_closes() -> None:
    check("""
        1:buy intc 10@50.25 tif=day | #1 accepted
        2:sell intc 4@50.25         | #2 accepted; trade 4@50.25 maker #1 taker #2
        phase intc closed           | phase closed; #1 canceled 6 end_of_day
    """)


def test_r4_ioc_trades_what_it_can_at_once_and_the_rest_is_canceled() -> None:
    check("""
        1:sell intc 10@50.25        | #1 accepted
        1:sell intc 10@50.26        | #2 accepted
        2:buy intc 15@50.25 tif=ioc | #3 accepted
                                    | trade 10@50.25 maker #1 taker #3
                                    | #3 canceled 5 ioc
        2:buy intc 15@50.25 tif=ioc | #4 accepted; #4 canceled 15 ioc
        2:buy intc 10@50.26 tif=ioc | #5 accepted; trade 10@50.26 maker #2 taker #5
        book                        | bids -; asks -
    """)


def test_r4_fok_trades_all_at_once_or_nothing() -> None:
    check("""
        1:sell intc 10@50.25        | #1 accepted
        1:sell intc 10@50.26        | #2 accepted
        1:sell intc 10@50.27        | #3 accepted
        2:buy intc 21@50.26 tif=fok | #4 accepted; #4 canceled 21 fok
        book                        | bids -; asks 10@50.25 10@50.26 10@50.27
        2:buy intc 20@50.26 tif=fok | #5 accepted
                                    | trade 10@50.25 maker #1 taker #5
                                    | trade 10@50.26 maker #2 taker #5
        2:buy intc 1@50.26 tif=fok  | #6 accepted; #6 canceled 1 fok
        2:buy intc 1@50.27 tif=fok  | #7 accepted; trade 1@50.27 maker #3 taker #7
    """)


def test_r4_fok_of_a_market_order_fills_whole_from_the_book_or_is_canceled() -> None:
    check("""
        2:buy intc 1 tif=fok | #1 accepted; #1 canceled 1 fok
        1:sell intc 10@50.25 | #2 accepted
        1:sell intc 10@99.00 | #3 accepted
        2:buy intc 21 tif=fok | #4 accepted; #4 canceled 21 fok
        2:buy intc 20 tif=fok | #5 accepted
                              | trade 10@50.25 maker #2 taker #5
                              | trade 10@99.00 maker #3 taker #5
    """)


def test_r4_fok_is_decided_under_the_orders_own_self_trade_mode() -> None:
    check("""
        # Five of another owner stand before ten of the order's own, ten more of the other behind.
        1:sell intc 5@50.25                        | #1 accepted
        2:sell intc 10@50.25                       | #2 accepted
        1:sell intc 10@50.26                       | #3 accepted
        2:buy intc 6@50.26 tif=fok                 | #4 accepted; #4 canceled 6 fok
        2:buy intc 6@50.26 tif=fok stp=both        | #5 accepted; #5 canceled 6 fok
        2:buy intc 6@50.26 tif=fok stp=decrement   | #6 accepted; #6 canceled 6 fok
        2:buy intc 16@50.26 tif=fok stp=maker      | #7 accepted; #7 canceled 16 fok
        book                                       | bids -; asks 15@50.25 10@50.26
        2:buy intc 2@50.26 tif=fok                 | #8 accepted; trade 2@50.25 maker #1 taker #8
        2:buy intc 1@50.26 tif=fok stp=both        | #9 accepted; trade 1@50.25 maker #1 taker #9
        2:buy intc 1@50.26 tif=fok stp=decrement   | #10 accepted; trade 1@50.25 maker #1 taker #10
        2:buy intc 2@50.26 tif=fok stp=none        | #11 accepted
                                                   | trade 1@50.25 maker #1 taker #11
                                                   | trade 1@50.25 maker #2 taker #11
        2:buy intc 10@50.26 tif=fok stp=maker      | #12 accepted
                                                   | #2 canceled 9 self_trade
                                                   | trade 10@50.26 maker #3 taker #12
        book                                       | bids -; asks -
    """)


def test_r8_post_only_rests_or_is_rejected() -> None:
    check("""
        1:sell intc 10@50.25      | #1 accepted
        2:buy intc 10@50.25 post  | rejected would_take R8:
                                  | a post-only buy at 50.25 would take the sell at 50.25
        2:buy intc 90@50.30 post  | rejected would_take R8
        2:buy intc 10@50.24 post  | #2 accepted
        3:sell intc 10@50.24 post | rejected would_take R8:
                                  | a post-only sell at 50.24 would take the buy at 50.24
        3:sell intc 10@50.25 post | #3 accepted
        queues                    | bids #2; asks #1 #3
    """)


def test_r8_post_only_is_rejected_even_against_the_owners_own_order() -> None:
    check("""
        1:sell intc 10@50.25               | #1 accepted
        1:buy intc 10@50.25 post stp=maker | rejected would_take R8
        book                               | bids -; asks 10@50.25
    """)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("10@50.25 post tif=ioc", "a post-only order cannot be ioc"),
        ("10@50.25 post tif=fok", "a post-only order cannot be fok"),
        ("10@50.25/50.20 post", "a post-only order cannot have a stop"),
        ("10 post", "a post-only order needs a price"),
    ],
)
def test_r8_post_only_fits_no_ioc_fok_stop_or_market_order(order: str, message: str) -> None:
    check(f"""
        2:buy intc {order}        | rejected invalid_order R8: {message}
        2:buy intc 10@50.25 post tif=day | #1 accepted
    """)


def test_r13_a_cancel_takes_what_is_open_by_oid_or_by_client_id() -> None:
    check("""
        1:buy intc 10@50.25       | #1 accepted
        1:buy intc 10@50.25 id=a1 | #2 accepted
        2:sell intc 4@50.25       | #3 accepted; trade 4@50.25 maker #1 taker #3
        1:del intc 1              | #1 canceled 6 user
        1:del intc id=a1          | #2 canceled 10 user
        book                      | bids -; asks -
    """)


def test_r13_a_cancel_that_finds_nothing_says_so_and_does_nothing() -> None:
    check("""
        1:buy intc 10@50.25 id=a1  | #1 accepted
        2:sell intc 10@50.25 id=b1 | #2 accepted; trade 10@50.25 maker #1 taker #2
        1:buy intc 10@50.20 id=a3  | #3 accepted
        1:del intc 1               | rejected order_not_found R13: owner 1 has no open order #1
        1:del intc id=a1           | rejected order_not_found R13: owner 1 has no open order id=a1
        1:del intc 99              | rejected order_not_found R13: owner 1 has no open order #99
        1:del intc 0               | rejected order_not_found R13: owner 1 has no open order #0
        1:del intc id=zz           | rejected order_not_found R13: owner 1 has no open order id=zz
        2:del intc 3               | rejected order_not_found R13: owner 2 has no open order #3
        2:del intc id=a3           | rejected order_not_found R13: owner 2 has no open order id=a3
        0:del intc 3               | rejected order_not_found R13: owner 0 has no open order #3
        9:del intc 3               | rejected order_not_found R13: owner 9 has no open order #3
        1:del intc 3               | #3 canceled 10 user
        1:del intc 3               | rejected order_not_found R13: owner 1 has no open order #3
        1:del intc id=a3           | rejected order_not_found R13: owner 1 has no open order id=a3
    """)


def test_of_2010_a_cancel_that_found_nothing_went_on_as_a_sell() -> None:
    check("""
        1:buy intc 99@50.25 | #1 accepted
        2:del intc 5        | rejected order_not_found R13
        book                | bids 99@50.25; asks -
        last                | -
        2:sell intc 1@50.30 | #2 accepted
    """)


def test_r13_del_all_cancels_every_open_order_of_the_owner_in_oid_order() -> None:
    check("""
        1:sell intc 10@50.30      | #1 accepted
        2:sell intc 10@50.30      | #2 accepted
        1:buy intc 10@50.40/50.35 | #3 accepted
        1:buy intc 10@50.20       | #4 accepted
        0:buy intc 10@50.20       | #5 accepted
        3:buy intc 4@50.30        | #6 accepted; trade 4@50.30 maker #1 taker #6
        open 1                    | #1 #3 #4
        1:del intc all            | #1 canceled 6 user; #3 canceled 10 user; #4 canceled 10 user
        open 1                    | -
        queues                    | bids #5; asks #2
        stops                     | -
        del intc all              | #5 canceled 10 user
    """)


def test_r13_del_all_with_nothing_open_succeeds_with_no_events() -> None:
    check("""
        1:del intc all | nothing
        1:buy intc 5   | #1 accepted; #1 canceled 5 no_liquidity
        1:del intc all | nothing
    """)


def test_r15_last_is_the_price_of_the_last_trade_and_nothing_else() -> None:
    check("""
        last                       | -
        1:sell intc 10@50.25       | #1 accepted
        1:sell intc 10@50.26       | #2 accepted
        last                       | -
        2:buy intc 15@50.30        | #3 accepted
                                   | trade 10@50.25 maker #1 taker #3
                                   | trade 5@50.26 maker #2 taker #3
        last                       | 50.26
        3:buy intc 10@50.10        | #4 accepted
        1:del intc 2               | #2 canceled 5 user
        3:sell intc 1@50.05 stp=maker | #5 accepted; #4 canceled 10 self_trade
        2:buy intc 1@0             | #6 accepted; trade 1@50.05 maker #5 taker #6
        last                       | 50.05
    """)


def test_oids_and_tids_are_consecutive_and_no_reject_uses_one_up() -> None:
    check("""
        1:buy intc 0@50.25   | rejected invalid_order
        1:buy intc 10@50.25  | #1 accepted
        1:buy intc 1@50.255  | rejected bad_tick
        1:del intc 7         | rejected order_not_found R13
        1:sell intc 1@50.20 post | rejected would_take R8
        2:sell intc 1@50.25  | #2 accepted; trade 1@50.25 maker #1 taker #2
    """)
    engine = Engine("intc")
    events: list[Event] = []
    for text in ("1:buy 5@50.25", "2:sell 1@50.25", "2:buy 1@50", "2:sell 2"):
        events += _apply(engine, text)
    assert [event.tid for event in events if isinstance(event, Trade)] == [1, 2]
    assert (engine.next_oid, engine.next_tid) == (5, 3)


def test_the_house_is_owner_0_and_trades_like_everybody() -> None:
    check("""
        sell intc 10@50.25  | #1 accepted
        1:buy intc 4@50.25  | #2 accepted; trade 4@50.25 maker #1 taker #2
        position 0          | -4
        position 1          | 4
        position 8          | 0
    """)


def test_r18_the_same_commands_give_the_same_events() -> None:
    commands = ["1:sell 9@50.25", "2:buy 4@50.30/50.20", "3:buy 5", "4:buy 1@50.20", "1:del all"]
    one, other = Engine("intc"), Engine("intc")
    assert [_apply(one, text) for text in commands] == [_apply(other, text) for text in commands]
    assert str(one.book) == str(other.book)


def test_r18_time_never_goes_back() -> None:
    engine = Engine("intc")
    command = NewOrder(ticker="intc", owner=1, side=Side.BUY, quantity=1, price=100)
    engine.apply(command, at=2)
    engine.apply(command, at=2)
    with pytest.raises(Broken, match="time went back from 2 to 1"):
        engine.apply(command, at=1)


def test_a_new_product_is_described_by_what_it_was_made_with() -> None:
    engine = Engine("intc", tick=500, lot=10, reference=502500, phase=Phase.CLOSED)
    assert (engine.ticker, engine.tick, engine.lot) == ("intc", 500, 10)
    assert (engine.reference, engine.last, engine.phase) == (502500, None, Phase.CLOSED)


def test_open_orders_are_listed_in_oid_order_waiting_stops_included() -> None:
    engine = Engine("intc")
    for text in ("1:buy 5@50.30", "2:buy 5@60/55", "1:buy 5@50.40", "1:sell 5@70"):
        _apply(engine, text)
    assert [order.oid for order in engine.open_orders()] == [1, 2, 3, 4]
    assert [order.oid for order in engine.open_orders(1)] == [1, 3, 4]
    assert engine.open_orders(9) == []


def test_a_finished_order_without_a_client_id_is_forgotten() -> None:
    check("""
        1:buy intc 5@50.25     | #1 accepted
        order 1                | #1 buy 5, 0 filled, 5 remaining, open
        1:del intc 1           | #1 canceled 5 user
        order 1                | -
        1:buy intc 5@50.25/60  | #2 accepted
        order 2                | #2 buy 5, 0 filled, 5 remaining, pending_stop
        order 3                | -
    """)


def _apply(engine: Engine, text: str) -> list[Event]:
    return list(engine.apply(command_of(text), at=1_700_000_000_000_000))
