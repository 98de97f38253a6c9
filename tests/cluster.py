"""A PostgreSQL of a test's own, which it can kill and start again."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import free_port

_DEBIANS = Path("/usr/lib/postgresql")


class Cluster:
    """A running server with its files in a temporary folder; it may lose what a power cut would."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._data = folder / "data"
        self._log = folder / "log"
        self._port = free_port()
        self.uri = f"postgres://postgres@127.0.0.1:{self._port}/postgres"
        self._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "-D", str(self._data))

    def start(self) -> None:
        options = f"-F -p {self._port} -h 127.0.0.1 -k ''"
        self._control("start", "-l", str(self._log), "-o", options)

    def kill(self) -> None:
        """End it at once: connections break, and it has to recover when it starts again."""
        self._control("stop", "-m", "immediate")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-D", str(self._data), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        # It refuses to run as root. Its output goes nowhere: the server would keep a pipe open.
        subprocess.run(
            [self._programs / program, *arguments],
            user="postgres" if os.geteuid() == 0 else None,
            cwd=self._data.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A Cluster that runs. Where none can be made the test is skipped, unless all must run."""
    programs = _programs()
    if programs is None:
        if os.environ.get("EMTE_REQUIRE_ALL") == "1":
            pytest.fail("there is no initdb, and EMTE_REQUIRE_ALL=1")
        pytest.skip("there is no initdb")
    folder = Path(tempfile.mkdtemp(prefix="emte-postgres-"))  # pytest's are closed to `postgres`
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        cluster = Cluster(programs, folder)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.kill()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    return next((path.parent for path in sorted(_DEBIANS.glob("*/bin/initdb"))), None)
