"""A matching server that recovers its journal: it is alive, and not ready for anybody yet.

Recovery has a thread; the loop goes on meanwhile, and tells whoever asks how far the journal has
been read. So a start that takes long is not taken for a process that hangs, and can be ended. What
is asked for is not kept: it is refused as `not_ready` (503), and clients ask again.
"""

import asyncio
import logging
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tornado.ioloop import PeriodicCallback
from tornado.web import Application, stream_request_body

from matching.httphandlers import JsonHandler, error_of
from matching.httpserver import HttpServer
from matching.server import BODY_SECONDS, DISCARD_LIMIT

IDLE_SECONDS = 10
"""How long somebody who was accepted may take to ask."""

TELL_SECONDS = 5
"""How often the log says how far the journal has been read."""

_log = logging.getLogger("matchingserver")


class Abandoned(Exception):
    """The server was asked to end before it was ready."""


class Starting:
    """How far a recovery is, and whether it is still wanted.

    `reached` is the journal's byte up to which it has been read, of `size`. A recovery that has to
    begin again from an older snapshot goes back.
    """

    def __init__(self, ticker: str, size: int) -> None:
        self.ticker = ticker
        self.size = size
        self.reached = 0
        self.is_abandoned = False
        self.alarms: list[str] = []

    def reach(self, offset: int) -> None:
        """The journal has been read up to here; called in the recovery's thread. Abandoned."""
        self.reached = offset
        if self.is_abandoned:
            raise Abandoned

    def abandon(self) -> None:
        """End the recovery where it next says how far it is, as after each batch."""
        self.is_abandoned = True

    @property
    def sentence(self) -> str:
        percent = min(100, 100 * self.reached // self.size) if self.size else 100
        return f"{self.ticker} is being recovered: {percent} % of its journal is read"

    @contextmanager
    def answering(self, sockets: Iterable[socket.socket]) -> Iterator[None]:
        """Answer who connects to these sockets, which stay open for the server that follows."""
        server = HttpServer(
            _application(self),
            no_keep_alive=True,
            max_body_size=DISCARD_LIMIT,
            body_timeout=BODY_SECONDS,
            idle_connection_timeout=IDLE_SECONDS,
        )
        asyncio.get_running_loop().set_exception_handler(server.on_loop_exception)
        server.add_sockets([each.dup() for each in sockets])

        def tell() -> None:
            alarm = server.alarm()
            self.alarms = [alarm] if alarm else []
            _log.info("%s", "; ".join([self.sentence, *self.alarms]))

        teller = PeriodicCallback(tell, TELL_SECONDS * 1000)
        teller.start()
        try:
            yield
        finally:
            teller.stop()
            server.stop()


def _application(starting: Starting) -> Application:
    arguments = {"starting": starting}
    return Application(
        [
            (r"/health/live", _LiveHandler),
            (r"/health/ready", _ReadyHandler, arguments),
        ],
        default_handler_class=_NotReadyHandler,
        default_handler_args=arguments,
        log_function=lambda handler: None,
    )


class _LiveHandler(JsonHandler):
    def get(self) -> None:
        self.finish_json({"live": True})


class _StartingHandler(JsonHandler):
    def initialize(self, starting: Starting) -> None:
        self._starting = starting


class _ReadyHandler(_StartingHandler):
    def get(self) -> None:
        starting = self._starting
        self.set_status(503)
        self.set_header("Retry-After", "1")
        self.finish_json(
            {
                "ready": False,
                "recovered_bytes": starting.reached,
                "journal_bytes": starting.size,
                "alarms": starting.alarms,
            }
        )


@stream_request_body
class _NotReadyHandler(_StartingHandler):
    """Refuses everything, and forgets bodies as they come."""

    def data_received(self, chunk: bytes) -> None:
        pass

    def _refuse(self) -> None:
        self.refuse(error_of("not_ready", f"{self._starting.sentence}; try again in a moment"))

    get = head = post = put = patch = delete = options = _refuse
