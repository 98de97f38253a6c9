"""The supervisor, with robots that wait for a server as its children: they need nothing else."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from matching.config import Var
from matching.exits import ExitCode, Fatal
from scripts import supervisor as supervisor_module
from scripts.supervisor import Program, Role, State, Supervisor, sole_supervisor
from tests.processes import ROOT, running
from tests.scripts.venue import pid_of, processes_of
from tests.waiting import free_port, wait_until


class House:
    """A supervisor of one var/, and what it has said."""

    def __init__(self, root: Path) -> None:
        self.var = Var(root)
        self.var.make()
        self.started: list[str] = []
        self.ended: list[str] = []
        self.supervisor = Supervisor(
            self.var,
            on_start=lambda program: self.started.append(program.name),
            on_end=lambda program, what: self.ended.append(f"{program.name} {what}"),
        )
        self._port = free_port()

    def robot(self, number: int, *, role: Role = Role.ROBOT, wait: str = "1") -> Program:
        """A program that runs until it is told to end; in any role, for the order of things."""
        arguments = ("-p", str(self._port), "-t", "intc", "-n", str(number), "-w", wait)
        arguments += ("--var", str(self.var.root))
        return Program(f"robot-intc-{number}", role, "robot.robot_trader", arguments)

    def pid(self, number: int) -> int | None:
        return pid_of(self.var.root, f"robot-intc-{number}")

    def until_up(self, *numbers: int) -> None:
        def are_up() -> bool:
            self.supervisor.step()
            states = [self.supervisor.state(f"robot-intc-{number}") for number in numbers]
            return all(state is State.UP for state in states)

        wait_until(are_up, f"robots {numbers}")

    def output(self, number: int) -> Path:
        return self.var.run_dir / f"robot-intc-{number}.out"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "var")
    yield house
    house.supervisor.hurry()
    for role in Role:
        house.supervisor.stop(role)
    assert processes_of(house.var.root) == {}


def test_what_is_wanted_runs_and_what_is_not_ends(house: House) -> None:
    house.supervisor.want([house.robot(1), house.robot(2)])
    house.until_up(1, 2)
    assert sorted(house.started) == ["robot-intc-1", "robot-intc-2"]
    house.supervisor.want([house.robot(2), house.robot(3)])
    house.until_up(2, 3)
    wait_until(lambda: house.supervisor.step() or house.pid(1) is None, "the end of robot 1")
    assert house.ended == []
    assert house.supervisor.state("robot-intc-1") is State.DOWN


def test_a_program_with_other_arguments_is_started_anew(house: House) -> None:
    house.supervisor.want([house.robot(1)])
    house.until_up(1)
    before = house.pid(1)
    house.supervisor.want([house.robot(1)])
    house.supervisor.step()
    assert house.pid(1) == before
    house.supervisor.want([house.robot(1, wait="2")])
    house.until_up(1)
    assert house.pid(1) != before
    assert list(processes_of(house.var.root)) == [house.pid(1)]


def test_what_is_killed_is_started_again_and_told(house: House) -> None:
    house.supervisor.want([house.robot(1)])
    house.until_up(1)
    pid = house.pid(1)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: house.supervisor.step() or house.ended, "the news")
    assert house.ended[0].startswith("robot-intc-1 ended with SIGKILL; next start in ")
    assert house.supervisor.state("robot-intc-1") is State.DOWN
    house.until_up(1)
    assert house.pid(1) != pid
    assert house.started == ["robot-intc-1", "robot-intc-1"]


def test_an_end_is_told_with_its_reason_and_the_waits_grow(house: House) -> None:
    failing = Program("robot-x", Role.ROBOT, "scripts.no_such_module", ())
    house.supervisor.want([failing])
    wait_until(lambda: house.supervisor.step() or len(house.ended) > 2, "three ends")
    waits = [float(line.rpartition(" in ")[2].removesuffix(" s")) for line in house.ended]
    assert waits[0] <= 0.5
    assert 1.0 <= waits[2] <= 2.0
    assert "ended with exit code 1 (bug): " in house.ended[0]
    assert "No module named" in house.ended[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-k", "@/no/such/key"), "exit code 78 (configuration): robot_trader: cannot read"),
        (("-o", "nobody"), "exit code 2 (usage): robot_trader: error: argument -o/--owner"),
    ],
)
def test_what_needs_a_human_is_not_tried_again_soon(
    house: House, arguments: tuple[str, ...], reason: str
) -> None:
    robot = house.robot(1)
    house.supervisor.want(
        [Program(robot.name, robot.role, robot.module, robot.arguments + arguments)]
    )
    wait_until(lambda: house.supervisor.step() or house.ended, "the news")
    assert f"ended with {reason}" in house.ended[0]
    assert 30 <= float(house.ended[0].rpartition(" in ")[2].removesuffix(" s")) <= 60


def test_children_are_started_in_the_order_of_their_roles(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    roles = [Role.ROBOT, Role.LOG2DB, Role.WEB, Role.MATCHING_SERVER]
    house.supervisor.want(house.robot(number, role=role) for number, role in enumerate(roles))
    house.supervisor.step()
    assert house.started == ["robot-intc-3", "robot-intc-2"]  # two for each core at a time
    house.until_up(0, 1, 2, 3)
    assert house.started == ["robot-intc-3", "robot-intc-2", "robot-intc-1", "robot-intc-0"]


def test_a_role_is_stopped_alone_and_for_good(house: House) -> None:
    house.supervisor.want([house.robot(1), house.robot(2, role=Role.LOG2DB)])
    house.until_up(1, 2)
    house.supervisor.stop(Role.ROBOT)
    house.supervisor.step()
    assert house.pid(1) is None
    assert house.pid(2) is not None
    assert house.ended == []


def test_a_child_that_does_not_end_is_killed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 0.2)
    house.supervisor.want([house.robot(1)])
    house.until_up(1)
    pid = house.pid(1)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    house.supervisor.stop(Role.ROBOT)
    assert house.ended == ["robot-intc-1 did not end when asked to, and was killed"]
    assert processes_of(house.var.root) == {}


def test_a_matching_server_has_longer_to_end_for_its_last_snapshot(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 0.0)
    house.supervisor.want([house.robot(1, role=Role.MATCHING_SERVER)])
    house.until_up(1)
    house.supervisor.stop(Role.MATCHING_SERVER)
    assert house.ended == []


def test_output_is_kept_and_starts_anew_when_it_is_long(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "OUTPUT_LIMIT", 1000)
    monkeypatch.setattr(supervisor_module, "TRIM_SECONDS", 0.0)
    house.output(1).write_text("what an earlier one said\n")
    house.supervisor.want([house.robot(1)])
    house.until_up(1)
    wait_until(lambda: "waiting for" in house.output(1).read_text(), "the robot's words")
    house.supervisor.step()
    assert house.output(1).read_text().startswith("what an earlier one said\n")
    house.output(1).write_text("x" * 1001)
    house.supervisor.step()
    assert house.output(1).stat().st_size == 0


def test_there_is_one_supervisor(house: House) -> None:
    with sole_supervisor(house.var), pytest.raises(Fatal) as fatal, sole_supervisor(house.var):
        pass
    assert fatal.value.code == ExitCode.UNAVAILABLE
    with sole_supervisor(house.var):
        pass


def _start_and_end_badly(house: House, *, asks_for_signal: bool) -> subprocess.Popen[str]:
    """A supervisor, as a process of its own, with one child; it says the child's process id."""
    program = f"""
import sys, time
from pathlib import Path
from matching.config import Var
from scripts import supervisor
from scripts.supervisor import Program, Role, State, Supervisor
if not {asks_for_signal}:
    supervisor.die_with_parent = lambda: None
var = Var(Path({str(house.var.root)!r}))
house = Supervisor(var, on_start=lambda program: None, on_end=lambda program, what: None)
house.want([{house.robot(1)!r}])
while house.state("robot-intc-1") is not State.UP:
    house.step()
    time.sleep(0.01)
print("up", flush=True)
time.sleep(1000)
""".replace("<Role.ROBOT: 'robot'>", "Role.ROBOT")
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.communicate()
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children by itself")
def test_the_children_of_a_killed_supervisor_end(house: House) -> None:
    _start_and_end_badly(house, asks_for_signal=True)
    wait_until(lambda: processes_of(house.var.root) == {}, "the end of the child")


