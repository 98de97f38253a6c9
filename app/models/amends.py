"""Amends on their way: cash that an amended order may ask for, before the journal shows it (R17).

    with transaction(db, write=True):                                             # Refused:
        amending = reserve(db, owner, product, order, change, lineage=…, bids=…, ts=…, at=now())
    answer = await trading.send(protocol.format(amending.command))
    with transaction(db, write=True):
        settled_by(db, amending.id, seq=answer["seq"])         # or dropped(db, amending.id)
    # connection lost before the answer: the reconciler, once no server would take it any more, asks
    # for the journal's present record, which is settled_by()'s: by then it is in, or never will be

Until the database has come to that record, the order counts as what asks for more of what the
database shows and of what every amend on its way may make of it (portfolio.working_orders). An
amend of an order that is over counts no more, whatever became of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.models import intents, portfolio
from app.models.db import DAL, execute, insert, lock_row, rows
from app.models.intents import TS_WINDOW, Levels, Refused
from app.models.portfolio import Working
from app.models.products import Product
from matching.order import MAX_ORDER_VALUE, Amend, Side, Status, TimeInForce, parse_price


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An open order as its matching server has it; price 0: market, stop 0: none (any more)."""

    oid: int
    side: Side
    price: int
    stop: int
    tif: TimeInForce
    client_id: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a trader wants: a new total quantity (R6), price and stop; None stays as it is."""

    quantity: int
    price: int | None = None
    stop: int | None = None


class Amending(msgspec.Struct, frozen=True, kw_only=True):
    """A stored amend. `command` is what to send, to the matching server of journal `lineage`."""

    id: int
    lineage: str
    command: Amend


class Unsettled(msgspec.Struct, frozen=True):
    """An amend of which nobody knows yet by which record it is in, if it is in (`seq` 0).

    Or of which that is known, but not whether its journal will ever be followed.
    """

    id: int
    owner: int
    ticker: str
    lineage: str
    oid: int
    ts: int
    seq: int

    def can_still_arrive(self, *, server_ms: int) -> bool:
        """Whether a matching server whose clock shows `server_ms` would still take the command."""
        return server_ms * 1000 <= self.ts * 1000 + TS_WINDOW


def order_of(found: Mapping[str, Any]) -> Order:
    """The order in the answer to `find`; Refused if it is over."""
    if found["status"] in (Status.FILLED, Status.CANCELED):
        message = f"order #{found['oid']} is {found['status']} and cannot be changed"
        raise Refused("order_not_found", "R13", message)
    waits = found["status"] == Status.PENDING_STOP
    return Order(
        oid=found["oid"],
        side=Side(found["side"]),
        price=parse_price(found["price"] or "0"),
        stop=parse_price(found["stop"] or "0") if waits else 0,
        tif=TimeInForce(found["tif"]),
        client_id=found["id"] or "",
    )


def reserve(
    db: DAL,
    owner: int,
    product: Product,
    order: Order,
    change: Change,
    *,
    lineage: str,
    bids: Levels,
    last: int,
    is_auction: bool = False,
    ts: int,
    at: int,
) -> Amending:
    """Check that what the change asks for is covered, and store it; inside a write transaction.

    Refused: `insufficient_cash`, `short_not_allowed` (R17), `invalid_order`. A change that asks for
    no more than the order does is stored as well: others on their way may ask for more than that.
    """
    if change.quantity <= 0:
        raise Refused("invalid_order", "", "quantity must be above 0; to end an order, cancel it")
    lock_row(db, "auth_user", owner)
    _forget_settled(db, owner)
    command = _command(owner, product, order, change, ts=ts)
    price = order.price if command.price is None else command.price
    stop = order.stop if command.stop is None else command.stop
    if change.quantity * max(price, stop) > MAX_ORDER_VALUE:
        raise Refused("invalid_order", "", "quantity × price is more than 100,000,000,000.00")
    value = intents.value_price(
        order.side,
        price=price,
        stop=stop,
        bids=bids,
        last=last,
        auction=intents.auction_of(db, product, last=last, is_auction=is_auction),
    )
    others, before = _split(portfolio.working_orders(db, owner), product.name, order.oid)
    if before is None:
        after = Working(product.name, order.side, change.quantity, value, is_intent=True)
    else:
        after = before.amend(change.quantity, value)
    intents.require_covered(db, owner, product, others, after, before=before)
    fields = {
        "owner": owner,
        "ticker": product.name,
        "lineage": lineage,
        "oid": order.oid,
        "buy_sell": str(order.side),
        "quantity": change.quantity,
        "value_price": value,
        "ts": ts,
        "seq": 0,
        "created_on": at,
    }
    return Amending(
        id=insert(db, "amend_intent", **fields),
        lineage=lineage,
        command=command,
    )


def settled_by(db: DAL, amend: int, *, seq: int) -> None:
    """The amend is in the journal by record `seq`, or never will be."""
    execute(db, "UPDATE amend_intent SET seq = ? WHERE id = ? AND seq = 0", seq, amend)


def dropped(db: DAL, amend: int) -> None:
    """The matching server refused the amend, or was never sent it: what it asked for is free."""
    execute(db, "DELETE FROM amend_intent WHERE id = ?", amend)


def unsettled(db: DAL, *, older_than: int) -> list[Unsettled]:
    """Amends without an answer that were stored before `older_than` (µs), for the reconciler.

    And those in a journal that the database has not begun to follow: it may never. None in one that
    is closed: it will never say more, and what was open in it is over.
    """
    found = rows(
        db,
        "SELECT a.id, a.owner, a.ticker, a.lineage, a.oid, a.ts, a.seq FROM amend_intent a"
        " LEFT JOIN log_position l ON l.ticker = a.ticker AND l.lineage = a.lineage"
        " WHERE a.created_on < ? AND (l.closed IS NULL OR (l.closed = 'F' AND a.seq = 0))"
        " ORDER BY a.id",
        older_than,
    )
    return [Unsettled(*row) for row in found]


def dropped_if_lost(db: DAL, amend: int, *, lineage: str) -> None:
    """The ticker's matching server has another journal, `lineage`.

    If that is the one that the database follows, then the amend's own was lost, its orders with it.
    """
    execute(
        db,
        "DELETE FROM amend_intent WHERE id = ? AND lineage <> ? AND EXISTS"
        " (SELECT 1 FROM log_position l WHERE l.ticker = amend_intent.ticker AND l.lineage = ?"
        " AND l.closed = 'F')",
        amend,
        lineage,
        lineage,
    )


def _command(owner: int, product: Product, order: Order, change: Change, *, ts: int) -> Amend:
    """What is sent; the limit that the platform gave a buy stop market goes with its stop (R17)."""
    price = change.price
    is_ours = intents.is_stop_market(
        product,
        side=order.side,
        price=order.price,
        stop=order.stop,
        tif=order.tif,
        client_id=order.client_id,
    )
    if is_ours and price is None and change.stop:
        price = intents.stop_market_limit(change.stop, tick=product.tick)
    return Amend(
        ticker=product.name,
        owner=owner,
        oid=order.oid,
        quantity=change.quantity,
        price=price,
        stop=change.stop,
        ts=ts,
    )


def _split(
    working: Sequence[Working], ticker: str, oid: int
) -> tuple[list[Working], Working | None]:
    """The other orders, and the one with this oid, as far as the database knows of it."""
    others, order = [], None
    for one in working:
        if (one.ticker, one.oid) == (ticker, oid):
            order = one
        else:
            others.append(one)
    return others, order


def _forget_settled(db: DAL, owner: int) -> None:
    """Rows of amends that the database shows by now, or of journals that are closed."""
    execute(
        db,
        "DELETE FROM amend_intent WHERE owner = ? AND EXISTS (SELECT 1 FROM log_position l"
        " WHERE l.ticker = amend_intent.ticker AND l.lineage = amend_intent.lineage"
        " AND (l.closed = 'T' OR (amend_intent.seq > 0 AND amend_intent.seq <= l.seq)))",
        owner,
    )
