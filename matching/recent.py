"""Recent entries: whose orders and amends were accepted within the last second (R16's `max_rate`).

They are noted of every owner, since a limit that comes into force counts what came before it.

>>> recent = RecentEntries()
>>> for owner, time in ((7, 1_000_000), (8, 1_500_000), (7, 2_000_000)):
...     recent.entries.append(Entry(owner, time))
>>> recent.by_owner(2_000_000)
{8: [1500000], 7: [2000000]}
"""

from bisect import bisect_right
from operator import attrgetter
from typing import Protocol

import msgspec

RATE_WINDOW = 1_000_000
"""`max_rate` counts what lies in so many microseconds."""

FORGET_EVERY = 4096
"""After so many more entries, those that no rate counts any more are forgotten."""

_TIME = attrgetter("time")


class Accepted(Protocol):
    """What was accepted: a new order is its own entry."""

    @property
    def owner(self) -> int: ...

    @property
    def time(self) -> int:
        """Microseconds."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An amend."""

    owner: int
    time: int


class RecentEntries:
    """In order of time, older ones too, until they are forgotten; whoever adds one sees to that."""

    __slots__ = ("entries", "forget_at")

    def __init__(self) -> None:
        self.entries: list[Accepted] = []
        self.forget_at = FORGET_EVERY
        """With so many it is time to forget."""

    def forget(self, time: int) -> None:
        """Drop what no rate counts from `time` on."""
        del self.entries[: bisect_right(self.entries, time - RATE_WINDOW, key=_TIME)]
        self.forget_at = len(self.entries) + FORGET_EVERY

    def by_owner(self, time: int) -> dict[int, list[int]]:
        """The times of the second that ends at `time`, of each owner who has any."""
        times: dict[int, list[int]] = {}
        for entry in self.entries:
            if entry.time > time - RATE_WINDOW:
                times.setdefault(entry.owner, []).append(entry.time)
        return times
