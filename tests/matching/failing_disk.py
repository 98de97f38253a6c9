"""A disk that fails, or has little space, when it is told to; and a matching server on one.

    EMTE_VAR=DIR python -O -m tests.matching.failing_disk -p 8888 -t intc

is the program `matchingserver.py`, but the first call that `DIR/fails` names (append, sync or
write_at) is EIO.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Any

from matching import matchingserver
from matching.disk import SystemDisk, SystemFile


class FailingFile:
    """A real file, but it does what its disk was told to."""

    def __init__(self, file: SystemFile, disk: "FailingDisk") -> None:
        self._file = file
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def append(self, data: bytes) -> None:
        self._disk.attempt("append")
        self._file.append(data)

    def sync(self) -> None:
        self._disk.attempt("sync")
        self._file.sync()

    def write_at(self, offset: int, data: bytes) -> None:
        self._disk.attempt("write_at")
        self._file.write_at(offset, data)

    def free(self) -> int:
        return self._disk.free


class FailingDisk(SystemDisk):
    """The machine's disk until `fails` names a call; `failures` counts what failed since.

    `free` is what it says that it has left, in bytes.
    """

    def __init__(self, *, free: int = sys.maxsize) -> None:
        self.fails = ""
        self.failures = 0
        self.free = free

    def attempt(self, call: str) -> None:
        if call == self.fails:
            self.failures += 1
            raise OSError(errno.EIO, "Input/output error")

    def open(self, path: Path) -> Any:
        return FailingFile(super().open(path), self)

    def create(self, path: Path) -> Any:
        return FailingFile(super().create(path), self)


class ToldByFile(FailingDisk):
    """It fails once, as a file says; so a second attempt would succeed, as it may on a real one."""

    def __init__(self, told: Path) -> None:
        super().__init__()
        self._told = told

    def attempt(self, call: str) -> None:
        is_told = not self.failures and self._told.exists()
        self.fails = self._told.read_text() if is_told else ""
        super().attempt(call)


def main() -> None:
    disk = ToldByFile(Path(os.environ["EMTE_VAR"]) / "fails")
    matchingserver.SystemDisk = lambda: disk  # type: ignore[misc, assignment]
    matchingserver.main()


if __name__ == "__main__":
    main()
