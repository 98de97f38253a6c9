"""The engine against the reference engine, on streams of commands of every kind in every phase.

Prices, quantities, owners and ids come from small ranges, so that orders meet, own orders too,
books cross in auctions, stops cascade into the breaker, ids repeat and fall out of a memory that is
only a few ids long. Percentages, limits and the steps of the clock come from the same small world,
so that they are met exactly and missed by one. `Trading.apply` compares every event and the whole
state after each command; at the end the journal's lines are read again and replayed (R18).

A run tries `EMTE_STREAMS` streams (300); `make nightly` tries 10,000. A failure ends with the
shortest stream that fails, as the table of `tests.matching.trading_tables`; the last row is what
the reference answers.

The scenarios, which were written by hand, say what both must answer.
"""

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from matching import clientids
from matching.conformance import SCENARIOS
from matching.engine import Engine
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
    parse_price,
)
from matching.records import CommandRecord, command_lines, parse_body
from matching.scenario import is_question, read_scenarios
from tests.matching.trading_tables import Trading, command_of, state_of

STREAM_COUNT = int(os.environ.get("EMTE_STREAMS", "300"))

TICK = 10_000
LOT = 2
REMEMBERED_IDS = 3

OWNERS = st.sampled_from([0, 1, 1, 1, 2, 2, 3])
PRICES = st.integers(96, 104).map(lambda price: price * 10_000)
OFF_GRID = st.just(1_000_001)
QUANTITIES = st.integers(1, 6).map(lambda lots: lots * LOT)
ICEBERGS = st.sampled_from([6, 8, 10, 12, 20, 200])
PEAKS = st.sampled_from([2, 2, 4])
CLIENT_IDS = st.sampled_from([""] * 8 + ["a", "b", "c", "d"])
OIDS = st.integers(1, 30)
STEPS = st.sampled_from([0, 0, 0, 1, 20_000, 250_000, 499_999, 500_000, 999_999, 1_000_000])
PHASES = st.sampled_from([*Phase, *[Phase.CONTINUOUS] * 6, *[Phase.AUCTION] * 3])


class Step(NamedTuple):
    """A command, so many microseconds after the last one; None: an order with an id once more.

    A cancel or amend without a target is of the `nth` open order, counted round, by its owner;
    likewise the order that is sent again. Where nothing trades every second step is to reopen.
    """

    command: Command | None
    after: int
    nth: int


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


RESTS = st.sampled_from([TimeInForce.GTC, TimeInForce.DAY])

LIMITS = _orders()
RESTING = _orders(tif=RESTS)
MARKETS = _orders(price=st.just(0), quantity=st.integers(1, 15).map(lambda lots: lots * LOT))
STOPS = _orders(stop=PRICES, price=st.one_of(st.just(0), PRICES))
POSTS = _orders(tif=RESTS, post=st.just(True), peak=st.sampled_from([0, 0, 2]))
ICEBERG_ORDERS = _orders(tif=RESTS, quantity=ICEBERGS, peak=PEAKS)
ICEBERG_STOPS = _orders(tif=RESTS, quantity=ICEBERGS, peak=PEAKS, stop=PRICES)
FILL_OR_KILLS = _orders(
    tif=st.just(TimeInForce.FOK),
    price=st.one_of(st.just(0), PRICES),
    quantity=st.integers(1, 9).map(lambda lots: lots * LOT),
    stp=st.sampled_from([*SelfTrade, SelfTrade.MAKER, SelfTrade.MAKER]),
)
MISFITS = _orders(
    quantity=st.sampled_from([0, 1, 2, 10, 200, 202, 1_000_002, 999_999_999_998]),
    price=st.one_of(st.just(0), PRICES, OFF_GRID, st.just(9_999_999_990_000)),
    stop=st.one_of(st.just(0), st.just(0), PRICES, OFF_GRID),
    post=st.booleans(),
    peak=st.sampled_from([0, 0, 2, 3, 12]),
)

TARGETS: st.SearchStrategy[dict[str, int | str]] = st.one_of(
    st.just({}),
    st.just({}),
    st.just({}),
    st.fixed_dictionaries({"oid": OIDS}),
    st.fixed_dictionaries({"client_id": st.sampled_from(["a", "b"])}),
)
CANCELS = st.builds(
    lambda target, owner, reason: Cancel(ticker="intc", owner=owner, reason=reason, **target),
    TARGETS,
    OWNERS,
    st.sampled_from(CancelReason),
)


