"""Client order ids (R14): which order bears an id, as long as that is remembered.

Remembered are the ids of open orders, and the latest `REMEMBERED_IDS` accepted ones whatever became
of their orders; an older one counts as unused.
"""

from collections import deque

from matching.account import Order
from matching.order import NewOrder

REMEMBERED_IDS = 200_000
"""So many of a product's latest accepted ids outlive their orders (R14)."""


class ClientIds:
    """The orders with an id; `by_oid` holds the same ones by their number, `commands` what each
    was entered with. The ids of orders below the number `oldest` are remembered while these are
    open only."""

    __slots__ = ("_latest", "_remembered", "by_oid", "commands", "oldest")

    def __init__(self) -> None:
        self.by_oid: dict[int, Order] = {}
        self.commands: dict[int, NewOrder] = {}
        self._remembered: dict[tuple[int, str], Order] = {}
        self._latest: deque[Order] = deque()
        self.oldest = 0

    def find(self, owner: int, client_id: str) -> Order | None:
        return self._remembered.get((owner, client_id))

    def remember(self, order: Order) -> None:
        """A new order with an id was accepted."""
        self.commands[order.oid] = order.terms
        self._remembered[order.owner, order.client_id] = order
        self.by_oid[order.oid] = order
        self._latest.append(order)
        if len(self._latest) > REMEMBERED_IDS:
            oldest = self._latest.popleft()
            if not oldest.remaining:
                self._drop(oldest)
        self.oldest = self._latest[0].oid

    def ended(self, order: Order) -> None:
        """An order below `oldest` is open no more: nothing keeps its id, if it has one."""
        if order.client_id:
            self._drop(order)

    def _drop(self, order: Order) -> None:
        del self._remembered[order.owner, order.client_id]
        del self.by_oid[order.oid]
        del self.commands[order.oid]

    def check(self) -> None:
        """Assert that both indexes agree, and that nothing is kept without a reason."""
        assert len(self._latest) <= REMEMBERED_IDS, len(self._latest)
        assert self.oldest == (self._latest[0].oid if self._latest else 0), self.oldest
        assert len(self.by_oid) == len(self._remembered), self.by_oid
        assert self.by_oid.keys() == self.commands.keys(), self.commands
        for (owner, client_id), order in self._remembered.items():
            assert (order.owner, order.client_id) == (owner, client_id), f"{order!r}"
            assert self.by_oid.get(order.oid) is order, f"{order!r} is not found by its oid"
            assert order.remaining or order.oid >= self._latest[0].oid, f"{order!r} is too old"
