"""HTTP on a product's port (PROTOCOL §3): the orders of 2010, the public state, health, metrics.

Handlers translate between HTTP and the exchange, and decide nothing. A POST waits for its answer,
which comes when it is durable; everything else shows the state after the last durable batch.
Errors are JSON in one form, and their code says the status.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from prometheus_client import generate_latest
from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from matching.exchange import Answer, Message, Reply
from matching.marketdata import JsonObject
from matching.order import format_price
from matching.realtime import SLICE_BYTES, RealtimeHandler
from matching.server import Server

BODY_LIMIT = 16 * 1024
"""The largest body of a POST: an order is a few hundred bytes."""

STATUS_OF_CODE = {
    "bad_syntax": 400,
    "bad_request": 400,
    "bad_signature": 401,
    "stale_timestamp": 401,
    "not_owner": 403,
    "venue_only": 403,
    "unknown_ticker": 404,
    "too_large": 413,
    "throttled": 429,
    "busy": 503,
    "no_space": 503,
    "not_ready": 503,
}
"""The HTTP status of an error code (PROTOCOL §3); all others are 422."""

_log = logging.getLogger("matchingserver")

_encode = msgspec.json.Encoder().encode


def application(server: Server) -> Application:
    """The pages of one product."""
    arguments = {"server": server}
    return Application(
        [
            (r"/", MainHandler, arguments),
            (r"/quote/?", QuoteHandler, arguments),
            (r"/query/?", QueryHandler, arguments),
            (r"/time/?", TimeHandler, arguments),
            (r"/realtime/?", RealtimeHandler, arguments),
            (r"/health/live", LiveHandler, arguments),
            (r"/health/ready", ReadyHandler, arguments),
            (r"/metrics", MetricsHandler, arguments),
        ],
        default_handler_class=MissingHandler,
        default_handler_args=arguments,
        log_function=_log_request,
    )


def _log_request(handler: RequestHandler) -> None:
    """Requests are not logged: orders go to the journal. Our own faults are.

    503 is none: somebody is told that the server stops, is busy, or has no space.
    """
    if handler.get_status() >= 500 and handler.get_status() != 503:
        _log.warning(
            "%s %s: %d", handler.request.method, handler.request.path, handler.get_status()
        )


class JsonHandler(RequestHandler):
    """What all HTTP handlers share: headers, JSON, and errors in one form."""

    def set_default_headers(self) -> None:
        self.set_header("Server", "EMTE")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def write_error(self, status_code: int, **details: Any) -> None:
        self.refuse(error_of("bad_request", self._reason), status=status_code)

    def refuse(self, error: JsonObject, *, status: int | None = None) -> None:
        """Finish with an error object; its code says the status."""
        self.set_status(status or STATUS_OF_CODE.get(error["code"], 422))
        if self.get_status() in (429, 503):
            self.set_header("Retry-After", "1")
        self.finish_json({"error": error})

    def finish_json(self, message: JsonObject) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(_encode(message))


class Handler(JsonHandler):
    """A handler of a server that is served."""

    def initialize(self, server: Server) -> None:
        self.server = server

    def log_exception(self, *details: Any) -> None:
        super().log_exception(*details)
        # If it broke the exchange, the next batch, which ends the server, must not wait for others.
        self.server.commit.schedule()

    async def finish_pieces(self, pieces: Iterable[bytes]) -> None:
        """Finish with JSON that is made piece by piece; between slices others have their turn."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        size = 0
        self.server.long_answers += 1
        try:
            for piece in pieces:
                self.write(piece)
                size += len(piece)
                if size >= SLICE_BYTES:
                    size = 0
                    await self.flush()
                    await asyncio.sleep(0)
            self.finish()
        except StreamClosedError:
            return  # nobody reads the rest
        finally:
            self.server.long_answers -= 1

    def finish_text(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text)


