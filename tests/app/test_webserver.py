"""The web server as a process: how it starts, says what is wrong, and ends."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPException
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from app import webserver
from app.models import intents
from app.models.intents import State
from matching.config import Var
from tests.app.venue import Browser, Market, running_match, running_web
from tests.matching.test_matchingserver_faults import connected, is_closed
from tests.processes import ROOT, Process, running
from tests.waiting import PATIENCE_SECONDS, free_port, wait_until

MODULE = ("-m", "app.webserver")


def started(server: Process) -> str:
    """The address that a server prints once it listens."""
    return server.wait_for_line(r"webserver: listening on (http://\S+/)")[1]


def port_of(url: str) -> int:
    return urlsplit(url).port or 80


def ask(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.status, answer.read().decode()


def test_it_makes_its_database_and_serves(tmp_path: Path) -> None:
    with running(*MODULE, "--port", "0", var=tmp_path) as server:
        url = started(server)
        assert ask(f"{url}health/live") == (200, '{"live": true}')
        assert ask(f"{url}health/ready") == (200, '{"ready": true}')
        assert "An exchange you can run" in ask(url)[1]
    assert (tmp_path / "emte.db").exists()


def test_for_a_whole_network_it_says_where_it_is_found_from_here_and_from_there(
    tmp_path: Path,
) -> None:
    with running(*MODULE, "--port", "0", "--host", "0.0.0.0", var=tmp_path) as server:
        line = server.wait_for_line("webserver: listening on .*").group()
        urls = re.findall(r"http://\S+/", line)
        assert urlsplit(urls[0]).hostname == "localhost"
        assert "0.0.0.0" not in line, "no browser goes there"
        assert [ask(f"{url}health/live")[0] for url in urls] == [200] * len(urls)


def test_a_signal_ends_it_cleanly(tmp_path: Path) -> None:
    for end in (Process.terminate, Process.interrupt):
        with running(*MODULE, "--port", "0", var=tmp_path) as server:
            started(server)
            pid_file = Var(tmp_path).run_dir / "web.pid"
            assert int(pid_file.read_text()) == server.pid
            assert end(server) == 0
            assert not pid_file.exists()
            assert "Traceback" not in server.output


def test_the_first_of_two_in_one_var_is_web_whatever_a_killed_one_left(tmp_path: Path) -> None:
    run_dir = Var(tmp_path).run_dir
    run_dir.mkdir(parents=True)
    (run_dir / "web.pid").write_text(f"{os.getpid()}\n")  # that process id is ours now
    with running(*MODULE, "--port", "0", var=tmp_path) as first:
        started(first)
        assert int((run_dir / "web.pid").read_text()) == first.pid
        with running(*MODULE, "--port", "0", var=tmp_path) as second:
            port = urlsplit(started(second)).port
            assert int((run_dir / "web.pid").read_text()) == first.pid
            assert int((run_dir / f"web-{port}.pid").read_text()) == second.pid


def test_a_port_that_is_taken_is_one_line_and_69(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with running(*MODULE, "--port", str(port), var=tmp_path) as server:
            assert server.wait() == 69
            assert server.lines == [
                f"webserver: cannot listen on port {port} of 127.0.0.1: it is taken"
            ]


def test_what_is_configured_wrong_is_one_line_and_78(tmp_path: Path) -> None:
    a_file = tmp_path / "file"
    a_file.write_text("")
    readable_key = tmp_path / "var"
    readable_key.mkdir()
    (readable_key / "venue.key").write_text("0" * 64)
    (readable_key / "venue.key").chmod(0o644)
    for var, options in (
        (a_file, ()),
        (readable_key, ()),
        (tmp_path / "fresh", ("--database", "oracle://somewhere")),
    ):
        with running(*MODULE, "--port", "0", *options, var=var) as server:
            assert server.wait() == 78
            assert len(server.lines) == 1, server.output
            assert server.lines[0].startswith("webserver: ")


def test_a_setting_that_is_misspelt_opens_no_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMTE_MANAGER_SIGNUP", "close")
    with running(*MODULE, "--port", "0", var=tmp_path) as server:
        assert server.wait() == 78
        assert server.lines == ["webserver: manager_signup is open or closed, not 'close'"]


def test_a_host_that_is_not_ours_is_one_line_and_69(tmp_path: Path) -> None:
    arguments = ("--port", str(free_port()), "--host", "203.0.113.1")
    with running(*MODULE, *arguments, var=tmp_path) as server:
        assert server.wait() == 69
        assert len(server.lines) == 1


def test_an_order_that_is_on_its_way_is_answered_before_the_server_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webserver, "CLOSE_SECONDS", PATIENCE_SECONDS)
    port = free_port()
    with (
        running_web(tmp_path) as web,
        running_match(web.var, "intc", port) as exchange,
        ThreadPoolExecutor(1) as pool,
    ):
        boss = web.add_user("boss", manager=True)
        market = Market(web, web.add_product("intc", by=boss, port=port), exchange)
        web.wait_until_live(market.product)
        browser = web.browser(boss)
        browser.get("/default/about")
        os.kill(exchange.pid, signal.SIGSTOP)
        answer = pool.submit(market.order, browser, "buy 1@50", id="web-1")
        market.wait_until_something_is_sent()
        web.begin_to_stop()
        wait_until(lambda: not listens(web.port), "the server to be stopping")
        os.kill(exchange.pid, signal.SIGCONT)
        assert answer.result().json()["status"] == "open"
        with web.database() as db:
            noted = intents.get(db, boss.id, "intc", "web-1")
        assert noted is not None
        assert noted.state is State.ACCEPTED


def test_who_logs_in_as_the_server_ends_is_no_error(tmp_path: Path) -> None:
    answers: list[int] = []
    with running(*MODULE, "--port", "0", var=tmp_path) as server, ThreadPoolExecutor(10) as pool:
        site = SimpleNamespace(port=urlsplit(started(server)).port)

        def log_in(name: str) -> None:
            form = {"username": name, "password": name}
            with suppress(OSError, HTTPException):  # the line ends before the answer
                browser = Browser(site)  # type: ignore[arg-type]
                answers.append(browser.post("/default/user/login", form).status)

        for number in range(10):
            pool.submit(log_in, f"nobody{number}")
        wait_until(lambda: answers, "the first passwords to be hashed")
        assert server.terminate() == 0
        assert "Traceback" not in server.output
    assert len(answers) < 10, "the server ended before it had hashed all"


def listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def test_connections_beyond_its_open_files_are_turned_away_and_pages_are_served_on(
    tmp_path: Path,
) -> None:
    with running(*MODULE, "--port", "0", var=tmp_path) as server:
        url = started(server)
        wait_until(lambda: answers(url), "a page")
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (64, 64))
        with ExitStack() as stack:
            crowd = [stack.enter_context(connected(port_of(url))) for _ in range(120)]
            wait_until(lambda: sum(map(is_closed, crowd)) >= len(crowd) - 32, "who is turned away")
            server.wait_for_line("WARNING connections are turned away: only 64 files may be open")
        wait_until(lambda: answers(url), "a page")
        assert "Traceback" not in server.output
        assert len(server.lines) < 10, server.output
        assert server.terminate() == 0


def answers(url: str) -> bool:
    try:
        return ask(f"{url}default/user/login")[0] == 200
    except OSError:  # it has not yet noticed that the crowd is gone
        return False


def test_a_machine_without_a_file_for_it_keeps_browsers_waiting_and_costs_no_processor(
    tmp_path: Path,
) -> None:
    with running(*MODULE, "--port", "0", var=tmp_path) as server:
        url = started(server)
        wait_until(lambda: answers(url), "a page")
        limit = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (10, limit[1]))
        with connected(port_of(url)) as waiting:
            waiting.sendall(b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n")
            server.wait_for_line("WARNING connections are turned away")
            spent, began = processor_seconds(server), time.monotonic()
            time.sleep(1)
            spent = processor_seconds(server) - spent
            assert spent < (time.monotonic() - began) / 5
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limit)
            assert b" 200 OK" in waiting.recv(65536)
        assert len(server.lines) < 10, server.output
        assert server.terminate() == 0


def processor_seconds(process: Process) -> float:
    """What a process has spent of the processor so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_with_too_few_open_files_it_does_not_start(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, *MODULE, "--port", "0", "--var", str(tmp_path / "var")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (63, 63)),
    )
    assert (run.returncode, run.stdout) == (78, "")
    assert run.stderr == (
        "webserver: only 63 files may be open at a time (ulimit -n); 64 are the least\n"
    )
    assert not (tmp_path / "var").exists()


def test_several_start_at_once_on_one_new_database(tmp_path: Path) -> None:
    with (
        running(*MODULE, "--port", "0", var=tmp_path) as one,
        running(*MODULE, "--port", "0", var=tmp_path) as two,
        running(*MODULE, "--port", "0", var=tmp_path) as three,
    ):
        for server in (one, two, three):
            assert ask(f"{started(server)}health/ready")[0] == 200


def test_help_has_two_examples(tmp_path: Path) -> None:
    with running(*MODULE, "-h", var=tmp_path) as server:
        assert server.wait() == 0
        assert server.output.count("  emte-web ") == 2
