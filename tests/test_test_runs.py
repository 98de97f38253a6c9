"""A run of the tests that is killed: what it had started ends, and the next run clears up."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import database
from tests.database import command, only_postgres
from tests.processes import ROOT, Process, running
from tests.waiting import free_port, wait_until

RUN_WITH_SERVER = """
import sys, time
from pathlib import Path
from tests.processes import Process
server = Process("-m", "matching.matchingserver", "-p", sys.argv[1], var=Path(sys.argv[2]))
server.wait_for_line("listening on")
print("pid", server.pid, flush=True)
time.sleep(60)
"""

RUN_WITH_DATABASE = """
import time
from contextlib import suppress
from tests.database import drop_databases, own_database
with suppress(KeyboardInterrupt), own_database("postgres") as uri:
    print("uri", uri, flush=True)
    time.sleep(60)
drop_databases()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells a child")
def test_the_processes_of_a_killed_run_end(tmp_path: Path) -> None:
    program = ("-c", RUN_WITH_SERVER, str(free_port()), str(tmp_path))
    with running(*program, var=tmp_path, PYTHONPATH=str(ROOT)) as run:
        server = int(run.wait_for_line(r"^pid (\d+)$")[1])
        run.kill()
        wait_until(lambda: not _lives(server), "the end of its server")


def _lives(pid: int) -> bool:
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return state.stdout.strip()[:1] not in ("", "Z")


@only_postgres
def test_the_databases_of_a_killed_run_go_and_those_of_others_stay(
    tmp_path: Path, each_database: str
) -> None:
    def start() -> Process:
        return Process("-c", RUN_WITH_DATABASE, var=tmp_path, PYTHONPATH=str(ROOT))

    runs = [start(), start()]
    try:
        killed, living = (run.wait_for_line(r"^uri \S+/(emte_test_\w+)$")[1] for run in runs)
        assert {killed, living} <= _databases()
        runs[0].kill()
        runs.append(start())
        runs[2].wait_for_line("^uri ")
        assert killed not in _databases()
        assert living in _databases()
    finally:
        for run in runs:
            run.interrupt()
            run.end()
    assert not {killed, living} & _databases()


def _databases() -> set[str]:
    return {name for (name,) in command(database._server(), "SELECT datname FROM pg_database")}
