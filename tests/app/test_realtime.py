"""The live feed as browsers get it: what is public, what is private, servers that go and come."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from app.controllers import realtime
from app.controllers.markets import Markets
from app.models.accounts import User
from app.models.products import Product
from matching.client import Client
from tests.app.venue import JSON, Browser, Web, running_match
from tests.processes import Process
from tests.waiting import PATIENCE_SECONDS, free_port, wait_until

NUMBERS = itertools.count(1)

Message = dict[str, Any]


class Watch:
    """A browser's open connection; it remembers what it was told."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self.connection = connection
        self.heard: list[Message] = []
        self.is_closed = False
        self.taken = 0

    async def next(self) -> Message | None:
        """The next message; None once the connection is closed."""
        text = await asyncio.wait_for(self.connection.read_message(), PATIENCE_SECONDS)
        if text is None:
            self.is_closed = True
            return None
        message: Message = json.loads(text)
        self.heard.append(message)
        return message

    async def until(self, kind: str, condition: Callable[[Message], Any] = bool) -> Message:
        """The next message of a kind that meets a condition; what comes before is passed over."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                message = await self.next()
                assert message is not None, f"closed before {kind}: {self.connection.close_code}"
                if message["type"] == kind and condition(message):
                    return message

    async def newest(self, *kinds: str) -> list[Message]:
        """The newest message of each kind since the last call, in whatever order they come."""
        start = self.taken
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = {message["type"]: message for message in self.heard[start:]}
                if found.keys() >= set(kinds):
                    self.taken = len(self.heard)
                    return [found[kind] for kind in kinds]
                await self.next()

    async def closed(self) -> int | None:
        """The code with which the server closes, once it has."""
        while not self.is_closed:
            await self.next()
        return self.connection.close_code

    def send(self, **message: object) -> None:
        self.connection.write_message(json.dumps(message))


@asynccontextmanager
async def watching(
    web: Web, ticker: str, browser: Browser | None = None, **headers: str
) -> AsyncIterator[Watch]:
    cookies = browser.cookies if browser is not None else {}
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    url = f"ws://127.0.0.1:{web.port}/realtime/{ticker}"
    connection = await websocket_connect(HTTPRequest(url, headers={"Cookie": cookie, **headers}))
    watch = Watch(connection)
    try:
        yield watch
    finally:
        connection.close()
        await watch.closed()


@pytest.fixture
def server(web: Web, request: pytest.FixtureRequest) -> Iterator[Process]:
    with running_match(web.var, f"r{next(NUMBERS)}", free_port()) as server:
        yield server


@pytest.fixture
def product(web: Web, manager: User, server: Process) -> Product:
    port, ticker = int(server.arguments[3]), server.arguments[5]
    product = web.add_product(ticker, by=manager, port=port)
    web.wait_until_live(product)
    return product


@pytest.fixture(scope="module")
def other(web: Web) -> User:
    return web.add_user("trader2")


def place(browser: Browser, product: Product, side: str, quantity: int, price: str) -> None:
    form = {"product": product.id, "type": side, "quantity": quantity, "price": price}
    answer = browser.post("/default/order", form, JSON)
    assert answer.status == 200, answer.text
    market, seq = browser.web.platform.markets.get(product.id), answer.json()["seq"]
    assert market is not None
    wait_until(lambda: market.feed.seq >= seq, "the feed to show the order")


async def placed(browser: Browser, product: Product, side: str, quantity: int, price: str) -> None:
    """An order that has been placed and is shown; meanwhile the test's loop goes on."""
    await asyncio.to_thread(place, browser, product, side, quantity, price)


