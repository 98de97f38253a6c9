"""R14: client order ids, which make sending an order again safe."""

import pytest

from matching import protocol
from matching.clientids import REMEMBERED_IDS
from matching.engine import Engine
from matching.events import Accepted, Duplicate, Rejected
from matching.order import Cancel, NewOrder, Side, Status
from tests.matching.trading_tables import check


def test_r14_the_same_command_again_changes_nothing_and_tells_the_orders_state() -> None:
    check("""
        1:buy intc 10@50.25 id=a1 | #1 accepted
        1:buy intc 10@50.25 id=a1 | #1 duplicate open 0 filled 10 remaining
        2:sell intc 4@50.25       | #2 accepted; trade 4@50.25 maker #1 taker #2
        1:buy intc 10@50.25 id=a1 | #1 duplicate partially_filled 4 filled 6 remaining
        2:sell intc 6@50.25       | #3 accepted; trade 6@50.25 maker #1 taker #3
        1:buy intc 10@50.25 id=a1 | #1 duplicate filled 10 filled 0 remaining
        2:sell intc 1@50.25       | #4 accepted
    """)


def test_r14_also_of_an_order_that_was_canceled_or_waits_for_its_stop() -> None:
    check("""
        1:buy intc 10@50.25/50.30 id=s | #1 accepted
        1:buy intc 10@50.25/50.30 id=s | #1 duplicate pending_stop 0 filled 10 remaining
        2:sell intc 1@50.30            | #2 accepted
        3:buy intc 1@50.30             | #3 accepted; trade 1@50.30 maker #2 taker #3; #1 triggered
        1:buy intc 10@50.25/50.30 id=s | #1 duplicate open 0 filled 10 remaining
        1:del intc id=s                | #1 canceled 10 user
        1:buy intc 10@50.25/50.30 id=s | #1 duplicate canceled 0 filled 0 remaining
        1:buy intc 3 id=m              | #4 accepted; #4 canceled 3 no_liquidity
        1:buy intc 3 id=m              | #4 duplicate canceled 0 filled 0 remaining
    """)


def test_r14_also_of_an_order_whose_total_was_reduced() -> None:
    check("""
        1:sell intc 10@50.25 id=a        | #1 accepted
        1:buy intc 4@50.25 stp=decrement | #2 accepted
                                         | #1 decremented 4
                                         | #2 decremented 4
                                         | #2 canceled 0 self_trade
        1:sell intc 10@50.25 id=a        | #1 duplicate open 0 filled 6 remaining
    """)


@pytest.mark.parametrize("phase", ["halted", "closed"])
def test_r14_a_repeat_is_answered_in_any_phase(phase: str) -> None:
    check(f"""
        1:buy intc 10@50.25 id=a1  | #1 accepted
        phase intc {phase}         | phase {phase}
        1:buy intc 10@50.25 id=a1  | #1 duplicate open 0 filled 10 remaining
        1:buy intc 10@50.26 id=a1  | rejected duplicate_id R14
        1:buy intc 10@50.26 id=a2  | rejected market_{phase} R11
    """)


def test_r14_a_repeat_is_told_apart_by_what_it_means_not_by_how_it_is_written() -> None:
    check("""
        1:buy intc 10@50.5 id=a1 tif=day ts=1      | #1 accepted
        1:buy intc 10@50.50 tif=day id=a1 ts=2     | #1 duplicate open 0 filled 10 remaining
        1:buy intc 010@050.5000/0 id=a1 tif=day    | #1 duplicate open 0 filled 10 remaining
        1:buy intc 10@50.5 stp=taker id=a1 tif=day | #1 duplicate open 0 filled 10 remaining
        1:buy intc 5 tif=gtc id=a2                 | #2 accepted; #2 canceled 5 no_liquidity
        1:buy intc 5@0/0.0 id=a2                   | #2 duplicate canceled 0 filled 0 remaining
    """)


@pytest.mark.parametrize(
    "other",
    [
        "1:sell intc 10@50.25 id=a1",
        "1:buy intc 11@50.25 id=a1",
        "1:buy intc 10@50.26 id=a1",
        "1:buy intc 10 id=a1",
        "1:buy intc 10@50.25/50.30 id=a1",
        "1:buy intc 10@50.25 id=a1 tif=day",
        "1:buy intc 10@50.25 id=a1 stp=none",
        "1:buy intc 10@50.25 id=a1 post",
        "1:buy intc 10@50.25 id=a1 peak=1",
        "1:buy intc 0@50.25 id=a1",
    ],
)
def test_r14_any_other_command_with_that_id_is_refused_before_all_other_checks(other: str) -> None:
    check(f"""
        1:buy intc 10@50.25 id=a1 | #1 accepted
        {other}                   | rejected duplicate_id R14:
                                  | id a1 is the id of order #1, which is another one
        phase intc closed         | phase closed
        {other}                   | rejected duplicate_id R14
        1:del intc id=a1          | #1 canceled 10 user
        {other}                   | rejected duplicate_id R14
    """)


