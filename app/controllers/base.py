"""Pages: how a function becomes one. Who may see it, its session, its transaction, its answer.

    @expose(Audience.TRADERS, view="default/pandl.html", table="rows", columns=TRADE_COLUMNS)
    def pandl(db: DAL, request: Request, product: int) -> Result: …

A plain function runs in a worker thread, inside one transaction (reading for GET, writing for
POST), and is handed the database; an `async def` runs on the loop and is not. What it returns is
what the page shows: as HTML, as JSON at `.json`, its table as `.csv`; so it never returns a whole
row. It may return a Redirect, and raise a Problem, an answer with a code and a sentence.
"""

import asyncio
import csv
import dataclasses
import hashlib
import inspect
import io
import json
import logging
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from http.client import responses
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import jinja2
from tornado import httputil
from tornado.web import HTTPError, RequestHandler, stream_request_body

from app.controllers.curves import Curves
from app.controllers.markets import Markets
from app.controllers.throttle import Throttle
from app.controllers.transactions import Transactions
from app.models import accounts, menu, settings
from app.models.accounts import User
from app.models.db import DAL, DatabaseAway, now
from app.models.figures import cents, grouped
from app.models.settings import Smtp
from matching import signing
from matching.config import Var
from matching.order import parse_price

VIEWS = Path(__file__).resolve().parent.parent / "views"

BODY_LIMIT = 64 * 1024
"""The largest form, in bytes; more is answered with 413."""

BUSY_RETRY_SECONDS = 1
"""When to come back after a 503 that names no time (PROTOCOL §3)."""

ERROR_CODES = {403: "forbidden", 404: "not_found", 405: "method_not_allowed"}
"""The codes of what no page of ours has refused, by status."""

HOPELESS = {"not_found", "method_not_allowed", "managers_only"}
"""To load the page again would tell who got one of these the same."""

HOME = "/default/products"
LOGIN = "/default/user/login"

HASHES_WAITING = 32
"""More passwords than these, waiting to be hashed, and the next one is told to come back."""

ERRANDS = 100
"""More e-mails than these, waiting to be sent, and the next who asks for one comes back later."""

FORM_KINDS = ("application/x-www-form-urlencoded", "multipart/form-data")

SIGN_UPS_AN_ADDRESS = 500
"""So many sign up from one address in a window of the throttle: a hall of students may share it."""

LINKS_A_NAME = 5
"""So many links to a new password are mailed for one name in a window of the throttle."""

SECONDS_A_DAY = 24 * 3600

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; font-src 'self'; manifest-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}

log = logging.getLogger("webserver")

T = TypeVar("T")


class Audience(Enum):
    """Who may see a page."""

    EVERYONE = "everyone"
    TRADERS = "whoever is logged in"
    MANAGERS = "managers"


