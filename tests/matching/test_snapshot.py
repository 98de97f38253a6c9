"""Snapshots: the state that comes back from one is the state that was taken, to the last answer."""

import gc
import random
import re
import weakref
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from matching import clientids, recovery
from matching import snapshot as snapshot_module
from matching.account import Order
from matching.disk import SystemDisk
from matching.engine import Broken, Engine
from matching.events import Accepted, Duplicate, Rejected
from matching.journal import (
    Header,
    History,
    Journal,
    JournalDamaged,
    Mark,
    Position,
    Stretch,
    beginning,
    read_header,
)
from matching.order import Command, NewOrder, Phase, Side, Status
from matching.records import CommandRecord
from matching.recovery import (
    Contradiction,
    Replay,
    find_checked,
    main,
    open_journal,
    take_snapshot,
)
from matching.savedstate import restore, save
from matching.snapshot import (
    NotASnapshot,
    Snapshot,
    aside_path,
    kept_snapshots,
    read_snapshot,
    snapshot_paths,
)
from matching.state import State, record_lines, state_digest, state_lines
from tests.matching.small_server import DURABLE, JOURNAL, SmallServer, new_disk, parse
from tests.matching.test_engine_reference import (
    LOT,
    REMEMBERED_IDS,
    STREAM_COUNT,
    STREAMS,
    TICK,
    Step,
    _aimed,
)
from tests.matching.trading_tables import Trading
from tests.simulated_disk import Crash, SeededDice, SetClock, SimulatedDisk

HEADER = Header(
    ticker="intc", lineage="9c1f0a44d2b7e683", tick=TICK, lot=LOT, reference=1_000_000, salt=7
)


def state_of(engine: Engine, time: int) -> State:
    return State(
        engine=engine, time=time, starts=1, trades=[], signatures=[], session_owners=frozenset()
    )


def taken_and_restored(engine: Engine, time: int) -> Engine:
    """What comes back from what was saved of an engine, whose lines must be the same."""
    state = state_of(engine, time)
    restored = restore(save(state), HEADER)
    assert all_lines(restored) == all_lines(state)
    restored.engine.check()
    return restored.engine


def all_lines(state: State) -> list[str]:
    return [*state_lines(state), *record_lines(state)]


