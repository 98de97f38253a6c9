"""Portfolio: what a trader has, what ties it up, and what became of their trades (R17).

Cash available is never stored. It is actual cash, less what open buys would cost, less the value of
sells beyond the shares held, less twice the average sale value of short positions, less the same
for orders that the platform has sent but the journal does not show yet. An order with an amend on
its way counts as what asks for more of the two. What an auction collects counts at the price that
its uncross may come to.

    with transaction(db):
        page = pandl(db, owner, product, last=1_013_500)

Everything here reads only, and is meant to be called inside one transaction, so that it adds up.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from pydal import DAL

from app.models.db import rows
from app.models.products import Product
from app.models.tables import OPEN_INTENTS, OVER_STATUSES, WITHOUT_ROW
from matching.order import Side
from matching.settings import span

PANDL_ROWS = 500
"""The newest trades that the P&L page lists."""

MOST_COMBINATIONS = 64
"""So many combinations of what amends on their way may come to are looked at one by one."""

FEE_SCALE = 100_000_000
"""Fees are in ten-thousandths of a basis point: so many of them are the whole value."""


class Cash(msgspec.Struct, frozen=True):
    """actual − open_buys − short_orders − short_positions − intents = available (R17)."""

    actual: int
    open_buys: int
    short_orders: int
    short_positions: int
    intents: int

    @property
    def available(self) -> int:
        return (
            self.actual - self.open_buys - self.short_orders - self.short_positions - self.intents
        )


class Position(msgspec.Struct, frozen=True):
    """Net shares in one product. `cost`: what the shares held cost, or a short one brought in.

    `cash` is what all trades together brought in (negative: what they cost).
    """

    ticker: str
    shares: int
    cost: int
    cash: int

    @property
    def realised(self) -> int:
        """Profit of what has been bought and sold again, at average cost."""
        return self.cash + (self.cost if self.shares > 0 else -self.cost)


class Working(msgspec.Struct, frozen=True):
    """An order that still works, or an intent that may become one: what R17 asks of it.

    `quantity` is what is open, and `filled` what is not any more, as far as the database knows; oid
    0: not known yet. `amended`: open quantities and prices that amends on their way may give it.
    """

    ticker: str
    side: Side
    quantity: int
    price: int
    is_intent: bool = False
    oid: int = 0
    filled: int = 0
    amended: tuple[tuple[int, int], ...] = ()

    def amend(self, total: int, price: int) -> "Working":
        """The same order with an amend on its way to this total quantity, counted at `price`."""
        amended = (*self.amended, (max(0, total - self.filled), price))
        return msgspec.structs.replace(self, amended=amended)

    @property
    def outcomes(self) -> list[tuple[int, int]]:
        """The open quantities and prices that may be true, without those below another one.

        >>> Working("intc", Side.SELL, 10, 500).amend(10, 400).amend(20, 300).outcomes
        [(10, 500), (20, 300)]
        """
        possible = {(self.quantity, self.price), *self.amended}
        return sorted(
            one
            for one in possible
            if not any(
                one != other and one[0] <= other[0] and one[1] <= other[1] for other in possible
            )
        )


class Auction(msgspec.Struct, frozen=True):
    """What bounds the price at which a product's auction will be uncrossed (R10).

    `bands`: that in force and that which managers want, in ten-thousandths of a percent; 0: none.
    """

    last: int
    bands: tuple[int, ...]

    def price(self, limit: int) -> int:
        """What a sell that rests at `limit` may trade at, at most: no lower than that.

        No buy of the auction is further from last than the band (R12). Without one no rule bounds
        it: 5 % above the limit, or above last if that is higher, is taken for it (R17).

        >>> Auction(last=1_000_000, bands=(30_000,)).price(950_000)
        1030000
        >>> Auction(last=1_000_000, bands=(30_000, 0)).price(1_020_000)
        1071000
        """
        return max(
            max(limit, self.last + span(band, self.last))
            if band
            else max(limit, self.last) * 105 // 100
            for band in self.bands
        )


class OpenOrder(msgspec.Struct, frozen=True):
    """An order as the database shows it; created_on in µs.

    Price 0: market, stop 0: none, peak 0: all of it is shown.
    """

    ticker: str
    oid: int
    client_id: str
    side: str
    quantity: int
    filled: int
    price: int
    stop: int
    tif: str
    peak: int
    status: str
    created_on: int
    post: bool


class TradeRow(msgspec.Struct, frozen=True):
    """A row of the original's "Completed Trades"; time in µs, None in the NOW row.

    `total_shares` and `balance` (the cash that trades brought in) are those after it.
    """

    time: int | None
    quantity_buy: int
    quantity_sell: int
    price: int
    total_shares: int
    balance: int


class ProfitAndLoss(msgspec.Struct, frozen=True):
    """The P&L page of one product, as of journal record `as_of`; money in ten-thousandths.

    `now` values the position as if it were closed at `last`; `equity` counts every product's
    position, the others at the price of their last trade.
    """

    as_of: int
    cash: Cash
    shares: int
    rows: list[TradeRow]
    now: TradeRow
    amount_spent: int
    realised: int
    unrealised: int
    equity: int


class Holding(msgspec.Struct, frozen=True):
    """A position valued at `last`, as of journal record `as_of` of its product."""

    position: Position
    last: int
    as_of: int

    @property
    def ticker(self) -> str:
        return self.position.ticker

    @property
    def average_price(self) -> int | None:
        """What a share cost, or a short one brought in; None without shares.

        >>> Holding(Position("intc", shares=-3, cost=200, cash=200), last=70, as_of=9).average_price
        67
        """
        shares = abs(self.position.shares)
        return (2 * self.position.cost + shares) // (2 * shares) if shares else None

    @property
    def value(self) -> int:
        """What closing the position now would bring in; negative: cost."""
        return self.position.shares * self.last

    @property
    def realised(self) -> int:
        return self.position.realised

    @property
    def unrealised(self) -> int:
        return self.position.cash + self.value - self.position.realised

    @property
    def profit(self) -> int:
        """Realised and unrealised together."""
        return self.position.cash + self.value


class Account(msgspec.Struct, frozen=True):
    """What a trader has in all products together, by ticker."""

    cash: Cash
    holdings: list[Holding]

    @property
    def value(self) -> int:
        return sum(holding.value for holding in self.holdings)

    @property
    def equity(self) -> int:
        return self.cash.actual + self.value

    @property
    def realised(self) -> int:
        return sum(holding.realised for holding in self.holdings)

    @property
    def unrealised(self) -> int:
        return sum(holding.unrealised for holding in self.holdings)


def cash(db: DAL, owner: int) -> Cash:
    """What the owner has, and what ties it up; of an owner without an account, actual is 0."""
    found = rows(db, "SELECT actual_cash FROM auth_user WHERE id = ?", owner)
    held = {position.ticker: position for position in positions(db, owner)}
    working = working_orders(db, owner)
    fees = taker_fees(db)
    journaled = [
        msgspec.structs.replace(order, amended=()) for order in working if not order.is_intent
    ]
    orders = tied_up(held, journaled, fees)
    return Cash(
        actual=found[0][0] if found else 0,
        open_buys=orders[0],
        short_orders=orders[1],
        short_positions=orders[2],
        intents=sum(tied_up(held, working, fees)) - sum(orders),
    )


def tied_up(
    held: Mapping[str, Position], working: Iterable[Working], fees: Mapping[str, int]
) -> tuple[int, int, int]:
    """What R17 asks for open buys, for sells beyond the shares held, and for short positions.

    The shares held cover the cheapest sells: the dearer ones are then counted as short, so that no
    fill asks for more than was counted.
    """
    buys = 0
    sells: dict[str, list[Working]] = {}
    for order in working:
        if order.side is Side.BUY:
            value = max(quantity * price for quantity, price in order.outcomes)
            buys += value + max(0, fee(value, fees.get(order.ticker, 0)))
        else:
            sells.setdefault(order.ticker, []).append(order)
    short_orders = sum(
        _short_value(orders, max(0, held[ticker].shares) if ticker in held else 0)
        for ticker, orders in sells.items()
    )
    shorts = sum(2 * position.cost for position in held.values() if position.shares < 0)
    return buys, short_orders, shorts


def _short_value(sells: Sequence[Working], covered: int) -> int:
    """The value of what these sells of one product sell beyond `covered` shares, at most.

    Which amends on their way arrive is not known: the dearest combination counts. Of more
    combinations than can be tried, what no combination exceeds.
    """
    outcomes = [order.outcomes for order in sells]
    if math.prod(map(len, outcomes)) > MOST_COMBINATIONS:
        outcomes = [[(max(q for q, _ in each), max(p for _, p in each))] for each in outcomes]
    return max(_beyond(orders, covered) for orders in itertools.product(*outcomes))


def _beyond(sells: Iterable[tuple[int, int]], covered: int) -> int:
    value = 0
    for quantity, price in sorted(sells, key=lambda sell: sell[1]):
        short = max(0, quantity - covered)
        covered -= quantity - short
        value += short * price
    return value


def fee(value: int, rate: int) -> int:
    """A fee of `rate` ten-thousandths of a basis point: ⌊x + ½⌋ (R17); negative: a rebate.

    >>> fee(10_000, 5_000), fee(10_000, -5_000), fee(9_999, 5_000)
    (1, 0, 0)
    """
    return (2 * value * rate + FEE_SCALE) // (2 * FEE_SCALE)


def position(db: DAL, owner: int, ticker: str) -> Position:
    """The owner's position in a product; all zero if there is none."""
    for held in positions(db, owner):
        if held.ticker == ticker:
            return held
    return Position(ticker, 0, 0, 0)


