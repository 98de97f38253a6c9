"""The pages of 2010: index, about, products, edit_product, trade (and its account), pandl, error.

Prices and money leave here as decimal text, times as RFC 3339: the JSON of a page is what it shows.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from app.controllers import connection, rules
from app.controllers.base import (
    Answer,
    Audience,
    Platform,
    Problem,
    Redirect,
    Request,
    Result,
    expose,
)
from app.controllers.chart import charted
from app.controllers.curves import Curves
from app.controllers.markets import Quote
from app.controllers.orders import TICKET_FIELDS, new_order_id, read_doubts
from app.controllers.portfolio import cash_values
from app.models import equity, portfolio
from app.models import products as catalog
from app.models import rules as wanted_rules
from app.models.accounts import User
from app.models.db import DAL, Invalid, now
from app.models.equity import Curve
from app.models.portfolio import OpenOrder, ProfitAndLoss, TradeRow
from app.models.products import Product, ProductForm
from app.models.rules import Rules
from matching.marketdata import format_time
from matching.order import PRICE_SCALE, Side, format_price

PRODUCT_FIELDS = (
    "name",
    "description",
    "unit_price",
    "tick",
    "lot",
    "port",
    "post_url",
    "quote_url",
    "ws_url",
    "active",
    "allow_short",
    *wanted_rules.SETTINGS,
    *wanted_rules.LIMITS,
    "test",
)
"""A product's form; `test` is the button that asks its addresses, and stores nothing."""

EXCEPTION_FIELDS = ("owner", "limit", "value", "except", "remove")
"""The forms of exceptions from its limits; `except` and `remove` are their buttons."""

NEW_PRODUCT = {
    "tick": "0.01",
    "lot": "1",
    "active": "on",
    "allow_short": "on",
    **wanted_rules.to_form(Rules(collar=10 * PRICE_SCALE, band=20 * PRICE_SCALE)),
}
"""What the form of a new product begins with."""

PRODUCT_COLUMNS = (
    "id",
    "ticker",
    "description",
    "reference",
    "last",
    "bid",
    "ask",
    "spread",
    "change",
    "change_percent",
    "volume",
    "recent",
    "state",
    "rules",
)
TRADE_COLUMNS = (
    "time",
    "quantity_buy",
    "quantity_sell",
    "price",
    "total_shares",
    "balance",
)
"""What is in each row of the list of products, and of the profits and losses in one."""

PERCENT = 100 * 100
"""Hundredths of a percent in one."""

T = TypeVar("T")


@expose(Audience.EVERYONE, view="default/index.html", table="products", columns=PRODUCT_COLUMNS)
async def index(request: Request) -> Result:
    """What EMTE is, and its markets at this moment."""
    listed = await request.platform.transactions.read(catalog.every, active_only=True)
    return {"products": [_row(request.platform, product) for product in listed]}


@expose(Audience.EVERYONE, view="default/about.html")
async def about(request: Request) -> Result:
    """How it works, and how a program trades here."""
    return {}


@expose(Audience.EVERYONE, view="default/error.html")
async def error(request: Request) -> Result:
    """Every address that is no page."""
    raise Problem(404, "not_found", f"There is no page {request.path[:80]}")


@expose(
    Audience.TRADERS,
    view="default/products.html",
    methods=("GET", "POST"),
    fields=PRODUCT_FIELDS,
    table="products",
    columns=PRODUCT_COLUMNS,
)
async def products(request: Request) -> Result:
    """What can be traded; managers also register new products here."""
    form: Mapping[str, str] = NEW_PRODUCT
    errors: dict[str, str] = {}
    report = None
    if request.method == "POST":
        _require_manager(request.trader)
        try:
            filled_in = catalog.validate(request.form)
            if "test" in request.form:
                form, report = request.form, await connection.examine(filled_in)
            else:
                return await _register(request, filled_in)
        except Invalid as invalid:
            form, errors = request.form, invalid.errors
    is_manager = request.trader.manager
    listed = await request.platform.transactions.read(catalog.every, active_only=not is_manager)
    rows = [_row(request.platform, product) for product in listed]
    values: dict[str, Any] = {"products": rows, "is_manager": is_manager}
    if is_manager:
        values |= {"form": _without_buttons(form), "errors": errors, "report": report}
    return Answer(400, values) if errors else values


