"""The benchmark runs, on few operations and without the yardstick, which needs PyPI."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import recovery, run
from benchmarks.contender import tape
from benchmarks.ours import Ours
from benchmarks.recovery_ours import Recovery, told
from benchmarks.workload import MIXES, TICK, TICKER, generate
from matching import protocol
from matching.engine import Engine
from matching.exits import ExitCode, Fatal
from matching.order import Cancel, NewOrder

ROOT = Path(__file__).resolve().parent.parent


def test_a_flow_is_the_same_every_time_and_its_mixes_shares_are_kept() -> None:
    flow = generate(MIXES["small"], operations=2_000)
    assert flow == generate(MIXES["small"], operations=2_000)
    assert len(flow.filling) == MIXES["small"].resting
    kinds = [[type(command) for command in operation] for operation in flow.operations]
    assert 750 < kinds.count([Cancel]) < 950
    assert 950 < kinds.count([NewOrder]) < 1_150
    assert 60 < kinds.count([Cancel, NewOrder]) < 140


def test_the_engine_under_measurement_trades_and_is_timed() -> None:
    flow = generate(MIXES["small"], operations=500)
    ours = Ours(flow.filling, [command for operation in flow.operations for command in operation])
    trades = tape(ours.fills())
    assert trades["trades"] > 50
    assert trades == tape(ours.fills())
    assert ours.seconds() > 0


def test_the_tape_tells_every_field_of_every_trade() -> None:
    fill = (1, 2, 100, 5)
    told = tape([fill, (3, 4, 200, 7)])
    assert (told["trades"], told["volume"], told["notional"]) == (2, 12, 1_900)
    others = [(9, 2, 100, 5), (1, 9, 100, 5), (1, 2, 900, 5), (1, 2, 100, 9)]
    assert len({tape([each])["crc32"] for each in [fill, *others]}) == 5
    assert tape([fill, (3, 4, 100, 5)])["crc32"] != tape([(3, 4, 100, 5), fill])["crc32"]


def test_bench_prints_the_operations_per_second() -> None:
    command = [sys.executable, "benchmarks/run.py", "--ours", "--quick", "--mix", "small"]
    command += ["--operations", "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "small mix: 1,000 orders of 200 owners fill the book, then 300 operations" in done.stdout
    assert re.search(r"^EMTE +[\d,]+ operations/s +\(3 runs: ", done.stdout, re.MULTILINE)


def test_an_engine_that_trades_otherwise_is_not_compared(tmp_path: Path) -> None:
    flow = generate(MIXES["small"], operations=300)
    texts = [protocol.format(command) for command in flow.filling]
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("\n".join([*texts, "1:buy bench 5"]), "ascii")
    second.write_text("\n".join([*texts, "1:buy bench 6"]), "ascii")
    python = Path(sys.executable)
    with (
        run.contestant(python, "ours.py", first, len(texts)) as ours,
        run.contestant(python, "ours.py", second, len(texts)) as other,
        pytest.raises(Fatal, match="the trades differ, nothing to compare"),
    ):
        run.compare(ours, other, ours, operations=1, pairs=1)


@pytest.mark.parametrize("mix", ["main", "small"])
def test_the_bare_book_trades_alike_where_nobody_meets_himself(mix: str, tmp_path: Path) -> None:
    flow = generate(MIXES[mix], operations=2_000, owners=10**9)
    commands = [*flow.filling, *(each for operation in flow.operations for each in operation)]
    file = tmp_path / "commands"
    file.write_text("".join(f"{protocol.format(command)}\n" for command in commands), "ascii")
    python, filling = Path(sys.executable), len(flow.filling)
    with (
        run.contestant(python, "ours.py", file, filling) as ours,
        run.contestant(python, "bare.py", file, filling) as bare,
    ):
        told = ours.ask("tape")
        assert isinstance(told, dict)
        assert told["trades"] > 100
        assert bare.ask("tape") == told


def test_a_journal_and_a_snapshot_of_it_are_recovered_to_the_orders_of_their_commands(
    tmp_path: Path,
) -> None:
    flow = generate(MIXES["small"], operations=3_000)
    commands = [*flow.filling, *(each for operation in flow.operations for each in operation)]
    whole, snapshot = recovery.write_cases(tmp_path, iter(commands), records=2_000, tail=500)
    assert (whole.snapshot_after, snapshot.snapshot_after) == (0, whole.commands)
    assert 2_000 <= whole.replayed < 2_100
    assert 500 <= snapshot.replayed < 600
    for case in (whole, snapshot):
        engine = Engine(TICKER, tick=TICK)
        for command in commands[: case.commands]:
            engine.apply(command, at=0)
        recovered = Recovery(case.folder)
        assert recovered.orders() == told(engine.book)
        assert recovered.seconds() > 0


def test_bench_prints_how_long_a_recovery_takes() -> None:
    command = [sys.executable, "benchmarks/recovery.py", "--ours", "--quick"]
    command += ["--records", "3000", "--tail", "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    for what in ("a journal of 3,0", "a snapshot and 3"):
        assert re.search(
            rf"^{what}\d\d records, [\d,]+ of them commands", done.stdout, re.MULTILINE
        )
    assert len(re.findall(r"^EMTE +[\d.]+ s +\(3 runs: ", done.stdout, re.MULTILINE)) == 2


def test_make_bench_is_quick_in_all_its_parts() -> None:
    command = ["make", "--dry-run", "bench", "ARGS=--quick --mix small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured = [line for line in done.stdout.splitlines() if "benchmarks/" in line]
    assert len(measured) == 3
    assert all("--quick" in line for line in measured), done.stdout
    assert [line for line in measured if "--mix" in line] == measured[:1]


@pytest.mark.parametrize("option", ["--pairs", "--operations", "--owners"])
def test_what_cannot_be_measured_is_refused_with_2(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run.main(["--ours", option, "0"])
    assert stop.value.code == 2
    assert f"argument {option}: must be at least 1" in capsys.readouterr().err


def test_without_pypi_there_is_one_clear_line_and_exit_69(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "BENCH_VENV", tmp_path / "venv")
    monkeypatch.setattr(run, "BENCH_PYTHON", tmp_path / "venv" / "bin" / "python")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Fatal, match=r"cannot install matching-engine==0\.1\.1 from PyPI") as raised:
        run.prepare_yardstick()
    assert raised.value.code == ExitCode.UNAVAILABLE
    assert "\n" not in raised.value.message
