"""log2db: follow one product's journal, and bring what it says into the database (PROTOCOL §6).

    python -m log2db -A intc              follow var/journal/intc.log, as long as it grows
    python -m log2db --verify intc        compare the database with the journal, record by record
    python -m log2db --verify intc --run 1     the same, for the journal of a run that has ended
    python -m log2db --rebuild intc       make the database's share of it anew, from the journal

It reads up to the matching server's durable mark, and writes `<ticker>.settled` after each commit.
Killed at any moment it goes on where the database is. What it waits for: the journal, and a
database that is away. What stops it, with the reason: a journal that is damaged, cut off, swapped
or foreign (75), another follower of the same ticker (69).
"""

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends these in silence
    from matching.exits import end_on_interrupt

    end_on_interrupt()

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from app.models import products, settings
from app.models.db import (
    DAL,
    DatabaseAway,
    Doubled,
    end_waits,
    in_transaction,
    migrate,
    now,
    open_database,
    transaction,
)
from log2db.rebuild import rebuild
from log2db.settlement import Fenced, ForeignJournal, resume, settle, steps
from log2db.verify import verify
from matching import exits
from matching.config import Var, find_var
from matching.disk import SystemDisk, SystemFile
from matching.exits import ExitCode, Fatal
from matching.journal import (
    RULES,
    Header,
    JournalDamaged,
    Mark,
    Position,
    UnknownJournal,
    beginning,
    durable_path,
    read_batches,
    read_header,
    read_mark,
    settled_path,
)
from matching.order import TICKER
from matching.pidfile import pidfile
from matching.ports import Locked

POLL_SECONDS = 0.02
"""How often the durable mark is looked at: what a trader waits for the P&L, at most."""

RETRY_SECONDS = 0.5
"""How often a journal or a database that is not there is asked for again."""

DATABASE_SECONDS = 1.0
"""How long the database may take to answer once we are to end."""

_COMMIT_SIZE = 256
"""No commit line is longer (bytes)."""

log = logging.getLogger("log2db")

T = TypeVar("T")


class Stopped(Exception):
    """We were asked to end."""


class Stop:
    """Says that we are to end; a signal handler may set it.

    A threading.Event would be locked now and then by the very wait that the signal interrupts.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def set(self) -> None:
        """End all waits, and soon those for a database that does not answer."""
        if not self._is_set:
            self._is_set = True
            end_waits(seconds=DATABASE_SECONDS)
            self._gate.release()

    def wait(self, seconds: float) -> bool:
        """Whether it is set, within so many seconds."""
        if self._gate.acquire(timeout=seconds):
            self._gate.release()
        return self._is_set


class Follower:
    """Brings one ticker's journal into the database, until `stop` is set."""

    def __init__(self, ticker: str, var: Var, uri: str, stop: Stop) -> None:
        self._ticker = ticker
        self._var = var
        self._uri = uri
        self._path = var.journal_file(ticker)
        self._stop = stop

    def run(self, *, once: bool = False) -> None:
        """Follow the journal; with `once`, only up to where it is durable now.

        Fatal if it cannot be trusted. A journal or a database that is away is waited for.
        """
        with suppress(Stopped):
            db = self._when_there(self._open_database)
            self._when_there(lambda: self._require_product_or_journal(db))
            while True:
                self._when_there(lambda: self._follow(db, once=once))
                if once:
                    return

    def _when_there(self, work: Callable[[], T]) -> T:
        """The result of `work`, begun anew as long as the database is away."""
        said = False
        while True:
            try:
                return work()
            except DatabaseAway as error:
                if not said:
                    log.warning("%s: the database is away (%s); waiting", self._ticker, error)
                said = True
                self._wait(RETRY_SECONDS)

    def _open_database(self) -> DAL:
        migrate(self._uri, self._var)
        return open_database(self._uri)

    def _require_product_or_journal(self, db: DAL) -> None:
        with transaction(db):
            product = products.find(db, self._ticker)
        if product is None and not self._path.exists():
            raise Fatal(
                ExitCode.CONFIGURATION,
                f"there is no product {self._ticker} in the database, and no {self._path}",
            )

    def _follow(self, db: DAL, *, once: bool) -> None:
        """Follow the file that is the journal now; return when another has taken its place."""
        identity = self._wait_for_journal()
        with _opened(self._ticker, self._path, db) as place:
            while self._identity() == identity:
                for _ in place.catch_up():
                    self._wait(0)
                if once:
                    return
                self._wait(POLL_SECONDS)
        log.info("%s: the journal is another file now", self._ticker)

    def _wait_for_journal(self) -> tuple[int, int]:
        """Which file is the journal, once it is there and something in it is durable."""
        said = False
        while True:
            identity = self._identity()
            if identity is not None and read_durable(self._path) is not None:
                return identity
            if not said:
                log.info("%s: waiting for %s", self._ticker, self._path)
            said = True
            self._wait(RETRY_SECONDS)

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


