"""Recovery: from a product's journal to a running engine, or to the reason why not.

Opening a journal follows PROTOCOL §5:

1. No file, or one that a crash left without a whole header and that no mark knows: it is made.
2. The header names the product and its terms; what the operator asked for may not contradict it.
3. Its batches are read and their commands given to an engine: that of the newest snapshot of this
   journal which is whole, else of the older, else a fresh one. It must decide every event again,
   byte for byte: the engine is a function of its commands (R18), so a difference is damage. Where a
   `check` record tells the state's hash at some record, the state there must have it. Of what lies
   before a snapshot only the hashes are computed again. If the journal does not fit a snapshot, the
   replay begins earlier: only one from the start refuses.
4. The journal must reach the marks beside it: what was once promised must be there.
5. A torn tail is copied to `<ticker>.torn`, synced, and cut off.
6. What survived is synced before anybody is told of it: after a crash the page cache may hold more
   than the medium, and a power cut could take that back. What lies beyond the durable mark is
   written once more first, for the last process may have ended because its sync failed: the kernel
   takes such data for written, though the next sync will not write it and a reader sees it.

Until step 5 nothing is written, so a refused journal is as it was.

`take_snapshot` does step 3 as far as the durable mark, for the next start to begin there.
"""

import argparse
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from operator import attrgetter
from pathlib import Path

from matching.engine import Broken, Engine
from matching.events import Event, Trade
from matching.exits import run_command
from matching.journal import (
    HEADER_LIMIT,
    RULES,
    Batch,
    Header,
    History,
    Journal,
    JournalDamaged,
    Mark,
    Position,
    UnknownJournal,
    beginning,
    check_mark,
    check_stretches,
    durable_path,
    judge_end,
    read_batches,
    read_header,
    read_marks,
    rejected_path,
    run_reader,
    seal_stretch,
    settled_path,
    torn_path,
)
from matching.order import Cancel, CancelReason, Command, format_price
from matching.ports import Dice, Disk, File, Source
from matching.records import (
    Check,
    CommandRecord,
    Epoch,
    Tick,
    cancel_of_words,
    event_lines,
    format_time,
    known_time,
    order_of_words,
    parse_command,
    parse_line,
    usual_words,
)
from matching.snapshot import (
    NotASnapshot,
    Snapshot,
    aside_path,
    follows,
    kept_snapshots,
    read_snapshot,
    snapshot_paths,
    write_snapshot,
)
from matching.state import (
    PastTrade,
    SeenSignature,
    State,
    record_lines,
    state_digest,
    state_lines,
)

DEFAULT_TICK = 100
DEFAULT_LOT = 1
DEFAULT_REFERENCE = 1_000_000

SIGNATURES_KEPT = 10_000_000
"""Microseconds: a signed command is good from 5 s before its `ts` to 5 s after."""

TRADES_KEPT = 50
"""The trades that watchers are shown of the past (PROTOCOL §4)."""

_COPY_SIZE = 1024 * 1024


class Contradiction(Exception):
    """The journal is sound, but not of the product or the terms that the operator asked for."""


class Recovered:
    """What a matching server goes on with.

    `journal` writes on after the last whole batch, into `file`; `mark_file` is `<ticker>.durable`,
    whose mark is true already: overwrite it with `journal.mark.encode()` after each sync.

    The first batch to write, before anything is served: the record of this start,
    `journal.epoch(recovered.epoch, at=…)`; where `is_new`, the phase that the operator asked for;
    then each of `disconnects`, the orders whose sessions ended with the last process.
    """

    __slots__ = (
        "disconnects",
        "engine",
        "epoch",
        "file",
        "is_new",
        "journal",
        "mark_file",
        "passed_over",
        "signatures",
        "snapshot_seq",
        "torn_bytes",
        "trades",
    )

    def __init__(
        self,
        *,
        engine: Engine,
        journal: Journal,
        file: File,
        mark_file: File,
        epoch: int,
        torn_bytes: int,
        signatures: list[SeenSignature],
        trades: list[PastTrade],
        disconnects: list[Cancel],
        snapshot_seq: int,
        passed_over: list[str],
    ) -> None:
        self.engine = engine
        self.journal = journal
        self.file = file
        self.mark_file = mark_file
        self.epoch = epoch
        """The number of the start that now begins."""
        self.is_new = journal.batch == 0
        """No batch was ever committed: this is the product's first start."""
        self.torn_bytes = torn_bytes
        self.signatures = signatures
        """Oldest first."""
        self.trades = trades
        """The last 50, oldest first."""
        self.disconnects = disconnects
        """Cancels of the open orders marked `cod=1`, in oid order."""
        self.snapshot_seq = snapshot_seq
        """The record after which the snapshot was taken that the replay began with; 0: none."""
        self.passed_over = passed_over
        """Why snapshots of this journal were not used, a sentence each."""


