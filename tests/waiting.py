"""Waiting for a condition, and ports to listen on: what tests use in place of sleeping for luck."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""How long a test waits before it fails; long, for busy machines, since success never waits."""


def wait_until(
    condition: Callable[[], T], what: str, *, patience_seconds: float = PATIENCE_SECONDS
) -> T:
    """The first true value of `condition()`; AssertionError naming `what` if none comes."""
    end = time.monotonic() + patience_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience_seconds:g} s in vain for {what}")
        time.sleep(0.01)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
