"""A disk in memory that behaves as badly as real ones may: page cache, power cuts, errors, full.

What is written stands in the page cache, which `kill` (of the process) leaves alone and `power_cut`
does not: sectors that were not synced may be there, be zero or be garbage, each for itself, and the
file's size may lag. A sector that is overwritten in place has its old or its new bytes, and so has
a file that is not larger than one sector (which a mark relies on). A sync that failed has forgotten
what it was to write: syncing again succeeds and writes nothing of it, until it is written anew.

`crash_after = n` ends the process (`Crash`) right after its n-th operation from then on; with
`tears`, a write that ends it has written only some sectors. A file whose making was cut short may
be gone after a power cut.

>>> disk = SimulatedDisk(random.Random(1))
>>> file = disk.create(Path("intc.log"))
>>> file.append(b"kept"); file.sync(); file.append(b"lost")
>>> disk.power_cut(lose_everything=True)
>>> disk.open(Path("intc.log")).read(0, 100)
b'kept'
"""

import errno
import random
import sys
from collections.abc import Callable
from pathlib import Path

from matching.ports import Locked

SECTOR = 512


class Crash(Exception):
    """The process ends here, in the middle of what it did."""


class SetClock:
    """A clock that shows what it is told."""

    def __init__(self, now: int = 1_700_000_000_000_000) -> None:
        self.microseconds = now

    def now(self) -> int:
        return self.microseconds


class SeededDice:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def token(self, nbytes: int) -> bytes:
        return self._rng.randbytes(nbytes)


