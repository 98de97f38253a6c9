"""The journal: everything that one product's matching engine decided, in order, as lines of text.

    #EMTE 1 ticker=intc lineage=9c1f0a44d2b7e683 tick=0.01 lot=1 … salt=deadbeef x=f561f358
    1700000000.010000: epoch 1 s=1 b=1 x=66f06938                               ─┐
    1700000000.020000: [1] 3 sell 4@99.90/0 s=2 b=1 x=56e750a4                   │ batch 1:
    1700000000.040000: [4] 4 buy 4@99.95/0 g=5d2e8a60b1c74f93 s=3 b=1 x=…        │ one write,
    1700000000.040000: match 4@99.90 from 3(1) to 4(4) t=1 k=buy s=4 b=1 x=…     │ one fdatasync
    commit 4 s=5 b=1 h=fc127fd6ac991d3df78fa79608e66819 x=8563a221              ─┘
    │                  │   │   │                                  └ crc32 of the line, from the salt
    │                  │   │   └ chain: blake2b-128 over the chain before and this batch's lines
    │                  │   └ number of the batch
    └ its 4 lines      └ number of the record, without a gap

    #EMTE              the first line: whose journal, of which lineage, under which rules
    [9] 8 sell …       the command that made or changed order 9, of owner 8; [0]: none or many
    match canceled triggered decremented phase         what the command before it caused
    epoch  tick  check  commit                         a start; an idle seal; a state hash; the end

The forms of all lines, byte for byte, are in PROTOCOL §5. A batch counts when its commit is there
and everything in it is right; the file is only ever added to. `Journal` makes the bytes of batches,
`read_batches` takes them apart again; neither does I/O of its own.

>>> header = Header(ticker="intc", lineage="9c1f0a44d2b7e683", tick=100, lot=1,
...                 reference=1_000_000, salt=0xDEADBEEF)
>>> journal = Journal(header)
>>> journal.epoch(1, at=1_700_000_000_010_000)
1
>>> print(journal.close_batch().decode("ascii"), end="")
1700000000.010000: epoch 1 s=1 b=1 x=66f06938
commit 1 s=2 b=1 h=cf6f9854a5a02d2dff932f4f6e33782c x=3e76cd3c
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zlib import crc32

import msgspec

from matching.events import (
    Event,
    Trade,
)
from matching.exits import run_command
from matching.order import (
    TICKER,
    Command,
    format_price,
    parse_price,
)
from matching.ports import Source
from matching.records import (
    POSITIVE,
    PRICE,
    Body,
    Check,
    CommandRecord,
    Epoch,
    Record,
    Tick,
    command_lines,
    format_body,
    format_time,
    parse_line,
)

FORMAT = 1
"""The version of this file format, the header's second word."""

RULES = 1
"""The version of RULES.md that the engine plays by, the header's `rules=`."""

MARK_SIZE = 64
"""Bytes of a mark file: less than a sector, so that a mark is written whole or not at all."""

HEADER_LIMIT = 192
"""No header is longer (bytes): the longest has 16 letters of ticker and every number in full."""

_LINE_LIMIT = 1024
_READ_SIZE = 256 * 1024


class JournalDamaged(Exception):
    """What is on the disk is not what was written: `offset` is the byte, `reason` the sentence."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class UnknownJournal(Exception):
    """A sound journal of a format or under rules that this program does not know."""


class Header(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A journal's first line: the product and its terms, which hold for the journal's whole life.

    `lineage` tells this journal from every other one of the ticker; `salt` starts the CRC of its
    lines, so that a line of another file is never taken for one of this.
    """

    ticker: str
    lineage: str
    tick: int
    lot: int
    reference: int
    salt: int
    rules: int = RULES

    def encode(self) -> bytes:
        """The line, with its newline."""
        text = (
            f"#EMTE {FORMAT} ticker={self.ticker} lineage={self.lineage}"
            f" tick={format_price(self.tick)} lot={self.lot}"
            f" reference={format_price(self.reference)} rules={self.rules} salt={self.salt:08x}"
        ).encode("ascii")
        return b"%b x=%08x\n" % (text, crc32(text))


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place between two batches: all before it has been read, `chain` (hex) vouches for it."""

    seq: int
    offset: int
    batch: int
    chain: str


class Stretch(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of a journal, from where the one before it ends: its blake2b-128 (hex)."""

    end: int
    digest: str


