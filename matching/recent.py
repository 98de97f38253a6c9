"""Recent entries: whose orders and amends were accepted within the last second (R16's `max_rate`).

They are noted of every owner, since a limit that comes into force counts what came before it.

>>> recent = RecentEntries()
>>> for owner, time in ((7, 1_000_000), (8, 1_500_000), (7, 2_000_000)):
...     recent.note(owner, time, next_oid=1)
>>> recent.by_owner(2_000_000)
{8: [1500000], 7: [2000000]}
"""

from collections import deque
from collections.abc import Iterator
from itertools import accumulate

RATE_WINDOW = 1_000_000
"""`max_rate` counts what lies in so many microseconds."""

ORDERS_A_PAGE = 512


class _Page:
    """Entries in order of time, as `RecentEntries.page` says, of which the first waits since
    `began`; no rate counts one that `ended` before its second."""

    __slots__ = ("began", "ended", "written")

    def __init__(self, written: list[int], began: int, ended: int) -> None:
        self.written = written
        self.began = began
        self.ended = ended

    def entries(self) -> Iterator[tuple[int, int]]:
        """Owner and time of each."""
        times = accumulate(self.written[1::2], initial=self.began)
        next(times)
        return zip(self.written[::2], times, strict=True)


class RecentEntries:
    """Pages of entries in order of time; one that is too old goes when another is begun.

    `page` is written: of each entry its owner, then the microseconds since the entry before, which
    was at `latest`. (A time would be an object that is kept; CPython keeps small numbers anyway.)
    It is turned at the order `full_at`.
    """

    __slots__ = ("_began", "_turned", "full_at", "latest", "page")

    def __init__(self) -> None:
        self.page: list[int] = []
        self.latest = self._began = 0
        self.full_at = ORDERS_A_PAGE
        self._turned: deque[_Page] = deque()

    def note(self, owner: int, time: int, *, next_oid: int) -> None:
        """An order or an amend was accepted; `next_oid` is the next order's number."""
        self.page.append(owner)
        self.page.append(time - self.latest)
        self.latest = time
        if len(self.page) >= 2 * ORDERS_A_PAGE:
            self.turn(next_oid)

    def turn(self, next_oid: int) -> None:
        """Begin another page, at the latest after so many orders."""
        turned = self._turned
        turned.append(self._written())
        while turned[0].ended <= self.latest - RATE_WINDOW:
            turned.popleft()
        self.page, self._began = [], self.latest
        self.full_at = next_oid + ORDERS_A_PAGE

    def _written(self) -> _Page:
        return _Page(self.page, self._began, self.latest)

    def by_owner(self, time: int) -> dict[int, list[int]]:
        """The times of the second that ends at `time`, of each owner who has any."""
        times: dict[int, list[int]] = {}
        for page in (*self._turned, self._written()):
            for owner, entry in page.entries():
                if entry > time - RATE_WINDOW:
                    times.setdefault(owner, []).append(entry)
        return times

    def check(self) -> None:
        """Assert that the pages follow each other, and that none is longer than it may be."""
        began = self._turned[0].began if self._turned else self._began
        for page in (*self._turned, self._written()):
            waits = page.written[1::2]
            assert page.began == began, (page.began, began)
            assert page.ended == began + sum(waits), (page.ended, began, waits)
            assert not waits or min(waits) >= 0, waits
            assert len(page.written) <= 4 * ORDERS_A_PAGE, len(page.written)
            began = page.ended