class Problem(Exception):
    """The request is not answered as asked: status, code and sentence, in PROTOCOL §3's form."""

    def __init__(
        self, status: int, code: str, message: str, *, rule: str = "", retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.rule = rule
        self.message = message
        self.retry_after = retry_after or (BUSY_RETRY_SECONDS if status == 503 else 0)


@dataclass(frozen=True)
class Redirect:
    """Lead the browser on, with a message that the next page says once.

    `session` is the token of a session that begins here; "" forgets the present one.
    """

    location: str
    message: str = ""
    is_error: bool = False
    session: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a page shows, where the status is not 200.

    With a problem, a person gets the page (a form keeps what was typed), a program the error.
    """

    status: int
    values: dict[str, Any]
    problem: Problem | None = None


Result = dict[str, Any] | Answer | Redirect


class Platform:
    """What one web server holds for as long as it runs."""

    def __init__(
        self,
        database_uri: str,
        *,
        var: Var,
        venue_key: str,
        url: str,
        smtp: Smtp | None = None,
        manager_signup: bool = True,
    ) -> None:
        self.var = var
        self.url = url
        self.smtp = smtp
        self.manager_signup = manager_signup
        self.session_secret = signing.web_session_secret(venue_key)
        # Browsers share cookies between all ports of a host: without its mark, a venue would log
        # out whoever is logged in at another one there.
        mark = hashlib.sha256(self.session_secret.encode("ascii")).hexdigest()[:8]
        self.session_cookie = f"emte_session_{mark}"
        self.message_cookie = f"emte_message_{mark}"
        self.transactions = Transactions(database_uri)
        self.markets = Markets(venue_key)
        self.curves = Curves()
        self.throttle = Throttle()
        self.sign_ups = Throttle(address_limit=SIGN_UPS_AN_ADDRESS)
        self.resets = Throttle(name_limit=LINKS_A_NAME)
        self.errands: set[asyncio.Task[None]] = set()
        self.mailing = ThreadPoolExecutor(1, thread_name_prefix="mail")
        self.hashing = ThreadPoolExecutor(2, thread_name_prefix="hashing")
        self.hashes_waiting = 0
        self._is_closing = False

    async def hash(self, work: Callable[[], T]) -> T:
        """The result of work on a password, done in a thread of its own kind."""
        if self.hashes_waiting >= HASHES_WAITING:
            raise Problem(503, "busy", "Too many people log in at once. Try again", retry_after=2)
        self.hashes_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self.hashing, self._unless_closing, work
            )
        finally:
            self.hashes_waiting -= 1

    def _unless_closing(self, work: Callable[[], T]) -> T:
        if self._is_closing:
            raise Problem(503, "busy", "The web server ends. Try again", retry_after=2)
        return work()

    def start_errand(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that the answer must not wait for, nor tell of."""
        if len(self.errands) >= ERRANDS:
            work.close()
            raise Problem(503, "busy", "Too many e-mails are waiting. Try again", retry_after=30)
        errand = asyncio.create_task(work)
        self.errands.add(errand)
        errand.add_done_callback(self.errands.discard)

    def close(self) -> None:
        """End the worker threads. Who is being answered by a mail server is not waited for."""
        self._is_closing = True
        self.mailing.shutdown(wait=False, cancel_futures=True)
        self.hashing.shutdown(wait=False)
        self.transactions.close()


@dataclass(frozen=True)
class Request:
    """What a page's function is told of the request."""

    platform: Platform
    user: User | None
    method: str
    path: str
    query: Mapping[str, str]
    form: Mapping[str, str]
    address: str
    session: str
    xsrf: str
    wants_json: bool
    wants_csv: bool

    @property
    def trader(self) -> User:
        """The user, on a page that strangers do not get to see."""
        assert self.user is not None
        return self.user


@dataclass(frozen=True)
class Page:
    """An exposed function: what routes.py puts behind a URL."""

    function: Callable[..., Any]
    audience: Audience
    view: str | None
    methods: Sequence[str]
    fields: Sequence[str]
    table: str | None
    columns: Sequence[str]

    @property
    def awaits(self) -> bool:
        return inspect.iscoroutinefunction(self.function)


def expose(
    audience: Audience,
    *,
    view: str | None = None,
    methods: Sequence[str] = ("GET",),
    fields: Sequence[str] = (),
    table: str | None = None,
    columns: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Page]:
    """Make a function a page.

    view: the template of its HTML form; a page without one speaks JSON only. fields: what its form
    may hold; anything else is refused. table: the name of its value that is a list of rows, and
    columns: the names in each of these rows, so that a table without rows has its heading too.
    """
    if (table is None) != (not columns):
        raise ValueError("a table and its columns go together")
    return lambda function: Page(function, audience, view, methods, fields, table, columns)


def local_path(text: str, default: str) -> str:
    """`text` if it leads to a page of ours, else `default`: a log-in must not lead elsewhere.

    >>> local_path("/default/trade/3?simple=1", "/"), local_path("//evil.example/x", "/")
    ('/default/trade/3?simple=1', '/')
    """
    return text if re.fullmatch(r"/default/[A-Za-z0-9_./?=&%-]*", text, re.ASCII) else default


def sparkline(prices: Sequence[str], width: int = 100, height: int = 28) -> str:
    """The points of an SVG polyline through prices, oldest at the left, the highest at the top.

    >>> sparkline(["100.00", "101.00", "100.50"])
    '0,27 50,1 100,14'
    """
    values = [parse_price(price) for price in prices]
    low, spread = min(values, default=0), max(values, default=0) - min(values, default=0)
    return " ".join(
        f"{index * width / max(len(values) - 1, 1):.4g},"
        f"{height - 1 - (value - low) * (height - 2) / (spread or 1):.4g}"
        for index, value in enumerate(values)
    )


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(VIEWS),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters["grouped"] = grouped
_templates.filters["cents"] = cents
_templates.filters["sparkline"] = sparkline


class PlatformHandler(RequestHandler):
    """What every answer of the platform has: headers, and cookies out of scripts' reach.

    What cannot be answered is refused as a program reads it; pages do so for people too.
    """

    platform: Platform
    methods: Sequence[str] = ("GET", "HEAD")

    def set_default_headers(self) -> None:
        for name, value in SECURITY_HEADERS.items():
            self.set_header(name, value)
        if self.is_https:  # at a plain address in the network browsers ignore it, and complain
            self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")
        self.clear_header("Server")

    def set_cookie(self, name: str, value: str | bytes, *args: Any, **options: Any) -> None:
        options |= {"httponly": True, "samesite": "Lax", "secure": self.is_https}
        super().set_cookie(name, value, *args, **options)

    def refuse(self, problem: Problem) -> None:
        """Finish with PROTOCOL §3's form of an error."""
        self.announce(problem)
        self.finish_json({"error": problem_to_dict(problem)})

    def finish_json(self, values: Mapping[str, Any]) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(values))

    def announce(self, problem: Problem) -> None:
        """What a problem says in the head of its answer."""
        self.set_status(problem.status)
        if problem.status == 405:
            self.set_header("Allow", ", ".join(self.methods))
        if problem.retry_after:
            self.set_header("Retry-After", str(problem.retry_after))

    def write_error(self, status_code: int, **_: Any) -> None:
        """Refuse what Tornado would not take, or what went wrong here: then its log says more."""
        message = "Something went wrong here. It is in the server's log; nothing was changed."
        if status_code == 405:
            message = self._what_is_taken()
        elif status_code < 500:
            message = responses.get(status_code, "This request cannot be answered")
        code = "internal" if status_code >= 500 else ERROR_CODES.get(status_code, "bad_request")
        self.refuse(Problem(status_code, code, message))

    def _what_is_taken(self) -> str:
        taken = " or ".join(method for method in self.methods if method != "HEAD")
        nothing = "" if "GET" in self.methods else ": there is nothing to see"
        return f"This address takes {taken} only{nothing}"

    @property
    def is_https(self) -> bool:
        """Whether the browser speaks TLS: to us, or to a proxy on this machine that says so."""
        forwarded = self.request.headers.get("X-Forwarded-Proto") if self._is_local else None
        return "https" in (self.request.protocol, forwarded)

    @property
    def address(self) -> str:
        """The browser's address: the one that connected, or that a proxy on this machine names."""
        forwarded = self.request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        return forwarded if self._is_local and forwarded else self.request.remote_ip or ""

    @property
    def _is_local(self) -> bool:
        return self.request.remote_ip in ("127.0.0.1", "::1")

    @property
    def session(self) -> str:
        """The token that the session's cookie holds; "" if there is none of ours."""
        return (self.get_signed_cookie(self.platform.session_cookie) or b"").decode(
            "ascii", "replace"
        )