class Mark(msgspec.Struct, frozen=True, gc=False):
    """How far a journal is known to be safe: `<ticker>.durable`; or settled: `<ticker>.settled`.

    >>> data = Mark(7, 512, "9c1f0a44d2b7e683").encode()
    >>> data.split(), len(data)
    ([b'7', b'512', b'9c1f0a44d2b7e683'], 64)
    """

    seq: int
    offset: int
    lineage: str

    def encode(self) -> bytes:
        """The 64 bytes of the file."""
        text = f"{self.seq} {self.offset} {self.lineage}"
        return f"{text:<{MARK_SIZE - 1}}\n".encode("ascii")

    @classmethod
    def decode(cls, data: bytes, name: str) -> "Mark | None":
        """The mark in a file's bytes; None if none was ever written (empty, or zeroes).

        JournalDamaged, naming the file, if they are neither: ignoring a mark would switch off the
        guard that it is.
        """
        if not data.strip(b"\0"):
            return None
        match = _MARK.fullmatch(data)
        if match is None or len(data) != MARK_SIZE:
            raise JournalDamaged(0, f"{name} does not hold a mark: {data[:MARK_SIZE]!r}")
        return cls(int(match[1]), int(match[2]), match[3].decode("ascii"))


def durable_path(journal: Path) -> Path:
    """The mark of what has been synced; the matching server writes it."""
    return journal.with_suffix(".durable")


def settled_path(journal: Path) -> Path:
    """The mark of what is in the database; log2db writes it."""
    return journal.with_suffix(".settled")


def torn_path(journal: Path) -> Path:
    """Where recovery keeps what it cuts off."""
    return journal.with_suffix(".torn")


def rejected_path(journal: Path) -> Path:
    """What the matching server refused; it is no part of the journal, and proves nothing."""
    return journal.with_suffix(".rejected")


class Batch(msgspec.Struct, frozen=True, gc=False):
    """One committed batch as read: numbers, CRCs, count and chain are right.

    `lines` are its records without `s=`, `b=`, `x=` and the newline; `records()` parses them.
    The commit itself is the record `last_seq`.
    """

    ticker: str
    number: int
    first_seq: int
    last_seq: int
    offset: int
    end_offset: int
    chain: str
    lines: list[str]

    @property
    def position(self) -> Position:
        """Where a reader stands that has taken this batch."""
        return Position(self.last_seq, self.end_offset, self.number, self.chain)

    def records(self) -> list[Record]:
        """The batch's records but the commit. JournalDamaged for a line of no known form."""
        return [self._record(index) for index in range(len(self.lines))]

    def _record(self, index: int) -> Record:
        try:
            time, body = parse_line(self.lines[index], ticker=self.ticker)
        except ValueError as error:
            raise JournalDamaged(self.line_offset(index), str(error)) from error
        return Record(self.first_seq + index, time, self.number, body)

    def line_offset(self, index: int) -> int:
        """The file's byte at which a line begins."""
        return self.offset + sum(
            len(self.lines[before]) + len(_tail(self.first_seq + before, self.number)) + _CRC_SIZE
            for before in range(index)
        )


