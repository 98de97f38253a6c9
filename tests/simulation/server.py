"""One life of a matching server: the real recovery, exchange, group commit and dead man's switches.

It is `matching.server` without sockets: what comes in by a wire is handed to the exchange, what is
settled goes out by the wires. The group commit's threads are simulated ones, so that commands and
crashes come between any two of its operations.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from matching.deadman import DeadMen
from matching.exchange import Batch, Exchange
from matching.groupcommit import DiskFailed, GroupCommit
from matching.order import Phase
from matching.recovery import open_journal
from tests.simulated_disk import Crash
from tests.simulation.loop import SimulatedThread
from tests.simulation.machine import JOURNAL, Machine

VENUE_KEY = "5e" * 32


class Server:
    """Opens the journal; then `begin` and `serve`. It ends by itself, `stop`ped, or killed.

    `on_settled` is called with each batch that is durable, before anybody is told; `on_ended` with
    what ended it, but for a kill. OSError, JournalDamaged and Crash come out of the constructor.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        terms: dict[str, int],
        syncs: bool,
        on_settled: Callable[[Batch], None],
        on_ended: Callable[[str], None],
    ) -> None:
        self._machine = machine
        self._syncs = syncs
        self._on_settled = on_settled
        self._on_ended = on_ended
        self.is_alive = True
        self.is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.recovered = open_journal(
            machine.disk, JOURNAL, ticker="intc", dice=machine.dice, **terms
        )
        self.dead_men = DeadMen(self._cancel_for_dead_man)

    def begin(self, *, phase: Phase) -> None:
        """Write the first batches of this life. DiskFailed, Crash."""
        machine = self._machine
        self.exchange = Exchange(
            self.recovered, clock=machine, dice=machine.dice, venue_key=VENUE_KEY
        )
        self.commit = GroupCommit(
            self.exchange,
            self.recovered.file,
            self.recovered.mark_file,
            syncs=self._syncs,
            on_settled=self._settle,
            told=self._told,
        )
        self.commit._writer = self._thread()  # type: ignore[assignment]
        self.commit._syncer = self._thread()  # type: ignore[assignment]
        self.exchange.start(phase=phase if self.recovered.is_new else None)
        self.commit.begin()

    def serve(self) -> None:
        """Take commands from now on."""
        task = self._machine.loop.create_task(self.commit.run())
        task.add_done_callback(self._note_end)
        self._tasks.append(task)

    def kill(self) -> None:
        """The process is gone, wherever it was."""
        if self.is_alive:
            self.is_alive = False
            self.dead_men.disarm_all()
            for task in self._tasks:
                task.cancel()

    def stop(self) -> None:
        """Begin a clean stop, in the order of `matching.server`."""
        self.is_stopping = True
        self.exchange.close_sessions()
        self.commit.schedule()
        self._tasks.append(self._machine.loop.create_task(self._stop()))

    async def _stop(self) -> None:
        await self.commit.idle()
        self.commit.seal()
        await self.commit.idle()
        if not self.is_alive:
            return
        try:
            with suppress(DiskFailed):  # it ends in any case
                self.commit.close()
        except Crash:
            self._crash()
        else:
            self.kill()
            self._on_ended("stopped")

    def _settle(self, batch: Batch) -> None:
        self._on_settled(batch)
        for recipient, message in batch.deliveries:
            recipient.deliver(message)

    async def _told(self) -> None:
        """The net has taken what was delivered."""

    def _cancel_for_dead_man(self, owner: int) -> None:
        self.exchange.cancel_for_dead_man(owner)
        self.commit.schedule()

    def _crash(self) -> None:
        if self.is_alive:
            self.kill()
            self._on_ended("crashed")

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or not self.is_alive:
            return
        error = task.exception()
        if not isinstance(error, DiskFailed):
            raise error or AssertionError("the group commit has ended by itself")
        self.kill()
        self._on_ended(f"disk failed: {error}")

    def _thread(self) -> SimulatedThread:
        rng = self._machine.rng
        return SimulatedThread(
            self._machine.loop,
            seconds=lambda: rng.choice((0.0001, 0.001, 0.003, 0.03)),
            is_alive=lambda: self.is_alive,
            on_crash=self._crash,
        )
