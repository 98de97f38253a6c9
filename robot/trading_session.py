"""A strategy's trading session: one WebSocket, its messages in, the strategy's commands out.

The strategy sees one thing at a time. What the server tells waits here while a call or its commands
are under way: news of own orders and trades one by one, the book as it is when its turn comes. So a
slow strategy misses nothing of its orders, and no state of the book holds it up.

The session logs in with cancel-on-disconnect: when the robot ends or its connection goes, its
orders go too, for nobody would look after them. When the server is there again the strategy goes on
with the orders, the position and the book as they are then. Every text bears its `ts`, so what was
under way when the connection went is carried out within the next 5 s or never (PROTOCOL §2); then
the server is asked what became of it.
"""

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NoReturn

from msgspec.structs import replace

from matching import protocol
from matching.client import (
    Answer,
    Away,
    Backoff,
    Client,
    Refused,
    Unanswered,
    query,
)
from matching.console import say
from matching.exits import ExitCode, Fatal
from matching.marketdata import Feed
from matching.order import CancelAll, NewOrder, Side, parse_price
from robot.loading import blame
from robot.own_orders import Message, News, OwnOrders
from robot.strategy import (
    MAX_COMMANDS,
    Desk,
    DeskCommand,
    Level,
    PublicTrade,
    Reject,
    Strategy,
    describe,
)

CHANNELS = ("book", "trades", "orders")
DEPTH = 50

MAX_NEWS = 10_000
"""News that may wait for the strategy before its commands are refused, and its oldest trades
forgotten."""

CATCH_UP_SECONDS = 0.2
"""How long the book may lag behind the answers; the server shows it some times a second."""

TIMESTAMP_SECONDS = 5.0
"""How long the server takes a text after its `ts` (PROTOCOL §2)."""


async def wait_for_server(url: str, ticker: str | None, backoff: Backoff) -> Answer:
    """The server's `/query`, once it is there and trades `ticker` (None: whatever it trades).

    While it is away that is printed, once.
    """
    has_waited = False
    while True:
        try:
            state = await query(f"{url}/query")
            if ticker not in (None, state["ticker"]):
                raise Away(f"{url} trades {state['ticker']}, not {ticker}")
        except Away as away:
            if not has_waited:
                say(f"waiting for the matching server: {away}")
            has_waited = True
            await asyncio.sleep(backoff.next_seconds())
        else:
            if has_waited:
                say(f"the matching server of {state['ticker']} is there")
            return state


