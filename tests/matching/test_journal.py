"""The journal's bytes: PROTOCOL §5, written from what an engine decided, and read back."""

import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_fields

from matching.engine import Engine
from matching.events import (
    Accepted,
    Duplicate,
    Event,
    Rejected,
    Trade,
)
from matching.journal import (
    Batch,
    FileSource,
    Header,
    History,
    Journal,
    JournalDamaged,
    Mark,
    Position,
    UnknownJournal,
    beginning,
    main,
    read_batches,
    read_header,
)
from matching.order import (
    Side,
    Status,
    TimeInForce,
)
from matching.records import (
    CommandRecord,
    Epoch,
    format_time,
)
from tests.matching.decided import T0, events_of, order
from tests.matching.small_server import parse

EXAMPLE = b"""\
#EMTE 1 ticker=intc lineage=9c1f0a44d2b7e683 tick=0.01 lot=1 reference=100.00 rules=1 \
salt=deadbeef x=f561f358
1700000000.010000: epoch 1 s=1 b=1 x=66f06938
1700000000.020000: [1] 3 sell 4@99.90/0 s=2 b=1 x=56e750a4
1700000000.020000: [2] 2 buy 5@99.80/0 tif=day s=3 b=1 x=c22ba562
1700000000.030000: [3] 1 sell 8@99.97/0 id=c3 s=4 b=1 x=516ff0e0
1700000000.040000: [4] 4 buy 4@99.95/0 g=5d2e8a60b1c74f93 s=5 b=1 x=71eea304
1700000000.040000: match 4@99.90 from 3(1) to 4(4) t=1 k=buy s=6 b=1 x=908bf944
1700000000.050000: [5] 5 buy 3@0/99.98 cod=1 s=7 b=1 x=489c245e
commit 7 s=8 b=1 h=fc127fd6ac991d3df78fa79608e66819 x=8563a221
"""
"""PROTOCOL §5's example, byte for byte."""

HEADER = Header(
    ticker="intc",
    lineage="9c1f0a44d2b7e683",
    tick=100,
    lot=1,
    reference=1_000_000,
    salt=0xDEADBEEF,
)


