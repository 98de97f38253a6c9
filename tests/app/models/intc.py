"""intc, in which the models' tests trade, and the words of their tables."""

from app.models.intents import Levels
from app.models.products import Product
from matching.order import Side, parse_price

PRODUCT = Product(
    id=1,
    name="intc",
    description="",
    unit_price=1_000_000,
    tick=100,
    lot=1,
    post_url="http://127.0.0.1:8888/",
    quote_url="http://127.0.0.1:8888/quote",
    ws_url="ws://127.0.0.1:8888/realtime",
    active=True,
    allow_short=True,
)


def terms(text: str) -> tuple[Side, int, int, int]:
    """`buy 10@5/6`: side, quantity, price, stop."""
    side, amount = text.split()
    quantity, _, prices = amount.partition("@")
    price, _, stop = prices.partition("/")
    return Side(side), int(quantity), parse_price(price or "0"), parse_price(stop or "0")


def levels(text: str) -> Levels:
    """`10@101 20@102`, best first."""
    pairs = [level.split("@") for level in text.split()]
    return [(parse_price(price), int(quantity)) for quantity, price in pairs]
