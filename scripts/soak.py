"""The soak: a demo whose processes are killed, one after another, and what must be true after it.

A process that ends by SIGKILL may not be missed: it is started again, goes on where it was, and
nothing that was acknowledged is lost. So each of a venue's processes is killed while robots trade:
web app, matching servers, log2db, robots; the demo that supervises them; all at once, as by a power
cut; on PostgreSQL all connections to the database, and the postmaster of a cluster that is the
soak's own. After each it is waited for what a user would see: pages, the feed, settlement, the
robots and the witnesses go on. Witnesses (scripts/witnesses.py) trade by session, by post and by
the platform's form, and remember: what was acknowledged has to be in the journal once, with its
oid, after each kill. At the end the demo is stopped by SIGTERM, and journals and database are
compared, record by record.

    00:07 match-acme killed
    00:08 match-acme is back after 0.9 s
"""

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends these in silence
    from matching.exits import end_on_interrupt

    end_on_interrupt()

import argparse
import asyncio
import itertools
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

from app.models import accounts, products, settings
from app.models import db as database
from app.models.products import Product
from matching import config, exits
from matching.client import Away, Client, Unanswered
from matching.config import Var
from matching.exits import ExitCode, Fatal
from matching.journal import JournalDamaged, durable_path, settled_path
from matching.pidfile import read_pid
from scripts.cluster import Cluster, running_cluster
from scripts.serve import Signals, migrate, read_mark, require_free_port
from scripts.supervisor import die_with_parent
from scripts.witnesses import Form, JournalOrders, Order, Post, Session, Witness

T = TypeVar("T")

EPILOG = """\
It writes into the folder that --var names, or else into a new one, which it removes if all is well.
On PostgreSQL ($EMTE_DATABASE) give it a database of its own: it ends all connections to it. With
--cluster it makes a PostgreSQL of its own, and kills that too.

exit codes: 0 all came back and nothing differs, 1 something did not, 2 usage, 69 the port is taken
or --cluster finds no PostgreSQL, 78 var/ or the database's address is not good

examples:
  python scripts/soak.py                                    ten minutes, four tickers
  python scripts/soak.py --rounds 10 --tickers 1 --cluster  ten kills, each when the last is over
"""

PAUSE_SECONDS = (3.0, 10.0)
"""How long after a kill the next one comes, at least and at most."""

PATIENCE_SECONDS = 90.0
"""How long what was killed may be away; the supervisor waits 30 s for what ends often."""

ORDER_SECONDS = 1.0
"""How long a kill waits for a witness to send something."""

WAY_SECONDS = 0.01
"""How far on its way an order is when the kill comes, at most."""

JOURNAL_SECONDS = 5.0
"""How long after an answer its record may not be marked as durable yet."""

END_SECONDS = 60.0
"""How long the demo may take to end after SIGTERM, and its children after its SIGKILL."""

LOOK_SECONDS = 0.05

_END_CONNECTIONS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)

_UNBALANCED = (
    "SELECT ticker, lineage, SUM(shares), SUM(cash) FROM position GROUP BY ticker, lineage"
    " HAVING SUM(shares) <> 0 OR SUM(cash) <> 0"
)
"""Each share and each cent of a trade goes from one to another; the demo takes no fees."""

_IN_DOUBT = "SELECT owner, client_id FROM order_intent WHERE state IN ('reserved', 'unknown')"

_PROGRAM = re.compile(r" -m (scripts\.demo|app\.webserver|matching\.\w+|log2db|robot\.\w+) ")
"""What the command lines of a demo and of its children have in them."""