class Journal:
    """The writing end of one journal: turns what was decided into the bytes of the next batch.

    It does no I/O. Whoever owns it appends the bytes that `close_batch` returns to the file, syncs
    it, and only then answers; if either fails, this object is ahead of the file, and the process
    must end.

    `seq` and `time` are the last record's, the open batch included; `batch`, `offset` and `chain`
    are those of the last closed one.
    """

    __slots__ = ("_lines", "_salt", "_tail", "batch", "chain", "header", "offset", "seq", "time")

    def __init__(self, header: Header, position: Position | None = None, *, time: int = 0) -> None:
        """Go on at `position` (default: right after the header), no earlier than `time`."""
        start = position if position is not None else beginning(header)
        self.header = header
        self.seq = start.seq
        self.batch = start.batch
        self.chain = start.chain
        self.offset = start.offset
        self.time = time
        self._salt = header.salt
        self._tail = f" b={start.batch + 1}"
        self._lines: list[str] = []

    @property
    def position(self) -> Position:
        """The end of the last closed batch."""
        return Position(self.seq - len(self._lines), self.offset, self.batch, self.chain)

    @property
    def mark(self) -> Mark:
        """The mark that is true once the last closed batch is synced; take it when closing."""
        return Mark(self.seq - len(self._lines), self.offset, self.header.lineage)

    @property
    def open_lines(self) -> int:
        """Records in the batch that is being collected."""
        return len(self._lines)

    def append(
        self,
        command: Command,
        *,
        oid: int,
        events: Sequence[Event],
        at: int,
        signature_prefix: str = "",
    ) -> int:
        """Add a command that the engine carried out at `at`, and its events; the command's seq.

        ValueError, with nothing added, for what must never be journaled: a reject, a duplicate, a
        time before the last record's, an oid that is not the events'.
        """
        lines = command_lines(command, events, oid=oid, signature_prefix=signature_prefix)
        prefix = self._stamp(at)
        seq = self.seq + 1
        for line in lines:
            self._add(prefix + line)
        return seq

    def epoch(self, number: int, *, at: int) -> int:
        """Add the record of the `number`-th start; its seq."""
        return self._add(self._stamp(at) + format_body(Epoch(number)))

    def tick(self, *, at: int) -> int:
        """Add the record that seals an idle journal; its seq."""
        return self._add(self._stamp(at) + format_body(Tick()))

    def check(self, seq: int, digest: str) -> int:
        """Add the state's hash after record `seq` (32 hex digits); the new record's seq."""
        return self._add(format_body(Check(seq, digest)))

    def close_batch(self) -> bytes:
        """The open batch's bytes, its commit included; b"" if it is empty.

        From here on the next batch is open, and `position` and `mark` are this one's end.
        """
        if not self._lines:
            return b""
        count = len(self._lines)
        self.seq += 1
        self.batch += 1
        lines = "".join(self._lines).encode("ascii")
        commit = f"commit {count} s={self.seq} b={self.batch}"
        self.chain = _next_chain(self.chain, lines, commit.encode("ascii"))
        data = lines + _seal(f"{commit} h={self.chain}", self._salt).encode("ascii")
        self.offset += len(data)
        self._lines = []
        self._tail = f" b={self.batch + 1}"
        return data

    def _stamp(self, at: int) -> str:
        if at < self.time:
            raise ValueError(f"time {at} is before the last record's, {self.time}")
        self.time = at
        return f"{format_time(at)}: "

    def _add(self, line: str) -> int:
        self.seq += 1
        self._lines.append(_seal(f"{line} s={self.seq}{self._tail}", self._salt))
        return self.seq


def beginning(header: Header) -> Position:
    """The position right after the header."""
    line = header.encode()
    return Position(0, len(line), 0, blake2b(line, digest_size=16).hexdigest())


def _next_chain(chain: str, lines: bytes, commit: bytes) -> str:
    return blake2b(bytes.fromhex(chain) + lines + commit, digest_size=16).hexdigest()


def _seal(line: str, salt: int) -> str:
    return f"{line} x={crc32(line.encode('ascii'), salt):08x}\n"


def _tail(seq: int, batch: int) -> str:
    return f" s={seq} b={batch}"


_CRC_SIZE = len(" x=00000000\n")
_CHAIN_SIZE = len(" h=" + 32 * "0")


# Reading.

_BATCH_NUMBER = re.compile(rb" b=([0-9]+)(?: h=[0-9a-f]{32})?\Z", re.ASCII)
_MARK = re.compile(rb"([0-9]+) ([0-9]+) ([0-9a-f]{16}) *\n", re.ASCII)

_HEADER = re.compile(
    rf"#EMTE ([0-9]+) ticker=({TICKER.pattern}) lineage=([0-9a-f]{{16}}) tick=({PRICE})"
    rf" lot=({POSITIVE}) reference=({PRICE}) rules=({POSITIVE}) salt=([0-9a-f]{{8}})",
    re.ASCII,
)
_FIRST_WORDS = re.compile(r"#EMTE ([0-9]+) .*", re.ASCII)


