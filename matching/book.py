"""The order book of one product: price levels, each a queue in order of arrival (R1).

A level keeps its quantity and count, so that what the market sees is never added up; an order knows
its neighbours, so that a cancel anywhere takes the same time. The hidden part of an iceberg (R9) is
in its order and in the level's `hidden`, and in nothing that is shown.

>>> from matching.account import Account
>>> from matching.limits import UNLIMITED
>>> from matching.order import NewOrder
>>> account, book = Account(7, UNLIMITED), OrderBook()
>>> for oid, quantity in ((1, 100), (2, 50)):
...     bid = NewOrder(ticker="intc", owner=7, side=Side.BUY, quantity=quantity, price=502500)
...     book.bids.add(account.open(oid, bid))
>>> book.levels(Side.BUY, depth=10)
[(502500, 150, 2)]
>>> book.bids.remove(book.bids.best.first)
>>> book.take_changed_levels()
[(<Side.BUY: 'buy'>, 502500, 50, 1)]
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from matching.account import Order
from matching.order import Side, format_price

_BUY = Side.BUY  # CPython 3.11 takes as long to look up `Side.BUY` as to create an event

NO_LIMIT = -(10**18)
"""A key that every level's key is greater than: how far a market order goes."""


class Level:
    """The orders at one price, the first comer first. It is never empty while the book holds it.

    `key` is its place on its `side`; `quantity` and `count` are what the market sees, `hidden` is
    what it does not; `is_changed`: the market has yet to be told of a change.
    """

    __slots__ = (
        "count",
        "first",
        "hidden",
        "is_changed",
        "key",
        "last",
        "price",
        "quantity",
        "side",
    )

    def __init__(self, side: "BookSide", key: int, order: Order) -> None:
        self.side = side
        self.price = order.price
        self.key = key
        self.first = order
        self.last = order
        self.quantity = 0
        self.hidden = 0
        self.count = 1
        self.is_changed = False

    def __iter__(self) -> Iterator[Order]:
        order: Order | None = self.first
        while order is not None:
            yield order
            order = order.next