def test_a_stranger_is_told_the_public_state_and_every_change(
    web: Web, product: Product, trader: User, other: User
) -> None:
    async def scenario() -> None:
        await placed(web.browser(trader), product, "sell", 100, "101")
        async with watching(web, product.name) as watch:
            hello = await watch.next()
            assert hello is not None
            assert hello["type"] == "hello"
            assert (hello["ticker"], hello["tick"], hello["lot"]) == (product.name, "0.01", 1)
            assert "nonce" not in hello
            assert (await watch.until("upstream"))["state"] == "live"
            snapshot = await watch.until("snapshot")
            assert snapshot["asks"] == [["101.00", 100, 1]]
            await placed(web.browser(other), product, "buy", 60, "101")
            update = await watch.until("update", lambda message: message["trades"])
            assert update["prev"] >= snapshot["seq"]
            assert update["last"] == "101.00"
            assert update["asks"] == [["101.00", 40, 1]]
            assert update["trades"][0]["quantity"] == 60
            heartbeat = await watch.until("heartbeat")
            assert heartbeat["seq"] >= update["seq"]
            assert not {"order", "orders"} & {message["type"] for message in watch.heard}

    asyncio.run(scenario())


def test_traders_are_told_of_their_own_orders_and_of_nobody_elses(
    web: Web, product: Product, trader: User, other: User
) -> None:
    async def scenario() -> None:
        mine, theirs = web.browser(trader), web.browser(other)
        await placed(mine, product, "buy", 100, "99")
        await placed(theirs, product, "buy", 5, "98")
        async with watching(web, product.name, mine) as watch:
            orders = await watch.until("orders")
            assert [(order["oid"], order["remaining"]) for order in orders["orders"]] == [(1, 100)]
            await placed(mine, product, "sell", 7, "105")
            accepted = await watch.until("order")
            assert accepted["event"] == {"event": "accepted", "oid": 3}
            assert accepted["order"]["side"] == "sell"
            await placed(theirs, product, "sell", 60, "99")
            traded = await watch.until("order")
            assert (traded["order"]["oid"], traded["order"]["filled"]) == (1, 60)
            await placed(theirs, product, "sell", 40, "99")
            filled = await watch.until("order")
            assert (filled["order"]["oid"], filled["order"]["status"]) == (1, "filled")
            assert "owner" not in json.dumps(watch.heard)
        async with watching(web, product.name, mine) as watch:
            assert [order["oid"] for order in (await watch.until("orders"))["orders"]] == [3]

    asyncio.run(scenario())


def test_every_browser_of_a_trader_is_told(web: Web, product: Product, trader: User) -> None:
    async def scenario() -> None:
        browser = web.browser(trader)
        async with (
            watching(web, product.name, browser) as one,
            watching(web, product.name, web.browser(trader)) as two,
        ):
            for watch in (one, two):
                await watch.until("orders")
            await placed(browser, product, "buy", 1, "50")
            assert (await one.until("order"))["order"]["oid"] == 1
            assert (await two.until("order"))["order"]["oid"] == 1

    asyncio.run(scenario())


def test_all_browsers_are_fed_from_one_line_and_orders_go_by_another(
    web: Web, product: Product, server: Process
) -> None:
    async def scenario() -> None:
        async with (
            watching(web, product.name) as one,
            watching(web, product.name) as two,
            watching(web, product.name) as three,
        ):
            for watch in (one, two, three):
                await watch.until("snapshot")

    asyncio.run(scenario())
    assert server.output.count("client connected via websocket") == 2


def test_browsers_are_told_when_the_matching_server_goes_and_comes_back(
    web: Web, product: Product, server: Process, trader: User
) -> None:
    async def scenario() -> None:
        browser = web.browser(trader)
        await placed(browser, product, "buy", 10, "99")
        async with watching(web, product.name, browser) as watch:
            await watch.newest("snapshot", "orders", "upstream")
            await asyncio.to_thread(server.kill)
            await watch.until("upstream", lambda message: message["state"] == "away")
            await watch.newest("upstream")
            async with watching(web, product.name, browser) as late:
                await late.until("upstream", lambda message: message["state"] == "away")
            with running_match(web.var, product.name, product.port):
                told = await watch.newest("snapshot", "orders", "upstream")
                assert told[0]["bids"] == [["99.00", 10, 1]]
                assert [order["oid"] for order in told[1]["orders"]] == [1]
                assert told[2]["state"] == "live"

    asyncio.run(scenario())