def _amends(
    quantities: st.SearchStrategy[int],
    prices: st.SearchStrategy[int | None],
    stops: st.SearchStrategy[int | None],
) -> st.SearchStrategy[Amend]:
    return st.builds(
        lambda target, owner, quantity, price, stop: Amend(
            ticker="intc", owner=owner, quantity=quantity, price=price, stop=stop, **target
        ),
        TARGETS,
        OWNERS,
        quantities,
        prices,
        stops,
    )


UNCHANGED = st.none()
AMENDS = _amends(QUANTITIES, st.one_of(UNCHANGED, PRICES), UNCHANGED)
AMENDS_OF_STOPS = _amends(QUANTITIES, UNCHANGED, PRICES)
AMENDS_OF_ICEBERGS = _amends(ICEBERGS, st.one_of(UNCHANGED, PRICES), UNCHANGED)
MISFIT_AMENDS = _amends(
    st.sampled_from([0, 1, 2, 4, 10, 202, 1_000_002, 999_999_999_998]),
    st.one_of(UNCHANGED, st.just(0), PRICES, OFF_GRID, st.just(9_999_999_990_000)),
    st.one_of(UNCHANGED, st.just(0), PRICES, OFF_GRID),
)

PERCENTS = st.sampled_from([0, 10_000, 20_000, 20_300, 20_400, 20_500, 30_000, 40_000, 50_000])
SETTING_VALUES = {
    "collar": PERCENTS,
    "band": st.sampled_from([0, 0, 40_000, 40_800, 60_000]),
    "breaker": PERCENTS,
    "maker_fee": st.sampled_from([-2_000, 0, 5_000]),
}
LIMIT_VALUES = {
    "max_quantity": st.sampled_from([0, 8, 12]).map(lambda shares: shares * 10_000),
    "max_open_orders": st.sampled_from([0, 1, 3, 5, 8]).map(lambda orders: orders * 10_000),
    "max_position": st.sampled_from([0, 4, 8, 12, 20, 40]).map(lambda shares: shares * 10_000),
    "max_notional": st.sampled_from([0, 600, 800, 1_040, 1_188]).map(lambda money: money * 10_000),
    "max_rate": st.sampled_from([0, 1, 2, 3, 4]).map(lambda count: count * 10_000),
}


def _some_of(
    values: dict[str, st.SearchStrategy[int]], *, also: st.SearchStrategy[int | None] | None = None
) -> st.SearchStrategy[tuple[tuple[str, int | None], ...]]:
    """Values for some of the names, at least one."""
    either = {
        name: each if also is None else st.one_of(each, also) for name, each in values.items()
    }
    return st.fixed_dictionaries({}, optional=either).filter(bool).map(lambda d: tuple(d.items()))


SETTINGS = st.builds(ChangeSettings, ticker=st.just("intc"), settings=_some_of(SETTING_VALUES))
PRODUCT_LIMITS = st.builds(
    ChangeLimits, ticker=st.just("intc"), owner=st.none(), limits=_some_of(LIMIT_VALUES)
)
EXCEPTIONS = st.builds(
    ChangeLimits,
    ticker=st.just("intc"),
    owner=st.sampled_from([1, 1, 2, 3]),
    limits=_some_of(LIMIT_VALUES, also=st.none()),
)
EDGES = [-1, 0, 1, 50, 100, 9_999, 10_000, 1_000_000, 1_000_100, 10**13 - 10_000, 10**13]
MISFIT_SETTINGS = st.builds(
    lambda names, value: ChangeSettings(
        ticker="intc", settings=tuple((name, value) for name in names)
    ),
    st.sampled_from([["collar"], ["breaker"], ["maker_fee"], ["band", "taker_fee"], ["fee"]]),
    st.sampled_from([*EDGES, -1_000_000, -1_000_100]),
)
MISFIT_LIMITS = st.builds(
    lambda owner, names, value: ChangeLimits(
        ticker="intc", owner=owner, limits=tuple((name, value) for name in names)
    ),
    st.sampled_from([None, None, 0, 1]),
    st.sampled_from([["max_quantity"], ["max_notional"], ["max_rate", "max_shares"]]),
    st.sampled_from([*EDGES, None]),
)

PHASE_CHANGES = st.builds(SetPhase, ticker=st.just("intc"), phase=PHASES)
RARE = st.one_of(
    st.builds(CancelAll, ticker=st.just("intc"), owner=OWNERS),
    st.builds(RaiseKey, ticker=st.just("intc"), owner=OWNERS, generation=st.integers(1, 3)),
    MISFIT_SETTINGS,
)

