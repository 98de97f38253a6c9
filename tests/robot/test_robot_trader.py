"""The robot trader as a process, at a real matching server."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from matching import config, signing
from matching.config import Var
from tests.processes import ROOT, Process, running
from tests.waiting import free_port, wait_until

ORDER = r"^order #(\d+) from (\d+):(buy|sell) (\d+)@(0|\d+\.\d\d) \(\d+\.\d{6}seconds\)$"


@pytest.fixture
def var(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture
def port() -> int:
    return free_port()


class Servers:
    """Starts matching servers; all are ended with the test."""

    def __init__(self, var: Path) -> None:
        self._var = var
        self._started: list[Process] = []

    def start(self, port: int, *options: str, var: Path | None = None) -> Process:
        server = Process(
            *("-m", "matching.matchingserver", "-p", str(port), "-t", "intc", *options),
            var=var or self._var,
        )
        self._started.append(server)
        server.wait_for_line("listening on")
        return server

    def end(self) -> None:
        for server in self._started:
            server.end()


@pytest.fixture
def servers(var: Path) -> Iterator[Servers]:
    servers = Servers(var)
    yield servers
    servers.end()


@pytest.fixture
def server(servers: Servers, port: int) -> Process:
    return servers.start(port)


def _orders(robot: Process) -> list[re.Match[str]]:
    return [match for line in list(robot.lines) if (match := re.search(ORDER, line))]


def test_the_line_of_2010_trades(var: Path, port: int, server: Process) -> None:
    """`cd robot; python robot_trader.py -p 8888 -w 2.0`, but for the port and the wait."""
    with running(
        "robot_trader.py", "-p", str(port), "-w", "0.01", var=var, cwd=ROOT / "robot"
    ) as robot:
        robot.wait_for_line(ORDER)
        wait_until(lambda: len(_orders(robot)) > 20, "orders")
        assert [int(order[1]) for order in _orders(robot)[:20]] == list(range(1, 21))
        assert {order[2] for order in _orders(robot)} == {"0"}
        assert robot.terminate() == 0
    assert list((var / "run").glob("robot*")) == []


def test_it_trades_for_each_of_its_owners(var: Path, port: int, server: Process) -> None:
    with running(
        "-m", "robot.robot_trader", "-p", str(port), "-o", "7,8", "-w", "0", var=var
    ) as robot:
        wait_until(lambda: {order[2] for order in _orders(robot)} == {"7", "8"}, "both owners")
        assert robot.interrupt() == 0


def test_an_owners_key_is_good_for_its_owner(var: Path, port: int, server: Process) -> None:
    key = signing.owner_key(config.load_venue_key(config.Var(var)), 7)
    robot_of_7 = ("-m", "robot.robot_trader", "-p", str(port), "-k", key, "-o")
    with running(*robot_of_7, "7", var=var) as robot:
        robot.wait_for_line(ORDER)
    with running(*robot_of_7, "8", var=var) as robot:
        assert robot.wait() == 78
        (line,) = robot.lines
        assert line.startswith("robot_trader: the key is not good for owner 8: ")


def test_it_keeps_to_the_grid_of_its_product(var: Path, port: int, servers: Servers) -> None:
    servers.start(port, "--tick", "0.25", "--lot", "10")
    with running("-m", "robot.robot_trader", "-p", str(port), "-w", "0", var=var) as robot:
        wait_until(lambda: len(_orders(robot)) > 40, "orders")
        assert "refused" not in robot.output
        assert all(int(order[4]) % 10 == 0 for order in _orders(robot))


def test_told_to_clear_it_keeps_few_orders_open(var: Path, port: int, server: Process) -> None:
    robot_of_7 = ("-m", "robot.robot_trader", "-p", str(port), "-o", "7", "-w", "0")
    with running(*robot_of_7, "--clear", "3", var=var) as robot:
        robot.wait_for_line(r"^\d+ orders canceled by 7:del all \(\d+\.\d{6}seconds\)$")
        robot.wait_for_line(r"^[1-9]\d* orders canceled by")
        assert "refused" not in robot.output


def test_a_refusal_is_printed_and_does_not_stop_it(var: Path, port: int, servers: Servers) -> None:
    servers.start(port, "--phase", "halted")
    with running("-m", "robot.robot_trader", "-p", str(port), "-w", "0", var=var) as robot:
        robot.wait_for_line(r"^order from 0:(buy|sell) \d+@\S+ refused: market_halted: \w+")
        wait_until(lambda: robot.output.count("refused") > 3, "more orders")


def test_it_goes_on_where_nobody_reads_its_lines_any_more(
    var: Path, port: int, server: Process
) -> None:
    """As `python robot_trader.py … | head -1` leaves it."""
    robot = subprocess.Popen(
        [sys.executable, "robot/robot_trader.py", "-p", str(port), "-w", "0.01", "--var", str(var)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert robot.stdout is not None
        first = int(robot.stdout.readline().split()[1].removeprefix("#"))
        robot.stdout.close()
        journal = Var(var).journal_file("intc")
        wait_until(lambda: f"[{first + 20}] " in journal.read_text(), "twenty more orders")
        robot.terminate()
        assert robot.stderr is not None
        assert (robot.stderr.read(), robot.wait()) == ("", 0)
    finally:
        robot.kill()
        robot.communicate()


def test_a_second_signal_finds_it_ending(var: Path) -> None:
    """The end of its supervisor, and stop_all.sh, may both tell it to end."""
    program = """if True:
        import asyncio, os, signal
        from robot import robot_trader
        class Robot:
            async def trade(self):
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(60)
        asyncio.run(robot_trader._run(Robot()))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        print("ended once")
    """
    with running("-c", program, var=var) as robot:
        assert robot.wait() == 0
        assert robot.lines == ["ended once"]


def test_it_waits_for_its_server_and_goes_on_when_that_comes_back(
    var: Path, port: int, servers: Servers
) -> None:
    with running("-m", "robot.robot_trader", "-p", str(port), "-w", "0.01", var=var) as robot:
        robot.wait_for_line(f"^waiting for the matching server: http://127.0.0.1:{port}/query: ")
        server = servers.start(port)
        robot.wait_for_line("^the matching server of intc is there$")
        robot.wait_for_line(ORDER)
        server.kill()
        wait_until(lambda: robot.output.count("waiting for") == 2, "the robot's waiting")
        known = int(_orders(robot)[-1][1])
        server = servers.start(port)
        wait_until(lambda: int(_orders(robot)[-1][1]) > known + 5, "orders after the restart")
        assert robot.output.count("waiting for") == 2
        assert robot.output.count("is there") == 2
        assert robot.terminate() == 0


def test_it_trades_where_servers_cannot_run(var: Path, port: int, server: Process) -> None:
    """Windows has neither fcntl nor fdatasync, nor a loop that takes signals; robots run there."""
    program = (
        "import asyncio, os, sys\n"
        "sys.modules['fcntl'] = None\n"
        "del os.fdatasync, asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler\n"
        "from robot.robot_trader import main\n"
        "main()\n"
    )
    for strategy in ("random", "maker"):
        options = ("-p", str(port), "-w", "0.1", "-s", strategy)
        with running("-c", program, *options, var=var) as robot:
            robot.wait_for_line(ORDER)
            assert robot.terminate() == 0


def test_it_trades_only_the_ticker_that_it_is_told(var: Path, port: int, server: Process) -> None:
    with running("-m", "robot.robot_trader", "-p", str(port), "-t", "gs", var=var) as robot:
        robot.wait_for_line(r"^waiting for .* trades intc, not gs$")
        assert (var / "run" / f"robot-gs-{robot.pid}.pid").exists()


def test_the_same_seed_makes_the_same_orders(tmp_path: Path, servers: Servers) -> None:
    runs = []
    for name in ("one", "two"):
        port = free_port()
        servers.start(port, var=tmp_path / name)
        with running(
            *("-m", "robot.robot_trader", "-p", str(port), "-w", "0", "--seed", "5"),
            var=tmp_path / name,
        ) as robot:
            wait_until(lambda: len(_orders(robot)) > 10, "orders")
            runs.append([order.group(1, 2, 3, 4, 5) for order in _orders(robot)[:10]])
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-k", "@/no/such/file"), 78, "cannot read the key file"),
        (("-k", "secret", "--host", "192.0.2.1"), 78, "64 lowercase hex digits"),
        (("-o", "x"), 2, "is not an owner"),
        (("-o", "1,-2"), 2, "is not an owner"),
        (("-w", "-1"), 2, "is not a number of seconds"),
        (("-w", "nan"), 2, "is not a number of seconds"),
        (("-t", "../intc"), 2, "is not a ticker"),
        (("--clear", "-1"), 2, "is not a number of turns"),
        (("-p", "x"), 2, "invalid int value"),
        (("--var", "/proc/no"), 78, "cannot make /proc/no"),
    ],
)
def test_what_it_cannot_use_ends_it_with_one_line(
    var: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    with running("-m", "robot.robot_trader", *arguments, var=var) as robot:
        assert robot.wait() == code
        assert words in robot.lines[-1]
        assert code == 2 or len(robot.lines) == 1


def test_its_help_has_the_options_of_2010_and_two_examples(var: Path) -> None:
    with running("-m", "robot.robot_trader", "-h", var=var) as robot:
        assert robot.wait() == 0
        for words in ("-p", "--port", "-o", "--owner", "-k", "--hmac_key", "-w", "--wait_time"):
            assert words in robot.output
        assert robot.output.count("python robot_trader.py") == 2
