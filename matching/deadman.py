"""The dead man's switches: owners whose orders are canceled unless they say so again in time.

A switch belongs to an owner, not to a connection (PROTOCOL §4, `cancel_after`): it outlives the
connection that armed it, and ends with the process. It runs on the loop's clock, which no change
of the machine's time moves.
"""

import asyncio
from collections.abc import Callable


class DeadMen:
    """The armed switches; `on_expiry` is called with the owner of one that ran out."""

    def __init__(self, on_expiry: Callable[[int], None]) -> None:
        self._on_expiry = on_expiry
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def arm(self, owner: int, seconds: int) -> None:
        """Begin anew with so many seconds; 0 disarms."""
        timer = self._timers.pop(owner, None)
        if timer is not None:
            timer.cancel()
        if seconds:
            loop = asyncio.get_running_loop()
            self._timers[owner] = loop.call_later(seconds, self._expire, owner)

    def disarm_all(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _expire(self, owner: int) -> None:
        del self._timers[owner]
        self._on_expiry(owner)
