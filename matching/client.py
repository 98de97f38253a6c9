"""The client: the one way to talk to a matching server (PROTOCOL §2–§4).

`Client` is a WebSocket session for those who live on an asyncio loop, `BlockingClient` the same for
scripts, with a thread and loop of its own; `post_order`, `quote` and `query` are the HTTP forms.

A command has one of four ends, and each has its own form here:

| what happened | what the caller gets |
|---|---|
| the server answered | the answer, a dict (PROTOCOL §4) |
| the server said no | `Refused`: code, rule, message; nothing has changed |
| it never left | `Away`: nothing was sent, so sending it again is safe |
| it left, and no answer came | `Unanswered`: done or not, nobody knows; `find` its `id=` |

Answers hold prices as the decimal text of the wire; `quote` alone gives the integer that the rest
of EMTE computes with. Where the protocol wants a `ts=` that a text does not have, the client adds
it by the server's clock, and once more if the server finds it stale, by the time that came with the
refusal; a text with a `ts=` of its own is sent as it is.

>>> restart = Backoff(first_seconds=1, longest_seconds=4)
>>> waits = [restart.next_seconds() for _ in range(4)]
>>> [bound / 2 <= wait <= bound for bound, wait in zip((1, 2, 4, 4), waits, strict=True)]
[True, True, True, True]
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlencode

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest, HTTPResponse
from tornado.iostream import StreamClosedError
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketError,
    websocket_connect,
)

from matching import protocol, signing
from matching.order import Command, Login, parse_price

T = TypeVar("T")

Answer = dict[str, Any]
"""A JSON object of PROTOCOL §4."""

CONNECT_SECONDS = 5.0
"""How long a server may take to accept a connection and say hello."""

ANSWER_SECONDS = 20.0
"""How long an answer may take before it counts as lost."""

CLOSE_SECONDS = 2.0
"""How long the other side may take to take leave."""

STEADY_SECONDS = 5.0
"""A connection that stood for so long was a good one: the wait before the next begins anew."""

NOT_READY_SECONDS = 1.0
"""A server that says that it is not ready yet is asked again so soon at the latest, as it asks for;
the wait does not grow, and its jitter is that of Backoff."""

PING_SECONDS = 20
"""PROTOCOL §4: ping every 20 s. A ping without an answer for as long ends the connection."""

MESSAGE_LIMIT = 16 * 1024 * 1024
"""The largest message taken; the server lets no more than that wait for one client."""

PASSING = frozenset({"busy", "no_space", "not_ready", "throttled", "stale_timestamp"})
"""Refusals of a login that say "later" and not "no"."""

_LOGIN = "login"
"""The place of a login among the requests that wait; it has no number in the protocol."""


class Refused(Exception):
    """The server's no: `code`, `rule` ("" if none says so) and a sentence (PROTOCOL §3).

    `answer` is the whole message; that of a `find` which found nothing carries `seq`.
    """

    def __init__(self, answer: Answer) -> None:
        error = answer["error"]
        self.code: str = error["code"]
        self.rule: str = error.get("rule", "")
        self.message: str = error["message"]
        self.answer = answer
        super().__init__(f"{self.code}: {self.message}")


class Away(Exception):
    """The server cannot be reached; nothing was sent."""


class NotReady(Away):
    """The server is there, and takes nobody yet (503): it recovers, and that takes seconds."""


class Unanswered(Exception):
    """Sent, and the connection was lost before the answer: the outcome is unknown."""


class ServerClock:
    """The server's clock as far as we know it: ours, and by how much it last differed."""

    __slots__ = ("offset_ms",)

    def __init__(self) -> None:
        self.offset_ms = 0

    def now_ms(self) -> int:
        """What the server's clock shows now, in milliseconds since 1970: the value of a `ts=`."""
        return _our_ms() + self.offset_ms

    def learn(self, server_ms: int) -> None:
        """The server's clock shows `server_ms` at this moment."""
        self.offset_ms = server_ms - _our_ms()


class Backoff:
    """How long to wait before the next try: twice as long each time, up to a bound, with jitter.

    The jitter keeps the many clients of a restarted server from coming back in step.
    """

    __slots__ = ("_bound", "_first", "_longest")

    def __init__(self, *, first_seconds: float = 0.1, longest_seconds: float = 5.0) -> None:
        self._first = first_seconds
        self._longest = longest_seconds
        self._bound = first_seconds

    def next_seconds(self) -> float:
        """The next wait: between half of the present bound and the whole."""
        seconds = self._bound * random.uniform(0.5, 1.0)
        self._bound = min(2 * self._bound, self._longest)
        return seconds

    def reset(self) -> None:
        """It works again: the next outage begins with a short wait."""
        self._bound = self._first


