"""The pid file: there while the process runs, gone after."""

import os
from pathlib import Path

import pytest

from matching.exits import ExitCode, Fatal
from matching.pidfile import pidfile, read_pid, running


def test_the_pid_file_holds_our_pid_while_we_run(tmp_path: Path) -> None:
    with pidfile(tmp_path, "match-intc") as path:
        assert path == tmp_path / "match-intc.pid"
        assert read_pid(path) == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_file_left_by_a_killed_process_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "web.pid").write_text("1\n")
    with pidfile(tmp_path, "web") as path:
        assert read_pid(path) == os.getpid()


def test_another_process_s_pid_file_is_not_removed(tmp_path: Path) -> None:
    with pidfile(tmp_path, "web") as path:
        path.write_text("1\n")
    assert read_pid(path) == 1


def test_a_pid_file_that_cannot_be_written_ends_the_process_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "web.pid").mkdir()
    with (
        pytest.raises(Fatal, match=r"cannot write .*web\.pid") as refused,
        pidfile(tmp_path, "web"),
    ):
        pass
    assert refused.value.code == ExitCode.DISK
    assert [path.name for path in tmp_path.iterdir()] == ["web.pid"]


def test_a_missing_or_broken_pid_file_names_nobody(tmp_path: Path) -> None:
    assert read_pid(tmp_path / "web.pid") is None
    (tmp_path / "web.pid").write_bytes(b"\xff\n")
    assert read_pid(tmp_path / "web.pid") is None
    (tmp_path / "web.pid").write_text("-5\n")
    assert read_pid(tmp_path / "web.pid") is None


def test_programs_that_run_are_told_from_those_that_were_killed(tmp_path: Path) -> None:
    (tmp_path / "killed.pid").write_text("4194304\n")
    (tmp_path / "half.pid").write_text("")
    (tmp_path / "group.pid").write_text("0\n")
    (tmp_path / "strange.pid").write_text(f"{10**30}\n")
    (tmp_path / "init.pid").write_text("1\n")
    with pidfile(tmp_path, "match-intc"):
        assert running(tmp_path) == {"init": 1, "match-intc": os.getpid()}
    assert running(tmp_path / "nowhere") == {}