_EXPECTED = {
    "match": r"matchingserver \w+: listening on .*|matchingserver: snapshot of \S+ after record .*"
    r"|matchingserver: no snapshot of \S+: it was not done after .* s"
    r"|client connected via websocket|client disconnected",
    "log2db": r"\S+ log2db (INFO .*|WARNING \w+: the database is away .*; waiting)",
    "robot": r"order #\d+ .*|order from .*|\d+ orders canceled by .*"
    r"|waiting for the matching server: .*|the matching server of \w+ is there",
    "web": r"webserver: listening on .*|\S+ \S+ (INFO|WARNING) .*",
    "demo": r"|Register .*|Running .*|  .*|ticker .*|[a-z]{4} .* \d/2|stopping …|stopped"
    r"|the database is away \(.*\); the known products go on"
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
    POSTGRES = "postgres"
    DEMO = "demo"
    EVERYTHING = "everything"


_OFTEN = (Kind.WEB, Kind.MATCHING_SERVER, Kind.LOG2DB, Kind.ROBOT)
"""One process of these; each more often than the others, after which all begins anew."""

_ANEW = (Kind.DEMO, Kind.EVERYTHING)
"""After these the demo is started anew."""

_ON_POSTGRES = (Kind.CONNECTIONS, Kind.POSTGRES)
"""What is killed beside the venue's own processes."""

FIRST_WITNESS = 1001
"""The owner numbers of witnesses begin here; they have no accounts."""

PLATFORM_USER = "trader1"
"""The demo's account that no robot trades for."""


class Venue:
    """The demo under test: how it is started, killed and stopped, and what can be seen of it."""

    def __init__(
        self, var: Var, *, uri: str, tickers: int, port: int, cluster: Cluster | None
    ) -> None:
        self.var = var
        self.products: list[Product] = []
        self.url = f"http://127.0.0.1:{port}"
        self.cluster = cluster
        self._db = database.open_database(uri)
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
        self.products = self._read(lambda db: products.every(db, active_only=True))

    def witnesses(self, dice: random.Random) -> Iterator[Witness]:
        """Traders who remember, for each product and each way to it."""
        key = config.choose_key(None, self.var)
        owners = itertools.count(FIRST_WITNESS)
        platform_owner = self._read(
            lambda db: accounts.find_credentials(db, PLATFORM_USER).owner or 0
        )
        for product in self.products:
            owner = next(owners)
            yield Witness(Session(product, owner, key), product, owner, dice)
            yield Witness(Post(product, key), product, next(owners), dice)
            form = Form(product, self.url, PLATFORM_USER)
            yield Witness(form, product, platform_owner, dice)

    def names(self, kind: Kind) -> list[str]:
        """The names of the processes of a kind, as their pid files have them."""
        match kind:
            case Kind.WEB | Kind.DEMO:
                return [kind.value]
            case Kind.MATCHING_SERVER | Kind.LOG2DB:
                return [f"{kind}-{product.name}" for product in self.products]
            case Kind.ROBOT:
                return [f"robot-{product.name}-{n}" for product in self.products for n in (1, 2)]
            case Kind.EVERYTHING | Kind.CONNECTIONS | Kind.POSTGRES:
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
            with urlopen(f"{self.url}/health/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def end_connections(self) -> None:
        """End all connections to the database but this one, on PostgreSQL."""
        self.rows(_END_CONNECTIONS)

    def contents(self) -> list[Any]:
        """What no kill may change in the database: users, products, which journals it follows."""
        queries = (
            "SELECT id, username, manager FROM auth_user ORDER BY id",
            "SELECT id, name, ws_url FROM product ORDER BY id",
            "SELECT ticker, lineage FROM log_position ORDER BY ticker, lineage",
        )
        return [self.rows(query) for query in queries]

    def rows(self, query: str) -> list[Any]:
        """What a query finds in the database."""
        return self._read(lambda db: database.rows(db, query))

    def _read(self, work: Callable[[database.DAL], T]) -> T:
        """What `work` reads; with a new connection, if the old one was killed meanwhile."""
        with suppress(database.DatabaseAway), database.transaction(self._db):
            return work(self._db)
        with database.transaction(self._db):
            return work(self._db)


class Kill:
    """Something that was killed, and where things stood then: by that one sees when they go on."""

    def __init__(
        self,
        venue: Venue,
        kind: Kind,
        names: Iterable[str],
        title: str,
        witnesses: Iterable[Witness] = (),
    ) -> None:
        self.kind = kind
        self.title = title
        self.names = tuple(names)
        self.at = time.monotonic()
        self._venue = venue
        self._pids = {name: venue.pid(name) for name in self.names}
        self._sizes = {name: venue.size(name) for name in venue.names(Kind.ROBOT)}
        self._told = [(witness, len(witness.told)) for witness in witnesses]
        self._seqs = {product.name: venue.durable(product) for product in venue.products}

    async def is_over(self) -> bool:
        """Whether a user sees no more of it: pages, feeds, settlement and traders go on."""
        venue = self._venue
        if self.kind not in _ON_POSTGRES:
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
        if any(len(witness.told) == before for witness, before in self._told):
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
        left_out = {Kind.POSTGRES} if venue.cluster is None else set()
        if not is_postgres:
            left_out.add(Kind.CONNECTIONS)
        self._kinds = [kind for kind in Kind if kind not in left_out]
        self._began = time.monotonic()
        self._kills = 0
        self._waiting: list[Kill] = []
        self._away_seconds: dict[Kind, list[float]] = defaultdict(list)
        self._witnesses: list[Witness] = []
        self._trading: list[asyncio.Task[None]] = []
        self._journals: dict[str, JournalOrders] = {}
        self._compared: dict[Witness, int] = defaultdict(int)
        self._lost: dict[str, set[Order]] = defaultdict(set)
        self.defects: list[str] = []

    async def run(self, *, seconds: float, rounds: int | None) -> None:
        """Start the demo and kill: for so many seconds, or in rounds, each when the last is over.

        What is lost ends it.
        """
        self._venue.start()
        await self._wait_for_first_trades()
        before = self._venue.contents()
        self._let_witnesses_trade()
        await self._kill_and_look(seconds=seconds, rounds=rounds)
        await self._let_witnesses_end()
        if self._venue.contents() != before:
            self.defects.append("users, products or the journals that the database follows changed")

    async def _kill_and_look(self, *, seconds: float, rounds: int | None) -> None:
        end = time.monotonic() + seconds
        kinds = self._at_random() if rounds is None else self._dealt()
        next_kill = 0.0
        while not self._is_stop_asked() and not self.defects:
            now = time.monotonic()
            has_time = now < end if rounds is None else self._kills < rounds
            if not has_time and not self._waiting:
                return
            is_due = now >= next_kill if rounds is None else not self._waiting
            if has_time and is_due:
                await self._kill(next(kinds))
                next_kill = now + self._dice.uniform(*PAUSE_SECONDS)
            if await self._look():
                await self._compare()
            for trading in self._trading:
                if trading.done():
                    trading.result()  # it never ends by itself: this raises what ended it
            await asyncio.sleep(LOOK_SECONDS)

    def _dealt(self) -> Iterator[Kind]:
        """Each kind once, then the frequent ones once more, and so on, in ever new orders."""
        often = [kind for kind in self._kinds if kind in (*_OFTEN, Kind.POSTGRES)]
        while True:
            for hand in (self._kinds, often):
                yield from self._dice.sample(hand, len(hand))

    def _at_random(self) -> Iterator[Kind]:
        weights = [3 if kind in _OFTEN else 1 for kind in self._kinds]
        while True:
            yield from self._dice.choices(self._kinds, weights)

    def _let_witnesses_trade(self) -> None:
        venue = self._venue
        self._journals = {
            product.name: JournalOrders(venue.var.journal_file(product.name))
            for product in venue.products
        }
        self._witnesses = list(venue.witnesses(self._dice))
        self._trading = [asyncio.create_task(witness.trade()) for witness in self._witnesses]

    async def _let_witnesses_end(self) -> None:
        """Have every order that was sent see its outcome, and compare them all."""
        for witness in self._witnesses:
            witness.stop()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(*self._trading)
        except TimeoutError:
            for witness in self._witnesses:
                for order in witness.in_doubt:
                    self.defects.append(f"order {order.command.client_id} has no outcome")
        self._compared.clear()
        await self._compare()

    async def _compare(self) -> None:
        """What witnesses were told since the last time, against the journals."""
        told = []
        for witness in self._witnesses:
            known = self._compared[witness]
            told += [(witness, order) for order in witness.told[known:]]
            self._compared[witness] = len(witness.told)
            self.defects += witness.contradictions
            witness.contradictions.clear()
        for name, journal in self._journals.items():
            seqs = (order.seq for witness, order in told if witness.product.name == name)
            last = max(seqs, default=0)
            end = time.monotonic() + JOURNAL_SECONDS
            while journal.read_on() < last and time.monotonic() < end:
                await asyncio.sleep(LOOK_SECONDS)
        for witness, order in told:
            difference = self._journals[witness.product.name].difference(order)
            if difference and order not in self._lost[witness.way.name]:
                self._lost[witness.way.name].add(order)
                self.defects.append(f"{witness.product.name}: {difference}")
                self._say(self.defects[-1])

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
        if kind not in _OFTEN and any(each.kind in _ANEW for each in self._waiting):
            return  # the demo is starting: it has no pid file yet, and without a database it ends
        await self._wait_for_orders_under_way(kind)
        kill = Kill(venue, kind, names, title, self._witnesses)
        self._kills += 1
        self._say(f"{title} killed")
        match kind:
            case Kind.CONNECTIONS:
                venue.end_connections()
            case Kind.POSTGRES if venue.cluster is not None:
                venue.cluster.kill()
                venue.cluster.start()
            case Kind.DEMO:
                venue.kill([pid for pid in [venue.pid("demo")] if pid is not None])
                await venue.restart()
            case Kind.EVERYTHING:
                everything = list(venue.processes())
                self._dice.shuffle(everything)
                venue.kill(everything)
                if venue.cluster is not None:
                    venue.cluster.kill()
                    venue.cluster.start()
                await venue.restart()
            case _:
                venue.kill(pid for pid in pids.values() if pid is not None)
        self._waiting.append(kill)

    async def _wait_for_orders_under_way(self, kind: Kind) -> None:
        """Let the kill fall while an order is on its way: through the platform, if that is hit."""
        is_platform = kind in (Kind.WEB, *_ON_POSTGRES)
        witnesses = [each for each in self._witnesses if each.way.is_platform == is_platform]
        witness = self._dice.choice(witnesses)
        end = time.monotonic() + ORDER_SECONDS
        while not witness.is_sending and time.monotonic() < end:
            await asyncio.sleep(0)
        await asyncio.sleep(self._dice.uniform(0, WAY_SECONDS))

    async def _look(self) -> bool:
        """Note what is back; give up what is away for too long. Whether something is over."""
        waiting = list(self._waiting)
        for kill in waiting:
            away_seconds = time.monotonic() - kill.at
            if await kill.is_over():
                self._away_seconds[kill.kind].append(away_seconds)
                self._say(f"{kill.title} is back after {away_seconds:.1f} s")
                self._waiting.remove(kill)
            elif away_seconds > PATIENCE_SECONDS:
                self.defects.append(f"{kill.title} did not come back in {PATIENCE_SECONDS:.0f} s")
                self._say(self.defects[-1])
                self._waiting.remove(kill)
        return len(self._waiting) < len(waiting)

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
        try:
            self._look_at_balances()
        except database.DatabaseAway as away:
            self.defects.append(f"the database is away: {away}")
        print("\n".join(self._table()))
        kills = sum(map(len, self._away_seconds.values()))
        print(f"{kills} kills, {records} records, {len(self.defects)} defects")

    def _table(self) -> Iterator[str]:
        """What was killed and how long it was away; what witnesses sent and what became of it."""
        yield f"{'killed':<12} {'times':>7} {'median s':>10} {'longest s':>10}"
        for kind, away in self._away_seconds.items():
            yield f"{kind:<12} {len(away):>7} {statistics.median(away):>10.1f} {max(away):>10.1f}"
        columns = ("acknowledged", "lost", "refused", "no answer", "were in", "in doubt")
        yield f"{'orders by':<12}" + "".join(f"{column:>13}" for column in columns)
        for way in dict.fromkeys(witness.way.name for witness in self._witnesses):
            witnesses = [witness for witness in self._witnesses if witness.way.name == way]
            told = [order for witness in witnesses for order in witness.told]
            counts = (
                sum(order.oid is not None for order in told),
                len(self._lost[way]),
                sum(order.refused != "" for order in told),
                sum(order.was_lost for order in told),
                sum(order.was_lost and order.was_in for order in told),
                sum(len(witness.in_doubt) for witness in witnesses),
            )
            yield f"{way:<12}" + "".join(f"{count:>13}" for count in counts)

    def _look_at_balances(self) -> None:
        """That shares and cash only went from one to another, and no cash is tied up for nothing.

        Asked of the database, once all that was traded is in it.
        """
        for ticker, lineage, shares, cash in self._venue.rows(_UNBALANCED):
            self.defects.append(f"{ticker} {lineage}: {shares} shares, {cash} of cash from nowhere")
        for owner, client_id in self._venue.rows(_IN_DOUBT):
            self.defects.append(f"order {client_id} of owner {owner} is in doubt for ever")

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
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--minutes", type=float, default=10.0, help="how long to kill (10)")
    how_long.add_argument(
        "--rounds", type=int, help="kill so many times, each time when the last kill is over"
    )
    parser.add_argument(
        "--cluster", action="store_true", help="on a PostgreSQL cluster of its own, killed as well"
    )
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
    signals = Signals(on_second=lambda: None)
    require_free_port("127.0.0.1", arguments.port)
    with ExitStack() as stack:
        cluster = stack.enter_context(running_cluster()) if arguments.cluster else None
        if cluster is not None:
            os.environ["EMTE_DATABASE"] = cluster.uri  # for the demo and all that it starts
        defects = _soak(arguments, var, cluster, signals)
    if defects:
        raise Fatal(ExitCode.BUG, "\n".join([*defects, f"everything is in {var.root}"]))
    if named is None:
        shutil.rmtree(var.root)


def _soak(
    arguments: argparse.Namespace, var: Var, cluster: Cluster | None, signals: Signals
) -> list[str]:
    """Kill, and verify what is left; the defects that were found."""
    uri = settings.database_uri(var)
    migrate(uri, var)
    soak = Soak(
        Venue(var, uri=uri, tickers=arguments.tickers, port=arguments.port, cluster=cluster),
        random.Random(arguments.seed),
        is_postgres=uri.startswith("postgres"),
        is_stop_asked=lambda: signals.is_stop_asked,
    )
    try:
        asyncio.run(soak.run(seconds=arguments.minutes * 60, rounds=arguments.rounds))
    except (Fatal, database.DatabaseAway, JournalDamaged) as error:
        soak.defects.append(str(error))
    finally:
        soak.finish()
    return soak.defects


if __name__ == "__main__":
    main()
