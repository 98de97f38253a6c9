"""Verify: does the database say what the journal says? Every order, match, position and account.

It folds the journal a second time, in its own plain way, up to the record that the database has
reached, and compares row by row. Cash is proved from both ends: what an owner's trades brought in
is the journal's business, and an account's cash is its ledger and what its trades brought in.

    OK intc: 1200 orders, 840 matches, 11 positions and 10 accounts agree up to record 2093
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from app.models.db import DAL, rows, transaction
from app.models.tables import WITHOUT_ROW
from log2db.settlement import ForeignJournal
from matching.events import Canceled, Decremented, PhaseChanged, Trade, Triggered
from matching.journal import Header, JournalDamaged, Mark, beginning, read_batches, read_header
from matching.order import Amend, ChangeSettings, NewOrder, Phase, SetPhase, format_price
from matching.ports import Source
from matching.records import Check, CommandRecord, Record

MAX_LINES = 50
"""So many differences are printed; the summary counts the others."""

_ORDER_FIELDS = (
    "seq, created_by, buy_sell, quantity, price, stop_price, peak, client_id, tif, stp, post, cod,"
    " status, filled, reason, triggered_on, created_on, modified_on"
)
_MATCH_FIELDS = (
    "tid, quantity, price, buyer, seller, buy_oid, sell_oid, taker, buyer_fee, seller_fee,"
    " match_time"
)
_POSITION_FIELDS = "shares, cost, cash"
_PLACE_FIELDS = 'seq, "offset", batch, time, maker_fee, taker_fee, band, last, auction'


class Report(msgspec.Struct):
    """What was found: one line for each difference, and one that says it all."""

    differences: list[str]
    summary: str


def verify(db: DAL, source: Source, ticker: str, durable: Mark | None) -> Report:
    """Compare the database with a journal, up to the record that the database has reached.

    How far it is behind the durable mark is told, and is no difference. ForeignJournal if it has
    not followed this journal at all, JournalDamaged if the journal is not sound that far.
    """
    header = read_header(source)
    with transaction(db):
        found = rows(
            db,
            f"SELECT h, {_PLACE_FIELDS} FROM log_position WHERE ticker = ? AND lineage = ?",
            ticker,
            header.lineage,
        )
        if not found or header.ticker != ticker:
            raise ForeignJournal(f"the database has not followed this journal of {header.ticker}")
        chain, *place = found[0]
        seq = place[0]
        books = _Books(header)
        end = beginning(header)
        batches = read_batches(source, header)
        while end.seq < seq and (batch := next(batches, None)) is not None:
            books.enter(batch.records())
            end = batch.position
        if end.seq < seq:
            raise JournalDamaged(
                end.offset, f"the journal ends at record {end.seq}; the database is at {seq}"
            )
        expected = [end.seq, end.offset, end.batch, *books.place.values()]
        if place[:3] == expected[:3] and chain != end.chain:
            raise JournalDamaged(end.offset, "it has changed since the database followed it")
        what = f"{ticker} position in the journal"
        differences = [
            *_unequal(what, _PLACE_FIELDS, place, expected),
            *_differences(db, header, books),
            *_strays(db),
            *_lost_intents(db, ticker),
        ]
        accounts, wrong = _compare_accounts(db)
    differences += wrong
    counts = (
        f"{len(books.orders)} orders, {len(books.matches)} matches, {len(books.positions)}"
        f" positions and {accounts} accounts"
    )
    lag = durable.seq - seq if durable is not None else 0
    behind = f"; the database is {lag} records behind" if lag > 0 else ""
    if not differences:
        return Report([], f"OK {ticker}: {counts} agree up to record {seq}{behind}")
    more = f" (the first {MAX_LINES} above)" if len(differences) > MAX_LINES else ""
    summary = f"{len(differences)} differences in {ticker}{more}: {counts}, record {seq}{behind}"
    return Report(differences[:MAX_LINES], summary)


class _Books:
    """The journal folded: dictionaries of plain values, in the order of the fields above."""

    def __init__(self, header: Header) -> None:
        self.orders: dict[int, dict[str, Any]] = {}
        self.matches: dict[int, tuple[Any, ...]] = {}
        self.positions: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        self.place: dict[str, Any] = {
            "time": 0,
            "maker_fee": 0,
            "taker_fee": 0,
            "band": 0,
            "last": header.reference,
            "auction": "F",
        }

    def enter(self, records: Iterable[Record]) -> None:
        for record in records:
            body = record.body
            if not isinstance(body, Check):  # the one record without a time
                self.place["time"] = record.time
            if isinstance(body, CommandRecord):
                self._enter_command(record, body)
            elif isinstance(body, Trade):
                self._enter_trade(record, body)
            elif isinstance(body, Canceled):
                self._change(body.oid, record, status="canceled", reason=str(body.reason))
            elif isinstance(body, Triggered):
                self._change(body.oid, record, status="open", triggered_on=record.time)
            elif isinstance(body, PhaseChanged):
                self._enter_phase(body.phase)
            elif isinstance(body, Decremented):
                order = self.orders[body.oid]
                self._change(body.oid, record, quantity=order["quantity"] - body.quantity)

    def _enter_command(self, record: Record, body: CommandRecord) -> None:
        command = body.command
        if isinstance(command, NewOrder):
            self.orders[body.oid] = {
                "seq": record.seq,
                "created_by": command.owner,
                "buy_sell": str(command.side),
                "quantity": command.quantity,
                "price": command.price,
                "stop_price": command.stop,
                "peak": command.peak,
                "client_id": command.client_id,
                "tif": str(command.tif),
                "stp": str(command.stp),
                "post": "T" if command.post else "F",
                "cod": "T" if command.cod else "F",
                "status": "pending_stop" if command.stop else "open",
                "filled": 0,
                "reason": "",
                "triggered_on": 0,
                "created_on": record.time,
                "modified_on": record.time,
            }
        elif isinstance(command, Amend):
            self._change(body.oid, record, quantity=command.quantity, price=command.price)
            if command.stop:
                self._change(body.oid, record, stop_price=command.stop)
        elif isinstance(command, ChangeSettings):
            for name, value in command.settings:
                if name in self.place:
                    self.place[name] = value
        elif isinstance(command, SetPhase):
            self._enter_phase(command.phase)

    def _enter_phase(self, phase: Phase) -> None:
        if phase in (Phase.AUCTION, Phase.CONTINUOUS):
            self.place["auction"] = "T" if phase is Phase.AUCTION else "F"

    def _enter_trade(self, record: Record, trade: Trade) -> None:
        value = trade.price * trade.quantity
        self.place["last"] = trade.price
        roles = {"buy": ("taker", "maker"), "sell": ("maker", "taker")}
        fees = [0, 0]
        if trade.taker is not None:
            for side, role in enumerate(roles[str(trade.taker)]):
                # ⌊x + ½⌋; the rate is in ten-thousandths of a basis point, 10⁻⁸ of the value.
                fees[side] = (value * self.place[f"{role}_fee"] + 50_000_000) // 100_000_000
        for side, oid in enumerate((trade.buy_oid, trade.sell_oid)):
            order = self.orders[oid]
            filled = order["filled"] + trade.quantity
            whole = filled >= order["quantity"]
            self._change(
                oid, record, filled=filled, status="filled" if whole else "partially_filled"
            )
            owner = (trade.buyer, trade.seller)[side]
            if fees[side]:
                self.positions[owner][2] -= fees[side]
                self.positions[0][2] += fees[side]
        if trade.buyer != trade.seller:
            self._hand_over(trade.buyer, trade.quantity, trade.price)
            self._hand_over(trade.seller, -trade.quantity, trade.price)
        self.matches[record.seq] = (
            trade.tid,
            trade.quantity,
            trade.price,
            trade.buyer,
            trade.seller,
            trade.buy_oid,
            trade.sell_oid,
            "none" if trade.taker is None else str(trade.taker),
            *fees,
            record.time,
        )

    def _hand_over(self, owner: int, shares: int, price: int) -> None:
        """Average cost: what is closed takes its part of the cost, what is opened adds its own."""
        position = self.positions[owner]
        held, cost, _ = position
        closing = min(abs(held), abs(shares)) if (held > 0) != (shares > 0) else 0
        if closing:
            cost -= cost * closing // abs(held)
        opening = abs(shares) - closing
        position[0] = held + shares
        position[1] = cost + opening * price
        position[2] -= shares * price

    def _change(self, oid: int, record: Record, **fields: Any) -> None:
        self.orders[oid].update(fields, modified_on=record.time)


def _differences(db: DAL, header: Header, books: _Books) -> Iterable[str]:
    key = (header.ticker, header.lineage)
    orders = {oid: tuple(order.values()) for oid, order in books.orders.items()}
    positions = {owner: tuple(values) for owner, values in books.positions.items()}
    for noun, table, number, fields, expected in (
        ("order", "buy_sell_order", "oid", _ORDER_FIELDS, orders),
        ("match", '"match"', "seq", _MATCH_FIELDS, books.matches),
        ("position of owner", "position", "owner", _POSITION_FIELDS, positions),
    ):
        stored: dict[int, tuple[Any, ...]] = {}
        for of, *values in rows(
            db, f"SELECT {number}, {fields} FROM {table} WHERE ticker = ? AND lineage = ?", *key
        ):
            if of in stored:
                yield f"{header.ticker} {noun} {of}: more than once in the database"
            stored[of] = tuple(values)
        for of in sorted(stored.keys() | expected.keys()):
            what = f"{header.ticker} {noun} {of}"
            if of not in stored:
                yield f"{what}: not in the database"
            elif of not in expected:
                yield f"{what}: not in the journal"
            else:
                yield from _unequal(what, fields, stored[of], expected[of])


def _unequal(
    what: str, fields: str, stored: Iterable[object], expected: Iterable[object]
) -> Iterable[str]:
    for name, have, want in zip(fields.split(","), stored, expected, strict=True):
        if have != want:
            field = name.strip(' "')
            yield f"{what}: {field} is {have!r} in the database, {want!r} in the journal"


def _strays(db: DAL) -> Iterable[str]:
    """Rows of journals that nobody has followed: no journal could ever tell that they are wrong."""
    for table in ("buy_sell_order", "match", "position"):
        for ticker, lineage in rows(
            db,
            f'SELECT DISTINCT t.ticker, t.lineage FROM "{table}" t LEFT JOIN log_position l'
            " ON l.ticker = t.ticker AND l.lineage = t.lineage WHERE l.id IS NULL",
        ):
            yield (
                f"{table} rows of {ticker}, lineage {lineage}: the database has followed no such"
                " journal"
            )


def _lost_intents(db: DAL, ticker: str) -> Iterable[str]:
    """Intents whose order is said to have a row: their cash would never be counted again (R17)."""
    for client_id, owner in rows(
        db,
        "SELECT i.client_id, i.owner FROM order_intent i WHERE i.ticker = ?"
        f" AND i.state = 'journaled' AND {WITHOUT_ROW} ORDER BY i.id",
        ticker,
    ):
        yield f"{ticker} intent {client_id} of owner {owner}: its order is not in the database"


class AccountCash(msgspec.Struct, frozen=True):
    """What an account has, and the two that it has to be the sum of."""

    owner: int
    username: str
    actual: int
    ledger: int
    traded: int

    @property
    def expected(self) -> int:
        return self.ledger + self.traded


def accounts_cash(db: DAL) -> list[AccountCash]:
    """The cash of all accounts: `traded` in every journal, those of ended runs too."""
    found = rows(
        db,
        "SELECT u.id, u.username, u.actual_cash,"
        " (SELECT COALESCE(SUM(l.amount), 0) FROM ledger l WHERE l.owner = u.id),"
        " (SELECT COALESCE(SUM(p.cash), 0) FROM position p WHERE p.owner = u.id)"
        " FROM auth_user u ORDER BY u.id",
    )
    return [
        AccountCash(owner, name, actual, int(ledger), int(traded))
        for owner, name, actual, ledger, traded in found
    ]


def _compare_accounts(db: DAL) -> tuple[int, list[str]]:
    """How many accounts there are, and whose cash is not their ledger and all their trades."""
    accounts = accounts_cash(db)
    wrong = [
        f"account {account.owner} ({account.username}): actual cash is"
        f" {format_price(account.actual)}, ledger and trades are"
        f" {format_price(account.ledger)} and {format_price(account.traded)}"
        for account in accounts
        if account.actual != account.expected
    ]
    return len(accounts), wrong
