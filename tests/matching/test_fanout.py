"""Many listeners over real sockets: one frame for all who keep up, the newest state for others."""

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler, websocket_connect

from matching import fanout as fanout_module
from matching.fanout import Fanout, Listener
from matching.marketdata import Changes, Feed, Window
from matching.order import Phase, Side
from tests.waiting import PATIENCE_SECONDS


class Floor:
    """A feed, its fan-out, and a server whose only page joins it."""

    def __init__(self) -> None:
        self.feed = Feed(reference=1_000_000)
        self.fanout = Fanout(self.feed, now=lambda: 0)
        self.joined: list[Listener] = []
        self.closed = 0
        self.watchers: list[Watcher] = []
        self.port = 0
        self.depth = 50

    def change(self, *levels: tuple[Side, int, int], **more: Any) -> None:
        """One durable batch."""
        changed = [(side, price, quantity, 1) for side, price, quantity in levels]
        changes = Changes(seq=self.feed.seq + 1, levels=changed, **more)
        self.feed.apply(changes)
        self.fanout.publish(changes)

    async def connect(self) -> "Watcher":
        url = f"ws://127.0.0.1:{self.port}/"
        watcher = Watcher(await websocket_connect(url))
        self.watchers.append(watcher)
        return watcher


class Watcher:
    """A client that follows the feed as the protocol says, and checks that nothing is missing."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.bids: dict[str, int] = {}
        self.seq = 0

    async def next(self, kind: str | None = None) -> dict[str, Any]:
        """The next message (of that kind, passing over others), followed."""
        while True:
            text = await asyncio.wait_for(self.connection.read_message(), PATIENCE_SECONDS)
            assert text is not None, f"closed: {self.connection.close_code}"
            message: dict[str, Any] = json.loads(text)
            self._follow(message)
            if kind in (None, message["type"]):
                return message

    def _follow(self, message: dict[str, Any]) -> None:
        if message["type"] == "snapshot":
            self.bids = {}
        elif message["type"] == "update":
            assert message["prev"] == self.seq, "a gap on this connection"
        else:
            return
        self.seq = message["seq"]
        for price, quantity, _ in message.get("bids", ()):
            self.bids[price] = quantity
            if not quantity:
                del self.bids[price]

    async def catch_up(self, seq: int) -> None:
        while self.seq < seq:
            await self.next()


@asynccontextmanager
async def open_floor() -> AsyncIterator[Floor]:
    floor = Floor()

    class Page(WebSocketHandler):
        def check_origin(self, origin: str) -> bool:
            return True

        def open(self, *_: str, **__: str) -> None:
            self.listener = floor.fanout.join(self, floor.depth)
            floor.joined.append(self.listener)

        def on_message(self, message: str | bytes) -> Awaitable[None] | None:
            return self.listener.drained()

        def on_close(self) -> None:
            floor.closed += 1
            floor.fanout.leave(self.listener)

    server = HTTPServer(Application([("/", Page)]))
    sockets = bind_sockets(0, "127.0.0.1")
    floor.port = sockets[0].getsockname()[1]
    server.add_sockets(sockets)
    floor.fanout.start()
    try:
        yield floor
    finally:
        floor.fanout.stop()
        server.stop()
        for watcher in floor.watchers:
            watcher.connection.close()
        for listener in floor.joined:
            listener.abort()
        await server.close_all_connections()
        await until(lambda: floor.closed == len(floor.joined))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


def run(scenario: Callable[[Floor], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_floor() as floor:
            await scenario(floor)

    asyncio.run(main())


def connect_and_never_read(port: int) -> socket.socket:
    """A WebSocket whose peer reads nothing, with the smallest buffers the kernel gives."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return sock


def small_send_buffer(listener: Listener) -> None:
    listener._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def test_a_listener_gets_a_snapshot_and_then_every_update_without_a_gap() -> None:
    async def scenario(floor: Floor) -> None:
        floor.change((Side.BUY, 500_000, 5))
        first = await floor.connect()
        assert (await first.next("snapshot"))["bids"] == [["50.00", 5, 1]]
        floor.change((Side.BUY, 500_000, 3), phase=Phase.HALTED)
        second = await floor.connect()
        await second.next("snapshot")
        floor.change((Side.BUY, 490_000, 1))
        floor.change((Side.BUY, 500_000, 0))
        for watcher in (first, second):
            await watcher.catch_up(4)
            assert watcher.bids == {"49.00": 1}

    run(scenario)


