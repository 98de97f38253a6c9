"""A client: it wants commands carried out, and sends each until it knows what became of it.

It speaks over a wire it logged in on, or by signed posts. When an answer does not come it sends the
command again: the same signed bytes as long as they are fresh, any order with an id in any case.
An order without an id that was sent unsigned cannot be sent again; then it never knows.
"""

import random
from collections.abc import Callable, Iterable
from functools import partial

from matching import protocol, signing
from matching.exchange import Answer, OpenOrders, OrderChange, Replies, Reply
from matching.order import Command, Login, Phase
from tests.simulation.commands import OWNERS, TICKER, CommandWriter
from tests.simulation.machine import Machine
from tests.simulation.net import Message, Post, Wire
from tests.simulation.promises import Promises
from tests.simulation.server import VENUE_KEY, Server

FRESH_SECONDS = 4.0
"""So long a signature is sent again; the server takes it for 5 s."""

PASSING = frozenset({"busy", "stale_timestamp", "bad_signature", "not_ready", "no_space"})
"""Codes after which the same command may well pass."""


class Request:
    """One command that a client wants carried out, and what it knows of it."""

    __slots__ = ("client_id", "command", "is_settled", "owner", "signed", "signed_at", "text")

    def __init__(self, owner: int, text: str) -> None:
        command = protocol.parse(text)
        assert not isinstance(command, Login)
        self.owner = owner
        self.text = text
        self.command: Command = command
        self.client_id = (
            getattr(command, "client_id", "") if "buy" in text or "sell" in text else ""
        )
        self.is_settled = False
        self.signed: tuple[str, str] | None = None
        self.signed_at = 0.0


