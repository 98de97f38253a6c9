"""Snapshots: the state that a journal's replay has come to, as lines, as their hash, and as a file.

The state is all that the next command's outcome depends on. Each line says one thing of it; they
are sorted as ASCII text, and the state's hash, `check`'s in PROTOCOL §5, is the blake2b-128 of all
of them, each with a newline. Journals hold such hashes: another form of line needs other `rules=`.

    ask 000000001 TERMS filled=2 hidden=0    resting, in book order: best price first, then time
    bid 000000001 TERMS filled=0 hidden=40   hidden: what of an iceberg is not shown now (R9)
    breaker 100.00                           what the breaker measures from (R12)
    id TERMS                                 a remembered client id (R14): the order as entered
    id TERMS filled=80 canceled              … which has ended, and how
    id TERMS now=80@99.95/- filled=80        … with other values than it was entered with
    key 7 2                                  owner and generation, where one was raised
    last 99.95                               R15
    limit * max_quantity 1000000             R16's of the product; limit 7 …: an owner's own;
                                             max_notional in ten-thousandths
    next oid 5 tid 2                         the numbers of the next order and the next trade
    phase continuous
    position 4 -8                            an owner's net shares, if any
    rate 7 1700000000.050000 2               then so many orders and amends were accepted of an
                                             owner but the house, within a second before the last
                                             record (R16)
    setting collar 50000                     R3, R12, R17, in ten-thousandths
    stop-buy 000000001 TERMS filled=0 hidden=0   waiting, in order of election (R7)
    stop-sell 000000001 TERMS filled=0 hidden=0  likewise

Prices and times are the journal's, `-` is none. TERMS is an order as the journal's line of it says
it, `[oid] owner side quantity@price/stop` and options; amends, decrements (R5) and an election (R7)
have changed those of open orders.

A file has a header with the place in the journal after which this is the state, the state's lines,
and sorted like these what else a server must know of the records before that place:

    seen 5 TIME: [4] 4 buy … g=5d2e8a60b1c7… record 5: the last 10 s' commands sent by themselves
    starts 3                                 the number of the last epoch
    time 1700000000.050000                   the last record's
    trade 6 TIME: match 4@99.90 …            record 6: the last 50 trades

    #EMTE-SNAPSHOT 1 ticker=intc lineage=9c1f0a44d2b7e683 rules=1 seq=8 offset=712 batch=1
        chain=fc127fd6ac991d3df78fa79608e66819 size=1044 state=3f0c9ad1e5b84726a90d1c3e5f7b8246
        records=0c5e… x=8563a221

(one line; `size` is that of the state's lines in bytes, `state` their hash, `records` that of the
other lines, `x` the crc32 of the header before it). A file that is not exactly so is no snapshot.
Two are kept beside the journal, as `<ticker>.snapshot-a` and `-b`: a new one is written aside
(`.snapshot-new`), synced, and renamed over the older.
"""

import errno
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from zlib import crc32

import msgspec
from msgspec.structs import replace

from matching import clientids
from matching.account import CANCELED, Account, Order
from matching.book import BookSide
from matching.clientids import ClientIds
from matching.engine import Engine
from matching.events import Trade
from matching.journal import RULES, Header, Position
from matching.order import (
    HOUSE,
    TICKER,
    Command,
    NewOrder,
    Phase,
    Side,
    format_price,
    parse_price,
)
from matching.ports import Disk, File, Source
from matching.records import (
    NUMBER,
    ORDER,
    POSITIVE,
    TIME,
    CommandRecord,
    format_body,
    format_time,
    known_time,
    order_of_words,
    parse_command,
    parse_line,
    parse_time,
)
from matching.stops import WaitingStops

FORMAT = 1
"""The version of the lines and of the file, the header's second word."""

ROOM_LEFT = 256 * 1024 * 1024
"""Bytes that a snapshot leaves free: with fewer, orders would be refused (PROTOCOL §5)."""

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
    """What a replay has come to: all that the next command's outcome and the server's first answers
    depend on. `trades` and `signatures` are the oldest first.

    `time` is the last record's (microseconds), `starts` the number of the last epoch.
    """

    engine: Engine
    time: int
    starts: int
    trades: Sequence[PastTrade]
    signatures: Sequence[SeenSignature]