def open_journal(
    disk: Disk,
    path: Path,
    *,
    ticker: str,
    dice: Dice,
    tick: int | None = None,
    lot: int | None = None,
    reference: int | None = None,
    reach: Callable[[int], None] = lambda offset: None,
) -> Recovered:
    """Recover the engine of a journal, or make the journal: all but the first batch of this start.

    tick, lot and reference (ten-thousandths) are what the operator asked for, None where nothing:
    they make a new journal (default 0.01, 1, 100.00), and must not contradict an old one. The
    caller holds the ticker's lock; the journal's own is taken here, since a file may be named (-f)
    under another `var/` too, and is held until the file is closed. `reach` is told the byte up to
    which the journal has been read, batch by batch, and once more before anything is written; what
    it raises ends the opening.

    Locked: another server writes this file (exit 69). Contradiction or UnknownJournal: the
    configuration is wrong (78). JournalDamaged, OSError: the disk cannot be relied on (75).
    Refusing leaves everything as it was.
    """
    if path in (beside(path) for beside in (durable_path, settled_path, torn_path, rejected_path)):
        raise Contradiction(f"{path.name} is the name of what lies beside a journal, not of one")
    if path in (*snapshot_paths(path), aside_path(path)):
        raise Contradiction(f"{path.name} is the name of a snapshot, not of a journal")
    file = disk.open(path) if disk.exists(path) else None
    try:
        if file is not None:
            file.lock()
        durable = _read_mark(disk, durable_path(path))
        settled = _read_mark(disk, settled_path(path))
        if file is None or _is_half_made(file):
            _refuse_if_known(path, durable, settled)
            reach(0)
            if file is None:
                file = disk.create(path)
                file.lock()
            header = Header(
                ticker=ticker,
                lineage=dice.token(8).hex(),
                tick=DEFAULT_TICK if tick is None else tick,
                lot=DEFAULT_LOT if lot is None else lot,
                reference=DEFAULT_REFERENCE if reference is None else reference,
                salt=int.from_bytes(dice.token(4), "big"),
            )
            # The sync at the end, before any mark is written, makes the header safe too.
            file.truncate(0)
            file.append(header.encode())
        header = read_header(file)
        _refuse_other_terms(header, ticker=ticker, tick=tick, lot=lot, reference=reference)
        check_mark(durable, durable_path(path).name, lineage=header.lineage)
        check_mark(settled, settled_path(path).name, lineage=header.lineage)
        passed_over: list[str] = []
        replay, end = _replay_from_newest(
            disk,
            path,
            file,
            header,
            passed_over=passed_over,
            replay_from=partial(_replay_history, file, header, reach),
        )
        check_mark(durable, durable_path(path).name, lineage=header.lineage, end=end)
        check_mark(settled, settled_path(path).name, lineage=header.lineage, end=end)
        reach(end.offset)
        torn_bytes = _cut_torn_tail(disk, torn_path(path), file, end)
        _write_again(file, durable.offset if durable is not None else 0)
        file.sync()
        journal = Journal(header, end, time=replay.time)
        mark_file = _open_mark(disk, durable_path(path), journal.mark)
    except BaseException:
        if file is not None:
            file.close()
        raise
    return Recovered(
        engine=replay.engine,
        journal=journal,
        file=file,
        mark_file=mark_file,
        epoch=replay.starts + 1,
        torn_bytes=torn_bytes,
        signatures=replay.recent_signatures(),
        trades=list(replay.trades),
        disconnects=replay.disconnects(),
        snapshot_seq=replay.snapshot.position.seq if replay.snapshot is not None else 0,
        passed_over=passed_over,
    )


def _replay_history(
    file: File, header: Header, reach: Callable[[int], None], replay: "Replay", start: Position
) -> Position:
    """Replay all that is sound from a position on; what a snapshot left out must be sound too."""
    if replay.snapshot is not None:
        check_stretches(file, replay.snapshot.before, reach=reach)
    for batch in (history := History(file, start)):
        replay.take(batch)
        reach(batch.end_offset)
    return history.end


