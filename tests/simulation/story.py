"""A story: several lives of a matching server, of its clients and its follower, told by one seed.

Lives end by kill -9, by power cuts, by a disk that fails or is full, by a clean stop, or in the
middle of a recovery. At the end the faults are healed, and clients send again what they do not know
the end of.
"""

import itertools
from asyncio import TimerHandle
from collections import Counter
from hashlib import blake2b
from typing import NamedTuple

from app.models.db import DAL
from matching.exchange import Batch
from matching.groupcommit import DiskFailed
from matching.journal import JournalDamaged
from matching.order import Phase
from tests.simulated_disk import Crash, SimulatedDisk
from tests.simulation.check import Auditor, check_again
from tests.simulation.client import Client
from tests.simulation.commands import OWNERS, REFERENCE, CommandWriter
from tests.simulation.follower import DatabaseFollower, Follower, a_database
from tests.simulation.history import read_history
from tests.simulation.machine import JOURNAL, TORN, Machine
from tests.simulation.promises import Promises
from tests.simulation.server import Server
from tests.simulation.snapshots import Snapshots

HEALING_ROUNDS = 60
"""After so many rounds of a healthy venue everybody must know what became of every id."""


class Told(NamedTuple):
    """What a story came to: a digest of all that happened, and how often what did."""

    digest: str
    counts: Counter[str]


DATABASE_EVERY = 50
"""Every so many-th seed's follower settles into a real database."""


def story_of(seed: int) -> "Story":
    """The story of a seed, to be played once."""
    return Story(seed, db=a_database() if seed % DATABASE_EVERY == 0 else None)


class Refused(Exception):
    """The journal of a server that answered before it synced was refused after a power cut."""


