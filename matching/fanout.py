"""Fan-out: one feed to many WebSocket listeners, each bounded, none able to hold up the others.

The matching server and the web app both use it (PROTOCOL §4). A frame is encoded once for all who
watch the same window and keep up, and goes to each socket directly while nothing waits for it.

| what waits for a listener | what happens |
|---|---|
| 64 KiB of public feed | no more is added; once it has read all, it gets one update: the union |
|   | of the changed levels in their newest state, the last 50 trades |
| nothing | it gets the next update, however large; of more than 512 trades the last 50 |
| anything, and it reads nothing for 5 s | it is closed with 1013 |
| 256 KiB in all | `drained` says when to read from it again |
| 16 MiB in all | it is closed: private messages are never dropped, and nor is the process |

Updates are sent at most every 10 ms; what changes in between goes out as one, with all its trades.
One time's updates look at 10,000 levels at most: of very many different deep windows each waits for
its turn, and then gets what has changed until then.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from tornado.ioloop import PeriodicCallback
from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketHandler

from matching.marketdata import (
    DEFAULT_DEPTH,
    TRADES_KEPT,
    Changes,
    Feed,
    JsonLevel,
    JsonObject,
    Window,
    format_time,
    price_or_none,
)

PUBLIC_LIMIT = 64 * 1024
"""Bytes of public feed that may wait for one listener."""

TRADES_TOLD = 512
"""Trades in one update that are all told: what some 56 KiB hold. Of more, the last 50 are."""

READ_LIMIT = 256 * 1024
"""Bytes waiting for a client above which nothing more is read from it."""

CLOSE_LIMIT = 16 * 1024 * 1024
"""Bytes waiting for a client above which it is closed."""

SILENCE_SECONDS = 5.0
"""How long a listener may read nothing of what waits for it."""

HEARTBEAT_SECONDS = 1.0
"""Without an update for this long, a heartbeat says that the connection and the seq are current."""

UPDATE_SECONDS = 0.01
"""The shortest time between two updates."""

FLUSH_LEVELS = 10_000
"""Levels of windows after which the others' updates wait for the next time."""

TRY_AGAIN_LATER = 1013
"""The WebSocket close code for a listener that does not read."""

CHANNELS = frozenset({"book", "trades"})
"""The public channels; both come without asking."""

_WRITE_CHUNK = 16 * 1024
"""What waits is handed to the stream in pieces, so that a slow reader's progress can be seen."""

_CHECK_SECONDS = 0.25

Message = JsonObject | bytes
"""A message to send: a JSON object, or one encoded already."""

_encode = msgspec.json.Encoder().encode


def frame(payload: bytes, *, begins: bool = True, ends: bool = True) -> bytes:
    """One unmasked text frame, as a server sends it (RFC 6455 §5.2).

    A message may be sent in several: one `begins` it, one `ends` it.

    >>> frame(b"hi"), frame(b"x" * 126)[:4]
    (b'\\x81\\x02hi', b'\\x81~\\x00~')
    >>> frame(b"hi", ends=False) + frame(b" you", begins=False)
    b'\\x01\\x02hi\\x80\\x04 you'
    """
    first = (b"\x81" if ends else b"\x01") if begins else (b"\x80" if ends else b"\x00")
    length = len(payload)
    if length < 126:
        return first + length.to_bytes(1, "big") + payload
    if length < 65536:
        return first + b"\x7e" + length.to_bytes(2, "big") + payload
    return first + b"\x7f" + length.to_bytes(8, "big") + payload


