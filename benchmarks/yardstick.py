"""PyPI's matching-engine under measurement, by its public API; runs in the venv that has it.

Its commands carry the number of the order, which EMTE gives itself: 1, 2, 3… as orders are
accepted. Timed is `process(sequenced)` for each prepared SequencedCommand, its events thrown
away.
"""

import time
from collections.abc import Iterable, Iterator

from matching_engine import CancelOrder, NewOrder, OrderType, SequencedCommand, Side, TimeInForce
from matching_engine.engine import MatchingEngine
from matching_engine.events import Trade

from benchmarks.contender import Fill, obey, percentile_99
from matching import order as emte


def prepare(commands: Iterable[emte.Command]) -> Iterator[SequencedCommand]:
    """Its own commands, numbered from 1 on, and their orders likewise."""
    oid = 0
    for seq, command in enumerate(commands, start=1):
        if isinstance(command, emte.Cancel):
            yield SequencedCommand(seq, seq, CancelOrder(command.oid, command.owner))
            continue
        assert isinstance(command, emte.NewOrder)
        oid += 1
        side = Side.BUY if command.side is emte.Side.BUY else Side.SELL
        order = NewOrder(oid, command.owner, side, command.price, command.quantity)
        if command.price == 0:
            order = NewOrder(
                *(oid, command.owner, side, 0, command.quantity),
                *(OrderType.MARKET, TimeInForce.IOC),
            )
        yield SequencedCommand(seq, seq, order)


class Yardstick:
    def __init__(self, filling: list[emte.Command], commands: list[emte.Command]) -> None:
        prepared = list(prepare([*filling, *commands]))
        self._filling, self._prepared = prepared[: len(filling)], prepared[len(filling) :]

    def seconds(self) -> float:
        process = self.fill().process
        start = time.process_time()
        for sequenced in self._prepared:
            process(sequenced)
        return time.process_time() - start

    def p99(self) -> float:
        process, clock = self.fill().process, time.perf_counter_ns
        taken = []
        for sequenced in self._prepared:
            start = clock()
            process(sequenced)
            taken.append(clock() - start)
        return percentile_99(taken)

    def fills(self) -> Iterator[Fill]:
        engine = self.fill()
        for sequenced in self._prepared:
            for event in engine.process(sequenced):
                if isinstance(event, Trade):
                    yield event.maker_order_id, event.taker_order_id, event.price, event.qty

    def feed(self, commands: Iterable[emte.Command]) -> MatchingEngine:
        engine = MatchingEngine()
        for sequenced in prepare(commands):
            engine.process(sequenced)
        return engine

    def resting(self, engine: MatchingEngine) -> int:
        return len(engine.book.orders)

    def fill(self) -> MatchingEngine:
        engine = MatchingEngine()
        for sequenced in self._filling:
            engine.process(sequenced)
        return engine


if __name__ == "__main__":
    obey(Yardstick)
