"""The program itself: its command line, what it refuses to start on, and how it ends."""

import asyncio
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from matching import client, signing
from matching.config import Var
from tests.processes import ROOT, Process, running
from tests.waiting import PATIENCE_SECONDS, free_port

SERVER = "matching/matchingserver.py"


@contextmanager
def server(var: Path, *arguments: str, port: int = 0, **more: str) -> Iterator[Process]:
    """A server that listens; its port is in its line."""
    line = ("-p", str(port), "-t", "intc", *arguments)
    with running(SERVER, *line, var=var, **more) as process:
        process.wait_for_line("listening on")
        yield process


def port_of(process: Process) -> int:
    return int(process.wait_for_line(r"listening on \S+:(\d+),")[1])


def venue_key(var: Path) -> str:
    return (var / "venue.key").read_text().strip()


def post(process: Process, text: str, key: str) -> int:
    url = f"http://127.0.0.1:{port_of(process)}/"
    oid: int = asyncio.run(client.post_order(url, text, key))["oid"]
    return oid


def refused(var: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a start that does not succeed."""
    with running(SERVER, *arguments, var=var) as process:
        code = process.wait()
        return code, process.output


def only_line(output: str) -> str:
    (line,) = output.splitlines()
    assert line.startswith("matchingserver: ")
    return line


def test_the_command_line_of_2010_works_as_it_was_typed(tmp_path: Path) -> None:
    port = free_port()
    with running(
        "matchingserver.py", "-p", str(port), "-t", "intc", var=tmp_path, cwd=ROOT / "matching"
    ) as process:
        line = process.wait_for_line("listening on")[0]
        assert line
        assert process.lines[0] == (
            f"matchingserver intc: listening on 127.0.0.1:{port},"
            f" journal {tmp_path}/journal/intc.log, recovered 0 records"
        )
        assert post(process, "7:buy intc 100@50.25", venue_key(tmp_path)) == 1
        assert process.terminate() == 0
    assert (tmp_path / "journal" / "intc.log").exists()
    assert stat.S_IMODE((tmp_path / "venue.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("stop", ["terminate", "interrupt"])
def test_a_stopped_server_ends_with_zero_and_goes_on_where_it_was(
    tmp_path: Path, stop: str
) -> None:
    pid_file = tmp_path / "run" / "match-intc.pid"
    with server(tmp_path) as process:
        assert pid_file.read_text().strip() == str(process.pid)
        assert post(process, "7:buy intc 100@50.25", venue_key(tmp_path)) == 1
        assert getattr(process, stop)() == 0
        assert "Traceback" not in process.output
    assert not pid_file.exists()
    with server(tmp_path) as process:
        records = int(process.wait_for_line(r"recovered (\d+) records")[1])
        assert records >= 4
        assert post(process, "7:buy intc 100@50.25", venue_key(tmp_path)) == 2
    with server(tmp_path, "--durability", "write") as process:
        assert post(process, "7:buy intc 100@50.25", venue_key(tmp_path)) == 3
        assert process.terminate() == 0


def test_help_shows_two_examples(tmp_path: Path) -> None:
    code, output = refused(tmp_path, "-h")
    assert code == 0
    assert len(re.findall(r"^  python matchingserver.py -p \d+ -t \w+", output, re.M)) == 2
    for option in ("--host", "--price", "--tick", "--lot", "--origin", "--venue-from", "--phase"):
        assert option in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("-t", "INTC"),
        ("-t", "all"),
        ("-p", "70000"),
        ("-p", "http"),
        ("--tick", "0"),
        ("--tick", "0.00001"),
        ("--price", "-1"),
        ("--lot", "0"),
        ("--phase", "open"),
        ("--durability", "none"),
        ("--venue-from", "10.0.0.1/8"),
        ("--nonsense",),
        ("extra",),
    ],
)
def test_a_wrong_option_is_a_usage_error_and_makes_nothing(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    var = tmp_path / "var"
    code, output = refused(var, *arguments)
    assert code == 2
    assert output.splitlines()[-1].startswith("matchingserver.py: error: ")
    assert not var.exists()


def test_a_second_server_on_a_ticker_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with server(tmp_path) as first:
        journal = tmp_path / "journal" / "intc.log"
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        other = tmp_path / "other.log"
        for arguments in ((), ("-f", str(other))):
            code, output = refused(tmp_path, "-p", "0", "-t", "intc", *arguments)
            assert code == 69
            assert "another matching server serves intc" in only_line(output)
        assert not other.exists()
        after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        del before[journal], after[journal], before[tmp_path / "journal" / "intc.durable"]
        del after[tmp_path / "journal" / "intc.durable"]
        assert before == after, "but for the tick that seals the first server's journal"
        assert post(first, "7:buy intc 1@50", venue_key(tmp_path)) == 1


def test_a_second_server_on_a_journal_is_refused_whatever_its_var_and_its_name(
    tmp_path: Path,
) -> None:
    journal, alias = tmp_path / "journal" / "intc.log", tmp_path / "alias.log"
    with server(tmp_path) as first:
        assert post(first, "7:buy intc 1@50", venue_key(tmp_path)) == 1
        alias.symlink_to(journal)
        before = journal.read_text()
        for name in (journal, alias):
            code, output = refused(tmp_path / "other", "-p", "0", "-t", "intc", "-f", str(name))
            assert code == 69
            assert f"another matching server writes {name}" in only_line(output)
        assert journal.read_text().startswith(before)
        assert " epoch 2 " not in journal.read_text()
        assert post(first, "7:buy intc 1@50", venue_key(tmp_path)) == 2


def test_a_taken_port_is_refused_before_the_journal_is_touched(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        code, output = refused(tmp_path, "-p", str(port), "-t", "intc")
    assert code == 69
    assert f"127.0.0.1:{port}" in only_line(output)
    assert not (tmp_path / "journal" / "intc.log").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tick", "0.05"), "tick 0.01, not 0.05"),
        (("--lot", "10"), "lot 1, not 10"),
        (("--price", "50"), "price 100.00, not 50.00"),
    ],
)
def test_terms_that_contradict_the_journal_are_refused(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    with server(tmp_path) as process:
        assert process.terminate() == 0
    journal = (tmp_path / "journal" / "intc.log").read_bytes()
    code, output = refused(tmp_path, "-p", "0", "-t", "intc", *arguments)
    assert code == 78
    assert words in only_line(output)
    assert (tmp_path / "journal" / "intc.log").read_bytes() == journal
    with server(tmp_path, "--tick", "0.01", "--lot", "1", "--price", "100") as process:
        assert process.terminate() == 0


def test_terms_make_a_new_journal(tmp_path: Path) -> None:
    with server(
        tmp_path, "--tick", "0.05", "--lot", "10", "--price", "50", "--phase", "closed"
    ) as one:
        query = asyncio.run(client.query(f"http://127.0.0.1:{port_of(one)}/query"))
    shown = [query[name] for name in ("tick", "lot", "reference", "phase")]
    assert shown == ["0.05", 10, "50.00", "closed"]


def test_a_journal_of_another_product_is_refused(tmp_path: Path) -> None:
    with server(tmp_path) as process:
        assert process.terminate() == 0
    journal = tmp_path / "journal" / "intc.log"
    code, output = refused(tmp_path, "-p", "0", "-t", "amd", "-f", str(journal))
    assert code == 78
    assert "of intc, not of amd" in only_line(output)


def test_a_damaged_journal_is_refused_with_the_byte_and_left_as_it_is(tmp_path: Path) -> None:
    with server(tmp_path) as process:
        for _ in range(5):
            post(process, "7:buy intc 100@50.25", venue_key(tmp_path))
        assert process.terminate() == 0
    journal = tmp_path / "journal" / "intc.log"
    damaged = bytearray(journal.read_bytes())
    damaged[damaged.index(b"100@50.25") + 1] ^= 1
    journal.write_bytes(damaged)
    code, output = refused(tmp_path, "-p", "0", "-t", "intc")
    assert code == 75
    assert re.search(r"byte \d+", only_line(output))
    assert journal.read_bytes() == damaged


@pytest.mark.parametrize(
    ("prepare", "arguments", "words"),
    [
        ("file", (), "cannot make"),
        ("", ("--var", "/dev/null/var"), "cannot make"),
        ("key", (), "can be read by others"),
        ("generations", (), "key.generations"),
        ("", ("-k", "secret"), "64 lowercase hex"),
        ("", ("-k", "@/nowhere"), "key file"),
        ("", ("-f", "/nowhere/intc.log"), "cannot open"),
        ("", ("-f", "/nowhere/intc.durable"), "beside a journal"),
        ("", ("-f", "/nowhere/intc.rejected"), "beside a journal"),
        ("", ("--demo", "--host", "0.0.0.0"), "loopback only"),
        ("", ("--host", "192.0.2.1"), "cannot listen"),
    ],
)
def test_a_configuration_that_cannot_work_is_one_clear_line(
    tmp_path: Path, prepare: str, arguments: tuple[str, ...], words: str
) -> None:
    var = tmp_path / "var"
    if prepare == "file":
        var.write_text("in the way")
    elif prepare:
        Var(var).make()
        name = {"key": "venue.key", "generations": "key.generations"}[prepare]
        (var / name).write_text("7\n" if prepare == "generations" else "00" * 32)
        (var / name).chmod(0o644)
    code, output = refused(var, "-p", "0", "-t", "intc", *arguments)
    assert code == (69 if "--host" in arguments and "--demo" not in arguments else 78)
    assert words in only_line(output)
    assert not (var / "journal" / "intc.log").exists()


def test_with_demo_any_text_is_a_key(tmp_path: Path) -> None:
    with server(tmp_path, "--demo", "-k", "secret") as process:
        assert post(process, "7:buy intc 1@50", "secret") == 1
        owner_key = signing.owner_key("secret", 7)
        assert post(process, "7:buy intc 1@50", owner_key) == 2


def test_a_key_may_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    key = "ab" * 32
    key_file = tmp_path / "key"
    key_file.write_text(key + "\n")
    with server(tmp_path / "a", "-k", f"@{key_file}") as process:
        assert post(process, "7:buy intc 1@50", key) == 1
    with server(tmp_path / "b", EMTE_HMAC_KEY=key) as process:
        assert post(process, "7:buy intc 1@50", key) == 1
    assert not (tmp_path / "a" / "venue.key").exists()


def test_connections_are_printed_as_in_2010(tmp_path: Path) -> None:
    with server(tmp_path) as process:
        url = f"ws://127.0.0.1:{port_of(process)}/realtime/"

        async def visit() -> None:
            visitor = client.Client(url, ticker="intc")
            await visitor.connect()
            await visitor.close()

        asyncio.run(visit())
        process.wait_for_line("^client connected via websocket$")
        process.wait_for_line("^client disconnected$")


def test_a_server_whose_output_nobody_reads_any_more_goes_on(tmp_path: Path) -> None:
    """As `python matchingserver.py … | head -1` leaves it, and a full disk under its output."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, SERVER, "-p", "0", "-t", "intc", "--var", str(tmp_path)],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    try:
        with open(reading) as output:
            port = int(output.readline().split(":")[2].split(",")[0])

        async def visit() -> None:
            visitor = client.Client(f"ws://127.0.0.1:{port}/realtime", ticker="intc")
            await visitor.connect()
            await visitor.ping()
            await visitor.close()

        asyncio.run(visit())
        asyncio.run(visit())
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()
