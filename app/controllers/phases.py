"""Phases: a manager pauses, resumes or closes a market, or calls an auction, or in all (R11).

The command goes over the platform's trading line, as the venue. What came of it is said for each
market: a server that is away has not heard it, and goes on in its own phase when it is back.
"""

import asyncio
import re
from collections import defaultdict

from app.controllers.base import Audience, Problem, Redirect, Request, Result, expose
from app.controllers.markets import Market
from matching import protocol
from matching.client import Away, Refused, Unanswered
from matching.order import Phase, SetPhase

ALL = "all"

DONE = {
    Phase.CONTINUOUS: "trading",
    Phase.HALTED: "halted",
    Phase.AUCTION: "in an auction",
    Phase.CLOSED: "closed",
}
"""What a market is after the command, of the phases that a manager can ask for."""

AWAY = "not reached, its exchange is away"
UNKNOWN = "asked, but the connection was lost before the answer: look at its state"


@expose(Audience.MANAGERS, methods=("POST",), fields=("product", "phase"))
async def phase(request: Request) -> Result:
    """product (or `all`), phase=continuous|halted|auction|closed: set it; say what came of it."""
    wanted = _wanted(request.form.get("phase", ""))
    product = request.form.get("product", "")
    markets = _markets(request, product)
    outcomes = await asyncio.gather(*(_set_phase(market, wanted) for market in markets))
    named = list(zip((market.ticker for market in markets), outcomes, strict=True))
    as_asked = (DONE[wanted], _already(wanted))
    results = [
        {"ticker": ticker, "is_done": outcome in as_asked, "outcome": outcome}
        for ticker, outcome in named
    ]
    if request.wants_json:
        return {"results": results}
    back = "/default/products" if product == ALL else f"/default/edit_product/{int(product)}"
    is_error = any(not result["is_done"] for result in results)
    return Redirect(back, report(named, DONE[wanted]), is_error=is_error)


def _wanted(text: str) -> Phase:
    if text not in DONE:
        raise Problem(400, "bad_request", f"phase is one of {', '.join(DONE)}")
    return Phase(text)


def _markets(request: Request, product: str) -> list[Market]:
    """The markets that are meant, by ticker."""
    markets = request.platform.markets
    if product == ALL:
        return sorted(markets, key=lambda market: market.ticker)
    known = re.fullmatch("[0-9]{1,18}", product, re.ASCII)
    market = markets.get(int(product)) if known else None
    if market is None:
        raise Problem(404, "unknown_ticker", f"There is no active product {product[:40]!r}")
    return [market]


async def _set_phase(market: Market, wanted: Phase) -> str:
    """Give the command; what the market is now, in a few words."""
    ts = market.trading.clock.now_ms()
    command = SetPhase(ticker=market.ticker, phase=wanted, ts=ts)
    try:
        answer = await market.trading.send(protocol.format(command))
    except Refused as refused:
        if refused.code == "invalid_phase":
            return _already(wanted)
        return f"refused: {refused.message}"
    except Away:
        return AWAY
    except Unanswered:
        return UNKNOWN
    await market.until_shown(answer["seq"])
    return DONE[wanted]


def _already(wanted: Phase) -> str:
    return f"already {DONE[wanted]}"


def report(named: list[tuple[str, str]], done: str) -> str:
    """(ticker, outcome) in one sentence for each outcome; what needs a manager's eye comes first.

    >>> report([("aapl", "halted"), ("gs", AWAY), ("intc", "halted")], "halted")
    'gs: not reached, its exchange is away. aapl, intc: halted.'
    """
    tickers: defaultdict[str, list[str]] = defaultdict(list)
    for ticker, outcome in named:
        tickers[outcome].append(ticker)
    if not tickers:
        return "There is no active product"
    ordered = sorted(tickers, key=lambda outcome: outcome == done)
    return " ".join(f"{', '.join(tickers[outcome])}: {outcome}." for outcome in ordered)
