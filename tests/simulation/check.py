"""What must hold whenever a server has recovered, whatever happened before.

The journal is read once more in a plain way, and a reference engine is given its commands: what
the recovered engine says, what was promised to clients and what followers read is held against it.
"""

import random
from collections import Counter

from msgspec.structs import replace

from matching.clientids import REMEMBERED_IDS
from matching.events import Trade
from matching.exchange import Exchange
from matching.journal import Mark
from matching.order import NewOrder, Phase, Side
from matching.records import CommandRecord, command_lines, parse_body, parse_time
from matching.recovery import Recovered, open_journal
from tests.matching.trading_tables import compare_engines, state_of
from tests.reference import ReferenceEngine
from tests.simulated_disk import SeededDice, SimulatedDisk
from tests.simulation.history import History, read_history
from tests.simulation.machine import DURABLE, JOURNAL
from tests.simulation.promises import Promises


class Auditor:
    """Keeps the reference engine, which goes on with the journal from check to check."""

    def __init__(self, *, tick: int, lot: int, reference: int) -> None:
        self._terms = tick, lot, reference
        self._begin()

    def _begin(self) -> None:
        self.reference = ReferenceEngine(*self._terms, remembered_ids=REMEMBERED_IDS)
        self._known: list[str] = []
        self._ids: Counter[tuple[int, str]] = Counter()
        self._signatures: Counter[str] = Counter()
        self._shares: Counter[int] = Counter()
        self._cash: Counter[int] = Counter()
        self._records: dict[int, CommandRecord] = {}
        self._trades: dict[int, Trade] = {}
        self.starts = 0

    def check_recovery(
        self, recovered: Recovered, disk: SimulatedDisk, promises: Promises, *, in_flight: int
    ) -> History:
        """Everything, once a journal is open and before the server goes on with it.

        in_flight: the most batches that may be there without having been settled.
        """
        data = disk.content(JOURNAL)
        history = read_history(data)
        assert history.length == len(data), "recovery left something that is no batch"
        assert data == disk.synced_content(JOURNAL), "recovery left something that is not safe"
        assert data.startswith(promises.data), "what was settled is not there any more"
        if promises.data:
            unsettled = history.batches - read_history(bytes(promises.data)).batches
            assert unsettled <= in_flight, "a batch was written before the one before was safe"
        mark = Mark.decode(disk.content(DURABLE), DURABLE.name)
        header = recovered.journal.header
        assert mark == Mark(history.seq, history.length, header.lineage), f"the mark is {mark}"
        assert promises.seq <= history.seq, "somebody saw a record that is gone"
        self.follow(history)
        self.check_promises(promises, history)
        self.check_engine(recovered)
        assert recovered.epoch == self.starts + 1, "an epoch was not written"
        return history

    def follow(self, history: History) -> None:
        """Give the reference what is new in the journal; AssertionError if old things changed."""
        known = len(self._known)
        texts = [line.text for line in history.lines]
        assert texts[:known] == self._known, "history has changed"
        self._known = texts
        index = known
        while index < len(texts):
            index += self._take(history, index)

    def forget(self) -> None:
        """The journal may have lost what was known of it: begin anew."""
        self._begin()

    def _take(self, history: History, index: int) -> int:
        seq, line = history.lines[index]
        stamp, _, text = line.partition(": ")
        if not text.startswith("["):
            if text.startswith("epoch "):
                self.starts += 1
                assert text == f"epoch {self.starts}", text
            else:
                assert text == "tick" or line.startswith("check "), f"no command caused {line!r}"
            return 1
        record = parse_body(text, ticker="intc")
        assert isinstance(record, CommandRecord)
        self._records[seq] = record
        command = record.command
        events = self.reference.apply(command, parse_time(stamp))
        decided = [
            f"{stamp}: {each}"
            for each in command_lines(
                command, events, oid=record.oid, signature_prefix=record.signature_prefix
            )
        ]
        found = [each.text for each in history.lines[index : index + len(decided)]]
        assert found == decided, f"the reference decides {decided}; the journal says {found}"
        if isinstance(command, NewOrder) and command.client_id:
            self._ids[command.owner, command.client_id] += 1
        if record.signature_prefix:
            self._signatures[record.signature_prefix] += 1
        told = len(events) + 1 - len(decided)
        for place, event in enumerate(events[told:], start=seq + 1):
            if isinstance(event, Trade):
                self._enter(place, event)
        return len(decided)

    def _enter(self, seq: int, trade: Trade) -> None:
        self._trades[seq] = trade
        self._shares[trade.buyer] += trade.quantity
        self._shares[trade.seller] -= trade.quantity
        self._cash[trade.buyer] -= trade.quantity * trade.price
        self._cash[trade.seller] += trade.quantity * trade.price

    def check_promises(self, promises: Promises, history: History) -> None:
        for command in [record.command for record in self._records.values()]:
            if isinstance(command, NewOrder):
                assert replace(command, cod=False) in promises.asked, f"nobody sent {command}"
        for each in promises.carried_out:
            record = self._records.get(each.seq)
            assert record is not None, f"record {each.seq}, which was answered, is gone"
            assert record.oid == (each.oid or 0)
            asked = each.request.command
            assert type(record.command) is type(asked), f"{asked} became {record}"
            if isinstance(asked, NewOrder):
                assert replace(record.command, cod=False) == replace(asked, ts=None)
        for trade in promises.trades:
            found = self._trades.get(trade["seq"])
            assert found is not None, f"the trade {trade}, which was shown, is gone"
            assert (found.tid, found.quantity) == (trade["tid"], trade["quantity"])
        for (owner, client_id), oid in promises.oids.items():
            known = self.reference.known_by_id(owner, client_id)
            assert known is not None, f"{owner}'s {client_id} is forgotten"
            assert known.oid == oid
        twice = [key for key, count in (self._ids | self._signatures).items() if count > 1]
        assert not twice, f"carried out twice: {twice}"
        for key, seq in promises.missing.items():
            before = [
                at
                for at, record in self._records.items()
                if at <= seq
                and isinstance(record.command, NewOrder)
                and (record.command.owner, record.command.client_id) == key
            ]
            assert not before, f"{key} was not found at record {seq}, and is record {before}"

    def check_engine(self, recovered: Recovered) -> None:
        engine = recovered.engine
        engine.check()
        compare_engines(engine, self.reference)
        best = [recovered.engine.book.levels(side)[:1] for side in Side]
        if engine.phase is Phase.CONTINUOUS and all(best):
            assert best[0][0][0] < best[1][0][0], f"the book is crossed: {engine.book}"
        for owner, shares in self._shares.items():
            assert engine.position(owner) == shares
        assert sum(self._shares.values()) == sum(self._cash.values()) == 0

    def check_begun(self, exchange: Exchange, history: History) -> None:
        """After the first batches of a life: no order of a lost session is open any more."""
        self.follow(history)
        left = [order for order in self.reference.open_orders() if order.asked.cod]
        assert not left, f"orders of lost sessions are open: {left}"
        self.check_feed(exchange)

    def check_feed(self, exchange: Exchange) -> None:
        """When all is settled, everybody sees the reference's market."""
        feed, reference = exchange.feed, self.reference
        assert feed.phase is reference.phase
        assert feed.last == reference.last
        for side in Side:
            levels: Counter[int] = Counter()
            for order in reference.resting(side):
                levels[order.price] += order.shown
            shown = {price: quantity for price, (quantity, _) in feed.best(side, None)}
            assert shown == dict(levels), f"the feed shows {shown}"


def check_again(recovered: Recovered, disk: SimulatedDisk) -> None:
    """A second recovery, on a copy of the disk, finds the same and changes nothing."""
    other = disk.copy(random.Random(0))
    dice = SeededDice(random.Random(0))
    again = open_journal(other, JOURNAL, ticker="intc", dice=dice)
    assert state_of(again.engine) == state_of(recovered.engine), "recovering twice differs"
    assert again.journal.position == recovered.journal.position
    assert again.journal.time == recovered.journal.time
    assert (again.epoch, again.signatures, again.trades, again.disconnects) == (
        *(recovered.epoch, recovered.signatures, recovered.trades),
        recovered.disconnects,
    )
    assert other.content(JOURNAL) == disk.content(JOURNAL)
