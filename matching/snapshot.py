"""Snapshots: files that keep the state which a journal's replay has come to, for a start to begin.

    #EMTE-SNAPSHOT 2 ticker=intc lineage=9c1f0a44d2b7e683 rules=1 seq=8 offset=712 batch=1
        chain=fc127fd6ac991d3df78fa79608e66819 state=3f0c9ad1e5b84726a90d1c3e5f7b8246
        body=0c5e… x=8563a221
    [[712,"5d0f…"]]
    {"time":1700000000050000,…

The header (one line) says of which journal it is, after which place, and the hash of the state's
lines (`matching.state`); `body` is the blake2b-128 of all that follows the header, `x` the crc32 of
the header before it. The second line has the hashes of all bytes of the journal before that place,
stretch by stretch: where each ends, and its blake2b-128. Each snapshot adds one to those of the
snapshot that its replay began with. The rest is the saved state (`matching.savedstate`).

A file that is not exactly so is no snapshot. Two are kept beside the journal, as
`<ticker>.snapshot-a` and `-b`: a new one is written aside (`.snapshot-new`), synced, and renamed
over the older.
"""

import errno
import re
from collections.abc import Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import msgspec

from matching.journal import RULES, Header, Position, Stretch
from matching.order import TICKER
from matching.ports import Disk, File, Source
from matching.savedstate import restore, save
from matching.state import State, state_digest

FORMAT = 2
"""The version of the file, the header's second word."""

ROOM_LEFT = 256 * 1024 * 1024
"""Bytes that a snapshot leaves free: with fewer, orders would be refused (PROTOCOL §5)."""

_HEADER_LIMIT = 512


class NotASnapshot(ValueError):
    """A file that is no whole snapshot, or not one of this journal: it is not used."""


class Snapshot(msgspec.Struct, frozen=True):
    """The state after one place in one journal, saved.

    `digest` is its hash (hex); `before` are the stretches of the journal up to that place.
    """

    ticker: str
    lineage: str
    rules: int
    position: Position
    digest: str
    before: Sequence[Stretch]
    saved: bytes

    @classmethod
    def of(
        cls, state: State, header: Header, position: Position, before: Sequence[Stretch]
    ) -> "Snapshot":
        """Take what a replay has come to at the end of a batch."""
        digest, saved = state_digest(state), save(state)
        return cls(header.ticker, header.lineage, header.rules, position, digest, before, saved)

    def encode(self) -> bytes:
        """The whole file."""
        body = b"%b\n%b" % (msgspec.json.encode(self.before), self.saved)
        place = self.position
        text = (
            f"#EMTE-SNAPSHOT {FORMAT} ticker={self.ticker} lineage={self.lineage}"
            f" rules={self.rules} seq={place.seq} offset={place.offset} batch={place.batch}"
            f" chain={place.chain} state={self.digest} body={_hash(body)}"
        ).encode("ascii")
        return b"%b x=%08x\n%b" % (text, crc32(text), body)

    @classmethod
    def decode(cls, data: bytes) -> "Snapshot":
        """The snapshot in a file's bytes. NotASnapshot if anything is missing, changed or more."""
        line, _, body = data.partition(b"\n")
        header = _FileHeader.decode(line)
        if _hash(body) != header.body:
            raise NotASnapshot("it is not what was written: its hash differs")
        stretches, _, saved = body.partition(b"\n")
        try:
            before = _BEFORE.decode(stretches)
        except (ValueError, RecursionError) as error:
            raise NotASnapshot(f"it says nothing of the journal before it: {error}") from error
        ends = [0, *(stretch.end for stretch in before)]
        if ends != sorted(set(ends)) or ends[-1] != header.position.offset:
            raise NotASnapshot("its stretches of the journal do not end where it was taken")
        return cls(
            ticker=header.ticker,
            lineage=header.lineage,
            rules=header.rules,
            position=header.position,
            digest=header.digest,
            before=before,
            saved=saved,
        )

    def restore(self, header: Header) -> State:
        """The state, of a journal with that header. NotASnapshot if what was saved is none."""
        try:
            return restore(self.saved, header)
        except (ValueError, KeyError, RecursionError) as error:
            raise NotASnapshot(f"it holds no state: {error!r}") from error


_BEFORE = msgspec.json.Decoder(list[Stretch])


