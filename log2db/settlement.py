"""Settlement: batches of a journal become rows, cash and positions, all or nothing (PROTOCOL §6).

    for step in steps(batches):                     # parsed outside the transaction
        with transaction(db, write=True):
            settle(db, header, position, step, at=now())
        position = step.after

| record | what it does |
|---|---|
| an order | a row of `buy_sell_order` |
| `match` | a row of `match`; both orders fill; positions and accounts of both sides move |
| `mod` `canceled` `triggered` `decremented` | the order's row says so |
| `set maker_fee= taker_fee=` | what later matches cost, paid to the house (R17) |
| `set band=` `phase` | what a short sell ties up while an auction collects (R17) |
| all others | nothing but a step forward |

How far the database has come is a row of `log_position`, moved in the same transaction by an UPDATE
that names the record it moves from: of two followers that do the same work, one fails. Owners are
numbers here: those without an account have a position, and their cash is in it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import astuple

from app.models.db import (
    DAL,
    Taken,
    execute,
    insert,
    insert_many,
    lock_rows,
    rows,
    rows_among,
    update_many,
)
from app.models.portfolio import fee
from matching.events import Canceled, Decremented, PhaseChanged, Trade, Triggered
from matching.journal import Batch, Header, Position, beginning
from matching.order import (
    HOUSE,
    Amend,
    ChangeSettings,
    NewOrder,
    Phase,
    SelfTrade,
    SetPhase,
    Side,
    Status,
    TimeInForce,
)
from matching.records import Body, CommandRecord, Record

MAX_RECORDS = 1_000
"""A transaction takes so many records at most, or one batch if that alone has more."""

OPEN, PARTIALLY_FILLED, FILLED, CANCELED, PENDING_STOP = map(
    str, (Status.OPEN, Status.PARTIALLY_FILLED, Status.FILLED, Status.CANCELED, Status.PENDING_STOP)
)
"""Statuses as plain text: SQLite takes that at once, and an Enum's only after a search."""

_TEXT: dict[StrEnum, str] = {
    member: str(member) for kind in (Side, TimeInForce, SelfTrade) for member in kind
}
"""The plain text of what an order's row says; str() takes longer than to look it up."""

_MATCH_COLUMNS = (
    "seq, tid, quantity, price, buyer, seller, buy_oid, sell_oid, taker, buyer_fee, seller_fee,"
    " match_time"
)


class ForeignJournal(Exception):
    """The journal is not the one that the database has followed, or does not fit what it has."""


class Fenced(Exception):
    """Somebody else has moved this journal's place in the database."""


class Place(msgspec.Struct, gc=False):
    """What a journal's row of `log_position` says of the market, beside how far it goes.

    `auction`: what was collected is not uncrossed yet (R10).
    """

    time: int
    maker_fee: int
    taker_fee: int
    band: int
    last: int
    auction: str

    @classmethod
    def at_header(cls, header: Header) -> "Place":
        """The market before the first record."""
        return cls(0, 0, 0, 0, header.reference, "F")

    def change(self, settings: Mapping[str, int]) -> None:
        """Take in a `set`."""
        self.maker_fee = settings.get("maker_fee", self.maker_fee)
        self.taker_fee = settings.get("taker_fee", self.taker_fee)
        self.band = settings.get("band", self.band)

    def enter(self, phase: Phase) -> None:
        """Take in a change of phase: entering `continuous` uncrosses what was collected."""
        if phase is Phase.AUCTION:
            self.auction = "T"
        elif phase is Phase.CONTINUOUS:
            self.auction = "F"


class Step(msgspec.Struct, frozen=True):
    """What one transaction takes: the records of whole batches, and the place after them."""

    records: list[Record]
    after: Position


class OrderRow(msgspec.Struct, gc=False):
    """What an order's row says beside ticker and lineage; each field is a column.

    Those from `quantity` on change.
    """

    oid: int
    seq: int
    created_on: int
    created_by: int
    buy_sell: str
    client_id: str
    tif: str
    stp: str
    post: str
    cod: str
    peak: int
    quantity: int
    price: int
    stop_price: int
    status: str
    filled: int = 0
    reason: str = ""
    triggered_on: int = 0
    modified_on: int = 0

    def changes(self) -> tuple[object, ...]:
        """What stands in the columns of _ORDER_CHANGES."""
        return (
            self.quantity,
            self.price,
            self.stop_price,
            self.status,
            self.filled,
            self.reason,
            self.triggered_on,
            self.modified_on,
        )


