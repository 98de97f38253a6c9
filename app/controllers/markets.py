"""Markets: the platform's lines to the matching servers, two for each product that is served.

One line watches: a venue session subscribed to book, trades and every owner's orders, from which
all browsers are fed. The other trades: a session of its own, so that the watching one is also told
what the platform itself sends, and each browser sees every change of its owner's orders. They are
made again one after the other, in any order: a market is live when both stand, for a browser that
is told so may send an order.

A market whose matching server is away keeps its last state, says so to its browsers, and goes on by
itself when the server is back. Everything here lives on the event loop, and is read on it.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from app.models.db import DatabaseAway
from app.models.intents import Request as OrderRequest
from app.models.products import Product
from matching.client import Away, Client, Refused, Unanswered
from matching.fanout import Fanout, Listener
from matching.marketdata import Feed
from matching.order import HOUSE, Side, format_price, parse_price

CHANNELS = ("book", "trades", "orders")

DEPTH = 200
"""Levels a side that a market knows; browsers may see so many."""

PRODUCTS_SECONDS = 2.0
"""How often the list of products is read, for what another web server registered or changed."""

KEY_RETRY_SECONDS = 30.0
"""How long to wait when a matching server refuses the venue key: an operator has to act."""

SHOWN_SECONDS = 1.0
"""How long an answer may wait for the feed to show what it says."""

GOING_AWAY, SERVICE_RESTART = 1001, 1012
"""WebSocket close codes: the web server stops; the product has changed, come back to it."""

OPEN_STATUSES = frozenset({"pending_stop", "open", "partially_filled"})

JsonObject = dict[str, Any]

log = logging.getLogger("webserver")


class Quote(msgspec.Struct, frozen=True):
    """What the list of products tells of a market; prices in ten-thousandths, None: none yet."""

    is_live: bool
    phase: str
    reference: int
    last: int | None
    bid: int | None
    ask: int | None
    recent: tuple[int, ...]
    """The prices of the last 50 trades, oldest first."""
    volume: int
    """The shares of the last 50 trades."""

    @property
    def value(self) -> int:
        """What a share counts for: the last price, before the first trade the reference price."""
        return self.reference if self.last is None else self.last


class Market:
    """One product as browsers see it."""

    def __init__(
        self, product: Product, *, venue_key: str, on_live: Callable[[], None] | None = None
    ) -> None:
        self.product = product
        self.feed = Feed(reference=product.unit_price)
        self.fanout = Fanout(self.feed)
        self.is_live = False
        self.trading = Client(product.ws_url, ticker=product.name, key=venue_key)
        self.being_sent: dict[tuple[int, OrderRequest], asyncio.Future[Any]] = {}
        """Orders on their way, by owner and request, with what their forms will be answered."""
        self.being_told = asyncio.Lock()
        """Held while the matching server is told the market's rules."""
        self.being_amended: list[int] = []
        """The owners of amends on their way."""
        self.being_flattened: dict[tuple[int, str], asyncio.Future[Any]] = {}
        """Positions that are being closed, by owner and id of the order that is to close them."""
        self._watching = Client(
            product.ws_url, ticker=product.name, key=venue_key, on_message=self._on_message
        )
        self._open_orders: defaultdict[int, dict[int, JsonObject]] = defaultdict(dict)
        self._private: defaultdict[int, set[Listener]] = defaultdict(set)
        self._is_watched = False
        self._takes_orders = False
        self._lineage: str | None = None
        self._on_can_trade = on_live
        self._tasks: list[asyncio.Task[None]] = []
        self._resubscribing: asyncio.Task[None] | None = None

    @property
    def ticker(self) -> str:
        return self.product.name

    @property
    def can_trade(self) -> bool:
        """Whether an order would reach the matching server now."""
        return self.trading.is_connected and self.trading.is_logged_in

    @property
    def lineage(self) -> str | None:
        """The journal to which an order would go now; None before the first connection."""
        return (self.trading.hello or {}).get("lineage")

    def is_sending(self, owner: int, client_id: str) -> bool:
        """Whether an order with this id is on its way from here."""
        return any(
            (owner, client_id) == (sender, request.client_id) for sender, request in self.being_sent
        )

    def start(self) -> None:
        """Connect both lines, and keep them connected."""
        self.fanout.start()
        self._tasks = [
            asyncio.create_task(self._keep(self._watch, self._on_watching_lost)),
            asyncio.create_task(self._keep(self._trade, self._on_trading_lost)),
        ]
        for task in self._tasks:
            task.add_done_callback(self._on_end)

    async def stop(self, *, code: int, reason: str) -> None:
        """Close both lines and all browsers' connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.fanout.stop()
        for listener in list(self.fanout.listeners):
            listener.close(code, reason)

    def quote(self) -> Quote:
        """The market at this moment."""
        bids, asks = self.levels(Side.BUY, 1), self.levels(Side.SELL, 1)
        return Quote(
            is_live=self.is_live,
            phase=self.feed.phase,
            reference=self.feed.reference,
            last=self.feed.last,
            bid=bids[0][0] if bids else None,
            ask=asks[0][0] if asks else None,
            recent=tuple(parse_price(trade["price"]) for trade in self.feed.trades),
            volume=sum(trade["quantity"] for trade in self.feed.trades),
        )

    def levels(self, side: Side, depth: int = DEPTH) -> list[tuple[int, int]]:
        """The shown book's best levels: (price, quantity), best first."""
        return [(price, quantity) for price, (quantity, _) in self.feed.best(side, depth)]

    async def until_shown(self, seq: int) -> None:
        """Wait for the feed, so that the next page shows what an answer with this seq says.

        It comes right behind.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(SHOWN_SECONDS):
                while self._is_watched and self.feed.seq < seq:
                    await asyncio.sleep(0.005)

    # -- browsers

    def upstream(self) -> JsonObject:
        """The message that says whether the matching server is there, for orders too."""
        return {"type": "upstream", "state": "live" if self.is_live else "away"}

    def hello(self) -> JsonObject:
        """What a browser is told first: the matching server's hello, without its nonce."""
        hello = self._watching.hello or {
            "type": "hello",
            "protocol": 1,
            "ticker": self.ticker,
            "tick": format_price(self.product.tick),
            "lot": self.product.lot,
            "reference": format_price(self.product.unit_price),
        }
        return {name: value for name, value in hello.items() if name != "nonce"}

    def orders_of(self, owner: int) -> JsonObject:
        """The `orders` message of one owner: all that are open."""
        orders = self._open_orders.get(owner, {})
        return {"type": "orders", "seq": self.feed.seq, "orders": list(orders.values())}

    def join_private(self, owner: int, listener: Listener) -> None:
        """From now on tell a browser what happens to its owner's orders, from what is open now."""
        self._private[owner].add(listener)
        listener.send(self.orders_of(owner))

    def leave_private(self, owner: int, listener: Listener) -> None:
        """Tell it no more."""
        self._private[owner].discard(listener)
        if not self._private[owner]:
            del self._private[owner]

    def tell_owner(self, owner: int, message: JsonObject) -> None:
        """Send a private message to all browsers of one owner."""
        for listener in self._private.get(owner, ()):
            listener.send(message)

    # -- the matching server

    async def _keep(
        self, follow: Callable[[], Awaitable[None]], on_lost: Callable[[str], None]
    ) -> None:
        """Follow for ever. A server that refuses the venue key is asked again, but rarely."""
        while True:
            try:
                await follow()
            except Refused as refused:
                log.warning("market %s: %s (%s)", self.ticker, refused.message, refused.code)
                on_lost(refused.message)
            await asyncio.sleep(KEY_RETRY_SECONDS)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """A line ends only when it is told to; anything else is a bug, and must not be silent."""
        if not task.cancelled():
            log.error("market %s: a line has ended", self.ticker, exc_info=task.exception())

    async def _watch(self) -> None:
        await self._watching.follow(
            channels=CHANNELS,
            depth=DEPTH,
            on_live=self._on_watching,
            on_away=self._on_watching_lost,
        )

    async def _trade(self) -> None:
        await self.trading.follow(
            channels=(), on_live=self._on_trading, on_away=self._on_trading_lost
        )

    def _on_watching(self) -> None:
        self._is_watched = True
        self._lines_changed()

    def _on_watching_lost(self, reason: str) -> None:
        log.warning("market %s: away, %s", self.ticker, reason)
        self._is_watched = False
        self._lines_changed()

    def _on_trading(self) -> None:
        self._takes_orders = True
        self._lines_changed()
        if self._on_can_trade is not None:
            self._on_can_trade()

    def _on_trading_lost(self, reason: str) -> None:
        log.warning("market %s: orders cannot be sent, %s", self.ticker, reason)
        self._takes_orders = False
        self._lines_changed()

    def _lines_changed(self) -> None:
        """Tell all browsers if the market has come or gone."""
        was_live, self.is_live = self.is_live, self._is_watched and self._takes_orders
        if self.is_live and not was_live:
            log.info("market %s: live, from %s", self.ticker, self.product.ws_url)
        if self.is_live != was_live:
            self._tell_everybody(self.upstream())

    def _on_message(self, message: JsonObject) -> None:
        match message["type"]:
            case "snapshot":
                self._note_journal()
                self.feed.load(message)
                self.fanout.refresh()
            case "update":
                self._update(message)
            case "orders":
                self._load_orders(message["orders"])
            case "order":
                self._on_order(message)

    def _note_journal(self) -> None:
        """Greet all browsers again if the market has begun anew: so have its numbers."""
        lineage = (self._watching.hello or {}).get("lineage")
        if lineage != self._lineage:
            self._lineage = lineage
            self._tell_everybody(self.hello())

    def _update(self, message: JsonObject) -> None:
        try:
            changes = self.feed.update(message)
        except ValueError as gap:
            if self._resubscribing is None or self._resubscribing.done():
                log.warning("market %s: %s; asking for a new snapshot", self.ticker, gap)
                self._resubscribing = asyncio.create_task(self._resubscribe())
            return
        self.fanout.publish(changes)

    async def _resubscribe(self) -> None:
        with suppress(Away, Unanswered):  # then the line is lost, and begins anew with a snapshot
            await self._watching.subscribe(CHANNELS, depth=DEPTH)

    def _load_orders(self, orders: list[JsonObject]) -> None:
        self._open_orders.clear()
        for order in orders:
            self._note(order.pop("owner"), order)
        for owner in self._private:
            self.tell_owner(owner, self.orders_of(owner))

    def _on_order(self, message: JsonObject) -> None:
        owner = message["order"].pop("owner")
        self._note(owner, message["order"])
        self.tell_owner(owner, message)

    def _note(self, owner: int, order: JsonObject) -> None:
        if owner == HOUSE:
            return
        if order["status"] in OPEN_STATUSES:
            self._open_orders[owner][order["oid"]] = order
        else:
            self._open_orders[owner].pop(order["oid"], None)

    def _tell_everybody(self, message: JsonObject) -> None:
        for listener in list(self.fanout.listeners):
            listener.send(message)


