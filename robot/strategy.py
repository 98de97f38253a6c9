"""Strategies: what decides a robot's orders. Here a user plugs in an algorithm.

A strategy is a class that takes after `Strategy` and has those of its methods that it needs; the
robot makes it without arguments and calls it when something happens:

    on_timer(desk)                    every so many seconds (`-w`)
    on_book(desk)                     the book or the phase is another one
    on_trade(desk, trade)             somebody traded
    on_order(desk, order, change)     something happened to an order of the strategy
    on_reject(desk, reject)           a command was refused: nothing has changed

It decides with `desk.buy`, `desk.sell`, `desk.cancel` and `desk.cancel_all`. The commands leave
when the method returns, and it is not called again before their answers are there: what it reads
from the desk includes all that it did. It has no socket, clock or dice but those of its `Desk`, so
that a test can replay its every decision.

>>> desk = Desk(ticker="intc", tick=100, lot=1, last=1_000_000, dice=random.Random(3))
>>> RandomTrader(owners=[0]).on_timer(desk)
>>> [describe(command) for command in desk.take_commands()]
['0:buy 607@90.69']
>>> MarketMaker().on_book(desk)
>>> [describe(command) for command in desk.take_commands()]
['0:buy 100@99.90', '0:sell 100@100.10']
"""

import math
import operator
import random
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from matching.order import (
    HOUSE,
    PRICE_SCALE,
    Cancel,
    CancelAll,
    CancelReason,
    NewOrder,
    Phase,
    Side,
    Status,
    TimeInForce,
    format_price,
)

DeskCommand = NewOrder | Cancel | CancelAll
"""What a strategy may order."""

MAX_COMMANDS = 1_000
"""Commands of one call that are sent, as many as one frame takes (PROTOCOL §4)."""


class Level(NamedTuple):
    """A price level of the book: shares and number of orders."""

    price: int
    quantity: int
    orders: int


class PublicTrade(msgspec.Struct, frozen=True):
    """A trade of anybody; `taker` None: it has none. A gap in `tid` tells that some are missing."""

    tid: int
    price: int
    quantity: int
    taker: Side | None


class OwnOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order of the strategy, as it stands; price 0: at the market, stop 0: none."""

    oid: int
    client_id: str
    side: Side
    price: int
    stop: int
    quantity: int
    filled: int
    remaining: int
    status: Status

    @property
    def is_open(self) -> bool:
        """Whether it may still trade."""
        return self.remaining > 0


class What(StrEnum):
    """What may happen to an order; all but `recovered` are events of PROTOCOL §4."""

    ACCEPTED = "accepted"
    TRADE = "trade"
    CANCELED = "canceled"
    TRIGGERED = "triggered"
    AMENDED = "amended"
    DECREMENTED = "decremented"
    RECOVERED = "recovered"
    """The connection was lost and is there again: the order as it stands now, whatever happened."""


class Change(msgspec.Struct, frozen=True):
    """What happened to an order: to how many shares, at which price, for which reason."""

    what: What
    quantity: int = 0
    price: int = 0
    reason: CancelReason | None = None


class Reject(msgspec.Struct, frozen=True):
    """A command that changed nothing: a code and a sentence of PROTOCOL §3, and the rule if any.

    The robot has three codes of its own: `away` (the server was away, nothing was sent), `lost`
    (sent, but not carried out before the connection was lost) and `flood` (more than it sends).
    """

    command: DeskCommand
    code: str
    message: str
    rule: str = ""


class Desk:
    """A strategy's view of its product and its orders, and where it puts its commands.

    Every price (`tick`, `last` and those of levels and orders) is an integer of ten-thousandths:
    `matching.order.parse_price("50.25")` makes one. Quantities are multiples of `lot`.
    """

    __slots__ = (
        "_commands",
        "_first_too_many",
        "_id_prefix",
        "_ids",
        "asks",
        "bids",
        "dice",
        "last",
        "lot",
        "orders",
        "owner",
        "phase",
        "position",
        "tick",
        "ticker",
    )

    def __init__(
        self,
        *,
        ticker: str,
        tick: int,
        lot: int,
        last: int,
        dice: random.Random,
        owner: int = HOUSE,
        id_prefix: str = "",
    ) -> None:
        self.ticker = ticker
        self.tick = tick
        self.lot = lot
        self.last = last
        """The last price; before the first trade, the reference price."""
        self.dice = dice
        """Seeded by `--seed`."""
        self.owner = owner
        self.phase = Phase.CONTINUOUS
        self.bids: Sequence[Level] = ()
        """The best 50 levels, best first; `asks` too."""
        self.asks: Sequence[Level] = ()
        self.orders: Mapping[int, OwnOrder] = {}
        """The strategy's open orders, by oid."""
        self.position = 0
        """The owner's shares, bought less sold. The house has no account: what this robot did."""
        self._id_prefix = id_prefix
        self._ids = 0
        self._commands: list[DeskCommand] = []
        self._first_too_many: DeskCommand | None = None

    def buy(
        self,
        quantity: int,
        price: int = 0,
        *,
        owner: int | None = None,
        stop: int = 0,
        tif: TimeInForce = TimeInForce.GTC,
        post: bool = False,
    ) -> str:
        """Buy, at the market or up to a price; the order goes out when the strategy returns.

        The id by which `on_order` and `on_reject` will know it; "" where the robot gives none.
        """
        return self._order(Side.BUY, quantity, price, owner, stop, tif, post)

    def sell(
        self,
        quantity: int,
        price: int = 0,
        *,
        owner: int | None = None,
        stop: int = 0,
        tif: TimeInForce = TimeInForce.GTC,
        post: bool = False,
    ) -> str:
        """Sell, at the market or down to a price; else as `buy`."""
        return self._order(Side.SELL, quantity, price, owner, stop, tif, post)

    def cancel(self, oid: int, *, owner: int | None = None) -> None:
        """Cancel an open order."""
        self._put(Cancel(ticker=self.ticker, owner=self._owner(owner), oid=_whole("oid", oid)))

    def cancel_all(self, *, owner: int | None = None) -> None:
        """Cancel every open order of the owner in this product, whoever sent it."""
        self._put(CancelAll(ticker=self.ticker, owner=self._owner(owner)))

    def take_commands(self) -> list[DeskCommand]:
        """What was put on the desk since the last call, oldest first; the desk is empty then."""
        commands, self._commands = self._commands, []
        return commands

    def take_first_too_many(self) -> DeskCommand | None:
        """The first command beyond MAX_COMMANDS since the last call; those are not kept."""
        first, self._first_too_many = self._first_too_many, None
        return first

    def _order(
        self,
        side: Side,
        quantity: int,
        price: int,
        owner: int | None,
        stop: int,
        tif: TimeInForce,
        post: bool,
    ) -> str:
        client_id = ""
        if self._id_prefix:
            self._ids += 1
            client_id = f"{self._id_prefix}{self._ids}"
        order = NewOrder(
            ticker=self.ticker,
            owner=self._owner(owner),
            side=side,
            quantity=_whole("quantity", quantity),
            price=_whole("price", price),
            stop=_whole("stop", stop),
            client_id=client_id,
            tif=TimeInForce(tif),
            post=post,
        )
        self._put(order)
        return client_id

    def _put(self, command: DeskCommand) -> None:
        if len(self._commands) < MAX_COMMANDS:
            self._commands.append(command)
        elif self._first_too_many is None:
            self._first_too_many = command

    def _owner(self, owner: int | None) -> int:
        return self.owner if owner is None else owner


