"""Recovery: from a product's journal to a running engine, or to the reason why not.

Opening a journal follows PROTOCOL §5:

1. No file, or one that a crash left without a whole header and that no mark knows: it is made.
2. The header names the product and its terms; what the operator asked for may not contradict it.
3. All batches are read and their commands given to a fresh engine. It must decide every event
   again, byte for byte: the engine is a function of its commands (R18), so a difference is damage.
4. The journal must reach the marks beside it: what was once promised must be there.
5. A torn tail is copied to `<ticker>.torn`, synced, and cut off.
6. What survived is synced before anybody is told of it: after a crash the page cache may hold more
   than the medium, and a power cut could take that back. What lies beyond the durable mark is
   written once more first, for the last process may have ended because its sync failed: the kernel
   takes such data for written, though the next sync will not write it and a reader sees it.

Until step 5 nothing is written, so a refused journal is as it was.
"""

import argparse
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec

from matching.engine import Engine
from matching.events import Event, Trade
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
    check_mark,
    durable_path,
    judge_end,
    read_header,
    read_mark,
    rejected_path,
    run_reader,
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
    command_lines,
    format_time,
    parse_command,
    parse_line,
    parse_time,
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


class SeenSignature(msgspec.Struct, frozen=True, gc=False):
    """A command that was sent by itself and is in the journal's last 10 s (PROTOCOL §2)."""

    prefix: str
    oid: int
    time: int
    seq: int
    command: Command


class PastTrade(msgspec.Struct, frozen=True, gc=False):
    """A trade that the journal holds, for those who watch the market from now on."""

    seq: int
    time: int
    trade: Trade


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
        "signatures",
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


