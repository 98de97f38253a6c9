"""The journal's lines: each record as text and back (PROTOCOL §5)."""

import re
from collections.abc import Sequence
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matching.events import (
    Accepted,
    Amended,
    Canceled,
    Decremented,
    Event,
    KeyRaised,
    LimitChanged,
    PhaseChanged,
    Rejected,
    SettingChanged,
    Trade,
    Triggered,
)
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
from matching.records import (
    Body,
    Check,
    CommandRecord,
    Epoch,
    Tick,
    cancel_of_words,
    command_lines,
    event_lines,
    format_body,
    format_time,
    order_of_words,
    parse_body,
    parse_line,
    parse_time,
    usual_words,
)
from tests.matching.decided import T0, events_of, order
from tests.matching.small_server import parse

LINES: list[tuple[str, Body]] = [
    ("epoch 2", Epoch(2)),
    ("tick", Tick()),
    (
        "[9] 8 sell 500@106.00/0 id=big tif=day post peak=50",
        CommandRecord(
            9,
            order(
                8,
                Side.SELL,
                500,
                1_060_000,
                client_id="big",
                tif=TimeInForce.DAY,
                post=True,
                peak=50,
            ),
        ),
    ),
    (
        "[10] 0 buy 1@0/99.985 id=Z_9.:- tif=fok stp=decrement cod=1 g=00112233445566ff",
        CommandRecord(
            10,
            order(
                0,
                Side.BUY,
                1,
                0,
                stop=999_850,
                client_id="Z_9.:-",
                tif=TimeInForce.FOK,
                stp=SelfTrade.DECREMENT,
                cod=True,
            ),
            "00112233445566ff",
        ),
    ),
    (
        "[3] 1 mod 6@99.96/0",
        CommandRecord(3, Amend(ticker="intc", owner=1, oid=3, quantity=6, price=999_600, stop=0)),
    ),
    (
        "[3] 1 mod 6@0/99.0001 g=5d2e8a60b1c74f93",
        CommandRecord(
            3,
            Amend(ticker="intc", owner=1, oid=3, quantity=6, price=0, stop=990_001),
            "5d2e8a60b1c74f93",
        ),
    ),
    ("[2] 2 del", CommandRecord(2, Cancel(ticker="intc", owner=2, oid=2))),
    (
        "[2] 2 del g=5d2e8a60b1c74f93",
        CommandRecord(2, Cancel(ticker="intc", owner=2, oid=2), "5d2e8a60b1c74f93"),
    ),
    (
        "[11] 9 del why=disconnect",
        CommandRecord(11, Cancel(ticker="intc", owner=9, oid=11, reason=CancelReason.DISCONNECT)),
    ),
    ("[0] 8 del all", CommandRecord(0, CancelAll(ticker="intc", owner=8))),
    (
        "[0] 8 del all why=dead_man",
        CommandRecord(0, CancelAll(ticker="intc", owner=8, reason=CancelReason.DEAD_MAN)),
    ),
    (
        "[0] 0 phase continuous",
        CommandRecord(0, SetPhase(ticker="intc", phase=Phase.CONTINUOUS)),
    ),
    (
        "[0] 0 phase halted why=no_space",
        CommandRecord(0, SetPhase(ticker="intc", phase=Phase.HALTED, why="no_space")),
    ),
    (
        "[0] 0 set collar=5 breaker=5 maker_fee=-0.25",
        CommandRecord(
            0,
            parse("set intc collar=5 breaker=5 maker_fee=-0.25"),
        ),
    ),
    (
        "[0] 0 limit * max_notional=100000.00",
        CommandRecord(0, parse("limit intc * max_notional=100000")),
    ),
    (
        "[0] 0 limit 7 max_position=200 max_rate=* g=5d2e8a60b1c74f93",
        CommandRecord(0, parse("limit intc 7 max_position=200 max_rate=*"), "5d2e8a60b1c74f93"),
    ),
    ("[0] 0 key 7 2", CommandRecord(0, RaiseKey(ticker="intc", owner=7, generation=2))),
    ("match 2@99.96 from 1(3) to 9(8) t=2 k=buy", Trade(2, 999_600, 2, 9, 1, 8, 3, Side.BUY)),
    ("match 2@99.96 from 1(3) to 9(8) t=2 k=sell", Trade(2, 999_600, 2, 9, 1, 8, 3, Side.SELL)),
    ("match 2@99.96 from 0(3) to 9(8) t=2 k=none", Trade(2, 999_600, 2, 9, 0, 8, 3, None)),
    ("canceled [6] 0 self_trade", Canceled(6, 0, CancelReason.SELF_TRADE)),
    ("triggered [5]", Triggered(5)),
    ("decremented [3] 4", Decremented(3, 4)),
    ("phase halted", PhaseChanged(Phase.HALTED)),
]


