"""A strategy's own orders, kept by what the server answers and tells (PROTOCOL §4).

Each message becomes the news that the strategy is called with; between the messages, `orders` and
`position` are what they add up to. An order is the strategy's if its client id has the prefix.

>>> own = OwnOrders(owner=7, id_prefix="b-")
>>> order = NewOrder(ticker="intc", owner=7, side=Side.BUY, quantity=9, client_id="b-1")
>>> trade = {"event": "trade", "tid": 1, "price": "0.01", "quantity": 4, "buy": 5, "sell": 3}
>>> answer = {"seq": 8, "oid": 5, "events": [{"event": "accepted", "oid": 5}, trade]}
>>> [news.change.what.value for news in own.answered(order, answer)]
['accepted', 'trade']
>>> own.orders[5].remaining, own.position
(5, 4)
"""

from typing import Any, NamedTuple

from msgspec.structs import replace

from matching.order import (
    HOUSE,
    CancelReason,
    NewOrder,
    Side,
    Status,
    parse_price,
)
from robot.strategy import Change, DeskCommand, OwnOrder, Reject, What

Message = dict[str, Any]
"""A JSON object of PROTOCOL §4."""


class OrderNews(NamedTuple):
    """What `on_order` is called with."""

    order: OwnOrder
    change: Change


News = OrderNews | Reject


class OwnOrders:
    """The open orders of a strategy, and its position."""

    def __init__(self, *, owner: int, id_prefix: str) -> None:
        self.orders: dict[int, OwnOrder] = {}
        self.position = 0
        self._has_account = owner != HOUSE
        self._id_prefix = id_prefix
        self._seq = 0

    def answered(self, command: DeskCommand, answer: Message) -> list[News]:
        """A command of the strategy was answered."""
        if "error" in answer:
            error = answer["error"]
            return [Reject(command, error["code"], error["message"], error.get("rule", ""))]
        if isinstance(command, NewOrder):
            self.orders[answer["oid"]] = OwnOrder(
                oid=answer["oid"],
                client_id=command.client_id,
                side=command.side,
                price=command.price,
                stop=command.stop,
                quantity=command.quantity,
                filled=0,
                remaining=command.quantity,
                status=Status.PENDING_STOP if command.stop else Status.OPEN,
            )
        news: list[News] = []
        for event in answer["events"]:
            for name in ("oid", "buy", "sell"):
                order = self.orders.get(event.get(name, 0))
                if order is not None:
                    change = _change(event)
                    news.append(OrderNews(self._changed(order, change), change))
        return news

    def told(self, message: Message) -> list[News]:
        """An `order` message has come: somebody else's command changed an order of the owner."""
        if message["seq"] <= self._seq:
            return []  # counted by the `orders` message that came after it
        order, change = _own_order(message["order"]), _change(message["event"])
        is_own = order.client_id.startswith(self._id_prefix)
        if change.what is What.TRADE and (is_own or self._has_account):
            self._move(order.side, change.quantity)
        if not is_own:
            return []
        self._store(order)
        return [OrderNews(order, change)]

    def missing(self, message: Message) -> list[int]:
        """The oids of ours that an `orders` message, which holds all open ones, does not name."""
        open_oids = {order["oid"] for order in message["orders"]}
        return [oid for oid in self.orders if oid not in open_oids]

    def resume(self, message: Message, found: list[Message]) -> list[News]:
        """Begin anew after a connection was lost, with all open orders and the position.

        `found` are orders of ours that ended, or whose answer was lost.
        """
        known = self.orders
        standing = [_own_order(order) for order in message["orders"]]
        ended = [_own_order(order) for order in found]
        ours = {
            order.oid: order
            for order in (*ended, *standing)
            if order.client_id.startswith(self._id_prefix)
        }
        news: list[News] = []
        for order in ours.values():
            before = known.get(order.oid)
            if before != order:
                news.append(OrderNews(order, Change(What.RECOVERED)))
                self._move(order.side, order.filled - (before.filled if before else 0))
        for oid, order in known.items():
            if oid not in ours:  # the server no longer knows it
                gone = replace(order, remaining=0, status=Status.CANCELED)
                news.append(OrderNews(gone, Change(What.RECOVERED)))
        self.orders = {oid: order for oid, order in ours.items() if order.is_open}
        if self._has_account:
            self.position = message["position"]
        self._seq = message["seq"]
        return news

    def forget(self) -> list[News]:
        """The market began anew: no order of the old one is there, and oids count from 1 again."""
        news: list[News] = [
            OrderNews(replace(order, remaining=0, status=Status.CANCELED), Change(What.RECOVERED))
            for order in self.orders.values()
        ]
        self.orders = {}
        self.position = 0
        return news

    def _changed(self, order: OwnOrder, change: Change) -> OwnOrder:
        """The order after a change, stored; it counts in the position."""
        remaining, status = order.remaining, order.status
        quantity, filled = order.quantity, order.filled
        match change.what:
            case What.TRADE:
                remaining -= change.quantity
                filled += change.quantity
                status = Status.PARTIALLY_FILLED if remaining else Status.FILLED
                self._move(order.side, change.quantity)
            case What.DECREMENTED:
                remaining -= change.quantity
                quantity -= change.quantity
            case What.CANCELED:
                remaining, status = 0, Status.CANCELED
            case What.TRIGGERED:
                status = Status.OPEN
        order = replace(order, remaining=remaining, status=status, quantity=quantity, filled=filled)
        self._store(order)
        return order

    def _store(self, order: OwnOrder) -> None:
        if order.is_open:
            self.orders[order.oid] = order
        else:
            self.orders.pop(order.oid, None)

    def _move(self, side: Side, quantity: int) -> None:
        self.position += quantity if side is Side.BUY else -quantity


def _own_order(order: Message) -> OwnOrder:
    """An order as PROTOCOL §4 shows it."""
    return OwnOrder(
        oid=order["oid"],
        client_id=order["id"] or "",
        side=Side(order["side"]),
        price=parse_price(order["price"] or "0"),
        stop=parse_price(order["stop"] or "0"),
        quantity=order["quantity"],
        filled=order["filled"],
        remaining=order["remaining"],
        status=Status(order["status"]),
    )


def _change(event: Message) -> Change:
    """What an event of PROTOCOL §4 does to an order."""
    reason = event.get("reason")
    return Change(
        What(event["event"]),
        quantity=event.get("quantity", 0),
        price=parse_price(event.get("price") or "0"),
        reason=CancelReason(reason) if reason is not None else None,
    )
