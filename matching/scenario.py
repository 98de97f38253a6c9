"""Scenarios: rules as tables that a trader can sign, read from a file, and answers in their words.

    == R1 The unfilled rest of a limit order joins the book
    tick=0.01 lot=1 reference=100.00
    1:sell intc 100@50.25 | #1 accepted
    +1.5s
    2:buy intc 150@50.25  | #2 accepted
                          | trade 100@50.25 maker #1 taker #2
    book                  | bids 50@50.25; asks -

`==` begins a scenario: the rule, and a sentence that says what it shows. A line of `name=value`
says what differs from the usual product. A row has a command on the left and on the right what it
causes; a row without a left side goes on with the right side above it. The clock stands still, but
for lines like `+1.5s`. `#` begins a comment line.

>>> [scenario] = read_scenarios("== R2 A market order never rests\\n1:buy intc 5 | #1 accepted")
>>> scenario.rule, scenario.title, scenario.rows[0].expected
('R2', 'A market order never rests', '#1 accepted')
>>> event_words({"event": "canceled", "oid": 1, "quantity": 5, "reason": "no_liquidity"})
'#1 canceled 5 no_liquidity'
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from matching import events, protocol

_PARAMETER = re.compile(r"(tick|lot|reference)=(\S+)")
_CLOCK = re.compile(r"\+(\d+)(?:\.(\d{1,6}))?s")
_RULE = re.compile(r"R([1-9]|1[0-8])|words|checks|events|2010")
_COUNT = re.compile(r" of \d+")
_REJECTED_RULE = re.compile(r"(?<=rejected )(\w+) R\d+")

USUAL_PRODUCT = {"tick": "0.01", "lot": "1", "reference": "100.00"}


class Row(msgspec.Struct, frozen=True):
    """A command or a question, and the answer in words.

    `line` is where it stands, `at` the microseconds since the scenario began.
    """

    line: int
    left: str
    expected: str
    at: int = 0


class Scenario(msgspec.Struct, frozen=True):
    """What happens in one new product; `file` and `line` say where it is written."""

    file: str
    line: int
    rule: str
    title: str
    product: dict[str, str]
    rows: list[Row]


class BadScenario(ValueError):
    """The text is no scenario; the message begins with file and line."""


def read_scenarios(text: str, *, file: str = "scenario") -> list[Scenario]:
    """The scenarios of a file's text, in order; BadScenario says where one is not well written."""
    heads: list[tuple[int, str]] = []
    bodies: list[list[tuple[int, str]]] = []
    for number, line in _lines(text):
        if line.startswith("=="):
            heads.append((number, line.removeprefix("==").strip()))
            bodies.append([])
        elif bodies:
            bodies[-1].append((number, line))
        else:
            raise BadScenario(f"{file}:{number}: no scenario has begun: {line}")
    return [
        _scenario(file, number, head, body)
        for (number, head), body in zip(heads, bodies, strict=True)
    ]


def _scenario(file: str, number: int, head: str, body: list[tuple[int, str]]) -> Scenario:
    rule, _, title = head.partition(" ")
    if not _RULE.fullmatch(rule) or not title:
        raise BadScenario(f"{file}:{number}: expected a rule and a title, found {head!r}")
    product = dict(USUAL_PRODUCT)
    if body and _PARAMETER.match(body[0][1]):
        at, line = body.pop(0)
        for word in line.split():
            parameter = _PARAMETER.fullmatch(word)
            if parameter is None:
                raise BadScenario(f"{file}:{at}: {word!r} is none of {', '.join(USUAL_PRODUCT)}")
            product[parameter[1]] = parameter[2]
    rows = _rows(body, file)
    if not rows:
        raise BadScenario(f"{file}:{number}: {title!r} has no row")
    return Scenario(file, number, rule, title, product, rows)


def read_rows(table: str) -> list[Row]:
    """The rows of a table alone; BadScenario for a line that is none."""
    return _rows(_lines(table), "table")


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _rows(lines: Iterable[tuple[int, str]], file: str) -> list[Row]:
    rows: list[Row] = []
    clock = 0
    for number, line in lines:
        step = _CLOCK.fullmatch(line)
        if step is not None:
            clock += int(step[1]) * 1_000_000 + int((step[2] or "").ljust(6, "0"))
            continue
        left, bar, right = (part.strip() for part in line.partition("|"))
        if not bar or not right or not (left or rows):
            raise BadScenario(f"{file}:{number}: expected `command | answer`, found {line!r}")
        if left:
            rows.append(Row(number, left, right, clock))
        else:
            begun = rows.pop()
            join = " " if begun.expected.endswith(":") else "; "
            rows.append(Row(begun.line, begun.left, begun.expected + join + right, begun.at))
    return rows


