"""One fixed day of a product, cut short and damaged in every way there is.

`crash_everywhere` ends the process after each single operation on the disk, and then after each
single operation of the recovery; `damage_everywhere` flips each bit of a journal, and cuts it at
each length. Both raise AssertionError for the first outcome that may not be, and count the cases.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from matching import signing
from matching.exchange import Reply
from matching.journal import JournalDamaged, Mark, UnknownJournal
from matching.order import Phase
from matching.recovery import Contradiction, Recovered, open_journal, take_snapshot
from matching.snapshot import snapshot_paths
from tests.matching.trading_tables import state_of
from tests.simulated_disk import Crash, SeededDice, SimulatedDisk
from tests.simulation.check import Auditor
from tests.simulation.client import Request
from tests.simulation.history import History, read_history
from tests.simulation.machine import BEGIN, DURABLE, JOURNAL, SETTLED, Machine
from tests.simulation.promises import Promises
from tests.simulation.server import VENUE_KEY, Server

TERMS = {"tick": 100, "lot": 1, "reference": 1_000_000}

Batches = tuple[tuple[str, ...], ...]

MORNING: Batches = (
    ("set intc collar=5 breaker=10 maker_fee=-0.2 taker_fee=1",),
    ("limit intc * max_open_orders=20", "limit intc 2 max_position=500", "key intc 3 2"),
    ("1:sell intc 5@100.02 id=a", "2:sell intc 40@100.03 id=b peak=4", "3:buy intc 9@99.98 post"),
    ("2:buy intc 3@100.02 id=c tif=ioc", "1:buy intc 7@99.97 tif=day stp=decrement"),
    ("3:buy intc 4/100.05 id=d", "1:sell intc 2@99.98 id=e", "2:mod intc id=b 30@100.04"),
)

OTHER_MORNING = tuple(
    tuple(text.replace("9@99.98 post", "9@99.95 post") for text in texts) for texts in MORNING
)
"""As long as the other one, and with as many trades."""

AFTERNOON: Batches = (
    ("3:buy intc 12@100.05 id=f", "1:del intc id=a", "2:buy intc 1@99.99 id=c2 tif=fok"),
    ("phase intc auction", "1:sell intc 6@99.90 id=g", "2:buy intc 8@100.10 id=h"),
    ("phase intc continuous", "2:del intc all", "1:sell intc 3 stp=none id=i"),
)


class Day:
    """The product on one disk; what its server let out is kept as promises."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.promises = Promises()

    def start(self) -> Server:
        server = Server(
            self.machine,
            terms=TERMS,
            syncs=True,
            on_settled=self.promises.note_batch,
            on_ended=lambda how: None,
        )
        if not self.promises.data:
            data = self.machine.disk.content(JOURNAL)
            self.promises.begin(data, server.recovered.journal.seq)
        server.begin(phase=Phase.CONTINUOUS)
        return server

    def trade(self, server: Server, batches: Batches) -> None:
        """Batch by batch; the first command of each is signed, the others come by a session."""
        session = server.exchange.open_session(_Silence(), trusted=True)
        nonce = session.nonce
        login = f"login intc nonce={nonce} cod=1 ts={BEGIN // 1000}"
        server.exchange.login(session, login, signing.sign(VENUE_KEY, login), req=None)
        for texts in batches:
            for index, text in enumerate(texts):
                request = Request(_owner_of(text), text)
                self.promises.asked.add(request.command)
                listener = _Listener(self.promises, request)
                if index == 0:
                    signed = f"{text} ts={BEGIN // 1000}"
                    signature = signing.sign(VENUE_KEY, signed)
                    server.exchange.submit(signed, signature, listener, trusted=True)
                else:
                    session.recipient = listener
                    server.exchange.send(session, text, req=1)
            server.commit.begin()

    def live(self, morning: Batches = MORNING) -> None:
        """The whole day: two lives of the server, and a snapshot between them."""
        server = self.start()
        self.trade(server, morning)
        check, _ = take_snapshot(self.machine.disk, JOURNAL)
        server.exchange.check(check.seq, check.digest)
        server.commit.begin()
        self.machine.disk.kill()
        server = self.start()
        self.trade(server, AFTERNOON)

    def check(self) -> History:
        """Recover, and hold it against everything that was promised."""
        disk = self.machine.disk
        return Auditor(**TERMS).check_recovery(_recover(disk), disk, self.promises, in_flight=2)


