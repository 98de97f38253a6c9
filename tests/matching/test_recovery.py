"""Opening a journal: what is recovered, what is mended, and what is refused with which words."""

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from matching.events import Accepted
from matching.journal import (
    Header,
    History,
    Journal,
    JournalDamaged,
    Mark,
    UnknownJournal,
    read_batches,
    read_header,
)
from matching.order import Cancel, CancelReason, NewOrder, Phase, Side
from matching.records import CommandRecord
from matching.recovery import Contradiction, main, open_journal, take_snapshot
from tests.matching.small_server import (
    DURABLE,
    JOURNAL,
    SETTLED,
    TORN,
    SmallServer,
    new_disk,
    parse,
)
from tests.simulated_disk import Crash, SeededDice, SetClock, SimulatedDisk

SECOND = 1_000_000


def batches(disk: SimulatedDisk) -> list[list[str]]:
    """The lines of each batch in the journal."""
    file = disk.open(JOURNAL)
    return [batch.lines for batch in read_batches(file, read_header(file))]


def texts(disk: SimulatedDisk) -> list[str]:
    """All lines of the journal without their times."""
    return [line.partition(": ")[2] for lines in batches(disk) for line in lines]


def refused(disk: SimulatedDisk, **terms: int) -> JournalDamaged:
    """The damage for which the journal is refused; nothing on the disk changes."""
    before = {path: disk.content(path) for path in disk.paths()}
    with pytest.raises(JournalDamaged) as caught:
        SmallServer(disk, **terms)
    assert {path: disk.content(path) for path in disk.paths()} == before
    return caught.value


# -- a new journal


def test_the_first_start_makes_a_journal_with_the_terms_asked_for() -> None:
    disk = new_disk()
    server = SmallServer(disk, tick=500, lot=10, reference=250_000)
    header = server.journal.header
    assert (header.ticker, header.tick, header.lot, header.reference) == ("intc", 500, 10, 250_000)
    assert (server.engine.tick, server.engine.lot, server.engine.reference) == (500, 10, 250_000)
    assert server.recovered.is_new
    assert texts(disk) == ["epoch 1"]
    assert disk.synced_content(JOURNAL) == disk.content(JOURNAL)


def test_a_journal_made_without_terms_has_the_defaults() -> None:
    header = SmallServer(new_disk()).journal.header
    assert (header.tick, header.lot, header.reference) == (100, 1, 1_000_000)


def test_two_journals_are_of_different_lineages_and_salts() -> None:
    dice = SeededDice(random.Random(0))
    first = SmallServer(new_disk(), dice=dice).journal.header
    second = SmallServer(new_disk(), dice=dice).journal.header
    assert first.lineage != second.lineage
    assert first.salt != second.salt


def test_a_new_journal_has_a_safe_mark_before_its_first_batch() -> None:
    disk = new_disk()
    open_journal(disk, JOURNAL, ticker="intc", dice=SeededDice(random.Random(0)))
    header = read_header(disk.open(JOURNAL))
    mark = Mark(0, len(header.encode()), header.lineage)
    assert disk.synced_content(DURABLE) == mark.encode()


def half_made(data: bytes) -> SimulatedDisk:
    disk = new_disk()
    disk.replace(JOURNAL, data)
    return disk


WHOLE_HEADER = Header(
    ticker="intc", lineage="9c1f0a44d2b7e683", tick=100, lot=1, reference=1_000_000, salt=7
).encode()


@pytest.mark.parametrize(
    "data",
    [b"", WHOLE_HEADER[:1], WHOLE_HEADER[:-1], b"\0" * 150, WHOLE_HEADER[:99] + b"\0" * 20],
    ids=["empty", "one byte", "all but the newline", "zeroes", "half"],
)
def test_a_journal_that_a_crash_left_without_its_header_is_made_anew(data: bytes) -> None:
    disk = half_made(data)
    server = SmallServer(disk)
    server.trade("1:buy 5@99")
    assert server.recovered.is_new
    assert texts(disk) == ["epoch 1", "[1] 1 buy 5@99.00/0"]


