"""The program on a machine that lets it down: it ends with the right code and one line, or goes on.

Whatever happens, nobody has an answer that the journal does not hold, also under `python -O`.
"""

import asyncio
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from matching import client, signing
from matching.config import Var, load_venue_key
from matching.journal import durable_path, read_mark
from tests.processes import ROOT, Process, running
from tests.waiting import PATIENCE_SECONDS, wait_until

SERVER = "matching/matchingserver.py"
FAILING = ("-m", "tests.matching.failing_disk")


def port_of(process: Process) -> int:
    return int(process.wait_for_line(r"listening on \S+:(\d+),")[1])


@contextmanager
def server(var: Path, *program: str, options: tuple[str, ...] = ()) -> Iterator[Process]:
    """A server that listens."""
    line = (*(program or (SERVER,)), "-p", "0", "-t", "intc", *options)
    with running(*line, var=var) as process:
        port_of(process)
        yield process


def request(var: Path, text: str) -> bytes:
    """A POST of a text under the venue key."""
    stamped = f"{text} ts={time.time_ns() // 1_000_000}"
    signature = signing.sign(load_venue_key(Var(var)), stamped)
    body = f"order={stamped.replace(' ', '+')}&signature={signature}"
    head = (
        "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return (head + body).encode()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)


def post(process: Process, var: Path, text: str) -> bytes:
    """All that comes back, until the server closes or ends; b"" is no answer."""
    with connected(port_of(process)) as connection:
        connection.sendall(request(var, text))
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)


def answered(process: Process, var: Path, text: str) -> str:
    head, _, body = post(process, var, text).partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0], body
    return body.decode()


def last_line(process: Process) -> str:
    line = process.lines[-1]
    assert line.startswith("matchingserver: "), process.output
    assert "Traceback" not in process.output
    return line


def journal(var: Path) -> Path:
    return var / "journal" / "intc.log"


def wait_until_sealed(var: Path) -> None:
    """Until an idle server has nothing more to write."""

    def is_sealed() -> bool:
        text = journal(var).read_text()
        mark = read_mark(durable_path(journal(var)))
        return " tick s=" in text and mark is not None and mark.offset == len(text)

    wait_until(is_sealed, "the seal of the journal and its mark")