async def _register(request: Request, form: ProductForm) -> Redirect:
    """Store a new product; the next page says how to start its matching server."""
    write = request.platform.transactions.write
    product = await write(catalog.register, form, by=request.trader, at=now())
    request.platform.markets.changed()
    message = (
        f"{product.name} is registered. Its matching server starts by itself under scripts/serve.py"
        " or the demo; else start it as below"
    )
    return Redirect(f"/default/edit_product/{product.id}", message)


def _require_manager(user: User) -> None:
    if not user.manager:
        raise Problem(403, "managers_only", "Only managers may register products")


@expose(
    Audience.MANAGERS,
    view="default/edit_product.html",
    methods=("GET", "POST"),
    fields=(*PRODUCT_FIELDS, *EXCEPTION_FIELDS),
)
async def edit_product(request: Request, key: int) -> Result:
    """The form of a product, the exceptions from its limits, the line that starts its server."""
    transactions = request.platform.transactions
    product = _known(await transactions.read(catalog.get, key), key)
    form: Mapping[str, str] = _product_form(product)
    exception: Mapping[str, str] = {}
    errors: dict[str, str] = {}
    exception_errors: dict[str, str] = {}
    report = None
    if request.method == "POST" and {"except", "remove"} & request.form.keys():
        try:
            return await rules.change_exceptions(request, product)
        except Invalid as invalid:
            exception, exception_errors = request.form, invalid.errors
    elif request.method == "POST":
        try:
            changed = catalog.validate(request.form)
            if "test" in request.form:
                form, report = request.form, await connection.examine(changed)
            else:
                return await _edit(request, product, changed)
        except Invalid as invalid:
            form, errors = request.form, invalid.errors
    values = {
        **_row(request.platform, product),
        "command_line": catalog.command_line(product),
        "form": _without_buttons(form),
        "errors": errors,
        "report": report,
        "differences": rules.differences_in(request.platform, product),
        "exceptions": await rules.exceptions_of(request.platform, key),
        "limits": wanted_rules.LIMITS,
        "exception": {name: exception.get(name, "") for name in ("owner", "limit", "value")},
        "exception_errors": exception_errors,
    }
    return Answer(400, values) if errors or exception_errors else values


async def _edit(request: Request, product: Product, changed: ProductForm) -> Redirect:
    """Store a changed product, tell its market the rules, and say what came of it."""
    transactions, key = request.platform.transactions, product.id
    await transactions.write(catalog.edit, key, changed, by=request.trader, at=now())
    request.platform.markets.changed()
    has_moved = changed.ws_url != product.ws_url
    outcome = rules.AWAY if has_moved else await rules.tell_of(request.platform, key)
    message = f"{changed.name} is changed; {outcome}"
    if has_moved and await transactions.read(catalog.has_orders, key):
        message += (
            ". Orders are open in it: its matching server has to run at the new"
            " address, with the journal that it has now"
        )
    return Redirect(f"/default/edit_product/{key}", message)


@expose(Audience.TRADERS, view="default/trade.html")
def trade(db: DAL, request: Request, key: int) -> Result:
    """The canvas and the plain order form; what else is on it is kept current by the live feed.

    `?type=sell&quantity=5&price=101` and so on: what the form begins with.
    """
    product = _known(catalog.get(db, key), key)
    owner = request.trader.id
    open_orders = portfolio.open_orders(db, owner, product.name)
    if not product.active:
        if open_orders:
            message = f"{product.name} is not traded at present; your orders in it are below"
            return Redirect("/default/positions", message)
        raise Problem(404, "not_found", f"{product.name} is not traded at present")
    ticket = _ticket(request.query, product)
    page = {
        "kind": ticket["kind"],
        "product": product.id,
        "name": product.description or product.name,
        "ticker": product.name,
        "tick": product.tick,
        "lot": product.lot,
        "reference": product.unit_price,
        "owner": owner,
        "xsrf": request.xsrf,
    }
    market = request.platform.markets.get(key)
    quote = market.quote() if market else None
    standing, _ = _valued(db, owner, product, quote.last if quote else None)
    return {
        "page": page,
        "orders": [_open_order(order) for order in open_orders],
        "in_doubt": read_doubts(db, owner, product.name),
        "order_id": new_order_id(),
        "ticket": ticket,
        "quote": _quote(quote),
        "phase": _state(product, quote),
        "indicative": market.feed.indicative if market else None,
        "rules": rules.in_words(rules.in_force(request.platform, product)),
        **_standing(standing),
        "profit": format_price(standing.realised + standing.unrealised),
    }


