"""Order intents: cash that the platform has promised, before the journal shows the order (R17).

    with transaction(db, write=True):                                           # Refused:
        intent = reserve(db, owner, product, request, bids=…, asks=…, last=…, ts=…, at=now())
    if intent.fresh:
        answer = await trading.send(protocol.format(intent.command))
    with transaction(db, write=True):
        accepted(db, intent.id, oid=answer["oid"], at=now())       # or rejected(…)
    # connection lost before the answer: unknown(…); the reconciler asks `find`, calls resolve()

What an intent ties up is counted until log2db has written the order's row; from then on the row
counts. Check and promise are one IMMEDIATE transaction: of two that come at once, the second sees
the first.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec
from pydal import DAL

from app.models import portfolio
from app.models.db import execute, insert, lock_row, rows
from app.models.figures import grouped
from app.models.portfolio import Auction, Position, Working
from app.models.products import Product
from app.models.tables import OPEN_INTENTS, WITHOUT_ROW
from matching.order import (
    MAX_ORDER_VALUE,
    NewOrder,
    SelfTrade,
    Side,
    TimeInForce,
    format_price,
)

Levels = Sequence[tuple[int, int]]
"""One side of the shown book: (price, quantity), best first; prices in ten-thousandths."""

TS_WINDOW = 5_000_000
"""A command is taken while its `ts` is so near to the server's clock, in µs (PROTOCOL §2)."""

UNSEEN_ROUND = 100
"""So many accepted orders without a row are asked about at once: log2db may be far behind."""

_CLIENT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,36}", re.ASCII)

_COLUMNS = (
    "id, owner, ticker, client_id, state, buy_sell, quantity, price, stop_price, tif, stp, ts,"
    " post, peak, reserved, oid, code, message"
)


