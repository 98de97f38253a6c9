"""The order book: which orders wait at which price, the best price and the first comer first (R1).

Each side is a ladder of price levels, each level a queue of orders:

    bids   worst … 50.24   50.25   ← best      best →   50.27   50.30 … worst   asks
                     │       │                            │       │
                    #9      #3 → #7 → #8                 #5      #2 → #6

A level's queue is a doubly linked list through the orders themselves, and an order knows its
level, so that a cancel anywhere in the book unlinks it without a search. A level keeps its quantity
and its number of orders up to date at every change.

| operation | cost (L levels on a side) |
|---|---|
| best price, first order at it, fill, cancel, add at a price that has orders | O(1) |
| add at a new price, remove the last order of a price | O(log L) to find the place |

>>> from matching.order import NewOrder, Side
>>> book = OrderBook()
>>> book.add(Order(1, NewOrder(ticker="intc", owner=7, side=Side.BUY, quantity=100, price=502500)))
>>> book.add(Order(2, NewOrder(ticker="intc", owner=8, side=Side.BUY, quantity=50, price=502500)))
>>> book.levels(Side.BUY, depth=10)
[(502500, 150, 2)]
>>> book.remove(book.orders[1])
>>> book.take_changed_levels()
[(<Side.BUY: 'buy'>, 502500, 50, 1)]
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from matching.order import NewOrder, SelfTrade, Side, Status, TimeInForce, format_price

_BUY = Side.BUY  # CPython 3.11 takes as long to look up `Side.BUY` as to create an event

NO_LIMIT = -(10**18)
"""The key that every level of a ladder is better than: a market order's."""


class Order:
    """An accepted order, from its acceptance to its end: the command, and what became of it.

    `quantity` is its total, of which `open_quantity` has not traded. `stop` is 0 once it has
    triggered (R7). `level`, `previous` and `next` are its place in a queue, and belong to the
    ladder that holds it.
    """

    __slots__ = (
        "canceled",
        "client_id",
        "command",
        "level",
        "next",
        "oid",
        "open_quantity",
        "owner",
        "previous",
        "price",
        "quantity",
        "side",
        "stop",
    )

    def __init__(self, oid: int, command: NewOrder) -> None:
        self.oid = oid
        self.command = command
        self.owner = command.owner
        self.client_id = command.client_id
        self.side = command.side
        self.quantity = self.open_quantity = command.quantity
        self.price = command.price
        self.stop = command.stop
        self.canceled = False
        self.level: Level | None = None
        self.previous: Order | None = None
        self.next: Order | None = None

    @property
    def tif(self) -> TimeInForce:
        return self.command.tif

    @property
    def stp(self) -> SelfTrade:
        return self.command.stp

    @property
    def post(self) -> bool:
        return self.command.post

    @property
    def peak(self) -> int:
        return self.command.peak

    @property
    def cod(self) -> bool:
        return self.command.cod

    @property
    def filled(self) -> int:
        """What has traded."""
        return self.quantity - self.open_quantity

    @property
    def remaining(self) -> int:
        """What can still trade: 0 once the order has ended."""
        return 0 if self.canceled else self.open_quantity

    @property
    def status(self) -> Status:
        if self.canceled:
            return Status.CANCELED
        if self.open_quantity == 0:
            return Status.FILLED
        if self.stop:
            return Status.PENDING_STOP
        if self.open_quantity < self.quantity:
            return Status.PARTIALLY_FILLED
        return Status.OPEN

    def __repr__(self) -> str:
        stop = f"/{format_price(self.stop)}" if self.stop else ""
        return (
            f"#{self.oid} {self.owner}:{self.side} {self.open_quantity} of {self.quantity}"
            f"@{format_price(self.price)}{stop} {self.status}"
        )


class Level:
    """The orders at one price, the first comer first. It is never empty while a ladder holds it.

    `key` is its place in the ladder; `quantity` and `count` are what the market sees, `is_changed`
    whether the market has yet to be told of a change.
    """

    __slots__ = ("count", "first", "is_changed", "key", "last", "price", "quantity")

    def __init__(self, price: int, key: int, order: Order) -> None:
        self.price = price
        self.key = key
        self.first = order
        self.last = order
        self.quantity = order.open_quantity
        self.count = 1
        self.is_changed = False

    def __iter__(self) -> Iterator[Order]:
        order: Order | None = self.first
        while order is not None:
            yield order
            order = order.next


