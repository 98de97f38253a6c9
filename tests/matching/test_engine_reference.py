"""The engine against the reference engine, on streams of commands of every kind.

Prices, quantities, owners and ids come from small ranges, so that orders meet, own orders too,
stops cascade, ids repeat and fall out of a memory that is only a few ids long. `Trading.apply`
compares every event and the whole state after each command.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matching import engine as engine_module
from matching.order import (
    Amend,
    Cancel,
    CancelAll,
    CancelReason,
    ChangeLimits,
    ChangeSettings,
    Command,
    NewOrder,
    Phase,
    RaiseKey,
    SelfTrade,
    SetPhase,
    Side,
    TimeInForce,
)
from tests.matching.trading_tables import Trading

TICK = 100
LOT = 2
REMEMBERED_IDS = 3

OWNERS = st.sampled_from([0, 1, 1, 2, 2, 3])
PRICES = st.integers(1, 8).map(lambda ticks: 1_000_000 + ticks * TICK)
OFF_GRID = st.just(1_000_001)
QUANTITIES = st.integers(1, 6).map(lambda lots: lots * LOT)
CLIENT_IDS = st.sampled_from(["", "", "", "a", "b"])
OIDS = st.integers(1, 30)


def _orders(**fixed: st.SearchStrategy[object]) -> st.SearchStrategy[NewOrder]:
    fields: dict[str, st.SearchStrategy[object]] = {
        "ticker": st.just("intc"),
        "owner": OWNERS,
        "side": st.sampled_from(Side),
        "quantity": QUANTITIES,
        "price": PRICES,
        "tif": st.sampled_from(TimeInForce),
        "stp": st.sampled_from(SelfTrade),
        "client_id": CLIENT_IDS,
        "ts": st.sampled_from([None, 1]),
        "cod": st.booleans(),
    }
    return st.builds(NewOrder, **{**fields, **fixed})


LIMITS = _orders()
RESTING = _orders(tif=st.sampled_from([TimeInForce.GTC, TimeInForce.DAY]))
MARKETS = _orders(price=st.just(0))
STOPS = _orders(stop=PRICES, price=st.one_of(st.just(0), PRICES))
POSTS = _orders(tif=st.just(TimeInForce.GTC), post=st.just(True))
MISFITS = _orders(
    quantity=st.sampled_from([0, 1, 2, 1_000_002, 999_999_999_998]),
    price=st.one_of(st.just(0), PRICES, OFF_GRID),
    stop=st.one_of(st.just(0), st.just(0), PRICES, OFF_GRID),
    post=st.booleans(),
    peak=st.sampled_from([0, 0, 2]),
)
CANCELS = st.one_of(
    st.builds(Cancel, ticker=st.just("intc"), owner=OWNERS, oid=OIDS),
    st.builds(
        Cancel,
        ticker=st.just("intc"),
        owner=OWNERS,
        client_id=st.sampled_from(["a", "b"]),
        reason=st.sampled_from(CancelReason),
    ),
)
PHASES = st.builds(SetPhase, ticker=st.just("intc"), phase=st.sampled_from(Phase))
REOPEN = st.just(SetPhase(ticker="intc", phase=Phase.CONTINUOUS))
RARE = st.one_of(
    st.builds(CancelAll, ticker=st.just("intc"), owner=OWNERS),
    st.builds(RaiseKey, ticker=st.just("intc"), owner=OWNERS, generation=st.integers(1, 3)),
    st.builds(Amend, ticker=st.just("intc"), owner=OWNERS, oid=OIDS, quantity=QUANTITIES),
    st.just(ChangeSettings(ticker="intc", settings=(("collar", 500),))),
    st.just(ChangeLimits(ticker="intc", owner=None, limits=(("max_quantity", 5),))),
)
WEIGHTS: dict[st.SearchStrategy[Command], int] = {
    RESTING: 10,
    LIMITS: 6,
    MARKETS: 3,
    STOPS: 8,
    POSTS: 2,
    MISFITS: 2,
    CANCELS: 4,
    RARE: 1,
    PHASES: 1,
    REOPEN: 2,
}
COMMANDS = st.sampled_from([kind for kind, weight in WEIGHTS.items() for _ in range(weight)])

# Hypothesis makes short lists by choice; long streams are where books fill and stops cascade.
STREAMS = st.integers(1, 60).flatmap(
    lambda length: st.lists(COMMANDS.flatmap(lambda kind: kind), min_size=length, max_size=length)
)


@settings(max_examples=200)
@given(STREAMS)
def test_the_engine_and_the_reference_answer_every_stream_alike(commands: list[Command]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "REMEMBERED_IDS", REMEMBERED_IDS)
        trading = Trading(tick=TICK, lot=LOT, remembered_ids=REMEMBERED_IDS)
        for command in commands:
            trading.apply(command)
