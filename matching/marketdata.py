"""What watchers see of one product: the public state, and the messages that tell it (PROTOCOL §4).

A `Feed` holds the public state and nothing else: price levels, the last 50 trades, phase, last.
The matching server's is fed by the exchange with `Changes`, whenever a batch is durable; the web
app's by the messages of a matching server (`load` for a snapshot, `update` for an update). A
`Window` is what one depth of it looks like: it turns changes of the whole book into changes of the
best N levels.

A level is [price, quantity, orders], absolute; quantity 0 says that it is gone from the window.

>>> feed = Feed(reference=1_000_000)
>>> feed.apply(Changes(seq=3, levels=((Side.BUY, 999_000, 4, 1),)))
>>> feed.snapshot(depth=1)["bids"]
[['99.90', 4, 1]]
>>> window = feed.window(1)
>>> feed.apply(Changes(seq=4, levels=((Side.BUY, 999_500, 2, 1),)))
>>> window.take_changes()
([['99.95', 2, 1], ['99.90', 0, 0]], [])
"""

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import msgspec
from sortedcontainers import SortedDict

from matching.order import Phase, Side, format_price, parse_price

TRADES_KEPT = 50
"""Trades that a snapshot and a conflated update show."""

DEFAULT_DEPTH = 50
"""Levels a side that a watcher sees without asking."""

MAX_DEPTH = 1_000
"""The deepest subscription."""

JsonLevel = list[Any]
"""`["101.30", 500, 2]`: price, quantity, orders."""

JsonObject = dict[str, Any]
"""A JSON object of PROTOCOL §4."""

