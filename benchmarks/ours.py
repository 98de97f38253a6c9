"""EMTE's engine under measurement: parsed commands into `Engine.apply`, all features on.

Timed is `apply(command, at)` for each parsed command, its events thrown away. They come STEP apart,
about as fast as a matching server can take them.
"""

import time
from collections.abc import Iterable, Iterator
from itertools import count

from benchmarks.contender import Fill, obey, percentile_99
from benchmarks.workload import TICK, TICKER
from matching.engine import Engine
from matching.events import Trade
from matching.order import Command, Side

STEP = 40
"""Microseconds."""


class Ours:
    def __init__(self, filling: list[Command], commands: list[Command]) -> None:
        self._filling = filling
        self._commands = commands

    def _times(self) -> Iterator[int]:
        """Those of the operations."""
        return count(STEP * len(self._filling), STEP)

    def seconds(self) -> float:
        apply = self.fill().apply
        start = time.process_time()
        for at, command in zip(self._times(), self._commands, strict=False):
            apply(command, at)
        return time.process_time() - start

    def p99(self) -> float:
        apply, clock = self.fill().apply, time.perf_counter_ns
        taken = []
        for at, command in zip(self._times(), self._commands, strict=False):
            start = clock()
            apply(command, at)
            taken.append(clock() - start)
        return percentile_99(taken)

    def fills(self) -> Iterator[Fill]:
        engine = self.fill()
        for at, command in zip(self._times(), self._commands, strict=False):
            for event in engine.apply(command, at):
                if isinstance(event, Trade):
                    maker, taker = event.sell_oid, event.buy_oid
                    if event.taker is Side.SELL:
                        maker, taker = taker, maker
                    yield maker, taker, event.price, event.quantity
        engine.check()

    def feed(self, commands: Iterable[Command]) -> Engine:
        engine = Engine(TICKER, tick=TICK)
        for at, command in zip(count(step=STEP), commands, strict=False):
            engine.apply(command, at)
        return engine

    def resting(self, engine: Engine) -> int:
        return sum(level.count for side in Side for level in engine.book.side(side))

    def fill(self) -> Engine:
        return self.feed(self._filling)


if __name__ == "__main__":
    obey(Ours)
