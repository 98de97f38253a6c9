"""`make bench`: how fast log2db catches up, beside an insert and a commit for each match.

    python benchmarks/settlement.py                  SQLite, and PostgreSQL where one answers
    python benchmarks/settlement.py --owners 1000    the journal of more traders

The journal is what the random traders of 2010 make of a market, by EMTE's own engine and journal.
Ways of bringing it into a new, migrated database take turns:

| way | what it does |
|---|---|
| one by one | `db.match.insert(…)` and `db.commit()` for each match, as in 2010; and nothing else |
| of 2010 | the same on SQLite as it comes, and as it was then: each commit waits for the disk |
| log2db | the whole follower: reads, checks, folds all records; orders, matches, cash, positions |
| bare | the rows that log2db leaves behind, known beforehand: bulk inserts, as many transactions |

Timed is the clock, since PostgreSQL works in processes of its own; a ratio is of one turn. Matches
of log2db come with all that belongs to them, of which there is more than matches: so its records a
second stand beside them. Bare is the ceiling: what the database takes for storing the final rows,
if nothing had to be read or found out. Then the processor time of a record is broken down.
"""

import argparse
import getpass
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from app.models.db import DAL, close, insert_many, migrate, open_database, rows, transaction
from log2db.__main__ import settle_rest
from log2db.settlement import MAX_RECORDS
from matching import exits
from matching.config import Var
from matching.disk import SystemDisk
from matching.engine import Engine
from matching.events import Trade
from matching.journal import Header, Journal, durable_path, read_batches
from matching.order import CancelAll, NewOrder
from robot.strategy import Desk, RandomTrader

TICKER = "bench"
REFERENCE = 1_000_000
DATABASE = f"emte_bench_{os.getpid()}"
"""The name of the database on PostgreSQL, which is dropped afterwards."""

BATCH = 64
"""So many records share a commit at least, as under load."""

CLEAR_TURNS = 40
"""A trader cancels all orders of its owner about once in so many turns: books stay small."""

SINGLES, SYNCED = 3_000, 300
"""So many matches go in one by one: their rate does not change with their number. The latter where
each waits for the disk."""

MATCH_COLUMNS = (
    "ticker, lineage, seq, tid, quantity, price, buyer, seller, buy_oid, sell_oid, taker,"
    " buyer_fee, seller_fee, match_time, created_on"
)
ORDER_COLUMNS = (
    "ticker, lineage, seq, oid, buy_sell, quantity, price, stop_price, peak, client_id, tif, stp,"
    " post, cod, status, filled, reason, triggered_on, created_on, created_by, modified_on"
)

Database = Callable[[], Any]
"""Opens a new, migrated database with an account for each trader; a context manager of a DAL."""


class Load(msgspec.Struct, frozen=True):
    """A journal to settle, and how much is in it."""

    path: Path
    header: Header
    records: int
    matches: int


class Rates(msgspec.Struct, frozen=True):
    """What one turn measured, a second: all but `records` count matches."""

    one_by_one: float
    of_2010: float
    matches: float
    records: float
    bare_matches: float
    bare_rows: float


def write_journal(path: Path, *, owners: int, orders: int) -> Load:
    """The journal of so many turns of a random trader for all owners, with its durable mark."""
    dice = random.Random(1)
    desk = Desk(ticker=TICKER, tick=100, lot=1, last=REFERENCE, dice=dice, id_prefix="r")
    trader = RandomTrader(owners=range(1, owners + 1), clear_turns=CLEAR_TURNS)
    engine = Engine(TICKER, tick=100, reference=REFERENCE)
    header = Header(
        ticker=TICKER,
        lineage=f"{dice.getrandbits(64):016x}",
        tick=100,
        lot=1,
        reference=REFERENCE,
        salt=dice.getrandbits(32),
    )
    journal = Journal(header)
    matches = at = 0
    with path.open("wb") as file:
        file.write(header.encode())
        journal.epoch(1, at=at)
        for _ in range(orders):
            trader.on_timer(desk)
            for command in desk.take_commands():
                assert isinstance(command, NewOrder | CancelAll)
                at += 1_000
                events = engine.apply(command, at)
                oid = getattr(events[0], "oid", 0) if isinstance(command, NewOrder) else 0
                journal.append(command, oid=oid, events=events, at=at)
                trades = [event for event in events if isinstance(event, Trade)]
                matches += len(trades)
                if trades:
                    desk.last = trades[-1].price
            if journal.open_lines >= BATCH:
                file.write(journal.close_batch())
        file.write(journal.close_batch())
    durable_path(path).write_bytes(journal.mark.encode())
    return Load(path, header, journal.seq, matches)


