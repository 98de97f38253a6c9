"""Amend: another quantity, price or stop for an open order, and all of it covered (R6, R17).

    find        the order as the matching server has it now
    reserve     what it may ask for after the change is checked, and stored
    send        over the trading line, as the logged-in owner, with `ts`
    note        the journal record that it is in, or nothing if it was refused

While an amend is on its way its order counts as what asks for more, so that cash is promised once
whatever arrives, in whichever order. If the answer is lost (202) that lasts until the reconciler
knows by which record it must be in.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from app.controllers import orders
from app.controllers.base import Answer, Audience, Platform, Request, Result, expose
from app.controllers.markets import Market
from app.models import amends, intents, products
from app.models.amends import Amending, Change, Order, Unsettled
from app.models.db import DAL, DatabaseAway, now
from app.models.products import Product
from matching import protocol
from matching.client import Away, Refused, Unanswered
from matching.order import Phase, Side

AMEND_FIELDS = ("product", "oid", "quantity", "price", "stop", "owner", "_next")

log = logging.getLogger("webserver")


@expose(Audience.TRADERS, methods=("POST",), fields=AMEND_FIELDS)
async def amend(request: Request) -> Result:
    """product, oid, quantity (the new total), price, stop (empty: as it is), owner, _next."""
    return await orders.tell(request, _amend(request), _sentence)


def _sentence(answer: dict[str, Any]) -> str:
    if answer.get("unknown"):
        return str(answer["message"])
    amended = next(event for event in answer["events"] if event["event"] == "amended")
    price = amended["price"] or "market"
    stop = f", stop {amended['stop']}" if amended["stop"] else ""
    words = f"Order #{answer['oid']} is now {amended['quantity']} at {price}{stop}"
    return f"{words}: {answer['filled']} filled, {answer['remaining']} open"


async def _amend(request: Request) -> Answer:
    orders.require_owner(request)
    market = orders.market_of(request)
    (oid, change), owner = _read(request.form), request.trader.id
    orders.leave_room_for_others(request.platform, owner)
    market.being_amended.append(owner)
    try:
        return await _reserve_and_send(request.platform, market, owner, oid, change)
    finally:
        market.being_amended.remove(owner)


def _read(form: Mapping[str, str]) -> tuple[int, Change]:
    """The order's number and the change; Problem with a sentence for what is written wrong."""
    if not re.fullmatch("[0-9]{1,12}", form.get("oid", ""), re.ASCII):
        raise orders.bad_form("oid is an order's number")
    change = Change(
        quantity=orders.read_quantity(form),
        price=orders.read_price(form, "price") or None,
        stop=orders.read_price(form, "stop") or None,
    )
    return int(form["oid"]), change


async def _reserve_and_send(
    platform: Platform, market: Market, owner: int, oid: int, change: Change
) -> Answer:
    order, lineage = await _find(market, owner, oid)
    try:
        amending = await platform.transactions.write(
            _reserve,
            owner,
            market.product,
            order,
            change,
            lineage=lineage,
            bids=market.levels(Side.BUY),
            last=market.quote().value,
            is_auction=market.quote().phase == Phase.AUCTION,
            ts=market.trading.clock.now_ms(),
            at=now(),
        )
    except intents.Refused as refused:
        raise orders.refused_problem(refused) from refused
    return await _send(platform, market, amending)


async def _find(market: Market, owner: int, oid: int) -> tuple[Order, str]:
    """The order as it is now, and the lineage of the journal in which it has its number."""
    hello = market.trading.hello
    if hello is None or not market.can_trade:
        raise orders.away_problem(market)
    try:
        found = await market.trading.find(oid=oid, owner=owner)
        return amends.order_of(found["order"]), hello["lineage"]
    except Refused as refused:
        raise orders.problem_of(refused) from refused
    except intents.Refused as refused:
        raise orders.refused_problem(refused) from refused
    except (Away, Unanswered) as lost:
        raise orders.away_problem(market) from lost


def _reserve(
    db: DAL,
    /,
    owner: int,
    product: Product,
    order: Order,
    change: Change,
    **market: Any,
) -> Amending:
    """Reserve for the product as it is now: the market may not know yet that it was changed."""
    current = products.hold(db, product.id)
    if current is None or not current.active or current.name != product.name:
        message = f"{product.name} takes no changes of orders at present; they can be canceled"
        raise intents.Refused("unknown_ticker", "", message)
    return amends.reserve(db, owner, current, order, change, **market)


async def _send(platform: Platform, market: Market, amending: Amending) -> Answer:
    """Send the command and note what became of it.

    Not to another journal than the order's: there its number is another order's.
    """
    try:
        if (market.trading.hello or {}).get("lineage") != amending.lineage:
            raise Away("the market has begun anew")
        answer = await market.trading.send(protocol.format(amending.command))
    except Refused as refused:
        await _note(platform, amending, dropped=True)
        raise orders.problem_of(refused) from refused
    except Away as away:
        await _note(platform, amending, dropped=True)
        raise orders.away_problem(market) from away
    except Unanswered:
        message = (
            f"The connection to the exchange of {market.ticker} was lost before it answered:"
            " your open orders will tell whether the change is in"
        )
        return Answer(202, {"unknown": True, "message": message})
    await _note(platform, amending, seq=answer["seq"])
    return Answer(200, orders.shown(answer))


async def _note(
    platform: Platform, amending: Amending, *, seq: int = 0, dropped: bool = False
) -> None:
    """Store an outcome. If the database is away the reconciler finds it out again, later."""
    write = platform.transactions.write
    try:
        if dropped:
            await write(amends.dropped, amending.id)
        else:
            await write(amends.settled_by, amending.id, seq=seq)
    except DatabaseAway as away:
        command = amending.command
        log.warning("amend of order %d of owner %d: %s", command.oid, command.owner, away)


# -- the reconciler's part


async def reconcile(platform: Platform) -> None:
    """Find out by which record amends are in whose answers were lost, if they are in at all.

    Once no matching server would take the command any more, that is the present record of any. One
    that was in a journal which is no more is forgotten.
    """
    write = platform.transactions.write
    for amend in await platform.transactions.read(amends.unsettled, older_than=now()):
        market = platform.markets.find(amend.ticker)
        hello = market.trading.hello if market is not None and market.can_trade else None
        if market is None or hello is None:
            continue
        if hello["lineage"] != amend.lineage:
            await write(amends.dropped_if_lost, amend.id, lineage=hello["lineage"])
        elif not amend.seq and not amend.can_still_arrive(server_ms=market.trading.clock.now_ms()):
            seq = await _present_record(market, amend)
            if seq is not None:
                await write(amends.settled_by, amend.id, seq=seq)


async def _present_record(market: Market, amend: Unsettled) -> int | None:
    """The newest durable record of the amend's journal; None: ask again."""
    try:
        return int((await market.trading.find(oid=amend.oid, owner=amend.owner))["seq"])
    except Refused as refused:
        seq = refused.answer.get("seq")
        return None if seq is None else int(seq)
    except (Away, Unanswered):
        return None