def test_a_market_to_which_no_order_can_be_sent_is_not_said_to_be_live(
    web: Web, product: Product, trader: User
) -> None:
    async def scenario() -> None:
        market = web.platform.markets.find(product.name)
        assert market is not None
        browser, there = web.browser(trader), market.trading.url
        async with watching(web, product.name, browser) as watch:
            assert (await watch.until("upstream"))["state"] == "live"
            # The line that watches stands all the time.
            market.trading.url = f"ws://127.0.0.1:{free_port()}/realtime"
            await asyncio.to_thread(web.run, market.trading.close())
            assert (await watch.until("upstream"))["state"] == "away"
            async with watching(web, product.name, browser) as late:
                assert (await late.until("upstream"))["state"] == "away"
                assert "snapshot" not in {message["type"] for message in late.heard}
            assert market.quote().is_live is False
            market.trading.url = there
            assert (await watch.until("upstream"))["state"] == "live"
            await placed(browser, product, "buy", 10, "99")

    asyncio.run(scenario())


def test_a_line_that_sends_counts_once_all_of_it_stands(web: Web, product: Product) -> None:
    """It is connected and logged in a moment earlier, and may be lost in that moment."""

    async def scenario() -> None:
        market = web.platform.markets.find(product.name)
        assert market is not None

        async def come_back_watching_only() -> None:
            market._on_trading_lost("the connection is lost")
            market._on_watching()
            assert market.can_trade

        async def stand() -> None:
            market._on_trading()

        async with watching(web, product.name) as watch:
            assert (await watch.until("upstream"))["state"] == "live"
            await asyncio.to_thread(web.run, come_back_watching_only())
            assert (await watch.until("upstream"))["state"] == "away"
            await asyncio.to_thread(web.run, stand())
            assert (await watch.until("upstream"))["state"] == "live"

    asyncio.run(scenario())


def test_an_order_that_ended_while_the_line_was_down_is_shown_no_more(
    web: Web, product: Product, server: Process, trader: User
) -> None:
    async def scenario() -> None:
        browser = web.browser(trader)
        await placed(browser, product, "buy", 10, "99")
        async with watching(web, product.name, browser) as watch:
            assert len((await watch.until("orders"))["orders"]) == 1
            await asyncio.to_thread(server.kill)
            await watch.until("upstream", lambda message: message["state"] == "away")
            with running_match(web.var, product.name, elsewhere := free_port()):
                client = Client(
                    f"ws://127.0.0.1:{elsewhere}/realtime", ticker=product.name, key=web.venue_key
                )
                await client.connect()
                assert (await client.send(f"{trader.id}:del {product.name} 1"))["oid"] == 1
                await client.close()
            with running_match(web.var, product.name, product.port):
                assert (await watch.until("orders"))["orders"] == []

    asyncio.run(scenario())


def test_a_message_missed_from_the_matching_server_brings_a_new_snapshot(
    web: Web, product: Product, trader: User
) -> None:
    async def scenario() -> None:
        market = web.platform.markets.find(product.name)
        assert market is not None
        async with watching(web, product.name) as watch:
            await watch.until("snapshot")
            market.feed.seq = -1  # as if what came before had been lost
            await placed(web.browser(trader), product, "buy", 3, "99")
            snapshot = await watch.until("snapshot")
            assert snapshot["bids"] == [["99.00", 3, 1]]

    asyncio.run(scenario())


def test_another_site_cannot_listen(web: Web, product: Product, trader: User) -> None:
    async def scenario() -> None:
        for origin in ("http://evil.example", f"http://127.0.0.1:{product.port}", "null"):
            with pytest.raises(HTTPClientError, match="403"):
                async with watching(web, product.name, web.browser(trader), Origin=origin):
                    pass
        own = f"http://127.0.0.1:{web.port}"
        async with watching(web, product.name, web.browser(trader), Origin=own) as watch:
            await watch.until("orders")

    asyncio.run(scenario())


def test_a_product_that_is_not_there_has_no_feed(web: Web) -> None:
    async def scenario() -> None:
        with pytest.raises(HTTPClientError, match="404"):
            async with watching(web, "nothing"):
                pass

    asyncio.run(scenario())


