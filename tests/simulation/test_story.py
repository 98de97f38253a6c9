"""Stories of crashes, by seed: `make simulate` plays many more of the same.

A failing seed is told line by line by `make simulate SEEDS=1234:1235`.
"""

import subprocess
import sys

import pytest

from tests.processes import ROOT
from tests.simulation.__main__ import main, play_some
from tests.simulation.story import story_of

SEEDS = 500
CHUNK = 25


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_whatever_crashes_nothing_promised_is_lost(first: int) -> None:
    failure = play_some(range(first, first + CHUNK)).failure
    assert failure is None, (
        f"{failure.trace}\nmake simulate SEEDS={failure.seed}:{failure.seed + 1}"
    )


def test_a_seed_tells_the_same_story_byte_for_byte_in_any_process() -> None:
    here = [story_of(seed).play().digest for seed in range(50, 55)]
    program = (
        "from tests.simulation.story import story_of\n"
        "print(*[story_of(seed).play().digest for seed in range(50, 55)])"
    )
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == here


def test_stories_are_as_bad_as_they_are_meant_to_be() -> None:
    """What a seed is for happens often enough; a disk that never fails proves nothing."""
    counts = play_some(range(100)).counts
    for what in (
        "crashed",
        "crashes in recovery",
        "disk failed",
        "killed",
        "power cuts",
        "stopped",
    ):
        assert counts[what] >= 20, (what, counts)
    assert counts["torn tails"] >= 2
    assert counts["answers"] >= 1_000


def test_the_command_line_says_what_was_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "7:9", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("seeds 7:9: nothing failed in")
    assert "2 stories" in said
    assert "\ndigest " in said


def test_a_failing_seed_is_told_with_what_broke_and_how_to_see_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matching.exchange.Exchange._now", lambda exchange: exchange._clock.now())
    assert main(["--seeds", "0:100", "--jobs", "1"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("seed ")
    assert "time" in said[-2]
    seed = int(said[-2].split()[1].rstrip(":"))
    assert said[-1] == f"again: make simulate SEEDS={seed}:{seed + 1}"


@pytest.mark.parametrize("seeds", ["3", "5:5", "a:b", "9:1"])
def test_seeds_are_a_range(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--seeds", seeds])
    assert "is not FIRST:END, like 0:10000" in capsys.readouterr().err