def positions(db: DAL, owner: int) -> list[Position]:
    """The owner's positions in the journals that are being followed, by ticker."""
    found = rows(
        db,
        "SELECT p.ticker, p.shares, p.cost, p.cash FROM position p"
        " JOIN log_position l ON l.ticker = p.ticker AND l.lineage = p.lineage"
        " WHERE p.owner = ? AND l.closed = 'F' ORDER BY p.ticker",
        owner,
    )
    return [Position(*row) for row in found]


def working_orders(db: DAL, owner: int) -> list[Working]:
    """Intents without an order row, then open orders with what is left of them (R17).

    In this order, so that an order whose row appears meanwhile is counted twice rather than never;
    and amends on their way before both, so that one that arrives meanwhile is counted as well.
    """
    collecting = auctions(db)
    amends = _amends(db, owner, collecting)
    intents = [
        Working(
            ticker,
            Side(side),
            quantity,
            value_price(Side(side), price=price, stop=stop, auction=collecting.get(ticker)),
            is_intent=True,
            oid=oid,
        )
        for ticker, side, quantity, price, stop, oid in rows(
            db,
            "SELECT i.ticker, i.buy_sell, i.quantity, i.value_price, i.stop_price, i.oid"
            " FROM order_intent i"
            f" WHERE i.owner = ? AND i.state IN {OPEN_INTENTS} AND {WITHOUT_ROW} ORDER BY i.id",
            owner,
        )
    ]
    orders = [
        Working(
            ticker,
            Side(side),
            quantity,
            value_price(Side(side), price=price, stop=stop, auction=collecting.get(ticker)),
            oid=oid,
            filled=filled,
        )
        for ticker, side, quantity, price, stop, oid, filled in rows(
            db,
            "SELECT o.ticker, o.buy_sell, o.quantity - o.filled, o.price,"
            " CASE o.status WHEN 'pending_stop' THEN o.stop_price ELSE 0 END, o.oid, o.filled"
            " FROM buy_sell_order o"
            " JOIN log_position l ON l.ticker = o.ticker AND l.lineage = o.lineage"
            f" WHERE o.created_by = ? AND o.status NOT IN {OVER_STATUSES} AND l.closed = 'F'"
            " ORDER BY o.ticker, o.oid",
            owner,
        )
    ]
    return _with_amends(intents + orders, amends)


