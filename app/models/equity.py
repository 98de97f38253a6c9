"""The equity curve: what an account, or the trades in one product, were worth over time, until now.

    with transaction(db):
        account = portfolio.account(db, owner, lasts)
        points = of_account(db, owner, account)        # the last one's value is account.equity

It runs back from what is true now, and undoes the owner's newest trades one by one: older ones need
not be read. Between them the market moves: each product counts at the last price that is known
there, which is that of every own trade, and of so many others, evenly by seq. So the work is
bounded, however many trades there are; other people's are looked up by index, never scanned.

Only trades and prices move the curve. Money that was paid in counts as though it had always been
there. Journals that are no longer followed are left out, as they are everywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import msgspec

from app.models import trades
from app.models.db import DAL, rows
from app.models.portfolio import Account, ProfitAndLoss
from app.models.trades import Fill, Wanted

FILLS = 500
"""The curve begins at most so many own trades ago."""

PROBES = 200
"""So many prices between own trades are looked up, in all products together."""

POINTS = 200
"""A curve of more points is thinned."""

BUCKETS = 64
"""In so many spans of time a long curve keeps its lowest, its highest and its last value."""

_PARTS = 8
"""A span of records that is searched for a time is cut into so many, again and again."""


class Point(msgspec.Struct, frozen=True):
    """What everything was worth just after a trade; time in µs, value in ten-thousandths."""

    time: int
    value: int


class Curve(msgspec.Struct, frozen=True):
    """Points, oldest first, none without a trade. `is_whole`: it begins with the first trade."""

    points: list[Point]
    is_whole: bool


class _Journal(msgspec.Struct, frozen=True):
    """As much of a product's journal as the database has: up to record `seq`, of `time`."""

    ticker: str
    lineage: str
    seq: int
    time: int


class _Trade(msgspec.Struct, frozen=True, order=True):
    """A trade in the order in which trades are shown, and what it brought the owner, if anything.

    One with oneself brings no shares, and costs the fees of both sides.
    """

    time: int
    ticker: str
    seq: int
    price: int
    shares: int = 0
    cash: int = 0


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
    cash -= sum(trade.cash for trade in own)
    held = dict(shares)
    for trade in own:
        held[trade.ticker] -= trade.shares
    journals = _journals(db, shares)
    before, between = _market(db, journals, own, held)
    marks = {**lasts, **before}
    value = cash + sum(held[ticker] * marks[ticker] for ticker in held)
    points = [Point(own[0].time, value)]
    for trade in sorted(own + between):
        ticker = trade.ticker
        value += trade.cash - held[ticker] * marks[ticker]
        held[ticker] += trade.shares
        marks[ticker] = trade.price
        value += held[ticker] * marks[ticker]
        points.append(Point(trade.time, value))
    value += sum(held[ticker] * (lasts[ticker] - marks[ticker]) for ticker in held)
    now = max(points[-1].time, *(journal.time for journal in journals))
    points.append(Point(now, value))
    return Curve(_thinned(points), is_whole)


def _own_trades(db: DAL, owner: int, tickers: Sequence[str]) -> tuple[list[_Trade], bool]:
    """The owner's newest trades, oldest first, and whether they are all there are."""
    found = trades.fills(db, owner, Wanted(tickers=tickers, limit=FILLS + 1))
    is_whole = len(found) <= FILLS
    by_place = [list(sides) for _, sides in groupby(found, lambda fill: _place(fill))]
    if not is_whole:
        by_place.pop()  # the other side of this one may be missing
    return [_trade(sides) for sides in reversed(by_place)], is_whole


def _place(fill: Fill) -> tuple[str, int]:
    return fill.place.ticker, fill.place.seq


def _trade(sides: Sequence[Fill]) -> _Trade:
    place, price = sides[0].place, sides[0].price
    shares = sum(fill.quantity if fill.place.side == "buy" else -fill.quantity for fill in sides)
    cash = -shares * price - sum(fill.fee for fill in sides)
    return _Trade(place.time, place.ticker, place.seq, price, shares, cash)


def _journals(db: DAL, tickers: Iterable[str]) -> list[_Journal]:
    found = rows(db, "SELECT ticker, lineage, seq, time FROM log_position WHERE closed = 'F'")
    return [_Journal(*row) for row in found if row[0] in tickers]


