"""Back up a venue, trading or not, into one file: database, journals, keys (scripts/archive.py).

The database is copied first, as it was at one moment; then each journal, up to a mark read after
that. So the restored database is never ahead of the restored journals, and log2db goes on from
there. That each journal is the one which the database follows, and holds the very record that it
has come to, is proved before the file gets its name. Where a new run begins meanwhile, and journals
move away, it starts over.
"""

import argparse
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app.models import db as database
from app.models import settings
from app.models.db import BUSY_SECONDS, DatabaseAway
from log2db.__main__ import read_durable, require_place
from matching import config, exits
from matching.config import Var
from matching.console import say
from matching.disk import SystemDisk, SystemFile, sync_folder
from matching.exchange import SPACE_FOR_ORDERS
from matching.exits import ExitCode, Fatal, code_of
from matching.journal import (
    HEADER_LIMIT,
    Header,
    JournalDamaged,
    Mark,
    Position,
    UnknownJournal,
    read_header,
    settled_path,
)
from matching.order import TICKER
from scripts import archive

EPILOG = """\
What is not in it: what processes printed or refused, torn tails, snapshots, and what you put into
var/ yourself. Whoever has the file can trade for everybody: it holds the venue's key.

exit codes: 0 done, 2 usage, or the file is there already, 69 the database is away, or it was
interrupted, 75 a journal or the disk cannot be relied on, 78 var/, the database's address or
pg_dump is not good. After all but 0 there is no new file, and an old one is as it was.

examples:
  emte-backup /backup/emte-$(date +%F).tar.gz
  emte-backup --force /backup/emte.tar.gz       takes the place of the last one, once it is whole
"""

AGAIN_SECONDS = 0.5
"""How long to wait before starting over."""

PATIENCE_SECONDS = 30.0
"""How long a new run may take to begin before this counts as a venue that is broken."""

_PLACES = 'SELECT ticker, lineage, seq, "offset", batch, h, closed FROM log_position'


class _Moving(Exception):
    """Database and journals do not belong together at this moment; the sentence says why."""


@dataclass(frozen=True)
class Place:
    """Where the copied database is in a journal; `is_closed`: the journal's run has ended."""

    position: Position
    is_closed: bool


@dataclass(frozen=True)
class _Journal:
    """An open journal, how far it is safe, and how far of that is in the copied database."""

    ticker: str
    file: SystemFile
    header: Header
    durable: Mark
    settled: Mark | None


Places = dict[tuple[str, str], Place]
"""By ticker and lineage."""


def main() -> None:
    sys.exit(exits.run("backup", _main))


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="backup",
        description="Back up a venue into one file, also while it trades.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the file to make, a gzipped tar")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument("--var", help="the folder of everything that is written (var/)")
    parser.add_argument("--database", metavar="URI", help="default: var/emte.db, $EMTE_DATABASE")
    arguments = parser.parse_args()
    var = config.find_var(arguments.var)
    if not var.journal_dir.is_dir():
        raise Fatal(ExitCode.CONFIGURATION, f"there is no venue in {var.root}: it has no journal/")
    uri = settings.database_uri(var, arguments.database)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        back_up(var, uri, arguments.file, is_forced=arguments.force)
    except KeyboardInterrupt as interrupt:  # not "done": whoever goes by the exit code has no copy
        raise Fatal(ExitCode.UNAVAILABLE, "interrupted; there is no new backup") from interrupt


def back_up(var: Var, uri: str, path: Path, *, is_forced: bool) -> None:
    """Make the archive `path`, or leave everything as it was; Fatal says why."""
    if path.is_dir():
        raise Fatal(ExitCode.CONFIGURATION, f"{path} is a folder: name a file in it")
    if path.exists() and not is_forced:
        raise Fatal(ExitCode.USAGE, f"{path} is there already; --force replaces it")
    try:
        with _folder_beside(path) as folder:
            sentence = _when_it_stands_still(lambda: _make(var, uri, folder))
            os.replace(folder / "archive", path)
            sync_folder(path.absolute().parent)
    except DatabaseAway as away:
        raise Fatal(ExitCode.UNAVAILABLE, f"the database is away: {away}") from away
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Fatal(code_of(error), f"{where}{error.strerror or error}; no backup") from error
    say(f"{path}: {sentence}")


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder on the disk of `path`, for what is not whole yet; closed to others."""
    parent = path.absolute().parent
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    except OSError as error:
        raise Fatal(code_of(error), f"cannot write in {parent}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _when_it_stands_still(work: Callable[[], str]) -> str:
    """What `work` returns; begun anew while a new run is being begun. Fatal (75) if it never is."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return work()
        except (_Moving, FileNotFoundError) as moving:
            if time.monotonic() > end:
                raise Fatal(ExitCode.DISK, f"no backup: {moving}") from moving
            time.sleep(AGAIN_SECONDS)