class Snapshot(msgspec.Struct, frozen=True):
    """The state after one place in one journal, and what its records tell beside it, as lines.

    `digest` is the hash of the state's (hex).
    """

    ticker: str
    lineage: str
    rules: int
    position: Position
    digest: str
    state: bytes
    records: bytes

    @classmethod
    def of(cls, state: State, header: Header, position: Position) -> "Snapshot":
        """Take what a replay has come to at the end of a batch."""
        lines, records = _encode(state_lines(state)), _encode(record_lines(state))
        return cls(
            header.ticker, header.lineage, header.rules, position, _hash(lines), lines, records
        )

    def encode(self) -> bytes:
        """The whole file."""
        place = self.position
        text = (
            f"#EMTE-SNAPSHOT {FORMAT} ticker={self.ticker} lineage={self.lineage}"
            f" rules={self.rules} seq={place.seq} offset={place.offset} batch={place.batch}"
            f" chain={place.chain} size={len(self.state)} state={self.digest}"
            f" records={_hash(self.records)}"
        ).encode("ascii")
        return b"%b x=%08x\n%b%b" % (text, crc32(text), self.state, self.records)

    @classmethod
    def decode(cls, data: bytes) -> "Snapshot":
        """The snapshot in a file's bytes. NotASnapshot if anything is missing, changed or more."""
        line, _, body = data.partition(b"\n")
        header = _FileHeader.decode(line)
        state, records = body[: header.size], body[header.size :]
        if _hash(state) != header.digest or _hash(records) != header.records:
            raise NotASnapshot("it is not what was written: a hash differs")
        return cls(
            header.ticker,
            header.lineage,
            header.rules,
            header.position,
            header.digest,
            state,
            records,
        )

    def lines(self) -> list[str]:
        """The state's, then the others."""
        return (self.state + self.records).decode("ascii").splitlines()

    def restore(self, header: Header) -> State:
        """The state, of a journal with that header. NotASnapshot if its lines say none."""
        try:
            return restore((self.state + self.records).decode("ascii"), header)
        except (ValueError, KeyError) as error:
            raise NotASnapshot(f"its lines say no state: {error!r}") from error


class _FileHeader(msgspec.Struct, frozen=True):
    ticker: str
    lineage: str
    rules: int
    position: Position
    size: int
    digest: str
    records: str

    @classmethod
    def decode(cls, line: bytes) -> "_FileHeader":
        match = _FILE_HEADER.fullmatch(line.decode("ascii", "replace"))
        if match is None:
            raise NotASnapshot("it does not begin with a snapshot's header")
        text, ticker, lineage, rules, seq, offset, batch, chain = match.groups()[:8]
        size, digest, records, crc = match.groups()[8:]
        if crc != f"{crc32(text.encode('ascii')):08x}":
            raise NotASnapshot("its header is not what was written: the CRC differs")
        place = Position(int(seq), int(offset), int(batch), chain)
        return cls(ticker, lineage, int(rules), place, int(size), digest, records)