class _Amend(msgspec.Struct, frozen=True):
    """An amend on its way; `is_alone`: the database has no row of its order yet."""

    ticker: str
    oid: int
    side: Side
    total: int
    price: int
    is_alone: bool


def _amends(db: DAL, owner: int, collecting: Mapping[str, Auction]) -> list[_Amend]:
    """The owner's amends of which the database does not show yet what became.

    It shows that once it has come to the record `seq`, which is 0 until one is known that will do.
    """
    found = rows(
        db,
        "SELECT a.ticker, a.oid, a.buy_sell, a.quantity, a.value_price, COALESCE(o.status, '')"
        " FROM amend_intent a"
        " LEFT JOIN log_position l ON l.ticker = a.ticker AND l.lineage = a.lineage"
        " LEFT JOIN buy_sell_order o"
        " ON o.ticker = a.ticker AND o.lineage = a.lineage AND o.oid = a.oid"
        " WHERE a.owner = ? AND COALESCE(l.closed, 'F') = 'F'"
        " AND (a.seq = 0 OR a.seq > COALESCE(l.seq, 0)) ORDER BY a.id",
        owner,
    )
    return [
        _Amend(
            ticker,
            oid,
            Side(side),
            total,
            value_price(
                Side(side),
                price=price,
                stop=price if status == "pending_stop" else 0,
                auction=collecting.get(ticker),
            ),
            status == "",
        )
        for ticker, oid, side, total, price, status in found
    ]