def _make(var: Var, uri: str, folder: Path) -> str:
    """Write `folder/archive`; what is in it, in words."""
    for left in folder.iterdir():
        left.unlink()
    is_sqlite = uri.startswith("sqlite:")
    name = archive.SQLITE if is_sqlite else archive.POSTGRES
    copy = folder / name
    places = _copy_sqlite(uri, copy) if is_sqlite else _dump_postgres(uri, copy)
    with ExitStack() as files:
        journals = list(_journals(var, places, files))
        _require_all(places, journals)
        ended = _files_of_ended_runs(var)
        size = copy.stat().st_size + sum(journal.durable.offset for journal in journals)
        _require_space(var, folder, size + sum(path.stat().st_size for path in ended))
        with archive.writing(folder / "archive") as tar:
            tar.add_file(name, copy)
            for journal in journals:
                log = var.journal_file(journal.ticker)
                tar.add(_name(log, var), _Stream(journal.file), journal.durable.offset)
            for path in ended:
                tar.add_file(_name(path, var), path)
            for journal in journals:
                tar.add_bytes(f"journal/{journal.ticker}.durable", journal.durable.encode())
                if journal.settled is not None:
                    tar.add_bytes(f"journal/{journal.ticker}.settled", journal.settled.encode())
            for path in (var.venue_key_file, var.generations_file, Path("emte.toml")):
                with suppress(FileNotFoundError):
                    tar.add_file(path.name, path)
    megabytes = (folder / "archive").stat().st_size / 1e6
    records = sum(journal.durable.seq for journal in journals)
    runs = len({path.parent for path in ended})
    what = "SQLite" if is_sqlite else "PostgreSQL"
    return (
        f"{megabytes:.2f} MB; the {what} database, {records} records of {len(journals)} products,"
        f" ended runs: {runs}"
    )


def _name(path: Path, var: Var) -> str:
    return path.relative_to(var.root).as_posix()


class _Stream:
    """A journal read from its beginning on."""

    def __init__(self, file: SystemFile) -> None:
        self._file = file
        self._offset = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(self._offset, size)
        self._offset += len(data)
        return data


def _require_space(var: Var, folder: Path, size: int) -> None:
    """Fatal (75) if an archive of `size` unpacked bytes might fill the disk that markets write."""
    if folder.stat().st_dev != var.root.stat().st_dev:
        return
    free = shutil.disk_usage(folder).free
    if free - size < SPACE_FOR_ORDERS:
        raise Fatal(
            ExitCode.DISK,
            f"{folder.parent} is on the disk of {var.root} and has {free >> 20} MiB free: a backup"
            f" may take {size >> 20} of them, and below {SPACE_FOR_ORDERS >> 20} markets take no"
            " orders. Back up to another disk",
        )


# -- the database


