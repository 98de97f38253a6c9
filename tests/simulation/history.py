"""The journal once more, read plainly: whole batches from the beginning, up to the first thing that
is not as PROTOCOL §5 says.

It shares no code with `matching.journal`, so that what is wrong there is seen here.
"""

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32


class Line(NamedTuple):
    """A record: its number and its text without `s=`, `b=` and `x=`."""

    seq: int
    text: str


class History(NamedTuple):
    """What is sound; `length` is where that ends, in bytes."""

    lines: list[Line]
    batches: int
    length: int

    @property
    def seq(self) -> int:
        """The last record, commits counted."""
        return self.lines[-1].seq + 1 if self.lines else 0


@lru_cache(8)
def read_history(data: bytes) -> History:
    """All whole batches, not to be changed; AssertionError if there is no header."""
    header, newline, _ = data.partition(b"\n")
    salt = re.search(rb" salt=([0-9a-f]{8}) x=([0-9a-f]{8})\Z", header)
    assert newline, "the journal has no header"
    assert salt is not None, header
    assert int(salt[2], 16) == crc32(header[:-11]), header
    chain = blake2b(header + b"\n", digest_size=16).digest()
    place = length = len(header) + 1
    lines: list[Line] = []
    pending: list[Line] = []
    batches = seq = 0
    while (end := data.find(b"\n", place)) >= 0:
        text, crc = data[place : end - 11], data[end - 11 : end]
        if crc != b" x=%08x" % crc32(text, int(salt[1], 16)):
            break
        seq += 1
        if text.startswith(b"commit "):
            tail = b"commit %d s=%d b=%d" % (len(pending), seq, batches + 1)
            chain = blake2b(chain + data[length:place] + tail, digest_size=16).digest()
            if text != tail + b" h=" + chain.hex().encode():
                break
            lines += pending
            pending = []
            batches += 1
            length = end + 1
        else:
            tail = b" s=%d b=%d" % (seq, batches + 1)
            if not text.endswith(tail):
                break
            pending.append(Line(seq, text[: -len(tail)].decode("ascii")))
        place = end + 1
    return History(lines, batches, length)
