"""Accounts: what one owner has in one product, and the accepted orders that are theirs.

An `Order` is an accepted order, from its acceptance to its end; the engine changes it, the book
keeps its place. An `Account` holds its owner's open orders, an `Exposure` what R16 asks of them.

>>> from matching.limits import UNLIMITED
>>> account = Account(7, UNLIMITED)
>>> bid = NewOrder(ticker="intc", owner=7, side=Side.BUY, quantity=100, price=502500)
>>> order = account.open(1, bid)
>>> order.owner, order.remaining, order.status
(7, 100, <Status.OPEN: 'open'>)
"""

from collections import deque
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from matching.limits import Limits
from matching.order import NewOrder, SelfTrade, Side, Status, TimeInForce, format_price
from matching.recent import RATE_WINDOW

if TYPE_CHECKING:
    from matching.book import Level

USUAL_QUANTITY = 1_000_000
"""The most that an order has of which nothing needs to be asked."""

CANCELED = -1
"""An order's `hidden` once it was canceled: a flag would make every order a sixth larger."""

_BUY = Side.BUY  # CPython 3.11 takes as long to look a member up as to create an event


class Order:
    """An accepted order: what it asks for, and what has become of it.

    `terms` is the command as it stands: amends, R5's decrements and a stop's election change it.
    `open_quantity` is what of the total has not traded; `hidden` what of that the market does not
    see (R9), CANCELED once it was. `level`, `previous` and `next` are its place in the book, and
    belong to it.
    """

    __slots__ = (
        "account",
        "hidden",
        "level",
        "next",
        "oid",
        "open_quantity",
        "previous",
        "terms",
    )

    # Whoever makes one gives it its values, as `Account.open` does: CPython 3.11 creates an object
    # without an __init__ in half the time.
    account: "Account"
    hidden: int
    level: "Level | None"
    next: "Order | None"
    oid: int
    open_quantity: int
    previous: "Order | None"
    terms: NewOrder

    @property
    def owner(self) -> int:
        return self.account.owner

    @property
    def side(self) -> Side:
        return self.terms.side

    @property
    def price(self) -> int:
        return self.terms.price

    @property
    def stop(self) -> int:
        """0 once it has triggered (R7)."""
        return self.terms.stop

    @property
    def quantity(self) -> int:
        """The total, what has traded included."""
        return self.terms.quantity

    @property
    def client_id(self) -> str:
        return self.terms.client_id

    @property
    def tif(self) -> TimeInForce:
        return self.terms.tif

    @property
    def stp(self) -> SelfTrade:
        return self.terms.stp

    @property
    def post(self) -> bool:
        return self.terms.post

    @property
    def peak(self) -> int:
        return self.terms.peak

    @property
    def cod(self) -> bool:
        return self.terms.cod

    @property
    def filled(self) -> int:
        """What has traded."""
        return self.quantity - self.open_quantity

    @property
    def remaining(self) -> int:
        """What can still trade: 0 once the order has ended."""
        return 0 if self.canceled else self.open_quantity

    @property
    def canceled(self) -> bool:
        return self.hidden == CANCELED

    @property
    def shown(self) -> int:
        """What of a resting order the market sees (R9)."""
        return self.open_quantity - self.hidden

    @property
    def status(self) -> Status:
        return status_of(self.terms, self.open_quantity, canceled=self.canceled)

    def keeps_place(self, *, quantity: int, price: int, stop: int) -> bool:
        """Whether it has its place in time still with these terms: only less quantity (R6)."""
        return quantity <= self.quantity and price == self.price and stop == self.stop

    def __repr__(self) -> str:
        stop = f"/{format_price(self.stop)}" if self.stop else ""
        hidden = f" ({self.hidden} hidden)" if self.hidden > 0 else ""
        return (
            f"#{self.oid} {self.owner}:{self.side} {self.open_quantity} of {self.quantity}{hidden}"
            f"@{format_price(self.price)}{stop} {self.status}"
        )


def status_of(terms: NewOrder, open_quantity: int, *, canceled: bool) -> Status:
    """What an order of these terms is called of which so much has not traded."""
    if canceled:
        return Status.CANCELED
    if open_quantity == 0:
        return Status.FILLED
    if terms.stop:
        return Status.PENDING_STOP
    if open_quantity < terms.quantity:
        return Status.PARTIALLY_FILLED
    return Status.OPEN