@expose(Audience.TRADERS, view="default/trade.html")
async def old_trade(request: Request, key: int) -> Result:
    """The plain order form of 2010 is the ticket of the trade page."""
    form = ".json" if request.wants_json else ""
    return Redirect(f"/default/trade{form}/{key}#ticket-panel")


@expose(Audience.TRADERS, view="default/pandl.html", table="rows", columns=TRADE_COLUMNS)
async def pandl(request: Request, key: int) -> Result:
    """What the trader's trades in one product came to, valued at the last price."""
    read = partial(_valued_over_time, curves=request.platform.curves)
    product, (result, last, curve) = await _ask(request, key, read)
    return {
        "product": product.id,
        "ticker": product.name,
        "active": product.active,
        **_standing(result),
        "last": format_price(last),
        "amount_spent": format_price(result.amount_spent),
        **charted(curve),
        "rows": [_trade_row(row) for row in result.rows],
        "now": _trade_row(result.now),
    }


@expose(Audience.TRADERS)
async def account(request: Request, key: int) -> Result:
    """What a trade page asks for every two seconds: the figures of pandl without its trades.

    `owner` tells a page that somebody else has logged in meanwhile, in another tab. `in_doubt` are
    the orders whose answers were lost, and what became of those that it asks for: `?waiting=id,id`.
    """
    waiting = request.query.get("waiting", "").split(",")

    def read(
        db: DAL, owner: int, product: Product, last: int | None
    ) -> tuple[ProfitAndLoss, list[dict[str, Any]]]:
        result, _ = _valued(db, owner, product, last)
        return result, read_doubts(db, owner, product.name, also=waiting)

    _, (result, in_doubt) = await _ask(request, key, read)
    return {"owner": request.trader.id, **_standing(result), "in_doubt": in_doubt}


async def _ask(
    request: Request, key: int, work: Callable[[DAL, int, Product, int | None], T]
) -> tuple[Product, T]:
    """The product, and what `work` finds of the trader in it at the market's last price."""
    transactions = request.platform.transactions
    product = _known(await transactions.read(catalog.get, key), key)
    market = request.platform.markets.get(key)
    last = market.quote().last if market else None
    return product, await transactions.read(work, request.trader.id, product, last)


def _valued(
    db: DAL, owner: int, product: Product, last: int | None, rows: int = 0
) -> tuple[ProfitAndLoss, int]:
    """The P&L with the newest `rows` trades, and the price that values it."""
    if last is None:
        last = portfolio.last_price(db, product.name) or product.unit_price
    return portfolio.pandl(db, owner, product, last=last, limit=rows), last


def _valued_over_time(
    db: DAL, owner: int, product: Product, last: int | None, *, curves: Curves
) -> tuple[ProfitAndLoss, int, Curve]:
    result, last = _valued(db, owner, product, last, portfolio.PANDL_ROWS)
    curve = curves.get(
        owner,
        product.name,
        holdings=(result.shares, result.amount_spent),
        value=result.realised + result.unrealised,
        draw=lambda: equity.of_product(db, owner, product.name, result),
    )
    return result, last, curve


def _standing(result: ProfitAndLoss) -> dict[str, Any]:
    return {
        "as_of": result.as_of,
        **cash_values(result.cash),
        "shares": result.shares,
        "realised": format_price(result.realised),
        "unrealised": format_price(result.unrealised),
        "equity": format_price(result.equity),
    }


