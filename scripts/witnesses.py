"""Witnesses: traders who remember what the exchange acknowledged, to be compared with its journal.

Each order has a client id. Whatever is killed meanwhile, a witness sees each order through: one
whose answer was lost is asked about (`find`, where the way has it) and sent once more, until it is
acknowledged or refused. So in the end, of every order, exactly one of these is true:

    acknowledged as #12     the journal has the id once, as order 12
    refused                 the journal does not have the id

There is one for each way in: a WebSocket session, signed posts, and the form of the platform.
"""

import asyncio
import json
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener

from app.models.products import Product
from matching.client import (
    PASSING,
    Answer,
    Away,
    Client,
    Refused,
    ServerClock,
    Unanswered,
    post_order,
)
from matching.journal import (
    FileSource,
    Position,
    durable_path,
    read_batches,
    read_header,
    read_mark,
)
from matching.order import NewOrder, Side, TimeInForce, format_price
from matching.records import CommandRecord

PAUSE_SECONDS = 0.05
"""Between an answer and the next orders: what is killed shall be at work, not flooded."""

RETRY_SECONDS = 0.1
"""How often a server that is away is tried, so that trading goes on as soon as it can."""

DOUBT_SECONDS = 1.0
"""How often the platform is asked about an order that it is checking itself."""

BATCH = 8
"""The most orders of one frame."""

CLEAR_TURNS = 50
"""After so many frames a session cancels what it has in the book."""

AROUND = 0.02
"""How far from the reference price the limits are, at most."""

ANSWER_SECONDS = 10.0
"""How long the platform may take to answer."""

HTTP_OK = 200
HTTP_ACCEPTED = 202
HTTP_TOO_MANY = 429
HTTP_UNAVAILABLE = 503


EXPECTED_REFUSALS = ("insufficient_cash",)
"""All that a witness sends is good, but the platform's account may come to its end."""


@dataclass(eq=False)
class Order:
    """One order, and what its witness was told of it.

    oid: once it is acknowledged, by record `seq` (0: not told). refused: the code of the refusal.
    was_lost: an answer did not come; was_in: sent once more, it was in already.
    """

    command: NewOrder
    oid: int | None = None
    seq: int = 0
    refused: str = ""
    was_lost: bool = False
    was_in: bool = False
    next_try: float = 0.0


class Way(Protocol):
    """A way to the market; what it cannot do now is Away, what it does not know Unanswered."""

    name: str
    is_platform: bool
    batch: int
    lots: int
    tifs: Sequence[TimeInForce]

    async def connect(self) -> None:
        """Be ready to send."""

    async def close(self) -> None:
        """Take leave."""

    async def find(self, client_id: str) -> int | None:
        """The oid of an order, if it is in and can be asked for."""

    async def send(self, commands: Sequence[NewOrder]) -> Sequence[Answer | None]:
        """The answers, in order: a refusal has an `error`; None: whether it is in is checked."""


class Session:
    """A WebSocket session, some orders in a frame; a third of them rest."""

    name = "WebSocket"
    is_platform = False
    batch = BATCH
    lots = 9
    tifs: Sequence[TimeInForce] = (TimeInForce.IOC, TimeInForce.IOC, TimeInForce.GTC)

    def __init__(self, product: Product, owner: int, key: str) -> None:
        self._client = Client(product.ws_url, ticker=product.name, key=key, owner=owner)
        self._frames = 0

    async def connect(self) -> None:
        await self._client.connect()
        with _passing_is_away():
            await self._client.login()

    async def close(self) -> None:
        await self._client.close()

    async def find(self, client_id: str) -> int | None:
        try:
            found = await self._client.find(client_id=client_id)
        except Refused:
            return None
        oid: int = found["order"]["oid"]
        return oid

    async def send(self, commands: Sequence[NewOrder]) -> Sequence[Answer | None]:
        self._frames += 1
        with _passing_is_away():
            if self._frames % CLEAR_TURNS == 0:
                await self._client.send("del all")
            return await self._client.send_many(commands)


@contextmanager
def _passing_is_away() -> Iterator[None]:
    """A server that begins or stops has carried nothing out: it is as good as away."""
    try:
        yield
    except Refused as refused:
        if refused.code in PASSING:
            raise Away(refused.message) from refused
        raise


