"""One WebSocket of a product (PROTOCOL §4): requests in; answers, private messages and feed out.

It translates frames for the exchange, and what the exchange says to frames, and decides nothing.
What is said to it goes out in slices (`tell`), each in a turn of the loop of its own: the open
orders, or what one command did, may be very many.
`on_message` never awaits: Tornado reads a connection's next frame only after it returns, so what is
submitted is answered later, when its batch is durable. A client that does not read its answers, or
has too many outstanding, is not read from until it has caught up.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Iterator
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from matching import protocol
from matching.console import say
from matching.events import Rejected
from matching.exchange import Close, Message, OrderChange, Replies
from matching.fanout import Listener, frame
from matching.marketdata import DEFAULT_DEPTH, MAX_DEPTH, JsonObject
from matching.server import Server

SMALL_FRAME = 4 * 1024
"""The largest frame before a login (PROTOCOL §4)."""

LARGE_FRAME = 320 * 1024
"""The largest frame after it."""

FRAME_SLACK = 4
"""Frames up to so many times the limit are read, so that their sender can be told."""

TEXTS_LIMIT = 1_000
"""The most texts in one frame."""

ANSWERS_LIMIT = 4_096
"""Texts of one connection that may be undecided or unsynced; nothing more is read from it then."""

SLICE_BYTES = 32 * 1024
"""So many bytes of JSON are made for one connection, and then the others have their turn."""

DAY_SECONDS = 24 * 60 * 60
"""The longest that a dead man's switch can be set to."""

SILENCE_SECONDS = 60
"""A WebSocket that says nothing for so long, not even pong, is closed."""

NOT_TEXT = 1003
TOO_BIG = 1009

CHANNELS = frozenset({"book", "trades", "orders"})

_encode = msgspec.json.Encoder().encode


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


class CancelAfter(msgspec.Struct, tag_field="op", tag="cancel_after", forbid_unknown_fields=True):
    seconds: Annotated[int, msgspec.Meta(ge=0, le=DAY_SECONDS)]
    owner: int | None = None
    req: int | None = None


class Ping(msgspec.Struct, tag_field="op", tag="ping", forbid_unknown_fields=True):
    req: int | None = None


Question = Subscribe | LogIn | Find | Open | CancelAfter
"""What the exchange answers with the batch in which it is decided, like a command."""

_decode_request = msgspec.json.Decoder(Question | Send | Ping).decode