class Strategy:
    """What the robot calls; a strategy overrides what it needs."""

    def on_timer(self, desk: Desk) -> None:
        """Time has passed."""

    def on_book(self, desk: Desk) -> None:
        """The book, or the phase of trading, is another one. Many changes may come as one call."""

    def on_trade(self, desk: Desk, trade: PublicTrade) -> None:
        """Somebody traded."""

    def on_order(self, desk: Desk, order: OwnOrder, change: Change) -> None:
        """`change` happened to an order of the strategy, which then stood as `order` says."""

    def on_reject(self, desk: Desk, reject: Reject) -> None:
        """A command was refused."""


class RandomTrader(Strategy):
    """The random trader of 2010: one of four orders with equal chance, for one of its owners.

    Buy or sell, at the market or with a limit |N(0, 10)| away from the last price, on the side
    where it waits. A buy that would come to 20 or less goes to 20 + |N(0, 20)| instead, a sell that
    would come to 180 or more to 180 − |N(0, 20)|: so the price wanders between the two. Quantities
    are 1 to 1,000.

    It never canceled, so what did not trade piled up. With `clear_turns` it first cancels all
    orders of its owner, about once in so many turns.
    """

    LOWEST = 20.0
    HIGHEST = 180.0
    LARGEST_QUANTITY = 1000

    def __init__(self, *, owners: Sequence[int], clear_turns: int = 0) -> None:
        self._owners = owners
        self._clear_turns = clear_turns

    def on_timer(self, desk: Desk) -> None:
        dice = desk.dice
        owner = dice.choice(self._owners)
        if self._clear_turns and dice.randrange(self._clear_turns) == 0:
            desk.cancel_all(owner=owner)
        lots = dice.randint(1, max(1, self.LARGEST_QUANTITY // desk.lot))
        quantity = lots * desk.lot
        last = desk.last / PRICE_SCALE
        match dice.choice(("buy market", "buy limit", "sell market", "sell limit")):
            case "buy market":
                desk.buy(quantity, owner=owner)
            case "buy limit":
                desk.buy(quantity, _on_grid(self._buy_limit(last, dice), desk.tick), owner=owner)
            case "sell market":
                desk.sell(quantity, owner=owner)
            case "sell limit":
                desk.sell(quantity, _on_grid(self._sell_limit(last, dice), desk.tick), owner=owner)

    def _buy_limit(self, last: float, dice: random.Random) -> float:
        price = last - abs(dice.gauss(0, 10))
        return price if price > self.LOWEST else self.LOWEST + abs(dice.gauss(0, 20))

    def _sell_limit(self, last: float, dice: random.Random) -> float:
        price = last + abs(dice.gauss(0, 10))
        return price if price < self.HIGHEST else self.HIGHEST - abs(dice.gauss(0, 20))


class MarketMaker(Strategy):
    """A market maker: a bid and an ask around the middle of what the others quote.

    The middle is that of the best bid and ask but for its own orders. Both prices stand `distance`
    away from it (a part of it: 0.001 is 0.1%), shifted against the position by up to as much: the
    more it holds, the lower both. A quote stays where it is until its price is off by more than a
    third of the distance, most of it is filled, or the limit forbids it: each new order stands last
    in its queue. Its orders are `post`: they wait, or are refused.

    The position stays within ±`max_position`, even if both quotes fill at once: so a new quote is
    placed only when the old one is known to be gone.
    """

    def __init__(
        self, *, quantity: int = 100, distance: float = 0.001, max_position: int = 1_000
    ) -> None:
        self._quantity = quantity
        self._distance = distance
        self._max_position = max_position

    def on_timer(self, desk: Desk) -> None:
        self._quote(desk)

    def on_book(self, desk: Desk) -> None:
        self._quote(desk)

    def on_order(self, desk: Desk, order: OwnOrder, change: Change) -> None:
        self._quote(desk)

    def _quote(self, desk: Desk) -> None:
        if desk.phase is not Phase.CONTINUOUS:
            return
        middle = self._middle(desk)
        distance = max(desk.tick, round(middle * self._distance))
        shift = distance * max(-1.0, min(1.0, desk.position / self._max_position))
        bid = math.floor((middle - distance - shift) / desk.tick) * desk.tick
        ask = math.ceil((middle + distance - shift) / desk.tick) * desk.tick
        tolerance = distance // 3
        self._keep(desk, Side.BUY, bid, self._max_position - desk.position, tolerance)
        self._keep(desk, Side.SELL, ask, self._max_position + desk.position, tolerance)

    def _keep(self, desk: Desk, side: Side, price: int, room: int, tolerance: int) -> None:
        """Keep the quote of a side if it is good enough; else cancel it, or place a new one."""
        quotes = [order for order in desk.orders.values() if order.side is side]
        quantity = min(self._quantity, room) // desk.lot * desk.lot
        if not quotes and quantity > 0 and price > 0:
            place = desk.buy if side is Side.BUY else desk.sell
            place(quantity, price, post=True)
        for order in quotes:
            is_near = abs(order.price - price) <= tolerance
            is_enough = 2 * order.remaining >= quantity
            if len(quotes) > 1 or not is_near or not is_enough or order.remaining > room:
                desk.cancel(order.oid)

    @staticmethod
    def _middle(desk: Desk) -> int:
        """What the others quote around; with a side missing, the last price, if they allow it."""
        bid = _best_of_others(desk, desk.bids, Side.BUY)
        ask = _best_of_others(desk, desk.asks, Side.SELL)
        if bid and ask:
            return (bid + ask) // 2
        if bid:
            return max(desk.last, bid + desk.tick)
        return min(desk.last, ask - desk.tick) if ask else desk.last


def _best_of_others(desk: Desk, levels: Sequence[Level], side: Side) -> int:
    """The best price at which others than the strategy quote; 0 if none."""
    for level in levels:
        own = sum(
            order.remaining
            for order in desk.orders.values()
            if order.side is side and order.price == level.price
        )
        if level.quantity > own:
            return level.price
    return 0


def describe(command: DeskCommand) -> str:
    """A command as the robot of 2010 prints it: `0:buy 600@0`, the ticker left out."""
    match command:
        case NewOrder():
            price = format_price(command.price) if command.price else "0"
            stop = f"/{format_price(command.stop)}" if command.stop else ""
            return f"{command.owner}:{command.side} {command.quantity}@{price}{stop}"
        case Cancel():
            return f"{command.owner}:del {command.oid}"
        case CancelAll():
            return f"{command.owner}:del all"


def _whole(name: str, number: int) -> int:
    """A number as an int; TypeError in the strategy's own line if it is a float or a text."""
    try:
        return operator.index(number)
    except TypeError as error:
        hint = " of ten-thousandths" if name != "quantity" and name != "oid" else ""
        raise TypeError(f"{name} {number!r} is not an integer{hint}") from error


def _on_grid(price: float, tick: int) -> int:
    """The multiple of `tick` nearest to a price in units of currency; at least one tick."""
    return max(1, round(price * PRICE_SCALE / tick)) * tick
