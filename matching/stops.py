"""Waiting stops (R7): orders that no print has elected yet, outside the book and all feeds.

Of the buys the lowest stop is nearest, of the sells the highest; at one stop price they wait in
order of entry, which an amend may lose. Each waits under a key that says just that.
"""

from sortedcontainers import SortedDict

from matching.account import Order
from matching.order import Side

_BUY = Side.BUY

Key = tuple[int, int]
"""The stop price (negated for sells), then the number of the entry: the least key is nearest."""


class WaitingStops:
    """The stops of both sides; `keys` holds each one's place by oid."""

    __slots__ = ("_buys", "_entries", "_sells", "keys")

    def __init__(self) -> None:
        self._buys: SortedDict[Key, Order] = SortedDict()
        self._sells: SortedDict[Key, Order] = SortedDict()
        self._entries = 0
        self.keys: dict[int, Key] = {}

    def add(self, order: Order) -> None:
        """Let the order wait, behind all others at its stop price."""
        self._entries += 1
        key = (order.stop if order.side is _BUY else -order.stop, self._entries)
        self.keys[order.oid] = key
        self._side(order)[key] = order

    def remove(self, order: Order) -> None:
        """Let the order wait no more."""
        del self._side(order)[self.keys.pop(order.oid)]

    def take_elected(self, *, low: int, high: int) -> list[Order]:
        """Remove the stops that prints between `low` and `high` elect, in the order they run.

        Nearest stop first, then order of entry; of the next buy and the next sell the lower oid.
        All at one price are elected together: added again in this order, they wait as before.
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

    def _side(self, order: Order) -> "SortedDict[Key, Order]":
        return self._buys if order.side is _BUY else self._sells

    def _nearest_buy(self, high: int) -> Order | None:
        order = self._buys.peekitem(0)[1] if self._buys else None
        return order if order is not None and order.stop <= high else None

    def _nearest_sell(self, low: int) -> Order | None:
        order = self._sells.peekitem(0)[1] if self._sells else None
        return order if order is not None and order.stop >= low else None

    def check(self, last: int | None) -> None:
        """Assert that both sides and the index agree, and that `last`, if given, elects none."""
        keys: dict[int, Key] = {}
        for side, orders in ((Side.BUY, self._buys), (Side.SELL, self._sells)):
            for key, order in orders.items():
                assert order.side is side, f"{order!r} among the {side} stops"
                assert abs(key[0]) == order.stop, f"{order!r} waits at {key}"
                assert order.level is None, f"{order!r} waits and rests"
                keys[order.oid] = key
        assert keys == self.keys, (keys, self.keys)
        if last is not None:
            assert self._nearest_buy(last) is None, (last, self._buys)
            assert self._nearest_sell(last) is None, (last, self._sells)
