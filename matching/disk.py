"""The machine's own disk, clock and dice, behind the interfaces of `matching.ports`."""

import errno
import fcntl
import os
import secrets
import sys
import time
from pathlib import Path

from matching.ports import Locked


class SystemClock:
    def now(self) -> int:
        return time.time_ns() // 1_000


class SystemDice:
    def token(self, nbytes: int) -> bytes:
        return secrets.token_bytes(nbytes)


class SystemFile:
    """An open file of this machine; see `matching.ports.File` for what each call promises."""

    __slots__ = ("_handle",)

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def size(self) -> int:
        return os.fstat(self._handle).st_size

    def read(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0:
            part = os.pread(self._handle, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def lock(self) -> None:
        _lock(self._handle, "the file")

    def append(self, data: bytes) -> None:
        self.write_at(self.size(), data)

    def write_at(self, offset: int, data: bytes) -> None:
        # A short write is the disk saying that it is full (or the file at its limit): going on with
        # the rest would only ask it again, and a batch is one write or none.
        written = os.pwrite(self._handle, data, offset)
        if written != len(data):
            message = f"no space: only {written} of {len(data)} bytes could be written"
            raise OSError(errno.ENOSPC, message)

    def sync(self) -> None:
        _sync_data(self._handle)

    def truncate(self, length: int) -> None:
        os.ftruncate(self._handle, length)

    def free(self) -> int:
        # Some network file systems do not count: no blocks in all, so none free. They are not full.
        status = os.fstatvfs(self._handle)
        return status.f_bavail * status.f_frsize if status.f_blocks else sys.maxsize

    def close(self) -> None:
        os.close(self._handle)


class SystemLock:
    """A lock file held by flock; the kernel releases it when the process ends, however it ends."""

    __slots__ = ("_handle",)

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def release(self) -> None:
        os.close(self._handle)


class SystemDisk:
    """The file system. New files can be read by their owner only."""

    def exists(self, path: Path) -> bool:
        return path.exists()

    def open(self, path: Path) -> SystemFile:
        # Whoever made it may have been killed before its name was on the medium.
        return _with_safe_name(os.open(path, os.O_RDWR | os.O_CLOEXEC), path)

    def create(self, path: Path) -> SystemFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return _with_safe_name(os.open(path, flags, 0o600), path)

    def rename(self, path: Path, to: Path) -> None:
        path.replace(to)
        sync_folder(to.parent)

    def lock(self, path: Path) -> SystemLock:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(handle, str(path))
        except BaseException:
            os.close(handle)
            raise
        return SystemLock(handle)


def _with_safe_name(handle: int, path: Path) -> SystemFile:
    try:
        sync_folder(path.parent)
    except OSError:
        os.close(handle)
        raise
    return SystemFile(handle)


def _lock(handle: int, name: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Locked(f"{name} is held by another process") from error


if sys.platform == "darwin":

    def _sync_data(handle: int) -> None:
        # fsync on macOS leaves the data in the drive's cache; this asks the drive to write it.
        fcntl.fcntl(handle, fcntl.F_FULLFSYNC)

else:

    def _sync_data(handle: int) -> None:
        os.fdatasync(handle)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the medium: without it a new file may be gone after a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