class _Request(NamedTuple):
    """A request that waits for its answer; `is_feed`: the answer belongs to the feed as well."""

    answer: "asyncio.Future[Answer]"
    is_feed: bool


class Client:
    """One WebSocket session with one matching server, on the running asyncio loop.

    With a `key` it may trade: after `login()` as `owner` (None: a venue session, which takes the
    venue key), before it by signing each text. Without a key it only watches. With `cod`, the
    orders of the session are canceled when the connection goes.

    `on_message` gets every frame that answers no request: snapshot, update, heartbeat, order,
    orders. It is called on the loop, in the order of arrival, and must not block.
    """

    def __init__(
        self,
        url: str,
        *,
        ticker: str,
        key: str | None = None,
        owner: int | None = None,
        on_message: Callable[[Answer], None] | None = None,
        cod: bool = False,
    ) -> None:
        self.url = url
        self.ticker = ticker
        self.owner = owner
        self.clock = ServerClock()
        self.hello: Answer | None = None
        self.is_logged_in = False
        self._has_asked_login = False
        self._key = key
        self._cod = cod
        self._on_message = on_message
        self._connection: WebSocketClientConnection | None = None
        self._connections_made = 0
        self._gone = asyncio.Event()
        self._gone.set()
        self._last_req = 0
        self._waiting: dict[int | str, _Request] = {}
        self._greeting: asyncio.Future[Answer] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands, as far as we know."""
        return not self._gone.is_set()

    async def connect(self) -> None:
        """Connect and wait for the server's hello; Away if it does not come.

        A connection that still stands is closed first.
        """
        await self.close()
        self._greeting = asyncio.get_running_loop().create_future()
        self._connection = await self._open()
        self._gone.clear()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self.hello = await self._greeting
        except (TimeoutError, Unanswered) as error:
            await self.close()
            raise Away(f"{self.url} does not say hello") from error
        except BaseException:
            await self.close()
            raise
        if self.hello["ticker"] != self.ticker:
            await self.close()
            raise Away(f"{self.url} trades {self.hello['ticker']}, not {self.ticker}")
        self.clock.learn(_milliseconds(self.hello["time"]))

    async def _open(self) -> WebSocketClientConnection:
        """The WebSocket handshake."""
        self._connections_made += 1
        opening = asyncio.ensure_future(
            websocket_connect(
                self.url,
                connect_timeout=CONNECT_SECONDS,
                on_message_callback=partial(self._on_frame, self._connections_made),
                ping_interval=PING_SECONDS,
                ping_timeout=PING_SECONDS,
                max_message_size=MESSAGE_LIMIT,
            )
        )
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise
        except (OSError, HTTPError, StreamClosedError, WebSocketError) as error:
            raise _away(self.url, error) from error
        # PROTOCOL §4; Tornado takes it off again when the handshake's request is written.
        if connection.protocol is not None:
            connection.protocol.set_nodelay(True)
        return connection

    async def login(self) -> Answer:
        """Begin the session of `owner` (or the venue's); Refused if the key is not good for it.

        From then on texts are sent as they are, and only in a session: what a text leaves to the
        session must not mean something else when it is lost.
        """
        self._has_asked_login = True
        try:
            return await self._login()
        except Refused as refused:
            if not _tells_time(refused, self.clock):
                raise
        return await self._login()

    async def _login(self) -> Answer:
        if self._key is None:
            raise ValueError("a session needs a key")
        if self.hello is None:
            raise Away(f"{self.url} is not connected")
        login = Login(
            ticker=self.ticker,
            owner=self.owner,
            nonce=self.hello["nonce"],
            cod=self._cod,
            ts=self.clock.now_ms(),
        )
        text = protocol.format(login)
        signature = signing.sign(self._key, text)
        answer = await self._ask(_LOGIN, {"op": "login", "text": text, "signature": signature})
        self.is_logged_in = True
        return answer

    async def close(self) -> None:
        """Close the connection, if there is one, and wait until it is closed."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        protocol = connection.protocol
        connection.close()
        try:
            # Not `wait_for`: before Python 3.12 it loses a cancel that comes as the wait ends.
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._gone.wait()
        except TimeoutError:
            self._on_gone()
            if protocol is not None and protocol.stream is not None:
                protocol.stream.close()

    async def wait_until_lost(self) -> None:
        """Wait until the connection is gone, whoever ended it."""
        await self._gone.wait()

    async def follow(
        self,
        *,
        channels: Sequence[str] = ("book", "trades"),
        depth: int = 50,
        on_live: Callable[[], None] | None = None,
        on_away: Callable[[str], None] | None = None,
    ) -> None:
        """Stay connected, logged in (given a key) and subscribed, until cancelled.

        A lost connection is made again, after a wait that grows. `on_live` is called whenever all
        of that stands, `on_away` with the reason, once for each outage. `send` and the other
        requests work while it is live. Raises Refused when the server does not accept the key:
        to try again would not help.
        """
        backoff = Backoff()
        is_away = False
        try:
            while True:
                pause = backoff
                try:
                    await self._set_up(channels, depth)
                    is_away = False
                    live_since = time.monotonic()
                    if on_live is not None:
                        on_live()
                    await self.wait_until_lost()
                    if time.monotonic() - live_since >= STEADY_SECONDS:
                        backoff.reset()
                    reason = f"{self.url}: the connection is lost"
                except (Away, Unanswered) as error:
                    reason = str(error)
                    if isinstance(error, NotReady):
                        pause = Backoff(first_seconds=NOT_READY_SECONDS)
                except Refused as refused:
                    if refused.code not in PASSING:
                        raise
                    reason = str(refused)
                if on_away is not None and not is_away:
                    on_away(reason)
                is_away = True
                await asyncio.sleep(pause.next_seconds())
        finally:
            await self.close()

    async def _set_up(self, channels: Sequence[str], depth: int) -> None:
        await self.connect()
        if self._key is not None:
            await self.login()
        await self.subscribe(channels, depth=depth)

    async def send(self, command: str | Command) -> Answer:
        """Send one command; its answer. Refused, Away or Unanswered: see the module's table."""
        send = self._send_in_session if self._has_asked_login else self._send_signed
        try:
            return await send(command)
        except Refused as refused:
            # In a session too: the platform writes its `ts` by this clock, and keeps its line up.
            if not _tells_time(refused, self.clock) or _has_timestamp(command):
                raise
        return await send(command)

    async def _send_in_session(self, command: str | Command) -> Answer:
        return await self._request_in_session({"op": "send", "text": _text_of(command)})

    async def _send_signed(self, command: str | Command) -> Answer:
        if self._key is None:
            raise ValueError("to send needs a key")
        text = _stamped(_text_of(command), self.clock)
        signature = signing.sign(self._key, text)
        return await self._request({"op": "send", "text": text, "signature": signature})

    async def send_many(self, commands: Iterable[str | Command]) -> list[Answer]:
        """Send up to 1,000 commands in one frame of a session; their answers, in order.

        Each stands alone: the answer of a refused one holds its `error`, and raises nothing.
        """
        texts = [_text_of(command) for command in commands]
        answer = await self._request_in_session({"op": "send", "texts": texts})
        answers: list[Answer] = answer["answers"]
        return answers

    async def find(
        self, *, oid: int | None = None, client_id: str | None = None, owner: int | None = None
    ) -> Answer:
        """One order, by oid or client id, as a `found` message; a venue session names the owner.

        Refused with `order_not_found` if there is none; then too, `answer["seq"]` says up to where
        the server has looked.
        """
        fields = {"oid": oid, "id": client_id, "owner": owner}
        return await self._request({"op": "find", **_without_none(fields)})

    async def open_orders(self, *, owner: int | None = None) -> Answer:
        """The open orders and the position, as an `orders` message."""
        return await self._request({"op": "open", **_without_none({"owner": owner})})

    async def cancel_after(self, seconds: int, *, owner: int | None = None) -> Answer:
        """Have all open orders canceled unless this is called again within so many seconds.

        0 disarms. The switch outlives this connection; a venue session names the owner.
        """
        fields = {"op": "cancel_after", "seconds": seconds, **_without_none({"owner": owner})}
        return await self._request_in_session(fields)

    async def subscribe(self, channels: Sequence[str], *, depth: int = 50) -> Answer:
        """Choose what the feed brings. What it begins with comes to `on_message`, and here."""
        fields = {"op": "subscribe", "channels": list(channels), "depth": depth}
        return await self._request(fields, is_feed=True)

    async def ping(self) -> Answer:
        """Ask for a sign of life: the `pong` message, with the server's time."""
        return await self._request({"op": "ping"})

    async def _request_in_session(self, fields: Answer) -> Answer:
        if not self.is_logged_in:
            raise Away(f"{self.url}: there is no session")
        return await self._request(fields)

    async def _request(self, fields: Answer, *, is_feed: bool = False) -> Answer:
        self._last_req += 1
        return await self._ask(self._last_req, {**fields, "req": self._last_req}, is_feed=is_feed)

    async def _ask(self, place: int | str, message: Answer, *, is_feed: bool = False) -> Answer:
        """Send a message and wait for the frame that answers it.

        With `is_feed`, that frame is a part of the feed too.
        """
        if self._connection is None or self._gone.is_set():
            raise Away(f"{self.url} is not connected")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[place] = _Request(answer, is_feed)
        try:
            sending = self._connection.write_message(msgspec.json.encode(message).decode())
            sending.add_done_callback(_take_note)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except WebSocketClosedError as error:
            raise Away(f"{self.url} is not connected") from error
        except TimeoutError as error:
            raise Unanswered(f"{self.url}: no answer within {ANSWER_SECONDS:g} s") from error
        finally:
            self._waiting.pop(place, None)

    def _on_frame(self, connection: int, frame: str | bytes | None) -> None:
        if connection != self._connections_made:
            return  # a connection that took too long to close speaks no more for this client
        if frame is None:
            self._on_gone()
            return
        message: Answer = msgspec.json.decode(frame)
        kind = message.get("type")
        if kind == "hello" and self._greeting is not None and not self._greeting.done():
            self._greeting.set_result(message)
            return
        request = self._waiting.get(_place(message))
        is_answer = request is not None and not request.answer.done()
        if request is not None and is_answer:
            if "error" in message:
                request.answer.set_exception(Refused(message))
            else:
                request.answer.set_result(message)
            if not request.is_feed:
                return
        if self._on_message is not None:
            self._on_message(message)

    def _on_gone(self) -> None:
        """The connection is gone: nobody will answer what waits."""
        self.is_logged_in = False
        self._gone.set()
        unanswered = [request.answer for request in self._waiting.values()]
        if self._greeting is not None:
            unanswered.append(self._greeting)
        for answer in unanswered:
            if not answer.done():
                lost = Unanswered(f"{self.url}: the connection was lost before the answer")
                answer.set_exception(lost)


class BlockingClient:
    """`Client` for scripts: the same requests, which wait for their answers.

    It has a thread and a loop of its own, so it also works where a loop is running already.
    `on_message` is called in that thread. Use it in a `with` block: that connects, logs in when
    there is a key, and closes.
    """

    def __init__(
        self,
        url: str,
        *,
        ticker: str,
        key: str | None = None,
        owner: int | None = None,
        on_message: Callable[[Answer], None] | None = None,
        cod: bool = False,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"client of {ticker}", daemon=True
        )
        self._thread.start()
        self._has_key = key is not None
        self._client = Client(
            url, ticker=ticker, key=key, owner=owner, on_message=on_message, cod=cod
        )

    @property
    def hello(self) -> Answer | None:
        return self._client.hello

    @property
    def clock(self) -> ServerClock:
        return self._client.clock

    def __enter__(self) -> Self:
        try:
            self.connect()
            if self._has_key:
                self.login()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def connect(self) -> None:
        self._run(self._client.connect())

    def login(self) -> Answer:
        return self._run(self._client.login())

    def close(self) -> None:
        """Close the connection and end the thread; after that the client cannot be used again."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def send(self, command: str | Command) -> Answer:
        return self._run(self._client.send(command))

    def send_many(self, commands: Iterable[str | Command]) -> list[Answer]:
        return self._run(self._client.send_many(commands))

    def find(
        self, *, oid: int | None = None, client_id: str | None = None, owner: int | None = None
    ) -> Answer:
        return self._run(self._client.find(oid=oid, client_id=client_id, owner=owner))

    def open_orders(self, *, owner: int | None = None) -> Answer:
        return self._run(self._client.open_orders(owner=owner))

    def cancel_after(self, seconds: int, *, owner: int | None = None) -> Answer:
        return self._run(self._client.cancel_after(seconds, owner=owner))

    def subscribe(self, channels: Sequence[str], *, depth: int = 50) -> Answer:
        return self._run(self._client.subscribe(channels, depth=depth))

    def ping(self) -> Answer:
        return self._run(self._client.ping())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


async def post_order(
    post_url: str, command: str | Command, key: str, *, clock: ServerClock | None = None
) -> Answer:
    """Sign a command and post it to a product's `post_url`, as in 2010; the answer of PROTOCOL §4.

    The command names ticker and owner. A caller who posts often hands in the `clock` each time, so
    that the server's time is learned once. Refused, Away or Unanswered: see the module's table.
    """
    if clock is None:
        clock = ServerClock()
    try:
        return await _post_signed(post_url, command, key, clock)
    except Refused as refused:
        if not _tells_time(refused, clock) or _has_timestamp(command):
            raise
    return await _post_signed(post_url, command, key, clock)


async def _post_signed(
    post_url: str, command: str | Command, key: str, clock: ServerClock
) -> Answer:
    text = _stamped(_text_of(command), clock)
    body = urlencode({"order": text, "signature": signing.sign(key, text)})
    request = HTTPRequest(
        post_url,
        method="POST",
        body=body,
        headers={
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        },
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
    )
    try:
        response = await AsyncHTTPClient().fetch(request, raise_error=False)
        if response.code == _NO_RESPONSE and response.error is not None:
            raise response.error
    except OSError as error:
        if isinstance(error, ConnectionResetError | BrokenPipeError):
            raise Unanswered(f"{post_url}: {_reason(error)}") from error
        raise Away(f"{post_url}: {_reason(error)}") from error
    except HTTPError as error:
        raise Unanswered(f"{post_url}: {_reason(error)}") from error
    answer = _json_object(response)
    if answer is None:
        raise Unanswered(f"{post_url} answers like no matching server: HTTP {response.code}")
    if "error" in answer:
        raise Refused(answer)
    return answer


async def quote(quote_url: str) -> int:
    """The last price (before the first trade: the reference price), in ten-thousandths."""
    response = await _get(quote_url)
    try:
        return parse_price(response.body.decode("ascii"))
    except ValueError as error:
        raise Away(f"{quote_url} gives no price") from error


async def query(query_url: str) -> Answer:
    """The state of a product as `/query` tells it (PROTOCOL §3)."""
    state = _json_object(await _get(query_url))
    if state is None or "ticker" not in state:
        raise Away(f"{query_url} gives no state of a product")
    return state


_NOT_READY = 503
"""The status of a server that recovers, or ends."""

_NO_RESPONSE = 599
"""Tornado's status for a response that never came."""


async def _get(url: str) -> HTTPResponse:
    """A 200 of a GET, which changes nothing: whatever else comes means Away."""
    request = HTTPRequest(url, connect_timeout=CONNECT_SECONDS, request_timeout=ANSWER_SECONDS)
    try:
        return await AsyncHTTPClient().fetch(request)
    except (OSError, HTTPError) as error:
        raise _away(url, error) from error


def _away(url: str, error: BaseException) -> Away:
    is_there = isinstance(error, HTTPError) and error.code == _NOT_READY
    return (NotReady if is_there else Away)(f"{url}: {_reason(error)}")


def _json_object(response: HTTPResponse) -> Answer | None:
    try:
        decoded = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _place(message: Answer) -> int | str:
    """Which request a frame answers: its number; without one, a login."""
    if "req" in message:
        number: int = message["req"]
        return number
    return _LOGIN if message["type"] == "login" or "error" in message else ""


def _text_of(command: str | Command) -> str:
    return command if isinstance(command, str) else protocol.format(command)


def _has_timestamp(command: str | Command) -> bool:
    return " ts=" in _text_of(command)


def _stamped(text: str, clock: ServerClock) -> str:
    return text if _has_timestamp(text) else f"{text} ts={clock.now_ms()}"


def _tells_time(refused: Refused, clock: ServerClock) -> bool:
    """Whether the refusal was for a stale timestamp and told the time; then the clock knows it."""
    server_time = refused.answer["error"].get("server_time")
    if refused.code != "stale_timestamp" or server_time is None:
        return False
    clock.learn(int(server_time))
    return True


def _close_late(opening: "asyncio.Future[WebSocketClientConnection]") -> None:
    """Close a connection that was made after its maker had stopped waiting for it."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _take_note(sending: "asyncio.Future[None]") -> None:
    """A send that failed is known by the lost connection; asyncio need not log it as forgotten."""
    if not sending.cancelled():
        sending.exception()


def _reason(error: BaseException) -> str:
    """Why the other side cannot be reached, in a few words."""
    if isinstance(error, StreamClosedError):
        return _reason(error.real_error) if error.real_error is not None else "connection closed"
    if isinstance(error, HTTPError) and error.response is not None:
        match _json_object(error.response):
            case {"error": {"message": str(message)}} if message.isprintable():
                return f"HTTP {error.code}: {message[:_REASON_LIMIT]}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


_REASON_LIMIT = 200
"""Of a sentence that a server gives as its reason (characters): it may be any program."""


def _milliseconds(rfc3339: str) -> int:
    return round(datetime.fromisoformat(rfc3339).timestamp() * 1000)


def _our_ms() -> int:
    return time.time_ns() // 1_000_000


def _without_none(fields: Answer) -> Answer:
    return {name: value for name, value in fields.items() if value is not None}
