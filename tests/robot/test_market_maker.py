"""The market maker, with the market in the test's hand: prices in ten-thousandths, tick 0.01."""

import random
from collections.abc import Iterator

import pytest

from matching.order import Cancel, NewOrder, Phase, Side, Status
from robot.strategy import Desk, Level, MarketMaker, OwnOrder, describe


def _desk(
    *,
    bid: int = 999_000,
    ask: int = 1_001_000,
    last: int = 1_000_000,
    position: int = 0,
    lot: int = 1,
    tick: int = 100,
) -> Desk:
    desk = Desk(ticker="intc", tick=tick, lot=lot, last=last, dice=random.Random(1), owner=7)
    desk.bids = [Level(bid, 50, 1)] if bid else []
    desk.asks = [Level(ask, 50, 1)] if ask else []
    desk.position = position
    return desk


def _order(oid: int, side: Side, price: int, remaining: int = 100) -> OwnOrder:
    return OwnOrder(
        oid=oid,
        client_id=f"bot-{oid}",
        side=side,
        price=price,
        stop=0,
        quantity=100,
        filled=100 - remaining,
        remaining=remaining,
        status=Status.OPEN,
    )


def _quotes(desk: Desk, **maker: int | float) -> list[str]:
    MarketMaker(**maker).on_book(desk)  # type: ignore[arg-type]
    return [describe(command) for command in desk.take_commands()]


@pytest.mark.parametrize(
    ("bid", "ask", "last", "quotes"),
    [
        (999_000, 1_001_000, 1_500_000, ["7:buy 100@99.90", "7:sell 100@100.10"]),
        (1_999_000, 2_001_000, 1_500_000, ["7:buy 100@199.80", "7:sell 100@200.20"]),
        (0, 0, 1_500_000, ["7:buy 100@149.85", "7:sell 100@150.15"]),
        (990_000, 0, 1_000_000, ["7:buy 100@99.90", "7:sell 100@100.10"]),
        (1_010_000, 0, 1_000_000, ["7:buy 100@100.90", "7:sell 100@101.12"]),
        (0, 990_000, 1_000_000, ["7:buy 100@98.89", "7:sell 100@99.09"]),
    ],
)
def test_it_quotes_both_sides_around_the_middle(
    bid: int, ask: int, last: int, quotes: list[str]
) -> None:
    assert _quotes(_desk(bid=bid, ask=ask, last=last)) == quotes


def test_its_orders_wait_or_are_refused() -> None:
    desk = _desk()
    MarketMaker().on_book(desk)
    assert all(isinstance(order, NewOrder) and order.post for order in desk.take_commands())


@pytest.mark.parametrize(
    ("position", "quotes"),
    [
        (500, ["7:buy 100@99.85", "7:sell 100@100.05"]),
        (-500, ["7:buy 100@99.95", "7:sell 100@100.15"]),
        (970, ["7:buy 30@99.80", "7:sell 100@100.01"]),
        (1_000, ["7:sell 100@100.00"]),
        (2_500, ["7:sell 100@100.00"]),
        (-1_000, ["7:buy 100@100.00"]),
    ],
)
def test_the_more_it_holds_the_lower_it_quotes_and_never_beyond_its_limit(
    position: int, quotes: list[str]
) -> None:
    assert _quotes(_desk(position=position)) == quotes


def test_prices_and_quantities_keep_to_the_grid() -> None:
    quotes = _quotes(_desk(tick=2_500, lot=7, bid=1_000_000, ask=1_002_500))
    assert quotes == ["7:buy 98@99.75", "7:sell 98@100.50"]
    assert _quotes(_desk(lot=1_000)) == []


@pytest.mark.parametrize(
    ("price", "remaining", "is_kept"),
    [
        (999_000, 100, True),
        (999_300, 100, True),
        (998_700, 100, True),
        (999_400, 100, False),
        (998_600, 100, False),
        (999_000, 50, True),
        (999_000, 49, False),
    ],
)
def test_a_quote_stays_until_it_is_off_or_mostly_filled(
    price: int, remaining: int, is_kept: bool
) -> None:
    desk = _desk(bid=990_000, ask=1_010_000)
    desk.orders = {
        3: _order(3, Side.BUY, price, remaining),
        4: _order(4, Side.SELL, 1_001_000),
    }
    assert _quotes(desk) == ([] if is_kept else ["7:del 3"])


def test_a_quote_that_the_limit_forbids_goes() -> None:
    desk = _desk(position=950)
    desk.orders = {3: _order(3, Side.BUY, 998_000), 4: _order(4, Side.SELL, 1_000_100)}
    assert _quotes(desk) == ["7:del 3"]


def test_a_second_quote_on_a_side_goes_with_the_first() -> None:
    desk = _desk(bid=990_000, ask=1_010_000)
    desk.orders = {oid: _order(oid, Side.BUY, 999_000) for oid in (3, 5)}
    assert _quotes(desk) == ["7:del 3", "7:del 5", "7:sell 100@100.10"]


def test_it_does_not_follow_its_own_quotes() -> None:
    desk = _desk()
    desk.orders = {3: _order(3, Side.BUY, 999_800), 4: _order(4, Side.SELL, 1_001_900)}
    desk.bids = [Level(999_800, 100, 1), Level(999_000, 5, 1)]
    desk.asks = [Level(1_001_000, 5, 1), Level(1_001_900, 100, 1)]
    assert _quotes(desk) == ["7:del 3", "7:del 4"]
    desk.bids = [Level(999_800, 101, 2), Level(999_000, 5, 1)]  # another stands beside it
    assert _quotes(desk, distance=0.0006) == ["7:del 4"]


@pytest.mark.parametrize("phase", [Phase.HALTED, Phase.CLOSED])
def test_it_quotes_only_while_there_is_trading(phase: Phase) -> None:
    desk = _desk()
    desk.phase = phase
    assert _quotes(desk) == []


def _fills(dice: random.Random, desk: Desk, oids: Iterator[int]) -> None:
    """Carry out what is on the desk, with fills of any quote at any time, before it too."""

    orders = dict(desk.orders)
    desk.orders = orders

    def fill_some() -> None:
        for order in list(orders.values()):
            quantity = min(order.remaining, dice.choice((0, 0, 30, 100)))
            desk.position += quantity if order.side is Side.BUY else -quantity
            if quantity < order.remaining:
                rest = order.remaining - quantity
                orders[order.oid] = _order(order.oid, order.side, order.price, rest)
            else:
                del orders[order.oid]

    fill_some()
    for command in desk.take_commands():
        if isinstance(command, Cancel):
            orders.pop(command.oid, None)
        elif isinstance(command, NewOrder):
            oid = next(oids)
            orders[oid] = _order(oid, command.side, command.price, command.quantity)
    fill_some()


@pytest.mark.parametrize("seed", range(10))
def test_the_position_stays_within_the_limit_whatever_fills_and_when(seed: int) -> None:
    dice = random.Random(seed)
    desk = _desk()
    maker = MarketMaker(max_position=250)
    oids = iter(range(1, 100_000))
    positions = set()
    for _ in range(500):
        middle = dice.randrange(900_000, 1_100_000, 100)
        desk.bids, desk.asks = [Level(middle - 500, 9_999, 1)], [Level(middle + 500, 9_999, 1)]
        maker.on_book(desk)
        _fills(dice, desk, oids)
        positions.add(desk.position)
    assert max(positions) <= 250
    assert min(positions) >= -250
    assert len(positions) > 10
