"""Orders: from a form to the matching server, and never twice (R17, PROTOCOL §4).

The way of an order, each step in a transaction of its own and no wait inside one:

    reserve     the cash it may cost is checked, and stored beside its browser-made id
    send        over the trading line, as the logged-in owner, with `ts` and `id`
    note        accepted with its oid, or rejected: then the cash is free again

A second request with the same id gets what became of the first, and sends nothing. An order whose
answer was lost is *unknown* (202): its cash stays reserved until the reconciler, which asks the
matching server and the database, knows. It also takes up what a stopped web server left behind.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, assert_never
from urllib.parse import urlencode

import msgspec

from app.controllers.base import (
    HOME,
    Answer,
    Audience,
    Platform,
    Problem,
    Redirect,
    Request,
    Result,
    expose,
    local_path,
)
from app.controllers.markets import Market
from app.models import intents, portfolio, products
from app.models.db import DAL, DatabaseAway, now
from app.models.intents import Intent, State
from app.models.products import Product
from matching import protocol
from matching.client import Away, Refused, Unanswered
from matching.order import (
    Cancel,
    CancelAll,
    Phase,
    SelfTrade,
    Side,
    TimeInForce,
    format_price,
    parse_price,
)

RECONCILE_SECONDS = 5.0

ORDERS_AT_ONCE = 20
"""So many orders and amends of one trader may be on their way; a browser has six lines."""

ORDER_FIELDS = (
    "type",
    "product",
    "quantity",
    "price",
    "stop",
    "id",
    "tif",
    "stp",
    "post",
    "peak",
    "owner",
)
TICKET_FIELDS = ("type", "quantity", "price", "stop", "tif", "peak", "post")
"""What a trader writes into the ticket. A plain form that was refused comes back with it."""

TYPED_LIMIT = 40
"""So many characters of a field are kept; none that is right has more."""

DELETE_FIELDS = ("product", "oid", "owner", "_next")

UNSEEN_SECONDS = 60.0
"""log2db has this long to write an accepted order's row before anybody asks about it."""

FOLLOW_SECONDS = 1.0
FOLLOW_POLL_SECONDS = 0.05
"""How long the reconciler waits for log2db, and how often it looks."""

SENDING_SECONDS = 2.0
"""An order without an answer is shown as being checked from then on."""

ASKED_LIMIT = 20
"""A page may ask what became of so many orders at once."""

ORDER_ID = re.compile(r"web-[A-Za-z0-9_.:-]{1,32}", re.ASCII)
"""The platform's client ids begin `web-` (PROTOCOL §4)."""

STATUS_OF_CODE = {
    "bad_syntax": 400,
    "bad_request": 400,
    "not_owner": 403,
    "venue_only": 403,
    "unknown_ticker": 404,
    "too_large": 413,
    "throttled": 429,
    # To the matching server it is we who signed: the trader can only come back later.
    "bad_signature": 503,
    "stale_timestamp": 503,
    "busy": 503,
    "no_space": 503,
    "not_ready": 503,
}
"""PROTOCOL §3's status of a code; 422 for all others."""


class _Reply(msgspec.Struct, frozen=True):
    """What a matching server says of an intent; oid None: not found, up to record `seq` of its
    journal `lineage`.
    """

    intent: Intent
    oid: int | None
    seq: int
    lineage: str
    asked_at: int


E = TypeVar("E", Side, TimeInForce, SelfTrade)
K = TypeVar("K")

log = logging.getLogger("webserver")