def agrees(expected: str, found: str) -> bool:
    """Whether an answer is the expected one.

    The rule of a rejection and how many orders a level holds count only where they are written.
    """
    if expected == found:
        return True
    if not _REJECTED_RULE.search(expected):
        found = _REJECTED_RULE.sub(r"\1", found)
    if not _COUNT.search(expected):
        found = _COUNT.sub("", found)
    return expected == found


# Answers in words. They come from engines that may be anybody's: a LookupError, TypeError,
# AttributeError or ValueError here says that an answer has not the form that it must have.

_WORDS = {
    "accepted": "#{oid} accepted",
    "canceled": "#{oid} canceled {quantity} {reason}",
    "triggered": "#{oid} triggered",
    "decremented": "#{oid} decremented {quantity}",
    "phase": "phase {phase}",
    "set": "set {name} {value}",
    "key": "key of owner {owner} generation {generation}",
    "duplicate": "#{oid} duplicate {status} {filled} filled {remaining} remaining",
}


def event_words(event: Mapping[str, Any]) -> str:
    """One event, in the form of `event_as_json`, in words."""
    match event["event"]:
        case "trade":
            return _trade_words(event)
        case "amended":
            price = f"@{event['price']}" if event["price"] is not None else ""
            stop = f"/{event['stop']}" if event["stop"] is not None else ""
            return f"#{event['oid']} amended {event['quantity']}{price}{stop}"
        case "limit":
            owner = "*" if event["owner"] is None else event["owner"]
            return f"limit {owner} {event['name']} {event['value']}"
        case kind if kind in _WORDS:
            return _WORDS[kind].format_map(event)
        case unknown:
            raise ValueError(f"no event is called {unknown!r}")


def _trade_words(trade: Mapping[str, Any]) -> str:
    buy, sell = f"#{trade['buy']}", f"#{trade['sell']}"
    parties = {
        "buy": f"maker {sell} taker {buy}",
        "sell": f"maker {buy} taker {sell}",
        "none": f"buy {buy} sell {sell}",
    }
    return f"trade {trade['quantity']}@{trade['price']} {parties[trade['taker']]}"


def event_as_json(event: events.Event) -> dict[str, Any]:
    """An event as PROTOCOL §4 writes it; a duplicate also says what has become of its order."""
    written = protocol.event_to_dict(event)
    if isinstance(event, events.Duplicate):
        written |= {
            "status": event.status,
            "filled": event.filled,
            "remaining": event.remaining,
        }
    return written


def answer_words(left: str, answer: Any) -> str:
    """The answer to a row's left side, decoded from JSON, in words."""
    question = left.partition(" ")[0] if is_question(left) else ""
    if question in ("book", "phase", "last", "position"):
        return _book_words(answer) if question == "book" else _value_words(answer)
    if question == "open":
        return " ".join(f"#{oid}" for oid in answer) or "-"
    if question == "indicative":
        return _indicative_words(answer)
    if isinstance(answer, dict):
        return rejection_words(answer["error"])
    return "; ".join(event_words(event) for event in answer) or "nothing"


_QUESTION = re.compile(r"book|last|phase|indicative|(open|position) \d{1,9}")


def is_question(left: str) -> bool:
    """Whether a row asks for the state instead of changing it."""
    return _QUESTION.fullmatch(left) is not None


def rejection_words(error: Mapping[str, Any]) -> str:
    rule = f" {error['rule']}" if error.get("rule") else ""
    return f"rejected {error['code']}{rule}"


def _value_words(value: Any) -> str:
    return "-" if value is None else str(value)


def _book_words(book: Mapping[str, Any]) -> str:
    return f"bids {_side_words(book['bids'])}; asks {_side_words(book['asks'])}"


def _side_words(levels: Sequence[Sequence[Any]]) -> str:
    return " ".join(f"{quantity}@{price} of {count}" for price, quantity, count in levels) or "-"


def _indicative_words(uncross: Mapping[str, Any] | None) -> str:
    if uncross is None:
        return "-"
    surplus = int(uncross["surplus"])
    side = " buy" if surplus > 0 else " sell" if surplus < 0 else ""
    return f"{uncross['volume']}@{uncross['price']} surplus {abs(surplus)}{side}"