def _replay_from_newest(
    disk: Disk,
    path: Path,
    file: File,
    header: Header,
    *,
    passed_over: list[str],
    replay_from: Callable[["Replay", Position], Position],
) -> tuple["Replay", Position]:
    """Begin with the newest snapshot that fits, and replay on; where `replay_from` ended.

    What is wrong with those that do not fit is added to `passed_over`.
    """
    for kept, _ in kept_snapshots(disk, path, header):
        try:
            snapshot = read_snapshot(disk, kept)
            if not follows(file, snapshot.position):
                raise NotASnapshot(f"the journal has no record {snapshot.position.seq} as it says")
            replay = Replay(header, snapshot, checked=find_checked(file, snapshot.position))
            return replay, replay_from(replay, snapshot.position)
        except (NotASnapshot, JournalDamaged, OSError) as error:
            passed_over.append(f"{kept.name}: {error}")
    start = beginning(header)
    replay = Replay(header, checked=find_checked(file, start))
    return replay, replay_from(replay, start)


def take_snapshot(
    disk: Disk,
    path: Path,
    *,
    is_enough: Callable[[], bool] | None = None,
    free: Callable[[], object] = lambda: None,
) -> tuple[Check, int]:
    """Keep a snapshot of what is durable of a journal; its `check`, and its size in bytes.

    The replay begins with the last snapshot and ends at the durable mark, or with the first batch
    after which `is_enough`. Nothing but the snapshots is written, so a server may be at work.
    `free` is called once what was replayed is needed no more, before it is restored.

    JournalDamaged, UnknownJournal, OSError: none was taken. Broken, a bug of ours: nor was one
    whose file does not say what was replayed.
    """
    durable = _read_mark(disk, durable_path(path))
    if durable is None:
        raise JournalDamaged(0, f"{durable_path(path).name} says nothing of what is durable")

    def replay_from(replay: Replay, position: Position) -> Position:
        for batch in read_batches(file, header, position, until=durable.offset):
            replay.take(batch)
            position = batch.position
            if is_enough is not None and is_enough():
                break
        return position

    with closing(disk.open(path)) as file:
        header = read_header(file)
        if header.rules != RULES:
            raise UnknownJournal(f"rules={header.rules}; this program plays by rules={RULES}")
        check_mark(durable, durable_path(path).name, lineage=header.lineage)
        replay, end = _replay_from_newest(
            disk, path, file, header, passed_over=[], replay_from=replay_from
        )
        snapshot = last = replay.snapshot
        if snapshot is None or snapshot.position != end:
            after = last.position if last is not None else beginning(header)
            stretch = seal_stretch(file, header, after, end)
            before = [*(last.before if last is not None else ()), stretch]
            snapshot = Snapshot.of(replay.state(), header, end, before)
            expected = snapshot.digest, record_lines(replay.state()), replay.disconnects()
            del replay
            free()
            _prove(snapshot, header, expected)
            write_snapshot(disk, path, header, snapshot)
    return Check(end.seq, snapshot.digest), len(snapshot.encode())


def _prove(
    snapshot: Snapshot, header: Header, expected: tuple[str, list[str], list[Cancel]]
) -> None:
    """Broken if a start from the snapshot would not come to what was replayed."""
    seq = snapshot.position.seq
    try:
        restored = Replay(header, snapshot)
    except NotASnapshot as error:
        raise Broken(f"the snapshot of record {seq} cannot be restored: {error}") from error
    state = restored.state()
    found = state_digest(state), record_lines(state), restored.disconnects()
    if found != expected:
        raise Broken(f"the snapshot of record {seq} restores to another state")


def find_checked(source: Source, after: Position) -> frozenset[int]:
    """The records at which a `check` after that position tells the state's hash.

    Whoever replays has to know before it comes there: a check is written some time later.
    """
    found: set[int] = set()
    offset, rest = after.offset, b"\n"
    while block := source.read(offset, _COPY_SIZE):
        offset += len(block)
        lines = rest + block
        line = 0
        while line := lines.find(b"\ncheck ", line) + 1:
            match = _CHECK_LINE.match(lines, line)
            if match is not None:
                found.add(int(match[1]))
        rest = lines[-_CHECK_LINE_LIMIT:]
    return frozenset(found)


_CHECK_LINE = re.compile(rb"check ([0-9]{1,18}) [0-9a-f]{32} s=")
_CHECK_LINE_LIMIT = 64
"""No match of `_CHECK_LINE` is longer (bytes), with the newline before it."""


