"""The matching server of one product: carries texts to the exchange, and its answers back.

    python matchingserver.py -p 8888 -t intc

Handlers translate between HTTP or WebSocket and the exchange, and decide nothing. What arrives is
decided at once and written together with all else that came while the batch before it was being
synced (group commit, PROTOCOL §5): the worker thread writes and syncs, and only then answers and
feed go out. A failed write or sync ends the process with exit code 75, and nobody is answered.

At a start the ticker is locked, then the port is taken, and only then the journal is touched.
"""

import argparse
import asyncio
import gc
import ipaddress
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from tornado.httpserver import HTTPServer
from tornado.ioloop import PeriodicCallback
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from matching import exits
from matching.config import Var, choose_key, find_var, read_generations
from matching.disk import SystemClock, SystemDice, SystemDisk
from matching.exchange import Answer, Batch, Close, Exchange, Message, Replies, Reply
from matching.exits import ExitCode, Fatal
from matching.fanout import Fanout, Listener
from matching.groupcommit import DiskFailed, GroupCommit
from matching.journal import JournalDamaged, UnknownJournal
from matching.marketdata import DEFAULT_DEPTH, MAX_DEPTH, JsonObject
from matching.order import TICKER, Phase, format_price, parse_price
from matching.pidfile import pidfile
from matching.ports import Clock, Dice, Disk, Locked
from matching.recovery import Contradiction, Recovered, open_journal

SMALL_FRAME = 4 * 1024
"""The largest frame before a login (PROTOCOL §4)."""

LARGE_FRAME = 320 * 1024
"""The largest frame after it."""

FRAME_SLACK = 4
"""Frames up to so many times the limit are read, so that their sender can be told."""

TEXTS_LIMIT = 1_000
"""The most texts in one frame."""

BODY_LIMIT = 16 * 1024
"""The largest body of a POST: an order is a few hundred bytes."""

DISCARD_LIMIT = 16 * 1024 * 1024
"""Bodies up to this are read to their end and refused with a sentence; larger ones are cut off."""

BODY_SECONDS = 10
"""How long a body may take to arrive."""

ANSWERS_LIMIT = 4_096
"""Texts of one connection that may be undecided or unsynced; nothing more is read from it then."""

PING_SECONDS = 20
SILENCE_SECONDS = 60
"""A WebSocket that says nothing for so long, not even pong, is closed."""

GENERATIONS_SECONDS = 0.25
"""How often var/key.generations is looked at; PROTOCOL §2 asks for 0.5."""

CLOSE_SECONDS = 1.0
"""How long clients have to say goodbye when the server stops."""

GOING_AWAY = 1001
NOT_TEXT = 1003
TOO_BIG = 1009

_log = logging.getLogger("matchingserver")

STATUS_OF_CODE = {
    "bad_syntax": 400,
    "bad_request": 400,
    "bad_signature": 401,
    "stale_timestamp": 401,
    "not_owner": 403,
    "venue_only": 403,
    "unknown_ticker": 404,
    "too_large": 413,
    "throttled": 429,
    "busy": 503,
    "no_space": 503,
    "not_ready": 503,
}
"""The HTTP status of an error code (PROTOCOL §3); all others are 422."""

