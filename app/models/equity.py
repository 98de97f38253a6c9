"""The equity curve: what an account, or the trades in one product, were worth over time, until now.

    with transaction(db):
        account = portfolio.account(db, owner, lasts)
        points = of_account(db, owner, account)        # the last one's value is account.equity

It runs back from what is true now, and undoes the owner's newest trades one by one: older ones need
not be read. Between them the market moves: so many trades of others are looked at, evenly by seq.
Some of all these moments are kept, and valued at the very prices that stood then. So the work is
bounded, however many trades there are; those of others are looked up by index, never scanned.

Only trades and prices move the curve. Money that was paid in counts as though it had always been
there. Journals that are no longer followed are left out, as they are everywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, groupby, pairwise

import msgspec

from app.models import trades
from app.models.db import DAL, rows
from app.models.portfolio import Account, ProfitAndLoss
from app.models.trades import Fill, Wanted

FILLS = 500
"""The curve begins at most so many own trades ago."""

PROBES = 120
"""So many trades of others between them are looked at, in all products together."""

BUCKETS = 64
"""In so many spans of time the curve keeps its lowest, its highest and its last value, at most."""

SEARCHES = 300
"""So many prices are searched for in all; with many products, a curve has fewer spans of time."""

KEPT = 3
"""Lowest, highest, and last."""


class Point(msgspec.Struct, frozen=True, gc=False):
    """What everything was worth just after a trade; time in µs, value in ten-thousandths."""

    time: int
    value: int


class Curve(msgspec.Struct, frozen=True):
    """Points, oldest first, none without a trade. `is_whole`: it begins with the first trade."""

    points: list[Point]
    is_whole: bool


class _Journal(msgspec.Struct, frozen=True, gc=False):
    """As much of a product's journal as the database has: up to record `seq`, of `time`."""

    ticker: str
    lineage: str
    seq: int
    time: int


class _Trade(msgspec.Struct, frozen=True, order=True, gc=False):
    """A trade in the order in which trades are shown, and what it brought the owner, if anything.

    One with oneself brings no shares, and costs the fees of both sides.
    """

    time: int
    ticker: str
    seq: int
    price: int
    shares: int = 0
    cash: int = 0

    @property
    def place(self) -> tuple[int, str, int]:
        return self.time, self.ticker, self.seq


class _Moment(msgspec.Struct, frozen=True):
    """Just after a trade: cash, shares, and the last trade in each product that is known of."""

    trade: _Trade
    cash: int
    held: dict[str, int]
    known: dict[str, _Trade]

    @property
    def value(self) -> int:
        """About what everything was worth: between the trades that are known of there are more."""
        return self.cash + sum(
            self.held[ticker] * trade.price for ticker, trade in self.known.items()
        )


class _Search(msgspec.Struct, frozen=True, gc=False):
    """For the last trade until a record: `low`, or up to 2 * step - 1 later, the last one whose
    last trade until there is not after `until`. A `step` is a power of two, or 0."""

    journal: _Journal
    low: int
    step: int = 0
    until: int = 0


def of_account(db: DAL, owner: int, account: Account) -> Curve:
    """Cash and the value of all positions; it ends with the account's equity."""
    shares = {holding.ticker: holding.position.shares for holding in account.holdings}
    lasts = {holding.ticker: holding.last for holding in account.holdings}
    return _curve(db, owner, account.cash.actual, shares, lasts)


def of_product(db: DAL, owner: int, ticker: str, result: ProfitAndLoss) -> Curve:
    """What the trades in one product brought in, and its shares' value; it ends with `result`'s
    profit: realised and unrealised together."""
    shares, lasts = {ticker: result.shares}, {ticker: result.now.price}
    return _curve(db, owner, -result.amount_spent, shares, lasts)


