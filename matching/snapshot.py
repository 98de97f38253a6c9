"""Snapshots: the state that a journal's replay has come to, as lines, as their hash, and as a file.

The state is all that the next command's outcome or the server's first answers depend on. Each line
says one thing of it; they are sorted as ASCII text, and the state's hash, `check`'s in PROTOCOL §5,
is the blake2b-128 of all of them, each with a newline. Prices and times are the journal's; `-` is
none; TERMS is an order as the journal's line of it says it, `[oid] owner side quantity@price/stop`
with its options, and has what amends, decrements (R5) and an election (R7) have made of it.

    ask 000000001 TERMS filled=2 hidden=0    resting, in book order: best price first, then time
    bid 000000001 TERMS filled=0 hidden=40   hidden: what of an iceberg is not shown now (R9)
    breaker 100.00                           what the breaker measures from (R12)
    id TERMS                                 a remembered client id (R14): the order as entered
    id TERMS now=80@99.95/- filled=80        … which has ended, and as what; ` canceled` if it was
    key 7 2                                  owner and generation, where one was raised
    last 99.95                               R15
    limit * max_quantity 1000000             R16's of the product; limit 7 …: an owner's own;
                                             max_notional in ten-thousandths
    next oid 5 tid 2                         the numbers of the next order and the next trade
    phase continuous
    position 4 -8                            an owner's net shares, if any
    rate 7 1700000000.050000 2               then so many orders and amends of an owner were
                                             accepted, within the last second before `time` (R16)
    seen 5 TIME: [4] 4 buy … g=5d2e8a60b1c7… record 5: the last 10 s' commands sent by themselves
    setting collar 50000                     R3, R12, R17, in ten-thousandths
    starts 3                                 the number of the last epoch
    stop-buy 000000001 TERMS filled=0 hidden=0   waiting, in order of election (R7)
    stop-sell 000000001 TERMS filled=0 hidden=0  likewise
    time 1700000000.050000                   the last record's
    trade 6 TIME: match 4@99.90 …            record 6: the last 50 trades

A file is a header with the place in the journal after which this is the state, then the lines:

    #EMTE-SNAPSHOT 1 ticker=intc lineage=9c1f0a44d2b7e683 rules=1 seq=8 offset=712 batch=1
        chain=fc127fd6ac991d3df78fa79608e66819 size=1044 state=3f0c9ad1e5b84726… x=8563a221

(one line; `size` is that of the lines in bytes, `state` their hash, `x` the crc32 of the header
before it). A file that is not exactly so is no snapshot. Two are kept beside the journal, as
`<ticker>.snapshot-a` and `-b`: a new one is written aside (`.snapshot-new`), synced, and renamed
over the older.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import msgspec

from matching import clientids
from matching.account import Account, Order
from matching.book import BookSide
from matching.clientids import ClientIds
from matching.engine import RATE_WINDOW, Engine
from matching.events import Trade
from matching.journal import RULES, Header, Position
from matching.order import HOUSE, Command, NewOrder, Phase, Side, format_price, parse_price
from matching.ports import Disk, File, Source
from matching.records import (
    CommandRecord,
    format_body,
    format_time,
    parse_command,
    parse_line,
    parse_time,
)
from matching.stops import WaitingStops

FORMAT = 1
"""The version of the lines and of the file, the header's second word."""

_HEADER_LIMIT = 512


class NotASnapshot(ValueError):
    """A file that is no whole snapshot, or not one of this journal: it is not used."""


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


class State(msgspec.Struct, frozen=True):
    """What a replay has come to; `trades` and `signatures` are the oldest first.

    `time` is the last record's (microseconds), `starts` the number of the last epoch.
    """

    engine: Engine
    time: int
    starts: int
    trades: Sequence[PastTrade]
    signatures: Sequence[SeenSignature]


