"""The server of one product while it is served: exchange, group commit, fan-out, connections.

What handlers submit is decided at once and settled when its batch is durable: then come answers,
each connection's in one write, after them the public update, and last what was refused goes to
`<ticker>.rejected`. No more is put into JSON in one turn of the loop than a full batch usually has:
the rest follows in the next turns, a slice for each connection in its turn. It stops in this order:
no new connections, the cancels of sessions with cod=1, a last seal, the sockets close with 1001,
and a last snapshot.
"""

import asyncio
import ipaddress
import logging
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from tornado.ioloop import PeriodicCallback
from tornado.web import Application

from matching.alarms import Alarms
from matching.clockwatch import TOLERANCE_SECONDS, ClockWatch
from matching.config import Var, read_generations
from matching.deadman import DeadMen
from matching.exchange import SPACE_FOR_ORDERS, SPACE_FOR_TRADING, Batch, Exchange
from matching.exits import Fatal
from matching.fanout import Fanout
from matching.groupcommit import GroupCommit
from matching.httpserver import HttpServer
from matching.order import Phase
from matching.ports import Clock, Connection, Dice
from matching.recovery import Recovered
from matching.rejectedfile import RejectedFile
from matching.snapshotter import DUE_SECONDS, Snapshotter

MIB = 1024 * 1024

DISCARD_LIMIT = 16 * MIB
"""Bodies up to this are read to their end and refused with a sentence; larger ones are cut off."""

BODY_SECONDS = 10
"""How long a body may take to arrive."""

PING_SECONDS = 20
"""How often each WebSocket is asked for a sign of life."""

GENERATIONS_SECONDS = 0.25
"""How often var/key.generations is looked at; PROTOCOL §2 asks for 0.5."""

LOOK_SECONDS = 1.0
"""How often the server looks whether there is something to raise an alarm about."""

CLOCK_ALARM_SECONDS = 60 * 60
"""How long after the clock has jumped the alarm stands."""

TURN_BYTES = 128 * 1024
"""So much JSON is made in one turn of the loop, and then others than the told have theirs."""

TELLING_TURNS = 16
"""So many turns of the loop the next batch waits for what the last one has delivered."""

MOST_UNTOLD = 4_096
"""With more messages that nobody has begun to tell it waits for longer."""

CLOSE_SECONDS = 1.0
"""How long clients have to say goodbye when the server stops."""

GOING_AWAY = 1001
"""The WebSocket close code of a server that stops."""