def _copy_sqlite(uri: str, copy: Path) -> Places:
    """Copy the database as it is at this moment; where it is in the journals.

    In one step: SQLite begins anew whenever others write between two.
    """
    path = Path(uri.partition("://")[2]).absolute()
    address = f"file:{quote(str(path))}?mode=rw"  # a reader of WAL has to write its -shm
    try:
        with (
            closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        unchanged = f"file:{quote(str(copy))}?immutable=1"
        with closing(sqlite3.connect(unchanged, uri=True)) as copied:
            return _read_places(copied.execute(_PLACES))
    except sqlite3.OperationalError as error:
        message = f"the database {path} cannot be copied: {error}"
        raise Fatal(ExitCode.UNAVAILABLE, message) from error
    except sqlite3.DatabaseError as error:
        raise Fatal(ExitCode.DISK, f"{path}: {error}") from error


def _dump_postgres(uri: str, copy: Path) -> Places:
    """Dump EMTE's tables, in one snapshot; where that is in the journals."""
    db = database.open_database(uri)
    try:
        with database.transaction(db):
            ((snapshot,),) = database.rows(db, "SELECT pg_export_snapshot()")
            if database.rows(db, "SELECT to_regclass('log_position')") == [(None,)]:
                raise Fatal(ExitCode.CONFIGURATION, "the database has no tables of EMTE's")
            places = _read_places(database.rows(db, _PLACES))
            run_postgres(
                uri,
                "pg_dump",
                *("--format=custom", "--compress=0", "--no-owner", "--no-privileges"),
                *(f"--snapshot={snapshot}", f"--schema={current_schema(db)}", f"--file={copy}"),
            )
    finally:
        database.close(db)
    return places


def current_schema(db: database.DAL) -> str:
    """The schema of EMTE's tables, as the programs of PostgreSQL want it; in a transaction."""
    ((schema,),) = database.rows(db, "SELECT quote_ident(current_schema())")
    return str(schema)


def run_postgres(uri: str, program: str, *arguments: str) -> None:
    """Run pg_dump or pg_restore on a database, its password out of sight.

    Fatal: 78 if the program is not there, 69 if it fails.
    """
    from psycopg2.extensions import parse_dsn

    account = parse_dsn(uri)
    name = account.pop("dbname", account.get("user", ""))
    try:
        done = subprocess.run(
            [program, "--no-password", f"--dbname={name}", *arguments],
            env=os.environ | {f"PG{key.upper()}": value for key, value in account.items()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise Fatal(
            ExitCode.CONFIGURATION,
            f"there is no {program}: install PostgreSQL's client programs, of the server's version"
            " or later (Debian: apt install postgresql-client; macOS: brew install libpq)",
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        reason = (lines or done.stderr.splitlines() or [f"exit code {done.returncode}"])[0]
        raise Fatal(ExitCode.UNAVAILABLE, reason)


def _read_places(found: Iterable[Any]) -> Places:
    return {
        (ticker, lineage): Place(Position(seq, offset, batch, chain), closed == "T")
        for ticker, lineage, seq, offset, batch, chain, closed in found
    }


# -- the journals


def _journals(var: Var, places: Places, files: ExitStack) -> Iterator[_Journal]:
    """The journals of the present run, open until `files` closes.

    _Moving, or Fatal, if one is not what the database follows.
    """
    for path in sorted(var.journal_dir.glob("*.log")):
        if TICKER.fullmatch(path.stem) is None:
            continue
        file = files.enter_context(closing(SystemDisk().open(path)))
        durable = read_durable(path)
        if durable is None and file.size() <= HEADER_LIMIT and not settled_path(path).exists():
            continue  # made a moment ago: nothing is in it yet
        try:
            yield _judge(path, file, durable, places)
        except (JournalDamaged, UnknownJournal) as error:
            raise Fatal(ExitCode.DISK, f"{path}: {error}") from error


def _judge(path: Path, file: SystemFile, durable: Mark | None, places: Places) -> _Journal:
    if durable is None:
        raise _Moving(f"{path} has no durable mark; its matching server makes one")
    header, ticker = read_header(file), path.stem
    if header.ticker != ticker:
        raise JournalDamaged(0, f"it is the journal of {header.ticker}")
    if durable.lineage != header.lineage:
        raise _Moving(f"{path} is of lineage {header.lineage}, its mark of {durable.lineage}")
    place = places.get((ticker, header.lineage))
    if place is None:
        for (other, lineage), its in places.items():
            if other == ticker and not its.is_closed:
                raise _Moving(f"the database follows {ticker} of lineage {lineage}, not {path}")
        return _Journal(ticker, file, header, durable, None)
    if place.is_closed:
        raise _Moving(
            f"the run of {path} has ended, and its journals are to be moved: start the venue, or"
            " zap.py, which do that first"
        )
    require_place(file, header, place.position)
    settled = Mark(place.position.seq, place.position.offset, header.lineage)
    return _Journal(ticker, file, header, durable, settled)


def _require_all(places: Places, journals: list[_Journal]) -> None:
    """_Moving if the database follows a journal that is not there, or knows more than is safe."""
    found = {(journal.ticker, journal.header.lineage): journal for journal in journals}
    for key, place in places.items():
        if place.is_closed:
            continue
        journal = found.get(key)
        if journal is None:
            raise _Moving(f"the database follows a journal of {key[0]} that is not there")
        if journal.durable.seq < place.position.seq:
            raise _Moving(f"the database has come further in {key[0]} than its durable mark")


def _files_of_ended_runs(var: Var) -> list[Path]:
    """Journals and marks of runs that have ended, the journals first; nobody writes to them."""
    found = [
        path
        for path in sorted((var.root / "runs").glob("[1-9]*/*.*"))
        if path.suffix in (".log", ".durable", ".settled")
        and path.parent.name.isdecimal()
        and TICKER.fullmatch(path.stem) is not None
    ]
    return sorted(found, key=lambda path: path.suffix != ".log")


if __name__ == "__main__":
    main()