def read_doubts(db: DAL, owner: int, ticker: str, also: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The owner's orders without an outcome, as a page shows them; `also`: ids that it waits for.

    From here a page learns what became of an order whose answer was lost, whichever web server
    sent it and whichever found out.
    """
    asked_for = [client_id for client_id in also if ORDER_ID.fullmatch(client_id)][:ASKED_LIMIT]
    sending_ends = now() - round(SENDING_SECONDS * 1_000_000)
    found = intents.doubts(db, owner, ticker, older_than=sending_ends, also=asked_for)
    return [
        {
            "id": doubt.request.client_id,
            "state": doubt.state,
            "oid": doubt.oid,
            "message": doubt.message,
            "side": doubt.request.side,
            "quantity": doubt.request.quantity,
            "price": format_price(doubt.request.price) if doubt.request.price else None,
            "stop": format_price(doubt.request.stop) if doubt.request.stop else None,
        }
        for doubt in found
    ]


def new_order_id() -> str:
    """An id for an order form, made where the form is made, so that sending it twice is once."""
    return f"web-{secrets.token_hex(10)}"


@expose(Audience.TRADERS, methods=("POST",), fields=ORDER_FIELDS)
async def order(request: Request) -> Result:
    """type=buy|sell, product, quantity, price (empty: market), stop, id, tif, stp, owner.

    `post=on`: only to rest (R8). `peak`: so many of it are shown (R9); empty or 0: all.
    """
    return await tell(request, _place(request), _sentence, kept=TICKET_FIELDS)


@expose(Audience.TRADERS, methods=("POST",), fields=DELETE_FIELDS)
async def delete(request: Request) -> Result:
    """product, oid (or `all`), owner: cancel an order; _next: the page of a plain form."""
    return await tell(request, _cancel(request), _sentence)


def require_owner(request: Request) -> None:
    """Problem if the form names as `owner` somebody else than who is logged in now.

    A page's forms name the account that it was drawn for: the log-in is the whole browser's, and
    may have changed in another tab since. A program may leave it out.
    """
    if request.form.get("owner", "") not in ("", str(request.trader.id)):
        message = (
            f"You are logged in as {request.trader.username} now, and this page was another"
            " account's: nothing was sent. Load the page again"
        )
        raise Problem(403, "not_owner", message)


# -- the answer, to scripts and to plain forms


async def tell(
    request: Request,
    work: Coroutine[Any, Any, Answer],
    sentence: Callable[[dict[str, Any]], str],
    *,
    kept: Sequence[str] = (),
) -> Result:
    """The answer as it is to who asked for JSON; else as a sentence on the form's page.

    If it is refused, that page is told what was written in the fields that are to be `kept`.
    """
    if request.wants_json:
        return await work
    product = request.form.get("product", "")
    trade_page = f"/default/trade/{product}" if re.fullmatch("[0-9]{1,18}", product) else HOME
    back = local_path(request.form.get("_next", ""), trade_page)
    try:
        answer = await work
    except Problem as problem:
        typed = {name: request.form[name][:TYPED_LIMIT] for name in kept if request.form.get(name)}
        back += f"?{urlencode(typed)}" if typed else ""
        return Redirect(back, problem.message, is_error=True)
    return Redirect(back, sentence(answer.values))


def _sentence(answer: dict[str, Any]) -> str:
    if answer.get("unknown"):
        return str(answer["message"])
    if "oid" not in answer:
        canceled = [event for event in answer["events"] if event["event"] == "canceled"]
        return f"{len(canceled)} order{'' if len(canceled) == 1 else 's'} canceled"
    status = answer["status"].replace("_", " ")
    return (
        f"Order #{answer['oid']}: {status}, {answer['filled']} filled, {answer['remaining']} open"
    )


# -- placing an order


async def _place(request: Request) -> Answer:
    require_owner(request)
    market = market_of(request)
    owner, wanted = request.trader.id, read_order(request.form)
    if (owner, wanted) not in market.being_sent:
        leave_room_for_others(request.platform, owner)
    return await send_once(request.platform, market, owner, wanted)


def leave_room_for_others(platform: Platform, owner: int) -> None:
    """Problem for who has many orders or amends on their way: each waits for the one writer.

    Counted neither by address, which a hall of students may share, nor by time: orders that come
    one after another hold nobody up.
    """
    under_way = 0
    for market in platform.markets:
        under_way += sum(sender == owner for sender, _ in market.being_sent)
        under_way += market.being_amended.count(owner)
    if under_way >= ORDERS_AT_ONCE:
        message = (
            f"{ORDERS_AT_ONCE} orders of yours are on their way already; this one was not sent"
        )
        raise Problem(429, "throttled", message, retry_after=1)


async def send_once(
    platform: Platform,
    market: Market,
    owner: int,
    wanted: intents.Request,
    *,
    unless_since: intents.Traffic | None = None,
) -> Answer:
    """Reserve and send an order; the same one again gets the answer to the first.

    The answer is the order, or 202 if its own was lost. Problem if it is refused. Moved, and
    nothing is sent, if the owner's orders in the product are not those of `unless_since` any more.
    """
    return await once(
        market.being_sent,
        (owner, wanted),
        lambda: _reserve_and_send(platform, market, owner, wanted, unless_since),
    )


async def once(
    under_way: dict[K, asyncio.Future[Answer]],
    key: K,
    begin: Callable[[], Coroutine[Any, Any, Answer]],
) -> Answer:
    """What the work under this key comes to; who asks while it is under way waits for the same.

    Shielded: what one request began goes on when its browser goes away, for the other one.
    """
    work = under_way.get(key)
    if work is None:
        work = under_way[key] = asyncio.ensure_future(begin())
        work.add_done_callback(lambda _: under_way.pop(key))
    return await asyncio.shield(work)


def market_of(request: Request) -> Market:
    """The market of the form's product; Problem if it is not served, or nobody knows yet."""
    product = request.form.get("product", "")
    market = None
    if re.fullmatch("[0-9]{1,18}", product, re.ASCII):
        market = request.platform.markets.get(int(product))
    if market is None and not request.platform.markets.are_known:
        message = "The platform has just started; nothing was sent. Try again"
        raise Problem(503, "not_ready", message)
    if market is None:
        message = f"There is no product {product[:40]!r} to trade"
        raise Problem(404, "unknown_ticker", message)
    return market


def read_order(form: Mapping[str, str]) -> intents.Request:
    """The order that a form asks for; Problem with a sentence for what is written wrong.

    Only the writing is checked here: the matching server knows the rules.
    """
    return intents.Request(
        side=_choice(Side, form.get("type", ""), "type"),
        quantity=read_quantity(form),
        price=read_price(form, "price"),
        stop=read_price(form, "stop"),
        client_id=read_id(form),
        tif=_choice(TimeInForce, form.get("tif") or TimeInForce.GTC, "tif"),
        stp=_choice(SelfTrade, form.get("stp") or SelfTrade.TAKER, "stp"),
        post=_is_on(form.get("post", ""), "post"),
        peak=_peak(form.get("peak", "")),
    )


def read_id(form: Mapping[str, str]) -> str:
    """The id that the form made for its order, a new one if it has none."""
    client_id = form.get("id") or new_order_id()
    if not ORDER_ID.fullmatch(client_id):
        raise bad_form("An order's id begins with web- and has at most 36 letters and digits")
    return client_id


def bad_form(message: str) -> Problem:
    """The answer to what is written wrong."""
    return Problem(400, "bad_request", message)


def _choice(choices: type[E], text: str, name: str) -> E:
    try:
        return choices(text)
    except ValueError as error:
        raise bad_form(f"{name} is one of {', '.join(choices)}") from error


def _is_on(text: str, name: str) -> bool:
    if text not in ("", "on"):
        raise bad_form(f"{name} is on, or left out")
    return text == "on"


def _peak(text: str) -> int:
    if not re.fullmatch("[0-9]{0,12}", text.strip(), re.ASCII):
        raise bad_form("Show is a whole number of shares, or nothing")
    return int(text.strip() or 0)


def read_quantity(form: Mapping[str, str]) -> int:
    """The whole number in the form's `quantity`."""
    text = form.get("quantity", "").strip()
    if not re.fullmatch("[0-9]{1,12}", text, re.ASCII):
        raise bad_form("Quantity is a whole number of shares")
    return int(text)


def read_price(form: Mapping[str, str], name: str) -> int:
    """The form's `price` or `stop` in ten-thousandths; 0 if it is empty."""
    try:
        return parse_price(form.get(name, "").strip() or "0")
    except ValueError as error:
        raise bad_form(f"{name.capitalize()}: {error}") from error


async def _reserve_and_send(
    platform: Platform,
    market: Market,
    owner: int,
    wanted: intents.Request,
    unless_since: intents.Traffic | None,
) -> Answer:
    transactions = platform.transactions
    if not market.can_trade:
        known = await transactions.read(intents.get, owner, market.ticker, wanted.client_id)
        if known is not None:
            return await what_became(market, known)
        raise away_problem(market)
    try:
        intent = await transactions.write(
            _reserve,
            owner,
            market.product,
            wanted,
            unless_since=unless_since,
            bids=market.levels(Side.BUY),
            asks=market.levels(Side.SELL),
            last=market.quote().value,
            is_auction=market.quote().phase == Phase.AUCTION,
            ts=market.trading.clock.now_ms(),
            at=now(),
        )
    except intents.Refused as refused:
        raise refused_problem(refused) from refused
    if not intent.fresh:
        return await what_became(market, intent)
    return await _send(platform, market, intent)


def _reserve(
    db: DAL,
    /,
    owner: int,
    product: Product,
    wanted: intents.Request,
    unless_since: intents.Traffic | None = None,
    **market: Any,
) -> Intent:
    """Reserve for the product as it is now: the market may not know yet that it was changed."""
    current = products.hold(db, product.id)
    if unless_since is not None:
        intents.require_still(db, owner, product.name, unless_since)
    if current is not None and current.active and current.name == product.name:
        return intents.reserve(db, owner, current, wanted, **market)
    known = intents.get(db, owner, product.name, wanted.client_id)
    if known is None or known.state in (State.REJECTED, State.NEVER):
        raise intents.Refused(
            "unknown_ticker", "", f"{product.name} takes no new orders at present"
        )
    return known


async def _send(platform: Platform, market: Market, intent: Intent) -> Answer:
    """Send a fresh intent's command and note the outcome; the one place that sends an order."""
    try:
        answer = await market.trading.send(protocol.format(intent.command))
    except Refused as refused:
        problem = problem_of(refused)
        await _note(platform, intents.rejected, intent, code=problem.code, message=problem.message)
        raise problem from refused
    except Away as away:
        problem = away_problem(market)
        await _note(platform, intents.rejected, intent, code=problem.code, message=problem.message)
        raise problem from away
    except Unanswered:
        await _note(platform, intents.unknown, intent)
        return _unknown(market, intent)
    await _note(platform, intents.accepted, intent, oid=answer["oid"])
    return Answer(200, shown(answer))


async def _note(
    platform: Platform, change: Callable[..., None], intent: Intent, **what: Any
) -> None:
    """Store an outcome. If the database is away the reconciler finds it out again, later."""
    try:
        await platform.transactions.write(change, intent.id, at=now(), **what)
    except DatabaseAway as away:
        log.warning("order %s of owner %d: %s", intent.client_id, intent.owner, away)


async def what_became(market: Market, intent: Intent) -> Answer:
    """The answer to an order that was sent before, or is on its way from elsewhere."""
    match intent.state:
        case State.ACCEPTED | State.JOURNALED:
            try:
                found = await market.trading.find(client_id=intent.client_id, owner=intent.owner)
            except (Away, Unanswered):
                return _unknown(market, intent)
            except Refused as refused:
                raise problem_of(refused) from refused
            known = found["order"]
            events = [{"event": "duplicate", "oid": known["oid"]}]
            return Answer(200, shown({**known, "events": events}))
        case State.REJECTED:
            raise Problem(STATUS_OF_CODE.get(intent.code, 422), intent.code, intent.message)
        case State.NEVER:
            message = "This order never reached the exchange, and its cash is free again"
            raise Problem(503, "not_ready", message)
        case State.RESERVED | State.UNKNOWN:
            return _unknown(market, intent)
    assert_never(intent.state)


def shown(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What of a matching server's answer goes to the browser.

    The platform is told of everything that a command has caused, other people's stops included; a
    trader only of the order (of `all`: of each that was canceled).
    """
    names = ("seq", "oid", "status", "filled", "remaining", "events")
    shown = {name: answer[name] for name in names if name in answer}
    if "oid" in shown:
        shown["events"] = [event for event in shown["events"] if _names(event, shown["oid"])]
    return shown


def _names(event: Mapping[str, Any], oid: int) -> bool:
    return oid in (event.get("oid"), event.get("buy"), event.get("sell"))


def refused_problem(refused: intents.Refused) -> Problem:
    """The platform's own no."""
    status = STATUS_OF_CODE.get(refused.code, 422)
    return Problem(status, refused.code, str(refused), rule=refused.rule)


def problem_of(refused: Refused) -> Problem:
    """A matching server's no, with its code and sentence."""
    status = STATUS_OF_CODE.get(refused.code, 422)
    return Problem(status, refused.code, refused.message, rule=refused.rule)


def away_problem(market: Market) -> Problem:
    """The answer while the matching server cannot be reached."""
    message = f"The exchange of {market.ticker} is away; nothing was sent. Try again soon"
    return Problem(503, "not_ready", message, retry_after=2)


def _unknown(market: Market, intent: Intent) -> Answer:
    message = (
        f"The connection to the exchange of {market.ticker} was lost before it answered:"
        " whether the order is in is being checked"
    )
    return Answer(202, {"unknown": True, "id": intent.client_id, "message": message})


# -- canceling


async def _cancel(request: Request) -> Answer:
    require_owner(request)
    market = market_of(request)
    oid, owner = request.form.get("oid", ""), request.trader.id
    ts = market.trading.clock.now_ms()
    command: Cancel | CancelAll
    if oid == "all":
        command = CancelAll(ticker=market.ticker, owner=owner, ts=ts)
    elif re.fullmatch("[0-9]{1,12}", oid, re.ASCII):
        command = Cancel(ticker=market.ticker, owner=owner, oid=int(oid), ts=ts)
    else:
        raise bad_form("oid is an order's number, or all")
    try:
        return Answer(200, shown(await market.trading.send(protocol.format(command))))
    except Refused as refused:
        raise problem_of(refused) from refused
    except Away as away:
        raise away_problem(market) from away
    except Unanswered:
        message = (
            f"The connection to the exchange of {market.ticker} was lost before it answered:"
            " your open orders will tell; to cancel once more does no harm"
        )
        return Answer(202, {"unknown": True, "message": message})


# -- the reconciler


async def keep_reconciling(
    platform: Platform, *reconcilers: Callable[[Platform], Awaitable[None]]
) -> None:
    """Find out what became of what has no outcome yet, now and every 5 s, until cancelled."""
    while True:
        try:
            for each in reconcilers:
                await each(platform)
        except DatabaseAway as away:
            log.warning("reconciler: %s", away)
        await asyncio.sleep(RECONCILE_SECONDS)


async def reconcile(platform: Platform) -> None:
    """Ask each live matching server about the orders of which nobody knows whether they are in.

    Also about accepted ones whose row is overdue: their journal may have been lost.
    """
    read = platform.transactions.read
    live = [market.ticker for market in platform.markets if market.can_trade]
    overdue = now() - round(UNSEEN_SECONDS * 1_000_000)
    await find_out(
        platform,
        [
            *await read(intents.unresolved),
            *await read(intents.unseen, live, older_than=overdue),
        ],
    )


async def find_out(platform: Platform, wanted: list[Intent]) -> None:
    """Ask the live matching servers about these orders, and note what became of them."""
    replies = []
    for intent in wanted:
        market = platform.markets.find(intent.ticker)
        if market is None or not market.can_trade:
            continue
        if not market.is_sending(intent.owner, intent.client_id):
            replies += await _ask(market, intent)
    await _let_database_follow(platform, replies)
    for reply in replies:
        await _resolve(platform, reply)


async def _ask(market: Market, intent: Intent) -> list[_Reply]:
    """What `find` answers; nothing if it cannot be asked now."""
    asked_at = market.trading.clock.now_ms() * 1000
    hello = market.trading.hello
    if hello is None or not market.can_trade:
        return []
    lineage = hello["lineage"]  # of the connection that is asked: a new one would answer nothing
    try:
        found = await market.trading.find(client_id=intent.client_id, owner=intent.owner)
    except Refused as refused:
        if refused.code != "order_not_found":
            return []
        return [_Reply(intent, None, refused.answer["seq"], lineage, asked_at)]
    except (Away, Unanswered):
        return []
    return [_Reply(intent, found["order"]["oid"], found["seq"], lineage, asked_at)]


async def _let_database_follow(platform: Platform, replies: list[_Reply]) -> None:
    """Wait, but not long, until the database has come as far as the replies that say "not found".

    On a busy market it is always a little behind: without this no order would ever be given up.
    """
    wanted = {reply.intent.ticker: reply.seq for reply in replies if reply.oid is None}
    end = time.monotonic() + FOLLOW_SECONDS
    while wanted and time.monotonic() < end:
        settled = await platform.transactions.read(portfolio.all_as_of)
        wanted = {ticker: seq for ticker, seq in wanted.items() if settled.get(ticker, 0) < seq}
        if wanted:
            await asyncio.sleep(FOLLOW_POLL_SECONDS)


async def _resolve(platform: Platform, reply: _Reply) -> None:
    intent = reply.intent
    state = await platform.transactions.write(
        intents.resolve,
        intent,
        found_oid=reply.oid,
        seq=reply.seq,
        lineage=reply.lineage,
        asked_at=reply.asked_at,
        at=now(),
    )
    if state is not intent.state and state in (State.ACCEPTED, State.NEVER):
        log.info("order %s of owner %d: %s", intent.client_id, intent.owner, state)