class Post:
    """Signed orders, one by one, as the robots of 2010 sent them."""

    name = "POST"
    is_platform = False
    batch = 1
    lots = 9
    tifs: Sequence[TimeInForce] = (TimeInForce.IOC,)

    def __init__(self, product: Product, key: str) -> None:
        self._url = product.post_url
        self._key = key
        self._clock = ServerClock()

    async def connect(self) -> None:
        """Each order has a connection of its own."""

    async def close(self) -> None:
        """Likewise."""

    async def find(self, client_id: str) -> int | None:
        return None

    async def send(self, commands: Sequence[NewOrder]) -> Sequence[Answer | None]:
        [command] = commands
        try:
            return [await post_order(self._url, command, self._key, clock=self._clock)]
        except Refused as refused:
            return [refused.answer]


class Form:
    """The order form of the platform, as a user whose password is the username."""

    name = "platform"
    is_platform = True
    batch = 1
    lots = 1  # so that the account's cash lasts
    tifs: Sequence[TimeInForce] = (TimeInForce.IOC,)

    def __init__(self, product: Product, url: str, username: str) -> None:
        self._product = product
        self._url = url
        self._username = username
        self._cookies = CookieJar()
        self._opener = build_opener(HTTPCookieProcessor(self._cookies))
        self._is_logged_in = False

    async def connect(self) -> None:
        if self._is_logged_in:
            return
        await self._ask("/default/user/login")
        login = {"username": self._username, "password": self._username}
        status, _ = await self._ask("/default/user/login", login)
        if status != HTTP_OK:
            raise Away(f"{self._url} does not let {self._username} in: {status}")
        self._is_logged_in = True

    async def close(self) -> None:
        """Each request has a connection of its own."""

    async def find(self, client_id: str) -> int | None:
        return None

    async def send(self, commands: Sequence[NewOrder]) -> Sequence[Answer | None]:
        [command] = commands
        form = {
            "product": self._product.id,
            "type": command.side,
            "quantity": command.quantity,
            "price": format_price(command.price),
            "tif": command.tif,
            "id": command.client_id,
        }
        status, answer = await self._ask("/default/order", form)
        if status == HTTP_ACCEPTED:
            return [None]
        if status in (HTTP_TOO_MANY, HTTP_UNAVAILABLE):
            raise Away(answer["error"]["message"])
        return [answer]

    async def _ask(self, path: str, form: dict[str, Any] | None = None) -> tuple[int, Answer]:
        return await asyncio.to_thread(self._ask_and_wait, path, form)

    def _ask_and_wait(self, path: str, form: dict[str, Any] | None) -> tuple[int, Answer]:
        request = Request(self._url + path)
        if form is not None:
            [token] = [cookie.value for cookie in self._cookies if cookie.name == "_xsrf"]
            request.data = urlencode({**form, "_xsrf": token}).encode("ascii")
            request.add_header("Accept", "application/json")
        try:
            with self._opener.open(request, timeout=ANSWER_SECONDS) as response:
                return response.status, _decoded(response.read())
        except HTTPError as error:
            with error:
                return error.code, _decoded(error.read())
        except (OSError, HTTPException) as error:
            raise Unanswered(f"{self._url}{path}: {error}") from error


