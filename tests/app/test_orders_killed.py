"""A web server that is killed at any moment of an order's way, and what the next one makes of it.

To be killed is to be never resumed: the real coroutine is driven up to its n-th await and then left
as it is, so that no `except` and no `finally` of it runs. Each await is tried twice: with what it
began still on its way, and with it done (a transaction committed, an order answered) and nobody to
take note. What happens inside one transaction is the database's own business.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pytest
from tornado.iostream import IOStream

from app.controllers import amend, orders
from app.controllers.base import Answer, Platform, Problem, Request
from app.controllers.markets import Market
from app.models import intents, portfolio, products
from app.models.accounts import User
from app.models.intents import State
from app.models.products import Product
from matching.client import Away, Client, Refused, Unanswered
from matching.config import Var
from matching.order import Side, TimeInForce
from tests.app.venue import (
    CASH,
    JSON,
    Web,
    make_platform,
    running_log2db,
    running_match,
    running_web,
    wait_until_settled,
)
from tests.database import DATABASES, own_database
from tests.waiting import PATIENCE_SECONDS, free_port, wait_until

T = TypeVar("T")

DEAD = "the process has been killed"

WINDOW_MS = 6_000
"""More than the 5 s in which a command is taken (PROTOCOL §2)."""

IN_DOUBT = {State.RESERVED, State.UNKNOWN}
IS_IN = {State.ACCEPTED, State.JOURNALED}

_left_behind: list[object] = []
"""Coroutines of killed processes: an end of theirs by the garbage collector would run `finally`."""


class Killed:
    """Awaits `work` up to its n-th await, then leaves it there and is DEAD.

    `landed`: what it awaits there comes to pass, and is only never told to it.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], at: int, *, landed: bool) -> None:
        self._work = work
        self._at = at
        self._landed = landed

    def __await__(self) -> Generator[Any, None, Any]:
        steps = self._work.__await__()
        go_on = partial(steps.send, None)
        for count in range(1, self._at + 1):
            try:
                awaited = go_on()
            except StopIteration as end:
                return end.value
            go_on = partial(steps.send, None)
            if count < self._at or self._landed:
                try:
                    yield awaited
                except (Away, Refused, Unanswered) as error:  # what it awaited ended with this
                    go_on = partial(steps.throw, error)
        _left_behind.extend((self._work, steps))
        return DEAD


@dataclass(frozen=True)
class Kind:
    """An order, what it ties up once it is in, and what the exchange says of it."""

    side: Side
    price: str
    ties_up: int
    tif: TimeInForce = TimeInForce.GTC
    error: str = ""

    def form(self, product: Product, client_id: str) -> dict[str, str]:
        fields = {"type": str(self.side), "quantity": "10", "price": self.price}
        return {"product": str(product.id), "id": client_id, "tif": str(self.tif), **fields}


KINDS = {
    "a buy": Kind(Side.BUY, "50", ties_up=5_000_000),
    "a short sell": Kind(Side.SELL, "200", ties_up=20_000_000),
    "a buy that ends at once": Kind(Side.BUY, "40", ties_up=0, tif=TimeInForce.IOC),
    "a buy off the grid": Kind(Side.BUY, "50.005", ties_up=0, error="bad_tick"),
}
"""None of them meets another."""


@dataclass(frozen=True)
class Case:
    """One killed order of a trader who sends no other."""

    kind: Kind
    trader: User
    client_id: str
    killed_at: int
    landed: bool

    def __str__(self) -> str:
        when = "after" if self.landed else "in"
        return f"{self.kind} of {self.trader.username}, killed {when} await {self.killed_at}"


