"""Trades: the public tape, and what one trader bought and sold; newest first, a page at a time.

    with transaction(db):
        page = fills(db, owner, Wanted(limit=100))
        next_page = fills(db, owner, Wanted(limit=100, before=page[-1].place))

A page begins where the one before ended: after a *place*, not after so many rows, so that the
thousandth is as quick as the first and none is shown twice because others came meanwhile. Trades of
the journals that are being followed are shown, in the order of their times; within a product that
is the order of seq.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from app.models.db import DAL, rows
from matching.order import Side

END_OF_TIME = 2**62

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


def tape(db: DAL, wanted: Wanted) -> list[Print]:
    """The newest trades that are wanted, without any trader's name."""
    found: list[Print] = []
    for ticker, lineage in _journals(db, wanted.tickers):
        found += [
            Print(Place(time, ticker, seq), *rest)
            for seq, time, *rest in _newest(
                db, "tid, quantity, price, taker", "", (), Place(0, ticker, 0), lineage, wanted
            )
        ]
    return _first(found, wanted.limit)


def fills(db: DAL, owner: int, wanted: Wanted) -> list[Fill]:
    """The owner's newest trades that are wanted; one with oneself is on both sides."""
    found: list[Fill] = []
    for ticker, lineage in _journals(db, wanted.tickers):
        for side in wanted.sides:
            party = "buyer" if side is Side.BUY else "seller"
            columns = f"tid, {side}_oid, quantity, price, {party}_fee, taker"
            found += [
                Fill(Place(time, ticker, seq, str(side)), *rest)
                for seq, time, *rest in _newest(
                    db,
                    columns,
                    f"{party} = ? AND ",
                    (owner,),
                    Place(0, ticker, 0, str(side)),
                    lineage,
                    wanted,
                )
            ]
    return _first(found, wanted.limit)


def _first(found: list[Any], limit: int) -> list[Any]:
    return sorted(found, key=lambda trade: trade.place, reverse=True)[:limit]


def _journals(db: DAL, tickers: Sequence[str] | None) -> list[tuple[str, str]]:
    """Ticker and lineage of the journals that are being followed."""
    found = rows(db, "SELECT ticker, lineage FROM log_position WHERE closed = 'F' ORDER BY ticker")
    return [(ticker, lineage) for ticker, lineage in found if tickers is None or ticker in tickers]


def _newest(
    db: DAL,
    columns: str,
    condition: str,
    values: tuple[object, ...],
    stream: Place,
    lineage: str,
    wanted: Wanted,
) -> list[Any]:
    """The newest trades of one journal (and side): by an index that ends in seq."""
    last_seq, until = END_OF_TIME, wanted.until
    if (before := wanted.before) is not None:
        if stream.ticker == before.ticker:
            last_seq = before.seq if stream.side < before.side else before.seq - 1
        else:
            until = min(until, before.time + (stream.ticker < before.ticker))
    return rows(
        db,
        f'SELECT seq, match_time, {columns} FROM "match" WHERE {condition}ticker = ?'
        " AND lineage = ? AND seq <= ? AND match_time >= ? AND match_time < ?"
        " ORDER BY seq DESC LIMIT ?",
        *values,
        stream.ticker,
        lineage,
        last_seq,
        wanted.since,
        until,
        wanted.limit,
    )
