"""EMTE's recovery under measurement: all of `open_journal`, with every check that a start makes.

Timed: the header, the marks and the lock; of a snapshot its hash, the form of what it says, and the
hashes of the journal before it; of each batch that is replayed its chain, of each line its form;
`Engine.apply` of each command, and that its events are those that the journal tells;
the last mark, written anew and synced. The journals lie in the page cache.
"""

import argparse
import asyncio
import time
from pathlib import Path

from benchmarks.contender import answer, standing_orders, without_collection
from benchmarks.workload import TICKER
from matching.book import OrderBook
from matching.disk import SystemDice, SystemDisk
from matching.recovery import Recovered, open_journal

NAP_SECONDS = 0.001
"""A loop that waits for its turn asks for one so often."""


class Recovery:
    """Recovers the journal in one folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{TICKER}.log"

    def seconds(self) -> float:
        start = time.process_time()
        recovered = self._recover()
        seconds = time.process_time() - start
        _close(recovered)
        return seconds

    def orders(self) -> dict[str, int]:
        recovered = self._recover()
        _close(recovered)
        recovered.engine.check()
        return told(recovered.engine.book)

    def wait(self) -> float:
        """Milliseconds that a loop waits for its turn at most while a thread recovers."""
        return asyncio.run(self._longest_wait())

    async def _longest_wait(self) -> float:
        recovering = asyncio.create_task(asyncio.to_thread(self._recover))
        longest = 0.0
        while not recovering.done():
            asleep = time.perf_counter()
            await asyncio.sleep(NAP_SECONDS)
            longest = max(longest, time.perf_counter() - asleep - NAP_SECONDS)
        _close(await recovering)
        return longest * 1000

    def _recover(self) -> Recovered:
        return open_journal(SystemDisk(), self._path, ticker=TICKER, dice=SystemDice())


def told(book: OrderBook) -> dict[str, int]:
    """The orders in a book, in few numbers."""
    return standing_orders(
        (order.oid, order.owner, order.price, order.open_quantity)
        for side in (book.bids, book.asks)
        for level in side
        for order in level
    )


def _close(recovered: Recovered) -> None:
    recovered.file.close()
    recovered.mark_file.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="EMTE's recovery; see recovery.py")
    parser.add_argument("folder", type=Path)
    recovery = Recovery(parser.parse_args().folder)
    answer(
        {
            "time": lambda: without_collection(recovery.seconds),
            "wait": lambda: without_collection(recovery.wait),
            "orders": recovery.orders,
        }
    )


if __name__ == "__main__":
    main()
