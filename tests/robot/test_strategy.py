"""The random trader of 2010, with its dice in the test's hand."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from matching.order import HOUSE, Cancel, CancelAll, NewOrder, Side, TimeInForce
from robot.strategy import Desk, RandomTrader, describe

TURNS = 4000


def _desk(*, last: int = 1_000_000, tick: int = 100, lot: int = 1) -> Desk:
    return Desk(ticker="intc", tick=tick, lot=lot, last=last, dice=random.Random(1))


def _orders(
    *, last: int = 1_000_000, tick: int = 100, lot: int = 1, owners: list[int] | None = None
) -> Iterator[NewOrder]:
    """What the random trader orders in many turns."""
    trader = RandomTrader(owners=owners or [HOUSE])
    desk = _desk(tick=tick, lot=lot, last=last)
    for _ in range(TURNS):
        trader.on_timer(desk)
        (order,) = desk.take_commands()
        assert isinstance(order, NewOrder)
        yield order


def test_the_four_kinds_of_order_come_with_equal_chance() -> None:
    kinds = Counter((order.side, order.price == 0) for order in _orders())
    assert len(kinds) == 4
    assert all(0.2 < count / TURNS < 0.3 for count in kinds.values()), kinds


def test_a_limit_order_waits_on_its_side_of_the_last_price() -> None:
    for order in _orders(last=1_000_000):
        if order.price:
            assert (order.price <= 1_000_000) == (
                order.side is Side.BUY
            ) or order.price == 1_000_000


def test_its_distance_is_that_of_a_normal_distribution_of_ten() -> None:
    distances = [abs(order.price - 1_000_000) / 10_000 for order in _orders() if order.price]
    mean_of_half_normal = 7.98
    assert abs(sum(distances) / len(distances) - mean_of_half_normal) < 0.5


def test_a_buy_that_would_come_to_twenty_or_less_goes_above_twenty() -> None:
    buys = [
        order.price for order in _orders(last=200_000) if order.side is Side.BUY and order.price
    ]
    assert min(buys) >= 200_000
    assert max(buys) > 400_000


def test_a_sell_that_would_come_to_one_hundred_eighty_or_more_goes_below() -> None:
    sells = [
        order.price for order in _orders(last=1_900_000) if order.side is Side.SELL and order.price
    ]
    assert max(sells) <= 1_800_000
    assert min(sells) < 1_600_000


def test_quantities_are_one_to_a_thousand() -> None:
    quantities = [order.quantity for order in _orders()]
    assert min(quantities) >= 1
    assert max(quantities) <= 1000
    assert max(quantities) - min(quantities) > 900


@pytest.mark.parametrize(
    ("tick", "lot"), [(1, 1), (100, 1), (500, 10), (2_500, 7), (100, 1000), (300_000, 5000)]
)
def test_prices_and_quantities_keep_to_the_grid(tick: int, lot: int) -> None:
    for order in _orders(tick=tick, lot=lot):
        assert order.price % tick == 0
        assert order.quantity % lot == 0
        assert order.quantity > 0


def test_a_coarse_grid_does_not_turn_a_limit_order_into_a_market_order() -> None:
    prices = [order.price for order in _orders(last=200_000, tick=10_000_000)]
    assert 0.4 < prices.count(0) / TURNS < 0.6
    assert set(prices) == {0, 10_000_000}


def test_it_trades_for_each_of_its_owners() -> None:
    owners = Counter(order.owner for order in _orders(owners=[1, 2]))
    assert set(owners) == {1, 2}
    assert all(count > TURNS / 3 for count in owners.values())


def test_it_never_cancels_unless_told_to() -> None:
    """`_orders` finds one order in each turn, and nothing else."""
    assert len(list(_orders())) == TURNS


def test_told_to_it_cancels_all_of_its_owner_about_once_in_so_many_turns() -> None:
    trader = RandomTrader(owners=[7, 8], clear_turns=50)
    desk = _desk()
    clears: Counter[int] = Counter()
    for _ in range(TURNS):
        trader.on_timer(desk)
        *before, order = desk.take_commands()
        assert isinstance(order, NewOrder)
        assert before in ([], [CancelAll(ticker="intc", owner=order.owner)])
        clears[order.owner] += len(before)
    assert set(clears) == {7, 8}
    assert TURNS / 50 * 0.7 < clears.total() < TURNS / 50 * 1.3


def test_the_same_seed_makes_the_same_orders() -> None:
    assert list(_orders()) == list(_orders())


def test_a_desk_hands_over_each_command_once_and_in_order() -> None:
    desk = _desk()
    desk.buy(10, 1_000_000, owner=7, stop=1_010_000, tif=TimeInForce.DAY)
    desk.sell(5, owner=8)
    desk.cancel(3, owner=7)
    desk.cancel_all(owner=8)
    assert desk.take_commands() == [
        NewOrder(
            ticker="intc",
            owner=7,
            side=Side.BUY,
            quantity=10,
            price=1_000_000,
            stop=1_010_000,
            tif=TimeInForce.DAY,
        ),
        NewOrder(ticker="intc", owner=8, side=Side.SELL, quantity=5),
        Cancel(ticker="intc", owner=7, oid=3),
        CancelAll(ticker="intc", owner=8),
    ]
    assert desk.take_commands() == []


def test_orders_are_printed_as_the_robot_of_2010_did() -> None:
    desk = _desk()
    desk.buy(600, owner=0)
    desk.sell(9, 998_700, owner=4, stop=1_000_000)
    desk.cancel(12, owner=4)
    desk.cancel_all(owner=4)
    assert [describe(command) for command in desk.take_commands()] == [
        "0:buy 600@0",
        "4:sell 9@99.87/100.00",
        "4:del 12",
        "4:del all",
    ]