def _read_mark(disk: Disk, path: Path) -> Mark | None:
    if not disk.exists(path):
        return None
    file = disk.open(path)
    try:
        return Mark.decode(file.read(0, file.size()), path.name)
    finally:
        file.close()


def _is_half_made(file: File) -> bool:
    """Whether a crash left the file before its header was synced, so that nothing can be in it.

    It has at most a header's bytes, and no trace of a second line.
    """
    if file.size() > HEADER_LIMIT:
        return False
    try:
        read_header(file)
    except JournalDamaged:
        return file.read(0, HEADER_LIMIT).count(b" x=") <= 1
    return False


def _refuse_if_known(path: Path, durable: Mark | None, settled: Mark | None) -> None:
    for mark, mark_path in ((durable, durable_path(path)), (settled, settled_path(path))):
        if mark is not None:
            raise JournalDamaged(
                0,
                f"there is no journal, but {mark_path.name} saw one reach record {mark.seq}:"
                " bring it back, or move its marks away with it",
            )


def _refuse_other_terms(
    header: Header, *, ticker: str, tick: int | None, lot: int | None, reference: int | None
) -> None:
    if header.rules != RULES:
        raise UnknownJournal(f"rules={header.rules}; this program plays by rules={RULES}")
    if header.ticker != ticker:
        raise Contradiction(f"the journal is of {header.ticker}, not of {ticker}")
    for name, asked, has in (
        ("tick", tick, header.tick),
        ("price", reference, header.reference),
    ):
        if asked is not None and asked != has:
            raise Contradiction(
                f"the journal has {name} {format_price(has)}, not {format_price(asked)}"
            )
    if lot is not None and lot != header.lot:
        raise Contradiction(f"the journal has lot {header.lot}, not {lot}")


def _cut_torn_tail(disk: Disk, torn: Path, file: File, end: Position) -> int:
    """Keep a copy of what follows `end`, and only when that is safe cut it off; its size."""
    size = file.size() - end.offset
    if size == 0:
        return 0
    copy = disk.open(torn) if disk.exists(torn) else disk.create(torn)
    try:
        for offset in range(end.offset, end.offset + size, _COPY_SIZE):
            copy.append(file.read(offset, _COPY_SIZE))
        copy.sync()
    finally:
        copy.close()
    file.truncate(end.offset)
    return size


def _write_again(file: File, start: int) -> None:
    """Overwrite the file's bytes from `start` on with themselves, so that a sync writes them."""
    for offset in range(start, file.size(), _COPY_SIZE):
        file.write_at(offset, file.read(offset, _COPY_SIZE))


def _open_mark(disk: Disk, path: Path, mark: Mark) -> File:
    """The mark's file, open, with a mark in it that is safe."""
    file = disk.open(path) if disk.exists(path) else disk.create(path)
    file.write_at(0, mark.encode())
    file.sync()
    return file


