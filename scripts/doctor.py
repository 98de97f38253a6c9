"""The doctor: is this machine fit for a venue, and is the venue's var/ in order? One line a check.

    ok    /srv/emte/var is on ext4 (/dev/sda1)
    warn  a sync takes 14.2 ms: traders wait for it with every order
    FAIL  /srv/emte/var/venue.key can be read by others: chmod 600 it

It may be asked while the venue runs, and changes nothing: what it writes to time the disk is gone
when it ends.
"""

import argparse
import asyncio
import ctypes
import errno
import importlib.metadata
import json
import os
import platform
import pwd
import re
import resource
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from enum import Enum
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from app.models import db as database
from app.models import products, settings
from app.models.db import DAL, DatabaseAway
from app.models.products import Product
from log2db.__main__ import read_durable
from matching import config, exits
from matching.client import Away, NotReady, query
from matching.config import KEY, Var
from matching.disk import SystemDisk
from matching.exchange import SPACE_FOR_ORDERS, SPACE_FOR_TRADING
from matching.exits import ExitCode, Fatal
from matching.journal import JournalDamaged, UnknownJournal, read_header
from matching.pidfile import running
from matching.records import parse_time
from scripts import mounts
from scripts.mounts import Disk, Mount
from scripts.newrun import LOOPBACK

EPILOG = """\
exit codes: 0 all is well, or no more than warnings, 2 usage, 78 something fails

examples:
  emte-doctor
  emte-doctor --port 80 --var /srv/emte/var
"""

LEAST_PYTHON = (3, 11)

CLASS = 200
"""Traders who are to be served."""

FILES_A_TRADER = 7
"""Open files of the web server: a browser's feed, and up to six connections for pages."""

FILES_BESIDE = 100
"""Open files of a server that are no trader's."""

FILES_NEEDED = 256
"""With fewer not even a trial is fun."""

SYNCS = 15
"""So many syncs are timed."""

SLOW_SYNC_SECONDS = 0.010
"""A sync that takes longer is felt: a trader waits for one with every order."""

STUCK_SYNC_SECONDS = 1.0
FAST_SYNC_SECONDS = 0.000_005
"""No medium takes bytes so quickly."""

CLOCK_SECONDS = 0.5
"""How long the clock is watched."""

DRIFT_SECONDS = 0.05
"""By so much the clock may go wrong meanwhile: more is no NTP that sets it right bit by bit."""

BEHIND_SECONDS = 1.0
"""The clock may be so far behind a journal."""

LITTLE_SPACE = 1024 * 1024 * 1024
"""Bytes: a journal of twelve million records more."""

ANSWER_SECONDS = 3.0
"""How long a port may take to say whose it is."""

_TAIL_SIZE = 16 * 1024
_TIME_ERROR = 5
_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*(?:>=\s*([0-9.]+))?\s*(?:;\s*(.*))?")
_TIMES = re.compile(rb"^([0-9]+\.[0-9]{6}): ", re.MULTILINE)