class _Content:
    """One file: what the page cache has, what the medium has, what a failed sync forgot."""

    def __init__(self) -> None:
        self.cache = bytearray()
        self.medium = bytearray()
        self.forgotten: set[int] = set()
        self.has_name = False

    def write(self, offset: int, data: bytes) -> None:
        self.cache[offset : offset + len(data)] = data
        self.forgotten -= set(range(offset // SECTOR, (offset + len(data)) // SECTOR + 1))

    def sync(self) -> None:
        written = bytearray(self.cache)
        for sector in self.forgotten:
            start = sector * SECTOR
            end = min(start + SECTOR, len(written))
            if start < end:
                written[start:end] = self.medium[start:end].ljust(end - start, b"\0")
        self.medium = written

    def forget(self) -> None:
        """A sync failed: what it was to write is taken for written from now on."""
        for start in range(0, len(self.cache), SECTOR):
            if self.cache[start : start + SECTOR] != self.medium[start : start + SECTOR]:
                self.forgotten.add(start // SECTOR)

    def power_cut(self, rng: random.Random, *, lose_everything: bool) -> None:
        if not lose_everything:
            self.medium = _survivors(self.medium, self.cache, rng)
        self.cache = bytearray(self.medium)
        self.forgotten.clear()


def _survivors(medium: bytearray, cache: bytearray, rng: random.Random) -> bytearray:
    """What a power cut leaves of a file whose last sync left `medium`."""
    if max(len(medium), len(cache)) <= SECTOR:
        return bytearray(rng.choice((medium, cache, medium.ljust(len(cache), b"\0"))))
    shorter, longer = sorted((len(medium), len(cache)))
    lagging = max(shorter, rng.randint(shorter, longer) // SECTOR * SECTOR)
    left = bytearray(rng.choice((len(medium), len(cache), lagging)))
    loss = rng.choice((0.0, 0.05, 0.3, 0.7, 1.0))
    garbles = rng.random() < 0.1
    for start in range(0, len(left), SECTOR):
        end = min(start + SECTOR, len(left))
        overwritten = cache if rng.random() >= loss else medium
        old_end = min(end, len(medium))
        left[start:old_end] = overwritten[start:old_end].ljust(max(0, old_end - start), b"\0")
        new = max(start, len(medium))
        if new < end and rng.random() >= loss:
            left[new:end] = cache[new:end].ljust(end - new, b"\0")
        elif new < end and garbles:
            left[new:end] = rng.randbytes(end - new)
    return left


class SimulatedDisk:
    """Satisfies `matching.ports.Disk`. The faults are plain attributes, to be set by a test."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._files: dict[Path, _Content] = {}
        self._locks: set[Path] = set()
        self._renamed: tuple[Path, Path, _Content | None] | None = None
        self._process = 0
        self.operations = 0
        """Operations that wrote, cut, synced or created, ever."""
        self.crash_after: int | None = None
        """So many operations from now the process ends."""
        self.tears = False
        """Whether the write that ends the process is cut short."""
        self.fail_sync = False
        """The next sync is EIO."""
        self.fail_read = False
        """The next read is EIO."""
        self.observe: Callable[[], None] = _look_away
        """Called after each operation: what another process does meanwhile."""
        self.free: int | None = None
        """Bytes by which files may still grow; None: as many as they like."""

    def exists(self, path: Path) -> bool:
        return path in self._files

    def open(self, path: Path) -> "SimulatedFile":
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        content = self._files[path]
        content.has_name = True
        return SimulatedFile(self, content, self._process)

    def create(self, path: Path) -> "SimulatedFile":
        if path in self._files:
            raise FileExistsError(errno.EEXIST, "file exists", str(path))
        self._files[path] = _Content()
        self.operated()
        return self.open(path)

    def rename(self, path: Path, to: Path) -> None:
        """Two operations: the name, and its safety; a power cut between them may undo the first."""
        replaced = self._files.get(to)
        content = self._files[to] = self._files.pop(path)
        self._renamed = (path, to, replaced)
        self.operated()
        self._renamed = None
        content.has_name = True
        self.operated()

    def lock(self, path: Path) -> "SimulatedLock":
        if path in self._locks:
            raise Locked(f"{path} is held by another process")
        self._locks.add(path)
        return SimulatedLock(self._locks, path)

    def kill(self) -> None:
        """The process ends; what it wrote stays in the page cache."""
        self._process += 1
        self._locks.clear()
        self.crash_after = None
        self.tears = False
        self.fail_sync = False
        self.fail_read = False

    def power_cut(self, *, lose_everything: bool = False) -> None:
        """The machine stops and starts again. `lose_everything`: of what was not synced."""
        self.kill()
        self._undo_rename(lose_everything=lose_everything)
        for path, content in list(self._files.items()):
            if not content.has_name and (lose_everything or self._rng.random() < 0.5):
                del self._files[path]
            content.has_name = True
            content.power_cut(self._rng, lose_everything=lose_everything)

    def _undo_rename(self, *, lose_everything: bool) -> None:
        if self._renamed is not None and (lose_everything or self._rng.random() < 0.5):
            path, to, replaced = self._renamed
            self._files[path] = self._files.pop(to)
            if replaced is not None:
                self._files[to] = replaced
        self._renamed = None

    def copy(self, rng: random.Random) -> "SimulatedDisk":
        """Another disk with the same files, on which nobody works and no fault is planned."""
        other = SimulatedDisk(rng)
        for path, content in self._files.items():
            twin = other._files[path] = _Content()
            twin.cache = bytearray(content.cache)
            twin.medium = bytearray(content.medium)
            twin.forgotten = set(content.forgotten)
            twin.has_name = content.has_name
        return other

    def content(self, path: Path) -> bytes:
        """The file as a process would read it."""
        return bytes(self._files[path].cache)

    def synced_content(self, path: Path) -> bytes:
        """The file as a power cut would leave it at the least."""
        return bytes(self._files[path].medium)

    def replace(self, path: Path, data: bytes) -> None:
        """Put other bytes on the medium: somebody's editor, a bad sector, a restored copy."""
        content = self._files.setdefault(path, _Content())
        content.has_name = True
        content.cache = bytearray(data)
        content.medium = bytearray(data)

    def remove(self, path: Path) -> None:
        del self._files[path]

    def paths(self) -> list[Path]:
        return sorted(self._files)

    def operated(self) -> None:
        self.operations += 1
        self.observe()
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after <= 0:
                raise Crash

    def fitting(self, offset: int, length: int, growth: int) -> int:
        """How many bytes of a write go in, which grows its file by `growth`: whole sectors."""
        fitting = length
        if self.tears and self.crash_after == 1:
            fitting = self._rng.randint(0, length)
        elif self.free is not None and growth > self.free:
            fitting = length - (growth - self.free)
        if fitting == length:
            return length
        return max(0, (offset + fitting) // SECTOR * SECTOR - offset)

    def check_alive(self, process: int) -> None:
        assert process == self._process, "a process that has ended touches its file"


def _look_away() -> None:
    """Nobody else is at work."""


class SimulatedLock:
    def __init__(self, locks: set[Path], path: Path) -> None:
        self._locks = locks
        self._path = path

    def release(self) -> None:
        self._locks.discard(self._path)


class SimulatedFile:
    """Satisfies `matching.ports.File`."""

    def __init__(self, disk: SimulatedDisk, content: _Content, process: int) -> None:
        self._disk = disk
        self._content = content
        self._process = process

    def lock(self) -> None:
        """Nobody else writes: this disk has one process at a time."""

    def size(self) -> int:
        self._disk.check_alive(self._process)
        return len(self._content.cache)

    def read(self, offset: int, length: int) -> bytes:
        self._disk.check_alive(self._process)
        if self._disk.fail_read:
            self._disk.fail_read = False
            raise OSError(errno.EIO, "input/output error")
        return bytes(self._content.cache[offset : offset + length])

    def append(self, data: bytes) -> None:
        self.write_at(len(self._content.cache), data)

    def write_at(self, offset: int, data: bytes) -> None:
        self._disk.check_alive(self._process)
        cache = self._content.cache
        growth = max(0, offset + len(data) - len(cache))
        fitting = self._disk.fitting(offset, len(data), growth)
        self._content.write(offset, data[:fitting])
        if self._disk.free is not None:
            self._disk.free -= min(growth, self._disk.free)
        self._disk.operated()
        if fitting < len(data):
            raise OSError(errno.ENOSPC, "no space left on device")

    def sync(self) -> None:
        self._disk.check_alive(self._process)
        if self._disk.fail_sync:
            self._disk.fail_sync = False
            self._content.forget()
            self._disk.operated()
            raise OSError(errno.EIO, "input/output error")
        self._content.sync()
        self._disk.operated()

    def truncate(self, length: int) -> None:
        self._disk.check_alive(self._process)
        del self._content.cache[length:]
        self._disk.operated()

    def free(self) -> int:
        self._disk.check_alive(self._process)
        return self._disk.free if self._disk.free is not None else sys.maxsize

    def close(self) -> None:
        pass
