"""Events: what the engine answers to a command, in the order in which it happened.

Everything that the journal, the feed and the pages know of a command is in its events; they are
frozen, and their JSON form is `protocol.event_to_dict` (PROTOCOL §4).
"""

import msgspec

from matching.order import CancelReason, Phase, Side, Status


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The order has its number and works (or waits for its stop)."""

    oid: int


class Trade(msgspec.Struct, frozen=True, gc=False):
    """A print: `quantity` at `price`, the resting order's (R1). taker None: an uncross (R10)."""

    tid: int
    price: int
    quantity: int
    buyer: int
    seller: int
    buy_oid: int
    sell_oid: int
    taker: Side | None


class Canceled(msgspec.Struct, frozen=True, gc=False):
    """The order ended with `quantity` still open, hidden part included."""

    oid: int
    quantity: int
    reason: CancelReason


class Triggered(msgspec.Struct, frozen=True, gc=False):
    """A waiting stop was elected and now runs as a market or limit order (R7)."""

    oid: int


class Amended(msgspec.Struct, frozen=True, gc=False):
    """The order's new total quantity, price and stop (R6)."""

    oid: int
    quantity: int
    price: int
    stop: int


class Decremented(msgspec.Struct, frozen=True, gc=False):
    """Self-trade prevention took `quantity` off the order's total (R5)."""

    oid: int
    quantity: int


class PhaseChanged(msgspec.Struct, frozen=True, gc=False):
    """The product is in another phase now (R11)."""

    phase: Phase


class SettingChanged(msgspec.Struct, frozen=True, gc=False):
    """A setting of the product has a new value, in ten-thousandths (R3, R12, R17)."""

    name: str
    value: int


class LimitChanged(msgspec.Struct, frozen=True, gc=False):
    """A limit of R16 has a new value, in ten-thousandths, for everybody (owner None) or one owner.

    value None: the owner's exception is removed.
    """

    owner: int | None
    name: str
    value: int | None


class KeyRaised(msgspec.Struct, frozen=True, gc=False):
    """Keys of the owner below this generation no longer count (PROTOCOL §2)."""

    owner: int
    generation: int


class Duplicate(msgspec.Struct, frozen=True, gc=False):
    """The command is one that was accepted before; nothing changed (R14).

    status, filled and remaining are the order's present ones.
    """

    oid: int
    status: Status
    filled: int
    remaining: int


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """The command changed nothing: a code and a sentence (PROTOCOL §3), and the rule if any."""

    code: str
    message: str
    rule: str = ""


Event = (
    Accepted
    | Trade
    | Canceled
    | Triggered
    | Amended
    | Decremented
    | PhaseChanged
    | SettingChanged
    | LimitChanged
    | KeyRaised
    | Duplicate
    | Rejected
)
