"""The scenarios of tests/scenarios, each a test."""

from pathlib import Path

import pytest

from matching.conformance import SCENARIOS, Product, play
from matching.scenario import (
    BadScenario,
    Scenario,
    agrees,
    answer_words,
    event_words,
    read_rows,
    read_scenarios,
)
from tests.processes import ROOT

FILES = sorted(SCENARIOS.glob("*.txt"))
BY_FILE = {path: read_scenarios(path.read_text(encoding="utf-8"), file=path.name) for path in FILES}
ALL = [scenario for scenarios in BY_FILE.values() for scenario in scenarios]
RULES = [*(f"R{number}" for number in range(1, 19)), "words", "checks", "events", "2010"]

each_scenario = pytest.mark.parametrize(
    "scenario", ALL, ids=[f"{scenario.file}:{scenario.line}" for scenario in ALL]
)


class CheckedProduct(Product):
    """Our engine, which asserts its invariants after every line."""

    def answer(self, line: str) -> str:
        answer = super().answer(line)
        self.engine.check()
        return answer


@each_scenario
def test_our_engine_does_as_the_scenario_says(scenario: Scenario) -> None:
    failure = play(scenario, CheckedProduct())
    assert failure is None, f"\n{failure}"


def test_every_rule_has_its_scenarios() -> None:
    assert {scenario.rule for scenario in ALL} == set(RULES)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_a_file_is_about_one_rule_and_says_at_the_top_which(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    [rule] = {scenario.rule for scenario in BY_FILE[path]}
    assert text.startswith(f"# {rule} " if rule.startswith("R") else "# ")
    assert text.isascii() or set(filter(lambda c: not c.isascii(), text)) <= set("…")


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_the_rules_for_readers_link_to_the_file(path: Path) -> None:
    rules = (ROOT / "docs" / "RULES.md").read_text(encoding="utf-8")
    assert f"(../tests/scenarios/{path.name})" in rules


def test_a_title_stands_for_one_scenario() -> None:
    titles = [(scenario.rule, scenario.title) for scenario in ALL]
    assert len(titles) == len(set(titles))


# Reading


def test_a_scenario_has_a_rule_a_title_a_product_and_rows_with_their_lines_and_times() -> None:
    [one, other] = read_scenarios(
        """
# What a file says first is for its readers.

== R1 The first
tick=0.05 reference=20.00
1:buy intc 5@50 | #1 accepted
+1.5s
+0.000001s
2:sell intc 5   | #2 accepted
# Comments may stand anywhere.
                | trade 5@50.00 maker #1 taker #2
== 2010 The other
last | -
""",
        file="some.txt",
    )
    assert (one.file, one.line, one.rule, one.title) == ("some.txt", 4, "R1", "The first")
    assert one.product == {"tick": "0.05", "lot": "1", "reference": "20.00"}
    assert [(row.line, row.at, row.left) for row in one.rows] == [
        (6, 0, "1:buy intc 5@50"),
        (9, 1_500_001, "2:sell intc 5"),
    ]
    assert one.rows[1].expected == "#2 accepted; trade 5@50.00 maker #1 taker #2"
    assert (other.line, other.rule, other.product["tick"]) == (12, "2010", "0.01")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1:buy intc 5 | #1 accepted", "f:1: no scenario has begun"),
        ("== R1 One\n1:buy intc 5", "f:2: expected `command | answer`"),
        ("== R1 One\n1:buy intc 5 |", "f:2: expected `command | answer`"),
        ("== R1 One\n | #1 accepted", "f:2: expected `command | answer`"),
        ("== R1 One\n+1.5 | #1 accepted\n+3", "f:3: expected `command | answer`"),
        ("== R1 One\ntick=0.01 size=5\nlast | -", "f:2: 'size=5' is none of tick, lot, reference"),
        ("== R19 One\nlast | -", "f:1: expected a rule and a title"),
        ("== R1\nlast | -", "f:1: expected a rule and a title"),
        ("== R1 One\n\n== R1 Two\nlast | -", "f:1: 'One' has no row"),
    ],
)
def test_what_is_no_scenario_is_refused_with_file_and_line(text: str, complaint: str) -> None:
    with pytest.raises(BadScenario) as caught:
        read_scenarios(text, file="f")
    assert str(caught.value).startswith(complaint)


