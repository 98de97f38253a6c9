"""How a process ends: one line and an exit code."""

import pytest

from matching import exits
from matching.exits import ExitCode, Fatal


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