class _Listener:
    """Takes what leaves the server for one request."""

    def __init__(self, promises: Promises, request: Request) -> None:
        self._promises = promises
        self._request = request

    def deliver(self, message: Any) -> None:
        if isinstance(message, Reply):
            self._promises.note_answer(self._request, message.answer)


class _Silence:
    def deliver(self, message: Any) -> None:
        """Nobody listens."""


def _owner_of(text: str) -> int:
    head, colon, _ = text.partition(":")
    return int(head) if colon and head.isdecimal() else 0


# -- crashes


class Ending(NamedTuple):
    """How a process ends."""

    name: str
    end: Callable[[SimulatedDisk], None]


ENDINGS = (
    Ending("kill", lambda disk: disk.kill()),
    Ending("power cut, all lost", lambda disk: disk.power_cut(lose_everything=True)),
    Ending("power cut", lambda disk: disk.power_cut()),
)


def crash_everywhere() -> int:
    """After each operation of the day, and then of the recovery; how many ends were tried."""
    cases = 0
    for operation in range(1, 10_000):
        day = Day(Machine(1))
        day.machine.disk.crash_after = operation
        try:
            day.live()
        except Crash:
            for ending in ENDINGS:
                cases += _crash_in_recovery(day, ending, operation)
        else:
            return cases
    raise AssertionError("the day has no end")


def _crash_in_recovery(day: Day, ending: Ending, operation: int) -> int:
    """End the process, and the next one after each operation of its recovery, in the same way."""
    machine = day.machine
    left = machine.disk
    try:
        for of_recovery in range(1, 10_000):
            machine.disk = left.copy(random.Random(f"{operation} {of_recovery}"))
            ending.end(machine.disk)
            machine.disk.crash_after = of_recovery
            again = Day(machine)
            again.promises.asked = day.promises.asked
            try:
                again.start()
                crashed = False
            except Crash:
                crashed = True
            ending.end(machine.disk)
            after = Day(machine)
            after.promises = day.promises
            try:
                after.check()
            except AssertionError as error:
                error.add_note(f"operation {operation}, {ending.name}, then {of_recovery}")
                raise
            if not crashed:
                return of_recovery
        raise AssertionError("the recovery has no end")
    finally:
        machine.disk = left


# -- damage


