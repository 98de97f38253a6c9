"""Flatten: a trader's way out of one product. No open orders, then no shares held or owed.

    wait      until no order that the platform sent for the owner can arrive any more
    cancel    all open orders of the owner in the product (R13)
    look      at the position: the matching server's own, after the cancel, not the database's
    order     its opposite, at market with stp=maker, by the one way of orders (orders.py)

Between look and order only the owner's own orders can change the position. The order is reserved
only if the platform has taken no other meanwhile, from whatever tab or web server; else all begins
anew. So of two that flatten at once the second finds what the first has left, and nobody who holds
shares ends up short. What a program sends to the matching server past the platform is not seen.

The form's id is the order's (R14): the same form again gets what became of it, and sends nothing.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from app.controllers import orders
from app.controllers.base import (
    Answer,
    Audience,
    Platform,
    Problem,
    Request,
    Result,
    expose,
)
from app.controllers.markets import Market
from app.models import intents, portfolio
from app.models.db import DAL, DatabaseAway
from app.models.figures import grouped
from app.models.intents import Intent, State, Traffic
from matching import protocol
from matching.client import Away, Refused, Unanswered
from matching.order import (
    CancelAll,
    NewOrder,
    SelfTrade,
    Side,
    format_price,
    parse_price,
)

FIELDS = ("product", "id", "owner", "_next")

AT_ONCE = 5
"""So many go on at once for one owner in one product: each asks the database again and again."""

ROUNDS = 5
"""How often it begins anew because other orders of the owner came in between."""

FOLLOW_SECONDS = 1.0
POLL_SECONDS = 0.05
"""How long the database and the shown book may take to learn of the cancel; how often to look."""

REASONS = {
    "no_liquidity": "nobody {others} at present (R2)",
    "ioc": "nobody {others} at up to 5 % above what the book showed (R17)",
    "collar": "the rest of the book lies beyond the collar (R3)",
    "breaker": "the circuit breaker halted the market (R12)",
}
"""Why a market order was canceled before it was filled."""

IN_PARTS = ("max_quantity", "max_notional", "invalid_order")
"""Refusals of orders that are too large: smaller ones would go in."""


class _Known(msgspec.Struct, frozen=True):
    """What the platform knows of an owner's orders in a product, seen at one moment."""

    same_id: Intent | None
    on_their_way: list[Intent]
    traffic: Traffic


class _Course:
    """How far a flatten has come, for what is said if it goes no further."""

    __slots__ = ("canceled", "client_id", "market", "owner", "position")

    def __init__(self, market: Market, owner: int, client_id: str) -> None:
        self.market = market
        self.owner = owner
        self.client_id = client_id
        self.canceled = 0
        self.position: int | None = None
        """The shares held (negative: owed) when last looked at; None: not looked at yet."""

    def stopped(self, problem: Problem) -> Problem:
        """The problem, with what has been done before it and what has not."""
        done = [_canceled(self.canceled)] if self.canceled else []
        if self.position is not None:
            done.append(_still_open(self.market.ticker, self.position))
        elif self.canceled:
            done.append("no order was sent")
        if not done:
            return problem
        words = f"{', but '.join(done)}: {problem.message}"
        if problem.code in IN_PARTS:
            words += ". Close it in smaller parts"
        return Problem(
            problem.status,
            problem.code,
            words[0].upper() + words[1:],
            rule=problem.rule,
            retry_after=problem.retry_after,
        )

    def answer(self, status: int, message: str, **values: Any) -> Answer:
        """What is answered; `position` is what is left, None if nobody knows."""
        if self.canceled:
            message = f"{_canceled(self.canceled)}. {message}"
        told = {"message": message, "canceled": self.canceled, "position": None, "order": None}
        return Answer(status, {**told, **values})


@expose(Audience.TRADERS, methods=("POST",), fields=FIELDS)
async def flatten(request: Request) -> Result:
    """product, id, owner: cancel all orders in it and close the position; _next: see delete."""
    return await orders.tell(request, _flatten(request), lambda answer: str(answer["message"]))


