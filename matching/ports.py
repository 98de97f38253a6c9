"""Ports: the clock, the disk, the net and the dice that the exchange is handed instead of reaching
for them.

The core never asks the machine for the time, a file or a random number, and never talks to a
client. It is given these small interfaces; `matching.disk` has the real ones but for the net, which
is `matching.realtime` and `matching.httphandlers`. Tests have worse ones: a disk that loses power,
connections that break.
"""

from pathlib import Path
from typing import Any, Protocol


class Clock(Protocol):
    def now(self) -> int:
        """Microseconds since 1970, UTC. It may jump back; whoever needs order keeps the maximum."""


class Dice(Protocol):
    def token(self, nbytes: int) -> bytes:
        """`nbytes` unpredictable bytes."""


class Recipient(Protocol):
    """Whom the exchange answers: a connection, or one POST."""

    def deliver(self, message: Any) -> None:
        """Take one message of `matching.exchange`, whose cause is durable by now.

        What one recipient takes goes out in the order in which it came.
        """


class Connection(Recipient, Protocol):
    """One client's connection, as the server sees it for as long as it is open."""

    @property
    def has_more(self) -> bool:
        """Whether something was delivered that is not sent yet."""

    @property
    def untold(self) -> int:
        """How many messages were delivered of which nothing is sent yet."""

    def tell(self) -> int:
        """Send the next slice of what was delivered; how many bytes."""

    def ping_or_close(self, now: float) -> None:
        """Ask for a sign of life, or give it up. `now`: seconds on the monotonic clock."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; what was sent before still arrives."""


class Source(Protocol):
    """What a reader needs of a file."""

    def size(self) -> int:
        """Bytes in the file now."""

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; fewer only where the file ends."""


class File(Source, Protocol):
    """One open file. Nothing written is safe before `sync` returns.

    After an OSError of `append`, `write_at` or `sync` nobody knows what the file holds: the process
    that got it must stop, never try again (a second fdatasync may succeed without having written).
    """

    def lock(self) -> None:
        """Be its only writer until it is closed; Locked if another process is, by any name."""

    def append(self, data: bytes) -> None:
        """Write `data` at the end with one call; OSError if not all of it went in."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Overwrite in place with one call; what lies within one sector stays whole."""

    def sync(self) -> None:
        """Return when all that was written or cut is on the medium (fdatasync)."""

    def truncate(self, length: int) -> None:
        """Cut the file to its first `length` bytes."""

    def free(self) -> int:
        """Bytes that its file system still has for this process."""

    def close(self) -> None: ...


class Lock(Protocol):
    def release(self) -> None:
        """Let others have it. The end of the process, however it comes, does so too."""


class Locked(Exception):
    """Somebody else holds the lock."""


class Disk(Protocol):
    def exists(self, path: Path) -> bool: ...

    def open(self, path: Path) -> File:
        """The existing file, for reading and writing, its name on the medium; FileNotFoundError."""

    def create(self, path: Path) -> File:
        """A new, empty file whose name is on the medium; FileExistsError if there is one."""

    def rename(self, path: Path, to: Path) -> None:
        """Give a file a name in the same folder, in place of whatever has it; both on the medium.

        After a crash `to` is the old file or the new one, whole if that was synced.
        """

    def lock(self, path: Path) -> Lock:
        """Hold `path` (made if missing) alone on this machine; Locked if another process does."""