_FILE_HEADER = re.compile(
    f"(#EMTE-SNAPSHOT {FORMAT} ticker=({TICKER.pattern}) lineage=([0-9a-f]{{16}})"
    " rules=([0-9]{1,9}) seq=([0-9]{1,18}) offset=([0-9]{1,18}) batch=([0-9]{1,18})"
    " chain=([0-9a-f]{32}) size=([0-9]{1,18}) state=([0-9a-f]{32}) records=([0-9a-f]{32}))"
    " x=([0-9a-f]{8})",
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


# The lines.


def state_lines(state: State) -> list[str]:
    """The state's lines, sorted, as this module's docstring describes them."""
    return sorted(_engine_lines(state.engine, state.time))


def record_lines(state: State) -> list[str]:
    """The lines of what else the records tell, sorted."""
    lines = [
        f"time {format_time(state.time)}",
        f"starts {state.starts}",
        *(f"trade {past.seq} {_record(past.time, past.trade)}" for past in state.trades),
    ]
    for seen in state.signatures:
        record = CommandRecord(seen.oid, seen.command, seen.prefix)
        lines.append(f"seen {seen.seq} {_record(seen.time, record)}")
    return sorted(lines)


def state_digest(state: State) -> str:
    """The hash that a `check` record has of this state: 32 hex digits."""
    return _hash(_encode(state_lines(state)))


def _encode(lines: Iterable[str]) -> bytes:
    return "".join([f"{line}\n" for line in lines]).encode("ascii")


def _hash(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()


def _record(time: int, body: Trade | CommandRecord) -> str:
    return f"{format_time(time)}: {format_body(body)}"


def restore(text: str, header: Header) -> State:
    """The state that such lines say; ValueError or KeyError if they say none."""
    runs = _runs(text)
    told = {kind: _rests(runs[kind]) for kind in _KINDS if kind not in (*_QUEUES, "rate")}
    (time,) = told["time"]
    (starts,) = told["starts"]
    return State(
        engine=_build_engine(told, runs, header, parse_time(time)),
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


_QUEUES = ("bid", "ask", "stop-buy", "stop-sell")
_KINDS = (
    *(*_QUEUES, "id", "position", "rate"),
    *("breaker", "last", "next", "phase", "time", "starts"),
    *("key", "limit", "setting", "seen", "trade"),
)


def _runs(text: str) -> dict[str, list[str]]:
    """The lines by their kind, in runs of some that follow each other: a text each."""
    runs: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    end = 0
    while (run := _RUN.match(text, end)) is not None:
        runs[run[1]].append(run[0])
        end = run.end()
    if end != len(text):
        raise ValueError(f"no line of a state: {text[end:].partition(chr(10))[0]!r}")
    return runs


_RUN = re.compile(r"([a-z-]+) [ -~]*\n(?:\1 [ -~]*\n){0,999}")
"""Some lines of one kind. No more: what they are taken apart into stays in the cache."""


def _rests(runs: list[str]) -> list[str]:
    """The lines without their kind."""
    return [line.partition(" ")[2] for run in runs for line in run.splitlines()]


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
        if account.position:
            yield f"position {account.owner} {account.position}"
    for owner, entries in engine._recent.by_owner(time).items():
        if owner == HOUSE:
            continue
        for entry, count in Counter(entries).items():
            yield f"rate {owner} {format_time(entry)} {count}"
    yield from _queue_lines("bid", _resting(engine.book.bids))
    yield from _queue_lines("ask", _resting(engine.book.asks))
    yield from _queue_lines("stop-buy", _waiting(engine._stops, Side.BUY))
    yield from _queue_lines("stop-sell", _waiting(engine._stops, Side.SELL))
    yield from _id_lines(engine._ids)


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
        entered = ids.commands[oid]
        line = f"id {format_body(CommandRecord(oid, entered))}"
        yield line if order.remaining else f"{line}{_what_became(order, entered)}"


def _what_became(order: Order, entered: NewOrder) -> str:
    quantity, price, stop = order.quantity, order.price, order.stop
    now = ""
    if (quantity, price, stop) != (entered.quantity, entered.price, entered.stop):
        now = f" now={quantity}@{_price_or_none(price)}/{_price_or_none(stop)}"
    return f"{now} filled={order.filled}{' canceled' if order.canceled else ''}"


def _build_engine(
    told: dict[str, list[str]], runs: dict[str, list[str]], header: Header, time: int
) -> Engine:
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
        if name not in engine.settings:
            raise ValueError(f"no setting: {text!r}")
        engine.settings[name] = int(value)
    engine._unasked_price = engine._plain_up_to()
    engine._set_breaker_reference(_parse_price_or_none(breaker))
    for text in told["key"]:
        owner, generation = text.split(" ")
        engine._generations[int(owner)] = int(generation)
    for text in told["position"]:
        owner, shares = text.split(" ")
        _account(engine, int(owner)).position = int(shares)
    _add_ids(engine, told["id"], _add_orders(engine, runs))
    _add_rates(engine, runs["rate"])
    _limit(engine, told["limit"])
    return engine


def _account(engine: Engine, owner: int) -> Account:
    return engine._accounts.get(owner) or engine._open_account(owner)


def _add_rates(engine: Engine, runs: Iterable[str]) -> None:
    """Note the recent entries again, in order of time."""
    entries: list[tuple[int, int, int]] = []
    for run in runs:
        rates = _RATE.findall(run)
        if len(rates) != run.count("\n"):
            raise ValueError(f"not all are rates, from {run.partition(chr(10))[0]!r} on")
        entries += [(known_time(time), int(owner), int(count)) for owner, time, count in rates]
    entries.sort()
    if entries and entries[-1][0] > engine.time:
        raise ValueError(f"an entry at {entries[-1][0]} is after the last record")
    for entry, owner, count in entries:
        for _ in range(count):
            engine._recent.note(owner, entry, next_oid=engine.next_oid)


_RATE = re.compile(rf"^rate ({NUMBER}) ({TIME}) ({POSITIVE})$", re.ASCII | re.MULTILINE)


def _limit(engine: Engine, texts: Iterable[str]) -> None:
    """Let limits come into force for all owners, whose orders and recent entries are there."""
    entries = engine._recent.by_owner(engine.time)
    accounts = [_account(engine, owner) for owner in {*entries, *engine._accounts}]
    for text in texts:
        owner, name, value = text.split(" ")
        if name not in engine.limits.product:
            raise ValueError(f"no limit: {text!r}")
        engine.limits.change(None if owner == "*" else int(owner), {name: int(value)})
    for account in accounts:
        account.limit(engine.limits.of(account.owner), entries.get(account.owner, ()))


def _add_orders(engine: Engine, runs: dict[str, list[str]]) -> dict[str, Order]:
    """Put the open orders in their places; those with a client id by what the lines say of them."""
    named: dict[str, Order] = {}
    opened: defaultdict[int, list[Order]] = defaultdict(list)
    ticker, book, stops = engine.ticker, engine.book, engine._stops
    for kind, add in (
        ("bid", book.bids.add),
        ("ask", book.asks.add),
        ("stop-buy", stops.add),
        ("stop-sell", stops.add),
    ):
        before = 0
        for run in runs[kind]:
            queue = _queue(run, before)
            before += len(queue)
            for _, number, acting, quantity, prices, options, filled, hidden in queue:
                order = Order()
                order.oid, terms, _ = order_of_words(
                    number, acting, quantity, prices, options, ticker
                )
                order.account = _account(engine, terms.owner)
                order.terms = terms
                order.open_quantity = terms.quantity - int(filled)
                order.hidden = 0
                order.level = None
                opened[terms.owner].append(order)
                add(order)
                if options or hidden != "0":
                    _hide(order, int(hidden))
                    if order.client_id:
                        named[f"[{number}] {acting} {quantity}@{prices}{options}"] = order
    for owner, orders in opened.items():
        orders.sort(key=attrgetter("oid"))
        _account(engine, owner).orders = {order.oid: order for order in orders}
    return named


def _queue(run: str, before: int) -> list[tuple[str, ...]]:
    """The words of lines of orders in their places behind so many; ValueError if they are none."""
    queue = _QUEUED.findall(run)
    places = [int(words[0]) for words in queue]
    if places != list(range(before + 1, before + 1 + run.count("\n"))):
        first, _, _ = run.partition("\n")
        raise ValueError(f"not all are orders in their places, from {first!r} on")
    return queue


_QUEUED = re.compile(
    rf"^[a-z-]+ ([0-9]{{9,}}) {ORDER} filled=({NUMBER}) hidden=({NUMBER})$", re.ASCII | re.MULTILINE
)


def _parse_order(engine: Engine, terms: str) -> tuple[int, NewOrder]:
    record = parse_command(terms, ticker=engine.ticker)
    if not isinstance(record.command, NewOrder):
        raise ValueError(f"no order: {terms!r}")
    return record.oid, record.command


def _hide(order: Order, hidden: int) -> None:
    """Let so much be hidden of an order that has just been added, and so shows a full peak."""
    if order.hidden == hidden:
        return
    level = order.level
    if level is None:
        raise ValueError(f"{order!r} does not rest")
    shown_too_much = order.hidden - hidden
    order.hidden = hidden
    level.hidden -= shown_too_much
    level.quantity += shown_too_much


def _add_ids(engine: Engine, texts: Sequence[str], open_orders: dict[str, Order]) -> None:
    ids = engine._ids
    by_oid = {order.oid: order for order in open_orders.values()}
    remembered: dict[int, tuple[Order, NewOrder]] = {}
    for text in texts:
        entered, has_ended, became = text.partition(" filled=")
        if has_ended:
            entered, _, now = entered.partition(" now=")
            oid, command = _parse_order(engine, entered)
            remembered[oid] = _ended(engine, oid, command, now, became), command
        elif (order := open_orders.get(entered)) is not None:  # as most open orders are
            remembered[order.oid] = order, order.terms
        else:
            oid, command = _parse_order(engine, entered)
            remembered[oid] = by_oid[oid], command
    orders: list[Order] = []
    for oid, (order, command) in sorted(remembered.items()):
        orders.append(order)
        ids.by_oid[oid] = order
        ids.commands[oid] = command
        ids._remembered[command.owner, command.client_id] = order
    # All ids among the latest are remembered; beside them only those of older orders still open.
    ids._latest = deque(orders[-clientids.REMEMBERED_IDS :])
    ids.oldest = ids._latest[0].oid if ids._latest else 0


def _ended(engine: Engine, oid: int, command: NewOrder, now: str, became: str) -> Order:
    """An order that has ended: as entered, and what it came to be."""
    account = _account(engine, command.owner)
    order = account.open(oid, command)
    del account.orders[oid]
    if now:
        match = _NOW.fullmatch(now)
        if match is None:
            raise ValueError(f"no values of an order: {now!r}")
        quantity, price, stop = match.groups()
        order.terms = replace(
            command,
            quantity=int(quantity),
            price=_parse_price_or_none(price) or 0,
            stop=_parse_price_or_none(stop) or 0,
        )
    filled, _, canceled = became.partition(" ")
    order.open_quantity = order.quantity - int(filled)
    if canceled == "canceled":
        order.hidden = CANCELED
    elif canceled:
        raise ValueError(f"no end of an order: {became!r}")
    return order


_NOW = re.compile(r"([0-9]+)@([0-9.-]+)/([0-9.-]+)", re.ASCII)


def _price_or_none(price: int | None) -> str:
    return format_price(price) if price else "-"


def _parse_price_or_none(text: str) -> int | None:
    return None if text == "-" else parse_price(text)