@pytest.mark.parametrize(("text", "body"), LINES, ids=[text for text, _ in LINES])
def test_every_form_of_line_is_written_and_read(text: str, body: Body) -> None:
    line = f"1700000000.020000: {text}"
    assert f"1700000000.020000: {format_body(body)}" == line
    assert parse_line(line, ticker="intc") == (T0 + 20_000, body)


def test_a_check_is_the_line_without_a_time() -> None:
    check = Check(12_000, "3f0c9ad1e5b84726a90d1c3e5f7b8246")
    line = "check 12000 3f0c9ad1e5b84726a90d1c3e5f7b8246"
    assert format_body(check) == line
    assert parse_line(line, ticker="intc") == (0, check)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "epoch 2",
        "1700000000.02: epoch 2",
        "01700000000.020000: epoch 2",
        "1700000000.020000: epoch",
        "1700000000.020000: epoch 02",
        "1700000000.020000: tick ",
        "1700000000.020000: check 1 3f0c9ad1e5b84726a90d1c3e5f7b8246",
        "1700000000.020000: [1] 3 sell 4@99.9/0",
        "1700000000.020000: [1] 3 sell 4@99.90",
        "1700000000.020000: [1] 3 sell 4@99.900/0",
        "1700000000.020000: [1] 3 sell 4@99.90/0 tif=gtc",
        "1700000000.020000: [1] 3 sell 4@99.90/0 tif=day id=a",
        "1700000000.020000: [1] 3 sell 4@99.90/0 ts=1700000000000",
        "1700000000.020000: [0] 3 sell 4@99.90/0",
        "1700000000.020000: [1] 3 del all",
        "1700000000.020000: [1] 3 del why=nothing",
        "1700000000.020000: [1] 3 mod 4",
        "1700000000.020000: [0] 3 phase halted",
        "1700000000.020000: [0] 0 phase sleeping",
        "1700000000.020000: [0] 0 set collar=5 why=no_space",
        "1700000000.020000: [0] 0 key 7 2 ",
        "1700000000.020000: match 2@99.96 from 1(3) to 9(8) t=2",
        "1700000000.020000: canceled [6] 0 boredom",
        "1700000000.020000: accepted [6]",
    ],
)
def test_a_line_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_line(line, ticker="intc")


def lines(command: Command, events: Sequence[Event], *, oid: int) -> list[str]:
    return command_lines(command, events, oid=oid)


def test_a_cancel_by_client_id_is_journaled_by_oid_with_what_was_open() -> None:
    command, events = events_of("1:buy 5@99 id=a", "1:del id=a")
    assert lines(command, events, oid=1) == ["[1] 1 del", "canceled [1] 5 user"]


def test_a_cancel_of_everything_names_each_order_that_it_ends() -> None:
    command, events = events_of("1:buy 5@99", "2:buy 1@98", "1:buy 3@97", "1:del all")
    assert lines(command, events, oid=0) == [
        "[0] 1 del all",
        "canceled [1] 5 user",
        "canceled [3] 3 user",
    ]


def test_a_cancel_of_everything_by_an_owner_without_orders_is_one_line() -> None:
    command, events = events_of("1:del all")
    assert lines(command, events, oid=0) == ["[0] 1 del all"]


def test_the_phase_command_tells_its_phase_itself_but_not_what_follows() -> None:
    command, events = events_of("1:buy 5@99 tif=day", "phase intc closed")
    assert lines(command, events, oid=0) == ["[0] 0 phase closed", "canceled [1] 5 end_of_day"]


def test_a_phase_that_a_trade_brings_has_a_line() -> None:
    command = order(1, Side.BUY, 5, 0)
    events = [Accepted(4), Canceled(4, 5, CancelReason.BREAKER), PhaseChanged(Phase.HALTED)]
    assert lines(command, events, oid=4) == [
        "[4] 1 buy 5@0/0",
        "canceled [4] 5 breaker",
        "phase halted",
    ]


def test_an_amend_is_journaled_with_all_the_values_that_it_led_to() -> None:
    command = parse("1:mod intc id=a 6")
    events = [Amended(3, 6, 999_600, 0), Canceled(3, 2, CancelReason.AMENDED)]
    assert lines(command, events, oid=3) == ["[3] 1 mod 6@99.96/0", "canceled [3] 2 amended"]


