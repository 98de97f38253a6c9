"""Accounts: what of an owner's past R16 can still ask for, and nothing older."""

from matching.account import Exposure
from matching.recent import RATE_WINDOW


def test_r16_a_rate_counts_the_second_that_ends_now_its_beginning_left_out() -> None:
    exposure = Exposure([], [])
    for time in (10, 10, 11):
        exposure.note_entry(time)
    assert exposure.rate(10 + RATE_WINDOW - 1) == 3
    assert exposure.rate(10 + RATE_WINDOW) == 1
    assert exposure.rate(11 + RATE_WINDOW) == 0


def test_r16_times_that_no_rate_counts_any_more_are_forgotten_also_if_none_is_asked() -> None:
    exposure = Exposure([], [])
    for second in range(100):
        exposure.note_entry(second * RATE_WINDOW)
        exposure.check([])
    assert list(exposure.entries) == [99 * RATE_WINDOW]