class State(StrEnum):
    """What is known of an intent."""

    RESERVED = "reserved"  # stored; sent, or about to be
    UNKNOWN = "unknown"  # sent, and the connection was lost before the answer
    ACCEPTED = "accepted"  # the matching server has the order
    JOURNALED = "journaled"  # the database has its row, which counts from now on
    REJECTED = "rejected"  # the matching server answered with an error: the cash is free again
    NEVER = "never"  # no journal has it, and none ever will: the cash is free again


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the trader asked for; price 0: market, stop 0: none."""

    side: Side
    quantity: int
    price: int = 0
    stop: int = 0
    client_id: str
    tif: TimeInForce = TimeInForce.GTC
    stp: SelfTrade = SelfTrade.TAKER
    post: bool = False
    peak: int = 0


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """A stored intent. `command` is what to send, as it was first decided; `reserved` what it took.

    `fresh` is true for the call that stored it: whoever gets it back a second time must not send.
    """

    id: int
    owner: int
    ticker: str
    client_id: str
    state: State
    command: NewOrder
    reserved: int
    oid: int | None
    code: str
    message: str
    fresh: bool = False


class Doubt(msgspec.Struct, frozen=True):
    """What a trader asked for, and what is known of it: an order that is, or was, in doubt."""

    request: Request
    state: State
    oid: int | None
    message: str


class Traffic(msgspec.Struct, frozen=True):
    """How many intents an owner has in a product, and a sum of their times; see `traffic`."""

    count: int
    times: int


class Moved(Exception):
    """Another order of the owner in the product was stored meanwhile; nothing was stored."""


class Refused(Exception):
    """The order may not be sent: code, rule and sentence in the form of PROTOCOL §3."""

    def __init__(self, code: str, rule: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.rule = rule
        self.message = message


def reserve(
    db: DAL,
    owner: int,
    product: Product,
    request: Request,
    *,
    bids: Levels,
    asks: Levels,
    last: int,
    is_auction: bool = False,
    ts: int,
    at: int,
) -> Intent:
    """Check cash and shares and store the intent; inside a write transaction.

    `bids` and `asks` are the shown book, `last` the last price (or the reference); `is_auction`:
    whether the market is in one; `ts`: the command's time in ms. Refused: `insufficient_cash`,
    `short_not_allowed` (R17), `duplicate_id` (the id was used for something else, R14),
    `invalid_order`.

    The same request again gives the stored intent, not `fresh`; one that was rejected, or never got
    there, is stored anew.
    """
    _require_sound(request)
    lock_row(db, "auth_user", owner)
    old = get(db, owner, product.name, request.client_id)
    if old is not None and old.state not in (State.REJECTED, State.NEVER):
        if _stored_request(db, old.id) != request:
            raise Refused("duplicate_id", "R14", f"id {request.client_id} names another order")
        return old
    _mark_journaled(db, owner, at=at)
    command = _command(owner, product, request, asks=asks, last=last, ts=ts)
    value = value_price(
        command.side,
        price=command.price,
        stop=command.stop,
        bids=bids,
        last=last,
        auction=auction_of(db, product, last=last, is_auction=is_auction),
    )
    if command.quantity * max(value, command.stop) > MAX_ORDER_VALUE:
        raise Refused("invalid_order", "", "quantity × price is more than 100,000,000,000.00")
    order = Working(product.name, request.side, request.quantity, value, is_intent=True)
    reserved = require_covered(db, owner, product, portfolio.working_orders(db, owner), order)
    fields = {
        "request": _encode(request),
        "buy_sell": str(command.side),
        "quantity": command.quantity,
        "price": command.price,
        "stop_price": command.stop,
        "tif": str(command.tif),
        "stp": str(command.stp),
        "post": "FT"[command.post],
        "peak": command.peak,
        "ts": ts,
        "value_price": value,
        "reserved": reserved,
        "state": str(State.RESERVED),
        "oid": 0,
        "code": "",
        "message": "",
        "created_on": at,
        "modified_on": at,
    }
    if old is None:
        key = {"owner": owner, "ticker": product.name, "client_id": request.client_id}
        insert(db, "order_intent", **key, **fields)
    else:
        assignments = ", ".join(f"{name} = ?" for name in fields)
        execute(db, f"UPDATE order_intent SET {assignments} WHERE id = ?", *fields.values(), old.id)
    stored = get(db, owner, product.name, request.client_id)
    assert stored is not None
    return msgspec.structs.replace(stored, fresh=True)


def accepted(db: DAL, intent: int, *, oid: int, at: int) -> None:
    """The matching server took the order."""
    _move(db, intent, State.ACCEPTED, oid=oid, at=at)


def rejected(db: DAL, intent: int, *, code: str, message: str, at: int) -> None:
    """The matching server answered with an error: the cash is free again."""
    _move(db, intent, State.REJECTED, code=code, message=message, at=at)


def unknown(db: DAL, intent: int, *, at: int) -> None:
    """Sent, and no answer came: the cash stays reserved until `resolve` says more."""
    _move(db, intent, State.UNKNOWN, at=at)


def unresolved(db: DAL) -> list[Intent]:
    """Intents without an outcome, for the reconciler.

    However old: whether they can still arrive, the matching server's clock says and not ours.
    """
    found = rows(
        db,
        f"SELECT {_COLUMNS} FROM order_intent WHERE state IN ('reserved', 'unknown') ORDER BY id",
    )
    return [_intent(row) for row in found]


def unseen(db: DAL, tickers: Sequence[str], *, older_than: int) -> list[Intent]:
    """Accepted intents of which log2db has written no row, nor the reconciler asked, of late.

    Almost always log2db is on its way to the row; but a journal may be lost before it was read. At
    most UNSEEN_ROUND, those that were asked about longest ago first.
    """
    if not tickers:
        return []
    marks = ", ".join("?" for _ in tickers)
    found = rows(
        db,
        f"SELECT {_COLUMNS} FROM order_intent i WHERE state = 'accepted' AND modified_on < ?"
        f" AND ticker IN ({marks}) AND {WITHOUT_ROW} ORDER BY modified_on, id LIMIT ?",
        older_than,
        *tickers,
        UNSEEN_ROUND,
    )
    return [_intent(row) for row in found]


def resolve(
    db: DAL,
    intent: Intent,
    *,
    found_oid: int | None,
    seq: int,
    lineage: str,
    asked_at: int,
    at: int,
) -> State:
    """What the matching server's `find` makes of an intent that has no row; its new state.

    `found_oid` None: `order_not_found`, which carried `seq` of the journal `lineage`; `asked_at` is
    when it was asked (µs).
    PROTOCOL §4: that, asked past ts + 5 s, means never once log2db's seq has reached the reply's
    and the database has no row with the id; a database that follows another journal than the server
    that was asked says nothing. Until then it is unknown: ask again. The same holds for
    an order that was accepted into a journal which is no more. An outcome that became known since
    `intent` was read, or another sending under its id, is left as it is.
    """
    lock_row(db, "order_intent", intent.id)
    stored = get(db, intent.owner, intent.ticker, intent.client_id)
    assert stored is not None
    # Accepted after `find` was asked is no contradiction to "not found": only before it.
    is_open = stored.state in (State.RESERVED, State.UNKNOWN) or (
        stored.state is State.ACCEPTED is intent.state
    )
    if not is_open or stored.command.ts != intent.command.ts:
        return stored.state
    settled = portfolio.as_of(
        db, intent.ticker, lineage=lineage
    )  # its row may come between the two questions
    row = rows(
        db,
        "SELECT oid FROM buy_sell_order WHERE created_by = ? AND ticker = ? AND client_id = ?"
        " AND client_id <> ''",
        intent.owner,
        intent.ticker,
        intent.client_id,
    )
    if row:
        _move(db, intent.id, State.JOURNALED, oid=row[0][0], at=at)
    elif found_oid is not None:
        _move(db, intent.id, State.ACCEPTED, oid=found_oid, at=at)
    elif asked_at > _deadline(intent) and settled >= seq:
        _move(db, intent.id, State.NEVER, at=at)
    else:
        _move(db, intent.id, State.UNKNOWN, at=at)
    stored = get(db, intent.owner, intent.ticker, intent.client_id)
    assert stored is not None
    return stored.state


def get(db: DAL, owner: int, ticker: str, client_id: str) -> Intent | None:
    """The owner's intent with this id."""
    found = rows(
        db,
        f"SELECT {_COLUMNS} FROM order_intent WHERE owner = ? AND ticker = ? AND client_id = ?",
        owner,
        ticker,
        client_id,
    )
    return _intent(found[0]) if found else None


