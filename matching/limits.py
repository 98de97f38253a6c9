"""R16's limits: what one owner may have in one product, for everybody or by exception.

A limit of 0 is off. What is in force for an owner is the owner's exception where there is one, else
the product's; the house has none.

>>> rules = LimitRules()
>>> rules.change(7, {"max_open_orders": 2})
>>> rules.of(7).max_open_orders, rules.of(7).max_quantity, rules.of(8).is_more
(2, 1000000, False)
"""

from collections.abc import Mapping

import msgspec

from matching.order import HOUSE, PRICE_SCALE, format_price

OFF = 10**30
"""What a limit that is off is compared as: nothing is larger, not even a quantity of 12 digits
times a price of 13."""

DEFAULTS = {
    "max_quantity": 1_000_000,
    "max_open_orders": 0,
    "max_position": 0,
    "max_notional": 0,
    "max_rate": 0,
}
"""The limits of a product that sets none; `max_notional` is money in ten-thousandths."""

MONEY = frozenset({"max_notional"})
_MONEY_END = 10**9 * PRICE_SCALE  # a price has nine digits: more could be written, and never read


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force for one owner; OFF where nothing is."""

    max_quantity: int = OFF
    max_open_orders: int = OFF
    max_position: int = OFF
    max_notional: int = OFF
    max_rate: int = OFF
    is_more: bool = False
    """Whether there is any but `max_quantity`."""


UNLIMITED = Limits()


class BadLimit(ValueError):
    """A limit that there is not, or a value that it cannot have."""


def read_limit(name: str, value: int | None, *, is_of_owner: bool) -> int | None:
    """A limit's value from a command's, which is in ten-thousandths; BadLimit if it cannot be.

    None, for an owner only: the owner's exception is to go.
    """
    if name not in DEFAULTS:
        raise BadLimit(f"there is no limit {name}: {', '.join(DEFAULTS)}")
    if value is None:
        if not is_of_owner:
            raise BadLimit(f"{name}=* is for one owner; 0 switches a limit off")
        return None
    if value < 0:
        raise BadLimit(f"{name} cannot be below 0")
    if name in MONEY:
        if value >= _MONEY_END:
            raise BadLimit(f"{name} is a price, below {format_price(_MONEY_END)}")
        return value
    if value % PRICE_SCALE:
        raise BadLimit(f"{name} is a whole number")
    return value // PRICE_SCALE


class LimitRules:
    """The limits of a product, and the exceptions from them."""

    __slots__ = ("exceptions", "product")

    def __init__(self) -> None:
        self.product = dict(DEFAULTS)
        self.exceptions: dict[int, dict[str, int]] = {}

    def change(self, owner: int | None, limits: Mapping[str, int | None]) -> None:
        """Set limits for everybody (owner None) or one owner; None removes the owner's own."""
        if owner is None:
            self.product.update({name: value or 0 for name, value in limits.items()})
            return
        own = self.exceptions.setdefault(owner, {})
        for name, value in limits.items():
            if value is None:
                own.pop(name, None)
            else:
                own[name] = value
        if not own:
            del self.exceptions[owner]

    def of(self, owner: int) -> Limits:
        """What is in force for the owner."""
        if owner == HOUSE:
            return UNLIMITED
        values = self.product | self.exceptions.get(owner, {})
        is_more = any(value for name, value in values.items() if name != "max_quantity")
        return Limits(
            is_more=is_more, **{name: value if value else OFF for name, value in values.items()}
        )