class Account:
    """One owner in one product.

    `orders` are the open ones in oid order; `position` is what was bought less what was sold. An
    order of at most `unasked` needs no look at the limits.
    """

    __slots__ = ("exposure", "limits", "orders", "owner", "position", "unasked")

    exposure: "Exposure | None"
    """None while no limit asks for it."""
    limits: Limits
    unasked: int

    def __init__(self, owner: int, limits: Limits) -> None:
        self.owner = owner
        self.position = 0
        self.orders: dict[int, Order] = {}
        self.exposure = None
        self.limit(limits)

    def open(self, oid: int, command: NewOrder) -> Order:
        """A new order of this owner."""
        order = self.orders[oid] = Order()
        order.oid = oid
        order.account = self
        order.terms = command
        order.open_quantity = command.quantity
        order.hidden = 0
        order.level = None
        return order

    def limit(self, limits: Limits, entries: Iterable[int] = ()) -> None:
        """These are in force from now on; `entries` are the owner's of the last second."""
        self.limits = limits
        self.unasked = _unasked(limits)
        if not limits.is_more:
            self.exposure = None
        elif self.exposure is None:
            self.exposure = Exposure(self.orders.values(), entries)

    def change_open(self, side: Side, quantity: int) -> None:
        """So much more of the owner's is open on a side (negative: less)."""
        if self.exposure is not None:
            self.exposure.change(side, quantity)

    def check(self) -> None:
        """Assert that the index agrees with the orders, and the exposure with both."""
        assert (self.exposure is not None) == self.limits.is_more, (self.owner, self.limits)
        assert self.unasked == _unasked(self.limits), (self.owner, self.unasked, self.limits)
        if self.exposure is not None:
            self.exposure.check(self.orders.values())
        assert list(self.orders) == sorted(self.orders), f"owner {self.owner}: not in oid order"
        for oid, order in self.orders.items():
            assert order.oid == oid, f"{order!r} as #{oid}"
            assert order.account is self, f"{order!r} among those of {self.owner}"
            assert 0 < order.remaining <= order.quantity, f"{order!r}"


def _unasked(limits: Limits) -> int:
    return 0 if limits.is_more else min(limits.max_quantity, USUAL_QUANTITY)


class Exposure:
    """What the limits of R16 but `max_quantity` ask about one owner, kept while one of them is set.

    `open_buys` and `open_sells` are what is open on either side, waiting stops included; `entries`
    are the times (microseconds) at which orders and amends were accepted, of the second before the
    last one or before the last question.
    """

    __slots__ = ("entries", "open_buys", "open_sells")

    def __init__(self, orders: Collection[Order], entries: Iterable[int]) -> None:
        self.open_buys = _sum_open(orders, Side.BUY)
        self.open_sells = _sum_open(orders, Side.SELL)
        self.entries = deque(entries)

    def change(self, side: Side, quantity: int) -> None:
        """So much more is open on a side (negative: less)."""
        if side is _BUY:
            self.open_buys += quantity
        else:
            self.open_sells += quantity

    def note_entry(self, time: int) -> None:
        """An order or an amend was accepted at `time`."""
        self._forget(time)
        self.entries.append(time)

    def rate(self, time: int) -> int:
        """How many orders and amends were accepted in the second that ends at `time` (R16)."""
        self._forget(time)
        return len(self.entries)

    def _forget(self, time: int) -> None:
        entries, too_old = self.entries, time - RATE_WINDOW
        while entries and entries[0] <= too_old:
            entries.popleft()

    def check(self, orders: Collection[Order]) -> None:
        """Assert that the sums agree with the orders, and that no entry is older than a second."""
        for side, total in ((Side.BUY, self.open_buys), (Side.SELL, self.open_sells)):
            assert total == _sum_open(orders, side), (side, total, orders)
        entries = list(self.entries)
        assert entries == sorted(entries), entries
        assert not entries or entries[0] > entries[-1] - RATE_WINDOW, entries


def _sum_open(orders: Collection[Order], side: Side) -> int:
    return sum(order.open_quantity for order in orders if order.side is side)
