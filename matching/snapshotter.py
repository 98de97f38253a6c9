"""The snapshotter: when a server has snapshots taken of its journal, by a child process.

Once so many records were added and so much time has passed since the last (PROTOCOL §5: 1,000,000
and 60 s), and at a clean stop. The state's hash becomes the journal's `check` record. The child
(`matching.snapshotchild`) reads files only, so trading takes no notice; one that fails or takes too
long is told of in a line of the log, and that is all: the next start replays more. A server that
stops waits for the last one, so that the next start has little to replay.
"""

import asyncio
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from matching.console import say

DUE_SECONDS = 1.0
"""How often `look` is to be called."""

REPLAY_SECONDS = 240.0
"""How long a child may replay; it keeps what it has come to."""

CHILD_SECONDS = 600.0
"""How long a child may take in all."""

STOP_REPLAY_SECONDS = 10.0
STOP_CHILD_SECONDS = 20.0
"""The same at a stop: who supervises a server gives it so much longer to end than others."""

_POLL_SECONDS = 0.02

_log = logging.getLogger("matchingserver")


class _Failed(Exception):
    """A child took no snapshot: why."""


class _Late(Exception):
    """A child was not done in time, which says more of the machine than of the journal."""


class _Taken(msgspec.Struct, frozen=True):
    seq: int
    digest: str
    size: int


class Snapshotter:
    """Has snapshots taken of one journal; `records` 0: never.

    `seq` says how many records are durable, `on_taken` is told of a snapshot's record and hash.
    `last_seq` is the record of the last snapshot, `taken` and `failed` count those of this run.
    """

    def __init__(
        self,
        journal: Path,
        *,
        last_seq: int,
        records: int,
        seconds: float,
        seq: Callable[[], int],
        on_taken: Callable[[int, str], None],
    ) -> None:
        self.last_seq = last_seq
        self.taken = 0
        self.failed = 0
        self._journal = journal
        self._records = records
        self._seconds = seconds
        self._seq = seq
        self._on_taken = on_taken
        self._last_begin = time.monotonic()
        self._taking: asyncio.Task[None] | None = None
        self._stops = threading.Event()
        self._is_hurried = threading.Event()

    def look(self) -> None:
        """Begin a snapshot if it is time for one."""
        if (
            self._records
            and (self._taking is None or self._taking.done())
            and self._seq() - self.last_seq >= self._records
            and time.monotonic() - self._last_begin >= self._seconds
        ):
            taking = self._take(
                f"--seconds={REPLAY_SECONDS}",
                child_seconds=CHILD_SECONDS,
                end=self._stops,
            )
            self._taking = asyncio.get_running_loop().create_task(taking)

    async def take_last(self) -> None:
        """The last one, of a server that stops: all is durable, and nobody waits any more."""
        records, self._records = self._records, 0  # `look` begins no other from now on
        self._stops.set()
        if self._taking is not None:
            await self._taking
        if records:
            await self._take(
                f"--seconds={STOP_REPLAY_SECONDS}",
                "--last",
                child_seconds=STOP_CHILD_SECONDS,
                end=self._is_hurried,
            )

    def end(self) -> None:
        """End the child that is at work, and wait for none to come."""
        self._stops.set()
        self._is_hurried.set()

    async def _take(self, *options: str, child_seconds: float, end: threading.Event) -> None:
        self._last_begin = begin = time.monotonic()
        command = [sys.executable, "-m", "matching.snapshotchild", *options, str(self._journal)]
        try:
            taken = await asyncio.to_thread(_run, command, child_seconds, end)
        except _Late:
            self.failed += 1
            say(
                f"matchingserver: no snapshot of {self._journal.name}:"
                f" it was not done after {child_seconds:g} s"
            )
            return
        except _Failed as failed:
            self.failed += 1
            _log.error("no snapshot of %s was taken: %s", self._journal.name, failed)
            return
        if taken is None:
            return
        self.taken += 1
        self.last_seq = taken.seq
        self._on_taken(taken.seq, taken.digest)
        say(
            f"matchingserver: snapshot of {self._journal.name} after record {taken.seq}:"
            f" {taken.size} bytes, {time.monotonic() - begin:.1f} s"
        )


def _run(command: list[str], seconds: float, stop: threading.Event) -> _Taken | None:
    """Run a child to its end; None if it was told to stop. _Failed, _Late."""
    try:
        # Its stdin ends with this process, however that ends; Ctrl-C is for the server alone.
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise _Failed(f"its process cannot be started: {error.strerror}") from error
    end = time.monotonic() + seconds
    try:
        while child.poll() is None and time.monotonic() < end and not stop.is_set():
            stop.wait(_POLL_SECONDS)
    finally:
        is_late = child.poll() is None
        child.kill()
        output, errors = child.communicate()
    if stop.is_set():
        return None
    if is_late:
        raise _Late
    if child.returncode:
        reason = errors.strip().rpartition("\n")[2]
        raise _Failed(reason or f"its process ended with {child.returncode}")
    match = _PRINTED.fullmatch(output)
    if match is None:
        raise _Failed(f"its process printed {output[:80]!r}")
    return _Taken(int(match[1]), match[2], int(match[3]))


_PRINTED = re.compile(r"([0-9]+) ([0-9a-f]{32}) ([0-9]+)\n")