def _trade_row(row: TradeRow) -> dict[str, Any]:
    return {
        "time": None if row.time is None else format_time(row.time),
        "quantity_buy": row.quantity_buy,
        "quantity_sell": row.quantity_sell,
        "price": format_price(row.price),
        "total_shares": row.total_shares,
        "balance": format_price(row.balance),
    }


def _open_order(order: OpenOrder) -> dict[str, Any]:
    return {
        "oid": order.oid,
        "side": order.side,
        "quantity": order.quantity,
        "filled": order.filled,
        "price": format_price(order.price) if order.price else None,
        "stop": format_price(order.stop) if order.stop else None,
        "tif": order.tif,
        "post": order.post,
        "peak": order.peak,
    }


def _ticket(typed: Mapping[str, str], product: Product) -> dict[str, str]:
    """What the order form begins with: what was written in it before, else about 100 at a limit."""
    ticket = {name: typed.get(name, "") for name in TICKET_FIELDS}
    if not ticket["quantity"]:
        ticket["quantity"] = str(max(100 // product.lot, 1) * product.lot)
    stop = "stop-" if ticket["stop"] else ""
    is_market = "type" in typed and not ticket["price"]
    side = Side.SELL if ticket["type"] == Side.SELL else Side.BUY
    return {**ticket, "kind": f"{side}-{stop}{'market' if is_market else 'limit'}"}


def _known(product: Product | None, key: int) -> Product:
    if product is None:
        raise Problem(404, "not_found", f"There is no product {key}")
    return product


def _row(platform: Platform, product: Product) -> dict[str, Any]:
    """A line of the list of products: what it is, and its market at this moment."""
    market = platform.markets.get(product.id)
    quote = market.quote() if market else None
    return {
        "id": product.id,
        "ticker": product.name,
        "description": product.description,
        "reference": format_price(product.unit_price),
        **_quote(quote),
        "state": _state(product, quote),
        "rules": rules.in_words(rules.in_force(platform, product)),
    }


def _quote(quote: Quote | None) -> dict[str, Any]:
    if quote is None:
        nothing = dict.fromkeys(("last", "bid", "ask", "spread", "change", "change_percent"))
        return {**nothing, "volume": 0, "recent": []}
    change = None if quote.last is None else quote.last - quote.reference
    spread = None if quote.bid is None or quote.ask is None else quote.ask - quote.bid
    return {
        "last": _price(quote.last),
        "bid": _price(quote.bid),
        "ask": _price(quote.ask),
        "spread": _price(spread),
        "change": _price(change),
        "change_percent": None if change is None else _percent(change, quote.reference),
        "volume": quote.volume,
        "recent": [format_price(price) for price in quote.recent],
    }


def _price(price: int | None) -> str | None:
    return None if price is None else format_price(price)


def _percent(part: int, whole: int) -> str:
    """A share in percent, two decimals, half away from zero.

    >>> _percent(184, 10_000), _percent(-1, 3)
    ('1.84', '-33.33')
    """
    hundredths = (2 * abs(part) * PERCENT + whole) // (2 * whole)
    sign = "-" if part < 0 and hundredths else ""
    return f"{sign}{hundredths // 100}.{hundredths % 100:02d}"


def _state(product: Product, quote: Quote | None) -> str:
    """The phase of a market that is there; else `away`, or `inactive` where nobody looks for it."""
    if not product.active:
        return "inactive"
    return quote.phase if quote is not None and quote.is_live else "away"


def _without_buttons(form: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in form.items() if name != "test"}


def _product_form(product: Product) -> dict[str, str]:
    form = {
        "name": product.name,
        "description": product.description,
        "unit_price": format_price(product.unit_price),
        "tick": format_price(product.tick),
        "lot": str(product.lot),
        "port": str(product.port),
        "post_url": product.post_url,
        "quote_url": product.quote_url,
        "ws_url": product.ws_url,
        **wanted_rules.to_form(product),
    }
    boxes = {"active": product.active, "allow_short": product.allow_short}
    return form | {name: "on" for name, is_checked in boxes.items() if is_checked}