class Snapshot(msgspec.Struct, frozen=True):
    """The state after one place in one journal, as lines; `digest` is their hash (hex)."""

    ticker: str
    lineage: str
    rules: int
    position: Position
    digest: str
    body: bytes

    @classmethod
    def of(cls, state: State, header: Header, position: Position) -> "Snapshot":
        """Take the state that a replay has at the end of a batch."""
        body = _encode(state_lines(state))
        return cls(header.ticker, header.lineage, header.rules, position, _hash(body), body)

    def encode(self) -> bytes:
        """The whole file."""
        place = self.position
        text = (
            f"#EMTE-SNAPSHOT {FORMAT} ticker={self.ticker} lineage={self.lineage}"
            f" rules={self.rules} seq={place.seq} offset={place.offset} batch={place.batch}"
            f" chain={place.chain} size={len(self.body)} state={self.digest}"
        ).encode("ascii")
        return b"%b x=%08x\n%b" % (text, crc32(text), self.body)

    @classmethod
    def decode(cls, data: bytes) -> "Snapshot":
        """The snapshot in a file's bytes. NotASnapshot if anything is missing, changed or more."""
        line, _, body = data.partition(b"\n")
        header = _FileHeader.decode(line)
        if len(body) != header.size:
            raise NotASnapshot(f"it has {len(body)} bytes of state, not {header.size}")
        if _hash(body) != header.digest:
            raise NotASnapshot("the state is not what was written: its hash differs")
        return cls(
            header.ticker, header.lineage, header.rules, header.position, header.digest, body
        )

    def lines(self) -> list[str]:
        return self.body.decode("ascii").splitlines()

    def restore(self, header: Header) -> State:
        """The state, of a journal with that header. NotASnapshot if its lines say none."""
        try:
            return restore(self.lines(), header)
        except (ValueError, KeyError) as error:
            raise NotASnapshot(f"its lines say no state: {error!r}") from error


class _FileHeader(msgspec.Struct, frozen=True):
    ticker: str
    lineage: str
    rules: int
    position: Position
    size: int
    digest: str

    @classmethod
    def decode(cls, line: bytes) -> "_FileHeader":
        match = _FILE_HEADER.fullmatch(line)
        if match is None:
            raise NotASnapshot("it does not begin with a snapshot's header")
        text, ticker, lineage, rules, seq, offset, batch, chain, size, digest, crc = match.groups()
        if crc != b"%08x" % crc32(text):
            raise NotASnapshot("its header is not what was written: the CRC differs")
        place = Position(int(seq), int(offset), int(batch), chain.decode("ascii"))
        return cls(
            ticker.decode("ascii"),
            lineage.decode("ascii"),
            int(rules),
            place,
            int(size),
            digest.decode("ascii"),
        )