def read_header(source: Source) -> Header:
    """The header of a journal.

    JournalDamaged if it is not whole, UnknownJournal if it is of another format.
    """
    line, newline, _ = source.read(0, _LINE_LIMIT).partition(b"\n")
    text, marker, crc = line.rpartition(b" x=")
    if not newline or not marker or crc != b"%08x" % crc32(text):
        raise JournalDamaged(0, "the file does not begin with a whole header (#EMTE …)")
    words = _FIRST_WORDS.fullmatch(text.decode("ascii", "replace"))
    if words is not None and int(words[1]) != FORMAT:
        raise UnknownJournal(f"journal format {words[1]}; this program knows format {FORMAT}")
    match = _HEADER.fullmatch(text.decode("ascii", "replace"))
    if match is None:
        raise JournalDamaged(0, "the header has not the form of one")
    _, ticker, lineage, tick, lot, reference, rules, salt = match.groups()
    return Header(
        ticker=ticker,
        lineage=lineage,
        tick=parse_price(tick),
        lot=int(lot),
        reference=parse_price(reference),
        rules=int(rules),
        salt=int(salt, 16),
    )


def read_batches(
    source: Source,
    header: Header,
    after: Position | None = None,
    *,
    until: int | None = None,
    by_line: bool = False,
) -> Iterator[Batch]:
    """The batches after a position (default: all) up to the byte `until` (default: the file's end).

    Memory is bounded by the largest batch, whatever the file's size. A follower of a growing file
    passes the durable mark's offset: beyond it, nothing is certain yet. Each batch is checked
    before it is given: by its commit, whose chain vouches for every byte before it; where that is
    not right, and always with `by_line`, by `s`, `b` and CRC of each line, the count and the chain.
    JournalDamaged names the first byte that is wrong; all batches given before it are good.
    """
    position = after if after is not None else beginning(header)
    end = source.size() if until is None else until
    if source.size() < max(end, position.offset):
        raise JournalDamaged(
            source.size(),
            f"the journal ends here; it was known to reach byte {max(end, position.offset)}",
        )
    reader = _BatchReader(source, header, position, end, by_line=by_line)
    while (batch := reader.next()) is not None:
        yield batch


class _BatchReader:
    """The file's bytes from a position on, taken batch by batch."""

    __slots__ = ("_base", "_block", "_by_line", "_end", "_header", "_position", "_source")

    def __init__(
        self, source: Source, header: Header, position: Position, end: int, *, by_line: bool
    ) -> None:
        self._by_line = by_line
        self._source = source
        self._header = header
        self._position = position
        self._end = end
        self._block = b""  # the file's bytes from `_base` on, as far as they have been read
        self._base = position.offset

    def next(self) -> Batch | None:
        """The next batch; None at the end."""
        if self._position.offset == self._end:
            return None
        if self._by_line:
            return self._next_by_line()
        return self._next_by_chain() or self._next_by_line()

    def _next_by_chain(self) -> Batch | None:
        """The next batch, if its commit is what `Journal` would write after what is before it.

        Then its lines are what was written, their tails included, of which only the length is of
        interest. None leaves it to `_next_by_line` to say what is wrong, if anything is.
        """
        before = self._position
        number, first_seq = before.batch + 1, before.seq + 1
        commit, end = self._find_commit()
        written = self._block[before.offset - self._base : commit]
        if not end or not written.isascii():
            return None
        sealed = written.decode("ascii").split("\n")
        sealed.pop()
        seq = first_seq + len(sealed)
        tail = _tail(first_seq, number)
        if len(_tail(seq, number)) != len(tail):
            return None
        text = f"commit {seq - first_seq}{_tail(seq, number)}"
        chain = _next_chain(before.chain, written, text.encode("ascii"))
        if self._block[commit:end] != _seal(f"{text} h={chain}", self._header.salt).encode("ascii"):
            return None
        tail_size = len(tail) + _CRC_SIZE - 1
        lines = [line[:-tail_size] for line in sealed]
        return self._take(lines, Position(seq, self._base + end, number, chain))

    def _find_commit(self) -> tuple[int, int]:
        """Where in the block the next batch's commit begins and ends; (0, 0): not found."""
        start = self._position.offset - self._base
        for _ in range(2):
            commit = self._block.find(b"\ncommit ", start) + 1
            end = self._block.find(b"\n", commit) + 1 if commit else 0
            if end:
                return commit, end
            self._read_on()
            start = 0
        return 0, 0

    def _next_by_line(self) -> Batch:
        before = self._position
        number = before.batch + 1
        salt = self._header.salt
        batch_tail = b" b=%d" % number
        seq = before.seq
        offset = before.offset
        lines: list[str] = []
        while True:
            line = self._line(offset)
            seq += 1
            text = line[:-_CRC_SIZE]
            if line[-_CRC_SIZE:] != b" x=%08x\n" % crc32(text, salt):
                raise JournalDamaged(offset, "the line is not what was written: its CRC differs")
            if text.startswith(b"commit "):
                break
            tail = b" s=%d%b" % (seq, batch_tail)
            if not text.endswith(tail):
                raise _misplaced(offset, text, f"s={seq} b={number}")
            lines.append(text[: -len(tail)].decode("ascii", "replace"))
            offset += len(line)
        commit = b"commit %d s=%d%b" % (len(lines), seq, batch_tail)
        if text[:-_CHAIN_SIZE] != commit:
            raise _misplaced(offset, text, commit.decode("ascii"))
        written = self._block[before.offset - self._base : offset - self._base]
        chain = _next_chain(before.chain, written, commit)
        if text[-_CHAIN_SIZE:] != b" h=%b" % chain.encode("ascii"):
            raise JournalDamaged(offset, "the chain (h=) does not follow from what is before it")
        return self._take(lines, Position(seq, offset + len(line), number, chain))

    def _take(self, lines: list[str], position: Position) -> Batch:
        before, self._position = self._position, position
        return Batch(
            ticker=self._header.ticker,
            number=position.batch,
            first_seq=before.seq + 1,
            last_seq=position.seq,
            offset=before.offset,
            end_offset=position.offset,
            chain=position.chain,
            lines=lines,
        )

    def _line(self, offset: int) -> bytes:
        """The line that begins at a byte of the file, with its newline."""
        start = offset - self._base
        newline = self._block.find(b"\n", start)
        if newline < 0:
            self._read_on()
            start = offset - self._base
            newline = self._block.find(b"\n", start)
        if newline < 0:
            raise JournalDamaged(offset, self._why_no_line(len(self._block) - start))
        return self._block[start : newline + 1]

    def _why_no_line(self, left: int) -> str:
        if left == 0:
            return "the journal ends within a batch, before its commit"
        if left > _LINE_LIMIT:
            return f"no line ends within {left} bytes"
        return "the journal ends within a line"

    def _read_on(self) -> None:
        """Read more of the file, and forget what is before the batch that is being read."""
        read_to = self._base + len(self._block)
        kept = self._block[self._position.offset - self._base :]
        self._block = kept + self._source.read(read_to, min(_READ_SIZE, self._end - read_to))
        self._base = self._position.offset