class HttpRecipient:
    """Hands the one answer of a POST to its handler."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def deliver(self, message: Message) -> None:
        assert isinstance(message, Reply)
        if not self.answer.done():
            self.answer.set_result(message.answer)


@stream_request_body
class MainHandler(Handler):
    """`POST /`: one signed command, as in 2010. `GET /`: a page that shows the feed."""

    def prepare(self) -> None:
        self._body = bytearray()
        self._size = 0

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= BODY_LIMIT:
            self._body += chunk

    def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", _PAGE_POLICY)
        self.finish(_PAGE.replace("TICKER", self.server.exchange.ticker))

    async def post(self) -> None:
        if self._size > BODY_LIMIT:
            self.refuse(error_of("too_large", f"a body has at most {BODY_LIMIT} bytes"))
            return
        if self.server.is_stopping:
            self.refuse(error_of("not_ready", "the server stops"))
            return
        try:
            text, signature = _form(bytes(self._body), self.request.headers.get("Content-Type"))
        except ValueError as error:
            self.refuse(error_of("bad_request", str(error)))
            return
        recipient = HttpRecipient()
        trusted = self.server.trusts(self.request.remote_ip or "")
        self.server.exchange.submit(text, signature, recipient, trusted=trusted)
        self.server.commit.schedule()
        try:
            answer = await recipient.answer
        except asyncio.CancelledError:
            # The process ends, and whether the command is on the disk nobody knows. Tornado would
            # say 500; who hears nothing asks again.
            self.detach().close()
            raise
        if answer.error is not None:
            self.refuse(answer.to_dict()["error"])
        elif "application/json" in self.request.headers.get("Accept", ""):
            await self.finish_pieces(answer.pieces({"type": "answer"}))
        else:
            self.finish_text(answer.to_text())


def _form(body: bytes, content_type: str | None) -> tuple[str, str]:
    """The fields `order` and `signature`, once each, nothing else; ValueError with a sentence."""
    if (content_type or "").split(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise ValueError("expected a form: Content-Type: application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=16,
        )
    except ValueError as error:
        raise ValueError("the body is not a form") from error
    for name, _ in pairs:
        if name not in ("order", "signature"):
            raise ValueError(f"the form has a field {name[:40]!r}; expected order and signature")
    for name in ("order", "signature"):
        if [each for each, _ in pairs].count(name) != 1:
            raise ValueError(f"the form needs the field {name} once")
    fields = dict(pairs)
    return fields["order"], fields["signature"]


class QuoteHandler(Handler):
    def get(self) -> None:
        self.finish_text(format_price(self.server.exchange.quote()))


class QueryHandler(Handler):
    async def get(self) -> None:
        await self.finish_pieces(self.server.exchange.query().pieces())


class TimeHandler(Handler):
    def get(self) -> None:
        self.finish_text(str(self.server.exchange.now() // 1000))


class LiveHandler(Handler):
    def get(self) -> None:
        self.finish_json({"live": True})


class ReadyHandler(Handler):
    def get(self) -> None:
        ready = not self.server.is_stopping
        if not ready:
            self.set_status(503)
            self.set_header("Retry-After", "1")
        exchange = self.server.exchange
        self.finish_json(
            {
                "ready": ready,
                "seq": exchange.feed.seq,
                "free_bytes": exchange.free_space,
                "alarms": self.server.alarms.sentences,
            }
        )


class MetricsHandler(Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(generate_latest(self.server.metrics))


class MissingHandler(Handler):
    def prepare(self) -> None:
        raise HTTPError(404, reason="there is no such page")


def error_of(code: str, message: str) -> JsonObject:
    """An error as PROTOCOL §3 has it, without a rule."""
    return {"code": code, "rule": "", "message": message}


_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " connect-src 'self' ws: wss:"
)

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>TICKER - EMTE matching server</title>
<style>
  body { background: #0b0e11; color: #d5dde5; font: 14px/1.5 ui-monospace, monospace; margin: 2rem }
  h1 { font-size: 1.2rem } a { color: #6cb2ff }
  table { border-collapse: collapse; display: inline-table; margin-right: 3rem }
  table { vertical-align: top }
  td, th { padding: 0 .8rem; text-align: right; font-variant-numeric: tabular-nums }
  caption { text-align: left; color: #8b98a5 } .buy { color: #3ddc97 } .sell { color: #ff6b6b }
</style>
<h1>TICKER</h1>
<p id="state">connecting ...</p>
<table><caption>bids</caption><tbody id="bids"></tbody></table>
<table><caption>asks</caption><tbody id="asks"></tbody></table>
<table><caption>trades</caption><tbody id="trades"></tbody></table>
<p>This page watches and does not trade. <a href="/query">/query</a> <a href="/quote">/quote</a>
<a href="/metrics">/metrics</a></p>
<script>
"use strict";
const sides = { bids: new Map(), asks: new Map() };
let trades = [], state = {};
function take(message) {
  if (message.type === "snapshot") { sides.bids.clear(); sides.asks.clear(); trades = []; }
  for (const name of ["bids", "asks"])
    for (const [price, quantity, orders] of message[name] || [])
      if (quantity) sides[name].set(price, [price, quantity, orders]);
      else sides[name].delete(price);
  trades = trades.concat(message.trades || []).slice(-20);
  for (const name of ["seq", "phase", "last"]) if (name in message) state[name] = message[name];
}
function rows(id, cells, kind) {
  document.getElementById(id).replaceChildren(...cells.map(texts => {
    const row = document.createElement("tr");
    for (const text of texts) {
      const cell = row.appendChild(document.createElement("td"));
      cell.textContent = text; cell.className = kind(texts);
    }
    return row;
  }));
}
function show() {
  const order = { bids: -1, asks: 1 };
  for (const name of ["bids", "asks"])
    rows(name, [...sides[name].values()].sort((a, b) => order[name] * (a[0] - b[0])).slice(0, 20),
         () => name === "bids" ? "buy" : "sell");
  const texts = t => [t.time.slice(11, 19), t.quantity, t.price, t.taker];
  rows("trades", trades.slice().reverse().map(texts), cells => cells[3]);
  document.getElementById("state").textContent =
    `${state.phase}, last ${state.last ?? "none yet"}, record ${state.seq}`;
}
function connect() {
  const url = new URL("realtime", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.onmessage = event => { take(JSON.parse(event.data)); show(); };
  socket.onclose = () => {
    document.getElementById("state").textContent = "the server is away; trying again ...";
    setTimeout(connect, 1000);
  };
}
connect();
</script>
</html>
"""