def _with_amends(working: list[Working], amends: list[_Amend]) -> list[Working]:
    """The orders with their amends; one whose order is over asks for nothing any more.

    An amend of an order that the database has never heard of (a program sent it a moment ago) is
    counted as an order of its own.
    """
    by_order: defaultdict[tuple[str, int], list[_Amend]] = defaultdict(list)
    for amend in amends:
        by_order[amend.ticker, amend.oid].append(amend)
    amended = []
    for order in working:
        for amend in by_order.pop((order.ticker, order.oid), ()):
            order = order.amend(amend.total, amend.price)
        amended.append(order)
    return amended + [
        Working(amend.ticker, amend.side, amend.total, amend.price, is_intent=True)
        for alone in by_order.values()
        for amend in alone
        if amend.is_alone
    ]


def auctions(db: DAL) -> dict[str, Auction]:
    """The products in whose books an auction has collected what is not uncrossed yet, by ticker.

    As far as the database has come. A market that is halted or closed from an auction is one, too:
    whatever is crossed trades once it is continuous again (R11).
    """
    return {
        ticker: Auction(last, (band, wanted))
        for ticker, last, band, wanted in rows(
            db,
            "SELECT l.ticker, l.last, l.band, COALESCE(w.band, l.band) FROM log_position l"
            " LEFT JOIN product w ON w.name = l.ticker WHERE l.closed = 'F' AND l.auction = 'T'",
        )
    }


def value_price(side: Side, *, price: int, stop: int, auction: Auction | None = None) -> int:
    """The price at which an order counts (R17); `stop` is that of a stop that waits, else 0.

    A buy costs its limit at most, else its stop and 5 %. A sell that rests brings in its limit, or
    in an auction what that may come to; one that waits about its stop, however low its limit: so
    the higher of the two.

    >>> value_price(Side.BUY, price=0, stop=100), value_price(Side.SELL, price=1, stop=100)
    (105, 100)
    """
    if side is Side.SELL:
        return auction.price(price) if auction and not stop else max(price, stop)
    return price or stop * 105 // 100


def taker_fees(db: DAL) -> dict[str, int]:
    """Ticker → taker fee that buys have to cover, in ten-thousandths of a basis point.

    The larger of what the journal says and what managers want: of the two, trades that the database
    has not seen yet may cost either.
    """
    fees: dict[str, int] = dict(rows(db, "SELECT w.name, w.taker_fee FROM product w"))
    for ticker, rate in rows(db, "SELECT ticker, taker_fee FROM log_position WHERE closed = 'F'"):
        fees[ticker] = max(rate, fees.get(ticker, rate))
    return fees


def open_orders(db: DAL, owner: int, ticker: str | None = None) -> list[OpenOrder]:
    """The owner's open orders and waiting stops, by ticker and oid."""
    found = rows(
        db,
        "SELECT o.ticker, o.oid, o.client_id, o.buy_sell, o.quantity, o.filled, o.price,"
        " o.stop_price, o.tif, o.peak, o.status, o.created_on, o.post FROM buy_sell_order o"
        " JOIN log_position l ON l.ticker = o.ticker AND l.lineage = o.lineage"
        f" WHERE o.created_by = ? AND o.status NOT IN {OVER_STATUSES} AND l.closed = 'F'"
        " ORDER BY o.ticker, o.oid",
        owner,
    )
    return [
        msgspec.structs.replace(OpenOrder(*row), post=row[-1] == "T")
        for row in found
        if ticker is None or row[0] == ticker
    ]


