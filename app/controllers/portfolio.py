"""The portfolio: what a trader has in all products, what is open, and what it came to.

Everything is valued at the prices of this moment; money leaves here as decimal text.
"""

from typing import Any

import msgspec

from app.controllers.base import Audience, Platform, Request, Result, expose
from app.controllers.chart import charted
from app.controllers.curves import Curves
from app.controllers.orders import new_order_id
from app.models import equity, portfolio
from app.models import products as catalog
from app.models.db import DAL
from app.models.equity import Curve
from app.models.portfolio import Account, Cash, Holding, OpenOrder
from app.models.products import Product
from matching.marketdata import format_time
from matching.order import format_price

POSITION_COLUMNS = (
    "product",
    "ticker",
    "active",
    "shares",
    "average_price",
    "last",
    "value",
    "unrealised",
    "profit",
)
PRODUCT_COLUMNS = (
    "product",
    "ticker",
    "active",
    "shares",
    "last",
    "value",
    "realised",
    "unrealised",
    "profit",
)
"""What is in each row of the positions, and of the profits and losses in all products."""


class _Known(msgspec.Struct, frozen=True):
    """What the database knows of one trader, seen at one moment."""

    account: Account
    orders: list[OpenOrder]
    products: dict[str, Product]
    as_of: dict[str, int]


@expose(
    Audience.TRADERS,
    view="default/positions.html",
    table="positions",
    columns=POSITION_COLUMNS,
)
async def positions(request: Request) -> Result:
    """The shares that the trader holds or owes, and all open orders, wherever they are."""
    known = await _known(request)
    account = known.account
    held = [holding for holding in account.holdings if holding.position.shares]
    concerned = {holding.ticker for holding in held} | {order.ticker for order in known.orders}
    return {
        "equity": format_price(account.equity),
        "cash_available": format_price(account.cash.available),
        "value": format_price(account.value),
        "unrealised": format_price(account.unrealised),
        "positions": [_position_row(known, holding) for holding in held],
        "orders": [_order_row(known, order) for order in known.orders],
        "order_id": new_order_id(),
        "as_of": _as_of(known, concerned),
    }


@expose(Audience.TRADERS, view="default/pandl_all.html", table="products", columns=PRODUCT_COLUMNS)
async def pandl(request: Request) -> Result:
    """What all trades came to: a row for each product that the trader ever traded."""
    lasts = _last_prices(request.platform)
    read = request.platform.transactions.read
    curves = request.platform.curves
    known, curve = await read(_read_with_curve, request.trader.id, lasts, curves)
    account = known.account
    return {
        **cash_values(account.cash),
        "equity": format_price(account.equity),
        "realised": format_price(account.realised),
        "unrealised": format_price(account.unrealised),
        **charted(curve),
        "products": [_product_row(known, holding) for holding in account.holdings],
        "as_of": _as_of(known, {holding.ticker for holding in account.holdings}),
    }


def cash_values(cash: Cash) -> dict[str, Any]:
    """Cash and what ties it up (R17), as a page shows them."""
    return {
        "actual_cash": format_price(cash.actual),
        "cash_available": format_price(cash.available),
        "tied_up": {
            "open_buys": format_price(cash.open_buys),
            "short_orders": format_price(cash.short_orders),
            "short_positions": format_price(cash.short_positions),
            "intents": format_price(cash.intents),
        },
    }


async def _known(request: Request) -> _Known:
    lasts = _last_prices(request.platform)
    return await request.platform.transactions.read(_read, request.trader.id, lasts)


def _last_prices(platform: Platform) -> dict[str, int]:
    quotes = {market.ticker: market.quote() for market in platform.markets}
    return {ticker: quote.last for ticker, quote in quotes.items() if quote.last is not None}


def _read(db: DAL, owner: int, lasts: dict[str, int]) -> _Known:
    return _Known(
        account=portfolio.account(db, owner, lasts),
        orders=portfolio.open_orders(db, owner),
        products={product.name: product for product in catalog.every(db)},
        as_of=portfolio.all_as_of(db),
    )


def _read_with_curve(
    db: DAL, owner: int, lasts: dict[str, int], curves: Curves
) -> tuple[_Known, Curve]:
    known = _read(db, owner, lasts)
    account = known.account
    curve = curves.get(
        owner,
        "",
        holdings=[holding.position for holding in account.holdings],
        value=account.equity,
        draw=lambda: equity.of_account(db, owner, account),
    )
    return known, curve


def _as_of(known: _Known, tickers: set[str]) -> dict[str, int]:
    return {ticker: seq for ticker, seq in known.as_of.items() if ticker in tickers}


def _place(known: _Known, ticker: str) -> dict[str, Any]:
    """The product's number, None if it is not registered (any more); and whether it is traded."""
    product = known.products.get(ticker)
    return {
        "product": product.id if product else None,
        "ticker": ticker,
        "active": product is not None and product.active,
    }


def _position_row(known: _Known, holding: Holding) -> dict[str, Any]:
    average = holding.average_price
    return {
        **_place(known, holding.ticker),
        "shares": holding.position.shares,
        "average_price": None if average is None else format_price(average),
        "last": format_price(holding.last),
        "value": format_price(holding.value),
        "unrealised": format_price(holding.unrealised),
        "profit": format_price(holding.profit),
    }


def _product_row(known: _Known, holding: Holding) -> dict[str, Any]:
    return {
        **_place(known, holding.ticker),
        "shares": holding.position.shares,
        "last": format_price(holding.last),
        "value": format_price(holding.value),
        "realised": format_price(holding.realised),
        "unrealised": format_price(holding.unrealised),
        "profit": format_price(holding.profit),
    }


def _order_row(known: _Known, order: OpenOrder) -> dict[str, Any]:
    return {
        **_place(known, order.ticker),
        "oid": order.oid,
        "time": format_time(order.created_on),
        "side": order.side,
        "quantity": order.quantity,
        "filled": order.filled,
        "price": format_price(order.price) if order.price else None,
        "stop": format_price(order.stop) if order.stop else None,
        "tif": order.tif,
        "post": order.post,
        "peak": order.peak,
    }