def _curve(
    db: DAL, owner: int, cash: int, shares: Mapping[str, int], lasts: Mapping[str, int]
) -> Curve:
    """The curve that ends with this cash, and these shares at these prices."""
    own, is_whole = _own_trades(db, owner, list(shares))
    if not own:
        return Curve([], is_whole=True)
    journals = {journal.ticker: journal for journal in _journals(db, shares)}
    begin_cash = cash - sum(trade.cash for trade in own)
    held = dict(shares)
    for trade in own:
        held[trade.ticker] -= trade.shares
    before = _trades_before(db, journals, own[0], held)
    others = _other_trades(db, journals, own, before)
    begin = _Moment(own[0], begin_cash, held, before)
    moments = _moments(begin, sorted(own + others))
    first = Point(begin.trade.time, begin.value)
    between = _valued(db, journals, _thinned(moments), [begin, *moments])
    now = max(moments[-1].trade.time, *(journal.time for journal in journals.values()))
    last = Point(now, cash + sum(shares[ticker] * lasts[ticker] for ticker in shares))
    return Curve([first, *between, last], is_whole)


def _own_trades(db: DAL, owner: int, tickers: Sequence[str]) -> tuple[list[_Trade], bool]:
    """The owner's newest trades, oldest first, and whether they are all there are."""
    found = trades.fills(db, owner, Wanted(tickers=tickers, limit=FILLS + 1))
    is_whole = len(found) <= FILLS
    by_place = [
        list(sides) for _, sides in groupby(found, lambda fill: (fill.place.ticker, fill.place.seq))
    ]
    if not is_whole:
        by_place.pop()  # the other side of this one may be missing
    return [_trade(sides) for sides in reversed(by_place)], is_whole


def _trade(sides: Sequence[Fill]) -> _Trade:
    place, price = sides[0].place, sides[0].price
    shares = sum(fill.quantity if fill.place.side == "buy" else -fill.quantity for fill in sides)
    cash = -shares * price - sum(fill.fee for fill in sides)
    return _Trade(place.time, place.ticker, place.seq, price, shares, cash)


def _journals(db: DAL, tickers: Iterable[str]) -> list[_Journal]:
    found = rows(db, "SELECT ticker, lineage, seq, time FROM log_position WHERE closed = 'F'")
    return [_Journal(*row) for row in found if row[0] in tickers]


def _trades_before(
    db: DAL, journals: Mapping[str, _Journal], first: _Trade, held: Mapping[str, int]
) -> dict[str, _Trade]:
    """The last trade before `first` in each product that was held then."""
    searches = []
    for ticker, journal in journals.items():
        if ticker == first.ticker:
            searches.append(_Search(journal, first.seq - 1))
        elif held[ticker]:
            searches.append(_search(journal, 0, journal.seq + 1, first))
    found = _last_trades(db, searches)
    return {trade.ticker: trade for trade in found.values() if held[trade.ticker]}


