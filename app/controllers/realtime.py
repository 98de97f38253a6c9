"""The live feed: one WebSocket from a browser, `/realtime/<ticker>`, at the pages' own origin.

It speaks PROTOCOL §4 as the matching server does: hello, snapshot, updates and heartbeats for
everybody; for who is logged in also `orders`, then `order` for every change of their own orders;
`{"type":"upstream","state":"away"|"live"}` after the hello, and when the matching server goes and
comes back; live is said only while orders can be sent to it too. A browser may subscribe anew and
ping; orders are sent as forms (orders.py), never here.
"""

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
from tornado.websocket import WebSocketHandler

from app.controllers.base import Platform, PlatformHandler, Problem, find_user, problem_to_dict
from app.controllers.markets import DEPTH, Market
from app.models.accounts import User
from app.models.db import DatabaseAway, now
from matching.fanout import Listener
from matching.marketdata import DEFAULT_DEPTH, format_time

FRAME_LIMIT = 4 * 1024
"""The largest frame that a browser may send."""

SESSION_CHECK_SECONDS = 10.0
"""How often an open connection asks whether its session still lasts."""

BINARY = 1003
LOGGED_OUT = 4001
"""The close code when the session has ended; the page then asks for a log-in."""


class Ask(msgspec.Struct):
    """What a browser may ask for on its connection."""

    op: str
    req: int | None = None
    channels: list[str] = msgspec.field(default_factory=lambda: ["book", "trades", "orders"])
    depth: int = DEFAULT_DEPTH


class RealtimeHandler(PlatformHandler, WebSocketHandler):
    """One browser's connection to one market."""

    methods = ("GET",)

    def initialize(self, platform: Platform) -> None:
        self.platform = platform
        self.market: Market | None = None
        self.user: User | None = None
        self.listener: Listener | None = None
        self.session_watch: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        self.market = self.platform.markets.find(self.path_kwargs["ticker"])
        if self.market is None:
            message = "There is no active product of this name"
            self.refuse(Problem(404, "unknown_ticker", message))
            return
        try:
            self.user = await self.platform.transactions.read(find_user, self.session)
        except DatabaseAway:
            self.refuse(Problem(503, "busy", "The database is busy or away. Try again"))

    def open(self, ticker: str) -> None:
        assert self.market is not None
        self.set_nodelay(True)
        self.listener = self.market.fanout.join(self, snapshot=False)
        self.listener.send(self.market.hello())
        # Before the snapshot: what it shows is old if the matching server is away.
        self.listener.send(self.market.upstream())
        self._subscribe(Ask(op="subscribe"))
        if self.user is not None:
            self.session_watch = asyncio.create_task(self._watch_session())

    def _subscribe(self, ask: Ask) -> None:
        assert self.market is not None
        assert self.listener is not None
        depth = min(max(ask.depth, 1), DEPTH)
        self.market.fanout.subscribe(self.listener, depth, channels=ask.channels)
        if self.user is None:
            return
        if "orders" in ask.channels:
            self.market.join_private(self.user.id, self.listener)
        else:
            self.market.leave_private(self.user.id, self.listener)

    async def on_message(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.close(BINARY, "frames are text")
            return
        if self.listener is None:
            return
        self._answer(message)
        # Tornado reads the next frame once this has returned: who does not read is not read.
        if drained := self.listener.drained():
            await drained

    def _answer(self, message: str) -> None:
        try:
            ask = msgspec.json.decode(message, type=Ask)
        except (msgspec.DecodeError, RecursionError) as error:  # the latter: brackets in brackets
            self._send_problem(None, f"not a request: {error}")
            return
        match ask.op:
            case "subscribe":
                self._subscribe(ask)
            case "ping":
                self._send({"type": "pong", "req": ask.req, "time": format_time(now())})
            case _:
                self._send_problem(ask.req, f"there is no op {ask.op[:40]!r} here: subscribe, ping")

    def _send_problem(self, req: int | None, message: str) -> None:
        error = problem_to_dict(Problem(400, "bad_request", message))
        self._send({"type": "answer", "req": req, "error": error})

    def _send(self, message: dict[str, Any]) -> None:
        assert self.listener is not None
        self.listener.send(message)

    async def _watch_session(self) -> None:
        """A session that has ended meanwhile sees no more private orders."""
        while True:
            await asyncio.sleep(SESSION_CHECK_SECONDS)
            with suppress(DatabaseAway):  # asked again next time
                if await self.platform.transactions.read(find_user, self.session) is None:
                    self.close(LOGGED_OUT, "logged out")

    def on_close(self) -> None:
        if self.market is None or self.listener is None:
            return
        self.market.fanout.leave(self.listener)
        if self.user is not None:
            self.market.leave_private(self.user.id, self.listener)
        if self.session_watch is not None:
            self.session_watch.cancel()