class Witness:
    """A trader who remembers. `trade()` runs until `stop()` was called and nothing is in doubt.

    told: the orders with an outcome, in the order in which it came. contradictions: sentences about
    answers that do not go together. is_sending: an answer is being waited for.
    """

    def __init__(self, way: Way, product: Product, owner: int, dice: random.Random) -> None:
        self.way = way
        self.product = product
        self.told: list[Order] = []
        self.in_doubt: list[Order] = []
        self.contradictions: list[str] = []
        self.is_sending = False
        self._owner = owner
        self._dice = dice
        self._name = secrets.token_hex(4)
        self._sent = 0
        self._is_stopping = False

    def stop(self) -> None:
        """Send nothing new from now on."""
        self._is_stopping = True

    async def trade(self) -> None:
        try:
            while not (self._is_stopping and not self.in_doubt):
                try:
                    await self.way.connect()
                    await self._take_turns()
                except (Away, Unanswered):
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            await self.way.close()

    async def _take_turns(self) -> None:
        while True:
            await self._resolve()
            if not self._is_stopping:
                count = self._dice.randint(1, self.way.batch)
                await self._place([self._new_order() for _ in range(count)])
            elif not self.in_doubt:
                return
            await asyncio.sleep(PAUSE_SECONDS)

    def _new_order(self) -> Order:
        self._sent += 1
        reference, tick = self.product.unit_price, self.product.tick
        price = round(reference * self._dice.uniform(1 - AROUND, 1 + AROUND) / tick) * tick
        command = NewOrder(
            ticker=self.product.name,
            owner=self._owner,
            side=self._dice.choice((Side.BUY, Side.SELL)),
            quantity=self._dice.randint(1, self.way.lots) * self.product.lot,
            price=price,
            tif=self._dice.choice(self.way.tifs),
            client_id=f"{'web' if self.way.is_platform else 'wit'}-{self._name}-{self._sent}",
        )
        order = Order(command)
        self.in_doubt.append(order)
        return order

    async def _resolve(self) -> None:
        """Ask about what is in doubt, and send it once more: it is in, or it goes in now."""
        for order in list(self.in_doubt):
            if order.next_try > time.monotonic():
                continue
            found = await self.way.find(order.command.client_id)
            await self._place([order])
            if found is not None and (order.oid, order.was_in) != (found, True):
                self.contradictions.append(
                    f"order {order.command.client_id} was found as #{found}; sent once more, it"
                    f" is {order.refused or f'#{order.oid}'}"
                )

    async def _place(self, orders: Sequence[Order]) -> None:
        """Send orders, and take note of the answers."""
        self.is_sending = True
        try:
            answers = await self.way.send([order.command for order in orders])
        except Unanswered:
            for order in orders:
                order.was_lost = True
            raise
        finally:
            self.is_sending = False
        for order, answer in zip(orders, answers, strict=True):
            self._note(order, answer)

    def _note(self, order: Order, answer: Answer | None) -> None:
        if answer is None:
            order.was_lost = True
            order.next_try = time.monotonic() + DOUBT_SECONDS
            return
        if "error" not in answer:
            order.oid, order.seq = answer["oid"], answer.get("seq", 0)
            order.was_in = answer["events"][0]["event"] == "duplicate"
        elif answer["error"]["code"] in PASSING:
            raise Away(answer["error"]["message"])
        else:
            order.refused = answer["error"]["code"]
            if order.refused not in EXPECTED_REFUSALS:
                message = answer["error"]["message"]
                self.contradictions.append(f"order {order.command.client_id} is refused: {message}")
        self.in_doubt.remove(order)
        self.told.append(order)


class JournalOrders:
    """The client ids that a journal has, read on from where it was read before."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._position: Position | None = None
        self._oids: dict[str, list[int]] = {}

    def read_on(self) -> int:
        """Read as far as the journal is durable; the last record read."""
        mark = read_mark(durable_path(self._journal))
        if mark is None:
            return 0
        with self._open() as source:
            header = read_header(source)
            for batch in read_batches(source, header, self._position, until=mark.offset):
                for record in batch.records():
                    body = record.body
                    if isinstance(body, CommandRecord) and isinstance(body.command, NewOrder):
                        self._oids.setdefault(body.command.client_id, []).append(body.oid)
                self._position = batch.position
        return mark.seq

    def difference(self, order: Order) -> str:
        """In what the journal contradicts what is known of an order; "" if in nothing."""
        name = f"order {order.command.client_id} of owner {order.command.owner}"
        oids = self._oids.get(order.command.client_id, [])
        if order.oid is not None and oids != [order.oid]:
            return f"{name} was acknowledged as #{order.oid}; the journal has {_spelled(oids)}"
        if order.refused and oids:
            return f"{name} was refused ({order.refused}); the journal has {_spelled(oids)}"
        return ""

    @contextmanager
    def _open(self) -> Iterator[FileSource]:
        with self._journal.open("rb") as file:
            yield FileSource(file)


def _spelled(oids: Sequence[int]) -> str:
    return " and ".join(f"#{oid}" for oid in oids) or "nothing of it"


def _decoded(body: bytes) -> Answer:
    """The JSON of an answer; a page that is none says nothing to a witness."""
    try:
        decoded = json.loads(body)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}