class Markets:
    """All markets of the platform, by product; kept in step with the table of products."""

    def __init__(self, venue_key: str) -> None:
        self._venue_key = venue_key
        self._by_product: dict[int, Market] = {}
        self._changed = asyncio.Event()
        self.went_live = asyncio.Event()
        """Set whenever a market can trade again."""
        self.are_known = False
        """Whether the products have been read since the web server started."""

    def __iter__(self) -> Iterator[Market]:
        return iter(list(self._by_product.values()))

    def get(self, product: int) -> Market | None:
        """The market of the product with this id; None if it is not served."""
        return self._by_product.get(product)

    def find(self, ticker: str) -> Market | None:
        """The market of the product with this ticker; None if it is not served."""
        return next((market for market in self if market.ticker == ticker), None)

    def changed(self) -> None:
        """The table of products was changed: look at once."""
        self._changed.set()

    async def follow(self, served_products: Callable[[], Awaitable[list[Product]]]) -> None:
        """Keep a market for each product that is served, until cancelled."""
        try:
            while True:
                self._changed.clear()
                try:
                    await self._sync(await served_products())
                    self.are_known = True
                except DatabaseAway as away:
                    log.warning("products: %s", away)
                with suppress(TimeoutError):
                    async with asyncio.timeout(PRODUCTS_SECONDS):
                        await self._changed.wait()
        finally:
            await asyncio.gather(
                *(market.stop(code=GOING_AWAY, reason="the web server stops") for market in self)
            )

    async def _sync(self, products: list[Product]) -> None:
        wanted = {product.id: product for product in products}
        for key, market in list(self._by_product.items()):
            product = wanted.get(key)
            if product is not None and _same_line(product, market.product):
                market.product = product
                continue
            del self._by_product[key]
            await market.stop(code=SERVICE_RESTART, reason="the product was changed")
        for key in wanted.keys() - self._by_product.keys():
            market = Market(wanted[key], venue_key=self._venue_key, on_live=self.went_live.set)
            self._by_product[key] = market
            market.start()


def _same_line(one: Product, other: Product) -> bool:
    """Whether the same matching server stands behind both forms of a product."""
    return (one.name, one.ws_url) == (other.name, other.ws_url)
