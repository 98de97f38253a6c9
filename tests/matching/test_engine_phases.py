"""R11 and the venue's commands."""

import pytest

from matching import engine as engines
from matching.auction import Uncross
from matching.engine import Broken, Engine
from matching.events import Accepted, Canceled, PhaseChanged, Trade
from matching.order import Cancel, CancelAll, CancelReason, NewOrder, Phase, Side
from tests.matching.trading_tables import check, command_of


def test_r11_a_product_begins_in_continuous() -> None:
    check("""
        phase?                | continuous
        1:buy intc 10@50.25   | #1 accepted
    """)


def test_r11_unless_it_was_made_in_another_phase() -> None:
    engine = Engine("intc", phase=Phase.HALTED)
    order = NewOrder(ticker="intc", owner=1, side=Side.BUY, quantity=1, price=100)
    (rejected,) = engine.apply(order, at=0)
    assert getattr(rejected, "code", None) == "market_halted"


def test_r11_a_product_may_begin_in_an_auction() -> None:
    engine = Engine("intc", phase=Phase.AUCTION)
    for text in ("1:buy intc 5@50.30", "2:sell intc 5@50.20"):
        (accepted,) = engine.apply(command_of(text), at=0)
        assert isinstance(accepted, Accepted)
    changed, trade = engine.apply(command_of("phase intc continuous"), at=0)
    assert changed == PhaseChanged(Phase.CONTINUOUS)
    assert isinstance(trade, Trade)
    assert (trade.quantity, trade.taker) == (5, None)


@pytest.mark.parametrize(
    ("volume", "message"), [(4, "the book is crossed after"), (6, "1 of .* have nobody")]
)
def test_r10_an_uncross_that_does_not_fit_the_book_is_never_answered(
    volume: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine("intc", phase=Phase.AUCTION)
    for text in ("1:buy intc 5@50.30", "2:sell intc 5@50.20"):
        engine.apply(command_of(text), at=0)
    wrong = Uncross(price=502_500, volume=volume, surplus=0)
    monkeypatch.setattr(engines, "uncross_price", lambda *_, **__: wrong)
    with pytest.raises(Broken, match=message):
        engine.apply(command_of("phase intc continuous"), at=0)


def test_r11_halted_takes_no_orders_and_closed_neither_cancels_always_work() -> None:
    check("""
        1:buy intc 10@50.25     | #1 accepted
        1:buy intc 10@50.25     | #2 accepted
        1:buy intc 10/50.30     | #3 accepted
        phase intc halted       | phase halted
        2:sell intc 10@50.25    | rejected market_halted R11: trading in intc is halted
        2:sell intc 10          | rejected market_halted R11
        2:sell intc 10@60/50.20 | rejected market_halted R11
        1:del intc 1            | #1 canceled 10 user
        phase intc closed       | phase closed
        2:sell intc 10@50.25    | rejected market_closed R11: the market in intc is closed
        1:del intc all          | #2 canceled 10 user; #3 canceled 10 user
        key intc 7 2            | key of owner 7 generation 2
    """)


def test_r11_the_book_stays_through_halted_and_closed() -> None:
    check("""
        1:buy intc 10@50.25     | #1 accepted
        1:sell intc 10@50.30    | #2 accepted
        phase intc halted       | phase halted
        phase intc continuous   | phase continuous
        phase intc closed       | phase closed
        phase intc halted       | phase halted
        phase intc closed       | phase closed
        phase intc continuous   | phase continuous
        book                    | bids 10@50.25; asks 10@50.30
        2:sell intc 10@50.25    | #3 accepted; trade 10@50.25 maker #1 taker #3
    """)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("other", Phase)
def test_r11_any_phase_can_be_left_for_any_other_but_the_one_it_is_in(
    phase: Phase, other: Phase
) -> None:
    engine = Engine("intc", phase=phase)
    (event,) = engine.apply(command_of(f"phase intc {other}"), at=0)
    if phase == other:
        assert getattr(event, "code", None) == "invalid_phase"
        assert getattr(event, "message", None) == f"intc is in phase {phase} already"
    else:
        assert getattr(event, "phase", None) == other
    assert engine.phase == other


def test_r11_a_phase_it_is_in_already_is_refused() -> None:
    check("""
        phase intc continuous | rejected invalid_phase R11: intc is in phase continuous already
        phase intc halted     | phase halted
        phase intc halted     | rejected invalid_phase R11: intc is in phase halted already
    """)


def test_r11_entering_closed_cancels_day_orders_and_waiting_day_stops_in_oid_order() -> None:
    check("""
        3:sell intc 10@50.40 tif=day      | #1 accepted
        1:buy intc 10@50.20 tif=day       | #2 accepted
        1:buy intc 10@50.25               | #3 accepted
        2:buy intc 10/50.90 tif=day       | #4 accepted
        2:buy intc 10/50.90               | #5 accepted
        1:buy intc 10@50.25 tif=day       | #6 accepted
        2:sell intc 4@50.40/50.10 tif=ioc | #7 accepted
        phase intc halted                 | phase halted
        phase intc closed                 | phase closed
                                          | #1 canceled 10 end_of_day
                                          | #2 canceled 10 end_of_day
                                          | #4 canceled 10 end_of_day
                                          | #6 canceled 10 end_of_day
        book                              | bids 10@50.25; asks -
        stops                             | #5 #7
    """)


def test_a_canceled_day_order_that_a_stop_put_into_the_book_late_keeps_its_oid_order() -> None:
    check("""
        1:buy intc 1@50.30/50.30 tif=day | #1 accepted
        2:sell intc 1@50.30              | #2 accepted
        3:buy intc 2@50.30 tif=day       | #3 accepted
                                         | trade 1@50.30 maker #2 taker #3
                                         | #1 triggered
        queues                           | bids #3 #1; asks -
        phase intc closed                | phase closed
                                         | #1 canceled 1 end_of_day
                                         | #3 canceled 1 end_of_day
    """)


@pytest.mark.parametrize("reason", [CancelReason.DISCONNECT, CancelReason.DEAD_MAN])
def test_a_cancel_by_the_server_gives_its_reason(reason: CancelReason) -> None:
    engine = Engine("intc")
    order = NewOrder(ticker="intc", owner=1, side=Side.BUY, quantity=5, price=100)
    for _ in range(2):
        engine.apply(order, at=0)
    cancel = Cancel(ticker="intc", owner=1, oid=1, reason=reason)
    assert engine.apply(cancel, at=0) == [Canceled(1, 5, reason)]
    cancel_all = CancelAll(ticker="intc", owner=1, reason=reason)
    assert engine.apply(cancel_all, at=0) == [Canceled(2, 5, reason)]


def test_a_key_is_only_ever_raised() -> None:
    check("""
        key intc 7 1 | rejected invalid_setting: the key of owner 7 has generation 1 already
        key intc 7 3 | key of owner 7 generation 3
        key intc 7 3 | rejected invalid_setting: the key of owner 7 has generation 3 already
        key intc 7 2 | rejected invalid_setting
        key intc 8 2 | key of owner 8 generation 2
        key intc 0 2 | rejected invalid_setting: owner 0, the house, has no key of its own
    """)
    engine = Engine("intc")
    assert engine.generation(7) == 1
    engine.apply(command_of("key intc 7 3"), at=0)
    assert (engine.generation(7), engine.generation(8)) == (3, 1)
