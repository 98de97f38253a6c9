"""Accounts: an owner's orders, and what of the past R16 can still ask for."""

from matching.account import CANCELED, Account, Exposure
from matching.limits import UNLIMITED
from matching.order import NewOrder, Side
from matching.recent import RATE_WINDOW


def test_a_canceled_order_hides_nothing() -> None:
    bid = NewOrder(ticker="intc", owner=7, side=Side.BUY, quantity=30, price=502500, peak=10)
    order = Account(7, UNLIMITED).open(1, bid)
    order.hidden = 20
    assert repr(order) == "#1 7:buy 30 of 30 (20 hidden)@50.25 open"
    order.hidden = CANCELED
    assert repr(order) == "#1 7:buy 30 of 30@50.25 canceled"


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