_FILE_HEADER = re.compile(
    rb"(#EMTE-SNAPSHOT %d ticker=([a-z_][a-z0-9_]{0,15}) lineage=([0-9a-f]{16}) rules=([0-9]{1,9})"
    rb" seq=([0-9]{1,18}) offset=([0-9]{1,18}) batch=([0-9]{1,18}) chain=([0-9a-f]{32})"
    rb" size=([0-9]{1,18}) state=([0-9a-f]{32})) x=([0-9a-f]{8})" % FORMAT,
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
        file = disk.open(path)
        try:
            line = file.read(0, _HEADER_LIMIT).partition(b"\n")[0]
            its = _FileHeader.decode(line)
        except NotASnapshot:
            continue
        finally:
            file.close()
        if (its.ticker, its.lineage, its.rules) == (header.ticker, header.lineage, RULES):
            found.append((its.position.seq, path))
    return [(path, seq) for seq, path in sorted(found, reverse=True)]


def read_snapshot(disk: Disk, path: Path) -> Snapshot:
    """The snapshot in a file. NotASnapshot if it is not whole; OSError."""
    file = disk.open(path)
    try:
        return Snapshot.decode(file.read(0, file.size()))
    finally:
        file.close()


def write_snapshot(disk: Disk, journal: Path, header: Header, snapshot: Snapshot) -> None:
    """Keep a snapshot, in place of the older of the two or of one that is none. OSError.

    A crash at any moment leaves the newer one as it is.
    """
    aside = aside_path(journal)
    file = disk.open(aside) if disk.exists(aside) else disk.create(aside)
    try:
        _fill(file, snapshot.encode())
    finally:
        file.close()
    kept = [path for path, _ in kept_snapshots(disk, journal, header)]
    unused = [path for path in snapshot_paths(journal) if path not in kept]
    disk.rename(aside, unused[0] if unused else kept[-1])


def _fill(file: File, data: bytes) -> None:
    file.truncate(0)
    try:
        file.append(data)
        file.sync()
    except OSError:
        file.truncate(0)  # a disk that is full has better uses for the room
        raise


def follows(source: Source, position: Position) -> bool:
    """Whether the journal has that commit just before that byte: the snapshot was taken of it."""
    commit_end = f" s={position.seq} b={position.batch} h={position.chain} x=".encode("ascii")
    size = len(commit_end) + len("01234567\n")
    end = source.read(max(0, position.offset - size), size)
    return end.startswith(commit_end) and end.endswith(b"\n")


# The lines.


def state_lines(state: State) -> list[str]:
    """The state as the sorted lines that this module's docstring describes."""
    lines = [
        f"time {format_time(state.time)}",
        f"starts {state.starts}",
        *(f"trade {past.seq} {_record(past.time, past.trade)}" for past in state.trades),
    ]
    for seen in state.signatures:
        record = CommandRecord(seen.oid, seen.command, seen.prefix)
        lines.append(f"seen {seen.seq} {_record(seen.time, record)}")
    lines += _engine_lines(state.engine, state.time)
    lines.sort()
    return lines


def state_digest(state: State) -> str:
    """The hash that a `check` record has of this state: 32 hex digits."""
    return _hash(_encode(state_lines(state)))


def _encode(lines: Iterable[str]) -> bytes:
    return "".join([f"{line}\n" for line in lines]).encode("ascii")


def _hash(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()


def _record(time: int, body: Trade | CommandRecord) -> str:
    return f"{format_time(time)}: {format_body(body)}"


def restore(lines: Iterable[str], header: Header) -> State:
    """The state that such lines say; ValueError or KeyError if they say none."""
    told: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for line in lines:
        kind, _, rest = line.partition(" ")
        told[kind].append(rest)
    (time,) = told["time"]
    (starts,) = told["starts"]
    return State(
        engine=_build_engine(told, header, parse_time(time)),
        time=parse_time(time),
        starts=int(starts),
        trades=sorted(
            (_past_trade(text, header.ticker) for text in told["trade"]),
            key=lambda past: past.seq,
        ),
        signatures=sorted(
            (_seen_signature(text, header.ticker) for text in told["seen"]),
            key=lambda seen: seen.seq,
        ),
    )


_KINDS = (
    *("ask", "bid", "stop-buy", "stop-sell", "id", "position", "rate"),
    *("breaker", "last", "next", "phase", "time", "starts"),
    *("key", "limit", "setting", "seen", "trade"),
)


def _past_trade(text: str, ticker: str) -> PastTrade:
    seq, _, line = text.partition(" ")
    time, trade = parse_line(line, ticker=ticker)
    if not isinstance(trade, Trade):
        raise ValueError(f"no trade: {text!r}")
    return PastTrade(int(seq), time, trade)


def _seen_signature(text: str, ticker: str) -> SeenSignature:
    seq, _, line = text.partition(" ")
    time, record = parse_line(line, ticker=ticker)
    if not isinstance(record, CommandRecord):
        raise ValueError(f"no command: {text!r}")
    return SeenSignature(record.signature_prefix, record.oid, time, int(seq), record.command)


# The engine, taken apart. Nothing else in this module, or outside the engine, knows how it is made.


def _engine_lines(engine: Engine, time: int) -> Iterator[str]:
    yield f"phase {engine.phase}"
    yield f"last {_price_or_none(engine.last)}"
    yield f"breaker {_price_or_none(engine.breaker_reference)}"
    yield f"next oid {engine.next_oid} tid {engine.next_tid}"
    for name, value in engine.settings.items():
        yield f"setting {name} {value}"
    for name, value in engine.limits.product.items():
        yield f"limit * {name} {value}"
    for owner, own in engine.limits.exceptions.items():
        for name, value in own.items():
            yield f"limit {owner} {name} {value}"
    for owner, generation in engine._generations.items():
        yield f"key {owner} {generation}"
    for account in engine._accounts.values():
        yield from _account_lines(account, time)
    yield from _queue_lines("bid", _resting(engine.book.bids))
    yield from _queue_lines("ask", _resting(engine.book.asks))
    yield from _queue_lines("stop-buy", _waiting(engine._stops, Side.BUY))
    yield from _queue_lines("stop-sell", _waiting(engine._stops, Side.SELL))
    yield from _id_lines(engine._ids)


def _account_lines(account: Account, time: int) -> Iterator[str]:
    owner = account.owner
    if account.position:
        yield f"position {owner} {account.position}"
    if owner != HOUSE:  # it has no limits
        recent = Counter(entry for entry in account.entries if entry > time - RATE_WINDOW)
        for entry, count in recent.items():
            yield f"rate {owner} {format_time(entry)} {count}"


def _resting(side: BookSide) -> Iterator[Order]:
    for level in side:
        yield from level


def _waiting(stops: WaitingStops, side: Side) -> Iterator[Order]:
    yield from (stops._buys if side is Side.BUY else stops._sells).values()


def _queue_lines(kind: str, orders: Iterable[Order]) -> Iterator[str]:
    for number, order in enumerate(orders, start=1):
        terms = format_body(CommandRecord(order.oid, order.terms))
        yield f"{kind} {number:09d} {terms} filled={order.filled} hidden={order.hidden}"


def _id_lines(ids: ClientIds) -> Iterator[str]:
    for oid, order in ids.by_oid.items():
        entered = format_body(CommandRecord(oid, ids.commands[oid]))
        yield f"id {entered}" if order.remaining else f"id {entered}{_what_became(order)}"


def _what_became(order: Order) -> str:
    now = f"{order.quantity}@{_price_or_none(order.price)}/{_price_or_none(order.stop)}"
    return f" now={now} filled={order.filled}{' canceled' if order.canceled else ''}"


def _build_engine(told: dict[str, list[str]], header: Header, time: int) -> Engine:
    (phase,) = told["phase"]
    (last,) = told["last"]
    (breaker,) = told["breaker"]
    (following,) = told["next"]
    engine = Engine(
        header.ticker,
        tick=header.tick,
        lot=header.lot,
        reference=header.reference,
        phase=Phase(phase),
    )
    engine.time = time
    engine.last = _parse_price_or_none(last)
    _, oid, _, tid = following.split(" ")
    engine.next_oid, engine.next_tid = int(oid), int(tid)
    for text in told["setting"]:
        name, value = text.split(" ")
        engine.settings[name] = int(value)
    engine._note_ordinary()
    engine._set_breaker_reference(_parse_price_or_none(breaker))
    for text in told["limit"]:
        owner, name, value = text.split(" ")
        engine.limits.change(None if owner == "*" else int(owner), {name: int(value)})
    for text in told["key"]:
        owner, generation = text.split(" ")
        engine._generations[int(owner)] = int(generation)
    for text in told["position"]:
        owner, shares = text.split(" ")
        _account(engine, int(owner)).position = int(shares)
    for text in told["rate"]:
        owner, entry, count = text.split(" ")
        _account(engine, int(owner)).entries += [parse_time(entry)] * int(count)
    for account in engine._accounts.values():
        account.entries.sort()
    open_orders = _add_orders(engine, told)
    _add_ids(engine, told["id"], open_orders)
    return engine


def _account(engine: Engine, owner: int) -> Account:
    return engine._accounts.get(owner) or engine._open_account(owner)


def _add_orders(engine: Engine, told: dict[str, list[str]]) -> dict[int, Order]:
    """Put the open orders in their places; all of them by oid."""
    book = engine.book
    added: dict[int, Order] = {}
    for kind, side in (("bid", book.bids), ("ask", book.asks)):
        for text in sorted(told[kind]):
            order, hidden = _read_order(engine, text)
            _rest(side, order, hidden)
            added[order.oid] = order
    for kind in ("stop-buy", "stop-sell"):
        for text in sorted(told[kind]):
            order, _ = _read_order(engine, text)
            engine._stops.add(order)
            added[order.oid] = order
    for oid in sorted(added):
        order = added[oid]
        order.account.orders[oid] = order
        order.account.change_open(order.side, order.open_quantity)
    return added


def _read_order(engine: Engine, text: str) -> tuple[Order, int]:
    match = _QUEUED.fullmatch(text)
    if match is None:
        raise ValueError(f"no open order: {text!r}")
    terms, filled, hidden = match.groups()
    order = _make_order(engine, terms)
    order.open_quantity -= int(filled)
    return order, int(hidden)


_QUEUED = re.compile(r"[0-9]{9,} (.*) filled=([0-9]+) hidden=([0-9]+)", re.ASCII)


def _make_order(engine: Engine, terms: str) -> Order:
    record = parse_command(terms, ticker=engine.ticker)
    if not isinstance(record.command, NewOrder):
        raise ValueError(f"no order: {terms!r}")
    return Order(record.oid, _account(engine, record.command.owner), record.command)


def _rest(side: BookSide, order: Order, hidden: int) -> None:
    """Put an order behind all others at its price, with so much of it hidden."""
    side.add(order)
    level = order.level
    if level is None:
        raise ValueError(f"{order!r} does not rest")
    shown_too_much = order.hidden - hidden
    order.hidden = hidden
    level.hidden -= shown_too_much
    level.quantity += shown_too_much


def _add_ids(engine: Engine, texts: Sequence[str], open_orders: dict[int, Order]) -> None:
    ids = engine._ids
    orders: list[Order] = []
    for text in texts:
        entered, _, became = text.partition(" now=")
        order = _make_order(engine, entered)
        ids.commands[order.oid] = order.terms
        if became:
            _end(order, became)
        else:
            order = open_orders[order.oid]
        orders.append(order)
    orders.sort(key=lambda order: order.oid)
    for order in orders:
        ids.by_oid[order.oid] = order
        ids._remembered[order.owner, order.client_id] = order
    # All ids among the latest are remembered; beside them only those of older orders still open.
    ids._latest = deque(orders[-clientids.REMEMBERED_IDS :])


def _end(order: Order, became: str) -> None:
    match = _BECAME.fullmatch(became)
    if match is None:
        raise ValueError(f"no end of an order: {became!r}")
    quantity, price, stop, filled, canceled = match.groups()
    order.terms = msgspec.structs.replace(
        order.terms,
        quantity=int(quantity),
        price=_parse_price_or_none(price) or 0,
        stop=_parse_price_or_none(stop) or 0,
    )
    order.open_quantity = int(quantity) - int(filled)
    order.canceled = canceled is not None


_BECAME = re.compile(r"([0-9]+)@([0-9.-]+)/([0-9.-]+) filled=([0-9]+)( canceled)?", re.ASCII)


def _price_or_none(price: int | None) -> str:
    return format_price(price) if price else "-"


def _parse_price_or_none(text: str) -> int | None:
    return None if text == "-" else parse_price(text)
