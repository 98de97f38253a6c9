"""How a process ends: one line and an exit code."""

from pathlib import Path

import pytest

from matching import exits
from matching.exits import ExitCode, Fatal
from tests.processes import running


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