def _misplaced(offset: int, text: bytes, expected: str) -> JournalDamaged:
    found = text.decode("ascii", "replace")
    return JournalDamaged(offset, f"expected {expected} here, found {found!r}")


class History:
    """The sound part of a journal, whole or after a position: iterating gives its batches.

    It ends with the file, or where a crash tore the last batch: `end` is that place then, `torn`
    what is wrong after it. JournalDamaged if history itself is damaged:

    A batch is written only when the one before it has been synced. So if a line of batch n+2 can be
    found behind a bad batch n+1, that one was whole once, and may have been promised to somebody.
    If none can, the bad tail is a batch that was being written, and nothing in it was promised.
    """

    def __init__(
        self, source: Source, after: Position | None = None, *, by_line: bool = False
    ) -> None:
        self.header = read_header(source)
        self.end = after if after is not None else beginning(self.header)
        self.torn: JournalDamaged | None = None
        self._source = source
        self._by_line = by_line

    def __iter__(self) -> Iterator[Batch]:
        batches = read_batches(self._source, self.header, self.end, by_line=self._by_line)
        while True:
            try:
                batch = next(batches, None)
            except JournalDamaged as damage:
                self._refuse_if_promised(damage)
                self.torn = damage
                return
            if batch is None:
                return
            self.end = batch.position
            yield batch

    def _refuse_if_promised(self, damage: JournalDamaged) -> None:
        later = _find_later_line(self._source, self.header, self.end)
        if later is not None:
            offset, batch = later
            reason = (
                f"{damage.reason}; a line of batch {batch} at byte {offset} proves that batch"
                f" {self.end.batch + 1} was whole once"
            )
            raise JournalDamaged(damage.offset, reason) from damage