@pytest.mark.parametrize(
    ("command", "events", "line"),
    [
        (
            ChangeSettings(ticker="intc", settings=(("collar", 50_000), ("band", 100_000))),
            [SettingChanged("collar", 50_000), SettingChanged("band", 100_000)],
            "[0] 0 set collar=5 band=10",
        ),
        (
            ChangeLimits(ticker="intc", owner=7, limits=(("max_rate", None),)),
            [LimitChanged(7, "max_rate", None)],
            "[0] 0 limit 7 max_rate=*",
        ),
        (
            RaiseKey(ticker="intc", owner=7, generation=2),
            [KeyRaised(7, 2)],
            "[0] 0 key 7 2",
        ),
    ],
)
def test_what_the_venue_changes_is_told_by_the_command_alone(
    command: Command, events: Sequence[Event], line: str
) -> None:
    assert lines(command, events, oid=0) == [line]


# -- round trips of anything

_names = st.text("abcXYZ019_.:-", min_size=1, max_size=36)
_owners = st.integers(0, 999_999_999)
_oids = st.integers(1, 10**12)
_quantities = st.integers(1, 10**12)
_prices = st.integers(0, 10**13 - 1)
_signatures = st.just("") | st.text("0123456789abcdef", min_size=16, max_size=16)
_reasons = st.sampled_from(CancelReason)


@st.composite
def _commands(draw: st.DrawFn) -> CommandRecord:
    oid, owner = draw(_oids), draw(_owners)
    new_order = st.builds(
        NewOrder,
        ticker=st.just("intc"),
        owner=st.just(owner),
        side=st.sampled_from(Side),
        quantity=_quantities,
        price=_prices,
        stop=_prices,
        client_id=st.just("") | _names,
        tif=st.sampled_from(TimeInForce),
        stp=st.sampled_from(SelfTrade),
        post=st.booleans(),
        peak=st.integers(0, 10**12),
        cod=st.booleans(),
    )
    cancel = st.builds(
        Cancel, ticker=st.just("intc"), owner=st.just(owner), oid=st.just(oid), reason=_reasons
    )
    amend = st.builds(
        Amend,
        ticker=st.just("intc"),
        owner=st.just(owner),
        oid=st.just(oid),
        quantity=_quantities,
        price=_prices,
        stop=_prices,
    )
    phase = st.builds(
        SetPhase,
        ticker=st.just("intc"),
        phase=st.sampled_from(Phase),
        why=st.sampled_from(("", "no_space")),
    )
    key = st.builds(
        RaiseKey, ticker=st.just("intc"), owner=_owners, generation=st.integers(0, 10**12 - 1)
    )
    everything = st.builds(CancelAll, ticker=st.just("intc"), owner=st.just(owner), reason=_reasons)
    with_oid = st.builds(CommandRecord, st.just(oid), new_order | cancel | amend, _signatures)
    without = st.builds(CommandRecord, st.just(0), everything | phase | key, _signatures)
    return draw(with_oid | without)


_events = (
    st.builds(
        Trade,
        _oids,
        _prices,
        _quantities,
        _owners,
        _owners,
        _oids,
        _oids,
        st.sampled_from((Side.BUY, Side.SELL, None)),
    )
    | st.builds(Canceled, _oids, st.integers(0, 10**12), _reasons)
    | st.builds(Triggered, _oids)
    | st.builds(Decremented, _oids, _quantities)
    | st.builds(PhaseChanged, st.sampled_from(Phase))
)
_bodies = _commands() | _events | st.builds(Epoch, st.integers(1, 10**6)) | st.just(Tick())


@given(_bodies, st.integers(0, 10**17))
def test_any_record_is_read_as_it_was_written(body: Body, time: int) -> None:
    line = f"{format_time(time)}: {format_body(body)}"
    assert parse_line(line, ticker="intc") == (time, body)


_some_lines = st.sampled_from([text for text, _ in LINES]) | _bodies.map(format_body)
_options = (" id=a", " tif=gtc", " stp=taker", " post", " peak=0", " cod=1", " cod=0", " why=user")
_pieces = st.text(" 0123456789@/.[]=+-_*\u0663", max_size=3) | st.sampled_from(_options)


@given(_some_lines, _pieces, st.data())
def test_a_record_is_read_from_the_text_that_is_written_of_it_and_from_no_other(
    text: str, piece: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 4)))
    altered = text[:start] + piece + text[end:]
    try:
        body = parse_body(altered, ticker="intc")
    except ValueError:
        return
    assert format_body(body) == altered


