"""A demo whose processes are killed goes on, and nothing that it acknowledged is lost.

The kills, and what is looked at after them, are those of scripts/soak.py.
"""

from pathlib import Path

from tests.database import make_var
from tests.processes import running
from tests.scripts.venue import processes_of
from tests.waiting import free_port

EACH_KIND = ("web", r"match-\w+", r"log2db-\w+", r"robot-\w+-\d", "demo", "everything")


def test_whatever_is_killed_comes_back_and_nothing_is_lost(
    tmp_path: Path, each_database: str
) -> None:
    command = ("scripts/soak.py", "--once", "--tickers", "1", "--port", str(free_port()))
    with running(*command, "--var", str(tmp_path), var=tmp_path) as soak:
        assert soak.wait(patience_seconds=120) == 0, soak.output
        kinds = [*EACH_KIND, "connections"] if each_database == "postgres" else EACH_KIND
        for kind in kinds:
            soak.wait_for_line(rf"^\d\d:\d\d {kind} killed$")
            soak.wait_for_line(rf"^\d\d:\d\d {kind} is back after ")
        verified = soak.wait_for_line(r"^OK \w+: \d+ orders, .* agree up to record (\d+)$")
        last = soak.lines[-1]
        assert last == f"{len(kinds)} kills, {verified[1]} records, 0 defects"
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
