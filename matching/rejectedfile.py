"""The rejected file `<ticker>.rejected`: what was refused, and why. It is advice, and no record.

    1700000000.040000: rejected 7 bad_tick 7:buy intc 1@50.255 ts=1700000000000 s=41 x=d6ae4f89
    │                           │ │        │                                    │    └ crc32
    │                           │ │        └ the text as it came                └ the journal's last
    │                           │ └ code of PROTOCOL §3                           record before it
    │                           └ the owner whom the text names, else the session's, else 0
    └ the journal's clock

It lies beside the journal, written by a thread of its own, after the answers, and never synced: a
crash may take its end back, and a disk that is slow or broken costs lines, never an order. Keys,
signatures and nonces that a text holds are left out (`***`), what is not ASCII is escaped. At
64 MiB the file becomes `<ticker>.rejected.old`, in place of the one before.

>>> format_rejection(Rejection(
...     time=1_700_000_000_040_000, owner=7, code="bad_syntax", text="7:buy\\nintc", seq=41))
b'1700000000.040000: rejected 7 bad_syntax 7:buy\\\\nintc s=41 x=069305b6\\n'
"""

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from zlib import crc32

from matching.exchange import Rejection
from matching.journal import rejected_path
from matching.records import format_time

FILE_LIMIT = 64 * 1024 * 1024
"""Bytes after which the file is put aside and a new one begun."""

WAITING_LIMIT = 10_000
"""Rejections that may wait to be written; more are left out."""

LINES_AT_ONCE = 50
"""Lines made between two writes: while it makes them, the thread keeps the others from running."""

CLOSE_SECONDS = 1.0
"""How long what waits may take to be written when the server stops."""

_SECRET = re.compile("nonce=[^ ]*|[0-9A-Fa-f]{37,}")
"""A nonce; and what is too long and hexadecimal for a client id: a key or a signature."""

_UNREAD = frozenset({"bad_syntax", "bad_request", "busy"})
"""Codes of texts that may hold anything; others are commands, which have no place for secrets."""


class RejectedFile:
    """Writes the rejections of one journal, as far as it can. `write` never waits."""

    def __init__(self, journal: Path) -> None:
        self.problem = ""
        """Why what was to be written last was not; empty: it was."""
        self._path = rejected_path(journal)
        self._queue: SimpleQueue[Sequence[Rejection] | None] = SimpleQueue()
        # Each is counted by one thread alone.
        self._given = 0
        self._not_given = 0
        self._taken = 0
        self._not_written = 0
        self._handle = -1
        self._size = 0
        self._thread: threading.Thread | None = None

    @property
    def left_out(self) -> int:
        """Rejections that were not written."""
        return self._not_given + self._not_written

    def write(self, rejections: Sequence[Rejection]) -> None:
        """Have them written, if not too many wait already."""
        if self._given - self._taken + len(rejections) > WAITING_LIMIT:
            self._not_given += len(rejections)
            return
        self._given += len(rejections)
        self._queue.put(rejections)
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="rejected", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Let the thread write what waits, and go; a disk that hangs is not waited for."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(CLOSE_SECONDS)

    def _write_all(self) -> None:
        while (rejections := self._queue.get()) is not None:
            for start in range(0, len(rejections), LINES_AT_ONCE):
                self._try_to_write(rejections[start : start + LINES_AT_ONCE])
        self._let_go()

    def _try_to_write(self, rejections: Sequence[Rejection]) -> None:
        try:
            self._append(b"".join(map(format_rejection, rejections)))
            self.problem = ""
        except OSError as error:
            self._not_written += len(rejections)
            self.problem = f"{self._path} cannot be written: {error.strerror or error}"
            self._let_go()
        self._taken += len(rejections)

    def _append(self, data: bytes) -> None:
        if self._handle < 0:
            self._open()
        if self._size and self._size + len(data) > FILE_LIMIT:
            self._let_go()
            self._path.replace(self._path.with_name(f"{self._path.name}.old"))
            self._open()
        written = os.write(self._handle, data)
        self._size += written
        if written < len(data):
            raise OSError(f"only {written} of {len(data)} bytes could be written")

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._handle = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._handle).st_size
        if self._size and os.pread(self._handle, 1, self._size - 1) != b"\n":
            self._size += os.write(self._handle, b"\n")  # a crash, or a full disk, cut the last one

    def _let_go(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def format_rejection(rejection: Rejection) -> bytes:
    """The line, with its newline."""
    text = rejection.text
    if rejection.code in _UNREAD:
        text = _SECRET.sub("***", text).encode("unicode_escape").decode("ascii")
    line = (
        f"{format_time(rejection.time)}: rejected {rejection.owner} {rejection.code} {text}"
        f" s={rejection.seq}"
    ).encode("ascii")
    return b"%b x=%08x\n" % (line, crc32(line))
