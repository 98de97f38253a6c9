"""Recent entries: every one of the last second under its owner, and not much that is older."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from matching.engine import Engine
from matching.protocol import parse
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
    for wait, owner, times in runs:
        for _ in range(times):
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


def test_a_page_holds_no_more_than_it_may_whether_orders_or_amends_fill_it() -> None:
    engine, times = Engine("intc"), count(1)
    engine.apply(parse("7:buy intc 9@50"), next(times))
    while engine._recent.page:
        engine.apply(parse("7:buy intc 9@50 tif=ioc"), next(times))
    for _ in range(2 * ORDERS_A_PAGE - 1):
        engine.apply(parse("7:mod intc 1 9"), next(times))
        engine._recent.check()
    for _ in range(2 * ORDERS_A_PAGE):
        engine.apply(parse("7:buy intc 9@50 tif=ioc"), next(times))
        engine._recent.check()