class Replay:
    """An engine that is given a journal's commands, and what else its records tell.

    It begins with a `snapshot`, or fresh (None). `time` is the last record's (microseconds),
    `starts` the number of the last epoch, `trades` are the last 50.

    `checked` are records at which a `check` further on tells the state's hash: the state is hashed
    there, and nowhere else, since that takes as long as replaying some ten thousand commands.
    """

    __slots__ = (
        "_checked",
        "_digests",
        "_header",
        "_session_owners",
        "_signatures",
        "_stamp",
        "engine",
        "snapshot",
        "starts",
        "time",
        "trades",
    )

    def __init__(
        self,
        header: Header,
        snapshot: Snapshot | None = None,
        *,
        checked: frozenset[int] = frozenset(),
    ) -> None:
        """NotASnapshot if the snapshot's lines say no state."""
        self.snapshot = snapshot
        self.trades: deque[PastTrade] = deque(maxlen=TRADES_KEPT)
        self._signatures: deque[SeenSignature] = deque()
        self._header = header
        self._checked = checked
        self._digests: dict[int, str] = {}
        self._session_owners: set[int] = set()
        self._stamp = ""  # the time as the last line that has one wrote it
        if snapshot is None:
            self.engine = Engine(
                header.ticker, tick=header.tick, lot=header.lot, reference=header.reference
            )
            self.time = 0
            self.starts = 0
            return
        state = snapshot.restore(header)
        self.engine, self.time, self.starts = state.engine, state.time, state.starts
        self.trades.extend(state.trades)
        self._signatures.extend(state.signatures)
        self._session_owners.update(state.session_owners)
        self._digests[snapshot.position.seq] = snapshot.digest

    def state(self) -> State:
        """What the replay has come to, after the last batch that it took."""
        return State(
            engine=self.engine,
            time=self.time,
            starts=self.starts,
            trades=list(self.trades),
            signatures=self.recent_signatures(),
            session_owners=frozenset(self._session_owners),
        )

    def take(self, batch: Batch) -> None:
        """Replay one batch. JournalDamaged if the engine decides otherwise than it says."""
        lines, engine, ticker = batch.lines, self.engine, self._header.ticker
        index, tid = 0, engine.next_tid
        words = usual_words(lines)
        command: Command
        try:
            for stamp, number, acting, quantity, prices, options, owner, caused in words:
                if stamp != self._stamp and stamp:
                    self._go_on_to(stamp)
                if quantity:
                    oid, command, signature = order_of_words(
                        number, acting, quantity, prices, options, ticker
                    )
                    if options and command.cod:
                        self._session_owners.add(command.owner)
                elif owner:
                    oid, command, signature = cancel_of_words(number, owner, ticker)
                elif stamp and lines[index].startswith("[", len(stamp) + 2):
                    record = parse_command(lines[index][len(stamp) + 2 :], ticker=ticker)
                    oid, command, signature = record.oid, record.command, record.signature_prefix
                else:
                    self._take_without_command(lines[index])
                    index += 1
                    continue
                events = engine.apply(command, self.time)
                count, decided = event_lines(command, events, oid, stamp)
                if signature:
                    self._remember(CommandRecord(oid, command, signature), batch.first_seq + index)
                index += 1
                if caused != decided:
                    if caused.startswith(f"{decided}\n"):
                        index += count
                        self._take_without_command(lines[index])  # raises: nobody decided it
                    raise _difference(batch, index, decided)
                if count:
                    if engine.next_tid != tid:
                        tid = engine.next_tid
                        self._note_trades(events[-count:], first_seq=batch.first_seq + index)
                    index += count
        except ValueError as error:
            raise JournalDamaged(batch.line_offset(index), str(error)) from error
        if batch.last_seq in self._checked:
            self._digests[batch.last_seq] = state_digest(self.state())

    def _note_trades(self, events: Sequence[Event], *, first_seq: int) -> None:
        for seq, event in enumerate(events, start=first_seq):
            if isinstance(event, Trade):
                self.trades.append(PastTrade(seq, self.time, event))

    def _go_on_to(self, stamp: str) -> None:
        time = known_time(stamp)
        if time < self.time:
            raise ValueError(f"time goes back, from {format_time(self.time)} to {stamp}")
        self.time, self._stamp = time, stamp

    def _take_without_command(self, line: str) -> None:
        _, body = parse_line(line, ticker=self._header.ticker)
        match body:
            case Epoch(number=number):
                if number != self.starts + 1:
                    raise ValueError(f"start {number} follows start {self.starts}")
                self.starts = number
            case Tick():
                pass
            case Check(seq=seq, digest=digest):
                self._compare(seq, digest)
            case _:
                raise ValueError(f"the engine did not decide this: {line!r}")

    def _compare(self, seq: int, digest: str) -> None:
        """A check must tell the hash of the state that the replay had at that record."""
        found = self._digests.get(seq)
        if found is None:
            if self.snapshot is not None and seq < self.snapshot.position.seq:
                return
            raise ValueError(f"the check is of record {seq}, with which no batch before it ends")
        if found != digest:
            raise ValueError(
                f"the state after record {seq} has the hash {found}; the check says {digest}"
            )

    def _remember(self, record: CommandRecord, seq: int) -> None:
        seen = SeenSignature(
            prefix=record.signature_prefix,
            oid=record.oid,
            time=self.time,
            seq=seq,
            command=record.command,
        )
        self._signatures.append(seen)
        self._forget_old_signatures()

    def _forget_old_signatures(self) -> None:
        while self._signatures and self._signatures[0].time < self.time - SIGNATURES_KEPT:
            self._signatures.popleft()

    def recent_signatures(self) -> list[SeenSignature]:
        """Those of the last 10 s before the last record, oldest first."""
        self._forget_old_signatures()
        return list(self._signatures)

    def disconnects(self) -> list[Cancel]:
        """Cancels of the open orders that were to live no longer than their session (`cod=1`)."""
        orders = [
            order
            for owner in self._session_owners
            for order in self.engine.open_orders(owner)
            if order.cod
        ]
        return [
            Cancel(
                ticker=self._header.ticker,
                owner=order.owner,
                oid=order.oid,
                reason=CancelReason.DISCONNECT,
            )
            for order in sorted(orders, key=attrgetter("oid"))
        ]