WEIGHTS: dict[st.SearchStrategy[Command] | st.SearchStrategy[None], int] = {
    RESTING: 14,
    ICEBERG_ORDERS: 4,
    ICEBERG_STOPS: 1,
    LIMITS: 4,
    MARKETS: 4,
    STOPS: 8,
    POSTS: 2,
    FILL_OR_KILLS: 3,
    MISFITS: 2,
    st.none(): 1,
    CANCELS: 2,
    AMENDS: 6,
    AMENDS_OF_STOPS: 2,
    AMENDS_OF_ICEBERGS: 2,
    MISFIT_AMENDS: 1,
    SETTINGS: 1,
    PRODUCT_LIMITS: 1,
    EXCEPTIONS: 1,
    MISFIT_LIMITS: 1,
    RARE: 1,
    PHASE_CHANGES: 4,
}
COMMANDS = st.sampled_from([kind for kind, weight in WEIGHTS.items() for _ in range(weight)])
LATER_STEPS = st.builds(
    Step, command=COMMANDS.flatmap(lambda kind: kind), after=STEPS, nth=st.integers(0, 7)
)
FIRST_STEPS = st.builds(
    Step,
    command=st.one_of(SETTINGS, SETTINGS, PRODUCT_LIMITS, EXCEPTIONS),
    after=st.just(0),
    nth=st.just(0),
)

# Hypothesis makes short lists by choice; long streams are where books fill and stops cascade. That
# a stream can be a short one, too, lets it take a long one that fails apart.
STREAMS = st.builds(
    lambda first, later: first + later,
    st.lists(FIRST_STEPS, max_size=2),
    st.one_of(st.lists(LATER_STEPS, max_size=80), st.lists(LATER_STEPS, min_size=40, max_size=80)),
)


@settings(
    max_examples=STREAM_COUNT,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(STREAMS, PHASES)
def test_the_engine_and_the_reference_answer_every_stream_alike(
    stream: list[Step], phase: Phase
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clientids, "REMEMBERED_IDS", REMEMBERED_IDS)
        trading = Trading(tick=TICK, lot=LOT, phase=phase, remembered_ids=REMEMBERED_IDS)
        try:
            for step in stream:
                trading.wait(step.after)
                command = _aimed(step, trading)
                if command is not None:
                    trading.apply(command)
            _replay(trading, phase)
        except AssertionError as error:
            table = "\n".join(trading.played)
            error.add_note(f"begun in {phase}, with tick 1.00 and lot {LOT}:\n{table}")
            raise


def _replay(trading: Trading, phase: Phase) -> None:
    """The lines that the journal has of the stream tell the same once more, to a new engine."""
    engine = trading.engine
    again = Engine(
        "intc", tick=engine.tick, lot=engine.lot, reference=engine.reference, phase=phase
    )
    for time, command, events in trading.journal:
        about_one = not isinstance(command, CancelAll) and events
        oid = getattr(events[0], "oid", 0) if about_one else 0
        lines = command_lines(command, events, oid=oid)
        first, *journaled = [parse_body(line, ticker="intc") for line in lines]
        assert isinstance(first, CommandRecord), lines
        told_by_command = len(events) - len(journaled)
        assert journaled == list(events[told_by_command:]), lines
        assert again.apply(first.command, time) == events, lines
    assert state_of(again) == state_of(engine)


def _aimed(step: Step, trading: Trading) -> Command | None:
    """The step's command, with a target if it has none; None if there is no target."""
    command, reference = step.command, trading.reference
    if reference.phase in (Phase.HALTED, Phase.CLOSED) and step.nth % 2:
        phase = Phase.AUCTION if step.nth == 1 else Phase.CONTINUOUS
        return SetPhase(ticker="intc", phase=phase)
    if command is None:
        with_id = [order.asked for order in reference.orders if order.asked.client_id]
        return with_id[step.nth % len(with_id)] if with_id else None
    if isinstance(command, Cancel | Amend) and not command.oid and not command.client_id:
        targets = reference.open_orders()
        if isinstance(command, Amend) and command.stop:
            targets = [order for order in targets if order.stop] or targets
        if targets:
            order = targets[step.nth % len(targets)]
            return replace(command, oid=order.oid, owner=order.owner)
    return command


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.txt")), ids=lambda path: path.stem)
def test_the_reference_answers_the_scenarios_like_the_engine(path: Path) -> None:
    for scenario in read_scenarios(path.read_text(encoding="utf-8"), file=path.name):
        trading = Trading(
            tick=parse_price(scenario.product["tick"]),
            lot=int(scenario.product["lot"]),
            reference=parse_price(scenario.product["reference"]),
        )
        begin = trading.time
        for row in scenario.rows:
            if is_question(row.left) or row.left == "again" or "bad_syntax" in row.expected:
                continue
            trading.time = begin + row.at
            trading.apply(command_of(row.left))