def settle_rest(ticker: str, path: Path, db: DAL) -> Iterator[None]:
    """Settle what is durable of a journal, with a pause after each commit; it waits for nothing.

    JournalDamaged if something stands after that, or the journal cannot be trusted; ForeignJournal,
    UnknownJournal, Fenced and DatabaseAway as they come.
    """
    with _opened(ticker, path, db) as place:
        yield from place.catch_up()
        end = place.position.offset
        if place.file.size() > end:
            raise JournalDamaged(
                end, "what follows was never synced; its matching server repairs that as it starts"
            )


@contextmanager
def _opened(ticker: str, path: Path, db: DAL) -> Iterator["_Place"]:
    """An open journal, where the database is in it, and the mark that says so."""
    disk, mark_path = SystemDisk(), settled_path(path)
    with closing(disk.open(path)) as file:
        header = read_header(file)
        _require_ours(header, ticker)
        with transaction(db, write=True):
            position = resume(db, header)
        require_place(file, header, position)
        log.info("%s: following %s from record %d", ticker, path, position.seq)
        mark = disk.open(mark_path) if disk.exists(mark_path) else disk.create(mark_path)
        with closing(mark):
            place = _Place(db, path, file, header, position, mark)
            place.say_settled()
            yield place


def _require_ours(header: Header, ticker: str) -> None:
    if header.ticker != ticker:
        raise ForeignJournal(f"it is the journal of {header.ticker}")
    if header.rules != RULES:
        raise UnknownJournal(f"rules={header.rules}; this program knows rules={RULES}")


class _Place:
    """Where the database is in an open journal, and how it goes on from there."""

    def __init__(
        self,
        db: DAL,
        path: Path,
        file: SystemFile,
        header: Header,
        position: Position,
        settled: SystemFile,
    ) -> None:
        self.file = file
        self.position = position
        self._db = db
        self._path = path
        self._header = header
        self._settled = settled

    def catch_up(self) -> Iterator[None]:
        """Settle what lies between the position and the durable mark; a pause after each commit."""
        mark = read_durable(self._path)
        if mark is None:
            return
        if mark.lineage != self._header.lineage:
            raise ForeignJournal(
                f"the journal is of lineage {self._header.lineage}, its durable mark of"
                f" {mark.lineage}"
            )
        if mark.seq <= self.position.seq:
            return
        for step in steps(read_batches(self.file, self._header, self.position, until=mark.offset)):
            work = partial(settle, self._db, self._header, self.position, step, at=now())
            in_transaction(self._db, work, write=True)
            self.position = step.after
            self.say_settled()
            yield

    def say_settled(self) -> None:
        """Write the mark."""
        mark = Mark(self.position.seq, self.position.offset, self._header.lineage)
        self._settled.write_at(0, mark.encode())


def read_durable(path: Path) -> Mark | None:
    """How far the journal is durable; None: there is no mark, or nothing in it yet.

    Read until two looks agree: the server writes it with one call, but a look may fall into that.
    """
    mark = read_mark(durable_path(path))
    while mark != (again := read_mark(durable_path(path))):
        mark = again
    return mark


def require_place(file: SystemFile, header: Header, position: Position) -> None:
    """JournalDamaged if the file is not the one that the database has followed up to `position`.

    The commit record that ends there holds the chain over everything before it.
    """
    if position.seq == 0 and position == beginning(header):
        return
    known = f"the database has followed it up to record {position.seq} at byte {position.offset}"
    if file.size() < position.offset:
        raise JournalDamaged(file.size(), f"the journal ends here; {known}")
    tail = file.read(max(0, position.offset - _COMMIT_SIZE), _COMMIT_SIZE)
    commit = tail[: min(_COMMIT_SIZE, position.offset)].rstrip(b"\n").rpartition(b"\n")[2]
    expected = f" s={position.seq} b={position.batch} h={position.chain} x="
    if not commit.startswith(b"commit ") or expected.encode("ascii") not in commit:
        raise JournalDamaged(position.offset, f"this is not the journal it was: {known}")


def follow(ticker: str, var: Var, uri: str, *, once: bool) -> None:
    """The process: alone on this ticker, ended by SIGTERM or SIGINT."""
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    path = var.journal_file(ticker)
    with _alone(ticker, var), _told(ticker, path), pidfile(var.run_dir, f"log2db-{ticker}"):
        Follower(ticker, var, uri, stop).run(once=once)