def damage_everywhere(*, every: int = 1) -> int:
    """Each bit of each `every`-th byte, and each `every`-th length; how often it was opened.

    What is known beside the journal: both marks; log2db's alone, which is behind; both, and a
    snapshot.
    """
    disk = _disk_after_a_day()
    data = disk.content(JOURNAL)
    whole = read_history(data)
    mark = Mark.decode(disk.content(DURABLE), DURABLE.name)
    assert mark is not None
    assert mark.seq == whole.seq
    seen = _place_of_batch(data, whole.batches // 2)
    settled = {SETTLED: Mark(seen.seq, seen.length, mark.lineage).encode()}
    both = {**settled, DURABLE: mark.encode()}
    snapshot = {path: disk.content(path) for path in snapshot_paths(JOURNAL) if disk.exists(path)}
    assert len(snapshot) == 1
    last_batch = _place_of_batch(data, whole.batches - 1).length
    cases = 0
    for beside in (both, settled, both | snapshot):
        known = whole.seq if DURABLE in beside else seen.seq
        for damaged, where, place in _damaged(data, every):
            # Where a batch follows that can be read, the one before it was whole once.
            least = whole.seq if place is not None and place < last_batch else known
            _open({JOURNAL: damaged, **beside}, whole, least=least, where=where)
            cases += 1
    return cases


def splice_everywhere() -> int:
    """Each batch in turn is that of another history of the same journal, sound in itself.

    A copy of a venue that went on by itself has such batches: the same numbers and salt, all CRCs
    right. The chain tells them apart.
    """
    disk, other = _disk_after_a_day(), _disk_after_a_day(OTHER_MORNING)
    data, strange = disk.content(JOURNAL), other.content(JOURNAL)
    whole = read_history(data)
    cases = 0
    for batch in range(1, whole.batches + 1):
        start, end = (_place_of_batch(data, each).length for each in (batch - 1, batch))
        strange_batch = strange[
            _place_of_batch(strange, batch - 1).length : _place_of_batch(strange, batch).length
        ]
        if strange_batch == data[start:end]:
            continue
        spliced = data[:start] + strange_batch + data[end:]
        least = whole.seq if batch < whole.batches else 0
        _open({JOURNAL: spliced}, whole, least=least, where=f"batch {batch} of another history")
        cases += 1
    assert cases > 1
    return cases


def damage_snapshots_everywhere(*, every: int = 1) -> int:
    """Likewise of the snapshot: the state is the journal's, whatever became of the file."""
    disk = _disk_after_a_day()
    (path,) = (path for path in snapshot_paths(JOURNAL) if disk.exists(path))
    files = {each: disk.content(each) for each in (JOURNAL, DURABLE)}
    with_snapshot = {**files, path: disk.content(path)}
    whole = _recover(_disk_with(with_snapshot))
    assert whole.snapshot_seq > 0
    cases = 0
    for damaged, where, _ in _damaged(disk.content(path), every):
        found = _recover(_disk_with({**files, path: damaged}))
        assert state_of(found.engine) == state_of(whole.engine), f"{where}: another state"
        assert found.snapshot_seq == 0, f"{where}: the snapshot was taken for whole"
        cases += 1
    return cases


def _disk_after_a_day(morning: Batches = MORNING) -> SimulatedDisk:
    machine = Machine(1)
    Day(machine).live(morning)
    machine.disk.kill()
    return machine.disk


def _disk_with(files: dict[Path, bytes]) -> SimulatedDisk:
    disk = SimulatedDisk(random.Random(0))
    for path, data in files.items():
        disk.replace(path, data)
    return disk


def _damaged(data: bytes, every: int) -> Iterator[tuple[bytes, str, int | None]]:
    """The bytes, what is wrong with them, and which one differs, if they are all there."""
    for length in range(0, len(data), every):
        yield data[:length], f"length {length}", None
    for place in range(0, len(data), every):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            yield bytes(flipped), f"bit {bit} of byte {place}", place


def _open(files: dict[Path, bytes], whole: History, *, least: int, where: str) -> None:
    """It is refused with the byte, or what is there is a beginning that holds all that is known."""
    disk, before = _disk_with(files), files[JOURNAL]
    try:
        _recover(disk)
    except JournalDamaged as damage:
        refused_at: int | None = damage.offset
    except (UnknownJournal, Contradiction):
        refused_at = 0
    else:
        refused_at = None
    if refused_at is not None:
        assert disk.content(JOURNAL) == before, f"{where}: refused, and yet changed"
        assert 0 <= refused_at <= len(before), f"{where}: refused at byte {refused_at}"
        return
    found = read_history(disk.content(JOURNAL))
    assert found.seq >= least, f"{where}: record {least} is lost without a word"
    assert found.lines == whole.lines[: len(found.lines)], f"{where}: another history"


def _recover(disk: SimulatedDisk) -> Recovered:
    return open_journal(disk, JOURNAL, ticker="intc", dice=SeededDice(random.Random(0)), **TERMS)


def _place_of_batch(data: bytes, batches: int) -> History:
    """The journal up to the end of that batch; 0: its header."""
    place = data.index(b"\n")
    for _ in range(batches):
        place = data.index(b"\n", data.index(b"\ncommit ", place) + 1)
    return read_history(data[: place + 1])
