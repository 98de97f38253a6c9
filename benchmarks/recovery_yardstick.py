"""The recovery of PyPI's matching-engine under measurement, by its own journal and snapshots.

Timed is `Journal(folder).recover()`: of a snapshot the CRC, and the hash of the state that it
makes; of each record that is replayed the CRC and the number, and `process` of its command. It
keeps no events, so a replay has none to compare; it has no chain, and does not look at what lies
before a snapshot. The files lie in the page cache.

It first writes them, of the commands in a file: the first so many, a snapshot if there are more,
and the rest. Its commands carry the order's number, as in `yardstick.py`.
"""

import argparse
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from matching_engine.engine import MatchingEngine
from matching_engine.journal import Journal
from matching_engine.snapshot import encode_snapshot

from benchmarks.contender import answer, read_commands, standing_orders, without_collection
from benchmarks.yardstick import prepare
from matching.order import Command

BATCH = 64
"""Commands that share a sync; the records are the same for any."""


class Recovery:
    """Recovers the journal in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, commands: Iterable[Command], *, snapshot_after: int) -> None:
        engine = MatchingEngine()
        journal = Journal(self._folder, fsync=False)
        journal.open(1)
        for sequenced in prepare(commands):
            engine.process(sequenced)
            journal.append(sequenced)
            if sequenced.seq % BATCH == 0:
                journal.sync()
            if sequenced.seq == snapshot_after:
                journal.sync()
                journal.checkpoint(encode_snapshot(engine, sequenced.ts), sequenced.seq)
        journal.close()

    def seconds(self) -> float:
        start = time.process_time()
        recovered = self._recover()
        seconds = time.process_time() - start
        del recovered
        return seconds

    def orders(self) -> dict[str, int]:
        book = self._recover().book
        return standing_orders(
            (order.order_id, order.account, order.price, order.remaining)
            for side in (book.bids, book.asks)
            for key in side.keys
            for order in side.levels[key]
        )

    def _recover(self) -> MatchingEngine:
        engine, report = Journal(self._folder, fsync=False).recover()
        assert not report.rejected_snapshots
        return engine


def main() -> None:
    parser = argparse.ArgumentParser(description="the yardstick's recovery; see recovery.py")
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("commands", type=int, help="so many of the file's")
    parser.add_argument("snapshot_after", type=int, help="so many of those; 0: no snapshot")
    arguments = parser.parse_args()
    recovery = Recovery(arguments.folder)
    commands = islice(read_commands(arguments.file), arguments.commands)
    recovery.write(commands, snapshot_after=arguments.snapshot_after)
    answer({"time": lambda: without_collection(recovery.seconds), "orders": recovery.orders})


if __name__ == "__main__":
    main()