_ORDER_COLUMNS = ", ".join(OrderRow.__struct_fields__)
_ORDER_CHANGES = OrderRow.__struct_fields__[OrderRow.__struct_fields__.index("quantity") :]


@dataclass(slots=True)
class Holding:
    """An owner's shares and their cost as the database has them, and the cash that is new to it.

    `cost` is what the shares held cost, or what those owed brought in; it is taken back in
    proportion as they are sold or bought back. A slotted class: every trade changes two of them,
    and a msgspec.Struct takes eight times as long to store a value.

    >>> holding = Holding(shares=10, cost=1000)
    >>> holding.trade(-4, 480); holding.shares, holding.cost, holding.new_cash
    (6, 600, 480)
    >>> holding.trade(-10, 1100); holding.shares, holding.cost, holding.new_cash
    (-4, 440, 1580)
    """

    shares: int = 0
    cost: int = 0
    new_cash: int = 0
    changed: bool = False

    def pay(self, amount: int) -> None:
        """Take in a fee; negative: get one."""
        self.new_cash -= amount
        self.changed = True

    def trade(self, shares: int, cash: int) -> None:
        """Take in a trade: shares come for negative cash, and go for positive."""
        self.new_cash += cash
        self.changed = True
        held, value = self.shares, abs(cash)
        self.shares += shares
        if held * shares >= 0:  # more of the same
            self.cost += value
        elif abs(shares) <= abs(held):  # some is closed, or all
            self.cost -= self.cost * abs(shares) // abs(held)
        else:  # all is closed, and the rest opened
            self.cost = value - value * abs(held) // abs(shares)


def resume(db: DAL, header: Header) -> Position:
    """Where to go on reading this journal; inside a write transaction.

    A ticker without an open journal opens this one, from its header on. ForeignJournal if it has
    another open one, or if this one has been closed.
    """
    found = rows(
        db,
        'SELECT seq, "offset", batch, h, lineage, closed, run FROM log_position'
        " WHERE ticker = ? AND (lineage = ? OR closed = 'F') ORDER BY closed",
        header.ticker,
        header.lineage,
    )
    if not found:
        return open_journal(db, header)
    seq, offset, batch, chain, lineage, closed, run = found[0]
    if lineage != header.lineage:
        raise ForeignJournal(
            f"the journal is of lineage {header.lineage}; the database has followed {lineage}"
            f" up to record {seq}"
        )
    if closed == "T":
        ended = f": it is of run {run}, which has ended" if run else ""
        raise ForeignJournal(f"the journal's lineage, {lineage}, is closed in the database{ended}")
    return Position(seq, offset, batch, chain)


def open_journal(db: DAL, header: Header, *, closed: bool = False, run: int = 0) -> Position:
    """Begin a journal at its header. Fenced if somebody else did so at the same moment."""
    start = beginning(header)
    try:
        insert(
            db,
            "log_position",
            ticker=header.ticker,
            lineage=header.lineage,
            seq=start.seq,
            offset=start.offset,
            batch=start.batch,
            h=start.chain,
            last=header.reference,
            closed=closed,
            run=run,
        )
    except Taken as taken:
        raise Fenced(f"it began {header.ticker} at the same moment") from taken
    return start


def steps(batches: Iterable[Batch]) -> Iterator[Step]:
    """The batches in steps of at most MAX_RECORDS records."""
    records: list[Record] = []
    counted = 0
    after: Position | None = None
    for batch in batches:
        size = batch.last_seq - batch.first_seq + 1  # with its commit, which is a record too
        if after is not None and counted + size > MAX_RECORDS:
            yield Step(records, after)
            records, counted = [], 0
        records += batch.records()
        counted += size
        after = batch.position
    if after is not None:
        yield Step(records, after)


def settle(db: DAL, header: Header, before: Position, step: Step, *, at: int) -> None:
    """Fold the step that follows `before` into the database; inside a write transaction.

    Fenced if the database is not at `before` any more; ForeignJournal if a record names an order
    that it does not have, or makes a row that it has already.
    """
    _settle_rows(db, header, before, step, at=at).pay(db)


def refold(db: DAL, header: Header, batches: Iterable[Batch], *, closed: bool, at: int) -> Position:
    """Fold a journal whose place is at the header into tables that have nothing of it.

    Inside a write transaction. Accounts get nothing: who calls this brings their cash in line with
    the positions. closed: whether the journal is.
    """
    position = beginning(header)
    for step in steps(batches):
        _settle_rows(db, header, position, step, at=at, closed=closed)
        position = step.after
    return position


