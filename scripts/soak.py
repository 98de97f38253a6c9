"""The soak: a demo whose processes are killed, one after another, and what must be true after it.

A process that ends by SIGKILL may not be missed: it is started again, goes on where it was, and
nothing that was acknowledged is lost. So each of a venue's processes is killed while robots trade:
web app, matching servers, log2db, robots; the demo that supervises them; all at once, as by a power
cut; and on PostgreSQL all connections to the database. After each it is waited for what a user
would see: pages, the feed, settlement and the robots go on. At the end the demo is stopped by
SIGTERM, and journals and database are compared, record by record.

    00:07 match-acme is killed
    00:08 match-acme is back after 0.9 s
"""

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends these in silence
    from matching.exits import end_on_interrupt

    end_on_interrupt()

import argparse
import asyncio
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from app.models import db as database
from app.models import products, settings
from app.models.products import Product
from matching import exits
from matching.client import Away, Client, Unanswered
from matching.config import Var
from matching.exits import ExitCode, Fatal
from matching.journal import durable_path, settled_path
from matching.pidfile import read_pid
from scripts.serve import Signals, migrate, read_mark, require_free_port
from scripts.supervisor import die_with_parent

EPILOG = """\
It writes into the folder that --var names, or else into a new one, which it removes if all is well.
On PostgreSQL ($EMTE_DATABASE) give it a database of its own: it ends all connections to it.

exit codes: 0 all came back and nothing differs, 1 something did not, 2 usage, 69 the port is taken,
78 var/ or the database's address is not good

examples:
  python scripts/soak.py                                  ten minutes, four tickers
  python scripts/soak.py --once --tickers 1 --port 8080   each kind of process once
"""

PAUSE_SECONDS = (3.0, 10.0)
"""How long after a kill the next one comes, at least and at most."""

PATIENCE_SECONDS = 90.0
"""How long what was killed may be away; the supervisor waits 30 s for what ends often."""

END_SECONDS = 40.0
"""How long the demo may take to end after SIGTERM, and its children after its SIGKILL."""

LOOK_SECONDS = 0.05

_END_CONNECTIONS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)

_PROGRAM = re.compile(r" -m (scripts\.demo|app\.webserver|matching\.\w+|log2db|robot\.\w+) ")
"""What the command lines of a demo and of its children have in them."""

_EXPECTED = {
    "match": r"matchingserver \w+: listening on .*"
    r"|client connected via websocket|client disconnected",
    "log2db": r"\S+ log2db (INFO .*|WARNING \w+: the database is away .*; waiting)",
    "robot": r"order #\d+ .*|order from .*|\d+ orders canceled by .*"
    r"|waiting for the matching server: .*|the matching server of \w+ is there",
    "web": r"webserver: listening on .*|\S+ \S+ (INFO|WARNING) .*",
    "demo": r"|Register .*|Running .*|  .*|ticker .*|[a-z]{4} .* \d/2|stopping …|stopped"
    r"|\S+ ended with SIGKILL; next start in .* s|\S+ is started again",
}
"""The lines that processes may print, by the beginning of their name: all others are defects."""


class Kind(StrEnum):
    """What is killed."""

    WEB = "web"
    MATCHING_SERVER = "match"
    LOG2DB = "log2db"
    ROBOT = "robot"
    CONNECTIONS = "connections"
    DEMO = "demo"
    EVERYTHING = "everything"


_OFTEN = (Kind.WEB, Kind.MATCHING_SERVER, Kind.LOG2DB, Kind.ROBOT)
"""Each three times as often as the others, after which all begins anew."""


