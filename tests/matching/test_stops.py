"""Waiting stops: who is nearest, who comes first at one price, and a check that finds damage."""

import pytest

from matching.account import Account, Order
from matching.limits import UNLIMITED
from matching.order import NewOrder, Side
from matching.stops import WaitingStops


def order(oid: int, side: Side, stop: int) -> Order:
    command = NewOrder(ticker="intc", owner=1, side=side, quantity=10, stop=stop)
    return Account(1, UNLIMITED).open(oid, command)


def stops_with(*orders: Order) -> WaitingStops:
    stops = WaitingStops()
    for waiting in orders:
        stops.add(waiting)
    stops.check(None)
    return stops


def elected(stops: WaitingStops, *, low: int, high: int) -> list[int]:
    return [order.oid for order in stops.take_elected(low=low, high=high)]


def test_the_nearest_stops_run_first_buys_from_below_sells_from_above() -> None:
    stops = stops_with(
        order(1, Side.BUY, 102),
        order(2, Side.BUY, 101),
        order(3, Side.SELL, 99),
        order(4, Side.SELL, 100),
        order(5, Side.BUY, 101),
        order(6, Side.BUY, 103),
    )
    assert elected(stops, low=99, high=102) == [2, 4, 3, 5, 1]
    assert list(stops.keys) == [6]
    stops.check(102)
    with pytest.raises(AssertionError):
        stops.check(103)


def test_a_stop_that_enters_again_comes_behind_the_others_at_its_price() -> None:
    first = order(1, Side.BUY, 101)
    stops = stops_with(first, order(2, Side.BUY, 101))
    stops.remove(first)
    stops.add(first)
    assert elected(stops, low=101, high=101) == [2, 1]


def test_stops_that_wait_again_have_their_old_places() -> None:
    stops = stops_with(
        order(1, Side.SELL, 99),
        order(2, Side.BUY, 98),
        order(3, Side.SELL, 99),
        order(4, Side.SELL, 100),
    )
    for waiting in stops.take_elected(low=99, high=99):
        stops.add(waiting)
    stops.add(order(5, Side.SELL, 99))
    stops.check(None)
    assert elected(stops, low=99, high=99) == [2, 4, 1, 3, 5]


def test_check_finds_a_stop_that_waits_under_another_price_or_side() -> None:
    waiting = order(1, Side.BUY, 101)
    stops = stops_with(waiting)
    stops.keys[1] = (102, 1)
    with pytest.raises(AssertionError):
        stops.check(None)
    stops = stops_with(waiting)
    waiting.terms = order(1, Side.SELL, 101).terms
    with pytest.raises(AssertionError, match="among the buy stops"):
        stops.check(None)