def _settle_rows(
    db: DAL, header: Header, before: Position, step: Step, *, at: int, closed: bool = False
) -> "_Fold":
    """All that a step does, but for the cash of accounts."""
    fold = _Fold(db, header, step.records)
    fold.take(step.records)
    _move(db, header, before, step.after, fold.place, closed=closed)
    try:
        fold.write(db, at)
    except Taken as taken:
        raise ForeignJournal(
            f"the database is at record {before.seq}, and has rows of what follows it already"
        ) from taken
    return fold


class _Fold:
    """The rows that some records make or change."""

    def __init__(self, db: DAL, header: Header, records: Sequence[Record]) -> None:
        self.key = {"ticker": header.ticker, "lineage": header.lineage}
        self.place = Place(
            *rows(
                db,
                f"SELECT {', '.join(Place.__struct_fields__)} FROM log_position"
                " WHERE ticker = ? AND lineage = ?",
                *self.key.values(),
            )[0]
        )
        oids, owners = _touched(records)
        self.orders: dict[int, OrderRow] = {}
        self.ids: dict[int, int] = {}
        """The ids of the orders' rows that the database has already."""
        for row_id, *row in self._stored_orders(db, oids):
            order = OrderRow(*row)
            self.orders[order.oid] = order
            self.ids[order.oid] = row_id
        self.holdings = {owner: Holding() for owner in owners}
        self.holdings |= self._stored_holdings(db, owners)
        self.matches: list[tuple[object, ...]] = []

    def take(self, records: Sequence[Record]) -> None:
        """Fold the records in."""
        for record in records:  # looked at by type: most are trades and new orders
            body = record.body
            if type(body) is Trade:
                self._trade(record, body)
            elif type(body) is CommandRecord:
                self._command(record, body)
            else:
                self._event(record, body)
        times = (record.time for record in reversed(records) if record.time)  # a check has none
        self.place.time = next(times, self.place.time)

    def write(self, db: DAL, at: int) -> None:
        """Write what was folded: each row once. `at` is the time of this settlement."""
        new = [astuple(order) for oid, order in self.orders.items() if oid not in self.ids]
        changed = [(*self.orders[oid].changes(), row_id) for oid, row_id in self.ids.items()]
        insert_many(db, "buy_sell_order", _ORDER_COLUMNS, new, same=self.key)
        if update_many(db, "buy_sell_order", _ORDER_CHANGES, changed) != len(changed):
            raise Fenced("its orders' rows were made anew since they were read")
        insert_many(
            db, '"match"', _MATCH_COLUMNS, self.matches, same={**self.key, "created_on": at}
        )
        insert_many(
            db,
            "position",
            "owner, shares, cost, cash",
            [
                (owner, holding.shares, holding.cost, holding.new_cash)
                for owner, holding in self.holdings.items()
                if holding.changed
            ],
            same=self.key,
            conflict="ON CONFLICT (ticker, lineage, owner) DO UPDATE SET shares = excluded.shares,"
            " cost = excluded.cost, cash = position.cash + excluded.cash",
        )

    def pay(self, db: DAL) -> None:
        """Give accounts their cash, in ascending order: of two that settle, neither holds what the
        other waits for while it waits itself."""
        accounts = [
            (holding.new_cash, owner)
            for owner, holding in self.holdings.items()
            if holding.changed and owner != HOUSE
        ]
        lock_rows(db, "auth_user", [owner for _, owner in accounts])
        update_many(db, "auth_user", ["actual_cash +"], accounts)

    def _command(self, record: Record, body: CommandRecord) -> None:
        match body.command:
            case NewOrder() as order:
                self.orders[body.oid] = _new_order(record, body.oid, order)
            case Amend() as amend:
                row = self._changed(body.oid, record)
                row.quantity = amend.quantity
                row.price = amend.price or 0
                # What a triggered order had stays to be seen.
                row.stop_price = amend.stop or row.stop_price
            case ChangeSettings() as change:
                self.place.change(dict(change.settings))
            case SetPhase(phase=phase):
                self.place.enter(phase)

    def _event(self, record: Record, body: Body) -> None:
        match body:
            case Canceled():
                row = self._changed(body.oid, record)
                row.status = CANCELED
                row.reason = str(body.reason)
            case Triggered():
                row = self._changed(body.oid, record)
                row.status = OPEN
                row.triggered_on = record.time
            case Decremented():
                self._changed(body.oid, record).quantity -= body.quantity
            case PhaseChanged():
                self.place.enter(body.phase)

    def _trade(self, record: Record, trade: Trade) -> None:
        value = trade.quantity * trade.price
        buyer_fee = seller_fee = 0
        place, holdings = self.place, self.holdings
        place.last = trade.price
        if trade.taker is not None and (place.maker_fee or place.taker_fee):
            maker_fee, taker_fee = fee(value, place.maker_fee), fee(value, place.taker_fee)
            buyer_takes = trade.taker is Side.BUY
            buyer_fee, seller_fee = (
                (taker_fee, maker_fee) if buyer_takes else (maker_fee, taker_fee)
            )
            holdings[trade.buyer].pay(buyer_fee)
            holdings[trade.seller].pay(seller_fee)
            holdings[HOUSE].pay(-buyer_fee - seller_fee)
        if trade.buyer != trade.seller:  # who trades with himself has what he had
            holdings[trade.buyer].trade(trade.quantity, -value)
            holdings[trade.seller].trade(-trade.quantity, value)
        for oid in (trade.buy_oid, trade.sell_oid):
            row = self._changed(oid, record)
            row.filled += trade.quantity
            row.status = FILLED if row.filled >= row.quantity else PARTIALLY_FILLED
        self.matches.append(
            (
                record.seq,
                trade.tid,
                trade.quantity,
                trade.price,
                trade.buyer,
                trade.seller,
                trade.buy_oid,
                trade.sell_oid,
                "none" if trade.taker is None else _TEXT[trade.taker],
                buyer_fee,
                seller_fee,
                record.time,
            )
        )

    def _changed(self, oid: int, record: Record) -> OrderRow:
        row = self.orders.get(oid)
        if row is None:
            raise ForeignJournal(
                f"record {record.seq} names order {oid}, which the database does not have"
            )
        row.modified_on = record.time
        return row

    def _stored_orders(self, db: DAL, oids: set[int]) -> list[Any]:
        return rows_among(
            db,
            f"SELECT id, {_ORDER_COLUMNS} FROM buy_sell_order"
            " WHERE ticker = ? AND lineage = ? AND oid",
            *self.key.values(),
            among=oids,
        )

    def _stored_holdings(self, db: DAL, owners: set[int]) -> dict[int, Holding]:
        found = rows_among(
            db,
            "SELECT owner, shares, cost FROM position WHERE ticker = ? AND lineage = ? AND owner",
            *self.key.values(),
            among=owners,
        )
        return {owner: Holding(shares, cost) for owner, shares, cost in found}