def _market(
    db: DAL, journals: Sequence[_Journal], own: Sequence[_Trade], held: Mapping[str, int]
) -> tuple[dict[str, int], list[_Trade]]:
    """The prices just before the first own trade, by ticker, and trades of others since then.

    A product that was not `held` there matters from its first own trade on.
    """
    first_seqs: dict[str, int] = {}
    for trade in own:
        first_seqs.setdefault(trade.ticker, trade.seq)
    held_before = [journal for journal in journals if held[journal.ticker]]
    begins = first_seqs | _seqs_before(db, held_before, own[0], first_seqs)
    concerned = [journal for journal in journals if journal.ticker in begins]
    each = max(2, PROBES // len(concerned))
    probes = []
    for journal in concerned:
        first = begins[journal.ticker]
        seqs = {first, journal.seq, *_between(first, journal.seq, each)}
        probes += [(journal, seq) for seq in seqs]
    own_seqs = {(trade.ticker, trade.seq) for trade in own}
    prices: dict[str, int] = {}
    others = set()
    for _, trade in _last_trades(db, probes):
        if (trade.time, trade.ticker, trade.seq) < (own[0].time, own[0].ticker, own[0].seq):
            prices[trade.ticker] = trade.price
        elif (trade.ticker, trade.seq) not in own_seqs:
            others.add(trade)
    return prices, list(others)


def _seqs_before(
    db: DAL, journals: Sequence[_Journal], first: _Trade, later: Mapping[str, int]
) -> dict[str, int]:
    """In each journal a record whose last trade until there is the last one before `first`.

    Times rise with seq, so the place is found by cutting what lies before the record in `later`, or
    all, into ever smaller parts.
    """
    spans = {journal: (0, later.get(journal.ticker, journal.seq + 1)) for journal in journals}
    for journal, (_, end) in spans.items():
        if journal.ticker == first.ticker:
            spans[journal] = (end - 1, end)
    while probes := [
        (journal, seq)
        for journal, (low, high) in spans.items()
        for seq in _between(low, high, _PARTS)
    ]:
        found = {(trade.ticker, seq): trade for seq, trade in _last_trades(db, probes)}
        for journal, seq in probes:
            low, high = spans[journal]
            trade = found.get((journal.ticker, seq))
            if trade is None or (trade.time, trade.ticker) < (first.time, first.ticker):
                spans[journal] = (max(low, seq), high)
            else:
                spans[journal] = (low, min(high, seq))
    return {journal.ticker: low for journal, (low, _) in spans.items()}


def _between(low: int, high: int, parts: int) -> list[int]:
    """At most parts - 1 numbers between the two, evenly.

    >>> _between(10, 20, 4), _between(10, 12, 4), _between(10, 11, 4)
    ([12, 15, 17], [11], [])
    """
    numbers = {low + (high - low) * part // parts for part in range(1, parts)}
    return sorted(numbers - {low, high})


def _last_trades(db: DAL, probes: Sequence[tuple[_Journal, int]]) -> list[tuple[int, _Trade]]:
    """For each journal and seq, in any order: that seq, and the last trade until there, if any."""
    values = ", ".join("(?, ?, ?)" for _ in probes)
    found = rows(
        db,
        f"WITH probe (ticker, lineage, seq) AS (VALUES {values})"
        " SELECT p.seq, m.match_time, m.ticker, m.seq, m.price FROM probe p"
        ' JOIN "match" m ON m.ticker = p.ticker AND m.lineage = p.lineage AND m.seq ='
        ' (SELECT MAX(b.seq) FROM "match" b WHERE b.ticker = p.ticker AND b.lineage = p.lineage'
        " AND b.seq <= p.seq)",
        *(value for journal, seq in probes for value in (journal.ticker, journal.lineage, seq)),
    )
    return [(seq, _Trade(*row)) for seq, *row in found]


def _thinned(points: list[Point]) -> list[Point]:
    """About as many points as can be told apart in a drawing; highs and lows stay."""
    if len(points) <= POINTS:
        return points
    first, last = points[0], points[-1]
    span = last.time - first.time + 1
    kept = [first]
    for _, group in groupby(
        points[1:-1], lambda point: (point.time - first.time) * BUCKETS // span
    ):
        bucket = list(group)
        places = range(len(bucket))
        lowest = min(places, key=lambda place: bucket[place].value)
        highest = max(places, key=lambda place: bucket[place].value)
        kept += [bucket[place] for place in sorted({lowest, highest, len(bucket) - 1})]
    return [*kept, last]
