"""The house: what it posts and cancels at a quote, and how it keeps its levels in a market."""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from app.models import products
from app.models.products import Product
from matching import config
from matching.client import Answer, Away, Client, Refused, Unanswered
from matching.order import HOUSE, Cancel, NewOrder, Phase, Side, format_price
from scripts import house
from scripts.house import House, OpenOrder, Quote, mend
from tests.processes import Process
from tests.waiting import PATIENCE_SECONDS, free_port


def _product(*, tick: int = 100, lot: int = 1, port: int = 9123) -> Product:
    return Product(
        id=1,
        name="intc",
        description="",
        unit_price=1_000_000,
        tick=tick,
        lot=lot,
        active=True,
        allow_short=True,
        **products.urls(port),
    )


def _quote(
    *,
    bid: int | None = None,
    ask: int | None = None,
    last: int | None = None,
    reference: int = 1_000_000,
    phase: Phase = Phase.CONTINUOUS,
) -> Quote:
    return Quote(phase=phase, bid=bid, ask=ask, last=last, reference=reference)


class Levels:
    """The house's open orders, as its own commands and trades in the test's hand leave them."""

    def __init__(self, product: Product | None = None) -> None:
        self.product = product or _product()
        self.orders: list[OpenOrder] = []
        self._ids = (f"demo-{number}" for number in count(1))
        self._oids = count(1)

    def mend(self, quote: Quote) -> list[Cancel | NewOrder]:
        commands = mend(quote, self.orders, product=self.product, ids=self._ids)
        for command in commands:
            if isinstance(command, Cancel):
                (order,) = [order for order in self.orders if order.oid == command.oid]
                self.orders.remove(order)
            else:
                self.orders.append(
                    OpenOrder(next(self._oids), command.side, command.price, command.quantity)
                )
        return commands

    def take(self, side: Side, shares: int) -> None:
        """Somebody trades with the best of a side: by price, then by time."""
        away = -1 if side is Side.BUY else 1
        queue = [order for order in self.orders if order.side is side]
        for order in sorted(queue, key=lambda order: (order.price * away, order.oid)):
            taken = min(shares, order.remaining)
            shares -= taken
            place = self.orders.index(order)
            left = order._replace(remaining=order.remaining - taken)
            self.orders[place : place + 1] = [left] if left.remaining else []

    def shares(self, side: Side) -> Counter[int]:
        """Price → open shares."""
        shares: Counter[int] = Counter()
        for order in self.orders:
            if order.side is side:
                shares[order.price] += order.remaining
        return shares

    def prices(self, side: Side) -> list[int]:
        """Best first."""
        return sorted(self.shares(side), reverse=side is Side.BUY)

    def quote(self, last: int | None = None) -> Quote:
        """The market, if there are no orders but the house's."""
        bids, asks = self.prices(Side.BUY), self.prices(Side.SELL)
        return _quote(bid=bids[0] if bids else None, ask=asks[0] if asks else None, last=last)

    def texts(self, side: Side) -> str:
        return " ".join(format_price(price) for price in self.prices(side))


def test_an_empty_market_gets_ten_levels_a_side_around_the_reference_price() -> None:
    levels = Levels()
    levels.mend(_quote())
    assert levels.texts(Side.BUY) == "99.70 99.40 99.11 98.81 98.51 98.22 97.92 97.63 97.34 97.05"
    assert levels.texts(Side.SELL) == (
        "100.30 100.60 100.90 101.21 101.51 101.81 102.12 102.43 102.73 103.04"
    )


@pytest.mark.parametrize(
    ("tick", "lot", "reference", "quantity"),
    [
        (100, 1, 1_000_000, 500),
        (2_500, 7, 1_235_000, 497),
        (1, 10, 300, 500),
        (100, 1000, 100_000, 1000),
    ],
)
def test_its_orders_are_the_houses_on_the_grid_and_never_take(
    tick: int, lot: int, reference: int, quantity: int
) -> None:
    commands = Levels(_product(tick=tick, lot=lot)).mend(_quote(reference=reference))
    assert len(commands) == 20
    assert (
        len({(order.side, order.price) for order in commands if isinstance(order, NewOrder)}) == 20
    )
    for order in commands:
        assert isinstance(order, NewOrder)
        assert (order.ticker, order.owner, order.post) == ("intc", HOUSE, True)
        assert order.price % tick == 0
        assert order.price > 0
        assert (order.price < reference) == (order.side is Side.BUY)
        assert order.quantity == quantity


