"""Commands: what traders and the venue ask of one product's matching engine.

Prices and money are integers of 1/10,000 of the currency (RULES, "Words and numbers"; Nasdaq's
Price(4)), quantities whole numbers, times in milliseconds where a trader wrote them (`ts=`).
Price 0 means a market order, stop 0 no stop, owner 0 the house.

>>> parse_price("50.25")
502500
>>> format_price(502500), format_price(1_000_001)
('50.25', '100.0001')
"""

import re
from enum import StrEnum

import msgspec

PRICE_SCALE = 10_000
"""Price units per unit of currency."""

MAX_ORDER_VALUE = 10**15
"""The largest quantity × price of one order, in ten-thousandths (RULES, "Words and numbers")."""

HOUSE = 0
"""The owner number of the house: anonymous liquidity, exempt from R5 and R16."""

TICKER = re.compile(r"(?!all\Z)[a-z_][a-z0-9_]{0,15}", re.ASCII)
"""A product's ticker (PROTOCOL §1); the word `all` is taken by `del all`."""

_PRICE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,4})?", re.ASCII)


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> "Side":
        return Side.SELL if self is Side.BUY else Side.BUY


class TimeInForce(StrEnum):
    """R4: how long an order may work."""

    GTC = "gtc"
    DAY = "day"
    IOC = "ioc"
    FOK = "fok"


class SelfTrade(StrEnum):
    """R5: what happens when an order meets another of its own owner."""

    TAKER = "taker"
    MAKER = "maker"
    BOTH = "both"
    DECREMENT = "decrement"
    NONE = "none"


class Phase(StrEnum):
    """R11: the phases of trading."""

    AUCTION = "auction"
    CONTINUOUS = "continuous"
    HALTED = "halted"
    CLOSED = "closed"


class Status(StrEnum):
    """The state of an order as answers and pages show it (PROTOCOL §4)."""

    PENDING_STOP = "pending_stop"
    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"


class CancelReason(StrEnum):
    """Why an order ended before it was filled (PROTOCOL §4)."""

    USER = "user"
    IOC = "ioc"
    FOK = "fok"
    NO_LIQUIDITY = "no_liquidity"
    SELF_TRADE = "self_trade"
    COLLAR = "collar"
    BREAKER = "breaker"
    AMENDED = "amended"
    END_OF_DAY = "end_of_day"
    DISCONNECT = "disconnect"
    DEAD_MAN = "dead_man"


class NewOrder(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`7:buy intc 100@50.25/49.90 id=a1`: buy or sell `quantity` at `price` once `stop` is reached.

    `cod` (cancel on disconnect) is never written by a trader: the session that sent it adds it.
    """

    ticker: str
    owner: int
    side: Side
    quantity: int
    price: int = 0
    stop: int = 0
    client_id: str = ""
    tif: TimeInForce = TimeInForce.GTC
    stp: SelfTrade = SelfTrade.TAKER
    post: bool = False
    peak: int = 0
    cod: bool = False
    ts: int | None = None


class Cancel(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`7:del intc 812` or `7:del intc id=a1`: cancel one order, named by oid or by client id (R13).

    Only the server itself cancels for another reason than the user's wish.
    """

    ticker: str
    owner: int
    oid: int = 0
    client_id: str = ""
    reason: CancelReason = CancelReason.USER
    ts: int | None = None


class CancelAll(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`7:del intc all`: cancel every open order of the owner, stops included (R13)."""

    ticker: str
    owner: int
    reason: CancelReason = CancelReason.USER
    ts: int | None = None


class Amend(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`7:mod intc 812 80@50.30`: new total quantity, price and stop of an open order (R6).

    What is None stays as it was.
    """

    ticker: str
    owner: int
    oid: int = 0
    client_id: str = ""
    quantity: int
    price: int | None = None
    stop: int | None = None
    ts: int | None = None


class SetPhase(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`phase intc halted`: the venue changes the phase (R11); only the server fills `why`."""

    ticker: str
    phase: Phase
    why: str = ""
    ts: int | None = None


class ChangeSettings(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`set intc collar=5 maker_fee=-0.2`: the venue changes settings of the product (R3, R12, R17).

    Values are ten-thousandths, like prices; which names and values count is the engine's business
    (`invalid_setting`).
    """

    ticker: str
    settings: tuple[tuple[str, int], ...]
    ts: int | None = None


class ChangeLimits(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`limit intc 7 max_position=200`: the venue changes R16's limits; owner None is everybody.

    Values are ten-thousandths (200 shares are 2,000,000); None (`*`) removes the owner's exception.
    """

    ticker: str
    owner: int | None
    limits: tuple[tuple[str, int | None], ...]
    ts: int | None = None


class RaiseKey(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`key intc 7 2`: from now on only generation 2 of owner 7's key counts (PROTOCOL §2)."""

    ticker: str
    owner: int
    generation: int
    ts: int | None = None


class Login(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`7:login intc nonce=… cod=1 ts=…`: begins a session (PROTOCOL §4); owner None: the venue."""

    ticker: str
    owner: int | None
    nonce: str
    cod: bool = False
    ts: int


Command = (
    NewOrder | Cancel | CancelAll | Amend | SetPhase | ChangeSettings | ChangeLimits | RaiseKey
)
"""What `Engine.apply` takes."""

VENUE_COMMANDS = (SetPhase, ChangeSettings, ChangeLimits, RaiseKey)
"""Commands that only the holder of the venue key may give."""


def parse_price(text: str) -> int:
    """Decimal text ("50.25", at most four decimals) as ten-thousandths.

    Raises ValueError for anything that is not `[0-9]{1,9}(.[0-9]{1,4})?`.
    """
    if _PRICE.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a price: up to 9 digits, then at most 4 decimals")
    whole, _, decimals = text.partition(".")
    return int(whole) * PRICE_SCALE + int(decimals.ljust(4, "0"))


def format_price(price: int) -> str:
    """Ten-thousandths as decimal text: at least two decimals, further ones only if not zero.

    Money may be negative, so this takes any integer.

    >>> format_price(-5000), format_price(0)
    ('-0.50', '0.00')
    """
    whole, decimals = divmod(abs(price), PRICE_SCALE)
    text = f"{whole}.{decimals:04d}"
    if decimals % 100 == 0:
        text = text[:-2]
    elif decimals % 10 == 0:
        text = text[:-1]
    return f"-{text}" if price < 0 else text