class Story:
    """To be played once. db: settle into this database, else into the memory of a follower."""

    def __init__(self, seed: int, *, db: DAL | None = None) -> None:
        machine = self.machine = Machine(seed)
        rng = machine.rng
        self._terms = {
            "tick": rng.choice((100, 5_000, 10_000)),
            "lot": rng.choice((1, 1, 2)),
            "reference": REFERENCE,
        }
        self._syncs = rng.random() < 0.9
        self._phase = rng.choice((Phase.CONTINUOUS, Phase.CONTINUOUS, Phase.AUCTION))
        self._promises = Promises()
        self._auditor = Auditor(**self._terms)
        self._server: Server | None = None
        self._follower = Follower(machine) if db is None else DatabaseFollower(machine, db)
        self._snapshots = Snapshots(machine, lambda: self._server)
        writer = CommandWriter(rng, tick=self._terms["tick"], lot=self._terms["lot"])
        self._clients = [
            Client(owner, machine, writer, self._promises, lambda: self._server)
            for owner in (0, *OWNERS)
        ]
        self._counts: Counter[str] = Counter()
        self._power_failed = False
        self._end: TimerHandle | None = None
        machine.disk.observe = self._look

    def play(self) -> Told:
        """Tell it. AssertionError, or whatever a bug raises, if something does not hold."""
        machine = self.machine
        try:
            for _ in range(machine.rng.randint(1, 4)):
                self._start()
                self._live()
            self._heal()
        except Refused:
            self._counts["refused"] += 1
        finally:
            machine.disk.observe = lambda: None
            machine.loop.end()
        self._counts["commands"] = sum(len(client.requests) for client in self._clients)
        self._counts["snapshots"] = self._snapshots.taken
        self._counts["answers"] = self._promises.answers
        told = f"{machine.told}{machine.disk.content(JOURNAL)!r}"
        return Told(blake2b(told.encode(), digest_size=16).hexdigest(), self._counts)

    # -- starting

    def _start(self) -> None:
        """Start a server, until one has come to serve."""
        for attempt in itertools.count():
            if attempt < 6:
                self.machine.plan_fault_of_recovery()
            if self._has_started():
                self.machine.repair()
                return

    def _has_started(self) -> bool:
        machine, promises = self.machine, self._promises
        tail = _tail_of(machine.disk)
        try:
            server = Server(
                machine,
                terms=self._terms,
                syncs=self._syncs,
                on_settled=self._note_batch,
                on_ended=self._note_end,
            )
            self._check(server)
            if tail:
                kept = machine.disk.synced_content(TORN)
                assert kept.endswith(tail), "a torn tail was cut without a safe copy"
            server.begin(phase=self._phase)
        except (Crash, OSError, DiskFailed) as error:
            machine.tell("no start", type(error).__name__)
            self._counts["crashes in recovery"] += 1
            self._end_process()
            return False
        except JournalDamaged as damage:
            if self._syncs or not self._power_failed:
                raise
            machine.tell("refused", str(damage))
            raise Refused from damage
        self._power_failed = False
        self._auditor.check_begun(server.exchange, read_history(bytes(promises.data)))
        self._server = server
        return True

    def _check(self, server: Server) -> None:
        """Hold what was recovered against everything that is known."""
        disk, promises, recovered = self.machine.disk, self._promises, server.recovered
        if self._power_failed and not self._syncs:
            promises.forgive(recovered.journal.seq)
            self._auditor.forget()
        history = self._auditor.check_recovery(recovered, disk, promises, in_flight=1)
        self._follower.check(history)
        if self.machine.chance(0.2):
            check_again(recovered, disk)
        self._counts["recoveries"] += 1
        self._counts["torn tails"] += recovered.torn_bytes > 0
        self._counts["begun with a snapshot"] += recovered.snapshot_seq > 0
        self._counts["snapshots passed over"] += len(recovered.passed_over)
        promises.begin(disk.content(JOURNAL), history.seq)

    # -- living

    def _live(self) -> None:
        """Clients trade, until something ends the server."""
        machine, rng, server = self.machine, self.machine.rng, self._server
        assert server is not None
        if rng.random() < 0.8:
            machine.plan_fault()
        seconds = rng.choice((0.03, 0.3, 2.0))
        for _ in range(rng.randint(6, 22)):
            machine.loop.call_later(rng.random() * seconds, self._act)
        seconds += rng.choice((0.0, 0.002, 0.02, 0.3, 1.2))
        self._end = machine.loop.call_later(seconds, self._end_life)
        server.serve()
        machine.loop.run()
        self._counts["lives"] += 1
        self._end_process()

    def _act(self) -> None:
        machine = self.machine
        if machine.chance(0.03):
            machine.put_clock()
        machine.rng.choice(self._clients).act()
        server = self._server
        if server is not None and server.is_alive:
            assert server.exchange.feed.seq <= self._promises.seq, "shown before it was settled"
        if machine.chance(0.2):
            self._look()
        if machine.chance(0.04):
            self._snapshots.take()

    def _end_life(self) -> None:
        assert self._server is not None
        if self.machine.chance(0.25):
            self._server.stop()
        else:
            self._server.kill()
            self._note_end("killed")

    def _note_end(self, how: str) -> None:
        self.machine.tell("the server", how)
        self._counts[how.partition(":")[0]] += 1
        self.machine.loop.stop()

    def _end_process(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server = None
        if self._end is not None:
            self._end.cancel()
        power_fails = self.machine.chance(0.5)
        self._power_failed = self._power_failed or power_fails
        self._counts["power cuts"] += power_fails
        if power_fails:
            self._follower.power_cut()
        elif self.machine.chance(0.5):
            self._look()  # what is not safe is there to be seen
        self.machine.end_process(power_fails=power_fails)
        if self.machine.chance(0.1):
            self._snapshots.rot()

    def _note_batch(self, batch: Batch) -> None:
        self._promises.note_batch(batch)
        self.machine.tell("settled up to record", self._promises.seq)

    def _look(self) -> None:
        """The follower is another process: it may look between any two operations."""
        if self.machine.chance(0.15):
            self._follower.poll()

    # -- healing

    def _heal(self) -> None:
        """Nothing fails any more: every id resolves, exactly once."""
        machine, clients = self.machine, self._clients
        self._start()
        assert self._server is not None
        server = self._server
        server.serve()
        for _ in range(HEALING_ROUNDS):
            unresolved = [client for client in clients if not client.resolve()]
            if not unresolved:
                break
            self._wait(0.35)
        else:
            raise AssertionError("a client does not come to know what became of its ids")
        for client in clients:
            client.ask_again()
        self._wait(1.0)
        for client in clients:
            client.disconnect()
        self._wait(0.5)
        server.stop()
        machine.loop.run()
        self._auditor.check_begun(server.exchange, read_history(machine.disk.content(JOURNAL)))
        self._end_process()
        self._start()
        self._follower.catch_up()
        self._follower.check(read_history(machine.disk.content(JOURNAL)))

    def _wait(self, seconds: float) -> None:
        self.machine.loop.call_later(seconds, self.machine.loop.stop)
        self.machine.loop.run()


def _tail_of(disk: SimulatedDisk) -> bytes:
    """What follows the last whole batch of a journal that has any."""
    if not disk.exists(JOURNAL):
        return b""
    data = disk.content(JOURNAL)
    try:
        history = read_history(data)
    except AssertionError:  # not even its header is there
        return b""
    return data[history.length :]