class Client:
    """One owner; owner 0 is the venue, who speaks for the house too.

    `server` tells who listens now, None: nobody.
    """

    def __init__(
        self,
        owner: int,
        machine: Machine,
        writer: CommandWriter,
        promises: Promises,
        server: Callable[[], Server | None],
    ) -> None:
        self.owner = owner
        self.requests: list[Request] = []
        self._machine = machine
        self._rng: random.Random = machine.rng
        self._writer = writer
        self._promises = promises
        self._server = server
        self._wire: Wire | None = None
        self._asked: dict[int, list[Request]] = {}
        self._req = 0
        self._oids: list[int] = []
        self._generation = 1
        self._lead_ms = 0
        """How far the server's clock is ahead of the machine's true time, as far as is known."""

    # -- what a client does

    def act(self) -> None:
        """Do one thing."""
        chance = self._rng.random()
        wire = self._wire
        if wire is None or not wire.is_open or not wire.server.is_alive:
            if chance < 0.7:
                self._connect()
            else:
                self._post(self._new_request())
        elif chance < 0.6:
            self._send(self._new_request())
        elif chance < 0.7:
            self._send_many([self._new_request() for _ in range(self._rng.randint(2, 9))])
        elif chance < 0.8:
            self._post(self._new_request())
        elif chance < 0.86:
            self._resend_any()
        elif chance < 0.93:
            self._ask(wire)
        else:
            wire.cut()

    def disconnect(self) -> None:
        if self._wire is not None:
            self._wire.cut()

    def resolve(self) -> bool:
        """Send what is not settled, once more; whether there is nothing."""
        open_requests = [each for each in self.requests if each.client_id and not each.is_settled]
        wire = self._wire
        if wire is None or not wire.is_open or not wire.server.is_alive:
            if open_requests:
                self._connect()
            return not open_requests
        for request in open_requests:
            self._send(request)
        return not open_requests

    def ask_again(self) -> None:
        """Send some settled ids once more: they must have the same end."""
        wire = self._wire
        if wire is not None and wire.is_open:
            for request in [each for each in self.requests if each.client_id][-5:]:
                self._send(request)

    def _new_request(self) -> Request:
        rng, writer = self._rng, self._writer
        owner = self.owner
        kind = rng.random()
        if owner == 0 and kind < 0.5:
            server = self._server()
            phase = server.exchange.feed.phase if server is not None else Phase.CONTINUOUS
            text = writer.venue(phase)
        else:
            if owner == 0 and rng.random() < 0.3:
                owner = rng.choice(OWNERS)
            kind = rng.random()
            if kind < 0.68:
                client_id = f"{self.owner}-{len(self.requests)}" if rng.random() < 0.7 else ""
                text = writer.order(owner, client_id)
            elif kind < 0.86:
                text = writer.amend(owner, self._target())
            elif kind < 0.97:
                text = writer.cancel(owner, self._target())
            else:
                text = writer.cancel(owner, "all")
        request = Request(owner, text)
        self.requests.append(request)
        self._promises.asked.add(request.command)
        return request

    def _target(self) -> str:
        rng = self._rng
        if self._oids and rng.random() < 0.8:
            return str(rng.choice(self._oids[-6:]))
        ids = [each.client_id for each in self.requests[-12:] if each.client_id]
        if ids and rng.random() < 0.7:
            return f"id={rng.choice(ids)}"
        return str(rng.randint(1, 30))

    def _resend_any(self) -> None:
        with_id = [each for each in self.requests if each.client_id]
        if with_id:
            request = self._rng.choice(with_id)
            (self._send if self._rng.random() < 0.5 else self._post)(request)

    # -- by wire

    def _connect(self) -> None:
        server = self._server()
        if server is None or not server.is_alive or server.is_stopping:
            return
        self.disconnect()
        wire = Wire(self._machine, server, on_sent=self._note_sent, on_message=self._hear)
        self._wire = wire
        cod = " cod=1" if self._rng.random() < 0.4 else ""
        head = "login" if self.owner == 0 else f"{self.owner}:login"
        text = f"{head} {TICKER} nonce={wire.session.nonce}{cod} ts={self._ts()}"
        signature = signing.sign(self._key(), text)
        exchange = server.exchange
        req = self._next_req([])
        wire.send(lambda: exchange.login(wire.session, text, signature, req=req))
        if self._rng.random() < 0.3:
            wire.send(lambda: exchange.subscribe_orders(wire.session, req=None, wanted=True))

    def _send(self, request: Request) -> None:
        wire = self._wire
        if wire is None:
            return
        self._machine.tell("sent", request.text)
        req = self._next_req([request])
        exchange = wire.server.exchange
        wire.send(lambda: exchange.send(wire.session, request.text, req=req))
        self._chase_later(request)

    def _send_many(self, requests: list[Request]) -> None:
        wire = self._wire
        assert wire is not None
        req = self._next_req(requests)
        texts = [request.text for request in requests]
        self._machine.tell("sent in a frame", *texts)
        exchange = wire.server.exchange
        wire.send(lambda: exchange.send_many(wire.session, texts, req=req))
        for request in requests:
            self._chase_later(request)

    def _ask(self, wire: Wire) -> None:
        """Read something, or set the dead man's switch."""
        exchange, session = wire.server.exchange, wire.session
        kind = self._rng.random()
        if kind < 0.25:
            seconds = self._rng.choice((0, 1, 2))
            owner = self.owner or 1
            arm = wire.server.dead_men.arm
            wire.send(
                lambda: exchange.cancel_after(session, seconds, req=None, arm=arm, owner=owner)
            )
        elif kind < 0.5:
            wire.send(lambda: exchange.open_orders(session, req=None))
        else:
            with_id = [each for each in self.requests if each.client_id]
            if with_id:
                request = self._rng.choice(with_id)
                wire.send(partial(self._find, wire, request))

    def _find(self, wire: Wire, request: Request) -> None:
        req = self._next_req([request])
        owner = request.owner
        wire.server.exchange.find(wire.session, req=req, client_id=request.client_id, owner=owner)

    def _next_req(self, requests: list[Request]) -> int:
        self._req += 1
        self._asked[self._req] = requests
        return self._req

    # -- by post

    def _post(self, request: Request) -> None:
        now = self._machine.loop.time()
        if request.signed is None or (
            now - request.signed_at > FRESH_SECONDS and request.client_id
        ):
            text = f"{request.text} ts={self._ts()}"
            request.signed = text, signing.sign(self._key(), text)
            request.signed_at = now
        elif now - request.signed_at > FRESH_SECONDS:
            return
        self._machine.tell("posted", request.signed[0])
        post = Post(
            self._machine,
            on_sent=partial(self._note_answer_sent, request),
            on_answer=partial(self._hear_post, request),
        )
        post.send(self._server, *request.signed)
        self._chase_later(request)

    def _key(self) -> str:
        if self.owner == 0:
            return VENUE_KEY
        return signing.owner_key(VENUE_KEY, self.owner, self._generation)

    def _ts(self) -> int:
        return self._machine.true_now() // 1000 + self._lead_ms

    # -- answers

    def _note_sent(self, message: Message) -> None:
        for request, answer in self._answers_in(message):
            self._promises.note_answer(request, answer)
        if isinstance(message, OrderChange | OpenOrders):
            message = message.to_dict()
        if isinstance(message, dict):
            self._promises.note_message(message, self._asked.get(message.get("req", 0)))

    def _answers_in(self, message: Message) -> Iterable[tuple[Request, Answer]]:
        """The answers to commands, with whom they answer."""
        if not isinstance(message, Reply | Replies) or message.req is None:
            return ()
        answers = [message.answer] if isinstance(message, Reply) else message.answers
        return zip(self._asked[message.req], answers, strict=False)

    def _note_answer_sent(self, request: Request, message: Message) -> None:
        assert isinstance(message, Reply)
        self._promises.note_answer(request, message.answer)

    def _hear(self, message: Message) -> None:
        for request, answer in self._answers_in(message):
            self._hear_answer(request, answer)
        if isinstance(message, Reply) and not self._asked.get(message.req or 0):
            self._login_failed(message.answer)

    def _login_failed(self, answer: Answer) -> None:
        error = answer.error
        if error is not None and error.code == "bad_signature":
            self._try_next_key()
        elif error is not None and error.code == "stale_timestamp":
            self._set_clock(answer)
        self.disconnect()
        self._machine.loop.call_later(0.01, self._connect)

    def _hear_answer(self, request: Request, answer: Answer) -> None:
        error = answer.error
        what = error.code if error is not None else f"#{answer.oid} at record {answer.seq}"
        self._machine.tell("answered", request.text, what)
        if error is None:
            request.is_settled = True
            if answer.oid is not None and answer.remaining:
                self._oids.append(answer.oid)
        elif error.code not in PASSING:
            request.is_settled = True

    def _hear_post(self, request: Request, answer: Answer) -> None:
        error = answer.error
        if error is not None and error.code in ("bad_signature", "stale_timestamp"):
            if error.code == "bad_signature":
                self._try_next_key()
            else:
                self._set_clock(answer)
            # The first of these bytes may have been carried out: only an id makes others safe.
            request.signed = None if request.client_id else request.signed
        self._hear_answer(request, answer)

    def _try_next_key(self) -> None:
        self._generation = self._generation % 4 + 1

    def _set_clock(self, answer: Answer) -> None:
        assert answer.server_time is not None
        self._lead_ms = answer.server_time - self._machine.true_now() // 1000

    def _chase_later(self, request: Request) -> None:
        if self._rng.random() < 0.8:
            seconds = self._rng.choice((0.1, 0.4, 1.0, 2.5))
            self._machine.loop.call_later(seconds, self._chase, request)

    def _chase(self, request: Request) -> None:
        if request.is_settled:
            return
        wire = self._wire
        if request.client_id and wire is not None and wire.is_open and self._rng.random() < 0.7:
            self._send(request)
        elif request.client_id or request.signed is not None:
            self._post(request)
        elif wire is None or not wire.is_open:
            self._connect()