_log = logging.getLogger("matchingserver")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says; None where it is silent. Prices in ten-thousandths."""

    ticker: str
    port: int = 8888
    host: str = "127.0.0.1"
    journal: Path | None = None
    key: str | None = None
    tick: int | None = None
    lot: int | None = None
    price: int | None = None
    phase: Phase | None = None
    origins: tuple[str, ...] = ()
    venue_from: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    syncs: bool = True
    """Whether an answer waits for the sync (`--durability fsync`) or only for the write."""
    demo: bool = False
    snapshot_records: int = 1_000_000
    """A snapshot is taken once so many records were added since the last; 0: never."""
    snapshot_seconds: float = 60.0
    """And so much time has passed."""

    def journal_file(self, var: Var) -> Path:
        return self.journal if self.journal is not None else var.journal_file(self.ticker)


class Server:
    """A product being served: exchange, group commit, fan-out and the connections.

    `long_answers` counts the answers over HTTP that are being told in slices.
    """

    def __init__(
        self,
        recovered: Recovered,
        *,
        clock: Clock,
        dice: Dice,
        venue_key: str,
        generations: Mapping[int, int],
        options: Options,
        var: Var,
    ) -> None:
        self.options = options
        self.recovered = recovered
        self.recovered_records = recovered.journal.seq
        self._var = var
        self._clock = clock
        self._generations_stamp: tuple[int, int, int] | None = None
        self._generations_problem = ""
        self.exchange = Exchange(
            recovered,
            clock=clock,
            dice=dice,
            venue_key=venue_key,
            generations=generations,
        )
        self.commit = GroupCommit(
            self.exchange,
            recovered.file,
            recovered.mark_file,
            syncs=options.syncs,
            on_settled=self._on_settled,
            told=self._told,
        )
        self.rejected = RejectedFile(options.journal_file(var))
        self.alarms = Alarms(_log)
        self.clock_watch = ClockWatch(lambda: clock.now() / 1e6, monotonic=time.monotonic)
        self._clock_alarm = ""
        self._clock_alarm_until = 0.0
        self.snapshotter = Snapshotter(
            options.journal_file(var),
            last_seq=recovered.snapshot_seq,
            records=options.snapshot_records,
            seconds=options.snapshot_seconds,
            seq=lambda: self.exchange.feed.seq,
            on_taken=self._on_snapshot,
        )
        self.fanout = Fanout(self.exchange.feed, now=self.exchange.now)
        self.dead_men = DeadMen(self._cancel_for_dead_man)
        self.connections: set[Connection] = set()
        self.is_stopping = False
        self._to_tell: deque[Connection] = deque()
        self.long_answers = 0
        self._next_turn: asyncio.Handle | None = None
        self._committing: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._http: HttpServer | None = None
        self._timers = [
            PeriodicCallback(self._poll_generations, GENERATIONS_SECONDS * 1000),
            PeriodicCallback(self._ping, PING_SECONDS * 1000),
            PeriodicCallback(self.snapshotter.look, DUE_SECONDS * 1000),
            PeriodicCallback(self._look_around, LOOK_SECONDS * 1000),
        ]
        self.metrics = CollectorRegistry()
        self.metrics.register(_ServerMetrics(self))
        self.metrics.register(self.commit.sync_seconds)
        self.metrics.register(self.commit.batch_commands)

    def begin(self) -> None:
        """Write the first batches of this run, before anybody is served. DiskFailed."""
        for reason in self.recovered.passed_over:
            _log.warning("a snapshot is not used: %s", reason)
        self.exchange.start(phase=self.options.phase if self.recovered.is_new else None)
        self.commit.begin()
        self._look_around()

    def serve(self, application: Application, sockets: Iterable[socket.socket]) -> None:
        """Accept connections."""
        self._http = HttpServer(application, max_body_size=DISCARD_LIMIT, body_timeout=BODY_SECONDS)
        self._http.add_sockets(sockets)
        self.fanout.start()
        for timer in self._timers:
            timer.start()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._http.on_loop_exception)
        self._committing = loop.create_task(self.commit.run())

    async def ended(self) -> None:
        """Wait until `stop` is done. DiskFailed; whatever else is raised is a bug of ours."""
        assert self._committing is not None
        try:
            await self._committing
        except asyncio.CancelledError:
            if self._stopping is None:
                raise
            await self._stopping
        finally:
            self._end()

    def stop(self) -> None:
        """Begin a clean stop: what was taken is answered, the sockets close with 1001.

        Who asks again is in a hurry: it waits no longer for the last snapshot.
        """
        if self._stopping is None:
            self.is_stopping = True
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        else:
            self.snapshotter.end()

    async def _stop(self) -> None:
        assert self._http is not None
        assert self._committing is not None
        self._http.stop()
        try:
            self.exchange.close_sessions()
            self.commit.schedule()
            await self.commit.idle()
            self.commit.seal()
            await self.commit.idle()
            while self._to_tell:
                await asyncio.sleep(0)
            for connection in list(self.connections):
                connection.close(GOING_AWAY, "the server stops")
            end = time.monotonic() + CLOSE_SECONDS
            while (self.connections or self.long_answers) and time.monotonic() < end:
                await asyncio.sleep(0.01)
            await self.snapshotter.take_last()
            await self.commit.idle()
        finally:
            self._committing.cancel()

    def _end(self) -> None:
        self.is_stopping = True
        for timer in self._timers:
            timer.stop()
        self.snapshotter.end()
        self.dead_men.disarm_all()
        self.fanout.stop()
        if self._http is not None:
            self._http.stop()
        self.rejected.close()

    def trusts(self, address: str) -> bool:
        """Whether the venue key counts from this address (PROTOCOL §2)."""
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return peer.is_loopback or any(peer in network for network in self.options.venue_from)

    def tell_later(self, connection: Connection) -> None:
        """The connection has something to send when the batch's deliveries are done."""
        self._to_tell.append(connection)

    def _on_settled(self, batch: Batch) -> None:
        """Answers first, each connection's joined into one write, then the public update."""
        for recipient, message in batch.deliveries:
            recipient.deliver(message)
        if self._next_turn is None:
            self._tell()
        if batch.changes is not None:
            self.fanout.publish(batch.changes)
        # Where even the market is halted for want of space, the rest of it is the journal's.
        if batch.rejections and self.exchange.free_space >= SPACE_FOR_TRADING:
            self.rejected.write(batch.rejections)

    def _tell(self) -> None:
        """Send this turn's share of what was delivered."""
        self._next_turn = None
        left = TURN_BYTES
        while self._to_tell and left > 0:
            connection = self._to_tell.popleft()
            left -= connection.tell()
            if connection.has_more:
                self._to_tell.append(connection)
        if self._to_tell:
            self._next_turn = asyncio.get_running_loop().call_soon(self._tell)

    async def _told(self) -> None:
        """Wait until what was delivered is told; a few turns only for who is told very much."""
        turns = 0
        while self._to_tell and (turns < TELLING_TURNS or self._is_behind):
            await asyncio.sleep(0)
            turns += 1

    @property
    def _is_behind(self) -> bool:
        return sum(connection.untold for connection in self._to_tell) > MOST_UNTOLD

    def _on_snapshot(self, seq: int, digest: str) -> None:
        self.exchange.check(seq, digest)
        self.commit.schedule()

    def _cancel_for_dead_man(self, owner: int) -> None:
        self.exchange.cancel_for_dead_man(owner)
        self.commit.schedule()

    def _poll_generations(self) -> None:
        """What cannot be read now is tried again: a key may be raised while files are short."""
        stamp = _stamp(self._var.generations_file)
        if stamp == self._generations_stamp:
            return
        try:
            generations = read_generations(self._var)
        except Fatal as fatal:
            if fatal.message != self._generations_problem:
                self._generations_problem = fatal.message
                _log.error("%s; the generations known before stay in force", fatal.message)
            return
        self._generations_stamp = stamp
        self._generations_problem = ""
        self.exchange.set_generations(generations)
        self.commit.schedule()

    def _ping(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.ping_or_close(now)

    @property
    def turned_away(self) -> int:
        """Connections for which the process had no file left."""
        return self._http.turned_away if self._http is not None else 0

    @property
    def seconds_ahead(self) -> float:
        """How far the journal's time is ahead of the clock, which has gone back."""
        return max(0, self.exchange.now() - self._clock.now()) / 1e6

    def _look_around(self) -> None:
        now = time.monotonic()
        jump = self.clock_watch.look()
        if jump:
            moment = datetime.fromtimestamp(self._clock.now() / 1e6, UTC)
            self._clock_alarm = (
                f"the clock {'leapt' if jump > 0 else 'went back'} by {abs(jump):.2f} s,"
                f" to {moment:%Y-%m-%dT%H:%M:%S}Z"
            )
            self._clock_alarm_until = now + CLOCK_ALARM_SECONDS
        self.alarms.update(dict(self._alarms(now)))

    def _alarms(self, now: float) -> Iterator[tuple[str, str]]:
        """What an operator has to know, each with its name."""
        free = self.exchange.free_space
        for name, least, then in (
            ("orders", SPACE_FOR_ORDERS, "new orders are refused (no_space), cancels work"),
            ("trading", SPACE_FOR_TRADING, "the market is halted until a manager resumes it"),
        ):
            if free < least:
                found = f"{free // MIB} MiB are free on the journal's file system"
                yield name, f"{found}, under {least // MIB}: {then}"
        if now < self._clock_alarm_until:
            yield f"clock {self.clock_watch.jumps}", self._clock_alarm
        ahead = self.seconds_ahead
        if ahead > TOLERANCE_SECONDS:
            yield (
                "time",
                f"the clock is {ahead:.0f} s behind the journal's time, which waits for it",
            )
        if self._http is not None and (sentence := self._http.alarm()):
            yield "files", sentence
        if self.rejected.problem:
            yield "rejected", f"{self.rejected.problem}; trading goes on"


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


class _ServerMetrics(Collector):
    """What /metrics tells beside the histograms."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterable[Metric]:
        server = self._server
        exchange = server.exchange
        yield CounterMetricFamily("emte_orders", "Orders accepted", value=exchange.orders)
        yield CounterMetricFamily("emte_trades", "Trades", value=exchange.trades)
        rejects = CounterMetricFamily("emte_rejects", "Commands refused", labels=["code"])
        for code, count in sorted(exchange.rejects.items()):
            rejects.add_metric([code], count)
        yield rejects
        yield GaugeMetricFamily("emte_clients", "WebSockets", value=len(server.connections))
        yield GaugeMetricFamily("emte_seq", "Last durable record", value=exchange.feed.seq)
        yield GaugeMetricFamily("emte_epoch", "Starts of this journal", value=exchange.epoch)
        yield GaugeMetricFamily(
            "emte_snapshot_seq", "Record of the last snapshot", value=server.snapshotter.last_seq
        )
        yield CounterMetricFamily(
            "emte_snapshots", "Snapshots taken", value=server.snapshotter.taken
        )
        yield CounterMetricFamily(
            "emte_snapshots_failed", "Snapshots not taken", value=server.snapshotter.failed
        )
        yield GaugeMetricFamily(
            "emte_free_bytes", "Free on the journal's file system", value=exchange.free_space
        )
        yield CounterMetricFamily(
            "emte_clock_jumps", "Times the clock was put", value=server.clock_watch.jumps
        )
        yield GaugeMetricFamily(
            "emte_seconds_ahead", "Journal's time ahead of the clock", value=server.seconds_ahead
        )
        yield CounterMetricFamily(
            "emte_turned_away", "Connections for which no file was left", value=server.turned_away
        )
        yield CounterMetricFamily(
            "emte_rejects_left_out",
            "Refused commands that are not in the rejected file",
            value=server.rejected.left_out,
        )
        yield GaugeMetricFamily(
            "emte_alarms", "Alarms that stand", value=len(server.alarms.sentences)
        )
