"""The HTTP server of a process that is to outlive a shortage of open files.

Each connection is an open file, and a process may open so many only (`ulimit -n`), as may all of a
machine together. Without a file left accepting fails, again and again, for as long as somebody
waits to be accepted, and nothing that the process has to read or write can be opened. So the last
few are kept from connections, and where the machine has none, accepting rests for a moment.
"""

import asyncio
import errno
import math
import resource
import socket
import time
from collections.abc import Iterable
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream

from matching.exits import ExitCode, Fatal

FILES_KEPT = 32
"""Open files that connections leave to the process, for what it has to read and write beside."""

FILES_LEAST = 2 * FILES_KEPT
"""A process that may open fewer files would turn all connections away."""

REST_SECONDS = 0.1
"""How long nobody is accepted after no file was left to do it with."""

ALARM_SECONDS = 60
"""How long after a connection was turned away the alarm stands."""


def check_files() -> None:
    """Fatal (78) if the process may open too few files to serve anybody."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < FILES_LEAST:
        raise Fatal(
            ExitCode.CONFIGURATION,
            f"only {most} files may be open at a time (ulimit -n); {FILES_LEAST} are the least",
        )


class HttpServer(HTTPServer):
    """Tornado's, but it turns connections away before they leave the process no file to open.

    `on_loop_exception` is to be the loop's exception handler. `turned_away` counts connections.
    """

    turned_away = 0
    _last_short = -math.inf
    """When there was no file for a connection, on the monotonic clock."""

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        self._listening = list(sockets)
        super().add_sockets(self._listening)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and stream.socket.fileno() >= most - FILES_KEPT:
            stream.close()
            self.turned_away += 1
            self._last_short = time.monotonic()
            return
        super().handle_stream(stream, address)

    def on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The machine may be out of files all the same: that is no error of the program's."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._last_short = time.monotonic()
            self._accept(IOLoop.NONE)
            loop.call_later(REST_SECONDS, self._accept, IOLoop.READ)
        else:
            loop.default_exception_handler(context)

    def _accept(self, events: int) -> None:
        """Accept connections (READ), or let them wait (NONE)."""
        for each in self._listening:
            if each.fileno() != -1:  # else the server has been stopped
                IOLoop.current().update_handler(each, events)

    def alarm(self) -> str:
        """What an operator is to know of it; "" once all were accepted for a minute."""
        if time.monotonic() - self._last_short > ALARM_SECONDS:
            return ""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"connections are turned away: only {most} files may be open (ulimit -n)"
