"""How a process ends: one line and an exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from matching import exits
from matching.exits import ExitCode, Fatal
from tests.processes import ROOT, running
from tests.waiting import PATIENCE_SECONDS


def test_a_fatal_end_prints_one_line_and_gives_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        raise Fatal(ExitCode.UNAVAILABLE, "port 8888 is taken")

    assert exits.run("matchingserver", body) == 69
    assert capsys.readouterr().err == "matchingserver: port 8888 is taken\n"


def test_the_end_of_the_work_and_ctrl_c_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert exits.run("robot", lambda: None) == 0
    assert exits.run("robot", interrupted) == 0
    assert capsys.readouterr().err == ""


def test_the_end_of_a_command_is_its_verdict_but_for_ctrl_c(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    def body() -> int:
        raise Fatal(ExitCode.DISK, "the journal is damaged")

    assert exits.run_command("log2db", lambda: 1) == 1
    assert exits.run_command("log2db", interrupted) == 130
    assert capsys.readouterr().err == ""
    assert exits.run_command("log2db", body) == 75
    assert capsys.readouterr().err == "log2db: the journal is damaged\n"


JOURNAL = "tests/journals/0.1.0.log"
PRIORITY = "tests/scenarios/01-priority.txt"


@pytest.mark.parametrize(
    "command",
    [
        ("matching.journal", "cat", JOURNAL),
        ("matching.journal", "verify", JOURNAL),
        ("matching.recovery", JOURNAL),
        ("matching.conformance", PRIORITY),
        ("matching.conformance", PRIORITY, "--", "cat"),
        ("scripts.doctor", "--port", "0"),
    ],
    ids=" ".join,
)
def test_who_reads_what_a_command_prints_may_go(tmp_path: Path, command: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={"EMTE_VAR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, errors) == (141, b"")


def test_a_command_to_which_standard_output_is_closed_has_its_verdict_all_the_same() -> None:
    command = f"{sys.executable} -m matching.journal verify tests/journals/0.1.0.log >&-"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_pipe_that_breaks_is_a_bug() -> None:
    def body() -> int:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        exits.run_command("log2db", body)


def test_a_bug_keeps_its_traceback() -> None:

    def body() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exits.run("robot", body)


@pytest.mark.parametrize(
    "program",
    [
        ("matching/matchingserver.py",),
        ("robot/robot_trader.py",),
        ("-m", "log2db", "-A", "intc"),
        ("-m", "app.webserver"),
        ("scripts/serve.py",),
        ("scripts/demo.py",),
        ("scripts/soak.py",),
    ],
    ids=lambda program: program[-1],
)
def test_ctrl_c_while_a_program_imports_ends_it_without_a_word(
    tmp_path: Path, program: tuple[str, ...]
) -> None:
    """A module that all of them import is one here that types Ctrl-C."""
    (tmp_path / "msgspec.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    with running(*program, var=tmp_path / "var", PYTHONPATH=str(tmp_path)) as process:
        assert (process.wait(), process.output) == (-2, "")
    assert not (tmp_path / "var").exists()