def test_what_changes_within_one_interval_is_one_update_with_all_its_trades() -> None:
    async def scenario(floor: Floor) -> None:
        watcher = await floor.connect()
        await watcher.next("snapshot")
        floor.change((Side.BUY, 500_000, 5))
        await watcher.next("update")
        for tid in range(1, 81):
            floor.change(
                (Side.BUY, 500_000, 100 - tid),
                trades=[{"tid": tid, "price": "50.00"}],
                phase=Phase.HALTED if tid == 3 else None,
            )
        tids: list[int] = []
        phases: list[str] = []
        updates = 0
        while watcher.seq < floor.feed.seq:
            update = await watcher.next("update")
            tids += [trade["tid"] for trade in update["trades"]]
            phases += [update["phase"]] if "phase" in update else []
            updates += 1
        assert tids == list(range(1, 81))
        assert phases == ["halted"]
        assert updates < 80
        assert watcher.bids == {"50.00": 20}

    run(scenario)


def test_an_update_larger_than_may_wait_reaches_who_waits_for_nothing() -> None:
    """As an auction's uncross is: of very many trades the last 50, of levels all that changed."""

    async def scenario(floor: Floor) -> None:
        floor.depth = 1_000
        watcher = await floor.connect()
        await watcher.next("snapshot")
        trades = [{"tid": tid, "price": "50.00"} for tid in range(1, 5_001)]
        far = 10_000_000_001
        levels = [(Side.BUY, far + 100 * each, 10**9) for each in range(1_000)]
        levels += [(Side.SELL, 2 * far + 100 * each, 10**9) for each in range(1_000)]
        floor.change(*levels, trades=trades)
        update = await watcher.next("update")
        assert len(json.dumps(update)) > fanout_module.PUBLIC_LIMIT
        assert [trade["tid"] for trade in update["trades"]] == list(range(4_951, 5_001))
        floor.change((Side.BUY, far, 0), trades=[{"tid": 5_001, "price": "50.00"}])
        await watcher.catch_up(2)
        assert watcher.bids == {level[0]: level[1] for level in floor.feed.levels(Side.BUY, 1_000)}

    run(scenario)


def test_each_depth_sees_its_own_window_and_channels_may_be_left_out() -> None:
    async def scenario(floor: Floor) -> None:
        floor.change((Side.BUY, 500_000, 5), (Side.BUY, 490_000, 4), (Side.BUY, 480_000, 3))
        floor.depth = 1
        shallow = await floor.connect()
        await shallow.next("snapshot")
        floor.depth = 2
        deep = await floor.connect()
        await deep.next("snapshot")
        floor.change((Side.BUY, 500_000, 0), trades=[{"tid": 1, "price": "50.00"}])
        await shallow.catch_up(2)
        await deep.catch_up(2)
        assert shallow.bids == {"49.00": 4}
        assert deep.bids == {"49.00": 4, "48.00": 3}
        floor.fanout.subscribe(floor.joined[0], 2, channels=["trades"], req=7)
        snapshot = await shallow.next("snapshot")
        assert snapshot["req"] == 7
        assert "bids" not in snapshot
        floor.change((Side.BUY, 490_000, 0), trades=[{"tid": 2, "price": "49.00"}])
        update = await shallow.next("update")
        assert "bids" not in update
        assert [trade["tid"] for trade in update["trades"]] == [2]
        assert not floor.fanout.subscribe(floor.joined[1], channels=["orders"])
        await deep.catch_up(3)
        floor.change((Side.BUY, 480_000, 0))
        await shallow.next("update")
        floor.joined[1].send({"type": "order"})
        assert (await deep.next())["type"] in ("order", "heartbeat")

    run(scenario)


def test_who_subscribes_between_two_updates_misses_nothing_and_sees_nothing_twice() -> None:
    async def scenario(floor: Floor) -> None:
        first, second = await floor.connect(), await floor.connect()
        for quantity in (1, 2, 3):  # the first is sent at once, the others wait for their time
            floor.change((Side.BUY, 500_000, quantity))
        floor.fanout.subscribe(floor.joined[1])
        floor.change((Side.BUY, 500_100, 4))
        for watcher in (first, second):
            await watcher.catch_up(floor.feed.seq)
            assert watcher.bids == {"50.00": 3, "50.01": 4}

    run(scenario)


