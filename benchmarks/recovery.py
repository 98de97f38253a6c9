"""`make bench`: how fast a matching server recovers, beside PyPI's matching-engine, in one run.

    python benchmarks/recovery.py                   1,000,000 records; a snapshot and 100,000 more
    python benchmarks/recovery.py --records 50000   a shorter journal
    python benchmarks/recovery.py --quick           20,000 and 2,000 records, 3 pairs

Each engine recovers from files of its own format, of the same order flow (`workload.py`), written
beforehand into a folder that is gone afterwards. What is timed, and what each checks meanwhile, is
said in `recovery_ours.py` and `recovery_yardstick.py`, and printed. They run in turn, each journal
in a process of its own; counted is processor time, and a ratio is the median over the pairs.

A record is not the same in both. The yardstick's is a command, in some 60 bytes of binary form.
EMTE's is a line of text: a command, what it caused (a trade, a cancel), or a batch's commit. So
there are two ratios: to as many of the other's records, and to the records of the very same
commands, after which the same orders must stand in both books.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import msgspec

from benchmarks.run import (
    BENCH_PYTHON,
    YARDSTICK,
    Contestant,
    contestant,
    number,
    prepare_yardstick,
    ratio,
)
from benchmarks.workload import MIXES, TICK, TICKER, generate
from matching import exits, protocol
from matching.disk import SystemDisk
from matching.engine import Engine
from matching.exits import ExitCode, Fatal
from matching.journal import Header, Journal, durable_path
from matching.order import Command
from matching.recovery import take_snapshot

BATCH = 64
"""So many commands share a commit, as under load."""

STEP = 20
"""Microseconds between two commands: under load each has a time of its own."""

HEADER = Header(
    ticker=TICKER,
    lineage="9c1f0a44d2b7e683",
    tick=TICK,
    lot=1,
    reference=1_000_000,
    salt=0xDEADBEEF,
)


class Case(msgspec.Struct, frozen=True):
    """What is recovered: EMTE's journal in a folder, and how much is in it.

    `commands` are those in it, of which a snapshot tells the first `snapshot_after` (0: there is
    none). So `replayed` records are replayed.
    """

    folder: Path
    commands: int
    snapshot_after: int
    replayed: int


class Writer:
    """Writes EMTE's journals of one flow, the second with the first's records and a snapshot."""

    def __init__(self, commands: Iterator[Command]) -> None:
        self.engine = Engine(TICKER, tick=TICK)
        self.journal = Journal(HEADER)
        self.commands = 0
        self._flow = commands

    def write(self, path: Path, records: int) -> None:
        """Add batches to a journal until it has so many records, and one batch at most more."""
        end = self.journal.seq + records
        with path.open("ab") as file:
            if not self.journal.batch:
                file.write(HEADER.encode())
                self.journal.epoch(1, at=0)
            while self.journal.seq < end:
                self._add()
                if self.commands % BATCH == 0 or self.journal.seq >= end - 1:
                    file.write(self.journal.close_batch())
        durable_path(path).write_bytes(self.journal.mark.encode())

    def _add(self) -> None:
        command = next(self._flow)
        self.commands += 1
        at = self.commands * STEP
        events = self.engine.apply(command, at)
        self.journal.append(command, oid=getattr(events[0], "oid", 0), events=events, at=at)


def write_cases(
    folder: Path, commands: Iterator[Command], *, records: int, tail: int
) -> list[Case]:
    """A journal of `records`, and one of them with a snapshot and `tail` records more."""
    writer = Writer(commands)
    whole, longer = folder / "whole", folder / "snapshot"
    for each in (whole, longer):
        each.mkdir()
    path = whole / f"{TICKER}.log"
    writer.write(path, records)
    first, before_snapshot = writer.journal.seq, writer.commands
    copy = longer / path.name
    copy.write_bytes(path.read_bytes())
    durable_path(copy).write_bytes(durable_path(path).read_bytes())
    check, _ = take_snapshot(SystemDisk(), copy)
    writer.journal.check(check.seq, check.digest)
    writer.write(copy, tail)
    last = writer.journal.seq
    return [
        Case(whole, before_snapshot, 0, first),
        Case(longer, writer.commands, before_snapshot, last - first),
    ]


def compare(case: Case, file: Path, *, pairs: int) -> None:
    """Print how long a case takes, and its ratios; Fatal if the orders in the books differ."""
    as_many = case.snapshot_after + case.replayed
    with ExitStack() as stack:
        ours = stack.enter_context(contestant(Path(sys.executable), _OURS, case.folder))
        others: list[Contestant] = []
        for name, commands in (("as-many", as_many), ("same", case.commands)):
            folder = case.folder / name
            folder.mkdir()
            arguments = (folder, file, commands, case.snapshot_after)
            others.append(stack.enter_context(contestant(BENCH_PYTHON, _THEIRS, *arguments)))
        as_many_records, same_commands = others
        orders, its_orders = ours.ask("orders"), same_commands.ask("orders")
        if orders != its_orders:
            message = f"the books differ, nothing to compare: EMTE {orders}, the other {its_orders}"
            raise Fatal(ExitCode.BUG, message)
        times = [
            (number(ours, "time"), number(as_many_records, "time"), number(same_commands, "time"))
            for _ in range(pairs)
        ]
        waits = [number(ours, "wait") for _ in range(pairs)]
    print(f"{describe(case)}, {_orders(orders)}")
    print(_seconds("EMTE", [our for our, _, _ in times]))
    print(_seconds(YARDSTICK, [theirs for _, theirs, _ in times]))
    print(ratio("EMTE takes", [our / theirs for our, theirs, _ in times], "its, as many records"))
    print(ratio("EMTE takes", [our / same for our, _, same in times], "its, the same commands"))
    print(f"a loop beside it waits {max(waits):.0f} ms for its turn at most, by the clock")


def describe(case: Case) -> str:
    what = "a snapshot and" if case.snapshot_after else "a journal of"
    commands = case.commands - case.snapshot_after
    return f"{what} {case.replayed:,} records, {commands:,} of them commands"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="EMTE's recovery beside that of PyPI's matching-engine, on the same order flow."
    )
    parser.add_argument("--records", type=int, default=1_000_000, help="in the journal (1000000)")
    parser.add_argument("--tail", type=int, default=100_000, help="after the snapshot (100000)")
    parser.add_argument("--pairs", type=int, default=5, help="recoveries of each engine (5)")
    parser.add_argument("--quick", action="store_true", help="3 pairs of 20,000 and 2,000 records")
    parser.add_argument("--ours", action="store_true", help="EMTE alone: needs no PyPI")
    options = parser.parse_args(arguments)
    records, tail, pairs = options.records, options.tail, options.pairs
    if options.quick:
        records, tail, pairs = min(records, 20_000), min(tail, 2_000), 3
    if not options.ours:
        prepare_yardstick()
    with tempfile.TemporaryDirectory(prefix="emte-bench-") as name:
        file = Path(name) / "commands"
        cases = write_cases(Path(name), _flow(file, records + tail), records=records, tail=tail)
        if options.ours:
            for case in cases:
                with contestant(Path(sys.executable), _OURS, case.folder) as ours:
                    print(f"{describe(case)}, {_orders(ours.ask('orders'))}")
                    print(_seconds("EMTE", [number(ours, "time") for _ in range(pairs)]))
            return
        print(
            "timed: EMTE's open_journal: of what is replayed the chain and each line's form, every"
        )
        print("       command applied, every event compared; marks, lock, a sync;")
        print(
            "       its Journal.recover(): CRC and number of every record, every command applied;"
        )
        print("       of a snapshot both check its hashes, and EMTE those of what is before it;")
        print("       all in CPython, processor time, garbage collection off, in turn")
        for case in cases:
            compare(case, file, pairs=pairs)
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")


_OURS, _THEIRS = "recovery_ours.py", "recovery_yardstick.py"


def _flow(file: Path, commands: int) -> Iterator[Command]:
    """At least so many commands of the main mix; they are in the file too, a text a line."""
    flow = generate(MIXES["main"], operations=commands)
    with file.open("w", encoding="ascii") as texts:
        for command in chain(flow.filling, *flow.operations):
            texts.write(f"{protocol.format(command)}\n")
    return chain(flow.filling, *flow.operations)


def _orders(told: object) -> str:
    assert isinstance(told, dict)
    return f"{told['orders']:,} orders in the book, crc32 {told['crc32']:08x}"


def _seconds(name: str, seconds: Sequence[float]) -> str:
    runs = f"({len(seconds)} runs: {min(seconds):.2f} to {max(seconds):.2f})"
    return f"{name:24} {statistics.median(seconds):9.2f} s    {runs}"


if __name__ == "__main__":
    sys.exit(exits.run("recovery", main))