class BookSide:
    """The bids or the asks: price levels in order, the best always at hand.

    A level is found by its price, above 0. Its key is that times `sign` (1, for asks −1), so that
    on both sides a greater key is a better price: `_keys` has them in order, the best last. The
    book hands both sides its set of changed keys.
    """

    __slots__ = ("_changed", "_keys", "_levels", "best", "sign")

    def __init__(self, *, highest_first: bool, changed: set[int]) -> None:
        self.sign = 1 if highest_first else -1
        self._levels: dict[int, Level] = {}
        self._keys: list[int] = []
        self._changed = changed
        self.best: Level | None = None

    def limit_key(self, price: int) -> int:
        """The least key that an incoming order of this price trades with; price 0 is any."""
        return price * self.sign if price else NO_LIMIT

    def is_reached_by(self, price: int) -> bool:
        """Whether an incoming order of this price has somebody to trade with."""
        return self.best is not None and self.best.key >= self.limit_key(price)

    def add(self, order: Order) -> None:
        """Rest a limit order behind all others at its price; an iceberg shows a full peak (R9)."""
        terms = order.terms
        try:
            level = self._levels[terms.price]
        except KeyError:
            order.previous = None
            level = self._add_level(order)
        else:
            order.previous = last = level.last
            last.next = level.last = order
            level.count += 1
        order.next = None
        order.level = level
        level.quantity += order.open_quantity
        if terms.peak:
            self._hide(order, level)
        if not level.is_changed:
            self._note_change(level)

    def restore(self, queue: Sequence[Order]) -> None:
        """Rest orders of one price as they stood there: in this order, hiding what each hides.

        ValueError if somebody rests at that price.
        """
        first, last = queue[0], queue[-1]
        if first.price in self._levels:
            raise ValueError(f"{first!r} is not the first at its price")
        level = self._add_level(first)
        before: Order | None = None
        quantity = hidden = 0
        for order in queue:
            order.level = level
            order.previous = before
            if before is not None:
                before.next = order
            before = order
            quantity += order.open_quantity
            hidden += order.hidden
        last.next = None
        level.last = last
        level.count = len(queue)
        level.quantity, level.hidden = quantity - hidden, hidden
        self._note_change(level)

    def _add_level(self, order: Order) -> Level:
        key = order.price * self.sign
        level = self._levels[order.price] = Level(self, key, order)
        insort(self._keys, key)
        if self.best is None or key > self.best.key:
            self.best = level
        return level

    def _hide(self, order: Order, level: Level) -> None:
        hidden = max(0, order.open_quantity - order.peak)
        order.hidden = hidden
        level.hidden += hidden
        level.quantity -= hidden

    def remove(self, order: Order) -> None:
        """Take the order out of the book; a level without orders goes."""
        level = order.level
        assert level is not None, f"{order!r} does not rest"
        level.quantity -= order.open_quantity
        if order.hidden:
            level.quantity += order.hidden
            level.hidden -= order.hidden
            order.hidden = 0
        previous, following = order.previous, order.next
        order.level = order.previous = order.next = None
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
        keys = self._keys
        del self._levels[level.price]
        if level is self.best:
            keys.pop()
            self.best = self._levels[abs(keys[-1])] if keys else None
        else:
            del keys[bisect_left(keys, level.key)]

    def fill(self, order: Order, level: Level, quantity: int) -> None:
        """So much of what is shown of the first order at this level has traded.

        An order without an open quantity leaves the book; an iceberg whose shown part is used up
        shows its next peak, behind all others at its price (R9).
        """
        level.quantity -= quantity
        order.open_quantity = left = order.open_quantity - quantity
        if not left:
            level.count -= 1
            following = order.next
            order.level = order.next = None
            if following is not None:
                following.previous = None
                level.first = following
            else:
                self._remove_level(level)
        elif left == order.hidden:
            self._refresh(order, level)
        if not level.is_changed:
            self._note_change(level)

    def _refresh(self, order: Order, level: Level) -> None:
        shown = min(order.peak, order.hidden)
        order.hidden -= shown
        level.hidden -= shown
        level.quantity += shown
        following = order.next
        if following is not None:
            following.previous = None
            level.first = following
            order.previous = last = level.last
            last.next = level.last = order
            order.next = None

    def reduce(self, order: Order, quantity: int) -> None:
        """Take so much off what is open of a resting order, hidden part first (R5, R6).

        It keeps its place, and what it shows is not refilled; without an open quantity it leaves.
        """
        level = order.level
        assert level is not None, f"{order!r} does not rest"
        if quantity == order.open_quantity:
            self.remove(order)
            order.open_quantity = 0
            return
        hidden = min(quantity, order.hidden)
        order.hidden -= hidden
        level.hidden -= hidden
        level.quantity -= quantity - hidden
        order.open_quantity -= quantity
        if not level.is_changed:
            self._note_change(level)

    def uncross(self, order: Order, quantity: int) -> None:
        """So much of a resting order has traded in an auction, whole quantities (R10).

        An iceberg that is still open shows a full peak again, in its old place.
        """
        self.reduce(order, quantity)
        if order.hidden:
            self._show(order, order.peak)

    def _show(self, order: Order, peak: int) -> None:
        level = order.level
        assert level is not None, f"{order!r} does not rest"
        more = min(peak, order.open_quantity) - order.shown
        order.hidden -= more
        level.hidden -= more
        level.quantity += more

    def _note_change(self, level: Level) -> None:
        level.is_changed = True
        self._changed.add(level.key)

    def level(self, price: int) -> Level | None:
        return self._levels.get(price)

    def __len__(self) -> int:
        """The number of price levels."""
        return len(self._levels)

    def __iter__(self) -> Iterator[Level]:
        """The levels, best first."""
        return (self._levels[abs(key)] for key in reversed(self._keys))

    def quantities(self) -> Iterator[tuple[int, int]]:
        """(price, whole quantity, hidden parts too) of each level, best first."""
        return ((level.price, level.quantity + level.hidden) for level in self)

    def check(self) -> None:
        """Assert that keys, levels, queues and totals agree."""
        assert all(level.price == price for price, level in self._levels.items()), self._levels
        keys = sorted(level.key for level in self._levels.values())
        assert self._keys == keys, (self._keys, self._levels)
        assert self.best is (self._levels[abs(keys[-1])] if keys else None), self.best
        for level in self:
            queue = list(level)
            state = (
                f"{format_price(level.price)}: {level.quantity} and {level.hidden} hidden,"
                f" {level.count} of {queue}"
            )
            assert level.count == len(queue) > 0, state
            assert level.quantity == sum(order.shown for order in queue), state
            assert level.hidden == sum(order.hidden for order in queue), state
            assert all(order.level is level for order in queue), state
            assert level.price * self.sign == level.key, state
            assert all(order.price == level.price for order in queue), state
            assert all(order.hidden >= 0 < order.shown for order in queue), state
            assert [order.previous for order in queue] == [None, *queue[:-1]], state
            assert level.last is queue[-1], state


class OrderBook:
    """The resting orders of one product: bids and asks.

    Both sides note the levels they change, for `take_changed_levels`.
    """

    __slots__ = ("_changed", "asks", "bids")

    def __init__(self) -> None:
        self._changed: set[int] = set()
        self.bids = BookSide(highest_first=True, changed=self._changed)
        self.asks = BookSide(highest_first=False, changed=self._changed)

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
        """Assert that both sides hold what they say, each order on its side."""
        self.bids.check()
        self.asks.check()
        for side in Side:
            for level in self.side(side):
                for order in level:
                    assert order.side is side, f"{order!r} among the {side}s\n{self}"

    def __str__(self) -> str:
        """`bids 150@50.25 10@50.20; asks -`, best first."""
        return f"bids {_text(self.levels(Side.BUY))}; asks {_text(self.levels(Side.SELL))}"


def _text(levels: list[tuple[int, int, int]]) -> str:
    return " ".join(f"{quantity}@{format_price(price)}" for price, quantity, _ in levels) or "-"