@contextmanager
def on_sqlite(folder: Path, owners: int) -> Iterator[DAL]:
    """A Database in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        var = Var(Path(name))
        with _opened(f"sqlite://{var.database_file}", var, owners) as db:
            yield db


@contextmanager
def on_postgres(server: str, folder: Path, owners: int) -> Iterator[DAL]:
    """A Database on a server, with its usual settings: a commit waits for the disk."""
    _on_server(server, f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    _on_server(server, f"CREATE DATABASE {DATABASE}")
    try:
        uri = f"{server.rpartition('/')[0]}/{DATABASE}"
        with _opened(uri, Var(folder / "postgres"), owners) as db:
            yield db
    finally:
        _on_server(server, f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")


@contextmanager
def _opened(uri: str, var: Var, owners: int) -> Iterator[DAL]:
    var.make()
    migrate(uri, var)
    db = open_database(uri)
    accounts = [(n, f"u{n}", "u", "u", f"u{n}@example.org", "", "F") for n in range(1, owners + 1)]
    columns = "id, username, first_name, last_name, email, password, manager"
    try:
        with transaction(db, write=True):
            for account in accounts:
                fields = dict(zip(columns.split(", "), account, strict=True))
                db.auth_user.insert(**fields)
        yield db
    finally:
        close(db)


def one_by_one(db: DAL, matches: Sequence[Sequence[Any]]) -> float:
    """Seconds for matches as the log2db of 2010 stored them: an insert by pyDAL and a commit."""
    names = MATCH_COLUMNS.split(", ")
    prepared = [dict(zip(names, match, strict=True)) for match in matches]
    start = time.perf_counter()
    for fields in prepared:
        db.match.insert(**fields)
        db.commit()
    return time.perf_counter() - start


def without_log(db: DAL) -> DAL:
    """The database with what SQLite does by itself: a rollback journal, and a sync a commit."""
    db.executesql("PRAGMA journal_mode = DELETE")
    db.executesql("PRAGMA synchronous = FULL")
    return db


def settled(db: DAL, load: Load) -> float:
    """Seconds that log2db takes from an empty database to the end of the journal."""
    start = time.perf_counter()
    deque(settle_rest(TICKER, load.path, db), maxlen=0)
    return time.perf_counter() - start


def bare(db: DAL, transactions: int, **tables: tuple[str, Sequence[Any]]) -> float:
    """Seconds for inserting rows of tables, each its columns and rows, in equal transactions."""
    start = time.perf_counter()
    for number in range(transactions):
        with transaction(db, write=True):
            for table, (columns, values) in tables.items():
                first, last = (len(values) * edge // transactions for edge in (number, number + 1))
                insert_many(db, f'"{table}"', columns, values[first:last])
    return time.perf_counter() - start


def stored(db: DAL) -> dict[str, tuple[str, list[Any]]]:
    """The rows that log2db has left behind, as `bare` takes them."""
    with transaction(db):
        return {
            table: (columns, rows(db, f'SELECT {columns} FROM "{table}" ORDER BY seq'))
            for table, columns in (("buy_sell_order", ORDER_COLUMNS), ("match", MATCH_COLUMNS))
        }


def turn(database: Database, load: Load, *, is_sqlite: bool) -> Rates:
    """Each way once, each on a database of its own."""
    with database() as db:
        whole = settled(db, load)
        content = stored(db)
    matches = content["match"][1]
    assert len(matches) == load.matches
    with database() as db:
        single = one_by_one(db, matches[:SINGLES]) / len(matches[:SINGLES])
    slow = single
    if is_sqlite:
        with database() as db:
            slow = one_by_one(without_log(db), matches[:SYNCED]) / len(matches[:SYNCED])
    with database() as db:
        of_matches = bare(db, -(-load.matches // MAX_RECORDS), match=content["match"])
    with database() as db:
        of_rows = bare(db, -(-load.records // MAX_RECORDS), **content)
    return Rates(
        one_by_one=1 / single,
        of_2010=1 / slow,
        matches=load.matches / whole,
        records=load.records / whole,
        bare_matches=load.matches / of_matches,
        bare_rows=load.matches / of_rows,
    )


def report(kind: str, turns: Sequence[Rates]) -> None:
    """Print the medians, and what they are of one by one, with the spread."""
    print(f"{kind}, {len(turns)} turns{'beside one by one':>44}{'beside that of 2010':>27}")
    for label, name, unit in (
        ("one by one", "one_by_one", "matches"),
        ("of 2010", "of_2010", "matches"),
        ("log2db", "matches", "matches"),
        ("log2db, all records", "records", "records"),
        ("bare: matches alone", "bare_matches", "matches"),
        ("bare: orders and matches", "bare_rows", "matches"),
    ):
        rate = statistics.median(getattr(each, name) for each in turns)
        compared = ""
        for way in ("one_by_one", "of_2010"):
            ratios = sorted(getattr(each, name) / getattr(each, way) for each in turns)
            spread = f"({ratios[0]:.1f} to {ratios[-1]:.1f})"
            compared += f" {statistics.median(ratios):6.1f} × {spread:16}"
        print(f"  {label:25}{rate:9,.0f} {unit:8}/s{compared}".rstrip())


def break_down(database: Database, load: Load) -> None:
    """Print what of a record's processor time goes where, for a database in this process."""

    def microseconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return (time.process_time() - start) / load.records * 1_000_000

    with closing(SystemDisk().open(load.path)) as file:
        read = microseconds(lambda: deque(read_batches(file, load.header), maxlen=0))
        batches = list(read_batches(file, load.header))
    parsed = microseconds(lambda: deque((batch.records() for batch in batches), maxlen=0))
    with database() as db:
        whole = microseconds(lambda: settled(db, load))
        content = stored(db)
    with database() as db:
        inserts = microseconds(lambda: bare(db, -(-load.records // MAX_RECORDS), **content))
    print(
        f"  processor time of a record, µs: {whole:.1f} = {read:.1f} reading and checking it"
        f" + {parsed:.1f} parsing + {whole - read - parsed - inserts:.1f} folding, selecting and"
        f" updating + {inserts:.1f} bare inserts and commits"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="How fast log2db catches up, beside an insert and a commit for each match."
    )
    parser.add_argument("--orders", type=int, default=30_000, help="turns of the traders (30000)")
    parser.add_argument("--owners", type=int, default=30, help="so many traders (30)")
    parser.add_argument("--turns", type=int, default=5, help="each way so often (5)")
    parser.add_argument("--quick", action="store_true", help="1 turn, of at most 3,000 orders")
    parser.add_argument(
        "--postgres",
        metavar="URI",
        default=os.environ.get("EMTE_TEST_POSTGRES")
        or f"postgres://{getpass.getuser()}@127.0.0.1:5432/postgres",
        help="a server that may be written to (the one at 127.0.0.1:5432)",
    )
    options = parser.parse_args(arguments)
    orders, turns = options.orders, options.turns
    if options.quick:
        orders, turns = min(orders, 3_000), 1
    with tempfile.TemporaryDirectory(prefix="emte-bench-") as name:
        folder = Path(name)
        load = write_journal(folder / f"{TICKER}.log", owners=options.owners, orders=orders)
        print(
            f"a journal of {load.records:,} records, {load.matches:,} of them matches, by"
            f" {options.owners} traders"
        )

        def sqlite() -> Any:
            return on_sqlite(folder, options.owners)

        report(
            "SQLite (WAL, synchronous NORMAL)",
            [turn(sqlite, load, is_sqlite=True) for _ in range(turns)],
        )
        break_down(sqlite, load)

        def postgres() -> Any:
            return on_postgres(options.postgres, folder, options.owners)

        if _answers(options.postgres):
            report("PostgreSQL", [turn(postgres, load, is_sqlite=False) for _ in range(turns)])
        else:
            print(f"PostgreSQL: none answers at {options.postgres.rpartition('@')[2]}")
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")


def _on_server(server: str, sql: str) -> None:
    import psycopg2

    with closing(psycopg2.connect(server, connect_timeout=5)) as connection:
        connection.autocommit = True
        connection.cursor().execute(sql)


def _answers(server: str) -> bool:
    with suppress(ImportError):
        import psycopg2

        with suppress(psycopg2.OperationalError):
            _on_server(server, "SELECT 1")
            return True
    return False


if __name__ == "__main__":
    sys.exit(exits.run("settlement", main))
