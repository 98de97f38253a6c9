"""stop_all.sh stops what is EMTE's in this var/, and nobody else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import ROOT, Process, running
from tests.waiting import free_port


def _stop_all(var: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "stop_all.sh"), *arguments],
        env={**os.environ, "EMTE_VAR": str(var)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def var(tmp_path: Path) -> Path:
    (tmp_path / "var" / "run").mkdir(parents=True)
    return tmp_path / "var"


@contextmanager
def _robot(var: Path, number: int = 1) -> Iterator[Process]:
    """A robot that waits for a server which never comes: a process of EMTE with a pid file."""
    arguments = ("-p", str(free_port()), "-t", "intc", "-n", str(number))
    with running("-m", "robot.robot_trader", *arguments, var=var) as robot:
        robot.wait_for_line("waiting for the matching server")
        yield robot


@contextmanager
def _foreign(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _write_pid(var: Path, name: str, pid: object) -> Path:
    path = var / "run" / f"{name}.pid"
    path.write_text(f"{pid}\n")
    return path


def test_nothing_to_stop_is_no_error(var: Path) -> None:
    for folder in (var, var / "not-there"):
        result = _stop_all(folder)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == f"nothing of EMTE runs in {folder}\n"


def test_a_running_process_is_stopped_and_named(var: Path) -> None:
    with _robot(var, 1) as one, _robot(var, 2) as two:
        result = _stop_all(var)
        assert result.returncode == 0
        assert sorted(result.stdout.splitlines()) == [
            f"stopped robot-intc-1 (pid {one.pid})",
            f"stopped robot-intc-2 (pid {two.pid})",
        ]
        assert (one.wait(), two.wait()) == (0, 0)
    assert list((var / "run").glob("*.pid")) == []


def test_all_web_servers_of_a_var_are_stopped(var: Path) -> None:
    arguments = ("-m", "app.webserver", "--port", "0")
    with running(*arguments, var=var) as one:
        port_of_one = one.wait_for_line(r"listening on \S+:(\d+)/")[1]
        with running(*arguments, var=var) as two:
            port_of_two = two.wait_for_line(r"listening on \S+:(\d+)/")[1]
            assert port_of_one != port_of_two
            assert sorted(_stop_all(var).stdout.splitlines()) == [
                f"stopped web (pid {one.pid})",
                f"stopped web-{port_of_two} (pid {two.pid})",
            ]
            assert (one.wait(), two.wait()) == (0, 0)
    assert list((var / "run").glob("*.pid")) == []


@pytest.mark.parametrize("form", ["script in its folder", "console command"])
def test_a_process_is_known_in_each_form_it_can_be_started_in(var: Path, form: str) -> None:
    command = {
        "script in its folder": ("robot_trader.py",),
        "console command": (str(Path(sys.executable).parent / "emte-robot"),),
    }[form]
    with running(*command, "-p", str(free_port()), var=var, cwd=ROOT / "robot") as robot:
        robot.wait_for_line("waiting for the matching server")
        assert f"(pid {robot.pid})" in _stop_all(var).stdout
        assert robot.wait() == 0


def test_a_process_that_does_not_end_is_killed(var: Path) -> None:
    with _robot(var) as robot:
        os.kill(robot.pid, signal.SIGSTOP)
        result = _stop_all(var)
        assert result.returncode == 0
        assert f"killed robot-intc-1 (pid {robot.pid})" in result.stdout
        assert robot.wait() == -signal.SIGKILL
    assert list((var / "run").glob("*.pid")) == []


@pytest.mark.parametrize(
    "command",
    [
        ("sleep", "1000"),
        (sys.executable, "-c", "import time; time.sleep(1000)", "robot_trader.py"),
        (sys.executable, "-c", "import time; time.sleep(1000)", "-m", "robot.robot_trader"),
        ("bash", "-c", "sleep 1000; : robot_trader.py"),
        ("tail", "-f", str(ROOT / "robot" / "robot_trader.py")),
    ],
)
def test_a_foreign_process_with_a_recycled_pid_is_left_alone(
    var: Path, command: tuple[str, ...]
) -> None:
    with _foreign(*command) as foreign:
        pid_file = _write_pid(var, "robot-intc-1", foreign.pid)
        result = _stop_all(var)
        assert result.returncode == 0
        assert f"its process id {foreign.pid} is another program's now" in result.stdout
        assert foreign.poll() is None
        assert not pid_file.exists()


def test_a_program_of_emte_under_another_programs_name_is_left_alone(var: Path) -> None:
    with _robot(var) as robot:
        (var / "run" / "robot-intc-1.pid").unlink()
        _write_pid(var, "match-intc", robot.pid)
        _stop_all(var)
        assert robot.is_running


def test_a_process_of_another_var_is_left_alone(var: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with _robot(other) as robot:
        _write_pid(var, "robot-intc-1", robot.pid)
        _stop_all(var)
        assert robot.is_running
        assert f"(pid {robot.pid})" in _stop_all(other).stdout


def test_pid_files_that_name_no_process_are_removed(var: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for number, text in enumerate((ended.pid, "", "x", "0", "-1", 1, "1 2", os.getpid())):
        _write_pid(var, f"robot-intc-{number}", text)
    assert _stop_all(var).returncode == 0
    assert list((var / "run").glob("*.pid")) == []


def test_a_file_that_is_no_pid_file_of_ours_is_left_alone(var: Path) -> None:
    with _foreign("sleep", "1000") as foreign:
        other = _write_pid(var, "database", foreign.pid)
        _stop_all(var)
        assert other.exists()
        assert foreign.poll() is None


def test_without_emte_var_it_is_the_one_of_emte_toml(var: Path, tmp_path: Path) -> None:
    (tmp_path / "emte.toml").write_text(f'var = "{var}"\n')
    environment = {name: value for name, value in os.environ.items() if name != "EMTE_VAR"}
    with _robot(var) as robot:
        result = subprocess.run(
            ["bash", str(ROOT / "stop_all.sh")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"(pid {robot.pid})" in result.stdout


def test_its_help_has_two_examples_and_other_words_are_an_error(var: Path) -> None:
    helped = _stop_all(var, "-h")
    assert helped.returncode == 0
    assert helped.stdout.count("bash stop_all.sh") == 3
    assert _stop_all(var, "now").returncode == 2