_encode = msgspec.json.Encoder().encode


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
        self.connections: set[RealtimeHandler] = set()
        self.is_stopping = False
        self._to_flush: list[RealtimeHandler] = []
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

    def serve(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections."""
        self._http = HTTPServer(
            _application(self), max_body_size=DISCARD_LIMIT, body_timeout=BODY_SECONDS
        )
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

    def flush_later(self, connection: "RealtimeHandler") -> None:
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


# -- HTTP


def _application(server: Server) -> Application:
    arguments = {"server": server}
    return Application(
        [
            (r"/", MainHandler, arguments),
            (r"/quote/?", QuoteHandler, arguments),
            (r"/query/?", QueryHandler, arguments),
            (r"/time/?", TimeHandler, arguments),
            (r"/realtime/?", RealtimeHandler, arguments),
            (r"/health/live", LiveHandler, arguments),
            (r"/health/ready", ReadyHandler, arguments),
            (r"/metrics", MetricsHandler, arguments),
        ],
        default_handler_class=MissingHandler,
        default_handler_args=arguments,
        log_function=_log_request,
    )


def _log_request(handler: RequestHandler) -> None:
    """Requests are not logged: orders go to the journal. Our own faults are."""
    if handler.get_status() >= 500 and not isinstance(handler, ReadyHandler):
        _log.warning(
            "%s %s: %d", handler.request.method, handler.request.path, handler.get_status()
        )


class Handler(RequestHandler):
    """What all HTTP handlers share: the server, and errors in one form."""

    def initialize(self, server: Server) -> None:
        self.server = server

    def set_default_headers(self) -> None:
        self.set_header("Server", "EMTE")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def write_error(self, status_code: int, **details: Any) -> None:
        self.refuse(_error("bad_request", self._reason), status=status_code)

    def log_exception(self, *details: Any) -> None:
        super().log_exception(*details)
        # If it broke the exchange, the next batch, which ends the server, must not wait for others.
        self.server.commit.schedule()

    def refuse(self, error: JsonObject, *, status: int | None = None) -> None:
        """Finish with an error object; its code says the status."""
        self.set_status(status or STATUS_OF_CODE.get(error["code"], 422))
        if self.get_status() in (429, 503):
            self.set_header("Retry-After", "1")
        self.finish_json({"error": error})

    def finish_json(self, message: JsonObject) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(_encode(message))

    def finish_text(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text)


class HttpRecipient:
    """Hands the one answer of a POST to its handler."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def deliver(self, message: Message) -> None:
        assert isinstance(message, Reply)
        if not self.answer.done():
            self.answer.set_result(message.answer)


@stream_request_body
class MainHandler(Handler):
    """`POST /`: one signed command, as in 2010. `GET /`: a page that shows the feed."""

    def prepare(self) -> None:
        self._body = bytearray()
        self._size = 0

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= BODY_LIMIT:
            self._body += chunk

    def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", _PAGE_POLICY)
        self.finish(_PAGE.replace("TICKER", self.server.exchange.ticker))

    async def post(self) -> None:
        if self._size > BODY_LIMIT:
            self.refuse(_error("too_large", f"a body has at most {BODY_LIMIT} bytes"))
            return
        if self.server.is_stopping:
            self.refuse(_error("not_ready", "the server stops"))
            return
        try:
            text, signature = _form(bytes(self._body), self.request.headers.get("Content-Type"))
        except ValueError as error:
            self.refuse(_error("bad_request", str(error)))
            return
        recipient = HttpRecipient()
        trusted = self.server.trusts(self.request.remote_ip or "")
        self.server.exchange.submit(text, signature, recipient, trusted=trusted)
        self.server.commit.schedule()
        answer = await recipient.answer
        message = answer.to_dict()
        if "error" in message:
            self.refuse(message["error"])
        elif "application/json" in self.request.headers.get("Accept", ""):
            self.finish_json({"type": "answer", **message})
        else:
            self.finish_text(answer.to_text())


def _form(body: bytes, content_type: str | None) -> tuple[str, str]:
    """The fields `order` and `signature`, once each, nothing else; ValueError with a sentence."""
    if (content_type or "").split(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise ValueError("expected a form: Content-Type: application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=16,
        )
    except ValueError as error:
        raise ValueError("the body is not a form") from error
    for name, _ in pairs:
        if name not in ("order", "signature"):
            raise ValueError(f"the form has a field {name[:40]!r}; expected order and signature")
    for name in ("order", "signature"):
        if [each for each, _ in pairs].count(name) != 1:
            raise ValueError(f"the form needs the field {name} once")
    fields = dict(pairs)
    return fields["order"], fields["signature"]


class QuoteHandler(Handler):
    def get(self) -> None:
        self.finish_text(format_price(self.server.exchange.quote()))


class QueryHandler(Handler):
    def get(self) -> None:
        self.finish_json(self.server.exchange.query())


class TimeHandler(Handler):
    def get(self) -> None:
        self.finish_text(str(self.server.exchange.now() // 1000))


class LiveHandler(Handler):
    def get(self) -> None:
        self.finish_json({"live": True})


class ReadyHandler(Handler):
    def get(self) -> None:
        ready = not self.server.is_stopping
        self.set_status(200 if ready else 503)
        self.finish_json({"ready": ready, "seq": self.server.exchange.feed.seq})


class MetricsHandler(Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(generate_latest(self.server.metrics))


class MissingHandler(Handler):
    def prepare(self) -> None:
        raise HTTPError(404, reason="there is no such page")


def _error(code: str, message: str) -> JsonObject:
    return {"code": code, "rule": "", "message": message}


# -- WebSocket


class Subscribe(msgspec.Struct, tag_field="op", tag="subscribe", forbid_unknown_fields=True):
    channels: tuple[str, ...] = ("book", "trades")
    depth: Annotated[int, msgspec.Meta(ge=1, le=MAX_DEPTH)] = DEFAULT_DEPTH
    req: int | None = None


class LogIn(msgspec.Struct, tag_field="op", tag="login", forbid_unknown_fields=True):
    text: str
    signature: str
    req: int | None = None


class Send(msgspec.Struct, tag_field="op", tag="send", forbid_unknown_fields=True):
    text: str | None = None
    signature: str | None = None
    texts: Annotated[list[str], msgspec.Meta(min_length=1, max_length=TEXTS_LIMIT)] | None = None
    req: int | None = None


class Find(msgspec.Struct, tag_field="op", tag="find", forbid_unknown_fields=True):
    id: Annotated[str, msgspec.Meta(max_length=36)] | None = None
    oid: int | None = None
    owner: int | None = None
    req: int | None = None


class Open(msgspec.Struct, tag_field="op", tag="open", forbid_unknown_fields=True):
    owner: int | None = None
    req: int | None = None


class Ping(msgspec.Struct, tag_field="op", tag="ping", forbid_unknown_fields=True):
    req: int | None = None


_decode_request = msgspec.json.Decoder(Subscribe | LogIn | Send | Find | Open | Ping).decode

CHANNELS = frozenset({"book", "trades", "orders"})


class RealtimeHandler(WebSocketHandler):
    """One WebSocket: translates frames for the exchange, and what the exchange says to frames."""

    def initialize(self, server: Server) -> None:
        self.server = server
        self._messages: list[bytes] = []
        self._unanswered = 0
        self._is_open = False
        self._resume: asyncio.Future[None] | None = None

    def log_exception(self, *details: Any) -> None:
        super().log_exception(*details)
        # If it broke the exchange, the next batch, which ends the server, must not wait for others.
        self.server.commit.schedule()

    def prepare(self) -> None:
        """Refuse an origin that is no address at all, which Tornado would stumble over."""
        headers = self.request.headers
        try:
            urlsplit(headers.get("Origin", ""))
            urlsplit(f"//{headers.get('Host', '')}")
        except ValueError as error:
            raise HTTPError(403, reason="Origin or Host is not an address") from error

    def check_origin(self, origin: str) -> bool:
        """The same host name on any port, or an origin that --origin names."""
        if origin in self.server.options.origins:
            return True
        asked = urlsplit(f"//{self.request.headers.get('Host', '')}").hostname
        return _host_name(urlsplit(origin).hostname) == _host_name(asked)

    @property
    def max_message_size(self) -> int:
        return LARGE_FRAME * FRAME_SLACK

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        server = self.server
        trusted = server.trusts(self.request.remote_ip or "")
        self.session = server.exchange.open_session(self, trusted=trusted)
        self._limit_frames(SMALL_FRAME)
        self._last_heard = time.monotonic()
        self._is_open = True
        server.connections.add(self)
        self.listener: Listener = server.fanout.join(self, snapshot=False)
        self.listener.send(server.exchange.hello(self.session))
        server.fanout.subscribe(self.listener)
        _say("client connected via websocket")

    def _limit_frames(self, limit: int) -> None:
        """Refuse larger frames; those many times larger are cut off as they come."""
        self._frame_limit = limit
        connection = self.ws_connection
        if isinstance(connection, WebSocketProtocol13):
            connection.params.max_message_size = limit * FRAME_SLACK

    def on_close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        server = self.server
        server.connections.discard(self)
        server.fanout.leave(self.listener)
        server.exchange.close_session(self.session)
        server.commit.schedule()
        self._resume_reading()
        _say("client disconnected")

    def on_pong(self, data: bytes) -> None:
        self._last_heard = time.monotonic()

    def ping_or_close(self, now: float) -> None:
        """Ask for a sign of life; give up on a peer that has been silent for too long."""
        if now - self._last_heard >= SILENCE_SECONDS:
            self.listener.abort()
        elif self.ws_connection is not None and not self.ws_connection.is_closing():
            self.ping()

    # -- incoming

    def on_message(self, message: str | bytes) -> "asyncio.Future[None] | None":
        """Never awaits: Tornado reads the next frame only after this returns.

        Only when too much waits for this client does it return a future, and so stops reading.
        """
        self._last_heard = time.monotonic()
        if isinstance(message, bytes):
            self.listener.close(NOT_TEXT, "frames are text")
            return None
        if 4 * len(message) > self._frame_limit and len(message.encode()) > self._frame_limit:
            self.listener.close(TOO_BIG, f"a frame has at most {self._frame_limit} bytes here")
            return None
        try:
            request = _decode_request(message)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            self._refuse(_req_of(message), "bad_request", str(error))
            return self._pause()
        if self.server.is_stopping:
            self._refuse(request.req, "not_ready", "the server stops")
        elif isinstance(request, Send):
            self._on_send(request)
        elif isinstance(request, Ping):
            self._on_ping_request(request)
        else:
            self._on_question(request)
        return self._pause()

    def _on_send(self, request: Send) -> None:
        exchange = self.server.exchange
        match request:
            case Send(text=str(text), signature=None, texts=None):
                exchange.send(self.session, text, req=request.req)
            case Send(text=str(text), signature=str(signature), texts=None):
                exchange.submit(
                    text,
                    signature,
                    self,
                    trusted=self.session.trusted,
                    req=request.req,
                    session=self.session,
                )
            case Send(text=None, signature=None, texts=list(texts)):
                self._unanswered += len(texts) - 1
                exchange.send_many(self.session, texts, req=request.req)
            case _:
                message = "send takes text, with or without signature, or texts"
                self._refuse(request.req, "bad_request", message)
                return
        self._unanswered += 1
        self.server.commit.schedule()

    def _on_question(self, request: Subscribe | LogIn | Find | Open) -> None:
        exchange = self.server.exchange
        match request:
            case Subscribe():
                self._on_subscribe(request)
                return
            case LogIn():
                exchange.login(self.session, request.text, request.signature, req=request.req)
            case Find():
                if (request.id is None) == (request.oid is None):
                    self._refuse(request.req, "bad_request", "find takes an id or an oid")
                    return
                exchange.find(
                    self.session,
                    req=request.req,
                    oid=request.oid,
                    client_id=request.id,
                    owner=request.owner,
                )
            case Open():
                exchange.open_orders(self.session, req=request.req, owner=request.owner)
        self._unanswered += 1
        self.server.commit.schedule()

    def _on_subscribe(self, request: Subscribe) -> None:
        unknown = [channel for channel in request.channels if channel not in CHANNELS]
        if unknown:
            self._refuse(request.req, "bad_request", f"there is no channel {unknown[0][:40]!r}")
            return
        has_snapshot = self.server.fanout.subscribe(
            self.listener, request.depth, channels=request.channels, req=request.req
        )
        wanted = "orders" in request.channels
        req = None if has_snapshot else request.req
        self.server.exchange.subscribe_orders(self.session, req=req, wanted=wanted)
        self._unanswered += wanted
        self.server.commit.schedule()

    def _on_ping_request(self, request: Ping) -> None:
        pong: JsonObject = {"type": "pong", "time": self.server.exchange.time_text()}
        if request.req is not None:
            pong["req"] = request.req
        self.listener.send(pong)

    def _refuse(self, req: int | None, code: str, message: str) -> None:
        """Answer what never reached the exchange."""
        self.server.exchange.rejects[code] += 1
        answer: JsonObject = {"type": "answer", "error": _error(code, message)}
        if req is not None:
            answer["req"] = req
        self.listener.send(answer)

    # -- outgoing

    def deliver(self, message: Message) -> None:
        """Take a message of the exchange; it leaves with the others of its batch."""
        if isinstance(message, Close):
            self.flush_messages()
            self.listener.close(message.code, message.reason)
            return
        if isinstance(message, Reply):
            self._unanswered -= 1
            data = message.to_dict()
        elif isinstance(message, Replies):
            self._unanswered -= len(message.answers)
            data = message.to_dict()
        else:
            data = message
            self._unanswered -= data["type"] != "order"
            if data["type"] == "login":
                self._limit_frames(LARGE_FRAME)
        if not self._messages:
            self.server.flush_later(self)
        self._messages.append(_encode(data))

    def flush_messages(self) -> None:
        """Send what was delivered, in one write."""
        messages, self._messages = self._messages, []
        if messages and self._is_open:
            self.listener.send(*messages)
        if self._unanswered <= ANSWERS_LIMIT:
            self._resume_reading()

    def _pause(self) -> "asyncio.Future[None] | None":
        """A future to wait for before reading on, if the client is too far behind."""
        if self._unanswered > ANSWERS_LIMIT:
            self._resume = asyncio.get_running_loop().create_future()
            return self._resume
        return self.listener.drained()

    def _resume_reading(self) -> None:
        if self._resume is not None and not self._resume.done():
            self._resume.set_result(None)


def _say(line: str) -> None:
    """Print for whoever watches; where nobody can any more, trading goes on all the same."""
    with suppress(OSError):
        print(line, flush=True)


def _req_of(message: str) -> int | None:
    """The `req` of a frame that is JSON but no request; None if it has none."""
    try:
        decoded = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    req = decoded.get("req") if isinstance(decoded, dict) else None
    return req if isinstance(req, int) and not isinstance(req, bool) else None


def _host_name(name: str | None) -> str | None:
    """The names of this machine to itself count as one."""
    return "localhost" if name in ("localhost", "127.0.0.1", "::1") else name


# -- the process


def main() -> None:
    """The program `matchingserver.py` and the console command `emte-match`."""
    sys.exit(exits.run("matchingserver", _body))


def _body() -> None:
    arguments = _parser().parse_args()
    logging.basicConfig(
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        level=logging.INFO,
    )
    options = _options(arguments)
    var = find_var(arguments.var)
    with _event_loop_runner() as runner:
        runner.run(run(options, var))


def _event_loop_runner() -> asyncio.Runner:
    """An asyncio runner, on uvloop where that is installed: it carries 1.1 to 1.4 times as much."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def run(options: Options, var: Var, *, disk: Disk | None = None) -> None:
    """Serve a product until SIGTERM or SIGINT. Fatal if that cannot be, with the reason."""
    disk = disk if disk is not None else SystemDisk()
    var.make()
    venue_key = choose_key(options.key, var, any_text=options.demo)
    generations = read_generations(var)
    lock = _lock(disk, var, options.ticker)
    try:
        sockets = _bind(options)
        path = options.journal if options.journal is not None else var.journal_file(options.ticker)
        recovered = _recover(disk, path, options)
        server = Server(
            recovered,
            clock=SystemClock(),
            dice=SystemDice(),
            venue_key=venue_key,
            generations=generations,
            options=options,
            var=var,
        )
        with pidfile(var.run_dir, f"match-{options.ticker}"):
            await _serve(server, sockets, path)
    finally:
        lock.release()


async def _serve(server: Server, sockets: list[socket.socket], path: Path) -> None:
    loop = asyncio.get_running_loop()
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop_signal, server.stop)
    try:
        server.begin()
        # What recovery built stays. A full collection would walk it each time: 33 ms of silence
        # for 100,000 resting orders.
        gc.collect()
        gc.freeze()
        server.serve(sockets)
        host, port = sockets[0].getsockname()[:2]
        _say(
            f"matchingserver {server.exchange.ticker}: listening on {host}:{port}, journal {path},"
            f" recovered {server.recovered_records} records"
        )
        await server.ended()
        server.commit.close()
    except DiskFailed as error:
        message = f"{path} cannot be written: {error}; what was not answered may be lost"
        raise Fatal(ExitCode.DISK, message) from error
    finally:
        server.recovered.file.close()
        server.recovered.mark_file.close()


def _lock(disk: Disk, var: Var, ticker: str) -> Any:
    try:
        return disk.lock(var.lock_file(ticker))
    except Locked as error:
        raise Fatal(
            ExitCode.UNAVAILABLE,
            f"another matching server serves {ticker}: {var.lock_file(ticker)} is held",
        ) from error
    except OSError as error:
        raise Fatal(
            ExitCode.CONFIGURATION, f"cannot lock {var.lock_file(ticker)}: {error.strerror}"
        ) from error


def _bind(options: Options) -> list[socket.socket]:
    try:
        return bind_sockets(options.port, options.host, backlog=1024)
    except OSError as error:
        raise Fatal(
            ExitCode.UNAVAILABLE,
            f"cannot listen on {options.host}:{options.port}: {error.strerror or error}",
        ) from error


def _recover(disk: Disk, path: Path, options: Options) -> Recovered:
    try:
        return open_journal(
            disk,
            path,
            ticker=options.ticker,
            dice=SystemDice(),
            tick=options.tick,
            lot=options.lot,
            reference=options.price,
        )
    except (Contradiction, UnknownJournal) as error:
        raise Fatal(ExitCode.CONFIGURATION, f"{path}: {error}") from error
    except JournalDamaged as error:
        raise Fatal(ExitCode.DISK, f"{path}: {error}") from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise Fatal(ExitCode.CONFIGURATION, f"cannot open {path}: {error.strerror}") from error
    except OSError as error:
        raise Fatal(ExitCode.DISK, f"cannot read {path}: {error.strerror or error}") from error


_EXAMPLES = """examples:
  python matchingserver.py -p 8888 -t intc
  python matchingserver.py -p 9001 -t acme --price 50.00 --tick 0.05 --origin https://venue.example
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="matchingserver.py",
        description="The matching server of one product: orders by HTTP and WebSocket, a journal.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-p", "--port", type=_port, default=8888, help="where to listen (8888)")
    add("-t", "--ticker", type=_ticker, default="intc", help="the product (intc)")
    add("-f", "--filename", type=Path, metavar="FILE", help="the journal (var/journal/TICKER.log)")
    add("-k", "--key", help="the venue key, or @FILE that holds it (var/venue.key)")
    add("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    add("--price", type=_price, help="the reference price of a new journal (100.00)")
    add("--tick", type=_price, help="the tick size of a new journal (0.01)")
    add("--lot", type=_lot, help="the lot size of a new journal (1)")
    add("--phase", type=Phase, choices=list(Phase), help="a new journal's first phase (continuous)")
    add("--origin", action="append", default=[], help="a further origin whose pages may connect")
    add(
        "--venue-from",
        type=ipaddress.ip_network,
        action="append",
        default=[],
        metavar="CIDR",
        help="addresses from which the venue key counts, beside loopback",
    )
    add(
        "--durability",
        choices=("fsync", "write"),
        default="fsync",
        help="answer when a command is synced (fsync), or when it is written (write)",
    )
    add("--demo", action="store_true", help="let any text be a key; on loopback only")
    add(
        "--var", metavar="DIR", help="where everything is kept (var/ of the checkout, or $EMTE_VAR)"
    )
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    """The checked options; Fatal for those that do not go together."""
    if arguments.demo and not _is_loopback(arguments.host):
        raise Fatal(ExitCode.CONFIGURATION, f"--demo is for loopback only, not {arguments.host}")
    if arguments.phase is Phase.AUCTION:
        raise Fatal(ExitCode.CONFIGURATION, "a call auction is not offered by this engine yet")
    return Options(
        ticker=arguments.ticker,
        port=arguments.port,
        host=arguments.host,
        journal=arguments.filename.absolute() if arguments.filename is not None else None,
        key=arguments.key,
        tick=arguments.tick,
        lot=arguments.lot,
        price=arguments.price,
        phase=arguments.phase,
        origins=tuple(origin.rstrip("/") for origin in arguments.origin),
        venue_from=tuple(arguments.venue_from),
        syncs=arguments.durability == "fsync",
        demo=arguments.demo,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 1 to 65535, or 0 for a free one")
    return int(text)


def _ticker(text: str) -> str:
    if TICKER.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a ticker: like intc, at most 16 letters")
    return text


def _price(text: str) -> int:
    try:
        price = parse_price(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if price == 0:
        raise argparse.ArgumentTypeError("0 is no price")
    return price


def _lot(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a lot size: a whole number from 1 on")
    return int(text)


_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " connect-src 'self' ws: wss:"
)

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>TICKER - EMTE matching server</title>
<style>
  body { background: #0b0e11; color: #d5dde5; font: 14px/1.5 ui-monospace, monospace; margin: 2rem }
  h1 { font-size: 1.2rem } a { color: #6cb2ff }
  table { border-collapse: collapse; display: inline-table; margin-right: 3rem }
  table { vertical-align: top }
  td, th { padding: 0 .8rem; text-align: right; font-variant-numeric: tabular-nums }
  caption { text-align: left; color: #8b98a5 } .buy { color: #3ddc97 } .sell { color: #ff6b6b }
</style>
<h1>TICKER</h1>
<p id="state">connecting ...</p>
<table><caption>bids</caption><tbody id="bids"></tbody></table>
<table><caption>asks</caption><tbody id="asks"></tbody></table>
<table><caption>trades</caption><tbody id="trades"></tbody></table>
<p>This page watches and does not trade. <a href="/query">/query</a> <a href="/quote">/quote</a>
<a href="/metrics">/metrics</a></p>
<script>
"use strict";
const sides = { bids: new Map(), asks: new Map() };
let trades = [], state = {};
function take(message) {
  if (message.type === "snapshot") { sides.bids.clear(); sides.asks.clear(); trades = []; }
  for (const name of ["bids", "asks"])
    for (const [price, quantity, orders] of message[name] || [])
      if (quantity) sides[name].set(price, [price, quantity, orders]);
      else sides[name].delete(price);
  trades = trades.concat(message.trades || []).slice(-20);
  for (const name of ["seq", "phase", "last"]) if (name in message) state[name] = message[name];
}
function rows(id, cells, kind) {
  document.getElementById(id).replaceChildren(...cells.map(texts => {
    const row = document.createElement("tr");
    for (const text of texts) {
      const cell = row.appendChild(document.createElement("td"));
      cell.textContent = text; cell.className = kind(texts);
    }
    return row;
  }));
}
function show() {
  const order = { bids: -1, asks: 1 };
  for (const name of ["bids", "asks"])
    rows(name, [...sides[name].values()].sort((a, b) => order[name] * (a[0] - b[0])).slice(0, 20),
         () => name === "bids" ? "buy" : "sell");
  const texts = t => [t.time.slice(11, 19), t.quantity, t.price, t.taker];
  rows("trades", trades.slice().reverse().map(texts), cells => cells[3]);
  document.getElementById("state").textContent =
    `${state.phase}, last ${state.last ?? "none yet"}, record ${state.seq}`;
}
function connect() {
  const url = new URL("realtime", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.onmessage = event => { take(JSON.parse(event.data)); show(); };
  socket.onclose = () => {
    document.getElementById("state").textContent = "the server is away; trying again ...";
    setTimeout(connect, 1000);
  };
}
connect();
</script>
</html>
"""


if __name__ == "__main__":
    main()