async def _flatten(request: Request) -> Answer:
    orders.require_owner(request)
    market = orders.market_of(request)
    course = _Course(market, request.trader.id, orders.read_id(request.form))
    key = (course.owner, course.client_id)
    under_way = sum(owner == course.owner for owner, _ in market.being_flattened)
    if key not in market.being_flattened and under_way >= AT_ONCE:
        message = f"This is done {AT_ONCE} times for you already; nothing was sent"
        raise Problem(429, "throttled", message, retry_after=1)
    return await orders.once(
        market.being_flattened,
        key,
        lambda: _run(request.platform, course),
    )


async def _run(platform: Platform, course: _Course) -> Answer:
    try:
        for _ in range(ROUNDS):
            if (answer := await _try(platform, course)) is not None:
                return answer
        course.position = None
        message = f"other orders of yours in {course.market.ticker} kept coming in between"
        raise Problem(503, "busy", message, retry_after=1)
    except Problem as problem:
        raise course.stopped(problem) from problem
    except DatabaseAway as away:
        message = "the database is busy or away. Try again"
        raise course.stopped(Problem(503, "busy", message, retry_after=1)) from away


async def _try(platform: Platform, course: _Course) -> Answer | None:
    """One round; None: another order of the owner came in between."""
    market = course.market
    known = await _landed(platform, course)
    if known.same_id is not None:
        return await _told_before(course, known.same_id)
    if not market.can_trade:
        raise orders.away_problem(market)
    line = market.trading.hello
    course.position = None
    try:
        course.canceled += await _cancel_all(course)
    except Unanswered:
        message = (
            f"The connection to the exchange of {market.ticker} was lost before it answered:"
            " whether your open orders are canceled is not known. No order was sent, and your"
            " position is still open, if you had one"
        )
        return course.answer(202, message, unknown=True)
    course.position, seq = await _look(course)
    if not course.position:
        message = f"You hold no {market.ticker}, and owe none: there is nothing to close"
        return course.answer(200, message, position=0)
    await _follow(platform, market, seq)
    if market.trading.hello is not line:
        return None  # a server that was started anew may have another journal: look again
    wanted = intents.Request(
        side=Side.SELL if course.position > 0 else Side.BUY,
        quantity=abs(course.position),
        client_id=course.client_id,
        stp=SelfTrade.MAKER,
    )
    try:
        answer = await orders.send_once(
            platform, market, course.owner, wanted, unless_since=known.traffic
        )
    except intents.Moved:
        return None
    return _told(course, wanted, answer)


# -- the steps


async def _landed(platform: Platform, course: _Course) -> _Known:
    """What is known; once every order of it has arrived, or can arrive no more.

    Those whose answer was lost are asked about: what they hold may be needed.
    """
    market, read = course.market, platform.transactions.read
    known = await read(_read, course.owner, market.ticker, course.client_id)
    if known.same_id is not None:
        return known
    sent, awaited = known.on_their_way, {intent.id for intent in known.on_their_way}
    while awaited:
        server_ms = market.trading.clock.now_ms()
        awaited &= {
            intent.id for intent in sent if intents.can_still_arrive(intent, server_ms=server_ms)
        }
        if awaited:
            await asyncio.sleep(POLL_SECONDS)
            sent = await read(intents.on_their_way, course.owner, market.ticker)
    await orders.find_out(platform, sent)
    return known


def _read(db: DAL, owner: int, ticker: str, client_id: str) -> _Known:
    same_id = intents.get(db, owner, ticker, client_id)
    if same_id is not None and same_id.state in (State.REJECTED, State.NEVER):
        same_id = None  # nothing came of it: the id is free again
    return _Known(
        same_id,
        intents.on_their_way(db, owner, ticker),
        intents.traffic(db, owner, ticker),
    )


async def _cancel_all(course: _Course) -> int:
    """How many orders were canceled."""
    trading = course.market.trading
    command = CancelAll(ticker=course.market.ticker, owner=course.owner, ts=trading.clock.now_ms())
    try:
        answer = await trading.send(protocol.format(command))
    except Refused as refused:
        raise orders.problem_of(refused) from refused
    except Away as away:
        raise orders.away_problem(course.market) from away
    return sum(event["event"] == "canceled" for event in answer["events"])


