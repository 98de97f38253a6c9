"""Conformance: play the rules' scenarios against an engine, anybody's, in whatever language.

    python -m matching.conformance                                   our engine, all scenarios
    python -m matching.conformance tests/scenarios/07-stops.txt      those of one file
    python -m matching.conformance -- ./my-engine --fast             your engine, all scenarios
    python -m matching.conformance --engine                          be our engine, on stdin/stdout

An engine is a program that answers each line on its stdin with one line on its stdout; the form of
both is docs/CONFORMANCE.md. One that is silent, ends, or says more than it is asked fails the
scenario at which it does, and is started anew for the next.

>>> product = Product()
>>> product.answer("1700000000000000 1:sell intc 100@50.25")
'[{"event":"accepted","oid":1}]'
>>> product.answer("book")
'{"bids":[],"asks":[["50.25",100,1]]}'
"""

import argparse
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from matching.engine import Engine
from matching.events import Rejected
from matching.exits import run_command
from matching.order import Login, Side, format_price, parse_price
from matching.protocol import parse
from matching.scenario import (
    USUAL_PRODUCT,
    BadScenario,
    Row,
    Scenario,
    agrees,
    answer_words,
    event_as_json,
    is_question,
    read_scenarios,
)

SCENARIOS = Path(__file__).resolve().parent.parent / "tests" / "scenarios"
"""The scenarios of a checkout; an installed package has none."""

FIRST_TIME = 1_700_000_000_000_000
"""The time at which every scenario begins, in microseconds."""

LONGEST_ANSWER = 1 << 20
"""Bytes of a line; an engine that writes more without ending the line is not waited for."""

PATIENCE = 3
"""How often an engine may be silent, or end before it has begun, until it is given up."""

_AT_LINE = re.compile(r"(.+\.txt):(\d+)")


# Our engine behind the protocol


class Product:
    """Our engine as the protocol wants it: a line in, a line out."""

    def __init__(self) -> None:
        self.engine = self._new(USUAL_PRODUCT)

    def answer(self, line: str) -> str:
        """The answer to one line, without its end."""
        if line == "new" or line.startswith("new "):
            self.engine = self._new(dict(word.split("=", 1) for word in line.split()[1:]))
            return "ok"
        return msgspec.json.encode(self._answer(line)).decode()

    @staticmethod
    def _new(product: dict[str, str]) -> Engine:
        return Engine(
            "intc",
            tick=parse_price(product["tick"]),
            lot=int(product["lot"]),
            reference=parse_price(product["reference"]),
        )

    def _answer(self, line: str) -> object:
        engine = self.engine
        if not is_question(line):
            return self._events(line)
        name, _, owner = line.partition(" ")
        match name:
            case "book":
                return {"bids": self._levels(Side.BUY), "asks": self._levels(Side.SELL)}
            case "last":
                return None if engine.last is None else format_price(engine.last)
            case "open":
                return [order.oid for order in engine.open_orders(int(owner))]
            case "position":
                return engine.position(int(owner))
            case "indicative":
                uncross = engine.indicative()
                if uncross is None:
                    return None
                return {
                    "price": format_price(uncross.price),
                    "volume": uncross.volume,
                    "surplus": uncross.surplus,
                }
        return engine.phase

    def _events(self, line: str) -> object:
        time_text, _, text = line.partition(" ")
        try:
            at, command = int(time_text), parse(text)
            if isinstance(command, Login):
                raise ValueError("sessions log in; an engine knows none")
        except ValueError as error:
            return {"error": event_as_json(Rejected("bad_syntax", str(error)))}
        events = self.engine.apply(command, at)

        if events and isinstance(events[0], Rejected):
            return {"error": event_as_json(events[0])}
        return [event_as_json(event) for event in events]

    def _levels(self, side: Side) -> list[tuple[str, int, int]]:
        return [
            (format_price(price), quantity, count)
            for price, quantity, count in self.engine.book.levels(side)
        ]


# Somebody's engine


class EngineFailed(Exception):
    """The engine gives no answer that could be compared; the message says why.

    `is_hopeless`: asking on and on like this would take for ever.
    """

    def __init__(self, message: str, *, is_hopeless: bool = False) -> None:
        super().__init__(message)
        self.is_hopeless = is_hopeless


class Answering(Protocol):
    def answer(self, line: str) -> str:
        """The answer to one line, or EngineFailed."""


