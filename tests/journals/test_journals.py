"""The journals of releases: each is replayed, settled and served by this EMTE, byte for byte."""

import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.models.db import close
from log2db.__main__ import settle_rest
from log2db.verify import verify
from matching import journal, recovery
from matching.config import Var
from matching.disk import SystemClock, SystemDice, SystemDisk
from matching.exchange import Exchange
from matching.journal import History, durable_path, read_header
from matching.limits import DEFAULTS
from matching.order import CancelReason, Phase, SelfTrade, Side, TimeInForce
from matching.settings import NAMES
from tests.database import make_database, make_var
from tests.journals.story import FOLDER, tell, version
from tests.matching.trading_floor import VENUE_KEY
from tests.processes import ROOT

KEPT = sorted(FOLDER.glob("*.log"))

each_journal = pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)


def test_this_version_has_one_and_it_is_what_the_story_makes() -> None:
    """Else: python -m tests.journals.story (docs/ARCHITECTURE.md, Releases)."""
    assert (FOLDER / f"{version()}.log").read_bytes() == tell()


@each_journal
def test_it_is_sound_and_replays(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = path.read_bytes()
    assert journal.main(["verify", str(path)]) == 0
    assert recovery.main([str(path)]) == 0
    printed = capsys.readouterr()
    assert re.match(r"sound: \d{3,} records .*\nreplayed: \d{3,} records ", printed.out)
    assert printed.err == ""
    assert path.read_bytes() == before


@pytest.fixture
def var(tmp_path: Path, path: Path) -> Var:
    """A var/ with the journal in it, all of which is safe."""
    var = make_var(tmp_path)
    with closing(SystemDisk().open(path)) as file:
        history = History(file)
        for _ in history:
            pass
    place = var.journal_file(history.header.ticker)
    shutil.copy(path, place)
    end = history.end
    mark = journal.Mark(end.seq, end.offset, history.header.lineage)
    durable_path(place).write_bytes(mark.encode())
    return var


@each_journal
def test_the_database_takes_it_in(path: Path, var: Var, each_database: str) -> None:
    db = make_database(var)
    (place,) = var.journal_dir.glob("*.log")
    for _ in settle_rest(place.stem, place, db):
        pass
    with closing(SystemDisk().open(place)) as file:
        report = verify(db, file, place.stem, None)
    close(db)
    assert report.differences == []
    assert report.summary.startswith("OK ")


@each_journal
def test_a_server_goes_on_with_it(path: Path, var: Var) -> None:
    (place,) = var.journal_dir.glob("*.log")
    disk, dice = SystemDisk(), SystemDice()
    with closing(disk.open(place)) as file:
        ticker = read_header(file).ticker
    recovered = recovery.open_journal(disk, place, ticker=ticker, dice=dice)
    with closing(recovered.file), closing(recovered.mark_file):
        exchange = Exchange(
            recovered, clock=SystemClock(), dice=dice, venue_key=VENUE_KEY, generations={}
        )
        exchange.start()
        while exchange.has_work:
            batch = exchange.take_batch()
            batch.write(recovered.file)
            batch.sync(recovered.file, recovered.mark_file)
            exchange.settle(batch)
    assert place.read_bytes().startswith(path.read_bytes())
    assert recovery.main([str(place)]) == 0


# -- every form of a line has its example

_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_END = re.compile(r" s=[0-9]+ b=[0-9]+(?: h=[0-9a-f]{32})?(?: x=[0-9a-f]{8})?$")
_CHOICES = ("tif", "stp", "k", "why")


def forms(line: str) -> Iterator[tuple[str, ...]]:
    """What form a line has, without its time and end: its words but the options, and each option.

    Numbers are N. Of the sides of an order the first says no more than the second.
    """
    words = _END.sub("", line.removeprefix("TIME: ")).split(" ")
    words = ["order" if word in ("buy", "sell") else word for word in words]
    options = [word for word in words if "=" in word or word == "post"]
    fixed = " ".join(word for word in words if word not in options)
    fixed = _NUMBERS.sub("N", re.sub(r"\b[0-9a-f]{32}\b", "HASH", fixed)).replace("@N/0", "@N/N")
    yield (fixed,)
    kind = next(word for word in fixed.split(" ") if word.isalpha() and word.islower())
    for option in options:
        name, _, value = option.partition("=")
        yield kind, f"{name}={value}" if name in _CHOICES else name


def in_journals() -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for path in KEPT:
        for line in path.read_text(encoding="ascii").splitlines()[1:]:
            found.update(forms(re.sub(r"^[0-9]+\.[0-9]{6}: ", "", line)))
    return found


def in_protocol() -> Iterator[str]:
    """The examples of docs/PROTOCOL.md: parted from what is beside them by two spaces or more."""
    page = (ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
    block = page.partition("The forms of a line")[2].partition("\n\n")[2].partition("\n\n")[0]
    for part in re.split(r"\n|\s{2,}", block):
        if re.match("TIME: |check |commit ", part):
            yield part


def test_every_form_of_the_protocol_has_an_example() -> None:
    examples = list(in_protocol())
    assert len(examples) > 15
    found = in_journals()
    without = {line: set(forms(line)) - found for line in examples if set(forms(line)) - found}
    assert without == {}


def test_every_value_of_a_form_has_an_example() -> None:
    wanted: set[tuple[str, ...]] = {("order", f"tif={tif}") for tif in TimeInForce}
    wanted |= {("order", f"stp={stp}") for stp in SelfTrade}
    wanted -= {("order", f"tif={TimeInForce.GTC}"), ("order", f"stp={SelfTrade.TAKER}")}
    wanted |= {("order", name) for name in ("id", "post", "peak", "cod", "g")}
    wanted |= {(f"canceled [N] N {reason}",) for reason in CancelReason}
    wanted |= {("match", f"k={taker}") for taker in (*Side, "none")}
    wanted |= {(f"[N] N phase {phase}",) for phase in Phase}
    wanted |= {("set", name) for name in NAMES} | {("limit", name) for name in DEFAULTS}
    wanted |= {(verb, "g") for verb in ("order", "mod", "del", "phase", "set", "limit", "key")}
    assert wanted - in_journals() == set()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("TIME: [0] 8 del all why=dead_man", {("[N] N del all",), ("del", "why=dead_man")}),
        (
            "TIME: [9] 8 sell 500@106.00/0 id=big tif=day",
            {("[N] N order N@N/N",), ("order", "id"), ("order", "tif=day")},
        ),
        ("check 12 3f0c9ad1e5b84726a90d1c3e5f7b8246", {("check N HASH",)}),
    ],
)
def test_what_the_form_of_a_line_is(line: str, expected: set[tuple[str, ...]]) -> None:
    assert set(forms(line)) == expected