@settings(
    max_examples=STREAM_COUNT // 2,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(STREAMS, st.sampled_from(Phase), st.integers(0, 80))
def test_an_engine_from_a_snapshot_answers_like_the_one_that_it_was_taken_of(
    stream: list[Step], phase: Phase, cut: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clientids, "REMEMBERED_IDS", REMEMBERED_IDS)
        trading = Trading(tick=TICK, lot=LOT, phase=phase, remembered_ids=REMEMBERED_IDS)
        restored: Engine | None = None
        for index, step in enumerate(stream):
            if index == cut:
                restored = taken_and_restored(trading.engine, trading.time)
            trading.wait(step.after)
            command = _aimed(step, trading)
            if command is None:
                continue
            events = trading.apply(command)
            if restored is not None:
                assert restored.apply(command, trading.time) == events, "\n".join(trading.played)
                restored.check()
        at_the_end = state_of(taken_and_restored(trading.engine, trading.time), trading.time)
        if restored is not None:
            assert state_lines(at_the_end) == state_lines(state_of(restored, trading.time))


def commands(rng: random.Random) -> Iterator[Command]:
    """Commands of every kind, orders of many kinds first of all, without an end."""
    texts = [""]
    while True:
        owner = rng.randint(0, 6)
        oid = max(1, len(texts) - rng.randint(0, 60))
        kind = rng.random()
        text = f"{owner}:{rng.choice(('buy', 'sell'))} intc {rng.randint(1, 12)}"
        if kind < 0.1:
            text = f"{owner}:del intc {oid}"
        elif kind < 0.2:
            text = f"{owner}:mod intc {oid} {rng.randint(1, 12)}@99.9"
        elif kind < 0.21:
            text = f"{owner}:del intc all"
        elif kind < 0.23:
            text = f"phase intc {rng.choice([*Phase, *['continuous'] * 9])}"
        elif kind < 0.24:
            text = f"limit intc {rng.choice(('*', owner))} max_rate={rng.randint(0, 9)}"
        elif kind < 0.25:
            text = f"set intc breaker={rng.choice((0, 0, 0.5, 1))} collar={rng.choice((0, 0.5))}"
        elif kind < 0.26:
            text = f"key intc {owner} {rng.randint(2, 9)}"
        elif kind < 0.3 and texts:
            text = rng.choice(texts) or text
        else:
            if rng.random() < 0.9:
                text += f"@{rng.randint(985, 1015) / 10}"
            if rng.random() < 0.15:
                text += f"/{rng.randint(985, 1015) / 10}"
            text += rng.choice(("", f" id=c{len(texts)}"))
            text += rng.choice(("", "", " tif=day", " tif=ioc", " peak=1", " post", " tif=fok"))
            text += rng.choice(("", "", " stp=none", " stp=decrement", " stp=both", " stp=maker"))
            texts.append(text)
        yield parse(text)


@pytest.mark.parametrize("seed", range(4))
def test_any_number_of_snapshots_changes_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One engine is replaced by its own snapshot again and again, one is left alone."""
    monkeypatch.setattr(clientids, "REMEMBERED_IDS", 40)
    rng = random.Random(seed)
    header = Header(ticker="intc", lineage="0" * 16, tick=100, lot=1, reference=1_000_000, salt=0)
    alone, often = Engine("intc"), Engine("intc")
    time = 1_700_000_000_000_000
    kinds: set[str] = set()
    carried_out = 0
    for number, command in zip(range(4_000), commands(rng), strict=False):
        time += rng.choice((0, 1, 40_000, 400_000))
        events = alone.apply(command, time)
        assert often.apply(command, time) == events
        carried_out += not any(isinstance(event, Rejected | Duplicate) for event in events)
        if number % 50 == 49:
            state = state_of(often, time)
            lines = all_lines(state)
            assert lines == all_lines(state_of(alone, time))
            kinds.update(line.partition(" ")[0] for line in lines)
            often = restore(save(state), header).engine
            often.check()
    assert carried_out > 500
    assert kinds >= {"ask", "bid", "stop-buy", "stop-sell", "id", "position", "rate", "key"}


def test_r12_a_band_holds_after_a_snapshot() -> None:
    engine = Engine("intc")
    engine.apply(parse("set intc band=5"), 1)
    (refused,) = taken_and_restored(engine, 1).apply(parse("7:buy intc 2@50"), 1)
    assert isinstance(refused, Rejected)
    assert refused.code == "price_band"


def test_a_state_is_told_in_lines_that_a_person_reads() -> None:
    engine = Engine("intc")
    for text in (
        "1:sell intc 100@50.25 peak=10 id=a",
        "2:buy intc 15@50.25 id=b",
        "2:buy intc 5@49.90 tif=day",
        "3:buy intc 7/60",
        "key intc 7 2",
        "set intc breaker=5",
        "limit intc 7 max_position=200",
        "7:buy intc 2@49.80 stp=none",
    ):
        engine.apply(parse(text), 1_700_000_000_000_000)
    assert state_lines(state_of(engine, 1_700_000_000_500_000)) == [
        "ask 000000001 [1] 1 sell 100@50.25/0 id=a peak=10 filled=15 hidden=80",
        "bid 000000001 [3] 2 buy 5@49.90/0 tif=day filled=0 hidden=0",
        "bid 000000002 [5] 7 buy 2@49.80/0 stp=none filled=0 hidden=0",
        "breaker 50.25",
        "id [1] 1 sell 100@50.25/0 id=a peak=10",
        "id [2] 2 buy 15@50.25/0 id=b filled=15",
        "key 7 2",
        "last 50.25",
        "limit * max_notional 0",
        "limit * max_open_orders 0",
        "limit * max_position 0",
        "limit * max_quantity 1000000",
        "limit * max_rate 0",
        "limit 7 max_position 200",
        "next oid 6 tid 3",
        "phase continuous",
        "position 1 -15",
        "position 2 15",
        "rate 1 1700000000.000000 1",
        "rate 2 1700000000.000000 2",
        "rate 3 1700000000.000000 1",
        "rate 7 1700000000.000000 1",
        "setting band 0",
        "setting breaker 50000",
        "setting collar 0",
        "setting maker_fee 0",
        "setting taker_fee 0",
        "stop-buy 000000001 [4] 3 buy 7@0/60.00 filled=0 hidden=0",
    ]


def test_what_no_rate_can_count_any_more_is_not_part_of_the_state() -> None:
    engine = Engine("intc")
    engine.apply(parse("7:buy intc 1@50"), 1_000_000)
    engine.apply(parse("0:buy intc 1@50"), 1_000_000)

    def rates(time: int) -> list[str]:
        return [line for line in state_lines(state_of(engine, time)) if line.startswith("rate ")]

    assert rates(1_999_999) == ["rate 7 1.000000 1"]
    assert rates(2_000_000) == []


def test_entries_of_who_has_nothing_left_still_count() -> None:
    """R16: an owner whose every order has ended comes back by the rate alone."""
    engine = Engine("intc", tick=TICK, lot=LOT)
    order = f"7:buy intc {LOT}@50"
    for text in ("limit intc * max_rate=2", order, "7:del intc 1", order, "7:del intc 2"):
        engine.apply(parse(text), 1_000_000)
    restored = taken_and_restored(engine, 1_000_000)
    for each in (engine, restored):
        (rejected,) = each.apply(parse(order), 1_999_999)
        assert isinstance(rejected, Rejected)
        assert rejected.code == "rate_limited"
        (accepted,) = each.apply(parse(order), 2_000_000)
        assert isinstance(accepted, Accepted)


def test_r6_an_order_amended_to_less_than_was_filled_comes_back_with_what_was_filled() -> None:
    engine = Engine("intc", tick=TICK, lot=LOT)
    for text in (
        f"7:buy intc {4 * LOT}@50 id=a",
        f"8:sell intc {3 * LOT}@50",
        f"7:mod intc 1 {LOT}",
    ):
        engine.apply(parse(text), 1)
    (again,) = taken_and_restored(engine, 1).apply(parse(f"7:buy intc {4 * LOT}@50 id=a"), 1)
    assert again == Duplicate(1, Status.CANCELED, 3 * LOT, 0)


def test_a_book_of_any_size_comes_back_with_every_order_in_its_place() -> None:
    """Among thousands of plain orders also such as say more of themselves."""
    rng = random.Random(1)
    engine = Engine("intc")
    time = 1_700_000_000_000_000
    for number in range(5_000):
        side, price = rng.choice((("buy", 90), ("sell", 110)))
        text = f"{rng.randint(0, 9)}:{side} intc {rng.randint(1, 99)}@{price + rng.randint(-5, 5)}"
        text += rng.choice((*[""] * 20, f" id=c{number}", " tif=day peak=7", " stp=none"))
        engine.apply(parse(text), time)
    for number in range(100):
        engine.apply(parse(f"8:{rng.choice(('buy', 'sell'))} intc {number + 1}"), time)
    restored = taken_and_restored(engine, time)
    assert [vars_of(order) for order in restored.open_orders()] == [
        vars_of(order) for order in engine.open_orders()
    ]


def vars_of(order: Order) -> tuple[object, ...]:
    return order.oid, order.owner, order.terms, order.open_quantity, order.hidden


# -- the file


SMALL = Header(ticker="intc", lineage="0" * 16, tick=100, lot=1, reference=1_000_000, salt=0)


def small_snapshot() -> Snapshot:
    disk = new_disk()
    SmallServer(disk).trade("1:sell 5@100 id=a", "2:buy 3@100", "3:buy 7@98 id=b", "3:del id=b")
    take_snapshot(disk, JOURNAL)
    return read_snapshot(disk, snapshot_paths(JOURNAL)[0])


def test_a_file_is_a_header_the_stretches_before_it_and_what_was_saved() -> None:
    snapshot = small_snapshot()
    first, stretches, *lines = snapshot.encode().decode("ascii").splitlines()
    place = snapshot.position
    body = snapshot.encode().partition(b"\n")[2]
    assert first.rpartition(" x=")[0] == (
        f"#EMTE-SNAPSHOT 2 ticker=intc lineage={snapshot.lineage} rules=1 seq={place.seq}"
        f" offset={place.offset} batch=2 chain={place.chain} state={snapshot.digest}"
        f" body={blake2b(body, digest_size=16).hexdigest()}"
    )
    (stretch,) = snapshot.before
    assert stretches == f'[[{place.offset},"{stretch.digest}"]]'
    assert lines == snapshot.saved.decode("ascii").splitlines()
    assert Snapshot.decode(snapshot.encode()) == snapshot


def test_each_snapshot_adds_the_hash_of_a_stretch_of_the_journal() -> None:
    disk = new_disk()
    server = SmallServer(disk)
    ends = [0]
    for _ in range(3):
        server.trade("1:sell 5@100", "2:buy 3@100")
        take_snapshot(disk, JOURNAL)
        ends.append(server.journal.position.offset)
        data = disk.content(JOURNAL)
        newest = read_snapshot(disk, snapshots_by_age(disk)[0])
        assert [(stretch.end, stretch.digest) for stretch in newest.before] == [
            (end, blake2b(data[begin:end], digest_size=16).hexdigest())
            for begin, end in pairwise(ends)
        ]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (rb'"positions":\{[^}]+}', b'"positions":{}', "restores to another state"),
        (rb'"starts":2', b'"starts":3', "restores to another state"),
        (rb'{"peak":1}', b"null", "restores to another state"),
        (rb'{"cod":true}', b"null", "restores to another state"),
        (rb'"collar":', b'"wish":', "cannot be restored"),
    ],
)
def test_a_snapshot_that_would_restore_to_another_state_is_not_kept(
    old: bytes, new: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with saving or restoring: no start must ever believe it."""
    disk = new_disk()
    SmallServer(disk).trade("1:sell 5@100 peak=1", "2:buy 1@100")
    take_snapshot(disk, JOURNAL)
    server = SmallServer(disk)
    bid = NewOrder(ticker="intc", owner=7, side=Side.BUY, quantity=5, price=990_000, cod=True)
    server.decide(bid)
    server.commit()
    (first,) = snapshots_by_age(disk)

    def save_wrong(state: State) -> bytes:
        saved, count = re.subn(old, new, save(state))
        assert count
        return saved

    monkeypatch.setattr(snapshot_module, "save", save_wrong)
    with pytest.raises(Broken, match=reason):
        take_snapshot(disk, JOURNAL)
    assert snapshots_by_age(disk) == [first]


def test_what_was_replayed_is_gone_before_it_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a child would need the memory of two states."""
    disk, _ = traded()
    replayed: list[weakref.ref[Engine]] = []
    is_gone: list[bool] = []

    def take(state: State, *others: Any) -> Snapshot:
        replayed.append(weakref.ref(state.engine))
        return of(state, *others)

    def free() -> None:
        gc.collect()
        is_gone.extend(engine() is None for engine in replayed)

    of = Snapshot.of
    monkeypatch.setattr(Snapshot, "of", take)
    take_snapshot(disk, JOURNAL, free=free)
    assert is_gone == [True]


@pytest.mark.parametrize(
    ("rot", "reason"),
    [
        (lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "breaks here"),
        (lambda data, at: data[:-1], "up to here is not"),
        (lambda data, at: data[:-1] + b" ", "up to here is not"),
    ],
    ids=["a bit", "cut", "no end"],
)
def test_what_rots_after_it_was_replayed_is_not_sealed(
    rot: Callable[[bytes, int], bytes], reason: str
) -> None:
    """Else the hash of what is before a snapshot would vouch for it for ever."""
    disk, seqs = traded()
    begin = read_snapshot(disk, snapshots_by_age(disk)[0]).position.offset
    durable = Mark.decode(disk.content(DURABLE), DURABLE.name).offset
    disk.replace(JOURNAL, disk.content(JOURNAL)[:durable])
    batches_left = sum(batch.offset >= begin for batch in History(disk.open(JOURNAL)))

    def rots() -> bool:
        nonlocal batches_left
        batches_left -= 1
        if not batches_left:
            disk.replace(JOURNAL, rot(disk.content(JOURNAL), begin + 10))
        return False

    with pytest.raises(JournalDamaged, match=reason):
        take_snapshot(disk, JOURNAL, is_enough=rots)
    assert read_snapshot(disk, snapshots_by_age(disk)[0]).position.seq == seqs[1]


def test_the_hash_of_a_snapshot_is_that_of_the_state_that_it_restores() -> None:
    snapshot = small_snapshot()
    assert state_digest(snapshot.restore(SMALL)) == snapshot.digest


def test_no_flipped_bit_and_no_cut_is_taken_for_a_snapshot() -> None:
    data = small_snapshot().encode()
    for length in range(len(data)):
        with pytest.raises(NotASnapshot):
            Snapshot.decode(data[:length])
    for index in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[index] ^= 1 << bit
            with pytest.raises(NotASnapshot):
                Snapshot.decode(bytes(changed))
    with pytest.raises(NotASnapshot):
        Snapshot.decode(data + b"\n")


BID = '["level","buy",990000,[[9,1,5,5,0,null]]]'


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "{}",
        "[]",
        '["wish",7]',
        "[" * 100_000,
        '["level","buy",990000,[[9,1,5,5,0,null]],7]',
        '["level","buy",990000,[[9,1,5,5,0,{"min_quantity":3}]]]',
        '["level","buy",990000,[]]',
        '["level","buy",0,[[9,1,5,5,0,null]]]',
        '["level","bid",990000,[[9,1,5,5,0,null]]]',
        '["level","buy",990000,[[9,1,5,5,0]]]',
        '["level","buy",990000,[[9,1,5,5,0,null,null]]]',
        '["level","buy",990000,[[0,1,5,5,0,null]]]',
        '["level","buy",990000,[[9,1,5,0,0,null]]]',
        '["level","buy",990000,[[9,-1,5,5,0,null]]]',
        '["level","buy",990000,[[9,1,"5",5,0,null]]]',
        '["level","buy",990000,[[9,1,5,5,0,{"tif":"tomorrow"}]]]',
        '["level","sell",1000000,[[9,1,5,5,0,null]]]',
        '["stops","buy",[[9,1,5,990000,0,null]]]',
        '["named",[9]]',
        '["named",["1"]]',
        '["ids",[[9,1,"buy",5,990000,0,{"client_id":"z"},null]]]',
        '["ids",[[9,1,"buy",5,990000,0,{"client_id":"z"},[5,990000,0,5]]]]',
        '["rates",[[1,7,0]]]',
        '["rates",[[1800000000000000,7,1]]]',
        '["rates",[[1700000000000000,7,1],[1699999999999999,7,1]]]',
        BID[:-1],
        f"{BID} {BID}",
        f"{BID}\n{BID}",
    ],
)
def test_what_says_no_state_is_no_snapshot(line: str) -> None:
    snapshot = small_snapshot()
    for broken in (snapshot.saved + f"{line}\n".encode(), f"{line}\n".encode() + snapshot.saved):
        with pytest.raises(NotASnapshot):
            replace(snapshot, saved=broken).restore(SMALL)


def test_a_line_that_says_an_order_makes_it() -> None:
    """What the rows above vary."""
    snapshot = small_snapshot()
    restored = replace(snapshot, saved=snapshot.saved + f"{BID}\n".encode()).restore(SMALL)
    assert str(restored.engine.book) == "bids 5@99.00; asks 2@100.00"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"phase":"continuous"', '"phase":"lunch"'),
        ('"collar":0', '"wish":0'),
        ('"max_rate":0', '"max_wish":0'),
        ('"max_rate":0', '"max_rate":"0"'),
        (',"max_rate":0', ""),
        ('"exceptions":{}', '"exceptions":{"7":{"max_wish":1}}'),
        ('"exceptions":{}', '"exceptions":{"seven":{"max_rate":1}}'),
        ('"last":1000000', '"last":0'),
        ('"starts":', '"wish":1,"starts":'),
        ('"starts":', '"start":'),
        ("match 3@100.00", "match 3@100"),
        ('"signatures":[]', '"signatures":[[2,"1.000000: tick"]]'),
    ],
)
def test_small_things_that_there_are_not_are_no_snapshot(old: str, new: str) -> None:
    snapshot = small_snapshot()
    assert snapshot.restore(SMALL).engine.last == 1_000_000
    assert snapshot.saved.count(old.encode()) == 1
    broken = snapshot.saved.replace(old.encode(), new.encode())
    with pytest.raises(NotASnapshot):
        replace(snapshot, saved=broken).restore(SMALL)


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_what_was_saved_ends_with_its_last_line(cut: int) -> None:
    snapshot = small_snapshot()
    with pytest.raises(NotASnapshot):
        replace(snapshot, saved=snapshot.saved[:-cut]).restore(SMALL)


@pytest.mark.parametrize(
    "before",
    [
        [],
        [(7, "0" * 32)],
        [(10**9, "0" * 32)],
        [(9, "0" * 32), (9, "0" * 32)],
        [(-5, "0" * 32)],
    ],
    ids=["none", "too short", "too long", "one of no bytes", "one of less"],
)
def test_stretches_that_do_not_lead_to_its_place_are_no_snapshot(
    before: list[tuple[int, str]],
) -> None:
    snapshot = small_snapshot()
    stretches = [Stretch(end, digest) for end, digest in before]
    with pytest.raises(NotASnapshot, match="do not end where it was taken"):
        Snapshot.decode(replace(snapshot, before=stretches).encode())


def test_a_body_without_stretches_is_no_snapshot() -> None:
    snapshot = small_snapshot()
    header, _, body = snapshot.encode().partition(b"\n")
    text = header.partition(b" body=")[0]
    for other in (b"", b"[" * 100_000, b"{}\n" + body, body.partition(b"\n")[2]):
        hashed = text + b" body=" + blake2b(other, digest_size=16).hexdigest().encode()
        with pytest.raises(NotASnapshot, match="says nothing of the journal before it"):
            Snapshot.decode(b"%b x=%08x\n%b" % (hashed, crc32(hashed), other))


def test_no_file_is_no_snapshot() -> None:
    disk = new_disk()
    header = SmallServer(disk).journal.header
    assert kept_snapshots(disk, JOURNAL, header) == []
    disk.replace(snapshot_paths(JOURNAL)[0], b"")
    assert kept_snapshots(disk, JOURNAL, header) == []


# -- beside a journal


def replayed_state(disk: SimulatedDisk) -> list[str]:
    """The state after the journal's whole batches, from its start."""
    file = disk.open(JOURNAL)
    replay = Replay(read_header(file), checked=find_checked(file, beginning(read_header(file))))
    for batch in History(file):
        replay.take(batch)
    return all_lines(replay.state())


def recovered_state(disk: SimulatedDisk) -> tuple[list[str], int]:
    """The state that a start on a copy of the disk goes on with, and the record it began at."""
    copy = disk.copy(random.Random(0))
    before = read_header(copy.open(JOURNAL))
    recovered = open_journal(copy, JOURNAL, ticker="intc", dice=SeededDice(random.Random(0)))
    assert recovered.journal.header == before
    state = State(
        engine=recovered.engine,
        time=recovered.journal.time,
        starts=recovered.epoch - 1,
        trades=recovered.trades,
        signatures=recovered.signatures,
        session_owners=frozenset(),
    )
    recovered.engine.check()
    return all_lines(state), recovered.snapshot_seq


def traded(seed: int = 0, *, snapshots: int = 2) -> tuple[SimulatedDisk, list[int]]:
    """A journal of some hundred commands with snapshots within, and the records of these."""
    rng = random.Random(seed)
    disk = new_disk(seed)
    clock = SetClock()
    dice = SeededDice(rng)
    server = SmallServer(disk, clock, dice)
    stream = commands(rng)
    seqs: list[int] = []
    for number in range(1, 121):
        clock.microseconds += rng.choice((0, 1_000, 300_000))
        for _ in range(rng.randint(1, 4)):
            prefix = dice.token(8).hex() if rng.random() < 0.3 else ""
            server.decide(next(stream), signature_prefix=prefix)
        server.commit()
        if number % 30 == 0 and len(seqs) < snapshots:
            check, _ = take_snapshot(disk, JOURNAL)
            seqs.append(check.seq)
            server.journal.check(check.seq, check.digest)
    disk.kill()
    return disk, seqs


def carried_out(disk: SimulatedDisk) -> list[NewOrder]:
    """The orders in the journal, as they were entered."""
    records = [record for batch in History(disk.open(JOURNAL)) for record in batch.records()]
    commands = [r.body.command for r in records if isinstance(r.body, CommandRecord)]
    return [command for command in commands if isinstance(command, NewOrder)]


def damage(disk: SimulatedDisk, path: Path, index: int = -2) -> None:
    data = bytearray(disk.content(path))
    data[index] ^= 1
    disk.replace(path, bytes(data))


def snapshots_by_age(disk: SimulatedDisk) -> list[Path]:
    """The newest first."""
    header = read_header(disk.open(JOURNAL))
    return [path for path, _ in kept_snapshots(disk, JOURNAL, header)]


@pytest.mark.parametrize("seed", range(5))
def test_a_start_begins_with_the_newest_snapshot_and_comes_to_the_same(seed: int) -> None:
    disk, seqs = traded(seed)
    expected = replayed_state(disk)
    assert recovered_state(disk) == (expected, seqs[1])
    newest, older = snapshots_by_age(disk)
    damage(disk, newest)
    assert recovered_state(disk) == (expected, seqs[0])
    damage(disk, older)
    assert recovered_state(disk) == (expected, 0)


@pytest.mark.parametrize("seed", range(5))
def test_a_snapshot_says_what_a_replay_from_the_start_has_come_to(seed: int) -> None:
    disk, seqs = traded(seed)
    file = disk.open(JOURNAL)
    header = read_header(file)
    replay = Replay(header, checked=find_checked(file, beginning(header)))
    snapshots = [read_snapshot(disk, path) for path in snapshots_by_age(disk)]
    compared = 0
    for batch in History(file):
        replay.take(batch)
        for snapshot in snapshots:
            if snapshot.position == batch.position:
                assert all_lines(snapshot.restore(header)) == all_lines(replay.state())
                assert snapshot.digest == state_digest(replay.state())
                compared += 1
    assert compared == len(seqs) == 2


def test_two_are_kept() -> None:
    disk, seqs = traded(snapshots=3)
    header = read_header(disk.open(JOURNAL))
    assert [seq for _, seq in kept_snapshots(disk, JOURNAL, header)] == [seqs[2], seqs[1]]
    assert sorted(path.name for path in disk.paths()) == [
        "intc.durable",
        "intc.log",
        "intc.snapshot-a",
        "intc.snapshot-b",
    ]


def test_nothing_is_written_where_nothing_was_added() -> None:
    disk, _ = traded()
    first, _ = take_snapshot(disk, JOURNAL)
    operations = disk.operations
    assert take_snapshot(disk, JOURNAL)[0] == first
    assert disk.operations == operations


def test_what_is_not_durable_is_not_in_a_snapshot() -> None:
    disk = new_disk()
    server = SmallServer(disk)
    server.trade("1:sell 5@100")
    durable = server.journal.mark.seq
    server.decide(parse("2:buy 5@100"))
    server.recovered.file.append(server.journal.close_batch())
    assert take_snapshot(disk, JOURNAL)[0].seq == durable


def test_a_snapshot_may_be_taken_in_steps_that_each_end_when_it_is_enough() -> None:
    disk, _ = traded(snapshots=0)
    batches = len(list(History(disk.open(JOURNAL))))
    expected = replayed_state(disk)
    seqs = []
    for _ in range(batches):
        check, _ = take_snapshot(disk, JOURNAL, is_enough=lambda: True)
        seqs.append(check.seq)
    assert seqs == sorted(set(seqs))
    assert recovered_state(disk) == (expected, seqs[-1])


def moved(snapshot: Snapshot, position: Position) -> Snapshot:
    """A whole snapshot, of another place."""
    return replace(snapshot, position=position, before=[Stretch(position.offset, "0" * 32)])


def with_state(snapshot: Snapshot, old: bytes, new: bytes) -> Snapshot:
    """A whole snapshot, of another state."""
    assert old in snapshot.saved
    other = replace(snapshot, saved=snapshot.saved.replace(old, new))
    return replace(other, digest=state_digest(other.restore(SMALL)))


@pytest.mark.parametrize(
    "change",
    [
        lambda snapshot: replace(snapshot, lineage="0" * 16),
        lambda snapshot: replace(snapshot, ticker="acme"),
        lambda snapshot: replace(snapshot, rules=2),
        lambda snapshot: moved(snapshot, Position(10**6, 10**9, 10**5, "0" * 32)),
        lambda snapshot: moved(snapshot, Position(1, 200, 1, "0" * 32)),
        lambda snapshot: moved(snapshot, snapshot.position),
    ],
    ids=["lineage", "ticker", "rules", "beyond the end", "no batch's end", "another journal"],
)
def test_a_snapshot_of_something_else_is_not_used(change: Callable[[Snapshot], Snapshot]) -> None:
    disk, seqs = traded()
    expected = replayed_state(disk)
    newest, older = snapshots_by_age(disk)
    disk.replace(newest, change(read_snapshot(disk, newest)).encode())
    assert recovered_state(disk) == (expected, seqs[0])
    disk.remove(older)
    assert recovered_state(disk) == (expected, 0)


def test_a_snapshot_with_another_state_is_passed_over() -> None:
    """It is whole, but its state is not that of the journal: the check after it tells."""
    disk, seqs = traded()
    expected = replayed_state(disk)
    newest, _ = snapshots_by_age(disk)
    other = with_state(read_snapshot(disk, newest), b'"max_open_orders":0', b'"max_open_orders":7')
    disk.replace(newest, other.encode())
    assert recovered_state(disk) == (expected, seqs[0])
    recovered = open_journal(disk, JOURNAL, ticker="intc", dice=SeededDice(random.Random(0)))
    (reason,) = recovered.passed_over
    assert f"the state after record {seqs[1]} has the hash {other.digest}; the check says" in reason


@pytest.mark.parametrize("index", [0, -2], ids=["header", "body"])
def test_the_next_snapshot_takes_the_place_of_one_that_is_none(index: int) -> None:
    disk, seqs = traded()
    newest, older = snapshots_by_age(disk)
    damage(disk, newest, index)
    check, _ = take_snapshot(disk, JOURNAL)
    assert snapshots_by_age(disk) == [newest, older]
    assert recovered_state(disk)[1] == check.seq > seqs[1]


def test_snapshots_of_what_a_restored_journal_has_not_reached_make_room() -> None:
    disk, seqs = traded()
    for path in snapshots_by_age(disk):
        snapshot = read_snapshot(disk, path)
        later = Position(10**6 + snapshot.position.seq, 10**9, 10**5, "0" * 32)
        disk.replace(path, moved(snapshot, later).encode())
    first, _ = take_snapshot(disk, JOURNAL, is_enough=lambda: True)
    second, _ = take_snapshot(disk, JOURNAL)
    header = read_header(disk.open(JOURNAL))
    assert [seq for _, seq in kept_snapshots(disk, JOURNAL, header)] == [second.seq, first.seq]
    assert second.seq > seqs[1] > first.seq


def test_a_journal_that_was_cut_before_its_snapshot_is_judged_by_the_marks_as_ever() -> None:
    disk, seqs = traded(snapshots=1)
    file = disk.open(JOURNAL)
    end = next(batch.end_offset for batch in History(file) if batch.last_seq > seqs[0] // 2)
    disk.replace(JOURNAL, disk.content(JOURNAL)[:end])
    with pytest.raises(JournalDamaged, match=r"intc\.durable saw it reach record"):
        open_journal(disk, JOURNAL, ticker="intc", dice=SeededDice(random.Random(0)))
    disk.remove(DURABLE)
    assert recovered_state(disk) == (replayed_state(disk), 0)


def test_damage_before_a_snapshot_refuses_the_journal_with_the_byte_all_the_same() -> None:
    disk, seqs = traded()
    data = disk.content(JOURNAL)
    header = read_header(disk.open(JOURNAL))
    newest, _ = snapshots_by_age(disk)
    end = read_snapshot(disk, newest).position.offset
    for index in range(len(header.encode()), end, 7):
        changed = bytearray(data)
        changed[index] ^= 1
        copy = disk.copy(random.Random(0))
        copy.replace(JOURNAL, bytes(changed))
        with pytest.raises(JournalDamaged) as caught:
            open_journal(copy, JOURNAL, ticker="intc", dice=SeededDice(random.Random(0)))
        line = data.rfind(b"\n", 0, index) + 1
        assert caught.value.offset in (line, data.rfind(b"\n", 0, line - 1) + 1)
        assert copy.content(JOURNAL) == changed
    assert len(seqs) == 2


def test_a_start_after_a_snapshot_counts_on_and_refuses_what_does_not_follow() -> None:
    disk = new_disk()
    server = SmallServer(disk)
    server.trade("1:sell 5@100")
    take_snapshot(disk, JOURNAL)
    position = server.journal.position
    for line, reason in (
        ("1700000000.000000: epoch 3", "start 3 follows start 1"),
        ("1600000000.000000: tick", "time goes back"),
        ("1700000000.000000: [3] 2 buy 1@99.00/0", "order 3 is not the one of"),
    ):
        journal = Journal(server.journal.header, position, time=server.journal.time)
        journal._add(line)
        copy = disk.copy(random.Random(0))
        copy.replace(JOURNAL, copy.content(JOURNAL) + journal.close_batch())
        with pytest.raises(JournalDamaged, match=reason):
            open_journal(copy, JOURNAL, ticker="intc", dice=SeededDice(random.Random(0)))
    assert SmallServer(disk).recovered.epoch == 2


def test_ids_are_answered_alike_after_a_start_from_a_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R14: by id, the status and quantities of open and ended orders; as many as are kept."""
    monkeypatch.setattr(clientids, "REMEMBERED_IDS", 20)
    statuses: set[Status] = set()
    forgotten = 0
    for seed in range(6):
        disk, seqs = traded(seed)
        first = SmallServer(disk)
        assert first.recovered.snapshot_seq == seqs[1]
        for path in snapshots_by_age(disk):
            disk.remove(path)
        disk.kill()
        second = SmallServer(disk)
        assert second.recovered.snapshot_seq == 0
        with_ids = [command for command in carried_out(disk) if command.client_id]
        for command in with_ids:
            answers = first.decide(command)
            assert second.decide(command) == answers
            forgotten += not isinstance(answers[0], Duplicate)
            statuses.update(each.status for each in answers if isinstance(each, Duplicate))
    assert statuses == set(Status)
    assert forgotten > 10


# -- checks


def checked(change: Callable[[str], str] = lambda text: text) -> SimulatedDisk:
    disk, _ = traded(snapshots=0)
    server = SmallServer(disk)
    server.trade("1:buy 1@90")
    check, _ = take_snapshot(disk, JOURNAL)
    server.journal._add(change(f"check {check.seq} {check.digest}"))
    server.trade("1:buy 1@91")
    for path in snapshots_by_age(disk):
        disk.remove(path)
    disk.kill()
    return disk


def test_a_check_that_the_replay_confirms_is_fine() -> None:
    disk = checked()
    assert " check " not in "".join(replayed_state(disk))
    assert b"\ncheck " in disk.content(JOURNAL)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"), "has the hash"),
        (lambda text: "check 1 " + text.split(" ")[2], "no batch before it ends"),
        (lambda text: "check 999999 " + text.split(" ")[2], "no batch before it ends"),
    ],
    ids=["another hash", "within a batch", "of the future"],
)
def test_a_check_that_the_replay_does_not_confirm_refuses_the_journal(
    change: Callable[[str], str], reason: str
) -> None:
    disk = checked(change)
    with pytest.raises(JournalDamaged, match=reason) as caught:
        open_journal(disk, JOURNAL, ticker="intc", dice=SeededDice(random.Random(0)))
    assert disk.content(JOURNAL)[caught.value.offset :].startswith(b"check ")


def test_only_states_that_are_checked_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, seqs = traded(snapshots=3)
    hashed: list[State] = []

    def note(state: State) -> str:
        hashed.append(state)
        return "0" * 32

    monkeypatch.setattr(recovery, "state_digest", note)
    file = disk.open(JOURNAL)
    start = beginning(read_header(file))
    assert find_checked(file, start) == set(seqs)
    with pytest.raises(JournalDamaged):
        replayed_state(disk)
    assert len(hashed) == 1
    recovered_state(disk)
    assert len(hashed) == 1, "what a snapshot says is taken from its file"


# -- crashes


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_crash_at_any_step_leaves_an_older_snapshot_or_the_new_one(power_cut: bool) -> None:
    operation = 0
    came_to_an_end = False
    while not came_to_an_end:
        operation += 1
        disk, seqs = traded(operation, snapshots=2)
        disk.crash_after = operation
        expected = replayed_state(disk)
        try:
            take_snapshot(disk, JOURNAL)
            came_to_an_end = True
        except Crash:
            pass
        if power_cut:
            disk.power_cut()
        else:
            disk.kill()
        state, began = recovered_state(disk)
        assert state == expected
        assert began >= seqs[1]
        SmallServer(disk)
        again, _ = take_snapshot(disk, JOURNAL)
        assert recovered_state(disk)[1] == again.seq
        assert len(snapshots_by_age(disk)) == 2
    assert operation > 5


def test_a_snapshot_leaves_the_room_that_orders_need() -> None:
    disk, seqs = traded()
    disk.free = 256 * 1024 * 1024
    with pytest.raises(OSError, match="would leave too few free"):
        take_snapshot(disk, JOURNAL)
    assert disk.content(aside_path(JOURNAL)) == b""
    assert recovered_state(disk)[1] == seqs[1]
    disk.free += 100_000
    assert take_snapshot(disk, JOURNAL)[0].seq > seqs[1]


def test_a_failed_sync_leaves_the_snapshots_as_they_are() -> None:
    disk, seqs = traded()
    disk.fail_sync = True
    with pytest.raises(OSError, match="input/output"):
        take_snapshot(disk, JOURNAL)
    assert disk.content(aside_path(JOURNAL)) == b""
    assert recovered_state(disk)[1] == seqs[1]


@pytest.mark.parametrize("name", ["intc.snapshot-a", "intc.snapshot-b", "intc.snapshot-new"])
def test_a_journal_has_another_name_than_its_snapshots(name: str) -> None:
    with pytest.raises(Contradiction, match=name):
        open_journal(
            new_disk(), JOURNAL.with_name(name), ticker="intc", dice=SeededDice(random.Random(0))
        )


# -- the command line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    disk, _ = traded()
    for path in disk.paths():
        (tmp_path / path.name).write_bytes(disk.content(path))
    return tmp_path


def test_the_command_line_compares_the_snapshots(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder / "intc.log")]) == 0
    words = r"; in agreement with the snapshot of record \d+ and the snapshot of record \d+\n"
    assert re.search(words, capsys.readouterr().out)


def test_what_cannot_be_read_keeps_nobody_from_starting(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = folder / "intc.log"
    for path in snapshot_paths(journal):
        path.unlink()
        path.mkdir()
    dice = SeededDice(random.Random(0))
    recovered = open_journal(SystemDisk(), journal, ticker="intc", dice=dice)
    assert recovered.snapshot_seq == 0
    recovered.file.close()
    recovered.mark_file.close()
    assert main([str(journal)]) == 0
    assert "not used: intc.snapshot-a: [Errno 21] Is a directory" in capsys.readouterr().out
    with pytest.raises(IsADirectoryError):
        take_snapshot(SystemDisk(), journal)


def test_the_command_line_refuses_a_snapshot_with_another_state(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "intc.snapshot-b"
    snapshot = Snapshot.decode(path.read_bytes())
    path.write_bytes(with_state(snapshot, b'"max_open_orders":0', b'"max_open_orders":7').encode())
    assert main([str(folder / "intc.log")]) == 75
    error = capsys.readouterr().err
    assert f"byte {snapshot.position.offset}: intc.snapshot-b has another state" in error
    assert "2 lines differ, the first is in the replay only: limit * max_open_orders 0" in error


def test_the_command_line_says_which_snapshot_has_other_bytes_before_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "intc.snapshot-b"
    snapshot = Snapshot.decode(path.read_bytes())
    path.write_bytes(moved(snapshot, snapshot.position).encode())
    assert main([str(folder / "intc.log")]) == 75
    end = snapshot.position.offset
    assert capsys.readouterr().err == (
        f"{folder / 'intc.log'}: byte {end}: intc.snapshot-b is not of this: byte 0: up to byte"
        f" {end} the hash is not the one of the snapshot\n"
    )


def test_the_command_line_notes_what_no_start_would_use(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = folder / "intc.snapshot-a", folder / "intc.snapshot-b"
    first.write_bytes(first.read_bytes()[:-1])
    snapshot = Snapshot.decode(second.read_bytes())
    second.write_bytes(replace(snapshot, lineage="0" * 16).encode())
    assert main([str(folder / "intc.log")]) == 0
    out = capsys.readouterr().out
    assert "not used: intc.snapshot-a: it is not what was written" in out
    assert "not used: intc.snapshot-b: it is of another journal" in out
    assert "in agreement" not in out
    second.write_bytes(moved(snapshot, Position(10**6, 10**9, 10**5, "0" * 32)).encode())
    assert main([str(folder / "intc.log")]) == 0
    assert (
        "intc.snapshot-b: the journal has no record 1000000 as it says" in capsys.readouterr().out
    )