def _find_later_line(source: Source, header: Header, last: Position) -> tuple[int, int] | None:
    """The first sound line after `last` that is of a batch later than the next: (byte, batch)."""
    block = b""
    base = last.offset
    while more := source.read(base + len(block), _READ_SIZE):
        block += more
        *lines, block = block.split(b"\n")
        for line in lines:
            batch = _batch_of_sound_line(line, header.salt)
            if batch > last.batch + 1:
                return base, batch
            base += len(line) + 1
        if len(block) > _LINE_LIMIT:  # no line of ours; keep only what bounds the memory
            base += len(block) - _LINE_LIMIT
            block = block[-_LINE_LIMIT:]
    return None


def _batch_of_sound_line(line: bytes, salt: int) -> int:
    text, marker, crc = line.rpartition(b" x=")
    if not marker or crc != b"%08x" % crc32(text, salt):
        return 0
    match = _BATCH_NUMBER.search(text)
    return int(match[1]) if match is not None else 0


def seal_stretch(source: Source, header: Header, after: Position, until: Position) -> Stretch:
    """The hash of the bytes between two places, of which both chains vouch for each.

    JournalDamaged if those bytes are not the ones that lead from chain to chain.
    """
    chain, offset = after.chain, after.offset
    hashed = blake2b(b"" if after.batch else header.encode(), digest_size=16)
    rest = b""
    while offset < until.offset:
        block = source.read(offset, min(_READ_SIZE, until.offset - offset))
        if not block:
            break
        hashed.update(block)
        offset += len(block)
        rest += block
        start = 0
        while (commit := rest.find(b"\ncommit ", start) + 1) and (
            end := rest.find(b"\n", commit) + 1
        ):
            line = rest[commit:end]
            chain = _next_chain(chain, rest[start:commit], line[: -_CHAIN_SIZE - _CRC_SIZE])
            sealed = line[: -_CHAIN_SIZE - _CRC_SIZE] + b" h=%b" % chain.encode("ascii")
            if line != b"%b x=%08x\n" % (sealed, crc32(sealed, header.salt)):
                raise JournalDamaged(offset - len(rest) + start, "the chain (h=) breaks here")
            start = end
        rest = rest[start:]
    if rest or offset != until.offset or chain != until.chain:
        raise JournalDamaged(until.offset, f"the chain (h=) up to here is not {until.chain}")
    return Stretch(until.offset, hashed.hexdigest())


def check_stretches(
    source: Source, stretches: Sequence[Stretch], *, reach: Callable[[int], None]
) -> None:
    """JournalDamaged if the journal's first bytes are not those that were sealed.

    Much faster than reading the batches, and as sure; but where the damage is, reading them tells.
    `reach` is told the bytes read so far, now and then.
    """
    offset = 0
    for stretch in stretches:
        begin, hashed = offset, blake2b(digest_size=16)
        while block := source.read(offset, min(_READ_SIZE, stretch.end - offset)):
            hashed.update(block)
            offset += len(block)
            reach(offset)
        if offset != stretch.end or hashed.hexdigest() != stretch.digest:
            raise JournalDamaged(
                begin, f"up to byte {stretch.end} the hash is not the one of the snapshot"
            )


def check_mark(mark: Mark | None, name: str, *, lineage: str, end: Position | None = None) -> None:
    """JournalDamaged if the journal, sound up to `end`, is not (all of) the one that `mark` saw.

    Without `end`, only the lineage is looked at.
    """
    if mark is None:
        return
    if mark.lineage != lineage:
        raise JournalDamaged(0, f"the journal is of lineage {lineage}; {name} is of {mark.lineage}")
    if end is not None and (mark.seq > end.seq or mark.offset > end.offset):
        raise JournalDamaged(
            end.offset,
            f"the journal is sound up to record {end.seq} here; {name} saw it reach record"
            f" {mark.seq} at byte {mark.offset}",
        )


# The command line.

_DAMAGED = 75
_UNKNOWN = 78
_USAGE = 2