def test_a_journal_that_a_crash_left_with_its_header_alone_goes_on() -> None:
    disk = half_made(WHOLE_HEADER)
    server = SmallServer(disk)
    assert server.journal.header.lineage == "9c1f0a44d2b7e683"
    assert server.recovered.is_new
    assert texts(disk) == ["epoch 1"]


@pytest.mark.parametrize("mark_path", [DURABLE, SETTLED])
@pytest.mark.parametrize("data", [None, b"", WHOLE_HEADER[:-1]])
def test_a_missing_or_half_made_journal_that_a_mark_knows_is_refused(
    mark_path: Path, data: bytes | None
) -> None:
    disk = new_disk()
    if data is not None:
        disk.replace(JOURNAL, data)
    disk.replace(mark_path, Mark(12, 900, "9c1f0a44d2b7e683").encode())
    assert refused(disk).reason == (
        f"there is no journal, but {mark_path.name} saw one reach record 12:"
        " bring it back, or move its marks away with it"
    )


def test_a_damaged_header_of_a_journal_with_history_is_refused() -> None:
    disk = new_disk()
    SmallServer(disk)
    data = disk.content(JOURNAL)
    disk.replace(JOURNAL, b"#emte" + data[5:])
    disk.remove(DURABLE)
    assert str(refused(disk)) == "byte 0: the file does not begin with a whole header (#EMTE …)"


def test_even_the_shortest_history_is_never_taken_for_a_half_made_journal() -> None:
    """A journal with one batch whose every line is damaged but one, and whose mark is gone."""
    header = Header(ticker="a", lineage="0" * 16, tick=1, lot=1, reference=1, salt=0)
    journal = Journal(header)
    journal.tick(at=0)
    data = header.encode() + journal.close_batch()
    for end in range(len(header.encode()) + 1, len(data)):
        damaged = b"!" + data[1:end]
        if len(damaged) > 192 or damaged.count(b" x=") > 1:
            assert refused(half_made(damaged)).offset == 0


# -- going on


def test_a_restart_has_everything_that_was_acknowledged() -> None:
    disk = new_disk()
    server = SmallServer(disk)
    server.trade("1:sell 5@100", "2:buy 3@100", "3:buy 7@98 id=a", "4:sell 2/95")
    server.trade("phase intc halted", "key intc 7 2")
    disk.power_cut(lose_everything=True)
    again = SmallServer(disk)
    engine = again.engine
    assert [(order.oid, order.open_quantity) for order in engine.open_orders()] == [
        (1, 2),
        (3, 7),
        (4, 2),
    ]
    assert (engine.last, engine.phase, engine.next_oid, engine.next_tid) == (
        1_000_000,
        Phase.HALTED,
        5,
        2,
    )
    assert (engine.position(2), engine.position(1)) == (3, -3)
    assert (engine.generation(7), engine.generation(8)) == (2, 1)
    found = engine.find(3, "a")
    assert found is not None
    assert found.oid == 3


def test_each_start_has_its_number_and_only_the_first_is_new() -> None:
    disk = new_disk()
    starts = []
    for _ in range(3):
        server = SmallServer(disk)
        starts.append((server.recovered.epoch, server.recovered.is_new))
        disk.kill()
    assert starts == [(1, True), (2, False), (3, False)]
    assert texts(disk) == ["epoch 1", "epoch 2", "epoch 3"]


def test_journal_time_never_goes_back_though_the_clock_does() -> None:
    disk, clock = new_disk(), SetClock()
    server = SmallServer(disk, clock)
    clock.microseconds += 60 * SECOND
    server.trade("1:buy 5@99")
    late = server.journal.time
    disk.kill()
    clock.microseconds -= 3600 * SECOND
    again = SmallServer(disk, clock)
    again.trade("1:buy 5@98")
    file = disk.open(JOURNAL)
    times = [r.time for batch in read_batches(file, read_header(file)) for r in batch.records()]
    assert times == sorted(times)
    assert times[-1] == late