def test_where_prices_end_there_are_fewer_levels_to_buy_at() -> None:
    levels = Levels()
    levels.mend(_quote(reference=300))
    assert levels.texts(Side.BUY) == "0.02 0.01"
    assert len(levels.prices(Side.SELL)) == 10
    assert levels.mend(levels.quote(last=300)._replace(reference=300)) == []


def test_where_all_levels_are_there_it_does_nothing() -> None:
    levels = Levels()
    levels.mend(_quote())
    assert levels.mend(levels.quote()) == []


@pytest.mark.parametrize(("taken", "quantity"), [(1, None), (250, None), (251, 251), (499, 499)])
def test_a_level_that_is_down_to_less_than_half_is_filled_up(
    taken: int, quantity: int | None
) -> None:
    levels = Levels()
    levels.mend(_quote())
    levels.take(Side.SELL, taken)
    commands = levels.mend(levels.quote())
    filled = [order.quantity for order in commands if isinstance(order, NewOrder)]
    assert filled == ([] if quantity is None else [quantity])


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("taken", [1, 2, 5, 9])
def test_levels_that_were_traded_away_come_back_and_the_price_has_moved(
    side: Side, taken: int
) -> None:
    levels = Levels()
    levels.mend(_quote())
    before = levels.quote().middle
    levels.take(side, 500 * taken)
    levels.mend(levels.quote())
    after = levels.quote()
    assert len(levels.prices(Side.BUY)) >= 10
    assert len(levels.prices(Side.SELL)) >= 10
    assert after.bid is not None
    assert after.ask is not None
    assert after.ask - after.bid < 0.0065 * before
    if taken > 1:
        assert (after.middle > before) == (side is Side.SELL)


@pytest.mark.parametrize(
    ("bid", "ask", "last", "middle"),
    [
        ("99", "101", "99", "100"),
        (None, None, None, "100"),
        (None, None, "120", "120"),
        ("99", None, "120", "120"),
        ("99", None, "80", "99"),
        (None, "101", "80", "80"),
        (None, "101", "120", "101"),
        ("101", None, None, "101"),
    ],
)
def test_the_middle_of_a_market(
    bid: str | None, ask: str | None, last: str | None, middle: str
) -> None:
    def price(text: str | None) -> int | None:
        return None if text is None else int(text) * 10_000

    assert _quote(bid=price(bid), ask=price(ask), last=price(last)).middle == price(middle)


def test_what_the_price_has_left_behind_is_canceled_and_what_is_near_stays() -> None:
    levels = Levels()
    levels.mend(_quote())
    old = levels.prices(Side.BUY)
    commands = levels.mend(_quote(last=1_015_000))
    assert not any(isinstance(command, Cancel) for command in commands)
    assert set(old) < set(levels.prices(Side.BUY))
    commands = levels.mend(_quote(last=1_200_000))
    canceled = [command for command in commands if isinstance(command, Cancel)]
    assert len(canceled) == len(levels.prices(Side.BUY)) + 5
    assert not set(old) & set(levels.prices(Side.BUY))
    assert commands[: len(canceled)] == canceled


def test_a_price_that_goes_to_and_fro_moves_no_order() -> None:
    levels = Levels()
    levels.mend(_quote())
    for last in (1_004_000, 996_000):
        levels.mend(_quote(last=last))
    for last in (1_000_000, 1_004_000, 996_000, 1_002_000, 998_500):
        assert levels.mend(_quote(last=last)) == []


def test_however_the_price_wanders_there_are_ten_levels_a_side_and_never_many_more() -> None:
    levels = Levels()
    levels.mend(_quote())
    dice = random.Random(1)
    middles = []
    commands = 0
    for _ in range(3000):
        levels.take(dice.choice(list(Side)), dice.randint(1, 2000))
        commands += len(levels.mend(levels.quote()))
        assert levels.prices(Side.BUY)[0] < levels.prices(Side.SELL)[0]
        for side in Side:
            assert 10 <= len(levels.prices(side)) <= 16, side
            assert sum(order.side is side for order in levels.orders) <= 2 * 16
            assert all(levels.shares(side)[price] >= 250 for price in levels.prices(side)[1:10])
        middles.append(levels.quote().middle)
    assert max(middles) - min(middles) > 100_000
    assert commands / 3000 < 8


@pytest.mark.parametrize("phase", [Phase.AUCTION, Phase.HALTED, Phase.CLOSED])
def test_while_the_market_is_not_continuous_it_waits(phase: Phase) -> None:
    assert Levels().mend(_quote(phase=phase)) == []


