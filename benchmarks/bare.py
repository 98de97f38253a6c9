"""A bare book under measurement: how far Python could go without owners, events and rules.

It matches at price and time, cancels in the same time anywhere, and knows nothing else: no owners,
no grids, no limits, no time in force but that of a limit and a market order, nothing that a market
could be shown. So an order trades with its own owner's too, where the others prevent it (R5), and
a later cancel may find nothing. Its orders are laid out beforehand, like the yardstick's commands.
Timed is `enter` or `cancel` of each, its fills thrown away.
"""

import time
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from benchmarks.contender import Fill, obey, percentile_99
from matching.order import Cancel, Command, NewOrder, Side

NO_LIMIT = -(10**18)
"""Less than the key of any level: how far a market order goes."""


class Resting:
    __slots__ = ("following", "level", "oid", "previous", "quantity")

    def __init__(self, oid: int, quantity: int, level: "Level", previous: "Resting | None") -> None:
        self.oid = oid
        self.quantity = quantity
        self.level = level
        self.previous = previous
        self.following: Resting | None = None


class Level:
    __slots__ = ("first", "key", "last", "price")

    def __init__(self, key: int, price: int) -> None:
        self.key = key
        self.price = price
        self.first: Resting | None = None
        self.last: Resting | None = None


class Ladder:
    """One side: `keys` are prices times `sign`, in order, the best last."""

    __slots__ = ("keys", "levels", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.keys: list[int] = []
        self.levels: dict[int, Level] = {}

    def remove(self, level: Level) -> None:
        del self.levels[level.key]
        del self.keys[bisect_left(self.keys, level.key)]


class BareBook:
    def __init__(self) -> None:
        self.bids = Ladder(1)
        self.asks = Ladder(-1)
        self.orders: dict[int, Resting] = {}

    def enter(self, oid: int, buys: bool, price: int, quantity: int) -> list[Fill]:
        """A limit order, or (price 0) a market order, which never rests."""
        own, opposite = (self.bids, self.asks) if buys else (self.asks, self.bids)
        limit = price * opposite.sign if price else NO_LIMIT
        fills: list[Fill] = []
        while quantity and opposite.keys and opposite.keys[-1] >= limit:
            quantity = self._take(opposite, oid, quantity, fills)
        if quantity and price:
            self._rest(own, oid, price, quantity)
        return fills

    def _take(self, opposite: Ladder, oid: int, quantity: int, fills: list[Fill]) -> int:
        """Trade with the best level; what is missing then."""
        level = opposite.levels[opposite.keys[-1]]
        resting = level.first
        while resting is not None and resting.quantity <= quantity:
            fills.append((resting.oid, oid, level.price, resting.quantity))
            quantity -= resting.quantity
            del self.orders[resting.oid]
            resting = resting.following
        level.first = resting
        if resting is None:
            opposite.remove(level)
            return quantity
        resting.previous = None
        if quantity:
            fills.append((resting.oid, oid, level.price, quantity))
            resting.quantity -= quantity
        return 0

    def _rest(self, own: Ladder, oid: int, price: int, quantity: int) -> None:
        key = price * own.sign
        level = own.levels.get(key)
        if level is None:
            level = own.levels[key] = Level(key, price)
            insort(own.keys, key)
        last = level.last if level.first is not None else None
        order = self.orders[oid] = Resting(oid, quantity, level, last)
        if last is None:
            level.first = order
        else:
            last.following = order
        level.last = order

    def cancel(self, oid: int) -> None:
        order = self.orders.pop(oid, None)
        if order is None:
            return
        level, previous, following = order.level, order.previous, order.following
        if previous is not None:
            previous.following = following
        else:
            level.first = following
        if following is not None:
            following.previous = previous
        else:
            level.last = previous
        if level.first is None:
            (self.bids if level.key > 0 else self.asks).remove(level)


Step = tuple[int, bool, int, int]
"""Order number, whether it buys, price, quantity; quantity 0 cancels."""


class Bare:
    def __init__(self, filling: list[Command], commands: list[Command]) -> None:
        self._oid = 0
        self._filling = [self._prepare(command) for command in filling]
        self._prepared = [self._prepare(command) for command in commands]

    def _prepare(self, command: Command) -> Step:
        if isinstance(command, Cancel):
            return command.oid, False, 0, 0
        assert isinstance(command, NewOrder)
        self._oid += 1
        return self._oid, command.side is Side.BUY, command.price, command.quantity

    def seconds(self) -> float:
        book = self.fill()
        enter, cancel = book.enter, book.cancel
        start = time.process_time()
        for oid, buys, price, quantity in self._prepared:
            if quantity:
                enter(oid, buys, price, quantity)
            else:
                cancel(oid)
        return time.process_time() - start

    def p99(self) -> float:
        book, clock = self.fill(), time.perf_counter_ns
        taken = []
        for step in self._prepared:
            start = clock()
            self._carry_out(book, step)
            taken.append(clock() - start)
        return percentile_99(taken)

    def fills(self) -> Iterator[Fill]:
        book = self.fill()
        for step in self._prepared:
            yield from self._carry_out(book, step)

    def feed(self, commands: Iterable[Command]) -> BareBook:
        """For the protocol; its memory is not asked for."""
        book = BareBook()
        for step in Bare(list(commands), [])._filling:
            self._carry_out(book, step)
        return book

    def resting(self, book: BareBook) -> int:
        return len(book.orders)

    def fill(self) -> BareBook:
        book = BareBook()
        for step in self._filling:
            self._carry_out(book, step)
        return book

    def _carry_out(self, book: BareBook, step: Step) -> list[Fill]:
        oid, buys, price, quantity = step
        if quantity:
            return book.enter(oid, buys, price, quantity)
        book.cancel(oid)
        return []


if __name__ == "__main__":
    obey(Bare)
