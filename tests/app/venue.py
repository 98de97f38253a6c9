"""A venue under test: the web server in a thread of this process, and browsers that talk to it.

The application, the sockets, the database and the matching servers are the real ones; a browser is
an HTTP client with a cookie jar.
"""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import pytest
from tornado.web import create_signed_value

from app import webserver
from app.controllers import orders
from app.controllers.base import Platform
from app.models import accounts, intents, portfolio, products
from app.models.accounts import Registration, User
from app.models.db import DAL, close, migrate, now, open_database, transaction
from app.models.intents import State
from app.models.products import Product
from matching.config import Var, load_venue_key
from tests.database import DATABASES
from tests.processes import Process, running
from tests.waiting import PATIENCE_SECONDS, free_port, wait_until

T = TypeVar("T")

JSON = {"Accept": "application/json"}

FEW_ROUNDS = 1_000
"""Enough to hash a test's password with."""

CASH = 1_000_000_000
"""What a trader of a test begins with: 100,000.00."""


@dataclass(frozen=True)
class Response:
    """What came back; header names in lower case, the last of a name wins."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The code of an error answer."""
        return str(self.json()["error"]["code"])


class Browser:
    """One person's cookies, at one web server."""

    def __init__(self, web: "Web") -> None:
        self.web = web
        self.cookies: dict[str, str] = {}

    @property
    def session(self) -> str:
        """The cookie of the log-in; "" without one."""
        return self.cookies.get(self.web.platform.session_cookie, "")

    @session.setter
    def session(self, cookie: str) -> None:
        self.cookies[self.web.platform.session_cookie] = cookie

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        return self.request("GET", path, headers=headers)

    def post(
        self,
        path: str,
        fields: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a form, with the token that the page's form would hold."""
        if "_xsrf" not in self.cookies:
            self.get("/default/about")
        form = {"_xsrf": self.cookies["_xsrf"], **(fields or {})}
        return self.request("POST", path, body=urlencode(form).encode(), headers=headers)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.web.port, timeout=PATIENCE_SECONDS
        )
        try:
            connection.request(method, path, body=body, headers=self._headers(body, headers))
            answer = connection.getresponse()
            text = answer.read().decode("utf-8")
            for header in answer.headers.get_all("Set-Cookie") or ():
                self._take_cookie(header)
        finally:
            connection.close()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, names, text)

    def _headers(self, body: bytes | None, headers: Mapping[str, str] | None) -> dict[str, str]:
        sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        return sent | dict(headers or {})

    def _take_cookie(self, header: str) -> None:
        for name, morsel in SimpleCookie(header).items():
            if morsel.value:
                self.cookies[name] = morsel.coded_value
            else:
                self.cookies.pop(name, None)


def make_platform(var: Var, database_uri: str, *, port: int) -> Platform:
    """What one web server of a venue holds, on the running loop."""
    return Platform(
        database_uri,
        var=var,
        venue_key=load_venue_key(var),
        url=f"http://127.0.0.1:{port}",
    )


