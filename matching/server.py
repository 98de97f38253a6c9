"""The server of one product while it is served: exchange, group commit, fan-out, connections.

What handlers submit is decided at once and settled when its batch is durable: then come answers,
each connection's in one write, and after them the public update. It stops in this order: no new
connections, the cancels of sessions with cod=1, a last seal, and the sockets close with 1001.
"""

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from tornado.httpserver import HTTPServer
from tornado.ioloop import PeriodicCallback
from tornado.web import Application

from matching.config import Var, read_generations
from matching.deadman import DeadMen
from matching.exchange import Batch, Exchange
from matching.exits import Fatal
from matching.fanout import Fanout, Listener
from matching.groupcommit import GroupCommit
from matching.order import Phase
from matching.ports import Clock, Dice
from matching.recovery import Recovered
from matching.session import Session

DISCARD_LIMIT = 16 * 1024 * 1024
"""Bodies up to this are read to their end and refused with a sentence; larger ones are cut off."""

BODY_SECONDS = 10
"""How long a body may take to arrive."""

PING_SECONDS = 20
"""How often each WebSocket is asked for a sign of life."""

GENERATIONS_SECONDS = 0.25
"""How often var/key.generations is looked at; PROTOCOL §2 asks for 0.5."""

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


class Connection(Protocol):
    """One WebSocket, as the server sees it (`matching.realtime`)."""

    session: Session
    listener: Listener

    def flush_messages(self) -> None:
        """Send what was delivered to it."""

    def ping_or_close(self, now: float) -> None:
        """Ask for a sign of life, or give it up."""


class Server:
    """A product being served: exchange, group commit, fan-out and the connections."""

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
        self._generations_stamp: tuple[int, int, int] | None = None
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
        )
        self.fanout = Fanout(self.exchange.feed, now=self.exchange.now)
        self.dead_men = DeadMen(self._cancel_for_dead_man)
        self.connections: set[Connection] = set()
        self.is_stopping = False
        self._to_flush: list[Connection] = []
        self._committing: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._http: HTTPServer | None = None
        self._timers = [
            PeriodicCallback(self._poll_generations, GENERATIONS_SECONDS * 1000),
            PeriodicCallback(self._ping, PING_SECONDS * 1000),
        ]
        self.metrics = CollectorRegistry()
        self.metrics.register(_ServerMetrics(self))
        self.metrics.register(self.commit.sync_seconds)
        self.metrics.register(self.commit.batch_commands)

    def begin(self) -> None:
        """Write the first batches of this run, before anybody is served. DiskFailed."""
        self.exchange.start(phase=self.options.phase if self.recovered.is_new else None)
        self.commit.begin()

    def serve(self, application: Application, sockets: Iterable[socket.socket]) -> None:
        """Accept connections."""
        self._http = HTTPServer(application, max_body_size=DISCARD_LIMIT, body_timeout=BODY_SECONDS)
        self._http.add_sockets(sockets)
        self.fanout.start()
        for timer in self._timers:
            timer.start()
        self._committing = asyncio.get_running_loop().create_task(self.commit.run())

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
        """Begin a clean stop: what was taken is answered, the sockets close with 1001."""
        if self._stopping is None:
            self.is_stopping = True
            self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        assert self._http is not None
        assert self._committing is not None
        self._http.stop()
        try:
            for connection in self.connections:
                self.exchange.close_session(connection.session)
            self.commit.schedule()
            await self.commit.idle()
            self.commit.seal()
            await self.commit.idle()
            for connection in list(self.connections):
                connection.listener.close(GOING_AWAY, "the server stops")
            end = time.monotonic() + CLOSE_SECONDS
            while self.connections and time.monotonic() < end:
                await asyncio.sleep(0.01)
        finally:
            self._committing.cancel()

    def _end(self) -> None:
        self.is_stopping = True
        for timer in self._timers:
            timer.stop()
        self.dead_men.disarm_all()
        self.fanout.stop()
        if self._http is not None:
            self._http.stop()

    def trusts(self, address: str) -> bool:
        """Whether the venue key counts from this address (PROTOCOL §2)."""
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return peer.is_loopback or any(peer in network for network in self.options.venue_from)

    def flush_later(self, connection: Connection) -> None:
        """The connection has messages to send when the batch's deliveries are done."""
        self._to_flush.append(connection)

    def _on_settled(self, batch: Batch) -> None:
        """Answers first, each connection's joined into one write, then the public update."""
        for recipient, message in batch.deliveries:
            recipient.deliver(message)
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush_messages()
        if batch.changes is not None:
            self.fanout.publish(batch.changes)

    def _cancel_for_dead_man(self, owner: int) -> None:
        self.exchange.cancel_for_dead_man(owner)
        self.commit.schedule()

    def _poll_generations(self) -> None:
        stamp = _stamp(self._var.generations_file)
        if stamp == self._generations_stamp:
            return
        self._generations_stamp = stamp
        try:
            generations = read_generations(self._var)
        except Fatal as fatal:
            _log.error("%s; the generations known before stay in force", fatal.message)
            return
        self.exchange.set_generations(generations)
        self.commit.schedule()

    def _ping(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.ping_or_close(now)


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