class Venue:
    """One product of a folder and database of the test's own, its server and log2db running."""

    def __init__(self, var: Var, uri: str | None) -> None:
        self.var = var
        self.uri = uri or f"sqlite://{var.database_file}"
        self.product: Product
        self.traders: Iterator[User]

    @asynccontextmanager
    async def platform(self) -> AsyncIterator[tuple[Platform, Market]]:
        """A web server without its reconciler, gone at the end of the block."""
        platform = make_platform(self.var, self.uri, port=0)
        read = platform.transactions.read
        lines = asyncio.create_task(platform.markets.follow(lambda: read(products.served)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (market := platform.markets.get(self.product.id)) is None or not (
                market.can_trade and market.is_live
            ):
                await asyncio.sleep(0.005)
        yield platform, market
        streams = [stream_of(market.trading), stream_of(market._watching)]
        lines.cancel()
        await asyncio.gather(lines, return_exceptions=True)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all(stream.closed() for stream in streams):
                await asyncio.sleep(0.005)
        platform.close()

    def in_journal(self, client_id: str) -> int:
        text = self.var.journal_file(self.product.name).read_text(encoding="ascii")
        return text.count(f" id={client_id} ")


@pytest.fixture(scope="module", params=DATABASES)
def venue(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Venue]:
    var, port = Var(tmp_path_factory.mktemp("var")), free_port()
    with own_database(request.param) as uri:
        venue = Venue(var, uri)
        with running_web(var.root, uri) as web:
            venue.product = web.add_product(
                "intc", by=web.add_user("boss", manager=True), port=port
            )
            venue.traders = iter([web.add_user(f"trader{number}") for number in range(80)])
            with running_match(var, "intc", port), running_log2db(web, "intc"):
                web.stop()
                yield venue


def state_of(web: Web, venue: Venue, owner: User, client_id: str) -> State | None:
    with web.database() as db:
        intent = intents.get(db, owner.id, venue.product.name, client_id)
    return intent.state if intent else None


def available(web: Web, owner: User) -> int:
    with web.database() as db:
        return portfolio.cash(db, owner.id).available


def stream_of(line: Client) -> IOStream:
    """The socket of a line that stands: it closes a moment after the line has ended."""
    assert line._connection is not None
    assert line._connection.protocol is not None
    assert line._connection.protocol.stream is not None
    return line._connection.protocol.stream


def sending(
    platform: Platform, market: Market, owner: User, form: dict[str, str]
) -> Coroutine[Any, Any, Answer]:
    """What POST /default/order runs, once for however many requests that are the same."""
    wanted = orders.read_order(form)
    return orders._reserve_and_send(platform, market, owner.id, wanted, unless_since=None)


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """What a scenario returns; an answer to the dead, which nobody takes, is no error."""

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "never retrieved" not in context["message"]:
            loop.default_exception_handler(context)

    async def reporting() -> T:
        asyncio.get_running_loop().set_exception_handler(report)
        return await scenario

    return asyncio.run(reporting())


async def kill_everywhere(venue: Venue) -> list[Case]:
    """Every kind of order, killed at every await, before and after what it waits for."""
    cases = []
    for kind in KINDS.values():
        for landed in (False, True):
            at, has_completed = 1, False
            while not has_completed:
                case = Case(kind, next(venue.traders), f"web-{len(cases)}", at, landed)
                async with venue.platform() as (platform, market):
                    form = kind.form(venue.product, case.client_id)
                    work = sending(platform, market, case.trader, form)
                    try:
                        end = await Killed(work, at, landed=landed)
                    except Problem:
                        end = None
                has_completed = end != DEAD
                cases.append(case)
                at += 1
    return cases


def test_an_order_whose_web_server_is_killed_anywhere_is_in_once_or_never(venue: Venue) -> None:
    cases = run(kill_everywhere(venue))
    assert max(case.killed_at for case in cases) > 3, "three awaits, and one that completed"
    with running_web(venue.var.root, venue.uri) as web:
        web.wait_until_live(venue.product)
        wait_until_settled(web, "intc")
        for case in cases:  # while nobody knows, what may be in stays paid for
            state = state_of(web, venue, case.trader, case.client_id)
            if state in IN_DOUBT and not venue.in_journal(case.client_id):
                assert available(web, case.trader) < CASH, case
        market = web.platform.markets.get(venue.product.id)
        assert market is not None
        market.trading.clock.offset_ms += WINDOW_MS
        web.run(orders.reconcile(web.platform))
        market.trading.clock.offset_ms -= WINDOW_MS
        for case in cases:
            is_in = venue.in_journal(case.client_id)
            state = state_of(web, venue, case.trader, case.client_id)
            expected: set[State | None] = {*(IS_IN if is_in else (State.NEVER, State.REJECTED))}
            if case.killed_at == 1 and not case.landed:
                expected.add(None)  # before the transaction that stores the intent had begun
            assert is_in <= 1, case
            assert state in expected, case
            tied_up = case.kind.ties_up if is_in else 0
            assert available(web, case.trader) == CASH - tied_up, case
        for case in cases:
            browser = web.browser(case.trader)
            was_in = venue.in_journal(case.client_id)
            for is_known in (bool(was_in), True):
                form = case.kind.form(venue.product, case.client_id)
                answer = browser.post("/default/order", form, JSON)
                if case.kind.error:
                    assert (answer.status, answer.error) == (422, case.kind.error), case
                else:
                    event = "duplicate" if is_known else "accepted"
                    assert answer.json()["events"][0]["event"] == event, case
            assert venue.in_journal(case.client_id) == (not case.kind.error), case
        wait_until_settled(web, "intc")
        for case in cases:
            assert available(web, case.trader) == CASH - case.kind.ties_up, case


def test_a_cancel_whose_web_server_is_killed_has_happened_or_not(venue: Venue) -> None:
    kind = KINDS["a buy"]
    traders = []

    async def kill_cancels() -> None:
        for landed in (False, True):
            at, has_completed = 1, False
            while not has_completed:
                traders.append(trader := next(venue.traders))
                async with venue.platform() as (platform, market):
                    form = kind.form(venue.product, "web-to-cancel")
                    placed = await sending(platform, market, trader, form)
                    work = orders._cancel(canceling(platform, trader, placed))
                    has_completed = await Killed(work, at, landed=landed) != DEAD
                at += 1

    def canceling(platform: Platform, trader: User, placed: Answer) -> Request:
        form = {"product": str(venue.product.id), "oid": str(placed.values["oid"])}
        nothing = dict.fromkeys(("path", "address", "session", "xsrf"), "")
        return Request(
            platform=platform,
            user=trader,
            method="POST",
            query={},
            form=form,
            wants_json=True,
            wants_csv=False,
            **nothing,
        )

    run(kill_cancels())
    with running_web(venue.var.root, venue.uri) as web:
        web.wait_until_live(venue.product)
        wait_until_settled(web, "intc")
        for trader in traders:
            with web.database() as db:
                is_open = bool(portfolio.open_orders(db, trader.id))
            assert available(web, trader) == CASH - (kind.ties_up if is_open else 0)
            form = {"product": venue.product.id, "oid": "all"}
            answer = web.browser(trader).post("/default/delete", form, JSON).json()
            assert len(answer["events"]) == is_open, "to cancel once more does no harm"
        wait_until_settled(web, "intc")
        assert {available(web, trader) for trader in traders} == {CASH}


def test_an_amend_whose_web_server_is_killed_is_paid_for_whatever_became_of_it(
    venue: Venue,
) -> None:
    """Until that is certain as the larger of old and new, and then as what the journal has."""
    kind = KINDS["a buy"]
    amended = {"quantity": "20", "price": "60"}  # 1,200.00 instead of 500.00
    cases: list[tuple[User, int, int, bool, bool]] = []

    async def kill_amends() -> None:
        for landed in (False, True):
            at, has_completed = 1, False
            while not has_completed:
                trader = next(venue.traders)
                async with venue.platform() as (platform, market):
                    form = kind.form(venue.product, "web-to-amend")
                    oid = int((await sending(platform, market, trader, form)).values["oid"])
                    wanted = amend._read({"oid": str(oid), **amended})[1]
                    work = amend._reserve_and_send(platform, market, trader.id, oid, wanted)
                    has_completed = await Killed(work, at, landed=landed) != DEAD
                cases.append((trader, oid, at, landed, has_completed))
                at += 1

    def is_in(trader: User, oid: int) -> bool:
        path = venue.var.journal_file(venue.product.name)
        return f"[{oid}] {trader.id} mod 20@60.00/0" in path.read_text("ascii")

    run(kill_amends())
    assert max(at for _, _, at, _, _ in cases) > 4, "four awaits, and one that completed"
    assert {is_in(trader, oid) for trader, oid, *_ in cases} == {False, True}
    with running_web(venue.var.root, venue.uri) as web:
        web.wait_until_live(venue.product)
        wait_until_settled(web, "intc")
        market = web.platform.markets.get(venue.product.id)
        assert market is not None
        for case in cases:
            trader, _, at, _, _ = case
            if at != 2:  # the await of the transaction: it may have been committed
                expected = 12_000_000 if at > 2 else kind.ties_up
                assert available(web, trader) == CASH - expected, case
        market.trading.clock.offset_ms += WINDOW_MS
        web.run(amend.reconcile(web.platform))
        market.trading.clock.offset_ms -= WINDOW_MS
        for case in cases:
            trader, oid, *_ = case
            expected = CASH - (12_000_000 if is_in(trader, oid) else kind.ties_up)
            wait_until(lambda: available(web, trader) == expected, f"certainty of {case}")  # noqa: B023


def test_a_reconciler_killed_anywhere_leaves_the_rest_to_the_next(venue: Venue) -> None:
    kind = KINDS["a buy"]

    async def scenario() -> None:
        at, has_completed = 1, False
        async with venue.platform() as (platform, market):
            read = platform.transactions.read
            owner = next(venue.traders)
            while not has_completed:
                names = {"in": f"web-in{at}", "lost": f"web-lost{at}"}
                for what, awaits in (("in", 2), ("lost", 1)):
                    form = kind.form(venue.product, names[what])
                    work = sending(platform, market, owner, form)
                    assert await Killed(work, awaits, landed=True) == DEAD
                market.trading.clock.offset_ms += WINDOW_MS
                end = await Killed(orders.reconcile(platform), at, landed=at % 2 == 0)
                has_completed = end != DEAD
                await orders.reconcile(platform)
                market.trading.clock.offset_ms -= WINDOW_MS
                for what, states in (("in", IS_IN), ("lost", {State.NEVER})):
                    known = await read(intents.get, owner.id, market.ticker, names[what])
                    assert known is not None
                    assert known.state in states, (what, at)
                cash = await read(portfolio.cash, owner.id)
                assert cash.available == CASH - at * kind.ties_up
                at += 1
        assert at > 6, "two reads, two finds, the database's seq, two transactions"

    run(scenario())