@stream_request_body
class PageHandler(PlatformHandler):
    """Answers the requests to a Page.

    The body is streamed, so that one too large is never kept; but it is read, since a browser that
    is still sending hears no answer (webserver.DISCARD_LIMIT says when its line is cut instead).
    """

    def initialize(self, platform: Platform, page: Page) -> None:
        self.platform = platform
        self.page = page
        self.methods = ("GET", "HEAD", *page.methods[1:]) if "GET" in page.methods else page.methods
        self.user: User | None = None
        self.body = bytearray()
        self.is_too_large = False
        self.format = "json" if self._accepts_json() else "html"

    def _accepts_json(self) -> bool:
        return "application/json" in self.request.headers.get("Accept", "")

    # -- the body

    def prepare(self) -> None:
        self.format = self.path_kwargs.get("format") or self.format

    def data_received(self, chunk: bytes) -> None:
        self.is_too_large |= len(self.body) + len(chunk) > BODY_LIMIT
        if self.is_too_large:
            self.body.clear()
        else:
            self.body += chunk

    def _read_form(self) -> dict[str, str]:
        """The form's fields: each of those that the page asks for, at most once, and no other."""
        kind = self.request.headers.get("Content-Type", "")
        if self.body and not kind.lower().startswith(FORM_KINDS):
            raise Problem(400, "bad_request", f"A form is sent as {FORM_KINDS[0]}")
        files: dict[str, list[httputil.HTTPFile]] = {}
        try:
            httputil.parse_body_arguments(
                kind,
                bytes(self.body),
                self.request.body_arguments,
                files,
                self.request.headers,
            )
            given = {
                name: [value.decode("utf-8") for value in values]
                for name, values in self.request.body_arguments.items()
            }
        except (httputil.HTTPInputError, UnicodeDecodeError) as error:
            raise Problem(400, "bad_request", "The form cannot be read") from error
        self.request.arguments |= self.request.body_arguments  # where Tornado looks for _xsrf
        for name, values in given.items():
            if name not in (*self.page.fields, "_xsrf"):
                raise Problem(400, "bad_request", f"This form has no field {name[:40]!r}")
            if len(values) > 1:
                raise Problem(400, "bad_request", f"The field {name!r} stands twice in the form")
        if files:
            raise Problem(400, "bad_request", "This form takes no files")
        return {name: values[0] for name, values in given.items() if name != "_xsrf"}

    # -- the request

    async def get(self, **arguments: str | None) -> None:
        await self._answer(arguments)

    async def head(self, **arguments: str | None) -> None:
        await self._answer(arguments)

    async def post(self, **arguments: str | None) -> None:
        await self._answer(arguments)

    async def _answer(self, arguments: dict[str, str | None]) -> None:
        keys = [int(value) for name, value in arguments.items() if value and name != "format"]
        try:
            self._show(await self._call(keys))
        except Problem as problem:
            await self._recognize()
            self.refuse(problem)
        except DatabaseAway as away:
            log.warning("database: %s", away)
            message = "The database is busy or away; nothing was changed. Try again."
            self.refuse(Problem(503, "busy", message))

    async def _recognize(self) -> None:
        """Who is told of a problem, so that the menu of its page is theirs."""
        if self.user is None and self.session and self.format == "html":
            with suppress(DatabaseAway):
                self.user = await self.platform.transactions.read(find_user, self.session)

    async def _call(self, arguments: list[int]) -> Result:
        method = "GET" if self.request.method == "HEAD" else str(self.request.method)
        self._check_form_of_address(method)
        if self.is_too_large:
            message = f"A form has at most {BODY_LIMIT // 1024} KiB"
            raise Problem(413, "too_large", message)
        form = self._read_form() if method == "POST" else {}
        if method == "POST":
            self._check_xsrf()
        session, request = self.session, self._request(method, form)
        transactions, function = self.platform.transactions, self.page.function

        if self.page.awaits:
            self.user = await transactions.read(find_user, session)
            request = dataclasses.replace(request, user=self.user)
            return self._turned_away() or await function(request, *arguments)

        def in_transaction(db: DAL) -> Result:
            self.user = find_user(db, session)
            known = dataclasses.replace(request, user=self.user)
            return self._turned_away() or function(db, known, *arguments)

        return await (transactions.write if method == "POST" else transactions.read)(in_transaction)

    def _check_form_of_address(self, method: str) -> None:
        if method not in self.methods:
            raise Problem(405, ERROR_CODES[405], self._what_is_taken())
        if self.format == "csv" and self.page.table is None:
            raise Problem(404, "not_found", "This page is not a table: it has no .csv")
        if self.format == "html" and self.page.view is None and method == "GET":
            self.format = "json"

    def _check_xsrf(self) -> None:
        try:
            self.check_xsrf_cookie()
        except HTTPError as error:
            message = "This form is too old, or not ours: load its page again, then send it"
            raise Problem(403, "bad_xsrf", message) from error

    def _request(self, method: str, form: Mapping[str, str]) -> Request:
        query = {
            name: values[-1].decode("utf-8", "replace")
            for name, values in self.request.query_arguments.items()
        }
        if any("\0" in value for value in query.values()):  # PostgreSQL takes no such text
            raise Problem(400, "bad_request", "The address holds a NUL character")
        return Request(
            platform=self.platform,
            user=None,
            method=method,
            path=self.request.path,
            query=query,
            form=form,
            address=self.address,
            session=self.session,
            xsrf=self.xsrf_token.decode("ascii") if self.format == "html" else "",
            wants_json=self.format == "json",
            wants_csv=self.format == "csv",
        )

    def _turned_away(self) -> Redirect | None:
        """Where strangers are led who may not see this page; Problem where they cannot be led."""
        if self.page.audience is Audience.EVERYONE:
            return None
        if self.user is None:
            if self.format != "html":
                raise Problem(401, "login_required", "Log in first")
            return Redirect(f"{LOGIN}?{urlencode({'_next': self._way_back()})}", "Log in first")
        if self.page.audience is Audience.MANAGERS and not self.user.manager:
            raise Problem(403, "managers_only", "Only managers may do this")
        return None

    def _way_back(self) -> str:
        """Where to go after the log-in: this page, or the page whose form was sent."""
        if self.request.method == "POST":
            came_from = urlsplit(self.request.headers.get("Referer", ""))
            return came_from.path if came_from.netloc == self.request.host else HOME
        return str(self.request.uri)

    # -- the answer

    def _show(self, result: Result) -> None:
        if isinstance(result, Redirect):
            self._lead_on(result)
            return
        answer = result if isinstance(result, Answer) else Answer(200, result)
        self.set_status(answer.status)
        if answer.problem is not None:
            self.announce(answer.problem)
        if self.format == "json":
            problem = answer.problem
            error = {"error": problem_to_dict(problem)} if problem else answer.values
            self.finish_json(error)
        elif self.format == "csv":
            assert self.page.table is not None
            self._show_csv(self.page.columns, answer.values[self.page.table])
        else:
            assert self.page.view is not None
            self._show_html(self.page.view, answer.values)

    def _lead_on(self, redirect: Redirect) -> None:
        cookie = self.platform.session_cookie
        if redirect.session is not None:
            if redirect.session:
                days = settings.SESSION_SECONDS / SECONDS_A_DAY
                self.set_signed_cookie(cookie, redirect.session, expires_days=days)
            else:
                self.clear_cookie(cookie)
        if redirect.message:
            message = {"text": redirect.message[:500], "error": redirect.is_error}
            name = self.platform.message_cookie
            self.set_signed_cookie(name, json.dumps(message), expires_days=None)
        self.redirect(redirect.location, status=303)

    def _show_csv(self, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        self.finish(write_csv(columns, rows))

    def _show_html(self, view: str, values: Mapping[str, Any]) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        frame = {
            "user": self.user,
            "xsrf": self.xsrf_token.decode("ascii"),
            "path": self.request.path,
            "menu": menu.main_menu(self.user),
            "account": menu.user_menu(self.user),
            "messages": self._take_messages(),
        }
        self.finish(_templates.get_template(view).render(**frame, **values))

    def _take_messages(self) -> list[dict[str, str]]:
        """What a redirect wanted said on this page; said once."""
        cookie = self.get_signed_cookie(self.platform.message_cookie)
        if cookie is None:
            return []
        self.clear_cookie(self.platform.message_cookie)
        message = json.loads(cookie)
        return [{"kind": "error" if message["error"] else "flash", "text": message["text"]}]

    def refuse(self, problem: Problem) -> None:
        if self.format != "html":
            super().refuse(problem)
            return
        self.announce(problem)
        can_try_again = "GET" in self.methods and problem.code not in HOPELESS
        values = {
            "status": problem.status,
            "title": responses.get(problem.status, "Error"),
            "message": problem.message,
            "again": self.request.path if can_try_again else None,
        }
        self._show_html("default/error.html", values)


def find_user(db: DAL, session: str) -> User | None:
    """Whose session this is; None for strangers."""
    return accounts.session_user(db, session, at=now()) if session else None


def problem_to_dict(problem: Problem) -> dict[str, str]:
    """PROTOCOL §3's form of an error."""
    return {"code": problem.code, "rule": problem.rule, "message": problem.message}


def write_csv(columns: Sequence[str], rows: list[dict[str, Any]]) -> str:
    """A table with a heading. Text that a spreadsheet would take for a formula is quoted for it.

    >>> write_csv(["name", "text", "change"], [{"name": "gs", "text": "=1+1", "change": "-0.50"}])
    "name,text,change\\r\\ngs,'=1+1,-0.50\\r\\n"
    """
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(columns)
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{row} has other columns than {columns}")

        writer.writerow([_for_spreadsheets(row[name]) for name in columns])
    return table.getvalue()


def _for_spreadsheets(value: Any) -> Any:
    is_formula = isinstance(value, str) and re.match(r"[=@+\t\r]|-(?![0-9.]+\Z)", value)
    return f"'{value}" if is_formula else value
