"""Zap: a manager starts a new run (app/models/runs.py), and sees how it goes.

It is the function of 2010 that deleted all orders and matches. Here it only leaves a request
(app/models/runrequest.py): serve.py or the demo, which started the servers, carries it out. Where
neither runs the page says what to type.
"""

from typing import Any

from app.controllers.base import Answer, Audience, Platform, Redirect, Request, Result, expose
from app.models import products, runrequest, runs
from app.models.db import DAL, now
from app.models.products import Product
from app.models.runrequest import Progress, Step, Ungranted
from app.models.runs import EndedRun, Followed, Run
from matching.marketdata import format_time

CONFIRMATION = "zap"

STEPS = {
    Step.ASKED: "Asked for",
    Step.CLOSING: "The markets close; day orders are canceled",
    Step.SETTLING: "The servers stop, and every trade is settled",
    Step.MOVING: "The run ends, and its journals are put away",
    Step.STARTING: "The servers start on new journals",
    Step.BEGUN: "The new run has begun",
}
"""What is done, one after the other."""

PAST_COLUMNS = ("run", "begun", "ended", "by", "products", "trades")


@expose(
    Audience.MANAGERS,
    view="default/zap.html",
    methods=("GET", "POST"),
    fields=("confirm", "run"),
    table="past",
    columns=PAST_COLUMNS,
)
async def zap(request: Request) -> Result:
    """What a new run means, the present and the past ones; POST confirm=zap asks for it.

    run: the one that was under way when the form was made; a form that comes late ends no other.
    """
    errors: dict[str, str] = {}
    if request.method == "POST":
        error = await _ask(request)
        if error is None:
            if request.wants_json:
                return await _values(request.platform, {})
            return Redirect("/default/zap")
        errors["confirm"] = error
    values = await _values(request.platform, errors)
    return Answer(400, values) if errors else values


async def _ask(request: Request) -> str | None:
    """Leave the request; None, or a sentence that says why not."""
    if request.form.get("confirm", "") != CONFIRMATION:
        return f"Type the word {CONFIRMATION}, and nothing else"
    run = (await request.platform.transactions.read(runs.present)).number
    meant = request.form.get("run", "")
    if meant not in ("", str(run)):
        return f"This form was for run {meant[:12]}, which is not under way: nothing was done"
    by, name = request.trader.id, request.trader.username
    asks = runrequest.Request(by=by, name=name, run=run, asked_on=now())
    try:
        runrequest.ask(request.platform.var, asks)
    except Ungranted as ungranted:
        return str(ungranted)
    return None


async def _values(platform: Platform, errors: dict[str, str]) -> dict[str, Any]:
    run, served, followed, past = await platform.transactions.read(_read)
    var = platform.var
    progress = runrequest.progress(var)
    return {
        "run": run.number,
        "begun": format_time(run.begun_on) if run.begun_on else None,
        "products": _products(platform, served, followed),
        "is_supervised": runrequest.supervisor(var) is not None,
        "progress": None if progress is None else _progress(progress),
        "past": [_past(run) for run in past],
        "errors": errors,
    }


def _read(db: DAL) -> tuple[Run, list[Product], list[Followed], list[EndedRun]]:
    return runs.present(db), products.served(db), runs.followed(db), runs.past(db)


def _products(
    platform: Platform, served: list[Product], followed: list[Followed]
) -> list[dict[str, Any]]:
    """What the new run concerns: the products that are served, and the journals of others."""
    trades = {journal.ticker: journal.trades for journal in followed}
    tickers = sorted({*trades, *(product.name for product in served)})
    return [
        {"ticker": ticker, "state": _state(platform, ticker), "trades": trades.get(ticker, 0)}
        for ticker in tickers
    ]


def _state(platform: Platform, ticker: str) -> str:
    market = platform.markets.find(ticker)
    if market is None:
        return "inactive"
    quote = market.quote()
    return quote.phase if quote.is_live else "away"


def _progress(progress: Progress) -> dict[str, Any]:
    """How far a request is: each step is done, at work, or to come."""
    names = list(STEPS)
    is_given_up = progress.step not in STEPS
    at = -1 if is_given_up else names.index(progress.step)
    is_begun = progress.step is Step.BEGUN
    return {
        "by": progress.request.name,
        "asked": format_time(progress.request.asked_on),
        "run": progress.run,
        "step": progress.step,
        "is_over": progress.is_over,
        "reason": _why_not(progress),
        "steps": [
            {
                "name": name,
                "sentence": sentence,
                "state": "done" if index < at or is_begun else "now" if index == at else "to come",
            }
            for index, (name, sentence) in enumerate(STEPS.items())
        ],
    }


def _why_not(progress: Progress) -> str:
    """Why a new run was given up; "" if it was not."""
    if not progress.reason:
        return ""
    return (
        f"No new run: {progress.reason}. The present one goes on; day orders that were canceled"
        " do not come back."
    )


def _past(run: EndedRun) -> dict[str, Any]:
    return {
        "run": run.number,
        "begun": format_time(run.begun_on or run.ended_on),
        "ended": format_time(run.ended_on),
        "by": run.ended_by or "the operator",
        "products": " ".join(run.tickers) or "–",
        "trades": run.trades,
    }