def test_every_kind_of_event_is_decided_again() -> None:
    disk = new_disk()
    server = SmallServer(disk)
    server.trade(
        "7:sell 5@100",
        "7:buy 3@100 stp=decrement",
        "8:buy 2/99",
        "8:buy 1@100",
        "8:buy 9@100 tif=ioc",
        "set intc breaker=1",
        "9:sell 1@120",
        "8:buy 1",
    )
    kinds = {words[0] for words in (text.split(" ") for text in texts(disk))}
    assert kinds >= {"match", "decremented", "triggered", "canceled", "phase"}
    disk.kill()
    again = SmallServer(disk)
    assert again.recovered.journal.seq > len(kinds)
    assert str(again.engine.book) == str(server.engine.book)


@pytest.mark.parametrize("snapshot_after", [0, 1, 4, 5])
def test_orders_marked_cod_are_named_for_cancellation_and_others_are_not(
    snapshot_after: int,
) -> None:
    disk = new_disk()
    server = SmallServer(disk)
    bid = NewOrder(ticker="intc", owner=1, side=Side.BUY, quantity=5, price=990_000, cod=True)
    commands = (
        bid,
        replace(bid, owner=2, cod=False),
        replace(bid, owner=3),
        replace(bid, owner=4, quantity=1, price=0, stop=1_100_000),
        parse("3:del 3"),
    )
    for number, command in enumerate(commands, start=1):
        server.decide(command)
        server.commit()
        if number == snapshot_after:
            take_snapshot(disk, JOURNAL)
    disk.kill()
    again = SmallServer(disk)
    assert (again.recovered.snapshot_seq > 0) == (snapshot_after > 0)
    assert again.recovered.disconnects == [
        Cancel(ticker="intc", owner=1, oid=1, reason=CancelReason.DISCONNECT),
        Cancel(ticker="intc", owner=4, oid=4, reason=CancelReason.DISCONNECT),
    ]
    assert batches(disk)[-1] != []
    assert texts(disk)[-5:] == [
        "epoch 2",
        "[1] 1 del why=disconnect",
        "canceled [1] 5 disconnect",
        "[4] 4 del why=disconnect",
        "canceled [4] 1 disconnect",
    ]


def test_the_signatures_of_the_journals_last_10_seconds_are_recovered() -> None:
    disk, clock = new_disk(), SetClock()
    server = SmallServer(disk, clock)
    start = clock.now()
    sent = (
        (0, "1:buy 1@99", "00000000000000aa"),
        (2, "1:buy 2@99", "00000000000000bb"),
        (3, "1:del all", "00000000000000cc"),
        (4, "1:buy 4@99", ""),
        (12, "1:buy 5@99", "00000000000000dd"),
    )
    for seconds, text, signature_prefix in sent:
        clock.microseconds = start + seconds * SECOND
        server.decide(parse(text), signature_prefix=signature_prefix)
        server.commit()
    disk.kill()
    seen = open_journal(disk, JOURNAL, ticker="intc", dice=SeededDice(random.Random())).signatures
    assert [(each.prefix, each.oid, each.time - start) for each in seen] == [
        ("00000000000000bb", 2, 2 * SECOND),
        ("00000000000000cc", 0, 3 * SECOND),
        ("00000000000000dd", 4, 12 * SECOND),
    ]
    assert [each.command.owner for each in seen] == [1, 1, 1]
    records = {}
    file = disk.open(JOURNAL)
    for batch in read_batches(file, read_header(file)):
        records.update({record.seq: record.body for record in batch.records()})
    for each in seen:
        assert records[each.seq] == CommandRecord(each.oid, each.command, each.prefix)


def test_the_mark_is_true_when_a_journal_has_been_opened() -> None:
    disk = new_disk()
    server = SmallServer(disk)
    server.trade("1:buy 5@99")
    seq = server.journal.seq
    disk.remove(DURABLE)
    disk.kill()
    opened = open_journal(disk, JOURNAL, ticker="intc", dice=SeededDice(random.Random()))
    mark = Mark.decode(disk.synced_content(DURABLE), "intc.durable")
    assert mark == opened.journal.mark
    assert mark is not None
    assert mark.seq == seq


