"""Recent entries: every one of the last second under its owner, and not much that is older."""

from hypothesis import given
from hypothesis import strategies as st

from matching.recent import ORDERS_A_PAGE, RATE_WINDOW, RecentEntries

WAITS = st.sampled_from((0, 1, 40, 300, RATE_WINDOW - 1, RATE_WINDOW, 3 * RATE_WINDOW))


@given(
    runs=st.lists(st.tuples(WAITS, st.integers(1, 3), st.integers(1, 2 * ORDERS_A_PAGE))),
    later=WAITS,
)
def test_r16_the_entries_of_the_second_that_ends_now_are_all_remembered(
    runs: list[tuple[int, int, int]], later: int
) -> None:
    recent, entries, now = RecentEntries(), list[tuple[int, int]](), 0
    for wait, owner, count in runs:
        for _ in range(count):
            now += wait
            entries.append((owner, now))
            recent.note(owner, now, next_oid=len(entries))
    recent.check()
    now += later
    expected: dict[int, list[int]] = {}
    for owner, time in entries:
        if now - RATE_WINDOW < time <= now:
            expected.setdefault(owner, []).append(time)
    assert recent.by_owner(now) == expected


def test_what_no_rate_counts_any_more_is_forgotten() -> None:
    recent = RecentEntries()
    for number in range(10 * ORDERS_A_PAGE):
        recent.note(7, number * RATE_WINDOW, next_oid=number)
        recent.check()
    assert sum(len(page.written) for page in recent._turned) <= 4 * ORDERS_A_PAGE