def test_a_row_goes_on_below() -> None:
    [row] = read_rows("""
        1:buy intc 5 | rejected bad_tick:
                     | 5 is no price
    """)
    assert row.expected == "rejected bad_tick: 5 is no price"


# Words


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"event": "accepted", "oid": 3}, "#3 accepted"),
        ({"event": "canceled", "oid": 3, "quantity": 5, "reason": "ioc"}, "#3 canceled 5 ioc"),
        ({"event": "triggered", "oid": 3}, "#3 triggered"),
        ({"event": "decremented", "oid": 3, "quantity": 5}, "#3 decremented 5"),
        ({"event": "phase", "phase": "closed"}, "phase closed"),
        ({"event": "set", "name": "collar", "value": "5"}, "set collar 5"),
        (
            {"event": "limit", "owner": None, "name": "max_rate", "value": "5"},
            "limit * max_rate 5",
        ),
        ({"event": "limit", "owner": 7, "name": "max_rate", "value": "*"}, "limit 7 max_rate *"),
        ({"event": "key", "owner": 7, "generation": 2}, "key of owner 7 generation 2"),
    ],
)
def test_events_in_words(event: dict[str, object], words: str) -> None:
    assert event_words(event) == words


@pytest.mark.parametrize(
    ("taker", "words"),
    [
        ("buy", "trade 5@50.25 maker #2 taker #1"),
        ("sell", "trade 5@50.25 maker #1 taker #2"),
        ("none", "trade 5@50.25 buy #1 sell #2"),
    ],
)
def test_a_trade_names_who_came_and_who_was_there(taker: str, words: str) -> None:
    trade = {"event": "trade", "tid": 1, "price": "50.25", "quantity": 5, "buy": 1, "sell": 2}
    assert event_words(trade | {"taker": taker}) == words


@pytest.mark.parametrize(
    ("price", "stop", "words"),
    [
        ("50.25", None, "#1 amended 5@50.25"),
        (None, "60.00", "#1 amended 5/60.00"),
        ("50.25", "60.00", "#1 amended 5@50.25/60.00"),
    ],
)
def test_an_amend_names_what_the_order_has(price: str | None, stop: str | None, words: str) -> None:
    event = {"event": "amended", "oid": 1, "quantity": 5, "price": price, "stop": stop}
    assert event_words(event) == words


@pytest.mark.parametrize(
    ("left", "answer", "words"),
    [
        ("1:del intc all", [], "nothing"),
        ("1:del intc 1", {"error": {"code": "order_not_found", "rule": "R13"}},
         "rejected order_not_found R13"),
        ("1:buy intc 0", {"error": {"code": "invalid_order", "rule": ""}},
         "rejected invalid_order"),
        ("book", {"bids": [["50.25", 5, 2], ["50.00", 1, 1]], "asks": []},
         "bids 5@50.25 of 2 1@50.00 of 1; asks -"),
        ("last", None, "-"),
        ("last", "50.25", "50.25"),
        ("phase", "halted", "halted"),
        ("phase intc halted", [{"event": "phase", "phase": "halted"}], "phase halted"),
        ("position 7", -5, "-5"),
        ("open 7", [1, 3], "#1 #3"),
        ("open 7", [], "-"),
        ("indicative", None, "-"),
        ("indicative", {"price": "50.00", "volume": 5, "surplus": -2}, "5@50.00 surplus 2 sell"),
        ("indicative", {"price": "50.00", "volume": 5, "surplus": 0}, "5@50.00 surplus 0"),
    ],
)  # fmt: skip
def test_answers_in_words(left: str, answer: object, words: str) -> None:
    assert answer_words(left, answer) == words


@pytest.mark.parametrize(
    ("expected", "found", "is_it"),
    [
        ("rejected bad_tick", "rejected bad_tick", True),
        ("rejected invalid_order", "rejected invalid_order R8", True),
        ("rejected would_take R8", "rejected would_take", False),
        ("rejected would_take R8", "rejected would_take R9", False),
        ("rejected would_take", "rejected bad_tick", False),
        ("bids 5@50.25; asks -", "bids 5@50.25 of 2; asks -", True),
        ("bids 5@50.25 of 1; asks -", "bids 5@50.25 of 2; asks -", False),
        ("bids 5@50.25; asks -", "bids 4@50.25 of 2; asks -", False),
    ],
)
def test_a_rule_and_a_count_matter_where_they_are_written(
    expected: str, found: str, is_it: bool
) -> None:
    assert agrees(expected, found) is is_it
