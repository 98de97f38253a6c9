"""Strategies: what decides a robot's orders. Here a user plugs in an algorithm.

A strategy is called when something happens and puts its orders on the `Desk`; it has no socket,
clock or dice but those it is handed, so that a test can replay its every decision. The robot calls

    on_timer(desk)      every so many seconds (`-w`)

and sends, after each call, what the strategy has put on the desk.

>>> desk = Desk(ticker="intc", tick=100, lot=1, last=1_000_000)
>>> RandomTrader(owners=[0], dice=random.Random(3)).on_timer(desk)
>>> [describe(command) for command in desk.take_commands()]
['0:buy 607@90.69']
"""

import random
from collections.abc import Sequence
from typing import Protocol

from matching.order import (
    PRICE_SCALE,
    Cancel,
    CancelAll,
    NewOrder,
    Side,
    TimeInForce,
    format_price,
)

DeskCommand = NewOrder | Cancel | CancelAll
"""What a strategy may order."""


class Desk:
    """A strategy's view of its product, and where it puts its orders.

    `last` (the last price, before the first trade the reference price), `tick` and every price are
    integers of ten-thousandths; quantities are multiples of `lot`. Price 0 means a market order.
    """

    __slots__ = ("_commands", "last", "lot", "tick", "ticker")

    def __init__(self, *, ticker: str, tick: int, lot: int, last: int) -> None:
        self.ticker = ticker
        self.tick = tick
        self.lot = lot
        self.last = last
        self._commands: list[DeskCommand] = []

    def buy(
        self,
        quantity: int,
        price: int = 0,
        *,
        owner: int,
        stop: int = 0,
        tif: TimeInForce = TimeInForce.GTC,
        post: bool = False,
    ) -> None:
        """Buy for an owner; the order goes out when the strategy returns."""
        self._order(Side.BUY, quantity, price, owner, stop, tif, post)

    def sell(
        self,
        quantity: int,
        price: int = 0,
        *,
        owner: int,
        stop: int = 0,
        tif: TimeInForce = TimeInForce.GTC,
        post: bool = False,
    ) -> None:
        """Sell for an owner; the order goes out when the strategy returns."""
        self._order(Side.SELL, quantity, price, owner, stop, tif, post)

    def cancel(self, oid: int, *, owner: int) -> None:
        """Cancel an open order of an owner."""
        self._commands.append(Cancel(ticker=self.ticker, owner=owner, oid=oid))

    def cancel_all(self, *, owner: int) -> None:
        """Cancel every open order of an owner in this product."""
        self._commands.append(CancelAll(ticker=self.ticker, owner=owner))

    def take_commands(self) -> list[DeskCommand]:
        """What was put on the desk since the last call, oldest first; the desk is empty then."""
        commands, self._commands = self._commands, []
        return commands

    def _order(
        self,
        side: Side,
        quantity: int,
        price: int,
        owner: int,
        stop: int,
        tif: TimeInForce,
        post: bool,
    ) -> None:
        order = NewOrder(
            ticker=self.ticker,
            owner=owner,
            side=side,
            quantity=quantity,
            price=price,
            stop=stop,
            tif=tif,
            post=post,
        )
        self._commands.append(order)


class Strategy(Protocol):
    """What a robot asks of a strategy."""

    def on_timer(self, desk: Desk) -> None:
        """Time has passed; `desk` shows the market as it is now."""


class RandomTrader:
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

    def __init__(self, *, owners: Sequence[int], dice: random.Random, clear_turns: int = 0) -> None:
        self._owners = owners
        self._dice = dice
        self._clear_turns = clear_turns

    def on_timer(self, desk: Desk) -> None:
        owner = self._dice.choice(self._owners)
        if self._clear_turns and self._dice.randrange(self._clear_turns) == 0:
            desk.cancel_all(owner=owner)
        lots = self._dice.randint(1, max(1, self.LARGEST_QUANTITY // desk.lot))
        quantity = lots * desk.lot
        last = desk.last / PRICE_SCALE
        match self._dice.choice(("buy market", "buy limit", "sell market", "sell limit")):
            case "buy market":
                desk.buy(quantity, owner=owner)
            case "buy limit":
                desk.buy(quantity, _on_grid(self._buy_limit(last), desk.tick), owner=owner)
            case "sell market":
                desk.sell(quantity, owner=owner)
            case "sell limit":
                desk.sell(quantity, _on_grid(self._sell_limit(last), desk.tick), owner=owner)

    def _buy_limit(self, last: float) -> float:
        price = last - self._distance(10)
        return price if price > self.LOWEST else self.LOWEST + self._distance(20)

    def _sell_limit(self, last: float) -> float:
        price = last + self._distance(10)
        return price if price < self.HIGHEST else self.HIGHEST - self._distance(20)

    def _distance(self, spread: float) -> float:
        return abs(self._dice.gauss(0, spread))


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


def _on_grid(price: float, tick: int) -> int:
    """The multiple of `tick` nearest to a price in units of currency; at least one tick."""
    return max(1, round(price * PRICE_SCALE / tick)) * tick