class Memory:
    """Bytes as a file to read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.largest_read = 0

    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        self.largest_read = max(self.largest_read, length)
        return self.data[offset : offset + length]


def written(*batches: Sequence[str]) -> bytes:
    """A journal: per batch the texts of commands that an engine carries out, 10 ms apart."""
    engine = Engine("intc")
    journal = Journal(HEADER)
    data = HEADER.encode()
    at = T0
    for texts in batches:
        for text in texts:
            at += 10_000
            command = parse(text)
            events = engine.apply(command, at)
            journal.append(command, oid=events[0].oid, events=events, at=at)
        data += journal.close_batch()
    return data


# -- bytes


def test_the_example_of_the_protocol_is_written_from_commands_and_what_the_engine_decides() -> None:
    engine = Engine("intc", tick=100, lot=1, reference=1_000_000)
    journal = Journal(HEADER)
    journal.epoch(1, at=T0 + 10_000)
    commands = (
        (20_000, "3:sell intc 4@99.90", "", False),
        (20_000, "2:buy intc 5@99.80 tif=day", "", False),
        (30_000, "1:sell intc 8@99.97 id=c3", "", False),
        (40_000, "4:buy intc 4@99.95 ts=1700000000040", "5d2e8a60b1c74f93", False),
        (50_000, "5:buy intc 3/99.98", "", True),
    )
    for microseconds, text, signature_prefix, cod in commands:
        command = parse(text)
        if cod:
            command = order(5, Side.BUY, 3, 0, stop=999_800, cod=True)
        events = engine.apply(command, T0 + microseconds)
        journal.append(
            command,
            oid=engine.next_oid - 1,
            events=events,
            at=T0 + microseconds,
            signature_prefix=signature_prefix,
        )
    assert HEADER.encode() + journal.close_batch() == EXAMPLE


def test_the_example_of_the_protocol_is_read_back() -> None:
    source = Memory(EXAMPLE)
    assert read_header(source) == HEADER
    (batch,) = read_batches(source, HEADER)
    assert (batch.number, batch.first_seq, batch.last_seq) == (1, 1, 8)
    assert (batch.offset, batch.end_offset) == (len(HEADER.encode()), len(EXAMPLE))
    assert batch.chain == "fc127fd6ac991d3df78fa79608e66819"
    assert [(record.seq, record.time - T0, record.body) for record in batch.records()] == [
        (1, 10_000, Epoch(1)),
        (2, 20_000, CommandRecord(1, order(3, Side.SELL, 4, 999_000))),
        (3, 20_000, CommandRecord(2, order(2, Side.BUY, 5, 998_000, tif=TimeInForce.DAY))),
        (4, 30_000, CommandRecord(3, order(1, Side.SELL, 8, 999_700, client_id="c3"))),
        (5, 40_000, CommandRecord(4, order(4, Side.BUY, 4, 999_500), "5d2e8a60b1c74f93")),
        (6, 40_000, Trade(1, 999_000, 4, 4, 3, 4, 1, Side.BUY)),
        (7, 50_000, CommandRecord(5, order(5, Side.BUY, 3, 0, stop=999_800, cod=True))),
    ]


@pytest.mark.parametrize(
    ("events", "oid", "reason"),
    [
        ([Rejected("bad_tick", "50.255 is not a multiple of 0.01")], 0, "was not carried out"),
        ([Duplicate(1, Status.OPEN, 0, 5)], 1, "was not carried out"),
        ([], 1, "was not carried out"),
        ([Accepted(2)], 1, "order 1 is not the one of"),
        ([Accepted(1), Accepted(2)], 1, "has no line of its own"),
    ],
)
def test_what_changed_nothing_cannot_be_journaled(
    events: Sequence[Event], oid: int, reason: str
) -> None:
    journal = Journal(HEADER)
    with pytest.raises(ValueError, match=reason):
        journal.append(order(1, Side.BUY, 5, 990_000), oid=oid, events=events, at=T0)
    assert journal.close_batch() == b""


def test_time_cannot_go_back_in_a_journal() -> None:
    journal = Journal(HEADER, time=T0)
    with pytest.raises(ValueError, match=f"time {T0 - 1} is before the last record's, {T0}"):
        journal.tick(at=T0 - 1)
    assert journal.tick(at=T0) == 1


def test_append_says_the_seq_of_the_command_and_the_journal_that_of_its_last_event() -> None:
    journal = Journal(HEADER)
    journal.epoch(1, at=T0)
    command, events = events_of("1:sell 5@99", "2:buy 5@99")
    assert journal.append(command, oid=2, events=events, at=T0) == 2
    assert (journal.seq, journal.open_lines, journal.batch) == (3, 3, 0)


def test_an_empty_batch_is_no_bytes_and_no_batch() -> None:
    journal = Journal(HEADER)
    assert journal.close_batch() == b""
    assert journal.position == beginning(HEADER)


def test_the_position_of_an_open_batch_is_the_end_of_the_one_before() -> None:
    journal = Journal(HEADER)
    journal.epoch(1, at=T0)
    journal.close_batch()
    position, mark = journal.position, journal.mark
    journal.tick(at=T0)
    assert journal.position == position
    assert journal.mark == mark == Mark(2, position.offset, HEADER.lineage)


@given(st.lists(st.lists(st.integers(1, 10**6), min_size=1, max_size=5), max_size=6))
def test_any_division_into_batches_is_read_as_it_was_written(batches: list[list[int]]) -> None:
    journal = Journal(HEADER)
    data = HEADER.encode()
    positions = [journal.position]
    for numbers in batches:
        for number in numbers:
            journal.epoch(number, at=T0)
        data += journal.close_batch()
        positions.append(journal.position)
    found = list(read_batches(Memory(data), HEADER))
    assert [batch.position for batch in found] == positions[1:]
    assert [[record.body for record in batch.records()] for batch in found] == [
        [Epoch(number) for number in numbers] for numbers in batches
    ]


def test_a_journal_goes_on_where_it_was_left() -> None:
    texts = [("1:buy 1@99",), ("2:sell 1@99", "2:sell 5@101"), ("1:buy 5@101",)]
    whole = written(*texts)
    (first, _, _) = read_batches(Memory(whole), HEADER)
    journal = Journal(HEADER, first.position, time=T0 + 10_000)
    engine = Engine("intc")
    engine.apply(parse("1:buy 1@99"), T0)
    data = whole[: first.end_offset]
    at = T0 + 10_000
    for batch in texts[1:]:
        for text in batch:
            at += 10_000
            command = parse(text)
            events = engine.apply(command, at)
            journal.append(command, oid=engine.next_oid - 1, events=events, at=at)
        data += journal.close_batch()
    assert data == whole


# -- reading


def test_a_follower_goes_on_from_its_position_up_to_the_durable_mark() -> None:
    data = written(("1:buy 1@99",), ("2:buy 2@99",), ("3:buy 3@99",))
    ends = [batch.position for batch in read_batches(Memory(data), HEADER)]
    growing = Memory(data[: ends[1].offset + 7])
    first = list(read_batches(growing, HEADER, until=ends[0].offset))
    assert [batch.number for batch in first] == [1]
    second = list(read_batches(growing, HEADER, first[-1].position, until=ends[1].offset))
    assert [batch.number for batch in second] == [2]
    growing.data = data
    third = list(read_batches(growing, HEADER, second[-1].position, until=ends[2].offset))
    assert [batch.records()[0].seq for batch in third] == [5]
    assert list(read_batches(growing, HEADER, third[-1].position, until=ends[2].offset)) == []


def test_reading_holds_one_batch_whatever_the_size_of_the_file() -> None:
    journal = Journal(HEADER)
    parts = [HEADER.encode()]
    for _ in range(300):
        for _ in range(200):
            journal.tick(at=T0)
        parts.append(journal.close_batch())
    source = Memory(b"".join(parts))
    assert source.size() > 2_500_000
    tracemalloc.start()
    count = sum(1 for _ in read_batches(source, HEADER))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 300
    assert peak < 1_500_000


def test_a_batch_larger_than_one_read_is_read_whole() -> None:
    journal = Journal(HEADER)
    for _ in range(20_000):
        journal.tick(at=T0)
    source = Memory(HEADER.encode() + journal.close_batch())
    (batch,) = read_batches(source, HEADER)
    assert len(batch.lines) == 20_000
    assert source.largest_read < source.size()


def test_a_batch_knows_the_byte_of_each_line() -> None:
    (batch,) = read_batches(Memory(EXAMPLE), HEADER)
    for index, line in enumerate(batch.lines):
        offset = batch.line_offset(index)
        assert EXAMPLE[offset : offset + len(line)] == line.encode("ascii")


def replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


def resealed(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Change a line and give it a right CRC again, as somebody with an editor and time would."""

    def change(data: bytes) -> bytes:
        found = [line for line in data.splitlines() if old in line]
        text = found[0].rpartition(b" x=")[0].replace(old, new)
        return data.replace(found[0], b"%b x=%08x" % (text, crc32(text, HEADER.salt)))

    return change


