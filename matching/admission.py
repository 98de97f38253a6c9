"""Admission: whether the rules take an order or an amend, and if not, the first reason why.

Both functions read like the law's "Order of checks" and change nothing; the words for each reason
are in `refusals`.

>>> from matching import protocol
>>> from matching.engine import Engine
>>> from matching.limits import UNLIMITED
>>> engine = Engine("intc", lot=10)
>>> command = protocol.parse("7:buy intc 15@50.255")
>>> why_not_enter(engine, command, Account(7, UNLIMITED))
Rejected(code='bad_lot', message='15 is not a multiple of the lot, 10', rule='')
"""

from typing import Protocol

from matching import refusals
from matching.account import Account, Order
from matching.book import OrderBook
from matching.events import Rejected
from matching.order import MAX_ORDER_VALUE, NewOrder, Phase, Side, TimeInForce
from matching.settings import span

_BUY = Side.BUY


class Market(Protocol):
    """What the checks read of an engine."""

    ticker: str
    tick: int
    lot: int
    phase: Phase
    settings: dict[str, int]
    last: int | None
    time: int
    book: OrderBook

    @property
    def mark(self) -> int:
        """What a share counts for: last, before the first trade the reference price."""


def why_not_enter(market: Market, command: NewOrder, account: Account) -> Rejected | None:
    """The first reason against a new order of this account; None: it is accepted."""
    side, quantity, price, stop = command.side, command.quantity, command.price, command.stop
    may_stay_open = stop or (price and command.tif not in (TimeInForce.IOC, TimeInForce.FOK))
    is_in_auction = market.phase is Phase.AUCTION
    return (
        why_not_traded(market)
        or _off_grid(market, quantity, price, stop)
        or _too_valuable(quantity, max(price, stop))
        or (refusals.unfit_post(command) if command.post else None)
        or (refusals.unfit_iceberg(command, market.lot) if command.peak else None)
        or (refusals.unfit_for_auction(command) if is_in_auction and not stop else None)
        or _outside_band(market, price, stop)
        or _stop_reached(market, side, stop)
        or _beyond_limits(
            market,
            account,
            side=side,
            quantity=quantity,
            opening=quantity,
            price=price or stop or market.mark,
            others=len(account.orders) if may_stay_open else None,
        )
        or (_would_take(market, side, price) if command.post else None)
    )


def why_not_amend(
    market: Market, order: Order, *, quantity: int, price: int, stop: int
) -> Rejected | None:
    """The first reason against these terms of an open order; None: it gets them.

    That orders are traded at all, and the order is the owner's, has been seen to.
    """
    rejected = (
        _off_grid(market, quantity, price, stop)
        or refusals.unfit_amend(order.terms, price=price, stop=stop)
        or _too_valuable(quantity, max(price, stop))
    )
    if rejected is not None or quantity <= order.filled:
        return rejected
    is_moved = price != order.price or stop != order.stop
    rejected = (
        (refusals.unfit_peak(order.peak, quantity, market.lot) if order.peak else None)
        or (_outside_band(market, price, stop) if is_moved else None)
        or (_stop_reached(market, order.side, stop) if stop != order.stop else None)
    )
    if rejected is not None or order.keeps_place(quantity=quantity, price=price, stop=stop):
        return rejected
    return _beyond_limits(
        market,
        order.account,
        side=order.side,
        quantity=quantity,
        opening=quantity - order.quantity,
        price=price or stop,
        others=len(order.account.orders) - 1,
    ) or (_would_take(market, order.side, price) if order.post else None)


def why_not_traded(market: Market) -> Rejected | None:
    """R11: orders and amends are taken in two of the phases."""
    if market.phase in (Phase.CONTINUOUS, Phase.AUCTION):
        return None
    return refusals.not_traded(market.ticker, market.phase)


def _off_grid(market: Market, quantity: int, price: int, stop: int) -> Rejected | None:
    if quantity == 0:
        return refusals.no_quantity()
    if quantity % market.lot:
        return refusals.off_lot(quantity, market.lot)
    for each in (price, stop):
        if each % market.tick:
            return refusals.off_grid(each, market.tick)
    return None


def _too_valuable(quantity: int, price: int) -> Rejected | None:
    return refusals.too_valuable(quantity, price) if quantity * price > MAX_ORDER_VALUE else None


def _outside_band(market: Market, price: int, stop: int) -> Rejected | None:
    """R12's entry band: around the order's own stop while it waits, else around last."""
    band = market.settings["band"]
    if not price or not band:
        return None
    middle = stop or market.mark
    if abs(price - middle) <= span(band, middle):
        return None
    what = "the stop" if stop else "last" if market.last is not None else "the reference"
    return refusals.outside_band(price, band, middle, what)


def _stop_reached(market: Market, side: Side, stop: int) -> Rejected | None:
    """R7: last, equal included, has reached the stop already; no order without one (0)."""
    last = market.last
    if not stop or last is None or (last < stop if side is _BUY else last > stop):
        return None
    return refusals.stop_reached(side, stop, last)


def _beyond_limits(
    market: Market,
    account: Account,
    *,
    side: Side,
    quantity: int,
    opening: int,
    price: int,
    others: int | None,
) -> Rejected | None:
    """R16's limits, for an order of `quantity` of which `opening` is new.

    `others` are the open orders beside it, None where they do not matter.
    """
    limits, exposure = account.limits, account.exposure
    if quantity > limits.max_quantity:
        return refusals.too_large(quantity, limits.max_quantity)
    if exposure is None:
        return None
    if others is not None and others >= limits.max_open_orders:
        return refusals.too_many(account.owner, others)
    if side is _BUY:
        reached = account.position + exposure.open_buys + opening
    else:
        reached = -account.position + exposure.open_sells + opening
    if reached > limits.max_position:
        return refusals.too_far(side, reached, limits.max_position)
    if quantity * price > limits.max_notional:
        return refusals.too_dear(quantity, price, limits.max_notional)
    if exposure.rate(market.time) >= limits.max_rate:
        return refusals.too_fast(limits.max_rate)
    return None


def _would_take(market: Market, side: Side, price: int) -> Rejected | None:
    """R8: a post-only order would find somebody to trade with; nobody trades in an auction."""
    opposite = market.book.opposite(side)
    best = opposite.best
    if market.phase is Phase.AUCTION or best is None or not opposite.is_reached_by(price):
        return None
    return refusals.would_take(side, price, best.price)
