"""The throttle: how many log-ins may fail before the next one has to wait; also sign-ups, resets.

Counted are attempts that have not succeeded, by name and address together (a guesser), by address
(one that tries many names) and by name (one with many addresses; generous, since it also locks the
owner of the name out). An attempt counts from its start, so that many at once gain nothing.

>>> throttle = Throttle(clock=lambda: 0.0)
>>> [throttle.seconds_to_wait("trader1", "10.0.0.9") for _ in range(6)]
[0, 0, 0, 0, 0, 300]
>>> throttle.seconds_to_wait("trader1", "10.0.0.8")
0
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from math import ceil

WINDOW_SECONDS = 300

PAIR_LIMIT = 5
ADDRESS_LIMIT = 100
NAME_LIMIT = 50

KEYS_KEPT = 20_000
"""The keys last seen are kept, so that invented names cannot fill the memory."""

Key = tuple[str, str]


class Throttle:
    """The recent attempts of one kind at one web server."""

    def __init__(
        self,
        *,
        address_limit: int = ADDRESS_LIMIT,
        name_limit: int = NAME_LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address_limit = address_limit
        self._name_limit = name_limit
        self._clock = clock
        self._attempts: OrderedDict[Key, deque[float]] = OrderedDict()

    def seconds_to_wait(self, name: str, address: str) -> int:
        """0 if this attempt may go on (it counts from now), else for how long to ask again."""
        now = self._clock()
        limits: dict[Key, int] = {
            (name, address): PAIR_LIMIT,
            ("", address): self._address_limit,
            (name, ""): self._name_limit,
        }
        wait = max(self._wait(key, limit, now) for key, limit in limits.items())
        if wait == 0:
            for key in limits:
                self._attempts.setdefault(key, deque()).append(now)
                self._attempts.move_to_end(key)
            while len(self._attempts) > KEYS_KEPT:
                self._attempts.popitem(last=False)
        return wait

    def _wait(self, key: Key, limit: int, now: float) -> int:
        times = self._attempts.get(key, deque())
        while times and times[0] <= now - WINDOW_SECONDS:
            times.popleft()
        return 0 if len(times) < limit else ceil(times[0] + WINDOW_SECONDS - now)

    def succeeded(self, name: str, address: str) -> None:
        """The password was right: what came before was its owner's mistyping."""
        self._attempts.pop((name, address), None)
        self._take_back(("", address), (name, ""))

    def withdraw(self, name: str, address: str) -> None:
        """We had no time for this attempt, so it told its maker nothing: it counts for nobody.

        Else a hall of students who all log in at one moment would lock themselves out.
        """
        self._take_back((name, address), ("", address), (name, ""))

    def _take_back(self, *keys: Key) -> None:
        for key in keys:
            if times := self._attempts.get(key):
                times.pop()