def open_journal(
    disk: Disk,
    path: Path,
    *,
    ticker: str,
    dice: Dice,
    tick: int | None = None,
    lot: int | None = None,
    reference: int | None = None,
) -> Recovered:
    """Recover the engine of a journal, or make the journal: all but the first batch of this start.

    tick, lot and reference (ten-thousandths) are what the operator asked for, None where nothing:
    they make a new journal (default 0.01, 1, 100.00), and must not contradict an old one. The
    caller holds the ticker's lock; the journal's own is taken here, since a file may be named (-f)
    under another `var/` too, and is held until the file is closed.

    Locked: another server writes this file (exit 69). Contradiction or UnknownJournal: the
    configuration is wrong (78). JournalDamaged, OSError: the disk cannot be relied on (75).
    Refusing leaves everything as it was.
    """
    if path in (beside(path) for beside in (durable_path, settled_path, torn_path, rejected_path)):
        raise Contradiction(f"{path.name} is the name of what lies beside a journal, not of one")
    file = disk.open(path) if disk.exists(path) else None
    try:
        if file is not None:
            file.lock()
        durable = _read_mark(disk, durable_path(path))
        settled = _read_mark(disk, settled_path(path))
        if file is None or _is_half_made(file):
            _refuse_if_known(path, durable, settled)
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
        history = History(file)
        header = history.header
        _refuse_other_terms(header, ticker=ticker, tick=tick, lot=lot, reference=reference)
        check_mark(durable, durable_path(path).name, lineage=header.lineage)
        check_mark(settled, settled_path(path).name, lineage=header.lineage)
        replay = Replay(header)
        for batch in history:
            replay.take(batch)
        check_mark(durable, durable_path(path).name, lineage=header.lineage, end=history.end)
        check_mark(settled, settled_path(path).name, lineage=header.lineage, end=history.end)
        torn_bytes = _cut_torn_tail(disk, torn_path(path), file, history.end)
        _write_again(file, durable.offset if durable is not None else 0)
        file.sync()
        journal = Journal(header, history.end, time=replay.time)
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
    )


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
    """A fresh engine that is given a journal's commands, and what else its records tell.

    `time` is the last record's (microseconds), `starts` the number of the last epoch, `trades` are
    the last 50.
    """

    __slots__ = ("_header", "_signatures", "engine", "starts", "time", "trades")

    def __init__(self, header: Header) -> None:
        self.engine = Engine(
            header.ticker, tick=header.tick, lot=header.lot, reference=header.reference
        )
        self.time = 0
        self.starts = 0
        self.trades: deque[PastTrade] = deque(maxlen=TRADES_KEPT)
        self._header = header
        self._signatures: deque[SeenSignature] = deque()

    def take(self, batch: Batch) -> None:
        """Replay one batch. JournalDamaged if the engine decides otherwise than it says."""
        index = 0
        while index < len(batch.lines):
            try:
                index += self._take_record(batch, index)
            except ValueError as error:
                raise JournalDamaged(batch.line_offset(index), str(error)) from error

    def _take_record(self, batch: Batch, index: int) -> int:
        """Replay the record at `index`; how many lines it and its events are."""
        line = batch.lines[index]
        stamp, separator, text = line.partition(": ")
        if separator:
            self._go_on_to(parse_time(stamp))
        if not text.startswith("["):
            self._take_without_command(line)
            return 1
        record = parse_command(text, ticker=self._header.ticker)
        events = self.engine.apply(record.command, self.time)
        decided = [
            f"{stamp}: {each}"
            for each in command_lines(
                record.command, events, oid=record.oid, signature_prefix=record.signature_prefix
            )
        ]
        if batch.lines[index : index + len(decided)] != decided:
            raise _difference(batch, index, decided)
        if record.signature_prefix:
            self._remember(record, batch.first_seq + index)
        if len(decided) > 1:
            with_lines = events[len(events) + 1 - len(decided) :]
            self._note_trades(with_lines, first_seq=batch.first_seq + index + 1)
        return len(decided)

    def _note_trades(self, events: Sequence[Event], *, first_seq: int) -> None:
        for seq, event in enumerate(events, start=first_seq):
            if isinstance(event, Trade):
                self.trades.append(PastTrade(seq, self.time, event))

    def _go_on_to(self, time: int) -> None:
        if time < self.time:
            raise ValueError(
                f"time goes back, from {format_time(self.time)} to {format_time(time)}"
            )
        self.time = time

    def _take_without_command(self, line: str) -> None:
        _, body = parse_line(line, ticker=self._header.ticker)
        match body:
            case Epoch(number=number):
                if number != self.starts + 1:
                    raise ValueError(f"start {number} follows start {self.starts}")
                self.starts = number
            case Tick() | Check():
                pass
            case _:
                raise ValueError(f"the engine did not decide this: {line!r}")

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
        return [
            Cancel(
                ticker=self._header.ticker,
                owner=order.owner,
                oid=order.oid,
                reason=CancelReason.DISCONNECT,
            )
            for order in self.engine.open_orders()
            if order.cod
        ]


def _difference(batch: Batch, index: int, decided: list[str]) -> JournalDamaged:
    for place, line in enumerate(decided, start=index):
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
    durable = read_mark(durable_path(path))
    history = History(source)
    if history.header.rules != RULES:
        raise UnknownJournal(f"rules={history.header.rules}; this program plays by rules={RULES}")
    replay = Replay(history.header)
    for batch in history:
        replay.take(batch)
    replay.engine.check()
    judge_end(path, history, durable)
    engine = replay.engine
    print(
        f"replayed: {history.end.seq} records give the same events again;"
        f" {engine.next_oid - 1} orders, {engine.next_tid - 1} trades, {replay.starts} starts,"
        f" {len(engine.open_orders())} orders open, phase {engine.phase}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code: 0 as it should be, 75 damaged, 78 unknown, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m matching.recovery",
        description="Replay a journal and compare every event, without changing the file.",
        epilog="examples:\n"
        "  python -m matching.recovery var/journal/intc.log\n"
        "  for f in var/journal/*.log; do python -m matching.recovery $f || break; done",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    return run_reader(options.file, _replay_file)


if __name__ == "__main__":
    sys.exit(main())