def test_a_browser_chooses_depth_and_channels(web: Web, product: Product, trader: User) -> None:
    async def scenario() -> None:
        browser = web.browser(trader)
        for price in ("97", "98", "99"):
            await placed(browser, product, "buy", 1, price)
        async with watching(web, product.name, browser) as watch:
            await watch.until("orders")
            watch.send(op="subscribe", depth=2, channels=["book"])
            snapshot = await watch.until("snapshot")
            assert [level[0] for level in snapshot["bids"]] == ["99.00", "98.00"]
            assert "trades" not in snapshot
            watch.send(op="subscribe", depth=10**9)
            assert len((await watch.until("snapshot"))["bids"]) == 3
            assert len((await watch.until("orders"))["orders"]) == 3
            watch.send(op="ping", req=7)
            pong = await watch.until("pong")
            assert pong["req"] == 7
            assert pong["time"].endswith("Z")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ("hello", "not a request"),
        ("[]", "not a request"),
        ('{"op":7}', "not a request"),
        ('{"op":"subscribe","depth":"all"}', "not a request"),
        ('{"op":"ping","x":' + 2000 * "[" + 2000 * "]" + "}", "not a request"),
        ('{"op":"send","req":1,"text":"buy 1@50"}', "no op 'send'"),
        ('{"op":"open","req":1}', "no op 'open'"),
    ],
)
def test_what_a_browser_may_not_ask_is_answered_with_a_sentence(
    web: Web, away: Product, frame: str, words: str
) -> None:
    async def scenario() -> None:
        async with watching(web, away.name) as watch:
            watch.connection.write_message(frame)
            answer = await watch.until("answer")
            assert answer["error"]["code"] == "bad_request"
            assert words in answer["error"]["message"]

    wait_until(lambda: web.platform.markets.find(away.name), "the market")
    asyncio.run(scenario())


def test_frames_that_are_too_large_or_binary_end_the_connection(web: Web, away: Product) -> None:
    async def scenario() -> None:
        async with watching(web, away.name) as watch:
            watch.connection.write_message("x" * 5000)
            assert await watch.closed() == 1009
        async with watching(web, away.name) as watch:
            watch.connection.write_message(b"{}", binary=True)
            assert await watch.closed() == 1003

    wait_until(lambda: web.platform.markets.find(away.name), "the market")
    asyncio.run(scenario())


def test_who_logs_out_is_told_no_more(
    web: Web, away: Product, trader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "SESSION_CHECK_SECONDS", 0.02)

    async def scenario() -> None:
        browser = web.browser(trader)
        async with watching(web, away.name, browser) as watch:
            await watch.until("orders")
            cookies = dict(browser.cookies)
            await asyncio.to_thread(browser.post, "/default/user/logout")
            assert await watch.closed() == realtime.LOGGED_OUT
        browser.cookies = cookies
        async with watching(web, away.name, browser) as watch:
            await watch.until("heartbeat")
            assert "orders" not in {message["type"] for message in watch.heard}

    wait_until(lambda: web.platform.markets.find(away.name), "the market")
    asyncio.run(scenario())


def test_a_product_that_moves_takes_its_browsers_along(
    web: Web, product: Product, manager: User
) -> None:
    async def scenario() -> None:
        async with watching(web, product.name) as watch:
            await watch.until("snapshot")
            form = {"name": product.name, "unit_price": "100.00", "port": str(free_port())}
            form |= {"active": "on", "allow_short": "on"}
            browser = web.browser(manager)
            path = f"/default/edit_product/{product.id}"
            answer = await asyncio.to_thread(browser.post, path, form)
            assert answer.status == 303, answer.text
            assert await watch.closed() == 1012
        async with watching(web, product.name) as watch:
            assert (await watch.until("upstream"))["state"] == "away"

    asyncio.run(scenario())


def test_markets_end_when_told_to_also_as_the_products_change() -> None:
    """A web server that is told to stop waits for that."""

    async def no_products() -> list[Product]:
        return []

    async def cancel_after(turns: int) -> bool:
        markets = Markets("key")
        following = asyncio.create_task(markets.follow(no_products))
        for _ in range(5):
            await asyncio.sleep(0)
        markets.changed()
        for _ in range(turns):
            await asyncio.sleep(0)
        following.cancel()
        await asyncio.wait([following], timeout=1)
        is_heeded = following.cancelled()
        following.cancel()
        return is_heeded

    async def scenario() -> list[bool]:
        return [await cancel_after(turns) for turns in range(5)]

    assert asyncio.run(scenario()) == [True] * 5