_EPOCH = datetime(1970, 1, 1)


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What one durable batch (or one message from upstream) changed in public.

    `levels` are (side, price, quantity, orders), absolute, of the whole book; `trades` are PROTOCOL
    §4's objects; `phase` and `rules` are None where they stayed, `indicative` UNSET.
    """

    seq: int
    levels: Sequence[tuple[Side, int, int, int]] = ()
    trades: Sequence[JsonObject] = ()
    phase: Phase | None = None
    indicative: JsonObject | msgspec.UnsetType | None = msgspec.UNSET
    rules: JsonObject | None = None


class Feed:
    """The public state of one product after record `seq`.

    `rules` are its settings and limits by name, in the text in which commands give them.
    """

    def __init__(self, *, reference: int, phase: Phase = Phase.CONTINUOUS) -> None:
        self.seq = 0
        self.phase = phase
        self.reference = reference
        self.last: int | None = None
        self.indicative: JsonObject | None = None
        self.rules: JsonObject = {}
        self.trades: deque[JsonObject] = deque(maxlen=TRADES_KEPT)
        self._sides: dict[Side, _Ladder] = {Side.BUY: _Ladder(-1), Side.SELL: _Ladder(1)}

    def apply(self, changes: Changes) -> None:
        """Move on to the state after `changes`."""
        self.seq = changes.seq
        for side, price, quantity, orders in changes.levels:
            self._sides[side].set(price, quantity, orders)
        for trade in changes.trades:
            self.trades.append(trade)
        if changes.trades:
            self.last = parse_price(changes.trades[-1]["price"])
        if changes.phase is not None:
            self.phase = changes.phase
        if changes.indicative is not msgspec.UNSET:
            self.indicative = changes.indicative
        if changes.rules is not None:
            self.rules = changes.rules

    def load(self, message: Mapping[str, Any]) -> None:
        """Become what a `snapshot` message of a matching server says."""
        for side, name in _SIDES:
            ladder = self._sides[side] = _Ladder(self._sides[side].direction)
            for price, quantity, orders in message[name]:
                ladder.set(parse_price(price), quantity, orders)
        self.seq = message["seq"]
        self.phase = Phase(message["phase"])
        self.reference = parse_price(message["reference"])
        self.last = None if message["last"] is None else parse_price(message["last"])
        self.indicative = message["indicative"]
        self.rules = message["rules"]
        self.trades = deque(message["trades"], maxlen=TRADES_KEPT)

    def update(self, message: Mapping[str, Any]) -> Changes:
        """Apply an `update` message of a matching server; what it changed, to publish further.

        ValueError if it does not follow the state that we hold (`prev`): then a message is missing,
        and only a new snapshot helps.
        """
        if message["prev"] != self.seq:
            raise ValueError(f"an update after seq {message['prev']} does not follow {self.seq}")
        changes = Changes(
            seq=message["seq"],
            levels=[
                (side, parse_price(price), quantity, orders)
                for side, name in _SIDES
                for price, quantity, orders in message.get(name, ())
            ],
            trades=message.get("trades", ()),
            phase=Phase(message["phase"]) if "phase" in message else None,
            indicative=message.get("indicative", msgspec.UNSET),
            rules=message.get("rules"),
        )
        self.apply(changes)
        return changes

    def levels(self, side: Side, depth: int | None) -> list[JsonLevel]:
        """The best `depth` levels of a side (None: all), best first."""
        return [level_to_json(level) for level in self._sides[side].best(depth)]

    def snapshot(
        self, depth: int = DEFAULT_DEPTH, *, book: bool = True, trades: bool = True
    ) -> JsonObject:
        """The `snapshot` message for a depth, with what the channels book and trades show."""
        message: JsonObject = {
            "type": "snapshot",
            "seq": self.seq,
            "phase": self.phase,
            "last": price_or_none(self.last),
            "reference": format_price(self.reference),
        }
        if book:
            message["bids"] = self.levels(Side.BUY, depth)
            message["asks"] = self.levels(Side.SELL, depth)
        if trades:
            message["trades"] = list(self.trades)
        message["indicative"] = self.indicative
        message["rules"] = self.rules
        return message

    def window(self, depth: int) -> "Window":
        """A view of the best `depth` levels, as they are now."""
        return Window(self, depth)

    def best(self, side: Side, depth: int | None) -> list[tuple[int, tuple[int, int]]]:
        """The best `depth` levels of a side as (price, (quantity, orders)), best first."""
        return self._sides[side].best(depth)


class Window:
    """The best `depth` levels as a watcher knows them; `take_changes` is what they miss by now.

    A level that others push out of the window is told as gone, and told anew when it comes back:
    so what a watcher holds is the window, whether it counts levels or not.
    """

    def __init__(self, feed: Feed, depth: int) -> None:
        self._feed = feed
        self._depth = depth
        self._shown = {side: dict(feed.best(side, depth)) for side, _ in _SIDES}

    def take_changes(self) -> tuple[list[JsonLevel], list[JsonLevel]]:
        """The changed bids and asks since the last call (or since the window was made)."""
        return self._take(Side.BUY), self._take(Side.SELL)

    def _take(self, side: Side) -> list[JsonLevel]:
        shown = self._shown[side]
        present = dict(self._feed.best(side, self._depth))
        if present == shown:
            return []
        self._shown[side] = present
        changed = [
            [format_price(price), quantity, orders]
            for price, (quantity, orders) in present.items()
            if shown.get(price) != (quantity, orders)
        ]
        changed += [[format_price(price), 0, 0] for price in shown if price not in present]
        return changed


class _Ladder:
    """The levels of one side, best first: keys are prices times `direction` (bids: -1)."""

    __slots__ = ("_levels", "direction")

    def __init__(self, direction: int) -> None:
        self.direction = direction
        self._levels: SortedDict = SortedDict()

    def set(self, price: int, quantity: int, orders: int) -> None:
        if quantity:
            self._levels[price * self.direction] = (quantity, orders)
        else:
            self._levels.pop(price * self.direction, None)

    def best(self, depth: int | None) -> list[tuple[int, tuple[int, int]]]:
        direction = self.direction
        return [(key * direction, level) for key, level in islice(self._levels.items(), depth)]


_SIDES = ((Side.BUY, "bids"), (Side.SELL, "asks"))


def level_to_json(level: tuple[int, tuple[int, int]]) -> JsonLevel:
    """A level of `Feed.best` as JSON shows it."""
    price, (quantity, orders) = level
    return [format_price(price), quantity, orders]


def price_or_none(price: int | None) -> str | None:
    """A price as JSON shows it where there may be none yet (`last`)."""
    return None if price is None else format_price(price)


def format_time(microseconds: int) -> str:
    """Microseconds since 1970 as RFC 3339, UTC, six decimals.

    >>> format_time(1_700_000_000_010_000)
    '2023-11-14T22:13:20.010000Z'
    """
    moment = _EPOCH + timedelta(microseconds=microseconds)
    return f"{moment.isoformat(timespec='microseconds')}Z"
