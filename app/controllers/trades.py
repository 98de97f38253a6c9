"""Trades: the trader's own, with filters, and the public tape, both a page at a time.

A page's address holds what is asked for: product (its number), side, `from` and `to` (days, UTC,
both included), and `before`: the place where the page before ended. Who asks wrongly is told so:
a program is answered with the error, a person with the page as it is without the wrong words.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from app.controllers.base import Answer, Audience, Problem, Request, Result, expose
from app.models import portfolio, trades
from app.models import products as catalog
from app.models.db import DAL
from app.models.products import Product
from app.models.trades import END_OF_TIME, Fill, Place, Print, Wanted
from matching.marketdata import format_time
from matching.order import Side, format_price

PAGE_ROWS = 100

CSV_ROWS = 10_000
"""The newest of those that are asked for are in the .csv; older ones by `to`."""

SIDES = ("buy", "sell")

PRINT_COLUMNS = ("time", "product", "ticker", "active", "tid", "quantity", "price", "taker")
FILL_COLUMNS = (*PRINT_COLUMNS[:-1], "side", "value", "fee", "role", "oid")
"""What is in each row of the tape, and of a trader's own trades."""

T = TypeVar("T")


class _Asked(msgspec.Struct, frozen=True):
    """A question in the words of the page's address, and what it means; `wrong`: what is not in it
    because it was written wrong.
    """

    words: dict[str, str]
    wanted: Wanted
    products: list[Product]
    wrong: Problem | None

    def query(self, **more: str) -> str:
        """The words as an address has them."""
        return urlencode({name: text for name, text in (self.words | more).items() if text})


@expose(Audience.TRADERS, view="default/my_trades.html", table="trades", columns=FILL_COLUMNS)
def my_trades(db: DAL, request: Request) -> Result:
    """The trader's trades: what was bought or sold, in which role, and what it cost."""
    asked = _read_question(db, request, ("product", "side", "from", "to"))
    found = trades.fills(db, request.trader.id, asked.wanted)
    numbers = _numbers(db)
    rows = [_fill_row(fill, numbers) for fill in _shown(request, found)]
    return _page(db, request, asked, found, rows)


@expose(Audience.TRADERS, view="default/all_trades.html", table="trades", columns=PRINT_COLUMNS)
def all_trades(db: DAL, request: Request) -> Result:
    """The public tape: every trade in every product that is listed, and nobody's name."""
    asked = _read_question(db, request, ("product",))
    found = trades.tape(db, asked.wanted)
    numbers = _numbers(db)
    rows = [_print_row(trade, numbers) for trade in _shown(request, found)]
    return _page(db, request, asked, found, rows)


def _rows(request: Request) -> int:
    return CSV_ROWS if request.wants_csv else PAGE_ROWS


def _shown(request: Request, found: Sequence[Any]) -> Sequence[Any]:
    """One more than is shown was looked for, to know whether there is another page."""
    return found[: _rows(request)]


def _page(
    db: DAL,
    request: Request,
    asked: _Asked,
    found: Sequence[Fill] | Sequence[Print],
    rows: list[dict[str, Any]],
) -> Result:
    """The rows, and what the page says beside them; `older` leads to the next page, None if there
    is none.
    """
    shown = _shown(request, found)
    older = asked.query(before=str(shown[-1].place)) if len(found) > len(shown) else None
    tickers = asked.wanted.tickers or [product.name for product in asked.products]
    values = {
        "asked": asked.words,
        "query": asked.query(),
        "is_first": asked.wanted.before is None,
        "older": older,
        "products": [{"id": product.id, "ticker": product.name} for product in asked.products],
        "as_of": {t: seq for t, seq in portfolio.all_as_of(db).items() if t in tickers},
        "trades": rows,
    }
    if asked.wrong is None:
        return values
    return Answer(asked.wrong.status, {**values, "wrong": asked.wrong.message}, asked.wrong)


def _read_question(db: DAL, request: Request, names: Sequence[str]) -> _Asked:
    """What the page is asked for; Problem if a program wrote something wrong."""
    words = {name: request.query.get(name, "").strip() for name in names}
    is_own = "side" in words
    listed = catalog.every(db, active_only=True)
    if is_own:  # what was traded before its product was switched off is one's own still
        traded = {position.ticker for position in portfolio.positions(db, request.trader.id)}
        everything = catalog.every(db)
        listed = [product for product in everything if product.active or product.name in traded]
    wrong: list[Problem] = []

    def meant(name: str, text: str, read: Callable[[str], T], default: T) -> T:
        try:
            return read(text) if text else default
        except Problem as problem:
            if request.wants_json or request.wants_csv:
                raise
            wrong.append(problem)
            words.pop(name, None)
            return default

    chosen = meant("product", words["product"], lambda text: _chosen(text, listed), None)
    if chosen is not None:
        tickers: list[str] | None = [chosen.name]
    else:
        tickers = None if is_own else [product.name for product in listed]
    wanted = Wanted(
        tickers=tickers,
        sides=meant("side", words.get("side", ""), _sides, tuple(Side)),
        since=meant("from", words.get("from", ""), lambda text: _day(text, "from"), 0),
        until=meant(
            "to", words.get("to", ""), lambda text: _day(text, "to", days_later=1), END_OF_TIME
        ),
        before=meant("before", request.query.get("before", ""), _place, None),
        limit=_rows(request) + 1,
    )
    understood = {name: words.get(name, "") for name in names}
    return _Asked(understood, wanted, listed, wrong[0] if wrong else None)


def _chosen(text: str, listed: Sequence[Product]) -> Product:
    for product in listed:
        if str(product.id) == text:
            return product
    raise Problem(404, "not_found", f"There is no product {text[:40]}")


def _sides(text: str) -> Sequence[Side]:
    if text not in SIDES:
        raise _badly_asked("side is buy or sell, or empty for both")
    return (Side(text),)


def _day(text: str, name: str, *, days_later: int = 0) -> int:
    """The first microsecond of a day, or of the one after it."""
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text, re.ASCII):
            raise ValueError(text)
        day = datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=days_later)
    except (ValueError, OverflowError) as error:
        raise _badly_asked(f"{name} is a day, like 2026-01-31") from error
    return max(0, (day - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))


def _place(text: str) -> Place:
    try:
        return Place.read(text)
    except ValueError as error:
        raise _badly_asked(str(error)) from error


def _badly_asked(message: str) -> Problem:
    return Problem(400, "bad_request", message)


def _numbers(db: DAL) -> dict[str, Product]:
    return {product.name: product for product in catalog.every(db)}


def _row(trade: Fill | Print, numbers: Mapping[str, Product]) -> dict[str, Any]:
    product = numbers.get(trade.place.ticker)
    return {
        "time": format_time(trade.place.time),
        "product": product.id if product else None,
        "ticker": trade.place.ticker,
        "active": product is not None and product.active,
        "tid": trade.tid,
        "quantity": trade.quantity,
        "price": format_price(trade.price),
    }


def _fill_row(fill: Fill, numbers: Mapping[str, Product]) -> dict[str, Any]:
    return {
        **_row(fill, numbers),
        "side": fill.place.side,
        "value": format_price(fill.quantity * fill.price),
        "fee": format_price(fill.fee),
        "role": fill.role,
        "oid": fill.oid,
    }


def _print_row(trade: Print, numbers: Mapping[str, Product]) -> dict[str, Any]:
    return {**_row(trade, numbers), "taker": trade.taker}