class TradingSession:
    """One strategy at one matching server, for one owner."""

    def __init__(
        self,
        server_url: str,
        *,
        ticker: str | None,
        strategy: Strategy,
        owner: int,
        key: str,
        wait_seconds: float,
        dice: random.Random,
    ) -> None:
        self._url = server_url
        self._ticker = ticker
        self._strategy = strategy
        self._owner = owner
        self._key = key
        self._wait_seconds = wait_seconds
        self._dice = dice
        self._id_prefix = f"bot-{secrets.token_hex(6)}-"
        self._own = OwnOrders(owner=owner, id_prefix=self._id_prefix)
        self._news: deque[News] = deque()
        self._trades: deque[PublicTrade] = deque(maxlen=MAX_NEWS)
        self._told: list[Message] = []
        self._lost: list[DeskCommand] = []
        """Commands whose answer was lost with the connection."""
        self._sent_at = 0.0
        self._answered_seq = 0
        """The record up to which own orders are known; `_shown_seq`: up to which the book is."""
        self._shown_seq = 0
        self._book_is_new = False
        self._levels_are_old = True
        self._snapshot_is_needed = False
        self._last_tid: int | None = None
        self._market: tuple[str, int] | None = None
        """Lineage and epoch of the server when we last stood: another start of it is another."""
        self._live = asyncio.Event()
        self._connections = 0
        self._resumed = 0
        self._wake = asyncio.Event()
        self._pause = Backoff(first_seconds=0.01, longest_seconds=0.1)
        self._next_timer = 0.0

    async def trade(self) -> NoReturn:
        """Trade whenever the server is there, until cancelled.

        Fatal (78) for a bad key, (1) for an exception of the strategy.
        """
        state = await wait_for_server(self._url, self._ticker, Backoff(longest_seconds=2.0))
        self._feed = Feed(reference=parse_price(state["reference"]))
        self._desk = Desk(
            ticker=state["ticker"],
            tick=parse_price(state["tick"]),
            lot=state["lot"],
            last=parse_price(state["last"] or state["reference"]),
            dice=self._dice,
            owner=self._owner,
            id_prefix=self._id_prefix,
        )
        self._client = Client(
            f"{self._url.replace('http', 'ws', 1)}/realtime",
            ticker=state["ticker"],
            key=self._key,
            owner=self._owner,
            on_message=self._on_message,
            cod=True,
        )
        tasks = [
            asyncio.ensure_future(
                self._client.follow(
                    channels=CHANNELS, depth=DEPTH, on_live=self._on_live, on_away=self._on_away
                )
            ),
            asyncio.ensure_future(self._work()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except Refused as refused:
            raise Fatal(
                ExitCode.CONFIGURATION,
                f"the key is not good for owner {self._owner}: {refused.message}",
            ) from refused
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise AssertionError("neither the connection nor the work ends by itself")

    # -- what the server tells

    def _on_live(self) -> None:
        if self._connections:
            say(f"the matching server of {self._desk.ticker} is there")
        self._connections += 1
        self._live.set()
        self._wake.set()

    def _on_away(self, reason: str) -> None:
        self._live.clear()
        say(f"waiting for the matching server: {reason}")

    def _on_message(self, message: Message) -> None:
        match message["type"]:
            case "snapshot":
                self._feed.load(message)
                self._take_trades(message["trades"])
                self._last_tid = max((trade["tid"] for trade in message["trades"]), default=0)
                self._book_is_new = True
            case "update":
                try:
                    self._feed.update(message)
                except ValueError:
                    self._snapshot_is_needed = True
                self._take_trades(message.get("trades", ()))
                self._book_is_new = True
            case "order":
                self._told.append(message)
        if message["type"] in ("snapshot", "update", "heartbeat"):
            self._shown_seq = message["seq"]
            self._levels_are_old = True
        self._wake.set()

    def _take_trades(self, trades: Sequence[Message]) -> None:
        """Keep the trades that are new; of those from before the robot came it is not told."""
        for trade in trades:
            if self._last_tid is not None and trade["tid"] > self._last_tid:
                self._trades.append(_public_trade(trade))
                self._last_tid = trade["tid"]

    # -- what the strategy is called with

    async def _work(self) -> NoReturn:
        while True:
            await self._live.wait()
            try:
                if self._resumed != self._connections:
                    connection = self._connections
                    await self._resume()
                    self._resumed = connection
                if self._snapshot_is_needed:
                    self._snapshot_is_needed = False
                    await self._client.subscribe(CHANNELS, depth=DEPTH)
                await self._take_turn()
            except (Away, Unanswered, Refused):
                self._live.clear()
                await self._client.close()  # it may stand, and not answer; another one will

    async def _take_turn(self) -> None:
        """Call the strategy with what is there by now; wait if there is nothing."""
        self._wake.clear()
        is_idle = not self._told
        self._news.extend(self._take_told())
        for _ in range(len(self._news)):
            is_idle = False
            news = self._news.popleft()
            if isinstance(news, Reject):
                await self._call(self._strategy.on_reject, news)
            else:
                await self._call(self._strategy.on_order, news.order, news.change)
        for _ in range(len(self._trades)):
            is_idle = False
            await self._call(self._strategy.on_trade, self._trades.popleft())
        if self._book_is_new:
            is_idle = False
            self._book_is_new = False
            await self._call(self._strategy.on_book)
        now = asyncio.get_running_loop().time()
        if now >= self._next_timer:
            self._next_timer = now + self._wait_seconds
            await self._call(self._strategy.on_timer)
        elif is_idle and not self._news:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_timer - now):
                    await self._wake.wait()
        await asyncio.sleep(0)  # a strategy that is always busy must not stop the connection

    async def _call(self, method: Callable[..., None], *arguments: Any) -> None:
        """Call the strategy, then send what it has put on the desk."""
        await self._catch_up()
        desk = self._desk
        if self._levels_are_old:
            self._levels_are_old = False
            desk.bids, desk.asks = self._levels(Side.BUY), self._levels(Side.SELL)
        desk.phase = self._feed.phase
        desk.last = self._feed.reference if self._feed.last is None else self._feed.last
        desk.orders, desk.position = MappingProxyType(self._own.orders), self._own.position
        try:
            method(desk, *arguments)
        except Exception as error:
            raise Fatal(ExitCode.BUG, blame(error, type(self._strategy))) from error
        commands, first_too_many = desk.take_commands(), desk.take_first_too_many()
        if first_too_many is not None:
            message = f"of one call {MAX_COMMANDS:,} commands are sent; the others were not"
            self._news.append(Reject(first_too_many, "flood", message))
        if commands and len(self._news) > MAX_NEWS:
            message = f"nothing was sent: {len(self._news):,} news wait for the strategy"
            self._news.append(Reject(commands[0], "flood", message))
        elif commands:
            await self._send(commands)

    async def _catch_up(self) -> None:
        """Wait until the book shows what the own orders have done to it, or must have."""
        loop = asyncio.get_running_loop()
        end = loop.time() + CATCH_UP_SECONDS
        while self._shown_seq < self._answered_seq and self._live.is_set() and loop.time() < end:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await self._wake.wait()
        self._answered_seq = min(self._answered_seq, self._shown_seq)

    def _levels(self, side: Side) -> list[Level]:
        return [Level(price, *level) for price, level in self._feed.best(side, DEPTH)]

    def _take_told(self) -> list[News]:
        told, self._told = self._told, []
        if told:
            self._answered_seq = told[-1]["seq"]
        return [news for message in told for news in self._own.told(message)]

    # -- what the strategy wants

    async def _send(self, commands: Sequence[DeskCommand]) -> None:
        """Send commands in one frame; what became of them is news."""
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        ts = self._client.clock.now_ms()
        try:
            answers = await self._client.send_many(
                protocol.format(replace(command, ts=ts)) for command in commands
            )
        except Away as away:
            self._news.extend(Reject(command, "away", str(away)) for command in commands)
            raise
        except Unanswered:
            self._lost.extend(commands)
            raise
        except Refused as refused:
            answers = [refused.answer] * len(commands)
        seconds = loop.time() - self._sent_at
        for command, answer in zip(commands, answers, strict=True):
            _print_answer(command, answer, seconds)
        self._news.extend(self._in_order(commands, answers))
        if all("error" in answer for answer in answers):
            self._learn_time(answers)
            await asyncio.sleep(self._pause.next_seconds())
        else:
            self._pause.reset()

    def _in_order(self, commands: Sequence[DeskCommand], answers: Sequence[Answer]) -> list[News]:
        """The news of our answers, and of what else was told meanwhile, as they happened."""
        happened: list[tuple[int, DeskCommand | None, Message]] = []
        seq = 0
        for command, answer in zip(commands, answers, strict=True):
            seq = answer.get("seq", seq)  # a refusal has none: it stays with its neighbour
            happened.append((seq, command, answer))
        told, self._told = self._told, []
        happened.extend((message["seq"], None, message) for message in told)
        news: list[News] = []
        self._answered_seq = max(each[0] for each in happened)
        for _, by, message in sorted(happened, key=lambda each: each[0]):
            news += self._own.told(message) if by is None else self._own.answered(by, message)
        return news

    def _learn_time(self, answers: Sequence[Answer]) -> None:
        """Somebody has put a clock, ours or the server's: a stale `ts` tells what it shows."""
        server_time = answers[-1]["error"].get("server_time")
        if server_time is not None:
            self._client.clock.learn(int(server_time))

    # -- after the connection was lost

    async def _resume(self) -> None:
        """Learn what is open now, and what became of what was under way."""
        hello = self._client.hello
        assert hello is not None, "live without a hello"
        market = (hello["lineage"], hello["epoch"])
        if self._market is not None and self._market[0] != market[0]:
            self._news.extend(self._own.forget())
            self._news.extend(_lost(command) for command in self._lost)
            self._lost = []
        if self._lost and market == self._market:
            # The server that may still have it to read lives on; another start of it has not.
            end = self._sent_at + TIMESTAMP_SECONDS
            await asyncio.sleep(end - asyncio.get_running_loop().time())
        found: list[Message] = []
        rejects: list[News] = []
        for command in self._lost:
            order = None
            if isinstance(command, NewOrder):
                order = await self._find(client_id=command.client_id)
            if order is not None:
                found.append(order)
            else:
                rejects.append(_lost(command))
        self._told.clear()  # what was told before the answer is in it
        message = await self._client.open_orders()
        for oid in self._own.missing(message):
            order = await self._find(oid=oid)
            if order is not None:
                found.append(order)
        self._news.extend(self._own.resume(message, found))
        self._news.extend(rejects)
        self._lost = []
        self._market = market
        self._answered_seq = message["seq"]
        self._desk.tick, self._desk.lot = parse_price(hello["tick"]), hello["lot"]

    async def _find(self, **named: Any) -> Message | None:
        """An order as the server has it; None if it has not."""
        try:
            order: Message = (await self._client.find(**named))["order"]
        except Refused as refused:
            if refused.code != "order_not_found":
                raise
            return None
        return order


def _lost(command: DeskCommand) -> Reject:
    return Reject(command, "lost", "the connection was lost before the server carried it out")


def _public_trade(trade: Message) -> PublicTrade:
    return PublicTrade(
        tid=trade["tid"],
        price=parse_price(trade["price"]),
        quantity=trade["quantity"],
        taker=Side(trade["taker"]) if trade["taker"] != "none" else None,
    )


def _print_answer(command: DeskCommand, answer: Answer, seconds: float) -> None:
    if "error" in answer:
        error = answer["error"]
        say(f"order from {describe(command)} refused: {error['code']}: {error['message']}")
    else:
        say_done(command, answer, seconds)


def say_done(command: DeskCommand, answer: Answer, seconds: float) -> None:
    """Print the line of 2010 for a command that was carried out."""
    if isinstance(command, CancelAll):
        what = f"{len(answer['events'])} orders canceled by"
    else:
        what = f"order #{answer['oid']} from"
    say(f"{what} {describe(command)} ({seconds:f}seconds)")