class Venue:
    """The demo under test: how it is started, killed and stopped, and what can be seen of it."""

    def __init__(self, var: Var, *, uri: str, tickers: int, port: int) -> None:
        self.var = var
        self.db = database.open_database(uri)
        self.products: list[Product] = []
        self._tickers = tickers
        self._port = port
        self._demo: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the demo; what it prints goes to `var/run/demo.out`."""
        arguments = ("--tickers", str(self._tickers), "--port", str(self._port))
        with self.output("demo").open("ab") as output:
            self._demo = subprocess.Popen(
                [sys.executable, "-m", "scripts.demo", *arguments, "--var", str(self.var.root)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent() if sys.platform == "linux" else None,
            )

    def stop(self) -> int | None:
        """End the demo by SIGTERM; its exit code, None if it does not end."""
        assert self._demo is not None
        self._demo.terminate()
        try:
            return self._demo.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def kill(self, pids: Iterable[int]) -> None:
        """SIGKILL, as fast as they can be named."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def restart(self) -> None:
        """Start a demo after the first was killed, once all that it had started has ended."""
        assert self._demo is not None
        self._demo.wait()
        end = time.monotonic() + END_SECONDS
        while left := self.processes():
            if time.monotonic() > end:
                raise Fatal(ExitCode.BUG, f"the demo was killed, its children live on: {left}")
            await asyncio.sleep(LOOK_SECONDS)
        self.start()

    def look_for_products(self) -> None:
        with database.transaction(self.db):
            self.products = products.every(self.db, active_only=True)

    def names(self, kind: Kind) -> list[str]:
        """The names of the processes of a kind, as their pid files have them."""
        match kind:
            case Kind.WEB | Kind.DEMO:
                return [kind.value]
            case Kind.MATCHING_SERVER | Kind.LOG2DB:
                return [f"{kind}-{product.name}" for product in self.products]
            case Kind.ROBOT:
                return [f"robot-{product.name}-{n}" for product in self.products for n in (1, 2)]
            case Kind.EVERYTHING | Kind.CONNECTIONS:
                return [name for each in (*_OFTEN, Kind.DEMO) for name in self.names(each)]

    def processes(self) -> set[int]:
        """The process ids of all that works in this var/; zombies are no processes."""
        listing = subprocess.run(
            ["ps", "-ww", "-eo", "pid=,stat=,args="], capture_output=True, text=True, check=True
        )
        found = set()
        for line in listing.stdout.splitlines():
            pid, stat, command = line.split(None, 2)
            is_ours = _PROGRAM.search(command) and f" --var {self.var.root} " in f"{command} "
            if is_ours and not stat.startswith("Z"):
                found.add(int(pid))
        return found

    def pid(self, name: str) -> int | None:
        """The process id in a pid file, be it alive or not."""
        return read_pid(self.var.run_dir / f"{name}.pid")

    def output(self, name: str) -> Path:
        return self.var.run_dir / f"{name}.out"

    def size(self, name: str) -> int:
        """How much a process has printed, in bytes."""
        try:
            return self.output(name).stat().st_size
        except FileNotFoundError:
            return 0

    def durable(self, product: Product) -> int:
        """The last record of a product that is safe on disk."""
        mark = read_mark(durable_path(self.var.journal_file(product.name)))
        return mark.seq if mark is not None else 0

    def settled(self, product: Product) -> int:
        """The last record of a product that is in the database."""
        mark = read_mark(settled_path(self.var.journal_file(product.name)))
        return mark.seq if mark is not None else 0

    async def feed_seq(self, product: Product) -> int:
        """The record that the feed shows to who comes now; 0 if it is away."""
        client = Client(product.ws_url, ticker=product.name)
        try:
            await client.connect()
            seq: int = (await client.subscribe(("trades",)))["seq"]
        except (Away, Unanswered):
            return 0
        finally:
            await client.close()
        return seq

    async def has_pages(self) -> bool:
        return await asyncio.to_thread(self._has_pages)

    def _has_pages(self) -> bool:
        """Whether the web app and its database answer."""
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/health/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def end_connections(self) -> None:
        """End all connections to the database but this one, on PostgreSQL."""
        with database.transaction(self.db):
            database.rows(self.db, _END_CONNECTIONS)

    def contents(self) -> list[Any]:
        """What no kill may change in the database: users, products, which journals it follows."""
        queries = (
            "SELECT id, username, manager FROM auth_user ORDER BY id",
            "SELECT id, name, ws_url FROM product ORDER BY id",
            "SELECT ticker, lineage FROM log_position ORDER BY ticker, lineage",
        )
        with database.transaction(self.db):
            return [database.rows(self.db, query) for query in queries]


