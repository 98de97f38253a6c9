"""Group commit: one batch at a time to the disk; what is decided meanwhile goes out with the next.

There is no timer: under light load a batch is one command, under heavy load whatever arrived while
one was synced (PROTOCOL §5). A worker thread writes and syncs, so that the loop goes on deciding;
only then is the batch settled: answered and shown. With `syncs` False (`--durability write`) it is
settled once it is written; once a second, beside the writing, what was written is synced, and only
then the mark moves.

If a write or a sync fails, nothing more is settled and nothing is ever tried again: `DiskFailed`,
and the process must end, for the exchange is ahead of the disk.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from prometheus_client import Histogram

from matching.exchange import Batch, Exchange
from matching.ports import File

SYNC_SECONDS = 1.0
"""How often what is only written is synced."""

SPACE_SECONDS = 1.0
"""How often the free space is looked at."""

SEAL_SECONDS = 0.5
"""An idle journal is sealed with a tick after so long."""


class DiskFailed(Exception):
    """A write or a sync of the journal or its mark failed."""


class GroupCommit:
    """Takes batches from an exchange to the disk. `run` does it; `schedule` says there is work.

    `on_settled` is called for each batch, in order: it delivers and publishes. `told` is awaited
    before the next one, so that news does not pile up while there are orders.
    """

    def __init__(
        self,
        exchange: Exchange,
        journal: File,
        mark: File,
        *,
        syncs: bool,
        on_settled: Callable[[Batch], None],
        told: Callable[[], Awaitable[None]],
    ) -> None:
        self._exchange = exchange
        self._journal = journal
        self._mark = mark
        self._syncs = syncs
        self._on_settled = on_settled
        self._told = told
        self._writer = ThreadPoolExecutor(1, "journal")
        self._syncer = ThreadPoolExecutor(1, "sync")
        self._unsynced: Batch | None = None
        self._syncing: Future[None] | None = None
        self.has_ended = False
        self._work: asyncio.Event = asyncio.Event()
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        self._last_write = 0.0
        self.sync_seconds = Histogram(
            "emte_sync_seconds",
            "Time to write and sync a batch",
            registry=None,
            buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
        )
        self.batch_commands = Histogram(
            "emte_batch_commands",
            "Commands in a batch",
            registry=None,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        )

    def begin(self) -> None:
        """Write the first batches of this run, before anybody is served. DiskFailed."""
        self._exchange.note_free_space(self._free_space())
        while self._exchange.has_work:
            batch = self._exchange.take_batch()
            if batch.data:
                self._write_and_sync(batch)
            self._settle(batch)

    def schedule(self) -> None:
        """Something was decided: it is written once all that arrived with it is decided too."""
        self._idle.clear()
        self._work.set()

    async def run(self) -> None:
        """Write, until cancelled. DiskFailed; whatever else is raised is a bug of ours."""
        jobs: list[Coroutine[None, None, None]] = [
            self._write_batches(),
            self._seal_when_idle(),
            self._watch_space(),
        ]
        if not self._syncs:
            jobs.append(self._sync_what_is_written())
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in ended:
                task.result()
        finally:
            self.has_ended = True
            for task in tasks:
                task.cancel()

    async def idle(self) -> None:
        """Wait until all that was decided is settled."""
        await self._idle.wait()

    def seal(self) -> None:
        """Write a tick, if there is nothing else to write and the journal does not end in one."""
        self._exchange.seal()
        if self._exchange.has_work:
            self.schedule()

    def close(self) -> None:
        """Let the threads go; with nothing left to write, sync what is only written. DiskFailed."""
        self._writer.shutdown()
        self._syncer.shutdown()
        if self._syncing is not None:
            self._syncing.result()
        if self._unsynced is not None and self._idle.is_set():
            self._sync(self._unsynced)

    async def _write_batches(self) -> None:
        loop = asyncio.get_running_loop()
        write = self._write_and_sync if self._syncs else self._write
        while True:
            await self._work.wait()
            self._work.clear()
            while self._exchange.has_work:
                batch = self._exchange.take_batch()
                if batch.data:
                    self._last_write = loop.time()
                    self.batch_commands.observe(batch.commands)
                    await loop.run_in_executor(self._writer, write, batch)
                self._settle(batch)
                await self._told()
                if not batch.data:  # there was no wait in which others had their turn
                    await asyncio.sleep(0)
            if not self._work.is_set():
                self._idle.set()

    async def _seal_when_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SEAL_SECONDS / 5)
            if loop.time() - self._last_write >= SEAL_SECONDS:
                self.seal()

    async def _watch_space(self) -> None:
        """Beside the writing: on a slow disk the question waits too, and no order for it."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SPACE_SECONDS)
            free = await loop.run_in_executor(self._syncer, self._free_space)
            self._exchange.note_free_space(free)
            if self._exchange.has_work:
                self.schedule()

    async def _sync_what_is_written(self) -> None:
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            batch, self._unsynced = self._unsynced, None
            if batch is not None:
                self._syncing = self._syncer.submit(self._sync, batch)
                await asyncio.wrap_future(self._syncing)

    def _write(self, batch: Batch) -> None:
        with _disk_calls():
            batch.write(self._journal)
        self._unsynced = batch

    def _sync(self, batch: Batch) -> None:
        with _disk_calls():
            batch.sync(self._journal, self._mark)

    def _free_space(self) -> int:
        with _disk_calls():
            return self._journal.free()

    def _write_and_sync(self, batch: Batch) -> None:
        start = time.perf_counter()
        with _disk_calls():
            batch.write(self._journal)
            batch.sync(self._journal, self._mark)
        self.sync_seconds.observe(time.perf_counter() - start)

    def _settle(self, batch: Batch) -> None:
        self._exchange.settle(batch)
        self._on_settled(batch)


@contextmanager
def _disk_calls() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskFailed(error.strerror or str(error)) from error
