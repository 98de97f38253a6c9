"""Rebuild: what the database holds of a journal is thrown away, and made anew from the journal.

    in_transaction(db, lambda: rebuild(db, file, mark, run=None, at=now()), write=True)

| what | afterwards |
|---|---|
| orders, matches, positions of the journal | what the journal says, up to its durable mark |
| rows of the ticker that belong to no journal the database knows | gone |
| `log_position` | at the mark; open or closed as it was; there again, if it was lost |
| accounts | changed by what their cash differs from ledger and trades |
| intents of the ticker | `journaled` if their order has a row, else to be asked about |
| `run` | there again for a journal of an ended run, if it was lost |

Other journals' rows, the ledger, products and accounts themselves are left alone. All of it is one
transaction: whoever looks meanwhile sees what was, and a rebuild that is killed has done nothing.
"""

import msgspec

from app.models import intents, runs
from app.models.db import DAL, execute, lock_row, lock_rows, make_indexes, rows, update_many
from log2db.settlement import ForeignJournal, Place, open_journal, refold
from log2db.verify import accounts_cash
from matching.journal import Header, Mark, beginning, read_batches, read_header
from matching.ports import Source

TABLES = ("buy_sell_order", '"match"', "position")
"""What a journal becomes, beside its row of `log_position`."""


class Rebuilt(msgspec.Struct, frozen=True):
    """What a rebuild made: the journal's orders and matches, and how far they go.

    `strays`: rows that belonged to no journal; `accounts`: those whose cash was not right.
    """

    orders: int
    matches: int
    seq: int
    strays: int
    accounts: int


def rebuild(db: DAL, source: Source, durable: Mark, *, run: int | None, at: int) -> Rebuilt:
    """Make the database's share of a journal anew; inside a write transaction.

    run: the ended run that the journal is of; None: as the database has it, or the present one.
    ForeignJournal if the database follows another journal of the ticker, or the mark is of another;
    JournalDamaged if the journal is not sound up to the mark.
    Doubled if rows of other journals are there twice, against a unique index that was lost.
    """
    header = read_header(source)
    if durable.lineage != header.lineage:
        raise ForeignJournal(
            f"the journal is of lineage {header.lineage}, its durable mark of {durable.lineage}"
        )
    is_closed = _begin(db, header, run)
    strays = _throw_away(db, header)
    make_indexes(db)
    batches = read_batches(source, header, until=durable.offset)
    end = refold(db, header, batches, closed=is_closed, at=at)
    if run is not None:
        runs.remember(db, run)
    intents.follow_rows(db, header.ticker, at=at)
    orders, matches = (
        rows(
            db,
            f"SELECT COUNT(*) FROM {table} WHERE ticker = ? AND lineage = ?",
            header.ticker,
            header.lineage,
        )[0][0]
        for table in TABLES[:2]
    )
    return Rebuilt(orders, matches, end.seq, strays, _correct_accounts(db))


def _begin(db: DAL, header: Header, run: int | None) -> bool:
    """Put the journal's row of `log_position` to the header; whether the journal is closed."""
    key = (header.ticker, header.lineage)
    others = rows(
        db,
        "SELECT lineage FROM log_position WHERE ticker = ? AND lineage <> ? AND closed = 'F'",
        *key,
    )
    found = rows(db, "SELECT id FROM log_position WHERE ticker = ? AND lineage = ?", *key)
    if not found:
        if others and run is None:
            raise ForeignJournal(
                f"the journal is of lineage {header.lineage}; the database follows {others[0][0]}"
            )
        open_journal(db, header, closed=run is not None, run=run or 0)
        return run is not None
    lock_row(db, "log_position", found[0][0])
    start = beginning(header)
    execute(
        db,
        'UPDATE log_position SET seq = ?, "offset" = ?, batch = ?, h = ?,'
        f" {', '.join(f'{name} = ?' for name in Place.__struct_fields__)} WHERE id = ?",
        start.seq,
        start.offset,
        start.batch,
        start.chain,
        *msgspec.structs.astuple(Place.at_header(header)),
        found[0][0],
    )
    if run is not None:
        execute(db, "UPDATE log_position SET closed = 'T', run = ? WHERE id = ?", run, found[0][0])
    closed = rows(db, "SELECT closed FROM log_position WHERE id = ?", found[0][0])
    return bool(closed[0][0] == "T")


def _throw_away(db: DAL, header: Header) -> int:
    """Delete the journal's rows, and the ticker's rows of unknown journals: how many those were."""
    strays = 0
    for table in TABLES:
        execute(
            db,
            f"DELETE FROM {table} WHERE ticker = ? AND lineage = ?",
            header.ticker,
            header.lineage,
        )
        strays += execute(
            db,
            f"DELETE FROM {table} WHERE ticker = ? AND lineage NOT IN"
            " (SELECT lineage FROM log_position WHERE ticker = ?)",
            header.ticker,
            header.ticker,
        )
    return strays


def _correct_accounts(db: DAL) -> int:
    """Change accounts' cash by what it differs from ledger and trades; how many it did."""
    # Once their rows are held, nobody adds to ledger or positions of theirs without being seen.
    lock_rows(db, "auth_user", (user for (user,) in rows(db, "SELECT id FROM auth_user")))
    wrong = [
        (account.expected - account.actual, account.owner)
        for account in accounts_cash(db)
        if account.actual != account.expected
    ]
    update_many(db, "auth_user", ["actual_cash +"], wrong)
    return len(wrong)
