"""What an engine under measurement has in common with the other: it obeys lines on stdin.

`ours.py` and `yardstick.py` are started with a file of commands, one text a line, of which the
first so many fill the book. Each parses them into the form that its engine takes, so that both
have their commands laid out in memory alike, and then answers, a JSON value a line:

    tape    run the operations on a new engine: the trades' number, volume, notional and crc32
    time    run the operations on a new engine: the seconds of processor time they took
    p99     run the operations on a new engine: the microseconds that all but one in 100 kept below
    memory  the bytes that a new engine holds for each resting order, after all commands
    memory_filled   the same when the book has been filled

Garbage collection is off while operations run. The orders that first fill the book are not timed,
and of memory all counts that an engine keeps of the commands, read one by one for it.
"""

import argparse
import gc
import json
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from matching import protocol
from matching.order import Command, Login

Fill = tuple[int, int, int, int]
"""A trade: maker's order number, taker's, price in ten-thousandths, quantity."""


class Contender(Protocol):
    def seconds(self) -> float:
        """What the operations take on a new engine whose book has been filled."""

    def p99(self) -> float:
        """The microseconds below which 99 in 100 of them stay, by the clock."""

    def fill(self) -> object:
        """A new engine whose book has been filled."""

    def feed(self, commands: Iterable[Command]) -> object:
        """A new engine after these commands, of which nothing is kept but by it."""

    def resting(self, engine: Any) -> int:
        """How many orders rest in its book."""

    def fills(self) -> Iterable[Fill]:
        """The operations' trades on such an engine."""


def obey(prepare: Callable[[list[Command], list[Command]], Contender]) -> None:
    """Prepare what the command line names, then answer stdin until it ends."""
    parser = argparse.ArgumentParser(description="one engine under measurement; see run.py")
    parser.add_argument("file", type=Path)
    parser.add_argument("filling", type=int)
    arguments = parser.parse_args()
    commands = list(read_commands(arguments.file))
    contender = prepare(commands[: arguments.filling], commands[arguments.filling :])
    answers: dict[str, Callable[[], object]] = {
        "tape": lambda: tape(contender.fills()),
        "time": lambda: without_collection(contender.seconds),
        "p99": lambda: without_collection(contender.p99),
        "memory": lambda: _bytes_an_order(contender, read_commands(arguments.file)),
        "memory_filled": lambda: _bytes_an_order(
            contender, islice(read_commands(arguments.file), arguments.filling)
        ),
    }
    answer(answers)


def answer(answers: Mapping[str, Callable[[], object]]) -> None:
    """Answer each line of stdin, a JSON value a line, until it ends."""
    for line in sys.stdin:
        print(json.dumps(answers[line.strip()]()), flush=True)


def read_commands(file: Path) -> Iterator[Command]:
    """The commands in a file, one text a line."""
    with file.open(encoding="ascii") as lines:
        for line in lines:
            yield _parse(line.rstrip("\n"))


def _parse(text: str) -> Command:
    command = protocol.parse(text)
    assert not isinstance(command, Login)
    return command


def tape(fills: Iterable[Fill]) -> dict[str, int]:
    """Trades in few numbers; crc32 covers every field of every trade, in order."""
    trades = volume = notional = checksum = 0
    for fill in fills:
        _, _, price, quantity = fill
        trades += 1
        volume += quantity
        notional += price * quantity
        checksum = zlib.crc32(struct.pack("<4q", *fill), checksum)
    return {"trades": trades, "volume": volume, "notional": notional, "crc32": checksum}


def standing_orders(orders: Iterable[tuple[int, int, int, int]]) -> dict[str, int]:
    """The same of the orders in a book, in order: number, owner, price, open quantity."""
    number = checksum = 0
    for order in orders:
        number += 1
        checksum = zlib.crc32(struct.pack("<4q", *order), checksum)
    return {"orders": number, "crc32": checksum}


def percentile_99(nanoseconds: list[int]) -> float:
    """Of times in nanoseconds, in microseconds.

    >>> percentile_99(list(range(1000, 101_000, 1000)))
    99.0
    """
    ordered = sorted(nanoseconds)
    return ordered[max(0, len(ordered) * 99 // 100 - 1)] / 1_000


def _bytes_an_order(contender: Contender, commands: Iterable[Command]) -> float:
    """What an engine holds, as Python's allocator sees it, for each order in its book."""
    gc.collect()
    tracemalloc.start()
    try:
        engine = contender.feed(commands)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        return held / contender.resting(engine)
    finally:
        tracemalloc.stop()


def without_collection(measure: Callable[[], float]) -> float:
    """What `measure` answers, garbage collection being off."""
    gc.collect()
    gc.disable()
    try:
        return measure()
    finally:
        gc.enable()