class Listener:
    """One WebSocket connection's outgoing side; made by `Fanout.join`."""

    def __init__(self, handler: WebSocketHandler) -> None:
        connection = handler.ws_connection
        assert connection is not None
        assert connection.stream is not None
        self._handler = handler
        self._stream: IOStream = connection.stream
        self.waiting = 0
        """Bytes that the client has not taken yet, in all."""
        self._public_waiting = 0
        self._is_held = False
        self._held: list[bytes] = []
        """Public messages that follow when private ones are sent; they count as waiting."""
        self._last_progress = time.monotonic()
        self._drained: asyncio.Future[None] | None = None
        self._backlog: _Backlog | None = None
        self._group: _Group | None = None

    def send(self, *messages: Message) -> None:
        """Send private messages, joined into one write; never dropped, in order with all others."""
        self.send_frames(b"".join([frame(_encoded(message)) for message in messages]))

    def send_frames(self, data: bytes) -> None:
        """Send private messages that are frames already, or a part of one."""
        self._put(data)
        if self.waiting > CLOSE_LIMIT:
            self.abort()

    def hold_public(self) -> None:
        """There are private messages still to be sent, or the rest of one: what is public waits."""
        self._is_held = True

    def release_public(self) -> None:
        """All that is private is sent."""
        self._is_held = False
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self.waiting -= len(data)
            self._public_waiting -= len(data)
            self._put(data, public=True)
            self._go_on()

    def drained(self) -> "asyncio.Future[None] | None":
        """None while the client may be read from, else a future that says when it may be again."""
        if self.waiting <= READ_LIMIT:
            return None
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()
        return self._drained

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; what waits is still sent, for a few seconds."""
        self._handler.close(code, reason)

    def abort(self) -> None:
        """Cut the connection, with all that waits."""
        self._stream.close()

    def is_stalled(self, now: float) -> bool:
        """Whether something waits and the client has taken nothing of it for too long."""
        return self.waiting > 0 and now - self._last_progress >= SILENCE_SECONDS

    def _publish(self, data: bytes, update: "_Update") -> None:
        """Send an encoded public frame, or remember what it said if the client is behind."""
        waiting = self._public_waiting
        if self._backlog is None and (waiting == 0 or waiting + len(data) <= PUBLIC_LIMIT):
            # Where nothing waits, no progress would come that sends what was only remembered.
            self._put(data, public=True)
            return
        if self._backlog is None:
            self._backlog = _Backlog(update.prev)
        self._backlog.add(update)

    def _send_public(self, message: JsonObject) -> None:
        self._put(frame(_encode(message)), public=True)

    def _put(self, data: bytes, *, public: bool = False) -> None:
        stream = self._stream
        connection = self._handler.ws_connection
        if connection is None or connection.is_closing():
            return
        if public and self._is_held:
            self._count(len(data), public=True)
            self._held.append(data)
            return
        if self.waiting == 0 and not stream.writing():
            # The socket itself takes it in nearly all cases, at a third of IOStream.write's cost.
            try:
                sent = stream.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                stream.close()
                return
            if sent == len(data):
                return
            data = data[sent:]
        for start in range(0, len(data), _WRITE_CHUNK):
            self._queue(data[start : start + _WRITE_CHUNK], public=public)

    def _queue(self, data: bytes, *, public: bool) -> None:
        size = len(data)
        try:
            written = self._stream.write(data)
        except StreamClosedError:
            return
        self._count(size, public=public)

        def taken(_: "asyncio.Future[None]") -> None:
            self.waiting -= size
            if public:
                self._public_waiting -= size
            self._on_progress()

        written.add_done_callback(taken)

    def _count(self, size: int, *, public: bool) -> None:
        if self.waiting == 0:
            self._last_progress = time.monotonic()
        self.waiting += size
        if public:
            self._public_waiting += size

    def _on_progress(self) -> None:
        self._last_progress = time.monotonic()
        self._go_on()

    def _go_on(self) -> None:
        """Less waits than before: read again, and send what was only remembered."""
        if self._drained is not None and (self.waiting <= READ_LIMIT or self._stream.closed()):
            self._drained.set_result(None)
            self._drained = None
        if self._backlog is not None and self._public_waiting == 0 and not self._stream.closed():
            backlog, self._backlog = self._backlog, None
            self._send_public(backlog.message())


class Fanout:
    """All listeners of one feed. Call `start` on a running loop, `stop` at the end."""

    def __init__(
        self, feed: Feed, *, now: Callable[[], int] = lambda: time.time_ns() // 1_000
    ) -> None:
        self._feed = feed
        self._now = now
        self._groups: dict[tuple[int, frozenset[str]], _Group] = {}
        """Those that were sent to longest ago first."""
        self.listeners: set[Listener] = set()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._last_flush = 0.0
        self._timer = PeriodicCallback(self._check, _CHECK_SECONDS * 1000)

    def start(self) -> None:
        """Begin with heartbeats and with the watch over those who do not read."""
        self._timer.start()

    def stop(self) -> None:
        """Send nothing more by itself."""
        self._timer.stop()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    def join(
        self,
        handler: WebSocketHandler,
        depth: int = DEFAULT_DEPTH,
        *,
        channels: Iterable[str] = CHANNELS,
        snapshot: bool = True,
    ) -> Listener:
        """Add an open connection: it gets a snapshot, then every update.

        `snapshot` False: nothing until `subscribe`, so that something may be sent before.
        """
        listener = Listener(handler)
        self.listeners.add(listener)
        if snapshot:
            self.subscribe(listener, depth, channels=channels)
        return listener

    def leave(self, listener: Listener) -> None:
        """Forget a connection that is gone. Harmless if it was forgotten before."""
        self.listeners.discard(listener)
        self._leave_group(listener)

    def subscribe(
        self,
        listener: Listener,
        depth: int = DEFAULT_DEPTH,
        *,
        channels: Iterable[str] = CHANNELS,
        req: int | None = None,
    ) -> bool:
        """Send a new snapshot, of this depth and these channels; its updates follow.

        False, with nothing sent, if none of the channels is public. `req` is the number of the
        request that the snapshot answers.
        """
        if listener._group is not None:
            listener._group.send()
        self._leave_group(listener)
        wanted = frozenset(channels) & CHANNELS
        if not wanted:
            return False
        key = (depth, wanted)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(self._feed, key)
        group.send()  # so that the snapshot is what its next update follows
        group.listeners.add(listener)
        listener._group = group
        snapshot = group.snapshot()
        listener._send_public(snapshot if req is None else {**snapshot, "req": req})
        return True

    def publish(self, changes: Changes) -> None:
        """Tell everybody what the feed's latest `apply` or `update` changed."""
        for group in self._groups.values():
            group.pending.add(changes)
        if self._flush_timer is not None:
            return
        loop = asyncio.get_running_loop()
        wait_seconds = self._last_flush + UPDATE_SECONDS - loop.time()
        if wait_seconds <= 0:
            self.flush()
        else:
            self._flush_timer = loop.call_later(wait_seconds, self.flush)

    def flush(self) -> None:
        """Send what has been published and not sent yet, or as much of it as is sent at once."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        loop = asyncio.get_running_loop()
        left = FLUSH_LEVELS
        for key, group in [each for each in self._groups.items() if each[1].pending]:
            if left <= 0:
                self._flush_timer = loop.call_later(UPDATE_SECONDS, self.flush)
                return
            self._last_flush = loop.time()
            left -= 2 * group.depth
            group.send()
            self._groups[key] = self._groups.pop(key)

    def refresh(self) -> None:
        """Send everybody a new snapshot: the feed was loaded anew."""
        for key, group in list(self._groups.items()):
            members = group.listeners
            group = self._groups[key] = _Group(self._feed, key)
            snapshot = group.snapshot()
            for listener in members:
                group.listeners.add(listener)
                listener._group = group
                listener._backlog = None
                listener._send_public(snapshot)

    def _leave_group(self, listener: Listener) -> None:
        group, listener._group = listener._group, None
        listener._backlog = None
        if group is not None:
            group.listeners.discard(listener)
            if not group.listeners:
                del self._groups[group.key]

    def _check(self) -> None:
        now = time.monotonic()
        for listener in [each for each in self.listeners if each.is_stalled(now)]:
            self.leave(listener)
            listener.close(TRY_AGAIN_LATER, "nothing was read for 5 s")
        loop_time = asyncio.get_running_loop().time()
        if loop_time - self._last_flush >= HEARTBEAT_SECONDS:
            self._last_flush = loop_time
            self._beat()

    def _beat(self) -> None:
        message = {
            "type": "heartbeat",
            "seq": self._feed.seq,
            "time": format_time(self._now()),
        }
        data = frame(_encode(message))
        for listener in list(self.listeners):
            if listener.waiting == 0:
                listener._put(data, public=True)


class _Pending:
    """What has been published since the last flush, but for levels: the windows know those."""

    __slots__ = ("_some", "changed")

    def __init__(self) -> None:
        self._some = False
        self.changed: dict[str, Any] = {"trades": []}

    def __bool__(self) -> bool:
        return self._some

    def add(self, changes: Changes) -> None:
        self._some = True
        self.changed["trades"].extend(changes.trades[-TRADES_TOLD - 1 :])
        if changes.phase is not None:
            self.changed["phase"] = changes.phase
        if changes.indicative is not msgspec.UNSET:
            self.changed["indicative"] = changes.indicative
        if changes.rules is not None:
            self.changed["rules"] = changes.rules


class _Update(msgspec.Struct):
    """One update of one group, before it is encoded."""

    prev: int
    seq: int
    last: str | None
    bids: list[JsonLevel] | None
    asks: list[JsonLevel] | None
    trades: list[JsonObject] | None
    rest: JsonObject

    def message(self) -> JsonObject:
        message: JsonObject = {
            "type": "update",
            "prev": self.prev,
            "seq": self.seq,
            "last": self.last,
        }
        if self.bids is not None and self.asks is not None:
            message["bids"] = self.bids
            message["asks"] = self.asks
        if self.trades is not None:
            message["trades"] = self.trades
        message.update(self.rest)
        return message


class _Group:
    """The listeners that watch the same depth and channels, and what they have seen."""

    def __init__(self, feed: Feed, key: tuple[int, frozenset[str]]) -> None:
        self.key = key
        self.listeners: set[Listener] = set()
        self.pending = _Pending()
        self.depth, self._channels = key
        self._feed = feed
        self._window: Window | None = feed.window(self.depth) if "book" in key[1] else None
        self._seq = feed.seq

    def snapshot(self) -> JsonObject:
        return self._feed.snapshot(
            self.depth, book="book" in self._channels, trades="trades" in self._channels
        )

    def send(self) -> None:
        """Send what is pending."""
        pending, self.pending = self.pending, _Pending()
        if not pending:
            return
        bids, asks = self._window.take_changes() if self._window is not None else (None, None)
        changed = pending.changed
        trades = changed.pop("trades")
        if len(trades) > TRADES_TOLD:
            trades = trades[-TRADES_KEPT:]
        update = _Update(
            prev=self._seq,
            seq=self._feed.seq,
            last=price_or_none(self._feed.last),
            bids=bids,
            asks=asks,
            trades=trades if "trades" in self._channels else None,
            rest=changed,
        )
        self._seq = self._feed.seq
        data = frame(_encode(update.message()))
        for listener in list(self.listeners):
            listener._publish(data, update)


class _Backlog:
    """The updates that a listener is behind by, as one."""

    def __init__(self, prev: int) -> None:
        self._prev = prev
        self._bids: dict[str, JsonLevel] = {}
        self._asks: dict[str, JsonLevel] = {}
        self._trades: deque[JsonObject] = deque(maxlen=TRADES_KEPT)
        self._rest: JsonObject = {}
        self._newest: _Update | None = None

    def add(self, update: _Update) -> None:
        for levels, changed in ((self._bids, update.bids), (self._asks, update.asks)):
            for level in changed or ():
                levels[level[0]] = level
        self._trades.extend(update.trades or ())
        self._rest.update(update.rest)
        self._newest = update

    def message(self) -> JsonObject:
        newest = self._newest
        assert newest is not None
        return _Update(
            prev=self._prev,
            seq=newest.seq,
            last=newest.last,
            bids=None if newest.bids is None else list(self._bids.values()),
            asks=None if newest.asks is None else list(self._asks.values()),
            trades=None if newest.trades is None else list(self._trades),
            rest=self._rest,
        ).message()


def _encoded(message: Message) -> bytes:
    return message if isinstance(message, bytes) else _encode(message)
