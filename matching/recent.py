"""Recent entries: whose orders and amends were accepted within the last second (R16's `max_rate`).

They are noted of every owner, since a limit that comes into force counts what came before it.

>>> recent = RecentEntries()
>>> for owner, time in ((7, 1_000_000), (8, 1_500_000), (7, 2_000_000)):
...     recent.note(owner, time)
>>> recent.by_owner(2_000_000)
{8: [1500000], 7: [2000000]}
"""

from bisect import bisect_right

RATE_WINDOW = 1_000_000
"""`max_rate` counts what lies in so many microseconds."""

FORGET_EVERY = 4096
"""After so many more entries, those that no rate counts any more are forgotten."""


class RecentEntries:
    """Side by side, in order: when (microseconds) and whose; older ones too, until forgotten."""

    __slots__ = ("forget_at", "owners", "times")

    def __init__(self) -> None:
        self.times: list[int] = []
        self.owners: list[int] = []
        self.forget_at = FORGET_EVERY
        """So many entries are to be looked through; whoever adds one sees to it."""

    def note(self, owner: int, time: int) -> None:
        self.times.append(time)
        self.owners.append(owner)
        if len(self.times) >= self.forget_at:
            self.forget(time)

    def forget(self, time: int) -> None:
        """Drop what no rate counts from `time` on."""
        old = bisect_right(self.times, time - RATE_WINDOW)
        del self.times[:old]
        del self.owners[:old]
        self.forget_at = len(self.times) + FORGET_EVERY

    def by_owner(self, time: int) -> dict[int, list[int]]:
        """The times of the second that ends at `time`, of each owner who has any."""
        entries: dict[int, list[int]] = {}
        for owner, entry in zip(self.owners, self.times, strict=True):
            if entry > time - RATE_WINDOW:
                entries.setdefault(owner, []).append(entry)
        return entries
