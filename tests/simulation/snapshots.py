"""Snapshots: the process that takes one beside a server, and what may become of the files."""

from collections.abc import Callable
from contextlib import suppress

from matching.recovery import take_snapshot
from matching.snapshot import snapshot_paths
from tests.simulated_disk import Crash
from tests.simulation.machine import DURABLE, JOURNAL, Machine
from tests.simulation.server import Server


class Snapshots:
    """Takes snapshots of the journal for whatever server is at work."""

    def __init__(self, machine: Machine, server: Callable[[], Server | None]) -> None:
        self.taken = 0
        self._machine = machine
        self._server = server
        self._is_at_work = False

    def take(self) -> None:
        """One life of that process: it may end at any step, and the disk may fail it.

        What it found is told to the server a little later, which may have ended by then.
        """
        machine = self._machine
        if self._is_at_work or not machine.disk.exists(DURABLE):
            return
        self._is_at_work = True
        with suppress(Crash, OSError):
            check, _ = take_snapshot(machine.disk, JOURNAL)
            self.taken += 1
            server = self._server()
            machine.loop.call_later(0.01, self._tell, server, check.seq, check.digest)
        self._is_at_work = False

    def _tell(self, server: Server | None, seq: int, digest: str) -> None:
        if server is not None and server.is_alive:
            server.exchange.check(seq, digest)
            server.commit.schedule()

    def rot(self) -> None:
        """A bit of one of the files is not what it was, or the file has lost its end."""
        machine, rng = self._machine, self._machine.rng
        disk = machine.disk
        files = [path for path in snapshot_paths(JOURNAL) if disk.exists(path)]
        if not files:
            return
        path = rng.choice(files)
        data = bytearray(disk.content(path))
        if not data:
            return
        place = rng.randrange(len(data))
        if rng.random() < 0.8:
            data[place] ^= 1 << rng.randrange(8)
        else:
            del data[place:]
        disk.replace(path, bytes(data))
        machine.tell("a snapshot rots", path.name, place)
