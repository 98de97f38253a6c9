"""A demo whose processes are killed goes on, and nothing that it acknowledged is lost.

The kills, and what is looked at after them, are those of scripts/soak.py.
"""

import re
from pathlib import Path

import pytest

from tests.cluster import require_programs
from tests.database import DATABASES, make_var
from tests.processes import running
from tests.scripts.venue import processes_of
from tests.waiting import free_port

ROUNDS = 10
"""Each kind of kill once, and the more frequent ones once more."""

EACH_KIND = ("web", r"match-\w+", r"log2db-\w+", r"robot-\w+-\d", "demo", "everything")


@pytest.mark.parametrize("database", DATABASES)
def test_whatever_is_killed_comes_back_and_nothing_is_lost(tmp_path: Path, database: str) -> None:
    command = ["scripts/soak.py", "--rounds", str(ROUNDS), "--tickers", "1", "--seed", "7"]
    command += ["--port", str(free_port()), "--var", str(tmp_path)]
    kinds = EACH_KIND
    if database == "postgres":
        require_programs()
        command.append("--cluster")
        kinds += ("connections", "postgres")
    with running(*command, var=tmp_path) as soak:
        assert soak.wait(patience_seconds=240) == 0, soak.output
        for kind in kinds:
            soak.wait_for_line(rf"^\d\d:\d\d {kind} killed$")
            soak.wait_for_line(rf"^\d\d:\d\d {kind} is back after ")
        verified = soak.wait_for_line(r"^OK \w+: \d+ orders, .* agree up to record (\d+)$")
        assert soak.lines[-1] == f"{ROUNDS} kills, {verified[1]} records, 0 defects"
        names = ["acknowledged", "lost", "refused", "no answer", "were in", "in doubt"]
        header = soak.wait_for_line("^orders by ")[0]
        heading = next(line for line in soak.lines if line.startswith(header))
        assert re.split(r" {2,}", heading) == ["orders by", *names]
        for way in ("WebSocket", "POST", "platform"):
            row = next(line for line in soak.lines if line.startswith(way)).split()
            counts = dict(zip(names, map(int, row[1:]), strict=True))
            assert counts["acknowledged"] > ROUNDS, way
            assert counts["lost"] == counts["in doubt"] == 0, way
    assert processes_of(tmp_path) == {}


def test_a_soak_that_is_stopped_early_verifies_and_tells_what_is_strange(tmp_path: Path) -> None:
    var = make_var(tmp_path)
    (var.run_dir / "web.out").write_text("Traceback (most recent call last):\n")
    command = ("scripts/soak.py", "--tickers", "1", "--port", str(free_port()))
    with running(*command, "--var", str(var.root), var=var.root) as soak:
        soak.wait_for_line("the demo trades$")
        assert soak.terminate() == 1
        soak.wait_for_line("^OK ")
        soak.wait_for_line(r"^soak: web\.out has 1 strange lines:$")
        soak.wait_for_line(r"^    Traceback \(most recent call last\):$")
    assert processes_of(var.root) == {}