async def _look(course: _Course) -> tuple[int, int]:
    """The position, and the journal record up to which it is one."""
    try:
        answer = await course.market.trading.open_orders(owner=course.owner)
    except Refused as refused:
        raise orders.problem_of(refused) from refused
    except (Away, Unanswered) as lost:
        message = f"the connection to the exchange of {course.market.ticker} was lost. Try again"
        raise Problem(503, "not_ready", message, retry_after=2) from lost
    return answer["position"], answer["seq"]


async def _follow(platform: Platform, market: Market, seq: int) -> None:
    """Wait, but not long, until the database and the shown book know of the cancel.

    What the orders tied up is free then, and the book that prices a market buy is without them.
    """
    end = time.monotonic() + FOLLOW_SECONDS
    while time.monotonic() < end:
        settled = await platform.transactions.read(portfolio.as_of, market.ticker)
        if min(settled, market.feed.seq) >= seq:
            return
        await asyncio.sleep(POLL_SECONDS)


# -- what is said


def _told(course: _Course, wanted: intents.Request | NewOrder, answer: Answer) -> Answer:
    """What an order came to that was to close the whole position."""
    ticker, side = course.market.ticker, wanted.side
    if answer.values.get("unknown"):
        words = f"{side} {grouped(wanted.quantity)} {ticker} at market: {answer.values['message']}"
        sent = {"side": str(side), "quantity": wanted.quantity}
        return course.answer(202, words, unknown=True, id=wanted.client_id, order=sent)
    order = answer.values
    rest = wanted.quantity - order["filled"]
    left = rest if side is Side.SELL else -rest
    words = _fill_words(ticker, side, wanted.quantity, order)
    words += f"; {_still_open(ticker, left)}" if left else ". The position is closed"
    return course.answer(200, words, position=left, order=order)


async def _told_before(course: _Course, intent: Intent) -> Answer:
    """What became of the order that this form sent before, and the position now."""
    answer = await orders.what_became(course.market, intent)
    if answer.values.get("unknown"):
        return _told(course, intent.command, answer)
    ticker, command = course.market.ticker, intent.command
    words = _fill_words(ticker, command.side, command.quantity, answer.values)
    position, _ = await _look(course)
    message = f"This was sent before: {words}. Your position is {grouped(position)} {ticker} now"
    return course.answer(200, message, position=position, order=answer.values)


def _fill_words(ticker: str, side: Side, quantity: int, order: Mapping[str, Any]) -> str:
    """What was traded, at what price, and why not all.

    >>> trades = [{"event": "trade", "quantity": 1, "price": p} for p in ("100.00", "100.01")]
    >>> _fill_words("intc", Side.SELL, 2, {"filled": 2, "events": trades})
    'Sold 2 intc at 100.005 on average'
    >>> canceled = {"event": "canceled", "reason": "no_liquidity"}
    >>> _fill_words("intc", Side.SELL, 2, {"filled": 1, "events": [trades[0], canceled]})
    'Sold 1 of 2 intc at 100.00: nobody buys more at present (R2)'
    >>> _fill_words("intc", Side.BUY, 2, {"filled": 0, "events": [canceled]})
    'Bought none of 2 intc: nobody sells at present (R2)'
    """
    filled, events = order["filled"], order["events"]
    of_all = "" if filled == quantity else f"{grouped(filled) if filled else 'none'} of "
    words = f"{'Sold' if side is Side.SELL else 'Bought'} {of_all}{grouped(quantity)} {ticker}"
    trades = [event for event in events if event["event"] == "trade"]
    if trades:
        cost = sum(trade["quantity"] * parse_price(trade["price"]) for trade in trades)
        average = grouped(format_price((2 * cost + filled) // (2 * filled)))
        is_one = len({trade["price"] for trade in trades}) == 1
        words += f" at {average}{'' if is_one else ' on average'}"
    for event in events:
        if event["event"] == "canceled" and event["reason"] in REASONS:
            others = "buys" if side is Side.SELL else "sells"
            words += f": {REASONS[event['reason']].format(others=others + ' more' * (filled > 0))}"
    return words


def _canceled(count: int) -> str:
    return f"{count} open order{'' if count == 1 else 's'} canceled"


def _still_open(ticker: str, position: int) -> str:
    return f"your position of {grouped(position)} {ticker} is still open"