class Venue:
    """A matching server with a house in it, and a session of the venue beside that."""

    def __init__(self, var: Path) -> None:
        self._var = config.Var(var)
        self._port = free_port()
        self._key = config.load_venue_key(self._var)
        self._server = self._start()
        self._looks = 0
        self.session = Client(self._product.ws_url, ticker="intc", key=self._key)

    @property
    def _product(self) -> Product:
        return _product(port=self._port)

    def _start(self) -> Process:
        server = Process(
            *("-m", "matching.matchingserver", "-p", str(self._port), "-t", "intc"),
            var=self._var.root,
        )
        server.wait_for_line("listening on")
        return server

    @asynccontextmanager
    async def house(self) -> AsyncIterator[House]:
        """A new house, which keeps its levels until the end of the block."""
        client = Client(
            self._product.ws_url, ticker="intc", key=self._key, on_message=self._on_message
        )
        house = House(self._product, client)
        works = [
            asyncio.ensure_future(client.follow(channels=("trades",))),
            asyncio.ensure_future(house.keep()),
            asyncio.ensure_future(self.session.follow(channels=())),
        ]
        try:
            await eventually(self.has_its_levels, "ten levels a side")
            yield house
        finally:
            for work in works:
                work.cancel()
            ends = await asyncio.gather(*works, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends

    def _on_message(self, message: Answer) -> None:
        self._looks += message["type"] == "snapshot"

    def restart(self) -> None:
        self.end()
        self._server = self._start()

    def end(self) -> None:
        self._server.end()

    async def levels(self) -> Counter[str]:
        """side → how many levels the house has; orders without an id are not its own."""
        answer = await self.session.open_orders(owner=HOUSE)
        orders = [order for order in answer["orders"] if order["id"]]
        assert len(orders) <= 2 * 2 * 16
        return Counter(side for side, _ in {(order["side"], order["price"]) for order in orders})

    async def has_its_levels(self) -> bool:
        try:
            levels = await self.levels()
        except (Away, Refused, Unanswered):  # not there yet, or not logged in
            return False
        return levels["buy"] >= 10 and levels["sell"] >= 10

    async def more_looks(self) -> None:
        """Wait until the house has acted on what it sees now: until it looks for the third time."""
        seen = self._looks

        async def has_looked() -> bool:
            return self._looks >= seen + 3

        await eventually(has_looked, "the house's next looks")

    def ids(self) -> list[str]:
        """The client order ids in the journal."""
        return re.findall(r" id=(\S+)", self._var.journal_file("intc").read_text())


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not await condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


@pytest.fixture
def venue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Venue]:
    monkeypatch.setattr(house, "LOOK_SECONDS", 0.05)
    venue = Venue(tmp_path)
    yield venue
    venue.end()


def test_what_traders_take_it_posts_again_also_after_a_restart_of_the_server(venue: Venue) -> None:
    async def scenario() -> None:
        async with venue.house():
            for _ in range(2):
                for side in ("buy", "sell"):
                    answer = await venue.session.send(f"7:{side} 100000")
                    assert answer["filled"] >= 5000
                    await eventually(venue.has_its_levels, f"ten levels a side after a {side}")
                venue.restart()
                await eventually(venue.has_its_levels, "the levels after a restart")

    asyncio.run(scenario())
    ids = venue.ids()
    assert len(ids) >= 20 + 4 * 10
    assert len(set(ids)) == len(ids)


def test_another_house_goes_on_with_what_the_first_one_left(venue: Venue) -> None:
    async def scenario() -> None:
        for _ in range(2):
            async with venue.house():
                await venue.more_looks()
                assert await venue.levels() == {"buy": 10, "sell": 10}
                assert len(venue.ids()) == 20
        async with venue.house():
            await venue.session.send("7:buy 100000")
            await eventually(venue.has_its_levels, "ten levels a side")

    asyncio.run(scenario())
    runs = {name.rpartition("-")[0] for name in venue.ids()}
    assert len(runs) == 2  # so no id comes twice (R14)


def test_it_leaves_orders_alone_that_are_not_its_own(venue: Venue) -> None:
    async def scenario() -> None:
        async with venue.house():
            far = [await venue.session.send(f"{owner}:buy 10@20.00") for owner in (HOUSE, 7)]
            await venue.more_looks()
            for answer in far:
                found = await venue.session.find(oid=answer["oid"])
                assert found["order"]["status"] == "open"

    asyncio.run(scenario())


def test_in_a_halted_market_it_waits_until_that_goes_on(venue: Venue) -> None:
    async def scenario() -> None:
        async with venue.house():
            await venue.session.send("phase intc halted")
            await venue.session.send("del all")
            await venue.more_looks()
            assert await venue.levels() == {}
            await venue.session.send("phase intc continuous")
            await eventually(venue.has_its_levels, "ten levels a side")

    asyncio.run(scenario())