def test_what_survived_a_kill_is_synced_before_it_is_served() -> None:
    """The batch is whole in the page cache, and not on the medium; a power cut comes later."""
    disk = new_disk()
    server = SmallServer(disk)
    server.decide(parse("1:buy 5@99"))
    server.recovered.file.append(server.journal.close_batch())
    disk.kill()
    opened = open_journal(disk, JOURNAL, ticker="intc", dice=SeededDice(random.Random()))
    assert opened.engine.next_oid == 2
    disk.power_cut(lose_everything=True)
    assert SmallServer(disk).engine.next_oid == 2


def test_what_a_failed_sync_forgot_is_written_again_before_it_is_served() -> None:
    """The kernel takes pages of a failed sync for written; readers see what no medium has."""
    disk = new_disk()
    server = SmallServer(disk)
    server.decide(parse("1:buy 5@99"))
    disk.fail_sync = True
    with pytest.raises(OSError, match="input/output error"):
        server.commit()
    disk.kill()
    assert SmallServer(disk).engine.next_oid == 2
    disk.power_cut(lose_everything=True)
    assert SmallServer(disk).engine.next_oid == 2


# -- a torn tail


def journal_with_torn_tail(tail: bytes) -> SimulatedDisk:
    disk = new_disk()
    SmallServer(disk).trade("1:buy 5@99")
    disk.kill()
    disk.replace(JOURNAL, disk.content(JOURNAL) + tail)
    return disk


@pytest.mark.parametrize("tail", [b"x", b"1700000000.0600", b"\0" * 5000, b"commit 1\n\n"])
def test_a_torn_tail_is_kept_aside_and_cut_off(tail: bytes) -> None:
    disk = journal_with_torn_tail(tail)
    server = SmallServer(disk)
    assert server.recovered.torn_bytes == len(tail)
    assert disk.synced_content(TORN) == tail
    assert texts(disk) == ["epoch 1", "[1] 1 buy 5@99.00/0", "epoch 2"]


def test_the_tails_of_several_crashes_are_all_kept() -> None:
    disk = journal_with_torn_tail(b"one")
    SmallServer(disk)
    disk.kill()
    disk.replace(JOURNAL, disk.content(JOURNAL) + b"two")
    SmallServer(disk)
    assert disk.content(TORN) == b"onetwo"


def test_no_tail_no_torn_file() -> None:
    disk = journal_with_torn_tail(b"")
    assert SmallServer(disk).recovered.torn_bytes == 0
    assert not disk.exists(TORN)


def test_a_batch_that_was_never_acknowledged_may_be_cut_whole() -> None:
    disk = new_disk()
    server = SmallServer(disk)
    server.decide(parse("1:buy 5@99"))
    lost = server.journal.close_batch()
    server.recovered.file.append(lost[:-1])
    disk.kill()
    again = SmallServer(disk)
    assert again.engine.next_oid == 1
    assert disk.content(TORN) == lost[:-1]
    assert again.trade("1:buy 7@99") == [[Accepted(1)]]


# -- refusals


def damaged(disk: SimulatedDisk, old: bytes, new: bytes) -> int:
    """Change bytes of the journal; where."""
    data = disk.content(JOURNAL)
    disk.replace(JOURNAL, data.replace(old, new, 1))
    return data.index(old)


def three_batches() -> SimulatedDisk:
    disk = new_disk()
    server = SmallServer(disk)
    server.trade("1:sell 5@100", "2:buy 3@100")
    server.trade("3:buy 7@98")
    disk.kill()
    return disk


def test_history_damaged_before_its_last_batch_is_refused_with_the_byte() -> None:
    disk = three_batches()
    disk.remove(DURABLE)
    damaged(disk, b"match 3", b"match 2")
    damage = refused(disk)
    assert damage.offset == disk.content(JOURNAL).index(b"1700000000.000000: match")
    assert damage.reason.startswith("the line is not what was written: its CRC differs; a line of")
    assert damage.reason.endswith("proves that batch 2 was whole once")