def _new_order(record: Record, oid: int, order: NewOrder) -> OrderRow:
    return OrderRow(
        oid,
        record.seq,
        record.time,
        order.owner,
        _TEXT[order.side],
        order.client_id,
        _TEXT[order.tif],
        _TEXT[order.stp],
        "FT"[order.post],
        "FT"[order.cod],
        order.peak,
        order.quantity,
        order.price,
        order.stop,
        PENDING_STOP if order.stop else OPEN,
        modified_on=record.time,
    )


def _touched(records: Sequence[Record]) -> tuple[set[int], set[int]]:
    """The orders that the records change, but do not make, and the owners that trade in them."""
    oids: set[int] = set()
    made: set[int] = set()
    owners: set[int] = set()
    for record in records:
        body = record.body
        if type(body) is Trade:
            oids.add(body.buy_oid)
            oids.add(body.sell_oid)
            owners.add(body.buyer)
            owners.add(body.seller)
        elif type(body) is CommandRecord:
            (made if type(body.command) is NewOrder else oids).add(body.oid)
        elif isinstance(body, Canceled | Triggered | Decremented):
            oids.add(body.oid)
    if owners:
        owners.add(HOUSE)  # for the fees
    return oids - made, owners


def _move(
    db: DAL, header: Header, before: Position, after: Position, place: Place, *, closed: bool
) -> None:
    changes = ", ".join(f"{name} = ?" for name in Place.__struct_fields__)
    moved = execute(
        db,
        f'UPDATE log_position SET seq = ?, "offset" = ?, batch = ?, h = ?, {changes}'
        " WHERE ticker = ? AND lineage = ? AND seq = ? AND closed = ?",
        after.seq,
        after.offset,
        after.batch,
        after.chain,
        *astuple(place),
        header.ticker,
        header.lineage,
        before.seq,
        "FT"[closed],
    )
    if moved != 1:
        raise Fenced(f"the database is not at record {before.seq} of {header.ticker} any more")
