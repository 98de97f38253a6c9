"""Connection: what stands behind the addresses of a product's form, before it is stored.

The web server asks them itself, as it will when the product trades: a price at the Quote Url, the
product's state and what an operator should look after beside it (PROTOCOL §3), a hello at the Ws
Url (§4). Rules that differ are no fault: the platform tells its own. Only addresses that a product
may have are asked, for two seconds, without following to others; what they answer is bounded.
"""

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import HTTPTimeoutError
from tornado.websocket import WebSocketError, websocket_connect

from app.controllers import rules
from app.models.products import ProductForm
from matching.order import format_price, parse_price

WAIT_SECONDS = 2.0

ANSWER_LIMIT = 4 * 1024 * 1024
"""The largest answer that is read, in bytes: `/query` tells every level, at some 20 bytes each."""

NO_RESPONSE = 599
"""Tornado's status for a response that never came."""

SHOWN_LENGTH = 40
"""How much of a strange value is shown."""

ALARM_LENGTH = 300
"""How much of an alarm is shown: ours are shorter."""

ALARMS_SHOWN = 10


class NotThere(Exception):
    """An address does not answer as a matching server does; the sentence says how."""


class State(msgspec.Struct):
    """What `/query` tells and a form says too; the rest of it is left unread."""

    ticker: str
    tick: str
    lot: int
    reference: str
    rules: dict[str, str]


class Health(msgspec.Struct):
    """What `/health/ready` tells, as far as it matters here."""

    alarms: list[str]


async def examine(form: ProductForm) -> dict[str, Any]:
    """What came of asking: `is_well`, and `lines`, a sentence each, to show."""
    try:
        price = await _price(form.quote_url)
        state = await _state(_beside(form.quote_url, "/query"))
        alarms = await _alarms(_beside(form.quote_url, "/health/ready"))
        differences = list(_differences(form, state))
        ticker = await _greeting(form.ws_url)
    except NotThere as not_there:
        return {"is_well": False, "lines": [str(not_there)]}
    if ticker != state.ticker:
        differences.append(f"{form.ws_url} is the feed of {_shown(ticker)}")
    if differences:
        return {"is_well": False, "lines": differences}
    server = urlsplit(form.quote_url).netloc
    grid = f"tick {format_price(form.tick)}, lot {form.lot}"
    answer = f"{form.name} answers at {server}, with {grid}, at {format_price(price)}"
    if alarms:
        return {"is_well": False, "lines": [f"{answer}. Its operator is needed:", *alarms]}
    line = f"All is well: {answer}"
    differing = rules.differences(form, state.rules)
    others = [f"{name} {_shown(in_force or '')}" for name, _, in_force in differing]
    later = f"In force there: {', '.join(others)}; it is told this form's when that is stored"
    return {"is_well": True, "lines": [line, later] if others else [line]}


def _beside(quote_url: str, path: str) -> str:
    """Another address of the same server.

    >>> _beside("http://127.0.0.1:8881/quote", "/query")
    'http://127.0.0.1:8881/query'
    """
    return urlsplit(quote_url)._replace(path=path).geturl()


def _differences(form: ProductForm, state: State) -> Iterator[str]:
    """Where the matching server and the form do not agree, a sentence for each."""
    pairs = (
        ("ticker", state.ticker, form.name),
        ("tick", _plain(state.tick), format_price(form.tick)),
        ("lot", str(state.lot), str(form.lot)),
        ("reference price", _plain(state.reference), format_price(form.unit_price)),
    )
    for what, there, here in pairs:
        if there != here:
            yield f"The {what} is {_shown(there)} there, and {here} in this form"


def _plain(price: str) -> str:
    """A price as we write it, if it is one."""
    try:
        return format_price(parse_price(price))
    except ValueError:
        return price


def _shown(text: str, length: int = SHOWN_LENGTH) -> str:
    return text if text.isprintable() and 0 < len(text) <= length else repr(text[:length])


async def _price(quote_url: str) -> int:
    body = await _get(quote_url)
    try:
        return parse_price(body.decode("ascii").strip())
    except ValueError as error:
        raise NotThere(f"{quote_url} does not answer with a price") from error


async def _state(query_url: str) -> State:
    body = await _get(query_url)
    try:
        return msgspec.json.decode(body, type=State)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotThere(f"{query_url} does not answer with the state of a product") from error


async def _alarms(ready_url: str) -> list[str]:
    body = await _get(ready_url)
    try:
        alarms = msgspec.json.decode(body, type=Health).alarms
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotThere(f"{ready_url} does not answer with the health of a server") from error
    return [_shown(alarm, ALARM_LENGTH) for alarm in alarms[:ALARMS_SHOWN]]


async def _get(url: str) -> bytes:
    client = AsyncHTTPClient(force_instance=True, max_body_size=ANSWER_LIMIT)
    try:
        # Not unpacked: a small answer could be a large one.
        response = await client.fetch(_request(url, decompress_response=False))
    except (OSError, HTTPError) as error:
        if isinstance(error, HTTPError) and error.code != NO_RESPONSE:
            raise NotThere(f"{url} answers with HTTP status {error.code}") from error
        raise NotThere(f"{url} gives no answer: {_reason(error)}") from error
    finally:
        client.close()
    return bytes(response.body)


async def _greeting(ws_url: str) -> str:
    """The ticker in the hello of a feed."""
    try:
        connection = await websocket_connect(_request(ws_url), max_message_size=ANSWER_LIMIT)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                hello = await connection.read_message()
        finally:
            connection.close()
    except (OSError, HTTPError, WebSocketError) as error:
        raise NotThere(f"{ws_url} opens no WebSocket: {_reason(error)}") from error
    try:
        return msgspec.json.decode(hello or "", type=Hello).ticker
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotThere(f"{ws_url} does not greet as a matching server does") from error


class Hello(msgspec.Struct, tag_field="type", tag="hello"):
    """The first frame of a feed, as far as it matters here."""

    ticker: str


def _request(url: str, **options: Any) -> HTTPRequest:
    return HTTPRequest(
        url,
        connect_timeout=WAIT_SECONDS,
        request_timeout=WAIT_SECONDS,
        follow_redirects=False,
        **options,
    )


def _reason(error: BaseException) -> str:
    """Why nothing came, in a few words."""
    if isinstance(error, TimeoutError | HTTPTimeoutError):
        return f"nothing within {WAIT_SECONDS:g} s"
    if isinstance(error, StreamClosedError) and error.real_error is not None:
        return _reason(error.real_error)
    is_cut = isinstance(error, ConnectionResetError | BrokenPipeError)
    if isinstance(error, OSError) and error.strerror and not is_cut:
        return error.strerror.lower()
    if isinstance(error, HTTPError) and error.code != NO_RESPONSE:
        return f"HTTP status {error.code}"
    return "it closes the connection, or speaks no HTTP"