class EngineProcess:
    """A running engine: lines to its stdin, lines from its stdout; its stderr is the user's.

    OSError if the command cannot be started. `end` must be called.
    """

    def __init__(self, command: Sequence[str], *, seconds: float) -> None:
        self._seconds = seconds
        self._answered = 0
        self._said = b""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout.fileno()

    def answer(self, line: str) -> str:
        """The next line that it says, within the time that it has."""
        self._refuse_unasked()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        answer = self._line(time.monotonic() + self._seconds)
        self._answered += 1
        return answer.decode(errors="replace").rstrip("\r")

    def _line(self, end: float) -> bytes:
        while b"\n" not in self._said:
            if len(self._said) > LONGEST_ANSWER:
                raise EngineFailed(f"more than {LONGEST_ANSWER:,} bytes without an end of line")
            if not self._is_readable(max(0.0, end - time.monotonic())):
                message = f"no answer within {self._seconds:g} s"
                raise EngineFailed(message, is_hopeless=True)
            self._read()
        line, _, self._said = self._said.partition(b"\n")
        return line

    def _refuse_unasked(self) -> None:
        if not self._said and self._is_readable(0.0):
            self._read()
        if self._said:
            said = self._said[:80].decode(errors="replace")
            raise EngineFailed(f"it says more than it is asked: {said!r}")

    def _is_readable(self, seconds: float) -> bool:
        readable, _, _ = select.select([self._stdout], [], [], seconds)
        return bool(readable)

    def _read(self) -> None:
        said = os.read(self._stdout, 1 << 16)
        if not said:
            raise self._ended()
        self._said += said

    def _ended(self) -> EngineFailed:
        try:
            code = self._process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            return EngineFailed("it closed its side of the pipe", is_hopeless=True)
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return EngineFailed(f"the engine ended {how}", is_hopeless=self._answered == 0)

    def end(self) -> None:
        """Tell the engine that nothing more comes, and kill what does not end by that."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # what it had not read died with it
            process.stdin.close()
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


# Playing


class Failure(msgspec.Struct, frozen=True):
    """Where an engine does not do as the scenario says."""

    scenario: Scenario
    row: Row
    found: str

    def __str__(self) -> str:
        scenario, row = self.scenario, self.row
        return (
            f"{scenario.file}:{row.line}: {scenario.rule} {scenario.title}\n"
            f"    row       {row.left}\n"
            f"    expected  {row.expected}\n"
            f"    found     {self.found}"
        )


def play(scenario: Scenario, engine: Answering) -> Failure | None:
    """Play a scenario from a new product on; its first row that is answered otherwise.

    EngineFailed, with the row as its `__notes__`, is left to the caller.
    """
    said: list[tuple[str, str]] = []
    next_tid = 1
    row = scenario.rows[0]
    try:
        _begin(scenario, engine)
        for row in scenario.rows:
            if row.left == "again":
                found = _play_again(scenario, engine, said)
            else:
                line = row.left if is_question(row.left) else f"{FIRST_TIME + row.at} {row.left}"
                answer = engine.answer(line)
                said.append((line, answer))
                found, next_tid = _read_answer(row, answer, next_tid)
            if not agrees(row.expected, found):
                return Failure(scenario, row, found)
    except EngineFailed as failed:
        failed.add_note(str(Failure(scenario, row, str(failed))))
        raise
    return None


def _begin(scenario: Scenario, engine: Answering) -> None:
    answer = engine.answer("new " + " ".join(f"{n}={v}" for n, v in scenario.product.items()))
    if answer != "ok":
        raise EngineFailed(f"to `new` it answered {answer[:80]!r}, not ok")


def _read_answer(row: Row, answer: str, next_tid: int) -> tuple[str, int]:
    """The answer in words, and the number of the next trade: they are 1, 2, 3… per product."""
    try:
        decoded = msgspec.json.decode(answer)
        words = answer_words(row.left, decoded)
        if not is_question(row.left):
            for tid in _tids(decoded):
                if tid != next_tid:
                    words += f" (the trade numbered {tid} should be {next_tid})"
                next_tid += 1
    except (msgspec.DecodeError, RecursionError) as error:
        return f"not JSON ({error}): {answer[:200]}", next_tid
    except KeyError as error:
        return f"not an answer ({error} is missing): {answer[:200]}", next_tid
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return f"not an answer ({error}): {answer[:200]}", next_tid
    return words, next_tid


def _tids(events: Any) -> list[Any]:
    if isinstance(events, dict):
        return []
    return [event["tid"] for event in events if event["event"] == "trade"]


def _play_again(scenario: Scenario, engine: Answering, said: Iterable[tuple[str, str]]) -> str:
    """The same lines once more, to a new product: a deterministic engine says the same (R18)."""
    _begin(scenario, engine)
    for line, answer in said:
        other = engine.answer(line)
        if other != answer:
            return f"{line} was answered {answer[:200]}, and again {other[:200]}"
    return "the same answers"


class Report:
    """What came of the scenarios, rule by rule."""

    def __init__(self) -> None:
        self.played: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def __str__(self) -> str:
        lines = ["rule      scenarios  failed"]
        for rule, played in self.played.items():
            lines.append(f"{rule:<8}  {played:>9}  {self.failed[rule] or '-':>6}")
        played, failed = self.played.total(), self.failed.total()
        lines.append(f"{'all':<8}  {played:>9}  {failed or '-':>6}")
        return "\n".join(lines)


def play_all(scenarios: Sequence[Scenario], command: Sequence[str], *, seconds: float) -> bool:
    """Play all scenarios against the engine that `command` starts; whether none failed.

    Prints failures as they come, then a summary. OSError if the engine cannot be started.
    """
    report = Report()
    hopeless = 0
    engine: EngineProcess | None = None
    try:
        for scenario in scenarios:
            if hopeless == PATIENCE:
                break
            if engine is None:
                engine = EngineProcess(command, seconds=seconds)
            report.played[scenario.rule] += 1
            try:
                failure = play(scenario, engine)
            except EngineFailed as failed:
                report.failed[scenario.rule] += 1
                print(*failed.__notes__, flush=True)
                hopeless += failed.is_hopeless
                engine.end()
                engine = None
            else:
                if failure is not None:
                    report.failed[scenario.rule] += 1
                    print(failure, flush=True)
    finally:
        if engine is not None:
            engine.end()
    print(report)
    left = len(scenarios) - report.played.total()
    if left:
        print(f"The engine is given up; {left} scenarios were not played.")
    return not report.failed and not left


# The command line


def _scenarios(places: Sequence[str]) -> list[Scenario]:
    """The scenarios of files, folders, and `FILE:LINE` (the one that stands there)."""
    found: list[Scenario] = []
    for place in places:
        at_line = _AT_LINE.fullmatch(place)
        path = Path(at_line[1] if at_line else place)
        for file in sorted(path.glob("*.txt")) if path.is_dir() else [path]:
            scenarios = read_scenarios(file.read_text(encoding="utf-8"), file=_shown(file))
            if at_line:
                scenarios = [each for each in scenarios if each.line <= int(at_line[2])][-1:]
            found += scenarios
    return found


def _shown(file: Path) -> str:
    """The file's name as somebody in the present folder would write it."""
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)