class FileSource:
    """A file opened for reading only, for the command lines of this module and of recovery."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def size(self) -> int:
        return self._file.seek(0, 2)

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)


def run_reader(path: Path, read: Callable[[Path, Source], None]) -> int:
    """Give `read` the file; the exit code, after one line on stderr for what is wrong with it."""
    try:
        with path.open("rb") as file:
            read(path, FileSource(file))
    except JournalDamaged as damage:
        return _complain(f"{path}: {damage}", _DAMAGED)
    except UnknownJournal as unknown:
        return _complain(f"{path}: {unknown}", _UNKNOWN)
    except BrokenPipeError:
        raise  # who reads what is printed has gone: no fault of the journal's
    except OSError as error:
        return _complain(f"{path}: {error.strerror}", _USAGE)
    return 0


def _complain(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


class Marks(NamedTuple):
    """How far a journal is durable, and how far it is in the database, by the files beside it."""

    durable: Mark | None
    settled: Mark | None


def read_marks(path: Path) -> Marks:
    """The marks beside a journal, to be read before it: so a venue at work is never behind them."""
    return Marks(read_mark(durable_path(path)), read_mark(settled_path(path)))


def judge_end(path: Path, history: History, marks: Marks) -> None:
    """After a whole journal was read: JournalDamaged if it does not reach the marks beside it.

    A torn tail is noted where the durable mark proves that it was never promised; without that
    proof it is damage.
    """
    header, end, torn = history.header, history.end, history.torn
    durable, settled = marks
    check_mark(durable, durable_path(path).name, lineage=header.lineage, end=end)
    check_mark(settled, settled_path(path).name, lineage=header.lineage, end=end)
    if torn is None:
        return
    if durable is None:
        raise JournalDamaged(
            torn.offset,
            f"{torn.reason}; batch {end.batch + 1} is torn, and {durable_path(path).name}, which"
            " could tell whether it was promised, is not there",
        )
    print(f"torn from byte {end.offset}: {torn.reason}; never promised, the next start cuts it off")


def read_mark(path: Path) -> Mark | None:
    """The mark in a file; None if there is no such file, or nothing in it yet."""
    try:
        return Mark.decode(path.read_bytes(), path.name)
    except FileNotFoundError:
        return None


def _verify(path: Path, source: Source) -> None:
    marks = read_marks(path)
    history = History(source, by_line=True)
    time = 0
    for batch in history:
        for index, record in enumerate(batch.records()):
            if not isinstance(record.body, Check):
                if record.time < time:
                    raise JournalDamaged(batch.line_offset(index), "time goes back here")
                time = record.time
    judge_end(path, history, marks)
    end = history.end
    print(f"sound: {end.seq} records in {end.batch} batches, {end.offset} bytes, h={end.chain}")


def _cat(path: Path, source: Source) -> None:
    history = History(source)
    for batch in history:
        for seq, line in enumerate(batch.lines, start=batch.first_seq):
            print(seq, line)
    if history.torn is not None:
        raise history.torn


def _stat(path: Path, source: Source) -> None:
    marks = read_marks(path)
    history = History(source)
    header = history.header
    kinds: Counter[str] = Counter()
    shares = value = 0
    times: list[int] = []
    for batch in history:
        records = batch.records()
        kinds.update(_kind(record.body) for record in records)
        for record in records:
            if isinstance(record.body, Trade):
                shares += record.body.quantity
                value += record.body.quantity * record.body.price
        batch_times = [record.time for record in records if record.time]
        times = times[:1] + batch_times[-1:] if times else batch_times
    end = history.end
    print(
        f"product   {header.ticker}: tick {format_price(header.tick)}, lot {header.lot},", end=" "
    )
    print(f"reference {format_price(header.reference)}, rules {header.rules}")
    print(f"lineage   {header.lineage}")
    print(f"records   {end.seq} in {end.batch} batches, {end.offset} bytes")
    for kind, count in sorted(kinds.items()):
        print(f"  {kind:<12} {count}")
    print(f"traded    {shares} for {format_price(value)}")
    if times:
        print(f"time      {format_time(times[0])} to {format_time(times[-1])}")
    print(f"chain     {end.chain}")
    judge_end(path, history, marks)


def _kind(body: Body) -> str:
    """The word by which `stat` counts a record: a command's verb, an event's name."""
    words = format_body(body).split(" ")
    return words[2] if isinstance(body, CommandRecord) else words[0]


_ACTIONS = {"verify": _verify, "cat": _cat, "stat": _stat}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code: 0 sound, 75 damaged, 78 of another format, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m matching.journal",
        description="Read a product's journal, without changing it.",
        epilog="examples:\n"
        "  python -m matching.journal verify var/journal/intc.log\n"
        "  python -m matching.journal cat var/journal/intc.log | tail",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "action",
        choices=_ACTIONS,
        help="verify: check form, CRCs and chain; cat: print every record behind its number;"
        " stat: summarise",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    return run_reader(options.file, _ACTIONS[options.action])


if __name__ == "__main__":
    sys.exit(run_command("journal", main))