class Kill:
    """Something that was killed, and where things stood then: by that one sees when they go on."""

    def __init__(self, venue: Venue, kind: Kind, names: Iterable[str], title: str) -> None:
        self.kind = kind
        self.title = title
        self.names = tuple(names)
        self.at = time.monotonic()
        self._venue = venue
        self._pids = {name: venue.pid(name) for name in self.names}
        self._sizes = {name: venue.size(name) for name in venue.names(Kind.ROBOT)}
        self._seqs = {product.name: venue.durable(product) for product in venue.products}

    async def is_over(self) -> bool:
        """Whether a user sees no more of it: pages, feeds, settlement and robots go on."""
        venue = self._venue
        if self.kind is not Kind.CONNECTIONS:
            alive = venue.processes()
            for name, before in self._pids.items():
                pid = venue.pid(name)
                if pid == before or pid not in alive:
                    return False
        if not await venue.has_pages():
            return False
        for product in self._products():
            seq = self._seqs[product.name]
            if await venue.feed_seq(product) <= seq or venue.settled(product) <= seq:
                return False
        return all(venue.size(robot) > self._sizes[robot] for robot in self._robots())

    def _products(self) -> list[Product]:
        """Those of which something was killed."""
        return [
            product
            for product in self._venue.products
            if any(product.name in name.split("-") for name in self.names)
        ]

    def _robots(self) -> Iterator[str]:
        return (name for name in self.names if name.startswith("robot-"))


