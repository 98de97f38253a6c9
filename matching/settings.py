"""A product's settings: the percents of R3 and R12, and the fees of R17.

Values are ten-thousandths, of a percent or of a basis point. Distances are compared exactly, in
integers: 5 % (50,000) around 100.00 reaches to 95.00 and 105.00, and not a ten-thousandth further.

>>> span(50_000, 1_000_000)
50000
>>> read_settings((("collar", 50_000), ("maker_fee", -2_000)))
{'collar': 50000, 'maker_fee': -2000}
"""

from collections.abc import Sequence

from matching.order import PRICE_SCALE

PERCENTS = ("collar", "band", "breaker")
FEES = ("maker_fee", "taker_fee")
NAMES = (*PERCENTS, *FEES)

HUNDRED = 100 * PRICE_SCALE
"""100 percent, or 100 basis points."""

_TWO_DECIMALS = PRICE_SCALE // 100


class BadSetting(ValueError):
    """A setting that there is not, or a value that it cannot have."""


def read_settings(settings: Sequence[tuple[str, int]]) -> dict[str, int]:
    """The settings of a command; BadSetting, with a sentence, if one of them cannot be."""
    for name, value in settings:
        if name not in NAMES:
            raise BadSetting(f"there is no setting {name}: {', '.join(NAMES)}")
        if value % _TWO_DECIMALS:
            raise BadSetting(f"{name} has at most two decimals")
        if name in PERCENTS and not 0 <= value <= HUNDRED:
            raise BadSetting(f"{name} is a percentage from 0 to 100")
        if name in FEES and not -HUNDRED <= value <= HUNDRED:
            raise BadSetting(f"{name} is from -100 to 100 basis points")
    return dict(settings)


def span(percent: int, price: int) -> int:
    """How far from a price (in ten-thousandths) so many percent reach: the largest d with
    d × 100 % ≤ percent × price, so that a price further away is further than the percentage."""
    return percent * price // HUNDRED