def test_what_a_power_cut_left_behind_the_mark_is_served_once_it_is_cut_at_the_byte() -> None:
    """As docs/RELIABILITY.md tells an operator who chose `--durability write`."""
    disk = three_batches()
    first = next(iter(History(disk.open(JOURNAL))))
    lineage = read_header(disk.open(JOURNAL)).lineage
    disk.replace(DURABLE, Mark(first.last_seq, first.end_offset, lineage).encode())
    damaged(disk, b"match 3", b"match 2")
    damage = refused(disk)
    disk.replace(JOURNAL, disk.content(JOURNAL)[: damage.offset])
    server = SmallServer(disk)
    assert texts(disk) == ["epoch 1", "epoch 2"]
    assert disk.content(TORN).startswith(b"1700000000.000000: [1] 1 sell 5@100.00/0")
    assert server.trade("1:buy 7@99") == [[Accepted(1)]]


@pytest.mark.parametrize("mark_path", [DURABLE, SETTLED])
def test_a_journal_that_ends_before_a_mark_is_refused(mark_path: Path) -> None:
    disk = three_batches()
    mark = disk.content(DURABLE)
    disk.remove(DURABLE)
    disk.replace(mark_path, mark)
    damaged(disk, b"3 buy 7", b"3 buy 8")
    end = disk.content(JOURNAL).index(b"1700000000.000000: [3] 3 buy 8")
    damage = refused(disk)
    assert damage.offset == end
    assert damage.reason == (
        f"the journal is sound up to record 6 here; {mark_path.name} saw it reach record 8"
        f" at byte {len(disk.content(JOURNAL))}"
    )


@pytest.mark.parametrize("mark_path", [DURABLE, SETTLED])
def test_a_journal_of_another_lineage_than_a_mark_is_refused(mark_path: Path) -> None:
    disk = three_batches()
    lineage = read_header(disk.open(JOURNAL)).lineage
    disk.replace(mark_path, Mark(1, 1, "0123456789abcdef").encode())
    assert refused(disk).reason == (
        f"the journal is of lineage {lineage}; {mark_path.name} is of 0123456789abcdef"
    )


def test_a_mark_that_cannot_be_read_is_refused() -> None:
    disk = three_batches()
    disk.replace(DURABLE, b"8 oops".ljust(64))
    assert "intc.durable does not hold a mark: b'8 oops" in refused(disk).reason


def test_a_mark_that_was_lost_before_it_was_written_is_no_hindrance() -> None:
    disk = three_batches()
    disk.replace(DURABLE, b"\0" * 64)
    assert SmallServer(disk).engine.next_oid == 4


def handmade(*lines: str) -> SimulatedDisk:
    """A journal of one batch with these lines, sealed as they should be."""
    header = read_header(half_made(WHOLE_HEADER).open(JOURNAL))
    journal = Journal(header)
    for line in lines:
        journal._add(line)
    return half_made(WHOLE_HEADER + journal.close_batch())


EPOCH = "1700000000.000000: epoch 1"
SELL = "1700000000.000000: [1] 1 sell 5@100.00/0"
BUY = "1700000000.000000: [2] 2 buy 5@100.00/0"
MATCH = "1700000000.000000: match 5@100.00 from 1(1) to 2(2) t=1 k=buy"


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        (
            (EPOCH, SELL, BUY, MATCH.replace("5@", "4@")),
            3,
            f"the engine decided '{MATCH}'; the journal says '{MATCH.replace('5@', '4@')}'",
        ),
        (
            (EPOCH, SELL, BUY, MATCH.replace("00.000000", "00.000001")),
            3,
            f"the engine decided '{MATCH}'; the journal says '1700000000.000001: match 5@100.00",
        ),
        ((EPOCH, SELL, BUY), 3, f"the engine decided '{MATCH}'; the batch ends here"),
        ((EPOCH, SELL, MATCH), 2, f"the engine did not decide this: '{MATCH}'"),
        ((EPOCH, SELL, BUY, MATCH, MATCH), 4, f"the engine did not decide this: '{MATCH}'"),
        ((EPOCH, SELL, BUY, MATCH, MATCH[:-1]), 4, "no known form of line: 'match 5@100.00"),
        ((EPOCH, MATCH), 1, f"the engine did not decide this: '{MATCH}'"),
        ((EPOCH, SELL, BUY, MATCH, BUY), 4, "order 2 is not the one of"),
        ((EPOCH, SELL, SELL), 2, "order 1 is not the one of"),
        ((EPOCH, BUY), 1, "order 2 is not the one of"),
        ((EPOCH, SELL.replace("100.00", "100.001")), 1, "was not carried out: [Rejected("),
        ((EPOCH, SELL, EPOCH), 2, "start 1 follows start 1"),
        ((EPOCH.replace(" 1", " 2"),), 0, "start 2 follows start 0"),
        (
            (EPOCH, SELL.replace("1700000000", "1600000000")),
            1,
            "time goes back, from 1700000000.000000 to 1600000000.000000",
        ),
        ((EPOCH, SELL + " x"), 1, "no known form of command"),
        ((EPOCH, "1700000000.000000: dance"), 1, "no known form of line: 'dance'"),
    ],
)
def test_a_journal_that_the_engine_would_not_have_written_is_refused(
    lines: Sequence[str], line: int, reason: str
) -> None:
    disk = handmade(*lines)
    (batch,) = read_batches(disk.open(JOURNAL), read_header(disk.open(JOURNAL)))
    damage = refused(disk)
    assert reason in damage.reason
    assert damage.offset == batch.line_offset(line)