def rechained(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Change a line of the only batch, and make its chain right again too."""

    def whole(data: bytes) -> bytes:
        header, *lines, commit = change(data).splitlines(keepends=True)
        text = commit.partition(b" h=")[0]
        start = bytes.fromhex(beginning(HEADER).chain)
        chain = blake2b(start + b"".join(lines) + text, digest_size=16).hexdigest()
        text += b" h=" + chain.encode("ascii")
        sealed = b"%b x=%08x\n" % (text, crc32(text, HEADER.salt))
        return b"".join([header, *lines, sealed])

    return whole


@pytest.mark.parametrize(
    ("damage", "at_line", "reason"),
    [
        (replace(b"4@99.90", b"5@99.90"), 2, "the line is not what was written: its CRC differs"),
        (replace(b"x=56e750a4", b"x=56E750A4"), 2, "its CRC differs"),
        (replace(b"x=56e750a4", b"x=56e750a"), 2, "its CRC differs"),
        (resealed(b"s=3 b=1", b"s=4 b=1"), 3, "expected s=3 b=1 here, found '1700000000.020000"),
        (resealed(b"s=3 b=1", b"s=3 b=2"), 3, "expected s=3 b=1 here"),
        (resealed(b"4@99.95", b"4@99.96"), 8, "the chain (h=) does not follow"),
        (resealed(b"h=fc", b"h=fd"), 8, "the chain (h=) does not follow"),
        (resealed(b"commit 7", b"commit 6"), 8, "expected commit 7 s=8 b=1 here, found 'commit 6"),
        (lambda data: data[:-1], 8, "the journal ends within a line"),
        (lambda data: data[: data.index(b"commit")], 8, "ends within a batch, before its commit"),
        (
            lambda data: data[: data.index(b"commit")] + b"\0" * 300_000,
            8,
            "no line ends within 300000 bytes",
        ),
        *(
            (rechained(change), at_line, reason)
            for change, at_line, reason in (
                (resealed(b"s=8 b=1", b"s=9 b=1"), 8, "expected commit 7 s=8 b=1 here"),
                (resealed(b"commit 7", b"commit 07"), 8, "expected commit 7 s=8 b=1 here"),
            )
        ),
    ],
)
def test_damage_is_told_with_the_byte_and_the_reason(
    damage: Callable[[bytes], bytes], at_line: int, reason: str
) -> None:
    for by_line in (False, True):
        refuse(damage(EXAMPLE), at_line, reason, by_line=by_line)


def refuse(data: bytes, at_line: int, reason: str, *, by_line: bool) -> None:
    with pytest.raises(JournalDamaged) as caught:
        list(read_batches(Memory(data), HEADER, by_line=by_line))
    offset = len(b"".join(EXAMPLE.splitlines(keepends=True)[:at_line]))
    assert str(caught.value).startswith(f"byte {offset}: ")
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("forge", "at_line", "reason"),
    [
        (resealed(b"s=3 b=1", b"s=4 b=1"), 3, "expected s=3 b=1 here"),
        (resealed(b"s=3 b=1", b"s=03 b=1"), 3, "expected s=3 b=1 here"),
        (resealed(b"s=3 b=1", b"s=3 b=2"), 3, "expected s=3 b=1 here"),
        (replace(b"x=56e750a4", b"x=56E750A4"), 2, "its CRC differs"),
        (replace(b"x=56e750a4", b"x=56e750a5"), 2, "its CRC differs"),
        (replace(b" x=56e750a4", b"  x=56e750a4"), 2, "its CRC differs"),
    ],
)
def test_a_line_that_the_chain_vouches_for_is_looked_at_by_line_only(
    forge: Callable[[bytes], bytes], at_line: int, reason: str
) -> None:
    forged = rechained(forge)(EXAMPLE)
    (batch,) = read_batches(Memory(forged), HEADER)
    assert batch.last_seq == 8, "whoever makes a chain right may write what they like"
    refuse(forged, at_line, reason, by_line=True)


def test_a_chain_that_was_right_is_so_when_made_anew() -> None:
    assert rechained(lambda data: data)(EXAMPLE) == EXAMPLE


def read_all(data: bytes, *, by_line: bool = False) -> list[Batch | str]:
    """The batches, and what is wrong behind them."""
    found: list[Batch | str] = []
    try:
        found.extend(read_batches(Memory(data), HEADER, by_line=by_line))
    except JournalDamaged as damage:
        found.append(str(damage))
    return found


@given(st.data())
def test_a_batch_taken_at_once_is_what_its_lines_say_one_by_one(data: st.DataObject) -> None:
    whole = written(("1:buy 1@99", "2:sell 5@99"), ("3:buy 2@99",), ("2:del 2",))
    start = data.draw(st.integers(len(HEADER.encode()), len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 4)))
    piece = data.draw(st.binary(max_size=3) | st.sampled_from([b"\n", b"\ncommit ", b" s=3", b""]))
    altered = whole[:start] + piece + whole[end:]
    assert read_all(altered) == read_all(altered, by_line=True)


def test_a_journal_shorter_than_known_is_damaged() -> None:
    data = written(("1:buy 1@99",), ("2:buy 2@99",))
    (first, second) = read_batches(Memory(data), HEADER)
    short = Memory(data[: first.end_offset])
    for follow in (
        lambda: list(read_batches(short, HEADER, until=second.end_offset)),
        lambda: list(read_batches(short, HEADER, second.position)),
    ):
        with pytest.raises(JournalDamaged) as caught:
            follow()
        assert caught.value.offset == first.end_offset
        assert f"it was known to reach byte {second.end_offset}" in caught.value.reason


def test_a_position_of_another_history_does_not_lead_on() -> None:
    data = written(("1:buy 1@99",), ("2:buy 2@99",))
    (first, _) = read_batches(Memory(data), HEADER)
    foreign = Position(first.last_seq, first.end_offset, first.number, "0" * 32)
    with pytest.raises(JournalDamaged, match="the chain"):
        list(read_batches(Memory(data), HEADER, foreign))


def test_a_line_that_no_program_of_ours_writes_is_damage_at_its_byte() -> None:
    journal = Journal(HEADER)
    journal.epoch(1, at=T0)
    (good,) = read_batches(Memory(HEADER.encode() + journal.close_batch()), HEADER)
    strange = replace_fields(good, lines=list(good.lines))
    strange.lines.append(f"{format_time(T0)}: sing")
    with pytest.raises(JournalDamaged, match="no known form of line: 'sing'") as caught:
        strange.records()
    assert caught.value.offset == strange.line_offset(1)


def sealed(text: bytes) -> bytes:
    return b"%b x=%08x\n" % (text, crc32(text))


@pytest.mark.parametrize(
    ("line", "error", "reason"),
    [
        (b"", JournalDamaged, "does not begin with a whole header"),
        (EXAMPLE[:50], JournalDamaged, "does not begin with a whole header"),
        (EXAMPLE.replace(b"lot=1", b"lot=2"), JournalDamaged, "a whole header"),
        (sealed(b"#EMTE 2 whatever"), UnknownJournal, "format 2; this program knows format 1"),
        (sealed(b"#EMTE 1 whatever"), JournalDamaged, "has not the form of one"),
    ],
)
def test_a_header_that_cannot_be_read_is_told(
    line: bytes, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        read_header(Memory(line))


# -- where history ends


def damaged_in_batch(number: int, data: bytes) -> bytes:
    batches = list(read_batches(Memory(data), HEADER))
    batch = batches[number - 1]
    place = batch.offset + 20
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_a_bad_last_batch_is_a_torn_tail() -> None:
    data = written(("1:buy 1@99",), ("2:buy 2@99",), ("3:buy 3@99",))
    history = History(Memory(damaged_in_batch(3, data)))
    assert [batch.number for batch in history] == [1, 2]
    assert history.torn is not None
    assert history.torn.offset == history.end.offset


def test_a_bad_batch_with_only_its_own_lines_behind_it_is_a_torn_tail() -> None:
    data = written(("1:buy 1@99",), ("2:buy 2@99", "2:buy 3@99", "2:buy 4@99"))
    history = History(Memory(damaged_in_batch(2, data)))
    assert [batch.number for batch in history] == [1]
    assert history.torn is not None


def test_a_bad_batch_before_a_line_of_a_later_one_is_damaged_history() -> None:
    data = written(("1:buy 1@99",), ("2:buy 2@99",), ("3:buy 3@99",))
    ends = [batch.end_offset for batch in read_batches(Memory(data), HEADER)]
    torn_too = damaged_in_batch(2, data)[:-10]
    with pytest.raises(JournalDamaged) as caught:
        list(History(Memory(torn_too)))
    assert caught.value.offset == ends[0]
    assert caught.value.reason == (
        "the line is not what was written: its CRC differs;"
        f" a line of batch 3 at byte {ends[1]} proves that batch 2 was whole once"
    )


def test_a_later_line_is_found_behind_any_amount_of_garbage() -> None:
    data = written(("1:buy 1@99",), ("2:buy 2@99",), ("3:buy 3@99",))
    first, second, _ = read_batches(Memory(data), HEADER)
    for garbage in (b"", b"\0" * 600_000, b"\n" * 5000, b"x=1\n" * 80_000):
        bad = data[: first.end_offset] + garbage + b"\n" + data[second.end_offset :]
        with pytest.raises(JournalDamaged, match="a line of batch 3 at byte") as caught:
            list(History(Memory(bad)))
        assert f"at byte {first.end_offset + len(garbage) + 1} " in caught.value.reason


def test_lines_of_another_journal_prove_nothing() -> None:
    data = written(("1:buy 1@99",), ("2:buy 2@99",))
    other = Journal(replace_fields(HEADER, salt=1))
    foreign = b""
    for number in range(1, 5):
        other.epoch(number, at=T0)
        foreign = other.close_batch()
    history = History(Memory(data + foreign))
    assert [batch.number for batch in history] == [1, 2]
    assert history.torn is not None


# -- marks


def test_a_mark_is_64_bytes_that_a_person_reads() -> None:
    data = Mark(7, 512, HEADER.lineage).encode()
    assert data == b"7 512 9c1f0a44d2b7e683".ljust(63) + b"\n"
    assert Mark.decode(data, "intc.durable") == Mark(7, 512, HEADER.lineage)


def test_the_largest_mark_fits() -> None:
    mark = Mark(10**18, 10**18, HEADER.lineage)
    assert Mark.decode(mark.encode(), "intc.durable") == mark
    assert len(mark.encode()) == 64


@pytest.mark.parametrize("data", [b"", b"\0" * 64])
def test_a_mark_that_was_never_written_is_none(data: bytes) -> None:
    assert Mark.decode(data, "intc.durable") is None


@pytest.mark.parametrize("data", [b"7 512", b"\0" * 63 + b"7", b"seven ".ljust(63) + b"\n"])
def test_what_is_no_mark_is_damage(data: bytes) -> None:
    with pytest.raises(JournalDamaged, match=r"intc\.durable does not hold a mark"):
        Mark.decode(data, "intc.durable")


# -- the command line


@pytest.fixture
def journal_file(tmp_path: Path) -> Path:
    path = tmp_path / "intc.log"
    path.write_bytes(EXAMPLE)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_verify_says_that_a_journal_is_sound(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "verify", journal_file)
    assert (code, err) == (0, "")
    assert out == (
        f"sound: 8 records in 1 batches, {len(EXAMPLE)} bytes, h=fc127fd6ac991d3df78fa79608e66819\n"
    )


def test_verify_says_the_byte_and_the_reason(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal_file.write_bytes(EXAMPLE.replace(b"lot=1", b"lot=2"))
    assert run(capsys, "verify", journal_file) == (
        75,
        "",
        f"{journal_file}: byte 0: the file does not begin with a whole header (#EMTE …)\n",
    )


def test_verify_looks_at_each_line_where_others_trust_the_chain(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal_file.write_bytes(rechained(replace(b"x=56e750a4", b"x=56e750a5"))(EXAMPLE))
    assert run(capsys, "stat", journal_file)[0] == 0
    code, _, err = run(capsys, "verify", journal_file)
    assert (code, "its CRC differs" in err) == (75, True), err


def sealed_by_hand(*batches: Iterable[str]) -> bytes:
    """A journal with lines that `Journal` would not write, but sealed as it does."""
    journal = Journal(HEADER)
    data = HEADER.encode()
    for batch_lines in batches:
        for line in batch_lines:
            journal._add(line)
        data += journal.close_batch()
    return data


@pytest.mark.parametrize(
    ("batch_lines", "reason"),
    [
        (
            ("1700000000.000000: [1] 1 buy 5@0.00/0",),
            "no known form of command: '[1] 1 buy 5@0.00/0'",
        ),
        (("1700000000.000001: tick", "1700000000.000000: tick"), "time goes back here"),
        (("1700000000.000000: sleep",), "no known form of line: 'sleep'"),
    ],
)
def test_verify_finds_what_is_sealed_but_not_of_the_form(
    batch_lines: Sequence[str],
    reason: str,
    journal_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal_file.write_bytes(sealed_by_hand(batch_lines))
    code, _, err = run(capsys, "verify", journal_file)
    assert code == 75
    assert reason in err


def test_verify_refuses_a_torn_tail_that_may_have_been_promised(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal_file.write_bytes(EXAMPLE + b"1700000000.0600")
    code, _, err = run(capsys, "verify", journal_file)
    assert code == 75
    assert f"byte {len(EXAMPLE)}: the journal ends within a line; batch 2 is torn, and" in err
    assert "intc.durable" in err


def test_verify_accepts_a_torn_tail_that_the_durable_mark_shows_to_be_unpromised(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal_file.write_bytes(EXAMPLE + b"1700000000.0600")
    mark = Mark(8, len(EXAMPLE), HEADER.lineage)
    journal_file.with_suffix(".durable").write_bytes(mark.encode())
    code, out, err = run(capsys, "verify", journal_file)
    assert (code, err) == (0, "")
    assert f"torn from byte {len(EXAMPLE)}: the journal ends within a line; never promised" in out
    assert journal_file.read_bytes() == EXAMPLE + b"1700000000.0600"


@pytest.mark.parametrize("name", ["durable", "settled"])
@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        (Mark(9, len(EXAMPLE), HEADER.lineage), "saw it reach record 9 at byte"),
        (Mark(8, len(EXAMPLE) + 1, HEADER.lineage), "saw it reach record 8 at byte"),
        (Mark(8, len(EXAMPLE), "0" * 16), f"is of lineage {HEADER.lineage}; intc."),
    ],
)
def test_verify_refuses_a_journal_that_is_not_what_a_mark_saw(
    name: str,
    mark: Mark,
    reason: str,
    journal_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal_file.with_suffix(f".{name}").write_bytes(mark.encode())
    code, _, err = run(capsys, "verify", journal_file)
    assert code == 75
    assert reason in err
    assert f"intc.{name}" in err


@pytest.mark.parametrize("action", ["verify", "stat"])
def test_a_journal_that_grows_while_it_is_read_is_sound_as_far_as_it_was_read(
    action: str,
    journal_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class AtWork(FileSource):
        """A journal whose venue syncs and settles another record once its length was asked."""

        def size(self) -> int:
            for name in ("durable", "settled"):
                mark = Mark(9, len(EXAMPLE) + 80, HEADER.lineage)
                journal_file.with_suffix(f".{name}").write_bytes(mark.encode())
            return super().size()

    monkeypatch.setattr("matching.journal.FileSource", AtWork)
    code, out, err = run(capsys, action, journal_file)
    assert (code, err) == (0, "")
    assert re.search("(sound:|records) +8 ", out)
    assert run(capsys, action, journal_file)[0] == 75


def test_cat_prints_every_record_behind_its_number(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "cat", journal_file)
    assert code == 0
    assert out.splitlines()[:2] == [
        "1 1700000000.010000: epoch 1",
        "2 1700000000.020000: [1] 3 sell 4@99.90/0",
    ]
    assert len(out.splitlines()) == 7


def test_cat_prints_what_is_sound_and_then_says_what_is_not(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal_file.write_bytes(EXAMPLE + b"torn")
    code, out, err = run(capsys, "cat", journal_file)
    assert (code, len(out.splitlines())) == (75, 7)
    assert f"byte {len(EXAMPLE)}: the journal ends within a line" in err


def test_cat_ends_quietly_when_its_reader_has_seen_enough(journal_file: Path) -> None:
    journal = Journal(HEADER)
    for _ in range(20_000):
        journal.tick(at=T0)
    journal_file.write_bytes(HEADER.encode() + journal.close_batch())
    with subprocess.Popen(
        [sys.executable, "-m", "matching.journal", "cat", str(journal_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as cat:
        assert cat.stdout is not None
        assert cat.stderr is not None
        assert cat.stdout.readline() == "1 1700000000.000000: tick\n"
        cat.stdout.close()
        assert cat.stderr.read() == ""


def test_stat_summarises(journal_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "stat", journal_file)
    assert code == 0
    assert out == (
        "product   intc: tick 0.01, lot 1, reference 100.00, rules 1\n"
        "lineage   9c1f0a44d2b7e683\n"
        f"records   8 in 1 batches, {len(EXAMPLE)} bytes\n"
        "  buy          3\n"
        "  epoch        1\n"
        "  match        1\n"
        "  sell         2\n"
        "traded    4 for 399.60\n"
        "time      1700000000.010000 to 1700000000.050000\n"
        "chain     fc127fd6ac991d3df78fa79608e66819\n"
    )


def test_another_format_is_exit_code_78(
    journal_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal_file.write_bytes(sealed(b"#EMTE 2 whatever"))
    code, _, err = run(capsys, "verify", journal_file)
    assert (code, err) == (
        78,
        f"{journal_file}: journal format 2; this program knows format 1\n",
    )


def test_a_file_that_is_not_there_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "verify", tmp_path / "none.log")
    assert (code, err) == (2, f"{tmp_path / 'none.log'}: No such file or directory\n")


@pytest.mark.parametrize("arguments", [(), ("verify",), ("mend", "intc.log")])
def test_wrong_usage_is_exit_code_2(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m matching.journal" in capsys.readouterr().err