class Ladder:
    """Price levels in order of one side: bids the highest price first, asks the lowest.

    A level's key is its price, negated for asks, so that on both sides a greater key is a better
    price. The best stands last in the list of keys, where Python adds and removes without moving
    the others; most changes happen near it.
    """

    __slots__ = ("_keys", "_levels", "_sign", "best")

    def __init__(self, *, highest_first: bool) -> None:
        self._sign = 1 if highest_first else -1
        self._keys: list[int] = []
        self._levels: dict[int, Level] = {}
        self.best: Level | None = None

    def limit_key(self, price: int) -> int:
        """The least key that an incoming order of this price trades with; price 0 is any."""
        return price * self._sign if price else NO_LIMIT

    def is_reached_by(self, price: int) -> bool:
        """Whether an incoming order of this price has somebody to trade with."""
        best = self.best
        return best is not None and (price == 0 or best.key >= price * self._sign)

    def add(self, order: Order, price: int) -> Level:
        """Queue the order behind all others at the price."""
        key = price * self._sign
        level = self._levels.get(key)
        if level is None:
            order.level = self._levels[key] = level = Level(price, key, order)
            insort(self._keys, key)
            if self.best is None or key > self.best.key:
                self.best = level
            return level
        order.level = level
        order.previous = level.last
        level.last.next = order
        level.last = order
        level.quantity += order.open_quantity
        level.count += 1
        return level

    def remove(self, order: Order) -> Level:
        """Unlink the order from its level; a level without orders goes."""
        level = order.level
        assert level is not None, f"{order!r} is in no queue"
        previous, following = order.previous, order.next
        order.level = order.previous = order.next = None
        level.quantity -= order.open_quantity
        level.count -= 1
        if previous is not None:
            previous.next = following
            if following is not None:
                following.previous = previous
            else:
                level.last = previous
        elif following is not None:
            following.previous = None
            level.first = following
        else:
            self._remove_level(level)
        return level

    def _remove_level(self, level: Level) -> None:
        keys = self._keys
        del self._levels[level.key]
        if level is self.best:
            keys.pop()
            self.best = self._levels[keys[-1]] if keys else None
        else:
            del keys[bisect_left(keys, level.key)]

    def level(self, price: int) -> Level | None:
        return self._levels.get(price * self._sign)

    def __len__(self) -> int:
        """The number of price levels."""
        return len(self._keys)

    def __iter__(self) -> Iterator[Level]:
        """The levels, best first."""
        levels = self._levels
        return (levels[key] for key in reversed(self._keys))

    def check(self) -> None:
        """Assert that keys, levels, queues and totals agree."""
        assert self._keys == sorted(self._levels), self._keys
        assert self.best is (self._levels[self._keys[-1]] if self._keys else None), self.best
        for level in self:
            assert level.key == level.price * self._sign, (level.price, level.key)
            queue = list(level)
            state = f"{format_price(level.price)}: {level.quantity}, {level.count} of {queue}"
            assert level.count == len(queue) > 0, state
            assert level.quantity == sum(order.open_quantity for order in queue), state
            assert all(order.level is level and order.remaining > 0 for order in queue), state
            assert [order.previous for order in queue] == [None, *queue[:-1]], state
            assert level.last is queue[-1], state