def _difference(batch: Batch, index: int, decided: str) -> JournalDamaged:
    for place, line in enumerate(decided.split("\n")[1:], start=index):
        if place == len(batch.lines):
            return JournalDamaged(
                batch.line_offset(place), f"the engine decided {line!r}; the batch ends here"
            )
        if batch.lines[place] != line:
            return JournalDamaged(
                batch.line_offset(place),
                f"the engine decided {line!r}; the journal says {batch.lines[place]!r}",
            )
    raise AssertionError("the lines do not differ")


def _replay_file(path: Path, source: Source) -> None:
    marks = read_marks(path)
    history = History(source)
    header = history.header
    if header.rules != RULES:
        raise UnknownJournal(f"rules={header.rules}; this program plays by rules={RULES}")
    snapshots = _snapshots_to_compare(path, header)
    agreed: list[int] = []
    replay = Replay(header, checked=find_checked(source, history.end))
    for batch in history:
        replay.take(batch)
        for name, snapshot in snapshots:
            if snapshot.position == batch.position:
                _refuse_other_state(name, snapshot, source, header, replay.state())
                agreed.append(batch.last_seq)
    for name, snapshot in snapshots:
        seq = snapshot.position.seq
        if seq not in agreed:
            print(f"not used: {name}: the journal has no record {seq} as it says")
    replay.engine.check()
    judge_end(path, history, marks)
    engine = replay.engine
    names = " and ".join(f"the snapshot of record {seq}" for seq in sorted(agreed))
    print(
        f"replayed: {history.end.seq} records give the same events again;"
        f" {engine.next_oid - 1} orders, {engine.next_tid - 1} trades, {replay.starts} starts,"
        f" {len(engine.open_orders())} orders open, phase {engine.phase}"
        + (f"; in agreement with {names}" if names else "")
    )


def _snapshots_to_compare(path: Path, header: Header) -> list[tuple[str, Snapshot]]:
    """The snapshots beside a journal; what a start would not use is noted instead."""
    snapshots: list[tuple[str, Snapshot]] = []
    for kept in snapshot_paths(path):
        try:
            snapshot = Snapshot.decode(kept.read_bytes())
        except FileNotFoundError:
            continue
        except (NotASnapshot, OSError) as error:
            print(f"not used: {kept.name}: {error}")
            continue
        if (snapshot.lineage, snapshot.rules) == (header.lineage, header.rules):
            snapshots.append((kept.name, snapshot))
        else:
            print(f"not used: {kept.name}: it is of another journal")
    return snapshots


def _refuse_other_state(
    name: str, snapshot: Snapshot, source: Source, header: Header, replayed: State
) -> None:
    """JournalDamaged if a snapshot is not of what was replayed."""
    try:
        check_stretches(source, snapshot.before, reach=lambda offset: None)
        ours, its = _all_lines(replayed), _all_lines(snapshot.restore(header))
    except (JournalDamaged, NotASnapshot) as error:
        raise JournalDamaged(snapshot.position.offset, f"{name} is not of this: {error}") from error
    if ours != its:
        differing = sorted({*ours} ^ {*its})
        where = "the snapshot" if differing[0] in its else "the replay"
        raise JournalDamaged(
            snapshot.position.offset,
            f"{name} has another state than the replay: {len(differing)} lines differ, the first"
            f" is in {where} only: {differing[0]}",
        )
    digest = state_digest(replayed)
    if snapshot.digest != digest:
        raise JournalDamaged(
            snapshot.position.offset,
            f"{name} says that its state has the hash {snapshot.digest}; it has {digest}",
        )


def _all_lines(state: State) -> list[str]:
    return [*state_lines(state), *record_lines(state)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code: 0 as it should be, 75 damaged, 78 unknown, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m matching.recovery",
        description="Replay a journal from its start, and compare every event, every check and the"
        " snapshots beside it; nothing is changed.",
        epilog="examples:\n"
        "  python -m matching.recovery var/journal/intc.log\n"
        "  for f in var/journal/*.log; do python -m matching.recovery $f || break; done",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if not __debug__:
        parser.error("python -O leaves out the engine's own checks: run it without")
    return run_reader(options.file, _replay_file)


if __name__ == "__main__":
    sys.exit(run_command("recovery", main))
