"""Trades: the public tape, and what one trader bought and sold; newest first, a page at a time.

    with transaction(db):
        page = fills(db, owner, Wanted(limit=100))
        next_page = fills(db, owner, Wanted(limit=100, before=page[-1].place))

A page begins where the one before ended: after a *place*, not after so many rows, so that the
thousandth is as quick as the first and none is shown twice because others came meanwhile. Trades of
the journals that are being followed are shown, in the order of their times; within a product that
is the order of seq.
"""

import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import TypeVar

import msgspec

from app.models.db import DAL, rows
from matching.order import Side

END_OF_TIME = 2**62

ROWS_A_READ = 128
"""Of each journal so many trades are read at once: most pages need fewer of most of them."""

_PLACE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})-(|buy|sell)-([a-z_][a-z0-9_]{0,15})", re.ASCII)


class Place(msgspec.Struct, frozen=True, order=True):
    """Where a trade stands: its time, then what tells trades of one moment apart.

    `side` does so for the two sides of a trade with oneself; a trade of the tape has none.

    >>> Place.read(str(Place(5, "intc", 12, "buy")))
    Place(time=5, ticker='intc', seq=12, side='buy')
    """

    time: int
    ticker: str
    seq: int
    side: str = ""

    def __str__(self) -> str:
        return f"{self.time}-{self.seq}-{self.side}-{self.ticker}"

    @classmethod
    def read(cls, text: str) -> "Place":
        """The place that this text names; ValueError if it names none."""
        parts = _PLACE.fullmatch(text)
        if parts is None:
            raise ValueError(f"{text[:60]!r} is no place among trades")
        time, seq, side, ticker = parts.groups()
        return cls(int(time), ticker, int(seq), side)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which trades: of `tickers` (None: all), from `since` until just before `until` (µs), older
    than `before`, the `limit` newest of them."""

    tickers: Sequence[str] | None = None
    sides: Sequence[Side] = (Side.BUY, Side.SELL)
    since: int = 0
    until: int = END_OF_TIME
    before: Place | None = None
    limit: int


class Print(msgspec.Struct, frozen=True):
    """A trade as everybody may see it; taker: the side that came in, "none" at an uncross."""

    place: Place
    tid: int
    quantity: int
    price: int
    taker: str


class Fill(msgspec.Struct, frozen=True):
    """One side of a trade, as its owner may see it; fee in ten-thousandths, negative: a rebate."""

    place: Place
    tid: int
    oid: int
    quantity: int
    price: int
    fee: int
    taker: str

    @property
    def role(self) -> str:
        """Whether the owner's order made the market or took from it; neither at an uncross."""
        if self.taker == "none":
            return "auction"
        return "taker" if self.taker == self.place.side else "maker"


T = TypeVar("T", Print, Fill)


def tape(db: DAL, wanted: Wanted) -> list[Print]:
    """The newest trades that are wanted, without any trader's name."""
    columns = "tid, quantity, price, taker"
    streams = [
        _newest_first(db, Print, columns, Place(0, ticker, 0), lineage, wanted)
        for ticker, lineage in _journals(db, wanted.tickers)
    ]
    return _merged(streams, wanted.limit)


def fills(db: DAL, owner: int, wanted: Wanted) -> list[Fill]:
    """The owner's newest trades that are wanted; one with oneself is on both sides."""
    streams = []
    for ticker, lineage in _journals(db, wanted.tickers):
        for side in wanted.sides:
            party = "buyer" if side is Side.BUY else "seller"
            columns = f"tid, {side}_oid, quantity, price, {party}_fee, taker"
            stream = Place(0, ticker, 0, str(side))
            streams.append(
                _newest_first(db, Fill, columns, stream, lineage, wanted, {party: owner})
            )
    return _merged(streams, wanted.limit)


def _merged(streams: Sequence[Iterator[T]], limit: int) -> list[T]:
    in_order = heapq.merge(*streams, key=lambda trade: trade.place, reverse=True)
    return list(islice(in_order, limit))


def _journals(db: DAL, tickers: Sequence[str] | None) -> list[tuple[str, str]]:
    """Ticker and lineage of the journals that are being followed."""
    found = rows(db, "SELECT ticker, lineage FROM log_position WHERE closed = 'F' ORDER BY ticker")
    return [(ticker, lineage) for ticker, lineage in found if tickers is None or ticker in tickers]


def _newest_first(
    db: DAL,
    kind: Callable[..., T],
    columns: str,
    stream: Place,
    lineage: str,
    wanted: Wanted,
    party: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[T]:
    """The wanted trades of one journal (and side), read as they are asked for.

    Each read is by an index that ends in seq.
    """
    last_seq, until = END_OF_TIME, wanted.until
    if (before := wanted.before) is not None:
        if stream.ticker == before.ticker:
            last_seq = before.seq if stream.side < before.side else before.seq - 1
        else:
            until = min(until, before.time + (stream.ticker < before.ticker))
    condition = "".join(f"{name} = ? AND " for name in party)
    at_once = min(wanted.limit, ROWS_A_READ)
    while True:
        found = rows(
            db,
            f'SELECT seq, match_time, {columns} FROM "match" WHERE {condition}ticker = ?'
            " AND lineage = ? AND seq <= ? AND match_time >= ? AND match_time < ?"
            " ORDER BY seq DESC LIMIT ?",
            *party.values(),
            stream.ticker,
            lineage,
            last_seq,
            wanted.since,
            until,
            at_once,
        )
        for seq, time, *rest in found:
            yield kind(Place(time, stream.ticker, seq, stream.side), *rest)
        if len(found) < at_once:
            return
        last_seq = found[-1][0] - 1