class Level(Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


class Finding(NamedTuple):
    """What a check found; a sentence that also says what to do."""

    level: Level
    sentence: str


def ok(sentence: str) -> Finding:
    return Finding(Level.OK, sentence)


def warn(sentence: str) -> Finding:
    return Finding(Level.WARN, sentence)


def fail(sentence: str) -> Finding:
    return Finding(Level.FAIL, sentence)


def main() -> None:
    sys.exit(exits.run_command("doctor", _main))


def _main() -> int:
    parser = argparse.ArgumentParser(
        prog="doctor",
        description="Say whether this machine and var/ are fit for a venue.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8000, help="the web app's port (8000)")
    parser.add_argument("--host", default="127.0.0.1", help="the web app's address (127.0.0.1)")
    parser.add_argument("--var", help="the folder of everything that is written (var/)")
    parser.add_argument("--database", metavar="URI", help="default: var/emte.db, $EMTE_DATABASE")
    arguments = parser.parse_args()
    var = config.find_var(arguments.var)
    uri = settings.database_uri(var, arguments.database)
    has_failed = False
    for finding in examine(var, uri, host=arguments.host, port=arguments.port):
        print(f"{finding.level.value:<5} {finding.sentence}", flush=True)
        has_failed = has_failed or finding.level is Level.FAIL
    return ExitCode.CONFIGURATION if has_failed else ExitCode.DONE


def examine(var: Var, uri: str, *, host: str, port: int) -> Iterator[Finding]:
    """All checks, from the machine to the venue."""
    yield judge_packages(
        platform.python_version(),
        importlib.metadata.requires("emte") or [],
        is_postgres=not uri.startswith("sqlite:"),
        installed=_version_of,
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield judge_files(soft, hard)
    folder = _existing(var.root)
    yield judge_mount(folder, mounts.table())
    place = Path(uri.partition("://")[2]).absolute() if uri.startswith("sqlite:") else var.root
    if not place.is_relative_to(var.root):
        yield judge_mount(_existing(place.parent), mounts.table())
    yield judge_space(folder, shutil.disk_usage(folder).free)
    yield check_syncs(folder)
    yield judge_clock(watch_clock(CLOCK_SECONDS), is_synchronized())
    yield from check_journal_times(var, time.time)
    yield from check_access(var)
    found, db = check_database(uri)
    yield found
    yield check_web_port(var, host, port)
    if db is not None:
        with suppress(DatabaseAway):
            yield from check_product_ports(var, db)
        database.close(db)


def _existing(path: Path) -> Path:
    """A folder, or the one in which the first start makes it."""
    path = path.resolve()
    return next(each for each in (path, *path.parents) if each.exists())


# -- the machine


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def judge_packages(
    python: str,
    requirements: Iterable[str],
    *,
    is_postgres: bool,
    installed: Callable[[str], str | None],
) -> Finding:
    """Whether Python and the packages are there, as new as EMTE's own metadata asks."""
    if _numbers(python) < LEAST_PYTHON:
        return fail(f"this is Python {python}; EMTE needs 3.11 or newer")
    count = 0
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is None:
            continue
        name, least, condition = match.group(1, 2, 3)
        extra = re.search(r"extra == [\"'](\w+)[\"']", condition or "")
        if extra is not None and not (is_postgres and extra[1] == "postgres"):
            continue
        version = installed(name)
        if version is None and "sys_platform" in (condition or ""):
            continue  # where it installs: uvloop
        if version is None:
            return fail(f"{name} is not installed: pip install -e . (or 'emte[postgres]')")
        if least is not None and _numbers(version) < _numbers(least):
            return fail(f"{name} is {version}; EMTE needs {least} or newer: pip install -U {name}")
        count += 1
    if installed("uvloop") is None:
        return warn(f"Python {python}, {count} packages; without uvloop, servers carry less")
    return ok(f"Python {python}, {count} packages as EMTE needs them")


def _numbers(version: str) -> tuple[int, ...]:
    match = _VERSION.match(version)
    return tuple(map(int, match[0].split("."))) if match is not None else ()


def judge_files(soft: int, hard: int) -> Finding:
    """Whether so many open files are enough for a class."""
    needed = CLASS * FILES_A_TRADER + FILES_BESIDE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        many = "any number of" if soft == resource.RLIM_INFINITY else str(soft)
        return ok(f"a process may open {many} files: enough for {CLASS} traders")
    more = f"ulimit -n {needed} before the start (systemd: LimitNOFILE={needed})"
    if hard != resource.RLIM_INFINITY and hard < needed:
        more += f"; this user's hard limit is {hard}, which an administrator raises"
    if soft < FILES_NEEDED:
        return fail(f"a process may open {soft} files: too few for any class; {more}")
    traders = (soft - FILES_BESIDE) // FILES_A_TRADER
    return warn(
        f"a process may open {soft} files: enough for {traders} traders; for {CLASS}, {more}"
    )


def judge_mount(folder: Path, table: Sequence[Mount]) -> Finding:
    """Whether the file system of a folder keeps what it promises about syncs and locks."""
    mount = mounts.find(table, folder)
    if mount is None:
        return warn(f"{folder}: it cannot be known on which file system it is")
    where = f"{folder} is on {mount.kind} ({mount.source})"
    match mounts.kind_of_disk(mount.kind):
        case Disk.OWN:
            return ok(where)
        case Disk.NETWORK:
            return fail(
                f"{where}, which is none of this machine's own disks: syncs and locks may not hold"
                " there; keep var/ on a local disk"
            )
        case Disk.CONTAINER:
            return fail(f"{where}, which goes with its container: mount a volume there")
        case Disk.MEMORY:
            return fail(f"{where}, in memory: nothing of it survives a restart of the machine")
        case Disk.UNKNOWN:
            return warn(f"{where}: EMTE knows nothing of its syncs and locks")


def judge_space(folder: Path, free: int) -> Finding:
    """Whether journals can grow, by the limits of the matching server."""
    where = f"{folder} has {free >> 20} MiB free"
    if free < SPACE_FOR_TRADING:
        return fail(f"{where}: below {SPACE_FOR_TRADING >> 20} markets are halted; make space")
    if free < SPACE_FOR_ORDERS:
        return fail(f"{where}: below {SPACE_FOR_ORDERS >> 20} new orders are refused; make space")
    if free < LITTLE_SPACE:
        return warn(f"{where}: below {SPACE_FOR_ORDERS >> 20} new orders are refused")
    return ok(where)


def check_syncs(folder: Path) -> Finding:
    """How long a sync takes there, by some real ones."""
    path = folder / f".doctor.{os.getpid()}"
    try:
        with closing(SystemDisk().create(path)) as file:
            try:
                times = []
                for _ in range(SYNCS):
                    file.append(bytes(512))
                    start = time.perf_counter()
                    file.sync()
                    times.append(time.perf_counter() - start)
            finally:
                path.unlink()
    except OSError as error:
        return fail(f"{folder} cannot be written: {error.strerror}")
    return judge_syncs(times)


def judge_syncs(times: Sequence[float]) -> Finding:
    """times: in seconds."""
    median = statistics.median(times)
    what = f"a sync takes {median * 1000:.2f} ms (slowest of {len(times)}: {max(times) * 1000:.2f})"
    if median >= STUCK_SYNC_SECONDS:
        return fail(f"{what}: nobody can trade like that; find out what the disk does")
    if median >= SLOW_SYNC_SECONDS:
        return warn(f"{what}: traders wait for it with every order; a better disk, if it matters")
    if median < FAST_SYNC_SECONDS:
        return warn(f"{what}: no disk is that quick; does it survive a power cut?")
    return ok(what)


def watch_clock(seconds: float) -> float:
    """By how many seconds the clock leads the monotonic one more, after so long."""
    before = _lead()
    time.sleep(seconds)
    return _lead() - before


def _lead() -> float:
    """The clock less the monotonic one, by the look that took least time of some."""
    looks = []
    for _ in range(10):
        begin = time.monotonic()
        clock = time.time()
        end = time.monotonic()
        looks.append((end - begin, clock - (begin + end) / 2))
    return min(looks)[1]


def is_synchronized() -> bool | None:
    """Whether the kernel's clock is kept right by NTP; None where it cannot be known."""
    if sys.platform != "linux":
        return None
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # zeroes: only ask
    return None if state < 0 else state != _TIME_ERROR


def judge_clock(drift: float, synchronized: bool | None) -> Finding:
    """drift: seconds by which the clock went wrong while it was watched."""
    if abs(drift) > DRIFT_SECONDS:
        return fail(
            f"the clock leapt by {drift:+.2f} s within {CLOCK_SECONDS} s: have one program set it,"
            " bit by bit (chrony, systemd-timesyncd)"
        )
    if synchronized is None:
        return ok("the clock goes as it should; whether NTP keeps it right cannot be known here")
    if not synchronized:
        return warn(
            "the clock goes as it should, but no NTP keeps it right: programs on other machines"
            " may be refused (stale_timestamp); timedatectl set-ntp true"
        )
    return ok("the clock goes as it should, and NTP keeps it right")


# -- the venue


def check_journal_times(var: Var, now: Callable[[], float]) -> Iterator[Finding]:
    """Whether the clock is behind a journal, whose time then stands; nothing if none is there."""
    latest, ticker = 0.0, ""
    for path in sorted(var.journal_dir.glob("*.log")):
        with suppress(OSError, JournalDamaged):
            last = _last_time(path)
            if last > latest:
                latest, ticker = last, path.stem
    if not ticker:
        return
    behind = latest - now()
    if behind > BEHIND_SECONDS:
        yield fail(
            f"the clock is {behind:.0f} s behind the journal of {ticker}, whose time stands until"
            " then: put the clock right"
        )
    else:
        yield ok("the clock is not behind any journal")


def _last_time(path: Path) -> float:
    """The time of a journal's last record that is safe, in seconds; 0 if there is none."""
    durable = read_durable(path)
    if durable is None:
        return 0.0
    with path.open("rb") as file:
        file.seek(max(0, durable.offset - _TAIL_SIZE))
        times = _TIMES.findall(file.read(min(_TAIL_SIZE, durable.offset)))
    return parse_time(times[-1].decode("ascii")) / 1e6 if times else 0.0


def check_access(var: Var) -> Iterator[Finding]:
    """Whether var/, the keys and the settings are the venue's alone."""
    if not var.root.exists():
        yield ok(f"{var.root} is not there yet: the first start makes it")
        return
    yield _judge_mode(var.root, "others can look into it", "chmod 700")
    if var.venue_key_file.exists():
        yield _judge_key(var.venue_key_file)
    else:
        yield ok("there is no venue.key yet: the first start makes it")
    if var.generations_file.exists():
        yield _judge_generations(var)
    toml = Path("emte.toml")
    if toml.exists() and re.search(r"postgres\w*://[^@/\s]*:|password", toml.read_text("utf-8")):
        yield _judge_mode(toml.absolute(), "others can read the password in it", "chmod 600")


def _judge_mode(path: Path, why: str, remedy: str) -> Finding:
    """Whether a file or folder is ours, and closed to others."""
    status = path.stat()
    if status.st_uid != os.geteuid():
        return fail(
            f"{path} belongs to {_name_of(status.st_uid)}, and this is {_name_of(os.geteuid())}:"
            " run everything as one user"
        )
    if status.st_mode & 0o077:
        return fail(f"{path}: {why} ({status.st_mode & 0o777:o}): {remedy} it")
    return ok(f"{path} is closed to others")


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _judge_key(path: Path) -> Finding:
    finding = _judge_mode(path, "others can read it", "chmod 600")
    if finding.level is not Level.OK:
        return finding
    try:
        is_key = KEY.fullmatch(path.read_text(encoding="ascii").strip()) is not None
    except (OSError, UnicodeDecodeError):
        is_key = False
    return finding if is_key else fail(f"{path} does not hold a key: restore it from a backup")


def _judge_generations(var: Var) -> Finding:
    try:
        config.read_generations(var)
    except Fatal as fatal:
        return fail(f"{fatal.message}: restore it from a backup")
    return _judge_mode(var.generations_file, "others can read it", "chmod 600")


def check_database(uri: str) -> tuple[Finding, DAL | None]:
    """Whether the database answers and has all tables; it, if its products can be read."""
    is_sqlite = uri.startswith("sqlite:")
    if is_sqlite and not Path(uri.partition("://")[2]).exists():
        return ok("there is no database yet: the first start makes it"), None
    try:
        db = database.open_database(uri)
        with database.transaction(db):
            missing = _missing(db, is_sqlite=is_sqlite)
            encoding = "UTF8" if is_sqlite else database.rows(db, "SHOW server_encoding")[0][0]
    except DatabaseAway as away:
        return fail(f"the database is away ({away}): start it, or name it in EMTE_DATABASE"), None
    except Fatal as fatal:
        return fail(fatal.message), None
    what = "SQLite" if is_sqlite else "PostgreSQL"
    if encoding != "UTF8":
        database.close(db)
        return fail(f"the database is {encoding}, not UTF8: createdb --encoding UTF8"), None
    if missing and "auth_user.id" in missing:
        database.close(db)
        return ok(f"the {what} database is empty: the first start makes its tables"), None
    if missing:
        database.close(db)
        return warn(
            f"the {what} database answers; tables of this EMTE are not there yet"
            f" ({', '.join(missing[:3])}): the next start makes them, so back up first"
        ), None
    if not is_sqlite and shutil.which("pg_dump") is None:
        return warn(
            f"the {what} database answers and is up to date; without pg_dump there are no backups"
            " (Debian: apt install postgresql-client)"
        ), db
    return ok(f"the {what} database answers and is up to date"), db


def _missing(db: DAL, *, is_sqlite: bool) -> list[str]:
    """The columns that this EMTE's tables have, and the database has not."""
    present = database.rows(
        db,
        "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c"
        if is_sqlite
        else "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = current_schema()",
    )
    wanted = {(table, field) for table in db.tables for field in db[table].fields}
    return sorted(f"{table}.{field}" for table, field in wanted - set(present))


def check_web_port(var: Var, host: str, port: int) -> Finding:
    """Whether the web server can listen there, or does."""
    what = f"port {port} of the web server"
    reason = _why_not(host, port)
    if reason is None:
        return ok(f"{what} is free")
    if _is_web(port) and any(name.startswith("web") for name in running(var.run_dir)):
        return ok(f"{what} is held by it")
    return _is_taken(what, reason, "--port names another")


def _is_web(port: int) -> bool:
    try:
        url = f"http://127.0.0.1:{port}/health/live"
        with urlopen(url, timeout=ANSWER_SECONDS) as response:
            answer: object = json.load(response)
    except (OSError, URLError, ValueError):
        return False
    return answer == {"live": True}


def check_product_ports(var: Var, db: DAL) -> Iterator[Finding]:
    """The same of each product's matching server, where it is to run on this machine."""
    with database.transaction(db):
        served = [product for product in products.served(db) if product.host in LOOPBACK]
    for product in served:
        what = f"port {product.port} of {product.name}"
        reason = _why_not("127.0.0.1", product.port)
        if reason is None:
            yield ok(f"{what} is free")
            continue
        try:
            is_ours = _is_served(var, product)
        except NotReady as not_ready:
            if f"{product.name} is being recovered" in str(not_ready):
                yield warn(f"{what} is held by its matching server, not ready yet: {not_ready}")
                continue
            is_ours = False
        if is_ours:
            yield ok(f"{what} is held by its matching server")
        else:
            yield _is_taken(what, reason, "give the product another")


def _is_served(var: Var, product: Product) -> bool:
    """Whether what answers there writes this var/'s journal. NotReady if it does not say yet."""
    try:
        answer: Mapping[str, object] = asyncio.run(query(f"http://127.0.0.1:{product.port}/query"))
        with closing(SystemDisk().open(var.journal_file(product.name))) as file:
            return answer.get("lineage") == read_header(file).lineage
    except NotReady:
        raise
    except (Away, OSError, JournalDamaged, UnknownJournal):
        return False


def _why_not(host: str, port: int) -> OSError | None:
    """Why nobody could listen there now; None if one could."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        return error
    return None


def _is_taken(what: str, reason: OSError, remedy: str) -> Finding:
    if reason.errno == errno.EADDRINUSE:
        return fail(f"{what} is held by a program that is not of this venue: end that, or {remedy}")
    return fail(f"{what} cannot be had ({reason.strerror}): {remedy}")


if __name__ == "__main__":
    main()
