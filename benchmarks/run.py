"""`make bench`: EMTE's operations per second beside those of PyPI's matching-engine, in one run.

Both engines get the same order flow (`workload.py`), each in a process of its own, and must make
the same trades, or nothing is compared. Beside them runs a book without rules, which shows how far
one could go. They run in turn, so that a busy machine is busy for all; counted is processor time,
and a ratio is the median over the pairs. What is timed is said in `ours.py`, `yardstick.py` and
`bare.py`, and printed.

The yardstick lives in `.bench-venv`, made on first use. It asks for Python 3.12; all that keeps it
from 3.11 are two `type X =` lines, which are mended there.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.workload import MIXES, OWNERS, generate
from matching import exits, protocol
from matching.exits import ExitCode, Fatal

ROOT = Path(__file__).resolve().parent.parent
BENCH_VENV = ROOT / ".bench-venv"
BENCH_PYTHON = BENCH_VENV / "bin" / "python"
YARDSTICK = "matching-engine==0.1.1"
BARE = "bare book"
TYPE_STATEMENT = re.compile(r"^type (\w+ = )", re.MULTILINE)
EXAMPLES = """examples:
  python benchmarks/run.py                        the main mix, 15 pairs
  python benchmarks/run.py --mix large --quick    another mix, for a first impression
"""


class Contestant:
    """The process of one engine; `ask` sends it a line and waits for the answer."""

    def __init__(self, python: Path, script: str, *arguments: object) -> None:
        self._script = script
        self._process = subprocess.Popen(
            [str(python), str(ROOT / "benchmarks" / script), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str) -> object:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._script} ended without an answer to {line!r}")
        return json.loads(answer)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def contestant(python: Path, script: str, *arguments: object) -> Iterator[Contestant]:
    """Start a script of this folder; it is ended behind the block."""
    process = Contestant(python, script, *arguments)
    try:
        yield process
    finally:
        process.end()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="EMTE's engine beside PyPI's matching-engine, on the same order flow.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mix", choices=MIXES, default="main")
    parser.add_argument("--pairs", type=at_least_1, default=15, help="runs of each engine (15)")
    parser.add_argument(
        "--operations", type=at_least_1, help="so many of the mix's operations (all)"
    )
    parser.add_argument(
        "--owners", type=at_least_1, default=OWNERS, help=f"of the orders ({OWNERS})"
    )
    parser.add_argument("--quick", action="store_true", help="3 pairs of at most 20,000 operations")
    parser.add_argument("--ours", action="store_true", help="EMTE alone: needs no PyPI")
    options = parser.parse_args(arguments)
    mix = MIXES[options.mix]
    operations = mix.operations if options.operations is None else options.operations
    pairs = options.pairs
    if options.quick:
        pairs, operations = 3, min(operations, 20_000)
    print(
        f"{mix.name} mix: {mix.resting:,} orders of {options.owners:,} owners fill the book, then"
        f" {operations:,} operations:"
        f" {mix.adds:.1%} add, {mix.cancels:.1%} cancel, {mix.takes:.1%} take,"
        f" {1 - mix.adds - mix.cancels - mix.takes:.1%} move (cancel and add)"
    )
    if not options.ours:
        prepare_yardstick()
    with tempfile.TemporaryDirectory(prefix="emte-bench-") as folder, ExitStack() as stack:
        file = Path(folder) / "commands"
        flow = generate(mix, operations=operations, owners=options.owners)
        commands = [*flow.filling, *(each for operation in flow.operations for each in operation)]
        file.write_text("".join(f"{protocol.format(each)}\n" for each in commands), "ascii")
        filling = len(flow.filling)
        ours = stack.enter_context(contestant(Path(sys.executable), "ours.py", file, filling))
        if options.ours:
            print(_trades(ours.ask("tape")))
            print(_rate("EMTE", operations, [number(ours, "time") for _ in range(pairs)]))
            return
        yardstick = stack.enter_context(contestant(BENCH_PYTHON, "yardstick.py", file, filling))
        bare = stack.enter_context(contestant(Path(sys.executable), "bare.py", file, filling))
        compare(ours, yardstick, bare, operations=operations, pairs=pairs)


def at_least_1(text: str) -> int:
    """An option's number, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def compare(
    ours: Contestant, yardstick: Contestant, bare: Contestant, *, operations: int, pairs: int
) -> None:
    """Print the rates, p99 and memory, and their ratios; Fatal if the trades differ."""
    tape = ours.ask("tape")
    other_tape = yardstick.ask("tape")
    if tape != other_tape:
        message = f"the trades differ, nothing to compare: EMTE {tape}, {YARDSTICK} {other_tape}"
        raise Fatal(ExitCode.BUG, message)
    print(f"same trades on both sides: {_trades(tape)}")
    print("timed: Engine.apply(command, at) of parsed commands, all features on, events dropped;")
    print("       MatchingEngine.process(sequenced) of prepared commands, events dropped;")
    print("       enter or cancel of a book without owners, events and rules (bare.py);")
    print("       all in CPython, processor time, garbage collection off, in turn; not the filling")
    everyone = (ours, yardstick, bare)
    times = [tuple(number(each, "time") for each in everyone) for _ in range(pairs)]
    slowest = [tuple(number(each, "p99") for each in (ours, yardstick)) for _ in range(pairs)]
    for name, column in zip(("EMTE", YARDSTICK, BARE), zip(*times, strict=True), strict=True):
        print(_rate(name, operations, column))
    print(ratio("EMTE is", [theirs / our for our, theirs, _ in times], "as fast"))
    print(ratio(f"the {BARE} is", [theirs / its for _, theirs, its in times], "as fast"))
    p99 = statistics.median(our for our, _ in slowest)
    print(ratio(f"p99 ({p99:.1f} µs) is", [our / theirs for our, theirs in slowest], "the other's"))
    for moment, question in (("memory", "memory"), ("memory, once filled,", "memory_filled")):
        held, other_held = number(ours, question), number(yardstick, question)
        print(ratio(f"{moment} is", [held / other_held], "the other's"), end="")
        print(f": {held:.0f} bytes an order, the other {other_held:.0f}")
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")