def pandl(
    db: DAL, owner: int, product: Product, *, last: int, limit: int = PANDL_ROWS
) -> ProfitAndLoss:
    """The owner's newest trades in a product, oldest first, and the position valued at `last`."""
    held = position(db, owner, product.name)
    money = cash(db, owner)
    value = held.shares * last
    now = TradeRow(
        time=None,
        quantity_buy=max(0, -held.shares),
        quantity_sell=max(0, held.shares),
        price=last,
        total_shares=0,
        balance=held.cash + value,
    )
    return ProfitAndLoss(
        as_of=as_of(db, product.name),
        cash=money,
        shares=held.shares,
        rows=_trade_rows(db, owner, held, limit),
        now=now,
        amount_spent=-held.cash,
        realised=held.realised,
        unrealised=held.cash + value - held.realised,
        equity=money.actual + value + _value_of_others(db, owner, product.name),
    )


def account(db: DAL, owner: int, lasts: Mapping[str, int]) -> Account:
    """What the owner has, every product that was ever traded valued at its price in `lasts`.

    A product that is not in `lasts` counts at its last trade that the database has.
    """
    settled = all_as_of(db)
    holdings = []
    for held in positions(db, owner):
        last = lasts.get(held.ticker) or last_price(db, held.ticker) or 0
        holdings.append(Holding(held, last, settled[held.ticker]))
    return Account(cash(db, owner), holdings)


def all_as_of(db: DAL) -> dict[str, int]:
    """Ticker → seq of the last journal record that the database has, of journals being followed."""
    return dict(rows(db, "SELECT ticker, seq FROM log_position WHERE closed = 'F' ORDER BY ticker"))


def as_of(db: DAL, ticker: str, *, lineage: str | None = None) -> int:
    """The seq of the last journal record that the database has; 0 before the first.

    With `lineage`, of that journal: 0 if another one is being followed.
    """
    found = rows(
        db, "SELECT seq, lineage FROM log_position WHERE ticker = ? AND closed = 'F'", ticker
    )
    return int(found[0][0]) if found and lineage in (None, found[0][1]) else 0


def last_price(db: DAL, ticker: str) -> int | None:
    """The price of the last trade that the database has; None before the first."""
    found = rows(
        db,
        'SELECT price FROM "match" WHERE ticker = ? AND lineage ='
        " (SELECT lineage FROM log_position WHERE ticker = ? AND closed = 'F')"
        " ORDER BY seq DESC LIMIT 1",
        ticker,
        ticker,
    )
    return int(found[0][0]) if found else None


def _trade_rows(db: DAL, owner: int, held: Position, limit: int) -> list[TradeRow]:
    """The newest trades, oldest first.

    Shares and balance run backwards from what they are now: older trades need not be read.
    """
    found: set[tuple[int, ...]] = set()  # a trade with oneself is found on both sides
    for side in ("buyer", "seller"):
        found.update(
            rows(
                db,
                "SELECT seq, match_time, quantity, price, buyer, seller, buyer_fee, seller_fee"
                f' FROM "match" WHERE {side} = ? AND ticker = ? AND lineage ='
                " (SELECT lineage FROM log_position WHERE ticker = ? AND closed = 'F')"
                " ORDER BY seq DESC LIMIT ?",
                owner,
                held.ticker,
                held.ticker,
                limit,
            )
        )
    shares, balance = held.shares, held.cash
    newest_first = []
    for _, time, quantity, price, buyer, seller, buyer_fee, seller_fee in sorted(
        found, reverse=True
    )[:limit]:
        bought = quantity if buyer == owner else 0
        sold = quantity if seller == owner else 0
        newest_first.append(TradeRow(time, bought, sold, price, shares, balance))
        shares -= bought - sold
        balance -= (sold - bought) * price
        balance += (buyer_fee if bought else 0) + (seller_fee if sold else 0)
    return newest_first[::-1]


def _value_of_others(db: DAL, owner: int, ticker: str) -> int:
    value = 0
    for held in positions(db, owner):
        if held.ticker != ticker and held.shares:
            value += held.shares * (last_price(db, held.ticker) or 0)
    return value
