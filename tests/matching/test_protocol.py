"""The command grammar (PROTOCOL §1): what is a command, where a text stops being one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matching import events, protocol
from matching.order import (
    Amend,
    Cancel,
    CancelAll,
    CancelReason,
    ChangeLimits,
    ChangeSettings,
    Login,
    NewOrder,
    Phase,
    RaiseKey,
    SelfTrade,
    SetPhase,
    Side,
    Status,
    TimeInForce,
    format_price,
    parse_price,
)
from matching.protocol import BadSyntax

NONCE = "0123456789abcdef0123456789abcdef"

# text | its canonical form
COMMANDS = f"""
    7:buy intc 100@50.25                       | 7:buy intc 100@50.25
    buy intc 100                               | 0:buy intc 100
    0:sell gs 00100@0099.5000/0                | 0:sell gs 100@99.50
    7:buy intc 100@0/0                         | 7:buy intc 100
    7:buy intc 100/49.90                       | 7:buy intc 100/49.90
    7:buy intc 100@50.2501/49.9                | 7:buy intc 100@50.2501/49.90
    7:buy intc 1 ts=1 post tif=gtc id=a        | 7:buy intc 1 id=a post ts=1
    7:sell intc 9@1 stp=none tif=fok id=A_z.:-9| 7:sell intc 9@1.00 id=A_z.:-9 tif=fok stp=none
    7:sell intc 9@1 stp=taker peak=5           | 7:sell intc 9@1.00 peak=5
    7:del intc 812                             | 7:del intc 812
    7:del intc id=a1 ts=5                      | 7:del intc id=a1 ts=5
    del intc all                               | 0:del intc all
    7:mod intc 812 80@50.30                    | 7:mod intc 812 80@50.30
    7:mod intc id=a1 80/49                     | 7:mod intc id=a1 80/49.00
    7:mod intc 812 80@0/0                      | 7:mod intc 812 80@0.00/0.00
    phase intc halted                          | phase intc halted
    set intc collar=5 maker_fee=-0.20 ts=5     | set intc collar=5 maker_fee=-0.2 ts=5
    limit intc * max_notional=100000           | limit intc * max_notional=100000.00
    limit intc 7 max_position=200 max_rate=*   | limit intc 7 max_position=200 max_rate=*
    key intc 7 2                               | key intc 7 2
    7:login intc nonce={NONCE} cod=1 ts=5      | 7:login intc nonce={NONCE} cod=1 ts=5
    login intc ts=5 nonce={NONCE}              | login intc nonce={NONCE} ts=5
"""

# text | the column where it goes wrong (the texts are between quotes, so that spaces show)
MISTAKES = rf"""
    ""                                         | 1
    "hello"                                    | 1
    "BUY intc 1"                               | 1
    "07:buy intc 1"                            | 1
    "1234567890:buy intc 1"                    | 1
    "buy"                                      | 4
    " buy intc 1"                              | 1
    "buy  intc 1"                              | 5
    "buy intc 1 "                              | 12
    "buy intc\t1"                              | 5
    "buy intc 1\n"                             | 11
    "buy INTC 1"                               | 5
    "buy all 1"                                | 5
    "buy 9gs 1"                                | 5
    "buy a2345678901234567 1"                  | 5
    "buy intc"                                 | 9
    "buy intc 1234567890123"                   | 22
    "buy intc -1"                              | 10
    "buy intc 1.5"                             | 11
    "buy intc 1@"                              | 11
    "buy intc 1@.5"                            | 11
    "buy intc 1@5."                            | 13
    "buy intc 1@5.12345"                       | 18
    "buy intc 1@1234567890"                    | 21
    "buy intc 1@1e5"                           | 13
    "buy intc 1/5@5"                           | 13
    "buy intc 1@5 id="                         | 17
    "buy intc 1@5 id=a id=a"                   | 19
    "buy intc 1@5 id=1234567890123456789012345678901234567" | 17
    "buy intc 1@5 id=ä"                        | 17
    "buy intc 1@5 tif=GTC"                     | 18
    "buy intc 1@5 post=1"                      | 14
    "buy intc 1@5 peak=0"                      | 19
    "buy intc 1@5 cod=1"                       | 14
    "buy intc 1@5 ts=-1"                       | 17
    "buy intc ١"                               | 10
    "del intc"                                 | 9
    "del intc all 5"                           | 14
    "del intc 5 id=a"                          | 12
    "del intc id=ä"                            | 13
    "mod intc 5"                               | 11
    "mod intc all 5"                           | 10
    "mod intc 5 5 tif=ioc"                     | 14
    "phase intc open"                          | 12
    "7:phase intc halted"                      | 1
    "set intc"                                 | 9
    "set intc collar"                          | 17
    "set intc collar=x"                        | 17
    "set intc collar=5 collar=5"               | 19
    "set intc Collar=5"                        | 10
    "limit intc 7"                             | 13
    "limit intc max_rate=5"                    | 12
    "key intc * 2"                             | 10
    "login intc nonce={NONCE}"                 | 50
    "login intc ts=5"                          | 16
    "login intc nonce={NONCE.upper()} ts=5"    | 18