def _hash(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()


class _FileHeader(msgspec.Struct, frozen=True):
    ticker: str
    lineage: str
    rules: int
    position: Position
    digest: str
    body: str

    @classmethod
    def decode(cls, line: bytes) -> "_FileHeader":
        match = _FILE_HEADER.fullmatch(line.decode("ascii", "replace"))
        if match is None:
            raise NotASnapshot("it does not begin with a snapshot's header")
        text, ticker, lineage, rules, seq, offset, batch, chain, digest, body, crc = match.groups()
        if crc != f"{crc32(text.encode('ascii')):08x}":
            raise NotASnapshot("its header is not what was written: the CRC differs")
        place = Position(int(seq), int(offset), int(batch), chain)
        return cls(ticker, lineage, int(rules), place, digest, body)


_FILE_HEADER = re.compile(
    f"(#EMTE-SNAPSHOT {FORMAT} ticker=({TICKER.pattern}) lineage=([0-9a-f]{{16}})"
    " rules=([0-9]{1,9}) seq=([0-9]{1,18}) offset=([0-9]{1,18}) batch=([0-9]{1,18})"
    " chain=([0-9a-f]{32}) state=([0-9a-f]{32}) body=([0-9a-f]{32})) x=([0-9a-f]{8})",
    re.ASCII,
)


# The files.


def snapshot_paths(journal: Path) -> tuple[Path, Path]:
    """Where the two snapshots of a journal are kept; either may be the newer."""
    return journal.with_suffix(".snapshot-a"), journal.with_suffix(".snapshot-b")


def aside_path(journal: Path) -> Path:
    """Where a snapshot is written; what a crash leaves there is written over."""
    return journal.with_suffix(".snapshot-new")


def kept_snapshots(disk: Disk, journal: Path, header: Header) -> list[tuple[Path, int]]:
    """The files that seem to be snapshots of this journal and these rules, with their seq.

    The newest first. Only their headers are looked at: `read_snapshot` says whether they are whole.
    """
    found: list[tuple[int, Path]] = []
    for path in snapshot_paths(journal):
        if not disk.exists(path):
            continue
        try:
            with closing(disk.open(path)) as file:
                its = _FileHeader.decode(file.read(0, _HEADER_LIMIT).partition(b"\n")[0])
        except (NotASnapshot, OSError):
            continue
        if (its.ticker, its.lineage, its.rules) == (header.ticker, header.lineage, RULES):
            found.append((its.position.seq, path))
    return [(path, seq) for seq, path in sorted(found, reverse=True)]


def read_snapshot(disk: Disk, path: Path) -> Snapshot:
    """The snapshot in a file. NotASnapshot if it is not whole; OSError."""
    with closing(disk.open(path)) as file:
        return Snapshot.decode(file.read(0, file.size()))


def write_snapshot(disk: Disk, journal: Path, header: Header, snapshot: Snapshot) -> None:
    """Keep a snapshot, in place of the older of the two or of one that no start could use. OSError.

    A crash at any moment leaves the newer one as it is. One that is of later records than this is
    of a journal that has been restored since.
    """
    data = snapshot.encode()
    aside = aside_path(journal)
    with closing(disk.open(aside) if disk.exists(aside) else disk.create(aside)) as file:
        file.truncate(0)
        if file.free() < ROOM_LEFT + len(data):
            raise OSError(errno.ENOSPC, f"{len(data)} bytes more would leave too few free")
        _fill(file, data)
    kept = [
        path
        for path, seq in kept_snapshots(disk, journal, header)
        if seq < snapshot.position.seq and _is_whole(disk, path)
    ]
    unused = [path for path in snapshot_paths(journal) if path not in kept]
    disk.rename(aside, unused[0] if unused else kept[-1])


def _is_whole(disk: Disk, path: Path) -> bool:
    try:
        read_snapshot(disk, path)
    except (NotASnapshot, OSError):
        return False
    return True


def _fill(file: File, data: bytes) -> None:
    try:
        file.append(data)
        file.sync()
    except OSError:
        file.truncate(0)  # it will never be read, and takes room
        raise


def follows(source: Source, position: Position) -> bool:
    """Whether the journal has that commit just before that byte: the snapshot was taken of it."""
    commit_end = f" s={position.seq} b={position.batch} h={position.chain} x=".encode("ascii")
    size = len(commit_end) + len("01234567\n")
    end = source.read(max(0, position.offset - size), size)
    return end.startswith(commit_end) and end.endswith(b"\n")
