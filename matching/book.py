"""The order book: which orders wait at which price, the best price and the first comer first (R1).

Each side holds its price levels in order, each level a queue of orders:

    bids   worst … 50.24   50.25   ← best      best →   50.27   50.30 … worst   asks
                     │       │                            │       │
                    #9      #3 → #7 → #8                 #5      #2 → #6

A level's queue is a doubly linked list through the orders themselves, and an order knows its
level, so that a cancel anywhere in the book unlinks it without a search. A level keeps its quantity
and its number of orders up to date at every change.

| operation | cost (L levels on a side) |
|---|---|
| best price, first order at it, fill, cancel, add at a price that has orders | O(1) |
| add at a new price, remove the last order of a price | O(log L) |

>>> from matching.order import NewOrder, Side
>>> book = OrderBook()
>>> for oid, quantity in ((1, 100), (2, 50)):
...     bid = NewOrder(ticker="intc", owner=7, side=Side.BUY, quantity=quantity, price=502500)
...     book.bids.add(Order(oid, bid))
>>> book.levels(Side.BUY, depth=10)
[(502500, 150, 2)]
>>> book.bids.remove(book.orders[1])
>>> book.take_changed_levels()
[(<Side.BUY: 'buy'>, 502500, 50, 1)]
"""

from collections.abc import Iterator

from sortedcontainers import SortedDict

from matching.order import NewOrder, SelfTrade, Side, Status, TimeInForce, format_price

_BUY = Side.BUY  # CPython 3.11 takes as long to look up `Side.BUY` as to create an event

NO_LIMIT = -(10**18)
"""A key that every level's key is greater than: how far a market order goes."""