def test_r14_an_id_is_unique_per_owner() -> None:
    check("""
        1:buy intc 10@50.25 id=a1 | #1 accepted
        2:buy intc 10@50.25 id=a1 | #2 accepted
        0:buy intc 10@50.25 id=a1 | #3 accepted
        2:del intc id=a1          | #2 canceled 10 user
        queues                    | bids #1 #3; asks -
    """)


def test_r14_ids_are_told_apart_by_case() -> None:
    check("""
        1:buy intc 10@50.25 id=a1 | #1 accepted
        1:buy intc 11@50.25 id=A1 | #2 accepted
    """)


def test_r14_a_rejected_command_uses_no_id_up() -> None:
    check("""
        1:buy intc 10@50.255 id=a1 | rejected bad_tick
        1:buy intc 10@50.25 id=a1  | #1 accepted
        1:buy intc 10@50.255 id=a1 | rejected duplicate_id R14
    """)


def test_r14_orders_without_an_id_are_never_duplicates() -> None:
    check("""
        1:buy intc 10@50.25 | #1 accepted
        1:buy intc 10@50.25 | #2 accepted
    """)


def test_r14_the_marks_that_a_session_sets_do_not_make_another_command() -> None:
    engine = Engine("intc")
    command = _order("a1", cod=True)
    engine.apply(command, at=0)
    assert engine.apply(_order("a1", cod=False), at=0) == [Duplicate(1, Status.OPEN, 0, 5)]


def test_r14_a_finished_order_is_found_by_id_and_by_oid_as_long_as_it_is_remembered() -> None:
    check("""
        1:buy intc 10@50.25 id=a1 | #1 accepted
        1:del intc id=a1          | #1 canceled 10 user
        find 1:a1                 | #1 buy 10, 0 filled, 0 remaining, canceled
        order 1                   | #1 buy 10, 0 filled, 0 remaining, canceled
        find 2:a1                 | -
        find 1:zz                 | -
    """)


def test_r14_ids_are_remembered_while_open_and_among_the_last_200_000() -> None:
    assert REMEMBERED_IDS == 200_000
    engine = Engine("intc")
    engine.apply(_order("stays-open"), at=0)
    engine.apply(_order("ends-early"), at=0)
    engine.apply(Cancel(ticker="intc", owner=1, client_id="ends-early"), at=0)
    engine.apply(_order("ends-late"), at=0)
    for number in range(REMEMBERED_IDS - 2):
        engine.apply(_order(f"f{number}", price=0), at=0)

    # The first of the three has just left the window, and is remembered because it is open.
    assert isinstance(engine.apply(_order("stays-open"), at=0)[0], Duplicate)
    assert isinstance(engine.apply(_order("ends-early"), at=0)[0], Duplicate)

    # Refused commands and duplicates do not move the window; the next accepted id does.
    assert isinstance(engine.apply(_order("ends-early", price=7), at=0)[0], Rejected)
    engine.apply(_order("one more", price=0), at=0)
    assert engine.find(1, "ends-early") is None
    assert engine.order(2) is None
    assert isinstance(engine.apply(_order("stays-open"), at=0)[0], Duplicate)

    # Old and open: forgotten as soon as it ends.
    engine.apply(_order("another", price=0), at=0)
    assert isinstance(engine.apply(_order("ends-late"), at=0)[0], Duplicate)
    engine.apply(Cancel(ticker="intc", owner=1, client_id="ends-late"), at=0)
    assert engine.find(1, "ends-late") is None
    assert engine.find(1, "f0") is not None

    # A forgotten id counts as unused.
    oid = engine.next_oid
    assert engine.apply(_order("ends-early"), at=0) == [Accepted(oid)]
    assert engine.apply(_order("ends-late", price=200), at=0) == [Accepted(oid + 1)]
    engine.check()


def _order(client_id: str, *, price: int = 100, cod: bool = False) -> NewOrder:
    return NewOrder(
        ticker="intc",
        owner=1,
        side=Side.BUY,
        quantity=5,
        price=price,
        client_id=client_id,
        cod=cod,
    )


def test_r14_del_takes_the_id_of_an_order_that_is_open() -> None:
    text = "1:del intc id=a1"
    assert protocol.parse(text) == Cancel(ticker="intc", owner=1, client_id="a1")
    check("""
        1:buy intc 10@50.25 id=a1 | #1 accepted
        1:del intc id=a1          | #1 canceled 10 user
        1:del intc id=a1          | rejected order_not_found R13
    """)