def test_a_seal_takes_no_part_in_a_replay() -> None:
    assert SmallServer(handmade(EPOCH, SELL, f"{EPOCH[:19]}tick")).engine.next_oid == 2


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({"tick": 500}, "the journal has tick 0.01, not 0.05"),
        ({"reference": 999_999}, "the journal has price 100.00, not 99.9999"),
        ({"lot": 10}, "the journal has lot 1, not 10"),
    ],
)
def test_terms_that_contradict_the_journal_are_a_wrong_configuration(
    terms: dict[str, int], reason: str
) -> None:
    disk = three_batches()
    before = disk.content(JOURNAL)
    with pytest.raises(Contradiction, match=reason):
        SmallServer(disk, **terms)
    assert disk.content(JOURNAL) == before


def test_terms_that_agree_with_the_journal_are_fine() -> None:
    assert SmallServer(three_batches(), tick=100, lot=1, reference=1_000_000).engine.next_oid == 4


def test_the_journal_of_another_product_is_a_wrong_configuration() -> None:
    disk = three_batches()
    with pytest.raises(Contradiction, match="the journal is of intc, not of gs"):
        open_journal(disk, JOURNAL, ticker="gs", dice=SeededDice(random.Random()))


def test_unknown_rules_are_a_wrong_configuration() -> None:
    header = Header(ticker="intc", lineage="0" * 16, tick=100, lot=1, reference=1, salt=0, rules=2)
    with pytest.raises(UnknownJournal, match="rules=2; this program plays by rules=1"):
        SmallServer(half_made(header.encode()))


# -- exhaustive


def small_journal() -> SimulatedDisk:
    disk = new_disk()
    server = SmallServer(disk)
    server.trade("1:sell 5@100 id=a", "2:buy 3@100 tif=day")
    server.trade("3:buy 7/101", "1:del id=a")
    disk.kill()
    return disk


def history_after_opening(disk: SimulatedDisk) -> list[list[str]] | None:
    """The batches that an opening finds good; None if it refuses."""
    try:
        open_journal(disk, JOURNAL, ticker="intc", dice=SeededDice(random.Random(1)))
    except (JournalDamaged, UnknownJournal, Contradiction):
        return None
    return batches(disk)


@pytest.mark.parametrize("has_mark", [True, False])
def test_no_length_of_a_journal_is_a_silently_different_history(*, has_mark: bool) -> None:
    disk = small_journal()
    data, mark, whole = disk.content(JOURNAL), disk.content(DURABLE), batches(disk)
    found = set()
    for length in range(len(data)):
        cut = half_made(data[:length])
        if has_mark:
            cut.replace(DURABLE, mark)
        history = history_after_opening(cut)
        assert history is None or (not has_mark and history == whole[: len(history)])
        found.add(None if history is None else len(history))
    assert found == ({None} if has_mark else {0, 1, 2})