class OrderBook:
    """The resting orders of one product: bids, asks, and an index by oid.

    `bids` and `asks` are there to be read; orders come and go by the methods here, which also note
    the levels they change for `take_changed_levels`.
    """

    __slots__ = ("_changed", "asks", "bids", "orders")

    def __init__(self) -> None:
        self.bids = Ladder(highest_first=True)
        self.asks = Ladder(highest_first=False)
        self.orders: dict[int, Order] = {}
        self._changed: list[Level] = []

    def add(self, order: Order) -> None:
        """Rest a limit order behind all others at its price."""
        self.orders[order.oid] = order
        ladder = self.bids if order.side is _BUY else self.asks
        level = ladder.add(order, order.price)
        if not level.is_changed:
            self._note_change(level)

    def remove(self, order: Order) -> None:
        del self.orders[order.oid]
        ladder = self.bids if order.side is _BUY else self.asks
        level = ladder.remove(order)
        if not level.is_changed:
            self._note_change(level)

    def fill(self, order: Order, quantity: int) -> None:
        """So much of a resting order has traded; when nothing is left of it, it leaves the book."""
        level = order.level
        assert level is not None, f"{order!r} does not rest"
        level.quantity -= quantity
        order.open_quantity -= quantity
        if order.open_quantity == 0:
            self.remove(order)
        elif not level.is_changed:
            self._note_change(level)

    def reduce(self, order: Order, quantity: int) -> None:
        """Take so much off a resting order's total; when nothing is open, it leaves the book."""
        order.quantity -= quantity
        self.fill(order, quantity)

    def _note_change(self, level: Level) -> None:
        level.is_changed = True
        self._changed.append(level)

    def side(self, side: Side) -> Ladder:
        return self.bids if side is _BUY else self.asks

    def opposite(self, side: Side) -> Ladder:
        """The ladder that an incoming order of this side trades with."""
        return self.asks if side is _BUY else self.bids

    @property
    def best_bid(self) -> int | None:
        return self.bids.best.price if self.bids.best is not None else None

    @property
    def best_ask(self) -> int | None:
        return self.asks.best.price if self.asks.best is not None else None

    def levels(self, side: Side, depth: int | None = None) -> list[tuple[int, int, int]]:
        """(price, quantity, orders) of the best `depth` levels, best first; None: of all."""
        shown: list[tuple[int, int, int]] = []
        for level in self.side(side):
            if len(shown) == depth:
                break
            shown.append((level.price, level.quantity, level.count))
        return shown

    def take_changed_levels(self) -> list[tuple[Side, int, int, int]]:
        """(side, price, quantity, orders) of every level that changed since this was last asked.

        Bids, then asks, each the best first; quantity and orders are the present ones, 0 where
        the level is gone.
        """
        keys = {level.key for level in self._changed}  # bids' are positive, asks' negative
        for level in self._changed:
            level.is_changed = False
        self._changed.clear()
        return [self._shown(key) for key in sorted(keys, reverse=True)]

    def _shown(self, key: int) -> tuple[Side, int, int, int]:
        side, price = (Side.BUY, key) if key > 0 else (Side.SELL, -key)
        level = self.side(side).level(price)
        return (
            (side, price, level.quantity, level.count) if level is not None else (side, price, 0, 0)
        )

    def check(self) -> None:
        """Assert that both ladders and the index hold the same orders, each on its side."""
        self.bids.check()
        self.asks.check()
        for side in Side:
            for level in self.side(side):
                for order in level:
                    assert order.side is side, f"{order!r} among the {side}s\n{self}"
                    assert order.price == level.price, f"{order!r} at {level.price}\n{self}"
                    assert self.orders.get(order.oid) is order, f"{order!r} not indexed\n{self}"
        queued = sum(level.count for side in Side for level in self.side(side))
        assert len(self.orders) == queued, f"{len(self.orders)} indexed, {queued} queued\n{self}"

    def __str__(self) -> str:
        """`bids 150@50.25 10@50.20; asks -`, best first."""
        return f"bids {_text(self.levels(Side.BUY))}; asks {_text(self.levels(Side.SELL))}"


def _text(levels: list[tuple[int, int, int]]) -> str:
    return " ".join(f"{quantity}@{format_price(price)}" for price, quantity, _ in levels) or "-"


class WaitingStops:
    """Stop orders that no print has elected yet (R7): outside the book, and in no public feed.

    Of the buys the lowest stop is nearest, of the sells the highest; at one stop price they wait
    in order of entry.
    """

    __slots__ = ("_buys", "_sells", "orders")

    def __init__(self) -> None:
        self._buys = Ladder(highest_first=False)
        self._sells = Ladder(highest_first=True)
        self.orders: dict[int, Order] = {}

    def add(self, order: Order) -> None:
        """Let the order wait behind all others at its stop price."""
        self.orders[order.oid] = order
        self._side(order).add(order, order.stop)

    def remove(self, order: Order) -> None:
        del self.orders[order.oid]
        self._side(order).remove(order)

    def take_elected(self, *, low: int, high: int) -> list[Order]:
        """Remove the stops that prints between `low` and `high` elect, in the order they run.

        Nearest stop first, then order of entry; of the next buy and the next sell the lower oid.
        """
        elected: list[Order] = []
        while True:
            buy = self._nearest(self._buys, high)
            sell = self._nearest(self._sells, low)
            if buy is not None and (sell is None or buy.oid < sell.oid):
                order = buy
            elif sell is not None:
                order = sell
            else:
                return elected
            self.remove(order)
            elected.append(order)

    def _nearest(self, ladder: Ladder, print_price: int) -> Order | None:
        level = ladder.best
        if level is None or level.key < ladder.limit_key(print_price):
            return None
        return level.first

    def _side(self, order: Order) -> Ladder:
        return self._buys if order.side is _BUY else self._sells

    def check(self, last: int | None) -> None:
        """Assert that ladders and index agree and, if `last` is given, that it elects none."""
        for side, ladder in ((Side.BUY, self._buys), (Side.SELL, self._sells)):
            ladder.check()
            assert last is None or self._nearest(ladder, last) is None, (last, ladder.best)
            for level in ladder:
                for order in level:
                    assert order.side is side, f"{order!r} among the {side} stops"
                    assert order.stop == level.price, f"{order!r} at {level.price}"
                    assert self.orders.get(order.oid) is order, f"{order!r} not indexed"
        queued = sum(level.count for ladder in (self._buys, self._sells) for level in ladder)
        assert len(self.orders) == queued, f"{len(self.orders)} indexed, {queued} waiting"
