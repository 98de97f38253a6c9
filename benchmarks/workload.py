"""Order flow for the benchmarks: seeded, the same commands everywhere, in mixes of three sizes.

A mix first fills the book, then draws operations: a passive limit order, a cancel of a random open
order, an order that takes (half of them limits a little through the best price, half market
orders), or a move of a resting order, which is two commands, a cancel and a new order. Prices
follow a middle that drifts. The engine itself is the generator's book, so every command is
accepted; that it answers rightly is for the yardstick's trades to confirm.

>>> flow = generate(MIXES["small"], operations=100)
>>> len(flow.filling), len(flow.operations)
(1000, 100)
>>> flow.operations[:20] == generate(MIXES["small"], operations=20).operations
True
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matching.engine import Engine
from matching.events import Accepted, Canceled, Event, Trade
from matching.order import Cancel, Command, NewOrder, Side

TICKER = "bench"
TICK = 100
OWNERS = 200
"""A class; any of them may be the one that a command comes from."""
LARGEST_QUANTITY = 1_000
START = 100_000
"""The middle's first price, in ticks; it stays within a tenth of it."""


@dataclass(frozen=True)
class Mix:
    """How a flow is drawn. The shares of adds, cancels, takes and moves add up to 1.

    `levels`: passive prices are spread evenly over so many ticks a side; 0: exponentially, 60 ticks
    from the middle on average. `hold`: adds and cancels are steered to keep `resting` orders.
    """

    name: str
    seed: int
    resting: int
    operations: int
    adds: float
    cancels: float
    takes: float
    levels: int = 0
    hold: bool = False


MIXES = {
    mix.name: mix
    for mix in (
        Mix("main", 1, 10_000, 200_000, adds=0.60, cancels=0.25, takes=0.10),
        Mix("small", 2, 1_000, 20_000, adds=0.425, cancels=0.425, takes=0.10, levels=50, hold=True),
        Mix(
            "large",
            seed=3,
            resting=100_000,
            operations=20_000,
            adds=0.425,
            cancels=0.425,
            takes=0.10,
            levels=5_000,
            hold=True,
        ),
    )
}


@dataclass
class Flow:
    """The commands that fill the book, then operations of one or two commands each."""

    filling: list[Command] = field(default_factory=list)
    operations: list[tuple[Command, ...]] = field(default_factory=list)


def generate(mix: Mix, *, operations: int | None = None, owners: int = OWNERS) -> Flow:
    """The mix's flow, or its first `operations` of them."""
    return _Generator(mix, owners).generate(mix.operations if operations is None else operations)


class _Generator:
    """Draws one flow, keeping the book it leads to."""

    def __init__(self, mix: Mix, owners: int) -> None:
        self._mix = mix
        self._owners = owners
        self._dice = random.Random(mix.seed)
        self._engine = Engine(TICKER, tick=TICK)
        self._open: list[tuple[int, int]] = []
        self._quantities: dict[int, int] = {}  # what is open of each order that is
        self._middle = float(START)

    def generate(self, operations: int) -> Flow:
        flow = Flow()
        for _ in range(self._mix.resting):
            flow.filling += self._add()
        for _ in range(operations):
            self._drift()
            flow.operations.append(tuple(self._draw()()))
        return flow

    def _drift(self) -> None:
        if not self._mix.levels:
            self._middle += self._dice.gauss(0, 0.5)
            self._middle = min(max(self._middle, START * 0.9), START * 1.1)
        elif self._dice.random() < 0.002:
            self._middle = START + self._dice.randrange(-3, 4)

    def _draw(self) -> Callable[[], list[Command]]:
        mix = self._mix
        adds, passive = mix.adds, mix.adds + mix.cancels
        if mix.hold:
            adds = passive * (0.75 if self._resting() < mix.resting else 0.25)
        roll = self._dice.random()
        if roll < adds:
            return self._add
        if roll < passive:
            return self._cancel
        if roll < passive + mix.takes:
            return self._take
        return self._move

    def _resting(self) -> int:
        return len(self._quantities)

    def _add(self) -> list[Command]:
        side = self._side()
        return [self._enter(side, self._passive_price(side))]

    def _cancel(self) -> list[Command]:
        return [self._cancel_one()[0]]

    def _take(self) -> list[Command]:
        side = self._side()
        book = self._engine.book
        best = book.best_ask if side is Side.BUY else book.best_bid
        if best is None or self._dice.random() < 0.5:
            return [self._enter(side, 0)]
        through = self._dice.randrange(4) * TICK
        return [self._enter(side, best + (through if side is Side.BUY else -through))]

    def _move(self) -> list[Command]:
        cancel, side = self._cancel_one()
        return [cancel, self._enter(side, self._passive_price(side))]

    def _side(self) -> Side:
        return Side.BUY if self._dice.random() < 0.5 else Side.SELL

    def _passive_price(self, side: Side) -> int:
        """A price of the side near the middle that does not reach the other side."""
        book, middle = self._engine.book, int(self._middle)
        if side is Side.BUY:
            ticks, ask = middle - 1 - self._offset(), book.best_ask
            if ask is not None and ticks * TICK >= ask:
                ticks = ask // TICK - 1 - self._offset() // 8
        else:
            ticks, bid = middle + 1 + self._offset(), book.best_bid
            if bid is not None and ticks * TICK <= bid:
                ticks = bid // TICK + 1 + self._offset() // 8
        return ticks * TICK

    def _offset(self) -> int:
        if self._mix.levels:
            return self._dice.randrange(self._mix.levels)
        return min(1_000, int(self._dice.expovariate(1 / 60)))

    def _enter(self, side: Side, price: int) -> Command:
        command = NewOrder(
            ticker=TICKER,
            owner=self._dice.randint(1, self._owners),
            side=side,
            quantity=self._dice.randint(1, LARGEST_QUANTITY),
            price=price,
        )
        events = self._engine.apply(command, at=0)
        accepted = events[0]
        assert isinstance(accepted, Accepted), accepted
        self._quantities[accepted.oid] = command.quantity
        self._note(events)
        if accepted.oid in self._quantities:
            self._open.append((accepted.oid, command.owner))
        return command

    def _note(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Trade):
                for oid in (event.buy_oid, event.sell_oid):
                    self._quantities[oid] -= event.quantity
                    if not self._quantities[oid]:
                        del self._quantities[oid]
            elif isinstance(event, Canceled):
                del self._quantities[event.oid]

    def _cancel_one(self) -> tuple[Command, Side]:
        """Cancel a random open order; those that have traded since are dropped on the way."""
        while True:
            index = self._dice.randrange(len(self._open))
            self._open[index], self._open[-1] = self._open[-1], self._open[index]
            oid, owner = self._open.pop()
            if oid in self._quantities:
                order = self._engine.order(oid)
                assert order is not None, f"order #{oid} is open"
                command = Cancel(ticker=TICKER, owner=owner, oid=oid)
                self._note(self._engine.apply(command, at=0))
                return command, order.side