def _other_trades(
    db: DAL,
    journals: Mapping[str, _Journal],
    own: Sequence[_Trade],
    before: Mapping[str, _Trade],
) -> list[_Trade]:
    """Trades of others, evenly by seq; of a product not held at first, since the own first one."""
    begins: dict[str, int] = {}
    for trade in [*before.values(), *own]:
        begins.setdefault(trade.ticker, trade.seq)
    each = max(2, PROBES // len(begins))
    searches = [
        _Search(journals[ticker], first + (journals[ticker].seq - first) * part // each)
        for ticker, first in begins.items()
        for part in range(1, each + 1)
    ]
    known = {(trade.ticker, trade.seq) for trade in [*before.values(), *own]}
    found = set(_last_trades(db, searches).values())
    return [trade for trade in found if (trade.ticker, trade.seq) not in known]


def _moments(begin: _Moment, events: Iterable[_Trade]) -> list[_Moment]:
    cash, held, known = begin.cash, dict(begin.held), dict(begin.known)
    moments = []
    for trade in events:
        cash += trade.cash
        held[trade.ticker] += trade.shares
        known[trade.ticker] = trade
        moments.append(_Moment(trade, cash, dict(held), dict(known)))
    return moments


def _thinned(moments: list[_Moment]) -> list[_Moment]:
    """About as many moments as can be told apart in a drawing; highs and lows stay."""
    others = len(moments[-1].known) - 1
    buckets = min(BUCKETS, max(1, SEARCHES // (KEPT * others))) if others else BUCKETS
    if len(moments) <= KEPT * buckets:
        return moments
    first = moments[0].trade.time
    span = moments[-1].trade.time - first + 1
    kept = []
    for _, group in groupby(moments, lambda moment: (moment.trade.time - first) * buckets // span):
        bucket = list(group)
        values = [moment.value for moment in bucket]
        places = {values.index(min(values)), values.index(max(values)), len(bucket) - 1}
        kept += [bucket[place] for place in sorted(places)]
    return kept


def _valued(
    db: DAL,
    journals: Mapping[str, _Journal],
    kept: Sequence[_Moment],
    moments: Sequence[_Moment],
) -> list[Point]:
    """What everything was worth at the moments kept, at the very last price before each.

    It is that of the last trade known of in the product, or of one until the next known of.
    """
    following: dict[tuple[str, int], int] = {}
    for earlier, later in pairwise(moments):
        if trade := earlier.known.get(later.trade.ticker):
            following[trade.ticker, trade.seq] = later.trade.seq
    searches, places = [], []
    for place, moment in enumerate(kept):
        for ticker, trade in moment.known.items():
            if ticker != moment.trade.ticker and moment.held[ticker]:
                journal = journals[ticker]
                high = following.get((ticker, trade.seq), journal.seq + 1)
                if high - trade.seq > 1:
                    searches.append(_search(journal, trade.seq, high, moment.trade))
                    places.append(place)
    values = [moment.value for moment in kept]
    for number, trade in _last_trades(db, searches).items():
        moment = kept[places[number]]
        change = trade.price - moment.known[trade.ticker].price
        values[places[number]] += moment.held[trade.ticker] * change
    return [Point(moment.trade.time, value) for moment, value in zip(kept, values, strict=True)]


def _search(journal: _Journal, low: int, high: int, before: _Trade) -> _Search:
    """For the last trade before one in another product, from record `low` until before `high`.

    Of trades at one moment the product with the lesser name is first.
    """
    until = before.time if journal.ticker < before.ticker else before.time - 1
    return _Search(journal, low, (1 << (high - low - 1).bit_length()) >> 1, until)


def _last_trades(db: DAL, searches: Sequence[_Search]) -> dict[int, _Trade]:
    """What was found, by number of the search; nothing where there is no trade.

    Times rise with seq: a step is taken if it does not lead too far, and the next is half of it.
    """
    if not searches:
        return {}
    marks = ", ".join("(?, ?, ?, ?, ?, ?)" for _ in searches)
    values = [
        (
            number,
            search.journal.ticker,
            search.journal.lineage,
            search.until,
            search.low,
            search.step,
        )
        for number, search in enumerate(searches)
    ]
    found = rows(db, _LAST_TRADES.format(values=marks), *chain.from_iterable(values))
    return {number: _Trade(*row) for number, *row in found}


_LAST_TRADES = """
WITH RECURSIVE wanted (number, ticker, lineage, until, low, step) AS (VALUES {values}),
search AS (
  SELECT * FROM wanted
  UNION ALL
  SELECT s.number, s.ticker, s.lineage, s.until,
    s.low + CASE WHEN COALESCE((
      SELECT m.match_time FROM "match" m
      WHERE m.ticker = s.ticker AND m.lineage = s.lineage AND m.seq <= s.low + s.step
      ORDER BY m.seq DESC LIMIT 1
    ), 0) <= s.until THEN s.step ELSE 0 END,
    s.step / 2
  FROM search s WHERE s.step > 0
)
SELECT s.number, m.match_time, m.ticker, m.seq, m.price FROM search s
JOIN "match" m ON m.ticker = s.ticker AND m.lineage = s.lineage AND m.seq = (
  SELECT MAX(b.seq) FROM "match" b
  WHERE b.ticker = s.ticker AND b.lineage = s.lineage AND b.seq <= s.low
)
WHERE s.step = 0
"""