def make_anew(ticker: str, var: Var, uri: str, *, run: int | None) -> None:
    """Rebuild the database's share of a journal, and say what became of it.

    run: an ended one, whose journal it then is; None: the present one.
    """
    path = _journal(ticker, var, run)
    with _alone(ticker, var), _told(ticker, path):
        with suppress(Doubled):  # of journals' rows: those go, and the index is made then
            migrate(uri, var)
        db = open_database(uri)
        disk = SystemDisk()
        with closing(disk.open(path)) as file:
            _require_ours(read_header(file), ticker)
            mark = read_durable(path)
            if mark is None:
                raise JournalDamaged(0, f"{durable_path(path).name} does not say how far it goes")
            made = in_transaction(
                db, lambda: rebuild(db, file, mark, run=run, at=now()), write=True
            )
        settled = settled_path(path)
        with closing(disk.open(settled) if disk.exists(settled) else disk.create(settled)) as file:
            file.write_at(0, mark.encode())
    print(
        f"rebuilt {ticker} up to record {made.seq}: {made.orders} orders, {made.matches} matches;"
        f" {made.accounts} accounts put right, {made.strays} stray rows gone"
    )


@contextmanager
def _alone(ticker: str, var: Var) -> Iterator[None]:
    """Nobody else writes the database's share of this ticker; Fatal (69) if somebody does."""
    var.make()
    try:
        lock = SystemDisk().lock(var.run_dir / f"log2db-{ticker}.lock")
    except Locked as locked:
        raise Fatal(ExitCode.UNAVAILABLE, f"another log2db follows {ticker}") from locked
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _told(ticker: str, path: Path) -> Iterator[None]:
    """What stops work on a journal ends the process, and says why."""
    try:
        yield
    except DatabaseAway as error:
        raise Fatal(ExitCode.UNAVAILABLE, f"the database is away: {error}") from error
    except (JournalDamaged, ForeignJournal) as error:
        raise Fatal(ExitCode.DISK, f"{path}: {error}") from error
    except Doubled as error:
        raise Fatal(
            ExitCode.DISK, f"{error}; python -m log2db --rebuild makes them anew"
        ) from error
    except UnknownJournal as error:
        raise Fatal(ExitCode.CONFIGURATION, f"{path}: {error}") from error
    except Fenced as error:
        raise Fatal(ExitCode.UNAVAILABLE, f"another log2db follows {ticker}: {error}") from error
    except OSError as error:
        raise Fatal(ExitCode.DISK, f"{error.filename or path}: {error.strerror}") from error


def compare(ticker: str, var: Var, uri: str, *, run: int | None) -> int:
    """Print what `verify` finds; the exit code: 0 if the database says what the journal says.

    run: an ended one, whose journal it then is; None: the present one.
    """
    path = _journal(ticker, var, run)
    with _told(ticker, path), closing(SystemDisk().open(path)) as file:
        report = verify(open_database(uri), file, ticker, read_durable(path))
    for line in report.differences:
        print(line)
    print(report.summary)
    return 1 if report.differences else 0


def _journal(ticker: str, var: Var, run: int | None) -> Path:
    return var.journal_file(ticker) if run is None else var.run_journal_file(run, ticker)


def main() -> None:
    """The command line of `python -m log2db` and `emte-log2db`."""
    parser = argparse.ArgumentParser(
        prog="log2db",
        description="Bring a product's journal into the database, or compare the two.",
        epilog="examples:\n  python -m log2db -A intc\n  python -m log2db --verify intc\n"
        "  python -m log2db --rebuild intc",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-A", "--ticker", type=_ticker, help="the product to follow")
    what.add_argument(
        "--verify", type=_ticker, metavar="TICKER", help="compare database and journal, and end"
    )
    what.add_argument(
        "--rebuild",
        type=_ticker,
        metavar="TICKER",
        help="make the database's share of the journal anew, and end",
    )
    parser.add_argument(
        "--run",
        type=_run,
        metavar="N",
        help="with --verify and --rebuild: the journal of ended run N",
    )
    parser.add_argument("--once", action="store_true", help="end when the database has caught up")
    parser.add_argument("--var", help="where journals and marks are (default: var/, $EMTE_VAR)")
    parser.add_argument("--database", metavar="URI", help="default: var/emte.db, $EMTE_DATABASE")
    options = parser.parse_args()
    if options.run is not None and options.ticker is not None:
        parser.error("--run goes with --verify and --rebuild: an ended run is not followed")
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )

    def body() -> None:
        var = find_var(options.var)
        uri = settings.database_uri(var, options.database)
        if options.rebuild is not None:
            make_anew(options.rebuild, var, uri, run=options.run)
            return
        follow(options.ticker, var, uri, once=options.once)

    def verdict() -> int:
        var = find_var(options.var)
        uri = settings.database_uri(var, options.database)
        return compare(options.verify, var, uri, run=options.run)

    if options.verify is not None:
        sys.exit(exits.run_command("log2db", verdict))
    sys.exit(exits.run("log2db", body))


def _ticker(text: str) -> str:
    if TICKER.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a ticker")
    return text


def _run(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:12]) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a run")
    return int(text)


if __name__ == "__main__":
    main()