class Soak:
    """The kills of one run, and what came of them."""

    def __init__(
        self,
        venue: Venue,
        dice: random.Random,
        *,
        is_postgres: bool,
        is_stop_asked: Callable[[], bool],
    ) -> None:
        self._venue = venue
        self._is_stop_asked = is_stop_asked
        self._dice = dice
        self._kinds = [kind for kind in Kind if is_postgres or kind is not Kind.CONNECTIONS]
        self._began = time.monotonic()
        self._waiting: list[Kill] = []
        self._away_seconds: dict[Kind, list[float]] = defaultdict(list)
        self.defects: list[str] = []

    async def run(self, *, seconds: float, is_once: bool) -> None:
        """Start the demo and kill: for so many seconds, or (`is_once`) each kind once."""
        self._venue.start()
        await self._wait_for_first_trades()
        before = self._venue.contents()
        end = time.monotonic() + seconds
        kinds = self._each_once() if is_once else self._at_random()
        next_kill = 0.0
        while (self._waiting or time.monotonic() < end or is_once) and not self._is_stop_asked():
            now = time.monotonic()
            is_due = not self._waiting if is_once else next_kill <= now < end
            if is_due:
                kind = next(kinds, None)
                if kind is None:
                    break
                await self._kill(kind)
                next_kill = now + self._dice.uniform(*PAUSE_SECONDS)
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)
        if self._venue.contents() != before:
            self.defects.append("users, products or the journals that the database follows changed")

    def _each_once(self) -> Iterator[Kind]:
        yield from self._kinds

    def _at_random(self) -> Iterator[Kind]:
        weights = [3 if kind in _OFTEN else 1 for kind in self._kinds]
        while True:
            yield from self._dice.choices(self._kinds, weights)

    async def _wait_for_first_trades(self) -> None:
        """Wait until the demo runs, and all of it goes on from there."""
        venue = self._venue
        end = time.monotonic() + PATIENCE_SECONDS
        while not (venue.products and all(map(venue.pid, venue.names(Kind.EVERYTHING)))):
            if self._is_stop_asked():
                return
            if time.monotonic() > end:
                raise Fatal(ExitCode.BUG, "the demo does not start")
            await asyncio.sleep(0.5)
            if venue.pid("web"):
                venue.look_for_products()
        began = Kill(venue, Kind.CONNECTIONS, venue.names(Kind.EVERYTHING), "the demo")
        while not await began.is_over() and not self._is_stop_asked():
            if time.monotonic() > end:
                raise Fatal(ExitCode.BUG, "the demo does not trade")
            await asyncio.sleep(LOOK_SECONDS)
        self._say("the demo trades")

    async def _kill(self, kind: Kind) -> None:
        venue = self._venue
        names = venue.names(kind)
        title = kind.value
        if kind in _OFTEN:
            names = [self._dice.choice(names)]
            title = names[0]
        elif kind is Kind.DEMO:
            names = venue.names(Kind.EVERYTHING)
        pids = {name: venue.pid(name) for name in names}
        if kind in _OFTEN and (pids[title] is None or pids[title] not in venue.processes()):
            return  # it is away already
        kill = Kill(venue, kind, names, title)
        self._say(f"{title} killed")
        match kind:
            case Kind.CONNECTIONS:
                venue.end_connections()
            case Kind.DEMO:
                venue.kill([pid for pid in [venue.pid("demo")] if pid is not None])
                await venue.restart()
            case Kind.EVERYTHING:
                everything = list(venue.processes())
                self._dice.shuffle(everything)
                venue.kill(everything)
                await venue.restart()
            case _:
                venue.kill(pid for pid in pids.values() if pid is not None)
        self._waiting.append(kill)

    async def _look(self) -> None:
        """Note what is back; give up what is away for too long."""
        for kill in list(self._waiting):
            away_seconds = time.monotonic() - kill.at
            if await kill.is_over():
                self._away_seconds[kill.kind].append(away_seconds)
                self._say(f"{kill.title} is back after {away_seconds:.1f} s")
                self._waiting.remove(kill)
            elif away_seconds > PATIENCE_SECONDS:
                self.defects.append(f"{kill.title} did not come back in {PATIENCE_SECONDS:.0f} s")
                self._say(self.defects[-1])
                self._waiting.remove(kill)

    def finish(self) -> None:
        """Stop the demo, and look at what it leaves."""
        self._say("stopping the demo")
        code = self._venue.stop()
        if code != 0:
            self.defects.append(f"the demo ended with {code} after SIGTERM, not with 0")
        if left := self._venue.processes():
            self.defects.append(f"processes are left: {left}")
            self._venue.kill(left)
        self._look_at_outputs()
        records = 0
        for product in self._venue.products:
            records += self._venue.durable(product)
            self._verify(product)
        for kind, away in self._away_seconds.items():
            print(f"{kind}: {len(away)} kills, slowest back after {max(away):.1f} s")
        kills = sum(map(len, self._away_seconds.values()))
        print(f"{kills} kills, {records} records, {len(self.defects)} defects")

    def _verify(self, product: Product) -> None:
        """The operator's three questions (docs/OPERATIONS.md, Restart after a crash)."""
        journal = str(self._venue.var.journal_file(product.name))
        for arguments in (
            ("matching.journal", "verify", journal),
            ("matching.recovery", journal),
            ("log2db", "--verify", product.name, "--var", str(self._venue.var.root)),
        ):
            done = subprocess.run(
                [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False
            )
            print(done.stdout, end="")
            if done.returncode != 0:
                self.defects.append(f"{' '.join(arguments)}: {done.returncode} {done.stderr}")

    def _look_at_outputs(self) -> None:
        for path in sorted(self._venue.var.run_dir.glob("*.out")):
            expected = re.compile(_EXPECTED[path.stem.partition("-")[0]])
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            strange = [line for line in lines if expected.fullmatch(line) is None]
            if strange:
                shown = "\n    ".join(strange[:20])
                self.defects.append(f"{path.name} has {len(strange)} strange lines:\n    {shown}")

    def _say(self, line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"{minutes:02}:{seconds:02} {line}", flush=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soak",
        description="Run a demo, kill its processes at random, and verify what they leave.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to kill (10)")
    parser.add_argument("--once", action="store_true", help="kill each kind once, in turn, and end")
    parser.add_argument("--tickers", type=int, default=4, help="how many products (4)")
    parser.add_argument("--port", type=int, default=8000, help="the web app's port (8000)")
    parser.add_argument(
        "--seed", type=int, help="the seed of the dice (default: another each time)"
    )
    parser.add_argument("--var", type=Path, help="where to write (default: a new folder)")
    return parser.parse_args()


def main() -> None:
    sys.exit(exits.run("soak", _main))


def _main() -> None:
    arguments = _parse_arguments()
    named: Path | None = arguments.var
    root = named.absolute() if named is not None else Path(tempfile.mkdtemp(prefix="emte-soak-"))
    var = Var(root)
    var.make()
    uri = settings.database_uri(var)
    signals = Signals(on_second=lambda: None)
    require_free_port("127.0.0.1", arguments.port)
    migrate(uri, var)
    venue = Venue(var, uri=uri, tickers=arguments.tickers, port=arguments.port)
    soak = Soak(
        venue,
        random.Random(arguments.seed),
        is_postgres=uri.startswith("postgres"),
        is_stop_asked=lambda: signals.is_stop_asked,
    )
    try:
        asyncio.run(soak.run(seconds=arguments.minutes * 60, is_once=arguments.once))
    except Fatal as fatal:
        soak.defects.append(fatal.message)
    finally:
        soak.finish()
    if soak.defects:
        raise Fatal(ExitCode.BUG, "\n".join([*soak.defects, f"everything is in {var.root}"]))
    if named is None:
        shutil.rmtree(var.root)


if __name__ == "__main__":
    main()