def test_of_many_different_windows_each_waits_for_its_turn_and_misses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout_module, "FLUSH_LEVELS", 1)
    looks: list[int] = []
    flush, take_changes = Fanout.flush, Window.take_changes

    def counted_flush(fanout: Fanout) -> None:
        looks.append(0)
        flush(fanout)

    def counted_look(window: Window) -> Any:
        looks[-1] += 1
        return take_changes(window)

    monkeypatch.setattr(Fanout, "flush", counted_flush)
    monkeypatch.setattr(Window, "take_changes", counted_look)

    async def scenario(floor: Floor) -> None:
        watchers = []
        for floor.depth in range(1, 9):
            watchers.append(await floor.connect())
            await watchers[-1].next("snapshot")
        tids: list[list[int]] = [[] for _ in watchers]
        for number in range(1, 41):
            price = 500_000 + 100 * (number * 7 % 20)
            changed = [(Side.BUY, price, number % 3)]
            floor.change(*changed, trades=[{"tid": number, "price": "50.00"}])
            await asyncio.sleep(0.001)
        for depth, watcher in enumerate(watchers, start=1):
            while watcher.seq < floor.feed.seq:
                update = await watcher.next("update")
                tids[depth - 1] += [trade["tid"] for trade in update["trades"]]
            best = floor.feed.levels(Side.BUY, depth)
            assert watcher.bids == {price: quantity for price, quantity, _ in best}
        assert tids == [list(range(1, 41))] * 8
        assert max(looks) == 1

    run(scenario)


def test_a_heartbeat_tells_the_seq_when_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_module, "HEARTBEAT_SECONDS", 0.05)

    async def scenario(floor: Floor) -> None:
        floor.change((Side.BUY, 500_000, 5))
        watcher = await floor.connect()
        heartbeat = await watcher.next("heartbeat")
        assert heartbeat == {
            "type": "heartbeat",
            "seq": 1,
            "time": "1970-01-01T00:00:00.000000Z",
        }

    run(scenario)


def test_a_slow_listener_gets_the_newest_state_as_one_update_and_holds_up_nobody() -> None:
    async def scenario(floor: Floor) -> None:
        quick = await floor.connect()
        slow = connect_and_never_read(floor.port)
        await until(lambda: len(floor.joined) == 2)
        listener = floor.joined[1]
        small_send_buffer(listener)
        tid = 0
        while listener._backlog is None or len(listener._backlog.message()["trades"]) < 50:
            tid += 1
            price = 500_000 + 100 * (tid % 70)
            floor.change((Side.BUY, price, tid), trades=[{"tid": tid, "price": "50.00"}])
            floor.fanout.flush()
            floor.fanout._beat()
            await quick.catch_up(floor.feed.seq)
            assert listener.waiting <= fanout_module.PUBLIC_LIMIT + 64 * 1024
        read = bytearray()
        while listener._public_waiting > fanout_module.PUBLIC_LIMIT // 2:
            read += await asyncio.to_thread(slow.recv, 1024)
        tid += 1  # there is room again, but what it missed comes first
        floor.change((Side.BUY, 500_000, 1), trades=[{"tid": tid, "price": "50.00"}])
        floor.fanout.flush()
        await quick.catch_up(floor.feed.seq)
        assert quick.bids == {level[0]: level[1] for level in floor.feed.levels(Side.BUY, 50)}
        messages = await asyncio.to_thread(read_messages, slow, floor.feed.seq, read)
        seq = 0
        bids: dict[str, int] = {}
        for message in messages:
            if message["type"] not in ("snapshot", "update"):
                assert message["seq"] == seq, "a heartbeat of what this client has not seen yet"
                continue
            assert message["type"] == "snapshot" or message["prev"] == seq
            seq = message["seq"]
            bids |= {price: quantity for price, quantity, _ in message["bids"]}
        assert {price: quantity for price, quantity in bids.items() if quantity} == quick.bids
        assert len(messages[-1]["trades"]) == 50
        assert messages[-1]["trades"][-1]["tid"] == tid
        slow.close()

    run(scenario)