def on_their_way(db: DAL, owner: int, ticker: str) -> list[Intent]:
    """The owner's intents in a product of which nobody knows yet whether they are in."""
    found = rows(
        db,
        f"SELECT {_COLUMNS} FROM order_intent WHERE state IN ('reserved', 'unknown')"
        " AND owner = ? AND ticker = ? ORDER BY id",
        owner,
        ticker,
    )
    return [_intent(row) for row in found]


def doubts(
    db: DAL, owner: int, ticker: str, *, older_than: int, also: Sequence[str] = ()
) -> list[Doubt]:
    """The owner's orders in a product of which nobody knows whether they are in, oldest first.

    Those that are merely on their way count from `older_than` (µs) on. `also`: the orders with
    these ids, whatever became of them.
    """
    found = rows(
        db,
        "SELECT id, request, state, oid, message FROM order_intent i WHERE owner = ?"
        " AND ticker = ? AND state IN ('reserved', 'unknown')"
        f" AND (state = 'unknown' OR created_on < ?) AND {WITHOUT_ROW}",
        owner,
        ticker,
        older_than,
    )
    if also:
        marks = ", ".join("?" for _ in also)
        found += rows(
            db,
            "SELECT id, request, state, oid, message FROM order_intent WHERE owner = ?"
            f" AND ticker = ? AND client_id IN ({marks})",
            owner,
            ticker,
            *also,
        )
    return [
        Doubt(msgspec.json.decode(request, type=Request), State(state), oid or None, message)
        for _, request, state, oid, message in sorted(set(found))
    ]


def can_still_arrive(intent: Intent, *, server_ms: int) -> bool:
    """Whether a matching server whose clock shows `server_ms` would still take the command."""
    return server_ms * 1000 <= _deadline(intent)


def traffic(db: DAL, owner: int, ticker: str) -> Traffic:
    """The owner's intents in a product, to be compared later: equal while none was added."""
    # A rejected intent that is stored anew has another `ts`; its last bits keep the sum small.
    found = rows(
        db,
        "SELECT COUNT(*), COALESCE(SUM(ts & 1048575), 0) FROM order_intent"
        " WHERE owner = ? AND ticker = ?",
        owner,
        ticker,
    )
    return Traffic(count=int(found[0][0]), times=int(found[0][1]))


def require_still(db: DAL, owner: int, ticker: str, seen: Traffic) -> None:
    """Moved if an intent was added since `seen`; inside the transaction that will store one.

    Until that ends nobody else adds one for this owner.
    """
    lock_row(db, "auth_user", owner)
    if traffic(db, owner, ticker) != seen:
        raise Moved