class Web:
    """The web server of a venue, with its database; runs until the `with` block ends."""

    def __init__(self, var: Var, database_uri: str) -> None:
        self.var = var
        self.venue_key = load_venue_key(var)
        self.database_uri = database_uri
        self.port = 0
        self.platform: Platform
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._db = open_database(self.database_uri)

    def start(self) -> None:
        self._thread.start()
        assert self._is_up.wait(PATIENCE_SECONDS), "the web server does not come up"

    def begin_to_stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def stop(self) -> None:
        with suppress(RuntimeError):  # its loop has ended already
            self.begin_to_stop()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the web server does not end"
        close(self._db)

    async def _serve(self) -> None:
        sockets = webserver.bind(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        self.platform = make_platform(self.var, self.database_uri, port=self.port)
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._loop.call_soon(self._is_up.set)
        await webserver.serve(self.platform, sockets, self._stop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns that runs on the web server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    @contextmanager
    def database(self, *, write: bool = False) -> Iterator[DAL]:
        """A transaction of the test's own."""
        with transaction(self._db, write=write):
            yield self._db

    def add_user(self, name: str, *, manager: bool = False, cash: int = CASH) -> User:
        """An account whose password is its name."""
        registration = Registration(
            username=name,
            first_name=name.title(),
            last_name="Tester",
            email=f"{name}@example.com",
            password=name,
            manager=manager,
            actual_cash=cash,
        )
        password_hash = accounts.hash_password(name, rounds=FEW_ROUNDS)
        with self.database(write=True) as db:
            return accounts.register(db, registration, password_hash, at=now())

    def add_product(self, name: str, *, by: User, port: int = 0, **changes: Any) -> Product:
        """A product whose matching server is expected at `port` (0: one where nobody listens)."""
        form = {"name": name, "description": f"{name.title()} Inc.", "unit_price": "100.00"}
        form |= {"port": str(port or free_port()), "active": "on", "allow_short": "on", **changes}
        with self.database(write=True) as db:
            product = products.register(db, products.validate(form), by=by, at=now())
        self._loop.call_soon_threadsafe(self.platform.markets.changed)
        return product

    def edit_product(self, product: Product, *, by: User, **changes: str) -> None:
        """Change fields of a product's form: `active=""` switches it off."""
        form = {"name": product.name, "description": product.description, "unit_price": "100.00"}
        form |= {"port": str(product.port), "active": "on", "allow_short": "on", **changes}
        with self.database(write=True) as db:
            products.edit(db, product.id, products.validate(form), by=by, at=now())
        self._loop.call_soon_threadsafe(self.platform.markets.changed)

    def browser(self, user: User | None = None) -> Browser:
        """A browser in which `user` is logged in (None: a stranger's)."""
        browser = Browser(self)
        if user is not None:
            with self.database(write=True) as db:
                token = accounts.open_session(db, user.id, at=now())
            name = self.platform.session_cookie
            cookie = create_signed_value(self.platform.session_secret, name, token)
            browser.session = cookie.decode("ascii")
        return browser

    def wait_until_live(self, product: Product) -> None:
        """Until both lines to the product's matching server are up."""

        def is_live() -> bool:
            market = self.platform.markets.get(product.id)
            return market is not None and market.is_live and market.can_trade

        wait_until(is_live, f"{product.name} to be live")


on_each_database = pytest.mark.parametrize("web", DATABASES, indirect=True)
"""Of a module whose tests work on both kinds of database, each with a web server of its own."""


class Market:
    """A product of a test's own, with its matching server."""

    def __init__(self, web: Web, product: Product, server: Process) -> None:
        self.web = web
        self.product = product
        self.server = server

    def order(self, browser: Browser, text: str, **fields: object) -> Response:
        """Place an order as a page does: `buy 100@50.25/49.90`, price and stop optional."""
        side, _, amount = text.partition(" ")
        amount, _, stop = amount.partition("/")
        quantity, _, price = amount.partition("@")
        form = {"type": side, "quantity": quantity, "price": price, "stop": stop}
        return browser.post("/default/order", {"product": self.product.id, **form, **fields}, JSON)

    def delete(self, browser: Browser, oid: object) -> Response:
        return browser.post("/default/delete", {"product": self.product.id, "oid": oid}, JSON)

    def wait_until_something_is_sent(self) -> None:
        """Until a request that nobody has answered yet is on the line."""
        market = self.web.platform.markets.get(self.product.id)
        assert market is not None
        waiting = market.trading._waiting
        wait_until(
            lambda: any(not request.is_feed for request in list(waiting.values())),
            "a request to be on its way",
        )
        self.web.run(asyncio.sleep(0))  # it is written in the step in which it begins to wait

    def state(self, owner: User, client_id: str) -> State | None:
        """What the platform knows of an order, right after the reconciler has looked."""
        self.web.run(orders.reconcile(self.web.platform))
        with self.web.database() as db:
            intent = intents.get(db, owner.id, self.product.name, client_id)
        return intent.state if intent else None

    def available(self, owner: User) -> int:
        with self.web.database() as db:
            return portfolio.cash(db, owner.id).available

    def as_of(self) -> int:
        with self.web.database() as db:
            return portfolio.as_of(db, self.product.name)

    def journaled(self, words: str) -> int:
        """How often words stand in the journal."""
        path = self.web.var.journal_file(self.product.name)
        return path.read_text(encoding="ascii").count(words)


@contextmanager
def running_web(folder: Path, database_uri: str | None = None) -> Iterator[Web]:
    """A web server in a folder of its own, with an empty database (None: on SQLite)."""
    var = Var(folder)
    var.make()
    uri = database_uri or f"sqlite://{var.database_file}"
    migrate(uri, var)
    web = Web(var, uri)
    web.start()
    try:
        yield web
    finally:
        web.stop()


@contextmanager
def running_match(var: Var, ticker: str, port: int, *options: str) -> Iterator[Process]:
    """The matching server of a product, up."""
    arguments = ("-m", "matching.matchingserver", "-p", str(port), "-t", ticker, *options)
    with running(*arguments, var=var.root) as server:
        server.wait_for_line("listening on")
        yield server


@contextmanager
def running_log2db(web: Web, ticker: str) -> Iterator[Process]:
    """The follower that brings a product's journal into the database."""
    arguments = ("-m", "log2db", "-A", ticker, "--database", web.database_uri)
    with running(*arguments, var=web.var.root) as follower:
        yield follower


def wait_until_settled(web: Web, ticker: str) -> None:
    """Until the database has all that the journal has, but for the ticks of an idle one."""

    def is_settled() -> bool:
        lines = web.var.journal_file(ticker).read_text("ascii").splitlines()
        told = [line for line in lines if " s=" in line and ": tick " not in line]
        last = max(int(line.rpartition(" s=")[2].split()[0]) for line in told)
        with web.database() as db:
            return portfolio.as_of(db, ticker) >= last

    wait_until(is_settled, f"log2db to follow {ticker}")


class Wire:
    """A line to a server (a matching server, a database) that a test can cut.

    It carries bytes both ways; while `is_deaf`, what the server says is lost: so many bytes.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.is_deaf = False
        self.lost = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                near.close()
                continue
            self._ends += [near, far]
            for source, sink, comes_from_server in ((near, far, False), (far, near, True)):
                thread = threading.Thread(
                    target=self._carry, args=(source, sink, comes_from_server)
                )
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket, comes_from_server: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if comes_from_server and self.is_deaf:
                    self.lost += len(data)
                else:
                    sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()  # the other direction's thread closes the other end

    def cut(self) -> None:
        """End every connection; new ones can be made."""
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
