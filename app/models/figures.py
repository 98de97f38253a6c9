"""Figures: numbers and money as people read them, on pages and in sentences.

On the wire and in a page's JSON they are plain decimal text (PROTOCOL §4).
"""

from decimal import ROUND_HALF_UP, Decimal


def grouped(number: str | int) -> str:
    """A number for readers: thousands grouped, with a true minus.

    >>> grouped("-1234567.505"), grouped("12.00"), grouped(-1200)
    ('−1,234,567.505', '12.00', '−1,200')
    """
    return f"{Decimal(number):,}".replace("-", "−")


def cents(amount: str) -> str:
    """An amount of money for readers, to the cent; averages have more decimals.

    >>> cents("-1234.5678"), cents("0.005"), cents("-0.0001")
    ('−1,234.57', '0.01', '0.00')
    """
    rounded = Decimal(amount).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return grouped(str(rounded or abs(rounded)))  # nothing is not less than nothing