def test_the_next_supervisor_stops_what_a_killed_one_left(house: House) -> None:
    """As it is where the system does not end the children."""
    _start_and_end_badly(house, asks_for_signal=False)
    (left,) = processes_of(house.var.root)
    foreign = subprocess.Popen(["sleep", "1000"])
    with (house.var.run_dir / "serve.children").open("a") as children:
        children.write(f"{foreign.pid} robot.robot_trader\n{left} scripts.serve\n")
    with sole_supervisor(house.var):
        assert processes_of(house.var.root) == {}
    assert foreign.poll() is None
    foreign.kill()
    foreign.wait()


def test_a_child_of_another_venue_that_got_the_process_id_is_left_alone(
    house: House, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    with running("-m", "robot.robot_trader", "-p", str(free_port()), var=other) as foreign:
        wait_until(lambda: list(other.glob("run/robot-*.pid")), "the other venue's robot")
        with running(
            "-m", "robot.robot_trader", "-p", str(free_port()), "--var", str(other), var=other
        ) as told:
            wait_until(lambda: len(list(other.glob("run/robot-*.pid"))) == 2, "the second one")
            (house.var.run_dir / "serve.children").write_text(
                f"{foreign.pid} robot.robot_trader\n{told.pid} robot.robot_trader\n"
            )
            with sole_supervisor(house.var):
                assert foreign.is_running
                assert told.is_running


def test_a_hurried_supervisor_waits_for_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 3600.0)
    house.supervisor.want([house.robot(1)])
    house.until_up(1)
    pid = house.pid(1)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    stopping = threading.Thread(target=house.supervisor.stop, args=(Role.ROBOT,), daemon=True)
    stopping.start()
    house.supervisor.hurry()
    wait_until(lambda: not stopping.is_alive(), "the end of the child")
