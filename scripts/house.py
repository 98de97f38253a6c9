"""The house of the demo: anonymous liquidity, ten price levels a side that stay near the market.

Orders at the market eat one side of a book empty within a minute or two. So every two seconds the
house looks at the market, fills up the levels around it, and cancels the orders that it has left
behind. What is open it asks the server each time and remembers nothing: whichever of the two starts
again, it goes on.

Its prices are the rungs of a ladder that does not move with the market, 0.3 percent apart:

    rung n = the reference price × 1.003ⁿ, on the tick grid

so when the price moves by a level an order or two follow it, and the others stay.

>>> quote = Quote(phase="continuous", bid=999_000, ask=1_001_000, last=None, reference=1_000_000)
>>> list(islice(rungs(quote, Side.BUY, tick=100), 3))
[997000, 994000, 991100]
>>> list(islice(rungs(quote, Side.SELL, tick=100), 3))
[1003000, 1006000, 1009000]
"""

import asyncio
import math
import secrets
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import count, islice
from typing import NamedTuple, Self

from app.models.products import Product
from matching.client import Answer, Away, Client, Refused, Unanswered
from matching.order import HOUSE, Cancel, NewOrder, Phase, Side, parse_price

LEVELS = 10
"""How many levels a side the house keeps."""

KEPT_LEVELS = 15
"""An order within so many levels stays: a price that goes to and fro shall not move any."""

LEVEL_QUANTITY = 500
"""Shares a level, as many as a robot orders on average: so its orders move the price a bit."""

STEP = 0.003

CLEARANCE = STEP / 4
"""A rung so near to the middle of the market belongs to neither side."""

LOOK_SECONDS = 2.0

FIRST_LOOK_SECONDS = 0.1
"""How often the house tries until it is ready: the robots wait for that."""

ID_PREFIX = "demo-"
"""By its client order ids (R14) the house knows its orders from others of owner 0."""


class Quote(NamedTuple):
    """A market as the house sees it; prices in ten-thousandths, None where there is none."""

    phase: str
    bid: int | None
    ask: int | None
    last: int | None
    reference: int

    @classmethod
    def of_snapshot(cls, snapshot: Answer) -> Self:
        """What a `snapshot` message says (PROTOCOL §4)."""
        bids, asks, last = snapshot["bids"], snapshot["asks"], snapshot["last"]
        return cls(
            phase=snapshot["phase"],
            bid=parse_price(bids[0][0]) if bids else None,
            ask=parse_price(asks[0][0]) if asks else None,
            last=parse_price(last) if last is not None else None,
            reference=parse_price(snapshot["reference"]),
        )

    @property
    def middle(self) -> int:
        """Half way from bid to ask; with a side empty the last price, but not beyond the other."""
        if self.bid is not None and self.ask is not None:
            return (self.bid + self.ask) // 2
        price = self.reference if self.last is None else self.last
        if self.bid is not None:
            return max(price, self.bid)
        if self.ask is not None:
            return min(price, self.ask)
        return price


class OpenOrder(NamedTuple):
    """What the house asks of an open order of its own."""

    oid: int
    side: Side
    price: int
    remaining: int


class House:
    """Keeps the house's levels in one product, over a venue session that somebody else holds up.

    `is_ready`: it has posted what it can, and others may begin to trade.
    """

    def __init__(self, product: Product, client: Client) -> None:
        self.is_ready = False
        self._product = product
        self._client = client
        run = secrets.token_hex(6)
        self._ids = (f"{ID_PREFIX}{run}-{number}" for number in count(1))

    async def keep(self) -> None:
        """Look at the market and mend its levels, until cancelled; wait while there is none."""
        while True:
            with suppress(Away, Unanswered, Refused):
                await self._take_turn()
                self.is_ready = True
            await asyncio.sleep(LOOK_SECONDS if self.is_ready else FIRST_LOOK_SECONDS)

    async def _take_turn(self) -> None:
        """Look and mend once. What is refused, as the market has moved meanwhile, waits a turn."""
        if not self._client.is_logged_in:
            raise Away(f"{self._client.url}: there is no session")
        snapshot = await self._client.subscribe(("book", "trades"), depth=1)
        answer = await self._client.open_orders(owner=HOUSE)
        commands = mend(
            Quote.of_snapshot(snapshot),
            [
                OpenOrder(
                    oid=order["oid"],
                    side=Side(order["side"]),
                    price=parse_price(order["price"]),
                    remaining=order["remaining"],
                )
                for order in answer["orders"]
                if (order["id"] or "").startswith(ID_PREFIX)
            ],
            product=self._product,
            ids=self._ids,
        )
        if commands:
            await self._client.send_many(commands)


def mend(
    quote: Quote, open_orders: Collection[OpenOrder], *, product: Product, ids: Iterator[str]
) -> list[Cancel | NewOrder]:
    """What the house does at a quote, given its open orders; nothing while the market is halted.

    Orders that are left behind are canceled; then the nearest levels that are down to less than
    half are filled up. The orders are post-only: the house never takes.
    """
    if quote.phase != Phase.CONTINUOUS:
        return []
    cancels: list[Cancel | NewOrder] = []
    posts: list[Cancel | NewOrder] = []
    full = max(1, LEVEL_QUANTITY // product.lot) * product.lot
    for side in Side:
        kept = list(islice(rungs(quote, side, tick=product.tick), KEPT_LEVELS))
        open_shares: Counter[int] = Counter()
        for order in open_orders:
            if order.side is side:
                open_shares[order.price] += order.remaining
                if kept and (order.price - kept[-1]) * _away(side) > 0:
                    cancels.append(Cancel(ticker=product.name, owner=HOUSE, oid=order.oid))
        posts += [
            NewOrder(
                ticker=product.name,
                owner=HOUSE,
                side=side,
                quantity=full - open_shares[price],
                price=price,
                client_id=next(ids),
                post=True,
            )
            for price in kept[:LEVELS]
            if 2 * open_shares[price] < full
        ]
    return cancels + posts


def rungs(quote: Quote, side: Side, *, tick: int) -> Iterator[int]:
    """The prices of the ladder on one side of the market, nearest first; buys end above 0."""
    middle, away = quote.middle, _away(side)
    nearest = round(math.log(middle / quote.reference) / math.log1p(STEP))
    before = 0
    for rung in count(nearest - away, away):
        price = round(quote.reference * (1 + STEP) ** rung / tick) * tick
        if price <= 0:
            return
        # A coarse tick makes one price of several rungs.
        if price != before and (price - middle) * away >= middle * CLEARANCE:
            yield price
        before = price


def _away(side: Side) -> int:
    """The direction in which a side's prices get worse."""
    return -1 if side is Side.BUY else 1
