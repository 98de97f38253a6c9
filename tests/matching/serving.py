"""A matching server inside the test's own process, and raw ways to talk to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.netutil import bind_sockets
from tornado.websocket import WebSocketClientConnection, websocket_connect

from matching import signing
from matching.config import Var, read_generations
from matching.disk import SystemClock, SystemDice, SystemDisk
from matching.groupcommit import DiskFailed
from matching.httphandlers import application
from matching.ports import Disk
from matching.recovery import open_journal
from matching.server import Options, Server
from tests.waiting import PATIENCE_SECONDS

VENUE_KEY = "5e" * 32


class Venue:
    """A running server: what tests ask it, and what they may reach into."""

    def __init__(self, server: Server, port: int, var: Var) -> None:
        self.server = server
        self.port = port
        self.var = var
        self.sockets: list[Socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def get(self, path: str, **headers: str) -> HTTPResponse:
        return await self._fetch(HTTPRequest(self.url + path, headers=headers))

    async def post(self, body: bytes | str, **headers: str) -> HTTPResponse:
        all_headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        return await self._fetch(
            HTTPRequest(f"{self.url}/", method="POST", body=body, headers=all_headers)
        )

    async def _fetch(self, request: HTTPRequest) -> HTTPResponse:
        request.request_timeout = PATIENCE_SECONDS
        return await AsyncHTTPClient().fetch(request, raise_error=False)

    async def order(self, text: str, *, key: str = VENUE_KEY, **headers: str) -> HTTPResponse:
        """Post a signed text."""
        return await self.post(form(text, signing.sign(key, text)), **headers)

    async def query(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((await self.get("/query")).body)
        return state

    async def state(self) -> dict[str, Any]:
        """What /query says, but for the seq, which idle ticks move."""
        return {name: value for name, value in (await self.query()).items() if name != "seq"}

    async def connect(self, **headers: str) -> "Socket":
        request = HTTPRequest(f"ws://127.0.0.1:{self.port}/realtime", headers=headers)
        socket = Socket(await websocket_connect(request))
        self.sockets.append(socket)
        socket.hello = await socket.next("hello")
        return socket

    async def log_in(self, owner: int | None = None, *, cod: bool = False) -> "Socket":
        """A session of the owner, or of the venue."""
        socket = await self.connect()
        verb = "login" if owner is None else f"{owner}:login"
        key = VENUE_KEY if owner is None else signing.owner_key(VENUE_KEY, owner)
        text = f"{verb} intc nonce={socket.hello['nonce']}{' cod=1' if cod else ''} ts={self.ts}"
        socket.say(op="login", text=text, signature=signing.sign(key, text))
        await socket.next("login")
        return socket

    @property
    def ts(self) -> int:
        return SystemClock().now() // 1000


class Socket:
    """One WebSocket; `closed` is its close code once it is closed."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self.connection = connection
        self._stream = connection.protocol.stream
        self.hello: dict[str, Any] = {}

    def say(self, **fields: Any) -> None:
        self.write(json.dumps(fields))

    def write(self, frame: str | bytes) -> None:
        """Send any frame: bytes as a binary one."""
        written = self.connection.write_message(frame, binary=isinstance(frame, bytes))
        written.add_done_callback(lambda done: done.exception())

    async def next(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these kinds."""
        while True:
            text = await asyncio.wait_for(self.connection.read_message(), PATIENCE_SECONDS)
            assert text is not None, f"closed with {self.connection.close_code}"
            message: dict[str, Any] = json.loads(text)
            if message["type"] in kinds:
                return message

    async def ask(self, **fields: Any) -> dict[str, Any]:
        """Say something with a number, and wait for what answers it."""
        self.say(**fields, req=4711)
        while True:
            message = await self.next(
                "answer", "found", "orders", "cancel_after", "pong", "login", "snapshot"
            )
            if message.get("req") == 4711:
                return message

    async def send(self, text: str) -> dict[str, Any]:
        return await self.ask(op="send", text=text)

    def hang_up(self) -> None:
        """Cut the connection, whatever has not been read."""
        self.connection.close()
        self._stream.close()

    async def close_code(self) -> int | None:
        """Read on until the server closes."""
        while await asyncio.wait_for(self.connection.read_message(), PATIENCE_SECONDS) is not None:
            pass
        code: int | None = self.connection.close_code
        return code


def form(text: str, signature: str) -> str:
    return urlencode({"order": text, "signature": signature})


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    disk: Disk | None = None,
    ticker: str = "intc",
    snapshot_records: int = 0,
    **options: Any,
) -> AsyncIterator[Venue]:
    """Serve from `folder`, stop cleanly at the end (unless it ended by itself)."""
    var = Var(folder)
    var.make()
    recovered = open_journal(
        disk if disk is not None else SystemDisk(),
        var.journal_file(ticker),
        ticker=ticker,
        dice=SystemDice(),
    )
    server = Server(
        recovered,
        clock=SystemClock(),
        dice=SystemDice(),
        venue_key=VENUE_KEY,
        generations=read_generations(var),
        options=Options(ticker=ticker, port=0, snapshot_records=snapshot_records, **options),
        var=var,
    )
    server.begin()
    sockets = bind_sockets(0, "127.0.0.1")
    server.serve(application(server), sockets)
    venue = Venue(server, sockets[0].getsockname()[1], var)
    try:
        yield venue
    finally:
        for socket in venue.sockets:
            socket.hang_up()
        await until(lambda: not server.connections)
        if server.commit.has_ended:
            with suppress(DiskFailed):
                server.commit.close()
        else:
            server.stop()
            await server.ended()
            server.commit.close()
        recovered.file.close()
        recovered.mark_file.close()
        AsyncHTTPClient().close()


def run(folder: Path, scenario: Callable[[Venue], Awaitable[None]], **options: Any) -> None:
    """Run a scenario against a server of its own."""

    async def main() -> None:
        async with serving(folder, **options) as venue:
            await scenario(venue)

    asyncio.run(main())
    import gc

    gc.collect()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)