class RealtimeHandler(WebSocketHandler):
    """One WebSocket: translates frames for the exchange, and what the exchange says to frames."""

    def initialize(self, server: Server) -> None:
        self.server = server
        self._untold: deque[Message | bytes] = deque()
        self._telling: Iterator[bytes] | None = None
        """The rest of the message of which a part is sent."""
        self._goodbye: Close | None = None
        """How the connection is closed when all is told."""
        self._unanswered = 0
        self._asked_for_orders = False
        """Whether nothing more is read until all that was asked is answered."""
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
        say("client connected via websocket")

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
        self._untold.clear()
        self._telling = self._goodbye = None
        server = self.server
        server.connections.discard(self)
        server.fanout.leave(self.listener)
        server.exchange.close_session(self.session)
        server.commit.schedule()
        self._resume_reading()
        say("client disconnected")

    def on_pong(self, data: bytes) -> None:
        self._last_heard = time.monotonic()

    def ping_or_close(self, now: float) -> None:
        """Ask for a sign of life; give up on a peer that has been silent for too long."""
        if now - self._last_heard >= SILENCE_SECONDS:
            self.listener.abort()
        elif self.ws_connection is not None and not self.ws_connection.is_closing():
            self.ping()

    # -- incoming

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Never awaits: Tornado reads the next frame only after this returns.

        Only when too much waits for this client is there something to wait for before reading on.
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

    def _on_question(self, request: Question) -> None:
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
                self._asked_for_orders = True
                exchange.open_orders(self.session, req=request.req, owner=request.owner)
            case CancelAfter():
                exchange.cancel_after(
                    self.session,
                    request.seconds,
                    req=request.req,
                    arm=self.server.dead_men.arm,
                    owner=request.owner,
                )
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
        wanted = self._asked_for_orders = "orders" in request.channels
        req = None if has_snapshot else request.req
        self.server.exchange.subscribe_orders(self.session, req=req, wanted=wanted)
        self._unanswered += wanted or req is not None
        self.server.commit.schedule()

    def _on_ping_request(self, request: Ping) -> None:
        pong: JsonObject = {"type": "pong", "time": self.server.exchange.time_text()}
        if request.req is not None:
            pong["req"] = request.req
        self._say(pong)

    def _refuse(self, req: int | None, code: str, message: str) -> None:
        """Answer what never reached the exchange."""
        self.server.exchange.rejects[code] += 1
        error = protocol.event_to_dict(Rejected(code, message))
        answer: JsonObject = {"type": "answer", "error": error}
        if req is not None:
            answer["req"] = req
        self._say(answer)

    # -- outgoing

    def deliver(self, message: Message) -> None:
        """Take a message of the exchange; `tell` sends it."""
        if not self._is_open:
            return
        if not self.has_more:
            self.server.tell_later(self)
            self.listener.hold_public()
        if isinstance(message, Close):
            self._goodbye = message
            return
        if isinstance(message, dict) and message["type"] == "login":
            self._limit_frames(LARGE_FRAME)
        self._untold.append(message)

    @property
    def has_more(self) -> bool:
        """Whether something was delivered that is not sent yet."""
        return bool(self._untold) or self._telling is not None or self._goodbye is not None

    @property
    def untold(self) -> int:
        """How many messages were delivered of which nothing is sent yet."""
        return len(self._untold)

    def tell(self) -> int:
        """Send the next slice of what was delivered, in one write; how many bytes of JSON."""
        frames: list[bytes] = []
        size = 0
        while size < SLICE_BYTES and (self._telling is not None or self._untold):
            begins = self._telling is None
            rest = self._telling or self._begin(self._untold.popleft())
            self._telling = None
            pieces: list[bytes] = []
            for piece in rest:
                pieces.append(piece)
                size += len(piece)
                if size >= SLICE_BYTES:
                    self._telling = rest
                    break
            frames.append(frame(b"".join(pieces), begins=begins, ends=self._telling is None))
        if frames:
            self.listener.send_frames(b"".join(frames))
        if self._telling is None and not self._untold:
            self._on_all_told()
        if not self._is_behind:
            self._resume_reading()
        return size

    def _begin(self, message: Message | bytes) -> Iterator[bytes]:
        """The pieces of a message that is sent now."""
        if isinstance(message, bytes):
            return iter((message,))
        if isinstance(message, Replies):
            self._unanswered -= len(message.answers)
        elif not isinstance(message, OrderChange):
            self._unanswered -= 1
        if isinstance(message, dict):
            return iter((_encode(message),))
        assert not isinstance(message, Close)
        return iter(message.pieces())

    def _on_all_told(self) -> None:
        self.listener.release_public()
        if not self._unanswered:
            self._asked_for_orders = False
        if self._goodbye is not None:
            self.listener.close(self._goodbye.code, self._goodbye.reason)
            self._goodbye = None

    def _say(self, message: JsonObject) -> None:
        """Send what is no answer of the exchange: at once, but not in the midst of others."""
        if self.has_more:
            self._untold.append(_encode(message))
        else:
            self.listener.send(message)

    @property
    def _is_behind(self) -> bool:
        """Whether nothing more is read of this client until it has been told more."""
        return self._asked_for_orders or self._unanswered > ANSWERS_LIMIT

    def _pause(self) -> Awaitable[None] | None:
        """What to wait for before reading on, if the client is too far behind."""
        if not self._is_behind:
            return self.listener.drained()
        self._resume = asyncio.get_running_loop().create_future()
        return self._catch_up(self._resume)

    async def _catch_up(self, resume: "asyncio.Future[None]") -> None:
        """Wait until the client was told enough, and has taken most of it."""
        await resume
        drained = self.listener.drained() if self._is_open else None
        if drained is not None:
            await drained

    def _resume_reading(self) -> None:
        if self._resume is not None and not self._resume.done():
            self._resume.set_result(None)


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