@pytest.mark.parametrize("has_mark", [True, False])
def test_no_flipped_bit_of_a_journal_is_a_silently_different_history(*, has_mark: bool) -> None:
    disk = small_journal()
    data, mark, whole = disk.content(JOURNAL), disk.content(DURABLE), batches(disk)
    last_batch = data.index(b"1700000000.000000: [3]")
    for place in range(len(data)):
        for bit in range(8):
            flipped = half_made(
                data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
            )
            if has_mark:
                flipped.replace(DURABLE, mark)
            history = history_after_opening(flipped)
            if place >= last_batch and not has_mark:
                assert history == whole[:-1]
            else:
                assert history is None, f"bit {bit} of byte {place}"


def test_no_flipped_bit_of_a_mark_changes_history() -> None:
    disk = small_journal()
    data, mark, whole = disk.content(JOURNAL), disk.content(DURABLE), batches(disk)
    for place in range(len(mark)):
        for bit in range(8):
            other = half_made(data)
            flipped = bytes([mark[place] ^ (1 << bit)])
            other.replace(DURABLE, mark[:place] + flipped + mark[place + 1 :])
            assert history_after_opening(other) in (None, whole)


def test_recovering_twice_is_recovering_once() -> None:
    disk = journal_with_torn_tail(b"torn")
    for _ in range(2):
        open_journal(disk, JOURNAL, ticker="intc", dice=SeededDice(random.Random()))
        assert texts(disk) == ["epoch 1", "[1] 1 buy 5@99.00/0"]
        assert disk.content(TORN) == b"torn"
        disk.power_cut(lose_everything=True)


def test_a_failing_disk_stops_recovery_and_promises_nothing() -> None:
    disk = journal_with_torn_tail(b"torn")
    disk.fail_sync = True
    with pytest.raises(OSError, match="input/output error"):
        SmallServer(disk)
    disk.kill()
    assert SmallServer(disk).engine.next_oid == 2


def test_a_crash_anywhere_in_the_making_of_a_journal_leaves_one_that_opens() -> None:
    crashes = 0
    for operation in range(1, 100):
        disk = new_disk(operation)
        disk.crash_after = operation
        try:
            SmallServer(disk)
            break
        except Crash:
            crashes += 1
        disk.power_cut()
        server = SmallServer(disk)
        assert server.trade("1:buy 5@99") == [[Accepted(1)]]
    assert crashes >= 6


# -- the command line


@pytest.fixture
def journal_file(tmp_path: Path) -> Path:
    disk = small_journal()
    path = tmp_path / "intc.log"
    path.write_bytes(disk.content(JOURNAL))
    path.with_suffix(".durable").write_bytes(disk.content(DURABLE))
    return path


def test_the_command_line_replays_and_says_what_it_found(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(journal_file)]) == 0
    assert capsys.readouterr().out == (
        "replayed: 10 records give the same events again; 3 orders, 1 trades, 1 starts,"
        " 1 orders open, phase continuous\n"
    )


def test_the_command_line_changes_nothing_and_says_what_is_wrong(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = journal_file.read_bytes()
    torn = data[:-20]
    journal_file.write_bytes(torn)
    assert main([str(journal_file)]) == 75
    assert "intc.durable saw it reach record 10" in capsys.readouterr().err
    assert journal_file.read_bytes() == torn
    assert not journal_file.with_suffix(".torn").exists()


def test_the_command_line_tells_an_event_that_differs(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = handmade(EPOCH, SELL, BUY, MATCH.replace("t=1", "t=2"))
    journal_file.write_bytes(disk.content(JOURNAL))
    journal_file.with_suffix(".durable").unlink()
    assert main([str(journal_file)]) == 75
    assert f"the engine decided '{MATCH}'; the journal says" in capsys.readouterr().err


def test_the_program_runs_as_a_module(journal_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "matching.recovery", str(journal_file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("replayed: 10 records")


def test_the_program_checks_nothing_where_python_leaves_its_checks_out(journal_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-m", "matching.recovery", str(journal_file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "python -O leaves out the engine's own checks: run it without" in done.stderr


def test_the_command_line_knows_one_set_of_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = Header(ticker="intc", lineage="0" * 16, tick=100, lot=1, reference=1, salt=0, rules=2)
    path = tmp_path / "intc.log"
    path.write_bytes(header.encode())
    assert main([str(path)]) == 78
    assert capsys.readouterr().err == f"{path}: rules=2; this program plays by rules=1\n"