"""


def _rows(table: str) -> list[tuple[str, str]]:
    rows = [line.rpartition("|") for line in table.strip("\n").split("\n") if "|" in line]
    return [(left.strip(), right.strip()) for left, _, right in rows]


@pytest.mark.parametrize(("text", "canonical"), _rows(COMMANDS))
def test_a_command_has_one_canonical_text(text: str, canonical: str) -> None:
    command = protocol.parse(text)
    assert protocol.format(command) == canonical
    assert protocol.parse(canonical) == command


@pytest.mark.parametrize(("text", "column"), _rows(MISTAKES))
def test_bad_syntax_names_the_column_where_it_went_wrong(text: str, column: str) -> None:
    with pytest.raises(BadSyntax) as mistake:
        protocol.parse(text[1:-1].replace("\\t", "\t").replace("\\n", "\n"))
    assert mistake.value.column == int(column), mistake.value


def test_a_command_has_at_most_256_bytes() -> None:
    longest = "buy intc 1 id=" + "a" * 36 + " ts=" + "1" * 15
    assert protocol.parse(longest)
    with pytest.raises(BadSyntax, match="column 257: a command has at most 256 bytes"):
        protocol.parse("buy intc 1".ljust(257))


def test_a_session_implies_ticker_and_owner_where_they_are_left_out() -> None:
    assert protocol.parse("buy 5@10", ticker="intc", owner=7) == protocol.parse("7:buy intc 5@10")
    assert protocol.parse("del all", ticker="intc", owner=7) == protocol.parse("7:del intc all")
    assert protocol.parse("mod id=a 5", ticker="intc", owner=7) == protocol.parse(
        "7:mod intc id=a 5"
    )


def test_what_a_text_says_itself_overrides_the_session() -> None:
    assert protocol.parse("0:buy gs 5@10", ticker="intc", owner=7) == protocol.parse("buy gs 5@10")


def test_a_venue_command_names_its_product_also_in_a_session() -> None:
    with pytest.raises(BadSyntax, match="expected a ticker"):
        protocol.parse("set collar=5", ticker="intc")


PRICES = st.integers(1, 10**13 - 1)
AMOUNTS = st.integers(0, 10**12 - 1)
OWNERS = st.integers(0, 999_999_999)
TICKERS = st.from_regex(r"[a-z_][a-z0-9_]{0,15}", fullmatch=True).filter(lambda text: text != "all")
IDS = st.from_regex(r"[A-Za-z0-9_.:-]{1,36}", fullmatch=True)
TIMES = st.none() | st.integers(0, 10**15 - 1)
BY_OID_OR_ID = st.tuples(AMOUNTS, st.just("")) | st.tuples(st.just(0), IDS)
NAMES = st.from_regex(r"[a-z_]{1,20}", fullmatch=True).filter(lambda name: name != "ts")

ORDERS = st.builds(
    NewOrder,
    ticker=TICKERS,
    owner=OWNERS,
    side=st.sampled_from(Side),
    quantity=AMOUNTS,
    price=st.just(0) | PRICES,
    stop=st.just(0) | PRICES,
    client_id=st.just("") | IDS,
    tif=st.sampled_from(TimeInForce),
    stp=st.sampled_from(SelfTrade),
    post=st.booleans(),
    peak=AMOUNTS,
    ts=TIMES,
)
CANCELS = st.builds(
    lambda ticker, owner, target, ts: Cancel(
        ticker=ticker, owner=owner, oid=target[0], client_id=target[1], ts=ts
    ),
    TICKERS,
    OWNERS,
    BY_OID_OR_ID,
    TIMES,
)
AMENDS = st.builds(
    lambda ticker, owner, target, quantity, price, stop, ts: Amend(
        ticker=ticker,
        owner=owner,
        oid=target[0],
        client_id=target[1],
        quantity=quantity,
        price=price,
        stop=stop,
        ts=ts,
    ),
    TICKERS,
    OWNERS,
    BY_OID_OR_ID,
    AMOUNTS,
    st.none() | st.just(0) | PRICES,
    st.none() | st.just(0) | PRICES,
    TIMES,
)
SETTINGS = st.lists(
    st.tuples(NAMES, st.integers(-(10**13) + 1, 10**13 - 1)),
    min_size=1,
    max_size=4,
    unique_by=lambda setting: setting[0],
).map(tuple)
LIMITS = st.lists(
    st.tuples(NAMES, st.none() | st.integers(-(10**13) + 1, 10**13 - 1)),
    min_size=1,
    max_size=4,
    unique_by=lambda limit: limit[0],
).map(tuple)
COMMAND_KINDS = (
    ORDERS
    | CANCELS
    | AMENDS
    | st.builds(
        CancelAll, ticker=TICKERS, owner=OWNERS, ts=TIMES, reason=st.just(CancelReason.USER)
    )
    | st.builds(SetPhase, ticker=TICKERS, phase=st.sampled_from(Phase), why=st.just(""), ts=TIMES)
    | st.builds(ChangeSettings, ticker=TICKERS, settings=SETTINGS, ts=TIMES)
    | st.builds(ChangeLimits, ticker=TICKERS, owner=st.none() | OWNERS, limits=LIMITS, ts=TIMES)
    | st.builds(RaiseKey, ticker=TICKERS, owner=OWNERS, generation=AMOUNTS, ts=TIMES)
    | st.builds(
        Login,
        ticker=TICKERS,
        owner=st.none() | OWNERS,
        nonce=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
        cod=st.booleans(),
        ts=st.integers(0, 10**15 - 1),
    )
)


@given(COMMAND_KINDS)
def test_every_command_survives_its_text(command: NewOrder) -> None:
    text = protocol.format(command)
    if len(text) <= protocol.TEXT_LIMIT:
        assert protocol.parse(text) == command


@given(
    st.text(max_size=300) | st.from_regex(r"[0-9]{0,2}:?(buy|del|set|mod) [a-z ]{0,9}[0-9@/=.]*")
)
def test_any_text_is_a_command_or_bad_syntax_within_it(text: str) -> None:
    column = None
    try:
        command = protocol.parse(text)
    except BadSyntax as mistake:
        column = mistake.column
    if column is None:
        assert protocol.parse(protocol.format(command)) == command
    else:
        assert 1 <= column <= min(len(text), protocol.TEXT_LIMIT) + 1


@given(st.integers(0, 10**13 - 1))
def test_a_price_survives_its_text(price: int) -> None:
    assert parse_price(format_price(price)) == price


@pytest.mark.parametrize(
    "text", ["", ".5", "5.", "-1", "1e3", "1.23456", "1234567890", " 1", "1 ", "١"]
)
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a price"):
        parse_price(text)


def _json(event: events.Event) -> str:
    return json.dumps(protocol.event_to_dict(event))


def test_events_have_the_json_form_of_the_protocol() -> None:
    trade = events.Trade(13, 1_013_000, 60, 7, 3, 20, 14, Side.BUY)
    assert _json(events.Accepted(20)) == '{"event": "accepted", "oid": 20}'
    assert _json(trade) == (
        '{"event": "trade", "tid": 13, "price": "101.30", "quantity": 60,'
        ' "buy": 20, "sell": 14, "taker": "buy"}'
    )
    assert _json(events.Trade(13, 1, 1, 0, 0, 2, 1, None)) == (
        '{"event": "trade", "tid": 13, "price": "0.0001", "quantity": 1,'
        ' "buy": 2, "sell": 1, "taker": "none"}'
    )
    assert _json(events.Canceled(6, 4, CancelReason.SELF_TRADE)) == (
        '{"event": "canceled", "oid": 6, "quantity": 4, "reason": "self_trade"}'
    )
    assert _json(events.Triggered(5)) == '{"event": "triggered", "oid": 5}'
    assert _json(events.Amended(5, 80, 0, 999_800)) == (
        '{"event": "amended", "oid": 5, "quantity": 80, "price": null, "stop": "99.98"}'
    )
    assert _json(events.Decremented(3, 4)) == '{"event": "decremented", "oid": 3, "quantity": 4}'
    assert _json(events.PhaseChanged(Phase.HALTED)) == '{"event": "phase", "phase": "halted"}'
    assert _json(events.SettingChanged("maker_fee", -2_000)) == (
        '{"event": "set", "name": "maker_fee", "value": "-0.2"}'
    )
    assert _json(events.LimitChanged(None, "max_notional", 10**9)) == (
        '{"event": "limit", "owner": null, "name": "max_notional", "value": "100000.00"}'
    )
    assert _json(events.KeyRaised(7, 2)) == '{"event": "key", "owner": 7, "generation": 2}'
    assert _json(events.Duplicate(5, Status.OPEN, 0, 9)) == '{"event": "duplicate", "oid": 5}'


def test_a_trade_names_no_owner_in_json() -> None:
    trade = protocol.event_to_dict(events.Trade(1, 1_000_000, 5, 77, 88, 2, 1, Side.SELL))
    assert 77 not in trade.values()
    assert 88 not in trade.values()