@given(st.lists(st.tuples(_some_lines, _pieces, st.integers(0, 60), st.booleans()), max_size=5))
def test_lines_read_at_once_say_what_they_say_one_by_one(
    altered: list[tuple[str, str, int, bool]],
) -> None:
    lines = []
    for text, piece, place, is_altered in altered:
        line = f"1700000000.020000: {text}"
        lines.append(line[:place] + piece + line[place + 1 :] if is_altered else line)
    told = 0
    for stamp, number, acting, quantity, prices, options, owner, caused in usual_words(lines):
        line, events = lines[told], lines[told + 1 :]
        told += 1 + caused.count("\n")
        assert caused == "".join(f"\n{event}" for event in _events_at_once(line, events))
        try:
            time, body = parse_line(line, ticker="intc")
        except ValueError as error:
            if quantity:
                with pytest.raises(ValueError, match=re.escape(str(error))):
                    order_of_words(number, acting, quantity, prices, options, "intc")
            else:
                assert not owner
            continue
        if quantity:
            record = CommandRecord(
                *order_of_words(number, acting, quantity, prices, options, "intc")
            )
        elif owner:
            record = CommandRecord(*cancel_of_words(number, owner, "intc"))
        else:
            assert not (isinstance(body, CommandRecord) and isinstance(body.command, NewOrder))
            assert not re.fullmatch(r"[0-9.]+: \[[0-9]+\] [0-9]+ del", line)
            continue
        assert (parse_time(stamp), record) == (time, body)
    assert told == len(lines)


def _events_at_once(line: str, following: Sequence[str]) -> list[str]:
    """The lines of events that follow a command's line at its time, without a gap."""
    command = re.match(r"((?:0|[1-9][0-9]*)\.[0-9]{6}: )\[", line, re.ASCII)
    if command is None:
        return []
    verbs = ("match ", "canceled ", "triggered ", "decremented ", "phase ")
    begins = tuple(command[1] + verb for verb in verbs)
    return list(takewhile(lambda event: event.startswith(begins), following))


@given(st.text("0123456789._+- \u0663", max_size=12) | st.integers(0, 10**17).map(format_time))
def test_a_time_is_read_from_the_text_that_is_written_of_it_and_from_no_other(text: str) -> None:
    try:
        time = parse_time(text)
    except ValueError:
        return
    assert format_time(time) == text


@pytest.mark.parametrize(
    "line",
    [
        "[1] 3 sell 4@0.00/0",
        "[1] 3 sell 4@99.90/0.00",
        "[01] 3 sell 4@99.90/0",
        "[1] 03 sell 4@99.90/0",
        "[1] 1234567890 sell 4@99.90/0",
        "[1] 3 sell 04@99.90/0",
        "[1] 3 sell 0@99.90/0",
        "[1] 3 sell 4@99.90/0 ",
        "[1]  3 sell 4@99.90/0",
        "[1] 3 del why=user",
        "[1] 3 del ",
        "[0] 3 del",
        "[0] 0 phase  halted",
        "[0] 0 set collar=5.0",
        "[0] 0 key 7 02",
        "[1]",
        "match 2@0.00 from 1(3) to 9(8) t=2 k=buy",
    ],
)
def test_what_would_be_written_otherwise_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_body(line, ticker="intc")


def test_what_a_command_that_was_read_causes_has_the_lines_that_were_written() -> None:
    command, events = events_of("1:buy 5@99 id=a", "2:sell 7@99")
    written = lines(command, events, oid=2)
    record = parse_body(written[0], ticker="intc")
    assert isinstance(record, CommandRecord)
    assert written[1:] == ["match 5@99.00 from 2(2) to 1(1) t=1 k=sell"]
    caused = event_lines(record.command, events, record.oid, "7.000001")
    assert caused == (1, "\n7.000001: match 5@99.00 from 2(2) to 1(1) t=1 k=sell")


@pytest.mark.parametrize(
    ("line", "events"),
    [
        ("[4] 1 buy 5@99.00/0", [Accepted(5)]),
        ("[4] 1 buy 5@99.00/0", [Rejected("bad_tick", "99.00 is no multiple of 0.05")]),
        ("[3] 1 del", [Canceled(4, 5, CancelReason.USER)]),
        ("[3] 1 mod 6@99.96/0", [Amended(3, 5, 999_600, 0)]),
        ("[3] 1 mod 6@99.96/0", [Amended(3, 6, 999_700, 0)]),
        ("[3] 1 mod 6@99.96/0", [Amended(4, 6, 999_600, 0)]),
        ("[0] 0 phase halted", []),
    ],
)
def test_events_that_are_not_those_of_the_command_have_no_lines(
    line: str, events: Sequence[Event]
) -> None:
    record = parse_body(line, ticker="intc")
    assert isinstance(record, CommandRecord)
    with pytest.raises(ValueError, match=r"was not carried out|is not the one|led to"):
        event_lines(record.command, events, record.oid, "7.000001")
