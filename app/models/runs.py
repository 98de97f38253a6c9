"""Runs: what is traded from one beginning to the next; everybody begins each with their deposits.

    with transaction(db, write=True):
        ended = end_run(db, by=manager.id, at=now())    # from here on a new run is under way

A run is ended once its matching servers have stopped and the database has all of their journals.
Its lineages are closed and belong to it, so that positions, trades and prices, which are those of
the journals being followed, begin anew; its rows stay, and so do its journals (scripts/newrun.py
moves them to `var/runs/<number>/`). Every account gets or gives what brings its cash back to the
sum of its deposits: a row of the ledger, which is no deposit.
"""

import msgspec

from app.models.db import (
    DAL,
    execute,
    insert,
    insert_many,
    lock_row,
    lock_table,
    rows,
    update_many,
)
from app.models.tables import OPEN_INTENTS, WITHOUT_ROW

BY_THE_OPERATOR = 0
"""Who ended a run that no manager ended: the person at the machine, with scripts/zap.py."""


class Run(msgspec.Struct, frozen=True):
    """The run that is under way; `begun_on` in µs, 0 before there was anything to trade."""

    number: int
    begun_on: int


class EndedRun(msgspec.Struct, frozen=True):
    """A run of the past: times in µs, who ended it ("" for the operator), what was traded in it."""

    number: int
    begun_on: int
    ended_on: int
    ended_by: str
    tickers: list[str]
    trades: int


class Followed(msgspec.Struct, frozen=True):
    """A journal of the present run: how many records and trades of it the database has."""

    ticker: str
    records: int
    trades: int


def present(db: DAL) -> Run:
    """The run that is under way: the first one began with the first product."""
    ended = rows(db, "SELECT number, ended_on FROM run ORDER BY number DESC LIMIT 1")
    if ended:
        number, ended_on = ended[0]
        return Run(number + 1, ended_on)
    begun_on = rows(db, "SELECT COALESCE(MIN(created_on), 0) FROM product")[0][0]
    return Run(1, begun_on)


def past(db: DAL) -> list[EndedRun]:
    """The runs that have ended, the last one first."""
    tickers: dict[int, list[str]] = {}
    for run, ticker in rows(
        db, "SELECT DISTINCT run, ticker FROM log_position WHERE run > 0 ORDER BY run, ticker"
    ):
        tickers.setdefault(run, []).append(ticker)
    return [
        EndedRun(number, begun_on, ended_on, name or "", tickers.get(number, []), trades)
        for number, begun_on, ended_on, name, trades in rows(
            db,
            "SELECT r.number, r.begun_on, r.ended_on, u.username, r.trades FROM run r"
            " LEFT JOIN auth_user u ON u.id = r.ended_by ORDER BY r.number DESC",
        )
    ]


def followed(db: DAL) -> list[Followed]:
    """The journals of the present run, by ticker."""
    return [Followed(*row) for row in _open_journals(db)]


def run_of(db: DAL, ticker: str, lineage: str) -> int | None:
    """Which ended run this journal belongs to; None if it is not of one."""
    found = rows(
        db,
        "SELECT run FROM log_position WHERE ticker = ? AND lineage = ? AND run > 0",
        ticker,
        lineage,
    )
    return int(found[0][0]) if found else None


def end_run(db: DAL, *, by: int, at: int) -> Run:
    """End the present run; the run that ended. Inside a write transaction, with nobody settling.

    Intents that never became an order are given up and their cash is free: the servers that could
    have taken them are down. One that a new server takes nevertheless counts again from then on.
    Amends are of orders that have ended.
    """
    # In the order in which log2db and a registration come by these tables.
    for table in ("run", "log_position", "position"):
        lock_table(db, table)
    ended = present(db)
    trades = sum(trades for _, _, trades in _open_journals(db))
    execute(db, "UPDATE log_position SET closed = 'T', run = ? WHERE closed = 'F'", ended.number)
    _give_start_cash(db, f"start of run {ended.number + 1}", at=at)
    execute(
        db,
        "UPDATE order_intent SET state = 'never', modified_on = ? WHERE id IN"
        f" (SELECT i.id FROM order_intent i WHERE i.state IN {OPEN_INTENTS} AND {WITHOUT_ROW})",
        at,
    )
    execute(db, "DELETE FROM amend_intent")
    insert(
        db,
        "run",
        number=ended.number,
        begun_on=ended.begun_on,
        ended_on=at,
        ended_by=by,
        trades=trades,
    )
    return ended


def remember(db: DAL, number: int) -> None:
    """The row of an ended run, made again if it was lost, agrees with the journals that are there.

    It began no later than their first order and ended no earlier than their last record.
    """
    journals = (
        "FROM log_position l JOIN {} o ON o.ticker = l.ticker AND o.lineage = l.lineage"
        " WHERE l.run = ?"
    )
    first = rows(db, f"SELECT MIN(o.created_on) {journals.format('buy_sell_order')}", number)
    last = rows(db, "SELECT MAX(time) FROM log_position WHERE run = ?", number)
    trades = rows(db, "SELECT COUNT(*) " + journals.format('"match"'), number)
    ended_on = last[0][0] or 0
    begun_on = first[0][0] or ended_on
    known = rows(db, "SELECT begun_on, ended_on FROM run WHERE number = ?", number)
    if not known:
        insert(db, "run", number=number, ended_by=BY_THE_OPERATOR)
        known = [(begun_on, ended_on)]
    execute(
        db,
        "UPDATE run SET begun_on = ?, ended_on = ?, trades = ? WHERE number = ?",
        min(begun_on, known[0][0]),
        max(ended_on, known[0][1]),
        trades[0][0],
        number,
    )


def _give_start_cash(db: DAL, reason: str, *, at: int) -> None:
    """Bring every account to the sum of its deposits, each by a row of the ledger."""
    for (owner,) in rows(db, "SELECT id FROM auth_user ORDER BY id"):
        lock_row(db, "auth_user", owner)
    missing = [
        (int(deposits) - actual, owner)
        for owner, actual, deposits in rows(
            db,
            "SELECT u.id, u.actual_cash, (SELECT COALESCE(SUM(l.amount), 0) FROM ledger l"
            " WHERE l.owner = u.id AND l.deposit = 'T') FROM auth_user u ORDER BY u.id",
        )
        if int(deposits) != actual
    ]
    insert_many(
        db,
        "ledger",
        "owner, amount, reason, deposit, created_on",
        [(owner, amount, reason, "F", at) for amount, owner in missing],
    )
    update_many(db, "auth_user", ["actual_cash +"], missing)


def _open_journals(db: DAL) -> list[tuple[str, int, int]]:
    """Ticker, records and trades of the journals that are being followed: trades are numbered."""
    return rows(
        db,
        'SELECT l.ticker, l.seq, COALESCE((SELECT m.tid FROM "match" m WHERE m.ticker = l.ticker'
        " AND m.lineage = l.lineage ORDER BY m.seq DESC LIMIT 1), 0)"
        " FROM log_position l WHERE l.closed = 'F' ORDER BY l.ticker",
    )
