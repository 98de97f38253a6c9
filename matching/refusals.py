"""Refusals: the answers to commands that change nothing, a code and a sentence each (PROTOCOL §3).

Which command is refused, and for which reason first, is the engine's business; here stand the
reasons that need a look at the command alone, and the words for all of them.

>>> off_grid(502_550, tick=100).message
'50.255 is not a multiple of 0.01'
"""

from matching.events import Rejected
from matching.order import (
    MAX_ORDER_VALUE,
    Amend,
    Cancel,
    NewOrder,
    Phase,
    Side,
    TimeInForce,
    format_price,
)

_IMMEDIATE = (TimeInForce.IOC, TimeInForce.FOK)


def not_traded(ticker: str, phase: Phase) -> Rejected:
    if phase is Phase.HALTED:
        return Rejected("market_halted", f"trading in {ticker} is halted", "R11")
    return Rejected("market_closed", f"the market in {ticker} is closed", "R11")


def not_found(command: Cancel | Amend) -> Rejected:
    name = f"id={command.client_id}" if command.client_id else f"#{command.oid}"
    return Rejected("order_not_found", f"owner {command.owner} has no open order {name}", "R13")


def no_quantity() -> Rejected:
    return Rejected("invalid_order", "the quantity must not be 0")


def off_lot(quantity: int, lot: int) -> Rejected:
    return Rejected("bad_lot", f"{quantity} is not a multiple of the lot, {lot}")


def off_grid(price: int, tick: int) -> Rejected:
    message = f"{format_price(price)} is not a multiple of {format_price(tick)}"
    return Rejected("bad_tick", message)


def too_valuable(quantity: int, price: int) -> Rejected:
    message = f"{_worth(quantity, price)}, more than {format_price(MAX_ORDER_VALUE)}"
    return Rejected("invalid_order", message)


def too_large(quantity: int, limit: int) -> Rejected:
    message = f"{quantity} is more than the {limit} that one order may have"
    return Rejected("max_quantity", message, "R16")


def too_many(owner: int, others: int) -> Rejected:
    message = f"owner {owner} has {others} other open orders already"
    return Rejected("max_open_orders", message, "R16")


def too_far(side: Side, reached: int, limit: int) -> Rejected:
    message = (
        f"this {side} could lead to {reached} shares {'long' if side is Side.BUY else 'short'},"
        f" the limit is {limit}"
    )
    return Rejected("position_limit", message, "R16")


def too_dear(quantity: int, price: int, limit: int) -> Rejected:
    message = f"{_worth(quantity, price)}, the limit is {format_price(limit)}"
    return Rejected("max_notional", message, "R16")


def too_fast(limit: int) -> Rejected:
    message = f"more than {limit} orders and amends within a second"
    return Rejected("rate_limited", message, "R16")


def outside_band(price: int, band: int, middle: int, what: str) -> Rejected:
    """band in ten-thousandths of a percent; `what` is what the middle is."""
    message = (
        f"{format_price(price)} is further than {_percent(band)} % from {what},"
        f" {format_price(middle)}"
    )
    return Rejected("price_band", message, "R12")


def stop_reached(side: Side, stop: int, last: int) -> Rejected:
    message = (
        f"last, {format_price(last)}, has reached the stop {format_price(stop)}"
        f" of this {side} order already"
    )
    return Rejected("stop_would_trigger", message, "R7")


def would_take(side: Side, price: int, best: int) -> Rejected:
    message = (
        f"a post-only {side} at {format_price(price)} would take"
        f" the {side.opposite} at {format_price(best)}"
    )
    return Rejected("would_take", message, "R8")


# Combinations of kind and options


def unfit_post(command: NewOrder) -> Rejected | None:
    """How the other options keep a post-only order from resting (R8); None: they do not."""
    if command.price == 0:
        misfit = "needs a price"
    elif command.stop:
        misfit = "cannot have a stop"
    elif command.tif in _IMMEDIATE:
        misfit = f"cannot be {command.tif}"
    else:
        return None
    return Rejected("invalid_order", f"a post-only order {misfit}", "R8")


def unfit_iceberg(command: NewOrder, lot: int) -> Rejected | None:
    """How its other values keep an iceberg from resting (R9); None: they do not."""
    if command.price == 0:
        return _unfit_iceberg("needs a price")
    if command.tif in _IMMEDIATE:
        return _unfit_iceberg(f"cannot be {command.tif}")
    return unfit_peak(command.peak, command.quantity, lot)


def unfit_peak(peak: int, quantity: int, lot: int) -> Rejected | None:
    """Why so much cannot be shown of an iceberg's total (R9); None: it can."""
    if peak % lot:
        return _unfit_iceberg(f"cannot show {peak}: it is not a multiple of the lot, {lot}")
    if peak >= quantity:
        return _unfit_iceberg(f"shows less than it has: {peak} is not below {quantity}")
    if 100 * peak < quantity:
        misfit = f"shows at least 1 % of what it has: {peak} is less than that of {quantity}"
        return _unfit_iceberg(misfit)
    return None


def _unfit_iceberg(misfit: str) -> Rejected:
    return Rejected("invalid_order", f"an iceberg {misfit}", "R9")


def unfit_for_auction(command: NewOrder) -> Rejected | None:
    """What keeps an order out of an auction (R10); None: nothing."""
    if not command.price:
        what = "a market order"
    elif command.tif in _IMMEDIATE:
        what = f"an order with tif={command.tif}"
    elif command.post:
        what = "a post-only order"
    else:
        return None
    message = f"{what} cannot be entered while {command.ticker} is in auction"
    return Rejected("not_in_auction", message, "R10")


def unfit_amend(terms: NewOrder, *, price: int, stop: int) -> Rejected | None:
    """How an amend would make another kind of order of this one (R6); None: it does not."""
    if terms.price and not price:
        message = "a limit order stays one: its price cannot become 0"
    elif price and not terms.price:
        message = "a market order stays one: it cannot get a price"
    elif terms.stop and not stop:
        message = "a waiting stop stays one: its stop cannot become 0"
    elif stop and not terms.stop:
        message = "only a waiting stop has a stop"
    else:
        return None
    return Rejected("invalid_order", message, "R6")


def _worth(quantity: int, price: int) -> str:
    return f"{quantity} at {format_price(price)} is worth {format_price(quantity * price)}"


def _percent(value: int) -> str:
    """
    >>> _percent(50_000), _percent(12_500)
    ('5', '1.25')
    """
    return f"{value // 10_000}.{value % 10_000 // 100:02d}".rstrip("0").rstrip(".")