def _be_the_engine() -> None:
    product = Product()
    for line in sys.stdin:
        print(product.answer(line.rstrip("\n")), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code: 0 all as it should be, 1 not so, 2 usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = [sys.executable, "-m", "matching.conformance", "--engine"]
    if "--" in words:
        place = words.index("--")
        words, command = words[:place], words[place + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m matching.conformance",
        usage="%(prog)s [-h] [--seconds S] [SCENARIO ...] [-- ENGINE COMMAND] | --engine",
        description="Play the rules' scenarios against an engine (docs/CONFORMANCE.md).",
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="FILE, FOLDER or FILE:LINE"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="how long to wait for an answer (5)"
    )
    parser.add_argument("--engine", action="store_true", help="be our engine, on stdin/stdout")
    options = parser.parse_args(words)
    if options.engine:
        _be_the_engine()
        return 0
    if not command:
        parser.error("no engine command follows --")
    try:
        scenarios = _scenarios(options.scenarios or [str(SCENARIOS)])
    except (OSError, UnicodeDecodeError, BadScenario) as error:
        parser.error(str(error))
    if not scenarios:
        parser.error(f"no scenario in {' '.join(options.scenarios) or SCENARIOS}")
    try:
        return 0 if play_all(scenarios, command, seconds=options.seconds) else 1
    except BrokenPipeError:
        raise  # who reads what is printed has gone: no fault of the engine's
    except OSError as error:
        parser.error(f"the engine cannot be started: {error}")


if __name__ == "__main__":
    sys.exit(run_command("conformance", main))