def read_messages(
    sock: socket.socket, seq: int, already_read: bytes | bytearray = b""
) -> list[dict[str, Any]]:
    """Everything from the handshake up to the update of `seq`."""
    sock.settimeout(PATIENCE_SECONDS)
    data = bytearray(already_read)
    messages: list[dict[str, Any]] = []
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    del data[: data.index(b"\r\n\r\n") + 4]
    while not messages or messages[-1].get("seq", 0) < seq:
        while (payload := take_frame(data)) is None:
            received = sock.recv(65536)
            assert received, "closed too soon"
            data += received
        messages.append(json.loads(payload))
    return messages


def take_frame(data: bytearray) -> bytes | None:
    """Remove one whole text frame from the front of `data`."""
    if len(data) < 4:
        return None
    assert data[0] == 0x81
    length, start = data[1], 2
    if length == 126:
        length, start = int.from_bytes(data[2:4], "big"), 4
    elif length == 127:
        length, start = int.from_bytes(data[2:10], "big"), 10
    if len(data) < start + length:
        return None
    payload = bytes(data[start : start + length])
    del data[: start + length]
    return payload


def test_a_listener_that_reads_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_module, "SILENCE_SECONDS", 0.2)

    async def scenario(floor: Floor) -> None:
        quick = await floor.connect()
        silent = connect_and_never_read(floor.port)
        await until(lambda: len(floor.joined) == 2)
        listener = floor.joined[1]
        small_send_buffer(listener)
        quantity = 0
        while listener in floor.fanout.listeners:
            quantity += 1
            floor.change((Side.BUY, 500_000 + 100 * (quantity % 70), quantity))
            await quick.next("update")
        assert await asyncio.to_thread(read_close_code, silent) == 1013
        silent.close()

    run(scenario)


def read_close_code(sock: socket.socket) -> int:
    """Read on to the close frame; its code."""
    sock.settimeout(PATIENCE_SECONDS)
    data = bytearray()
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    del data[: data.index(b"\r\n\r\n") + 4]
    while True:
        while data and data[0] == 0x81 and take_frame(data) is not None:
            pass
        if len(data) >= 4 and data[0] == 0x88:
            return int.from_bytes(data[2:4], "big")
        received = sock.recv(65536)
        assert received, "the connection ended without a close frame"
        data += received


def test_private_messages_are_never_dropped_and_come_in_order() -> None:
    async def scenario(floor: Floor) -> None:
        slow = connect_and_never_read(floor.port)
        await until(lambda: len(floor.joined) == 1)
        listener = floor.joined[0]
        small_send_buffer(listener)
        assert listener.drained() is None
        for number in range(1000):
            listener.send({"type": "order", "number": number, "text": "x" * 1000})
        listener.send({"type": "order", "seq": 1}, {"type": "order", "seq": 2})
        assert listener.waiting > fanout_module.READ_LIMIT
        drained = listener.drained()
        assert drained is not None
        assert listener.drained() is drained
        messages = await asyncio.to_thread(read_messages, slow, 2)
        numbers = [message["number"] for message in messages if "number" in message]
        assert numbers == list(range(1000))
        await asyncio.wait_for(drained, PATIENCE_SECONDS)
        await until(lambda: listener.waiting == 0)
        slow.close()

    run(scenario)


def test_a_client_for_whom_too_much_waits_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_module, "CLOSE_LIMIT", 1_000_000)
    monkeypatch.setattr(fanout_module, "SILENCE_SECONDS", PATIENCE_SECONDS * 10)

    async def scenario(floor: Floor) -> None:
        slow = connect_and_never_read(floor.port)
        await until(lambda: len(floor.joined) == 1)
        small_send_buffer(floor.joined[0])
        for _ in range(20):
            floor.joined[0].send(b'{"x":"' + b"x" * 100_000 + b'"}')
        await until(lambda: floor.closed == 1)
        slow.close()

    run(scenario)


def test_a_feed_that_was_loaded_anew_gives_everybody_a_new_snapshot() -> None:
    async def scenario(floor: Floor) -> None:
        watcher = await floor.connect()
        floor.change((Side.BUY, 500_000, 5))
        await watcher.catch_up(1)
        other = Feed(reference=900_000)
        other.apply(Changes(seq=70, levels=[(Side.BUY, 400_000, 2, 1)]))
        floor.feed.load(other.snapshot())
        floor.fanout.refresh()
        snapshot = await watcher.next("snapshot")
        assert (snapshot["seq"], snapshot["reference"]) == (70, "90.00")
        floor.change((Side.BUY, 400_000, 3))
        await watcher.catch_up(71)
        assert watcher.bids == {"40.00": 3}

    run(scenario)