def verify(var: Path) -> str:
    """What the journal's own check says of it."""
    run = subprocess.run(
        [sys.executable, "-m", "matching.journal", "verify", str(journal(var))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes at `folder`; the test is skipped where we may not mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "emte-test", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


# -- the disk fails


@pytest.mark.parametrize("optimize", [(), ("-O",)], ids=["python", "python -O"])
@pytest.mark.parametrize("call", ["append", "sync", "write_at"])
def test_an_input_output_error_ends_it_with_75_and_nobody_is_answered(
    tmp_path: Path, call: str, optimize: tuple[str, ...]
) -> None:
    with server(tmp_path, *optimize, *FAILING) as process:
        assert answered(process, tmp_path, "7:buy intc 1@50") == "1"
        assert b"bad_tick" in post(process, tmp_path, "7:buy intc 1@50.001")
        wait_until_sealed(tmp_path)
        before = journal(tmp_path).read_bytes()
        (tmp_path / "fails").write_text(call)
        assert post(process, tmp_path, "7:buy intc 2@60") == b""
        assert process.wait() == 75
        assert last_line(process) == (
            f"matchingserver: {journal(tmp_path)} cannot be written: Input/output error;"
            " what was not answered may be lost"
        )
    left = journal(tmp_path).read_bytes()
    assert left.startswith(before)
    assert (left == before) == (call == "append"), "it is not written again"
    (tmp_path / "fails").unlink()
    with server(tmp_path, *optimize, *FAILING) as process:
        assert answered(process, tmp_path, "7:buy intc 3@70") == ("2" if call == "append" else "3")
        assert process.terminate() == 0
    assert "sound" in verify(tmp_path)


@pytest.mark.parametrize("durability", ["fsync", "write"])
@pytest.mark.parametrize("call", ["append", "sync"])
def test_a_disk_that_fails_while_it_stops_ends_it_with_75_too(
    tmp_path: Path, call: str, durability: str
) -> None:
    with server(tmp_path, *FAILING, options=("--durability", durability)) as process:
        assert answered(process, tmp_path, "7:buy intc 1@50") == "1"
        (tmp_path / "aside").write_text(call)
        (tmp_path / "aside").rename(tmp_path / "fails")
        assert process.terminate() == 75  # at the last seal, if not at one before
        assert "cannot be written: Input/output error" in last_line(process)
    with server(tmp_path) as process:
        assert answered(process, tmp_path, "7:buy intc 3@70") == "2"
        assert process.terminate() == 0
    verify(tmp_path)


@pytest.mark.parametrize("durability", ["fsync", "write"])
def test_a_file_at_its_limit_ends_it_with_75_and_what_was_half_written_is_cut_off(
    tmp_path: Path, durability: str
) -> None:
    with server(tmp_path, options=("--durability", durability)) as process:
        assert answered(process, tmp_path, "7:buy intc 1@50") == "1"
        wait_until_sealed(tmp_path)
        limit = journal(tmp_path).stat().st_size + 20
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        assert post(process, tmp_path, "7:buy intc 2@60") == b""
        assert process.wait() == 75
        assert "no space: only 20 of " in last_line(process)
    assert journal(tmp_path).stat().st_size == limit
    with server(tmp_path) as process:
        assert (tmp_path / "journal" / "intc.torn").stat().st_size == 20
        assert answered(process, tmp_path, "7:buy intc 3@70") == "2"
        assert process.terminate() == 0
    verify(tmp_path)


def test_a_limit_that_leaves_no_byte_is_an_error_too(tmp_path: Path) -> None:
    with server(tmp_path) as process:
        limit = journal(tmp_path).stat().st_size // 2
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        assert post(process, tmp_path, "7:buy intc 2@60") == b""
        assert process.wait() == 75
        assert "cannot be written: File too large" in last_line(process)
    verify(tmp_path)


def test_a_full_disk_ends_it_with_75_and_with_space_it_goes_on(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "400k") as var:
        output = var / "run" / "match.out"
        with server(var) as process:
            assert b"no_space" in post(process, var, "7:buy intc 1@50")
            assert "phase halted why=no_space" in journal(var).read_text()
            fill(var / "filler")
            answers = [post(process, var, "set intc collar=5")]
            while answers[-1]:
                answers.append(post(process, var, f"set intc collar={len(answers) % 50 + 1}"))
            assert process.wait() == 75
            assert re.search(r"cannot be written: (no space|No space)", last_line(process))
        acknowledged = len(answers) - 1
        with output.open("w") as log:
            again = subprocess.run(
                [sys.executable, SERVER, "-p", "0", "-t", "intc", "--var", str(var)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                timeout=PATIENCE_SECONDS,
            )
        assert again.returncode == 75, "also where there is no room to say why"
        (var / "filler").unlink()
        with server(var) as process:
            assert process.terminate() == 0
        assert len(re.findall(r" set collar=", journal(var).read_text())) in (
            acknowledged,
            acknowledged + 1,
        )
        verify(var)


def test_a_read_only_disk_is_refused_with_75_and_left_as_it_is(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "8m") as var:
        with server(var) as process:
            assert process.terminate() == 0
        before = journal(var).read_bytes()
        subprocess.run(["mount", "-o", "remount,ro", str(var)], check=True)
        for options in ((), ("--var", str(tmp_path / "other"), "-f", str(journal(var)))):
            with running(SERVER, "-p", "0", "-t", "intc", *options, var=var) as process:
                assert process.wait() == 75
                (line,) = process.lines
                assert line.startswith("matchingserver: ")
                assert "read-only file system" in line.lower()
        assert journal(var).read_bytes() == before


# -- somebody else is there


def test_a_taken_port_leaves_the_journal_byte_for_byte_and_counts_no_start(tmp_path: Path) -> None:
    with server(tmp_path) as process:
        assert answered(process, tmp_path, "7:buy intc 1@50") == "1"
        assert process.terminate() == 0
    files = {path: path.read_bytes() for path in (tmp_path / "journal").iterdir()}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with running(SERVER, "-p", str(port), "-t", "intc", var=tmp_path) as process:
            assert process.wait() == 69
            (line,) = process.lines
            assert line == (
                f"matchingserver: cannot listen on 127.0.0.1:{port}: Address already in use"
            )
    assert {path: path.read_bytes() for path in (tmp_path / "journal").iterdir()} == files


@pytest.mark.parametrize("same_file", [True, False], ids=["same -f", "other -f"])
def test_of_servers_that_race_for_a_ticker_one_serves_and_the_others_write_nothing(
    tmp_path: Path, same_file: bool
) -> None:
    var = tmp_path / "var"
    Var(var).make()
    names = [tmp_path / ("intc.log" if same_file else f"{number}.log") for number in range(4)]
    with (
        running(SERVER, "-p", "0", "-t", "intc", "-f", str(names[0]), var=var) as first,
        running(SERVER, "-p", "0", "-t", "intc", "-f", str(names[1]), var=var) as second,
        running(SERVER, "-p", "0", "-t", "intc", "-f", str(names[2]), var=var) as third,
    ):
        racers = [first, second, third]
        losers = wait_until(
            lambda: (ended := [each for each in racers if not each.is_running])[1:] and ended,
            "all but one to end",
        )
        (winner,) = [each for each in racers if each not in losers]
        port_of(winner)
        for loser in losers:
            assert loser.wait() == 69
            (line,) = loser.lines
            assert line.startswith("matchingserver: another matching server serves intc")
        assert answered(winner, var, "7:buy intc 1@50") == "1"
        written = [path for path in {*names} if path.exists()]
        assert written == [Path(winner.arguments[winner.arguments.index("-f") + 1])]
        assert written[0].read_text().count(" epoch ") == 1
        assert winner.terminate() == 0


@pytest.mark.parametrize("number_of_vars", [2])
def test_of_servers_that_race_for_a_file_under_different_vars_one_serves(
    tmp_path: Path, number_of_vars: int
) -> None:
    path = tmp_path / "intc.log"
    with (
        running(SERVER, "-p", "0", "-t", "intc", "-f", str(path), var=tmp_path / "a") as first,
        running(SERVER, "-p", "0", "-t", "intc", "-f", str(path), var=tmp_path / "b") as second,
    ):
        racers = [first, second]
        (loser,) = wait_until(
            lambda: [each for each in racers if not each.is_running], "one of them to end"
        )
        (winner,) = [each for each in racers if each is not loser]
        port_of(winner)
        assert loser.wait() == 69
        assert path.read_text().count(" epoch ") == 1
        assert winner.terminate() == 0


# -- too few open files


def test_connections_beyond_its_open_files_are_turned_away_and_those_it_has_go_on(
    tmp_path: Path,
) -> None:
    with server(tmp_path) as process:
        port = port_of(process)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (64, 64))

        url, key = f"ws://127.0.0.1:{port}/realtime", load_venue_key(Var(tmp_path))

        async def trade(stack: ExitStack) -> None:
            trader = client.Client(url, ticker="intc", key=key, owner=7)
            await trader.connect()
            await trader.login()
            crowd = [stack.enter_context(connected(port)) for _ in range(120)]
            async with asyncio.timeout(PATIENCE_SECONDS):
                while sum(map(is_closed, crowd)) < len(crowd) - 32:
                    await asyncio.sleep(0.01)
                assert (await trader.send("buy 1@50"))["oid"] == 1
                write_generations(tmp_path, "7 2\n")
                await trader.wait_until_lost()
            await trader.close()

        with ExitStack() as stack:
            asyncio.run(trade(stack))
        process.wait_for_line("WARNING connections are turned away: only 64 files may be open")
        assert answered(process, tmp_path, "7:buy intc 2@50") == "2"
        assert "Traceback" not in process.output
        assert len(process.lines) < 300, "a line for each that connected, and no more"
        assert process.terminate() == 0


def test_a_machine_without_a_file_for_it_keeps_connections_waiting_and_says_so_once(
    tmp_path: Path,
) -> None:
    with server(tmp_path) as process:
        limit = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (10, limit[1]))
        with connected(port_of(process)) as waiting:
            waiting.sendall(request(tmp_path, "7:buy intc 1@50"))
            process.wait_for_line("WARNING connections are turned away")
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limit)
            assert b" 200 OK" in waiting.recv(65536)
        assert len(process.lines) < 10
        assert process.terminate() == 0


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def write_generations(var: Path, text: str) -> None:
    aside = var / "aside"
    aside.write_text(text)
    aside.replace(Var(var).generations_file)


@pytest.mark.parametrize("most", [24, 63])
def test_with_too_few_open_files_it_does_not_start(tmp_path: Path, most: int) -> None:
    run = subprocess.run(
        [sys.executable, SERVER, "-p", "0", "-t", "intc", "--var", str(tmp_path / "var")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)),
    )
    assert (run.returncode, run.stdout) == (78, "")
    assert run.stderr == (
        f"matchingserver: only {most} files may be open at a time (ulimit -n); 64 are the least\n"
    )
    assert not (tmp_path / "var").exists()
