"""The network between clients and the server: it delays, repeats and loses, but what a wire brings
is in order.

A `Wire` is one WebSocket: it may be cut at any moment, and then what is on its way is lost, both
ways; the server learns of it later. A `Post` is one signed text by HTTP: it may arrive late, not at
all or twice, and so may its answer. What the server lets out of the process is a promise, whether
the network then loses it or not: `on_sent` is told of it at that moment.
"""

from collections.abc import Callable
from typing import Any

from matching.exchange import Answer, Close, OpenOrders, OrderChange, Replies, Reply
from tests.simulation.machine import Machine
from tests.simulation.server import Server

Message = Reply | Replies | OrderChange | OpenOrders | Close | dict[str, Any]


class Wire:
    """One WebSocket of a client to one life of a server."""

    def __init__(
        self,
        machine: Machine,
        server: Server,
        *,
        on_sent: Callable[[Message], None],
        on_message: Callable[[Message], None],
    ) -> None:
        self.server = server
        self.is_open = True
        self._machine = machine
        self._on_sent = on_sent
        self._on_message = on_message
        self._up_until = self._down_until = 0.0
        self.session = server.exchange.open_session(self, trusted=True)

    def send(self, request: Callable[[], None]) -> None:
        """Let the server do what the request says when it arrives."""
        self._up_until = max(self._up_until, _arrival(self._machine))
        self._machine.loop.call_at(self._up_until, self._arrive, request)

    def deliver(self, message: Message) -> None:
        self._on_sent(message)
        self._down_until = max(self._down_until, _arrival(self._machine))
        self._machine.loop.call_at(self._down_until, self._receive, message)
        if isinstance(message, Close):
            self._close_server_side()

    def cut(self) -> None:
        """The connection breaks; the server notices a little later."""
        if self.is_open:
            self.is_open = False
            self._machine.loop.call_at(_arrival(self._machine), self._close_server_side)

    def _close_server_side(self) -> None:
        self.is_open = False
        if self.server.is_alive:
            self.server.exchange.close_session(self.session)
            self.server.commit.schedule()

    def _arrive(self, request: Callable[[], None]) -> None:
        if self.is_open and self.server.is_alive and not self.server.is_stopping:
            request()
            self.server.commit.schedule()

    def _receive(self, message: Message) -> None:
        if self.is_open:
            self._on_message(message)


class Post:
    """One `POST /`: the recipient of its answer."""

    def __init__(
        self,
        machine: Machine,
        *,
        on_sent: Callable[[Message], None],
        on_answer: Callable[[Answer], None],
    ) -> None:
        self._machine = machine
        self._on_sent = on_sent
        self._on_answer = on_answer

    def send(self, server: Callable[[], Server | None], text: str, signature: str) -> None:
        """To whatever server there is when it arrives."""
        machine = self._machine
        times = machine.rng.choice((0, 1, 1, 1, 1, 1, 1, 2))
        for _ in range(times):
            machine.loop.call_at(_arrival(machine), self._arrive, server, text, signature)

    def _arrive(self, server: Callable[[], Server | None], text: str, signature: str) -> None:
        found = server()
        if found is not None and found.is_alive and not found.is_stopping:
            found.exchange.submit(text, signature, self, trusted=True)
            found.commit.schedule()

    def deliver(self, message: Message) -> None:
        self._on_sent(message)
        assert isinstance(message, Reply)
        if self._machine.chance(0.85):
            self._machine.loop.call_at(_arrival(self._machine), self._on_answer, message.answer)


def _arrival(machine: Machine) -> float:
    return machine.loop.time() + machine.rng.choice((0.0, 0.0002, 0.001, 0.004, 0.02, 0.15))
