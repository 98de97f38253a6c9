"""The benchmark of settlement: what it times is a sound journal, settled whole."""

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from benchmarks.settlement import on_sqlite, settled, stored, write_journal
from log2db.verify import verify
from matching.disk import SystemDisk
from tests.processes import ROOT


def test_its_journal_is_settled_to_the_end_and_verifies(tmp_path: Path) -> None:
    load = write_journal(tmp_path / "bench.log", owners=5, orders=300)
    assert load.matches > 100
    with on_sqlite(tmp_path, owners=5) as db:
        settled(db, load)
        assert len(stored(db)["match"][1]) == load.matches
        with closing(SystemDisk().open(load.path)) as file:
            report = verify(db, file, "bench", None)
    assert report.summary.startswith("OK bench: 300 orders")
    assert report.summary.endswith(f"5 accounts agree up to record {load.records}")


def test_the_same_journal_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_journal(tmp_path / f"{name}.log", owners=3, orders=50)
    assert (tmp_path / "one.log").read_bytes() == (tmp_path / "two.log").read_bytes()


RATIO = r"[\d.]+ × \([\d.]+ to [\d.]+\)"


def test_it_prints_ratios_with_their_spread_and_a_breakdown() -> None:
    command = [sys.executable, "benchmarks/settlement.py", "--quick", "--orders", "200"]
    command += ["--postgres", "postgres://nobody@127.0.0.1:1/none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        r"^a journal of [\d,]+ records, [\d,]+ of them matches, by 30 traders$",
        rf"^  one by one +[\d,]+ matches /s +1\.0 × \(1\.0 to 1\.0\) +{RATIO}$",
        rf"^  of 2010 +[\d,]+ matches /s +{RATIO} +1\.0 × \(1\.0 to 1\.0\)$",
        rf"^  log2db +[\d,]+ matches /s +{RATIO} +{RATIO}$",
        rf"^  log2db, all records +[\d,]+ records /s +{RATIO} +{RATIO}$",
        rf"^  bare: orders and matches +[\d,]+ matches /s +{RATIO} +{RATIO}$",
        r"^  processor time of a record, µs: [\d.]+ = [\d.]+ reading ",
        r"^PostgreSQL: none answers at 127\.0\.0\.1:1/none$",
    ):
        assert re.search(line, done.stdout, re.MULTILINE), line