class Order:
    """An accepted order, from its acceptance to its end: the command, and what became of it.

    `quantity` is its total, of which `open_quantity` has not traded. `stop` is 0 once it has
    triggered (R7). `level`, `previous` and `next` are its place in the book, and belong to it.
    """

    __slots__ = (
        "canceled",
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
        self.side = command.side
        self.quantity = self.open_quantity = command.quantity
        self.price = command.price
        self.stop = command.stop
        self.canceled = False
        self.level: Level | None = None
        self.previous: Order | None = None
        self.next: Order | None = None

    @property
    def client_id(self) -> str:
        return self.command.client_id

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
    """The orders at one price, the first comer first. It is never empty while the book holds it.

    `key` is its place on its side; `quantity` and `count` are what the market sees; `is_changed`:
    the market has yet to be told of a change.
    """

    __slots__ = ("count", "first", "is_changed", "key", "last", "price", "quantity")

    def __init__(self, key: int, order: Order) -> None:
        self.price = order.price
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


class BookSide:
    """The bids or the asks: price levels in order, the best always at hand.

    A level's key is its price, negated for asks, so that on both sides a greater key is a better
    price. The book hands both sides its index of orders and its set of changed keys.
    """

    __slots__ = ("_changed", "_levels", "_orders", "_sign", "best")

    def __init__(self, *, highest_first: bool, orders: dict[int, Order], changed: set[int]) -> None:
        self._sign = 1 if highest_first else -1
        self._levels = SortedDict()
        self._orders = orders
        self._changed = changed
        self.best: Level | None = None

    def limit_key(self, price: int) -> int:
        """The least key that an incoming order of this price trades with; price 0 is any."""
        return price * self._sign if price else NO_LIMIT

    def is_reached_by(self, price: int) -> bool:
        """Whether an incoming order of this price has somebody to trade with."""
        return self.best is not None and self.best.key >= self.limit_key(price)

    def add(self, order: Order) -> None:
        """Rest a limit order behind all others at its price."""
        self._orders[order.oid] = order
        key = order.price * self._sign
        level = self._levels.get(key)
        if level is None:
            level = self._add_level(key, order)
        else:
            last = level.last
            last.next = order
            order.previous = last
            level.last = order
            level.quantity += order.open_quantity
            level.count += 1
        order.level = level
        if not level.is_changed:
            self._note_change(level)

    def _add_level(self, key: int, order: Order) -> Level:
        level = self._levels[key] = Level(key, order)
        if self.best is None or key > self.best.key:
            self.best = level
        return level

    def remove(self, order: Order) -> None:
        """Take the order out of the book; a level without orders goes."""
        level = order.level
        assert level is not None, f"{order!r} does not rest"
        del self._orders[order.oid]
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
        if not level.is_changed:
            self._note_change(level)

    def _remove_level(self, level: Level) -> None:
        levels = self._levels
        del levels[level.key]
        if level is self.best:
            self.best = levels.peekitem(-1)[1] if levels else None

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
        self._changed.add(level.key)

    def level(self, price: int) -> Level | None:
        level: Level | None = self._levels.get(price * self._sign)
        return level

    def __len__(self) -> int:
        """The number of price levels."""
        return len(self._levels)

    def __iter__(self) -> Iterator[Level]:
        """The levels, best first."""
        return (self._levels[key] for key in reversed(self._levels))

    def check(self) -> None:
        """Assert that keys, levels, queues and totals agree."""
        assert self.best is (self._levels.peekitem(-1)[1] if self._levels else None), self.best
        for level in self:
            queue = list(level)
            state = f"{format_price(level.price)}: {level.quantity}, {level.count} of {queue}"
            assert level.count == len(queue) > 0, state
            assert level.quantity == sum(order.open_quantity for order in queue), state
            assert all(order.level is level and order.remaining > 0 for order in queue), state
            assert all(order.price * self._sign == level.key for order in queue), state
            assert [order.previous for order in queue] == [None, *queue[:-1]], state
            assert level.last is queue[-1], state


class OrderBook:
    """The resting orders of one product: bids, asks, and an index by oid.

    Both sides note the levels they change, for `take_changed_levels`.
    """

    __slots__ = ("_changed", "asks", "bids", "orders")

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self._changed: set[int] = set()
        self.bids = BookSide(highest_first=True, orders=self.orders, changed=self._changed)
        self.asks = BookSide(highest_first=False, orders=self.orders, changed=self._changed)

    def side(self, side: Side) -> BookSide:
        return self.bids if side is _BUY else self.asks

    def opposite(self, side: Side) -> BookSide:
        """The side that an incoming order of this side trades with."""
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
        keys = sorted(self._changed, reverse=True)  # bids' keys are positive, asks' negative
        self._changed.clear()
        return [self._take(Side.BUY if key > 0 else Side.SELL, abs(key)) for key in keys]

    def _take(self, side: Side, price: int) -> tuple[Side, int, int, int]:
        level = self.side(side).level(price)
        if level is None:
            return side, price, 0, 0
        level.is_changed = False
        return side, price, level.quantity, level.count

    def check(self) -> None:
        """Assert that both sides and the index hold the same orders, each on its side."""
        self.bids.check()
        self.asks.check()
        for side in Side:
            for level in self.side(side):
                for order in level:
                    assert order.side is side, f"{order!r} among the {side}s\n{self}"
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
        self._buys: SortedDict[tuple[int, int], Order] = SortedDict()
        self._sells: SortedDict[tuple[int, int], Order] = SortedDict()
        self.orders: dict[int, Order] = {}

    def add(self, order: Order) -> None:
        self.orders[order.oid] = order
        if order.side is _BUY:
            self._buys[order.stop, order.oid] = order
        else:
            self._sells[-order.stop, order.oid] = order

    def remove(self, order: Order) -> None:
        del self.orders[order.oid]
        if order.side is _BUY:
            del self._buys[order.stop, order.oid]
        else:
            del self._sells[-order.stop, order.oid]

    def take_elected(self, *, low: int, high: int) -> list[Order]:
        """Remove the stops that prints between `low` and `high` elect, in the order they run.

        Nearest stop first, then order of entry; of the next buy and the next sell the lower oid.
        """
        elected: list[Order] = []
        while True:
            buy, sell = self._nearest_buy(high), self._nearest_sell(low)
            if buy is not None and (sell is None or buy.oid < sell.oid):
                order = buy
            elif sell is not None:
                order = sell
            else:
                return elected
            self.remove(order)
            elected.append(order)

    def _nearest_buy(self, high: int) -> Order | None:
        order = self._buys.peekitem(0)[1] if self._buys else None
        return order if order is not None and order.stop <= high else None

    def _nearest_sell(self, low: int) -> Order | None:
        order = self._sells.peekitem(0)[1] if self._sells else None
        return order if order is not None and order.stop >= low else None

    def check(self, last: int | None) -> None:
        """Assert that both sides and the index agree, and that `last`, if given, elects none."""
        buys, sells = list(self._buys.values()), list(self._sells.values())
        assert [(order.stop, order.oid) for order in buys] == list(self._buys), buys
        assert [(-order.stop, order.oid) for order in sells] == list(self._sells), sells
        assert {order.oid: order for order in buys + sells} == self.orders, self.orders
        assert all(order.side is Side.BUY for order in buys), buys
        assert all(order.side is Side.SELL for order in sells), sells
        if last is not None:
            assert self._nearest_buy(last) is None, (last, buys)
            assert self._nearest_sell(last) is None, (last, sells)