def _require_sound(request: Request) -> None:
    if _CLIENT_ID.fullmatch(request.client_id) is None:
        raise Refused("invalid_order", "R14", "an id is 1 to 36 of A-Z a-z 0-9 _ . : -")
    if request.quantity <= 0 or request.price < 0 or request.stop < 0:
        raise Refused("invalid_order", "", "quantity must be above 0, prices not below it")


def _command(
    owner: int, product: Product, request: Request, *, asks: Levels, last: int, ts: int
) -> NewOrder:
    """What is sent: a buy without a limit gets the worst price that its cash covers (R17)."""
    price, tif = request.price, request.tif
    if request.side is Side.BUY and not price:
        if request.stop:
            price = stop_market_limit(request.stop, tick=product.tick)
        else:
            price = _on_grid(_worst_price(request.quantity, asks, last), product.tick)
        tif = tif if tif is TimeInForce.FOK else TimeInForce.IOC
    return NewOrder(
        ticker=product.name,
        owner=owner,
        side=request.side,
        quantity=request.quantity,
        price=price,
        stop=request.stop,
        client_id=request.client_id,
        tif=tif,
        stp=request.stp,
        post=request.post,
        peak=request.peak,
        ts=ts,
    )


def stop_market_limit(stop: int, *, tick: int) -> int:
    """The limit that a buy stop without one is sent with: what its cash covers (R17)."""
    return _on_grid(stop * 105 // 100, tick)


def is_stop_market(
    product: Product, *, side: Side, price: int, stop: int, tif: TimeInForce, client_id: str
) -> bool:
    """Whether it was the platform that gave a waiting buy stop its limit."""
    return (
        side is Side.BUY
        and stop > 0
        and tif in (TimeInForce.IOC, TimeInForce.FOK)
        and client_id.startswith("web-")
        and price == stop_market_limit(stop, tick=product.tick)
    )


def _on_grid(price: int, tick: int) -> int:
    """Down to the grid, so that the reservation covers it; up if that left nothing."""
    return max(price - price % tick, tick)


def _worst_price(quantity: int, asks: Levels, last: int) -> int:
    """What the shown book would cost and 5 %, a share; or the worst price of it, if that is higher.

    What the shown book does not offer counts at its last price, and an empty book at `last`.
    """
    price, left, cost = last, quantity, 0
    for level_price, level_quantity in asks:
        price = level_price
        taken = min(left, level_quantity)
        cost += taken * price
        left -= taken
        if not left:
            break
    cost += left * price
    return max(price, cost * 105 // (100 * quantity))


def value_price(
    side: Side, *, price: int, stop: int, bids: Levels, last: int, auction: Auction | None
) -> int:
    """The price at which an order that goes in counts.

    A sell that may trade at once brings in the best bid, however low its limit is: otherwise a
    limit of next to nothing would sell short for nothing.
    """
    if side is Side.SELL and not stop:
        price = max(price, bids[0][0]) if bids else price or last
    return portfolio.value_price(side, price=price, stop=stop, auction=auction)


def auction_of(db: DAL, product: Product, *, last: int, is_auction: bool) -> Auction | None:
    """The product's auction, if it is in one by the database, or already by what its market says.

    Between the two lies what log2db has not settled yet.
    """
    settled = portfolio.auctions(db).get(product.name)
    return settled or (Auction(last, (product.band,)) if is_auction else None)


def require_covered(
    db: DAL,
    owner: int,
    product: Product,
    others: Sequence[Working],
    order: Working,
    *,
    before: Working | None = None,
) -> int:
    """What an order ties up on top of all `others`, or of what it was `before` it is amended.

    Refused if that is more than is available, or a short sell of what may not be sold short.
    """
    available = portfolio.cash(db, owner).available
    held = {position.ticker: position for position in portfolio.positions(db, owner)}
    fees = portfolio.taker_fees(db)
    without = portfolio.tied_up(held, others, fees)
    present = without if before is None else portfolio.tied_up(held, [*others, before], fees)
    wanted = portfolio.tied_up(held, [*others, order], fees)
    if wanted[1] > present[1] and not product.allow_short:
        raise Refused(
            "short_not_allowed", "R17", f"{product.name} may not be sold beyond the shares held"
        )
    more = sum(wanted) - sum(present)
    position = held.get(product.name)
    asked = sum(wanted) - sum(without) - (_freed(position, others, order) if position else 0)
    if more > 0 and asked > max(0, available + sum(present) - sum(without)):
        ties_up = (
            f"order ties up {_money(asked)}"
            if before is None
            else f"change ties up {_money(more)} more"
        )
        raise Refused(
            "insufficient_cash",
            "R17",
            f"this {ties_up}; {_money(max(0, available))} is available",
        )
    return more


def _money(amount: int) -> str:
    return grouped(format_price(amount))


def _freed(position: Position, others: Sequence[Working], order: Working) -> int:
    """What buying back a short position frees of the cash it ties up, and so may be spent on it.

    Without this nobody whose cash is all tied up by a short position could ever close it.
    """
    if order.side is not Side.BUY or position.shares >= 0:
        return 0
    owed = -position.shares
    buying = sum(
        other.quantity
        for other in others
        if other.ticker == order.ticker and other.side is Side.BUY
    )
    quantity = order.amended[-1][0] if order.amended else order.quantity
    return 2 * position.cost * min(quantity, max(0, owed - buying)) // owed


def _mark_journaled(db: DAL, owner: int, *, at: int) -> None:
    """Intents whose order has a row need not be looked at again."""
    of_intent = (
        "FROM buy_sell_order o WHERE o.created_by = order_intent.owner"
        " AND o.ticker = order_intent.ticker AND o.client_id = order_intent.client_id"
        " AND o.client_id <> ''"
    )
    execute(
        db,
        f"UPDATE order_intent SET state = 'journaled', oid = (SELECT MAX(o.oid) {of_intent}),"
        f" modified_on = ? WHERE owner = ? AND state IN {OPEN_INTENTS}"
        f" AND EXISTS (SELECT 1 {of_intent})",
        at,
        owner,
    )


def follow_rows(db: DAL, ticker: str, *, at: int) -> None:
    """The product's order rows were made anew: its intents say again what they show.

    One that was journaled and has no row now is unknown: the exchange has to be asked.
    """
    owners = rows(
        db,
        f"SELECT DISTINCT owner FROM order_intent WHERE ticker = ? AND state IN {OPEN_INTENTS}",
        ticker,
    )
    for (owner,) in owners:
        _mark_journaled(db, owner, at=at)
    execute(
        db,
        "UPDATE order_intent SET state = 'unknown', modified_on = ? WHERE id IN (SELECT i.id FROM"
        f" order_intent i WHERE i.ticker = ? AND i.state = 'journaled' AND {WITHOUT_ROW})",
        at,
        ticker,
    )


def _move(
    db: DAL,
    intent: int,
    state: State,
    *,
    at: int,
    oid: int = 0,
    code: str = "",
    message: str = "",
) -> None:
    """Put an intent into a new state.

    One whose order is journaled stays so: an answer may come later than its row.
    """
    execute(
        db,
        "UPDATE order_intent SET state = ?, oid = ?, code = ?, message = ?, modified_on = ?"
        " WHERE id = ? AND state <> 'journaled'",
        str(state),
        oid,
        code[:32],
        message[:512],
        at,
        intent,
    )


def _deadline(intent: Intent) -> int:
    """From then on (µs) no matching server takes the command any more."""
    assert intent.command.ts is not None
    return intent.command.ts * 1000 + TS_WINDOW


def _stored_request(db: DAL, intent: int) -> Request:
    found = rows(db, "SELECT request FROM order_intent WHERE id = ?", intent)
    return msgspec.json.decode(found[0][0], type=Request)


def _encode(request: Request) -> str:
    return msgspec.json.encode(request).decode("ascii")


def _intent(row: Any) -> Intent:
    intent, owner, ticker, client_id, state = row[:5]
    side, quantity, price, stop, tif, stp, ts, post, peak = row[5:14]
    reserved, oid, code, message = row[14:]
    return Intent(
        id=intent,
        owner=owner,
        ticker=ticker,
        client_id=client_id,
        state=State(state),
        command=NewOrder(
            ticker=ticker,
            owner=owner,
            side=Side(side),
            quantity=quantity,
            price=price,
            stop=stop,
            client_id=client_id,
            tif=TimeInForce(tif),
            stp=SelfTrade(stp),
            post=post == "T",
            peak=peak,
            ts=ts,
        ),
        reserved=reserved,
        oid=oid or None,
        code=code,
        message=message,
    )