def prepare_yardstick() -> None:
    """Make `.bench-venv` with the yardstick in it, once; Fatal (69) if PyPI is away."""
    if _yardstick_runs():
        return
    print(f"setting up {BENCH_VENV.name} with {YARDSTICK} (once) ...", flush=True)
    venv.create(BENCH_VENV, with_pip=True, clear=True)
    command = [str(BENCH_PYTHON), "-m", "pip", "install", "--quiet", "--retries", "1"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", YARDSTICK]
    needs_mending = sys.version_info < (3, 12)
    if needs_mending:
        command.append("--ignore-requires-python")
    installed = subprocess.run(command, capture_output=True, text=True)
    if installed.returncode != 0:
        reason = installed.stderr.strip().splitlines()[-1:] or ["pip failed"]
        message = f"cannot install {YARDSTICK} from PyPI, so there is no yardstick: {reason[0]}"
        raise Fatal(ExitCode.UNAVAILABLE, message)
    if needs_mending:
        _mend_type_statements()
    if not _yardstick_runs():
        raise Fatal(ExitCode.UNAVAILABLE, f"{YARDSTICK} does not run on this Python")


def _yardstick_runs() -> bool:
    if not BENCH_PYTHON.exists():
        return False
    probe = (
        "import matching_engine.engine; print('matching-engine==' + matching_engine.__version__)"
    )
    answer = subprocess.run([str(BENCH_PYTHON), "-c", probe], capture_output=True, text=True)
    return answer.stdout.strip() == YARDSTICK


def _mend_type_statements() -> None:
    """`type X = …`, which Python 3.11 does not know, becomes the assignment `X = …`."""
    mended = 0
    for path in BENCH_VENV.glob("lib/python*/site-packages/matching_engine/*.py"):
        text, count = TYPE_STATEMENT.subn(r"\1", path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
        mended += count
    assert mended == 2, f"{YARDSTICK} has {mended} type statements, not 2"


def number(contender: Contestant, question: str) -> float:
    answer = contender.ask(question)
    assert isinstance(answer, float)
    return answer


def _rate(name: str, operations: int, seconds: Sequence[float]) -> str:
    rates = sorted(operations / time for time in seconds)
    return (
        f"{name:24} {statistics.median(rates):9,.0f} operations/s"
        f"    ({len(rates)} runs: {rates[0]:,.0f} to {rates[-1]:,.0f})"
    )


def ratio(what: str, ratios: Sequence[float], times_what: str) -> str:
    spread = f"   ({len(ratios)} pairs: {min(ratios):.2f} to {max(ratios):.2f})"
    text = f"{what:24} {statistics.median(ratios):9.2f} times {times_what}"
    return text + spread if len(ratios) > 1 else text


def _trades(tape: object) -> str:
    assert isinstance(tape, dict)
    return (
        f"{tape['trades']:,} trades, volume {tape['volume']:,}, notional {tape['notional']:,},"
        f" crc32 {tape['crc32']:08x}"
    )


if __name__ == "__main__":
    sys.exit(exits.run("bench", main))
