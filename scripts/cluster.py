"""A PostgreSQL cluster of one's own, for who wants to kill it: its postmaster, by SIGKILL.

It lives in a temporary folder, at a free port of this machine, and ends with who started it. It
keeps what was committed when it is killed; it does not wait for the disk (`-F`), since only a power
cut would show that.

    with running_cluster() as cluster:
        cluster.kill()
        cluster.start()     # it recovers first
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matching.exits import ExitCode, Fatal
from scripts.supervisor import die_with_parent

PATIENCE_SECONDS = 60.0
"""How long it may take to be there, and its processes to end once the postmaster is gone."""

LOOK_SECONDS = 0.02

_DEBIANS = Path("/usr/lib/postgresql")


class Cluster:
    """A server with its files in `folder`; it refuses to run as root, and runs as `postgres` then.

    `uri` is that of a database on it, empty when it is made.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._data = folder / "data"
        self._port = _free_port()
        self._user = "postgres" if os.geteuid() == 0 else None
        self._postmaster: subprocess.Popen[bytes] | None = None
        self.uri = f"postgres://postgres@127.0.0.1:{self._port}/postgres"
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "-D", str(self._data))

    def start(self) -> None:
        """Start it and wait until it takes connections; Fatal (69) if that does not come.

        While processes of one that was killed still hold its memory, a new one ends at once.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            if self._postmaster is None or self._postmaster.poll() is not None:
                self._postmaster = self._begin()
            if self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)) == 0:
                return
            time.sleep(LOOK_SECONDS)
        raise Fatal(ExitCode.UNAVAILABLE, f"PostgreSQL does not start; see {self._folder / 'log'}")

    def kill(self) -> None:
        """SIGKILL to the postmaster; back when the processes that it had started are gone too."""
        if self._postmaster is None or self._postmaster.poll() is not None:
            return
        left = _children(self._postmaster.pid)
        self._postmaster.kill()
        self._postmaster.wait()
        end = time.monotonic() + PATIENCE_SECONDS
        while left := left & _everybody():
            if time.monotonic() > end:
                raise Fatal(ExitCode.BUG, f"PostgreSQL was killed, its processes live on: {left}")
            time.sleep(LOOK_SECONDS)

    def _begin(self) -> subprocess.Popen[bytes]:
        where = ("-p", str(self._port), "-h", "127.0.0.1", "-k", "")
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self._programs / "postgres", "-F", *where, "-D", str(self._data)],
                user=self._user,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent() if sys.platform == "linux" else None,
            )

    def _run(self, program: str, *arguments: str) -> int:
        return subprocess.run(
            [self._programs / program, *arguments],
            user=self._user,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=program == "initdb",
        ).returncode


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A Cluster that runs until the end of the block; Fatal (69) without PostgreSQL's programs."""
    programs = find_programs()
    if programs is None:
        raise Fatal(ExitCode.UNAVAILABLE, "PostgreSQL's initdb is not on this machine")
    folder = Path(tempfile.mkdtemp(prefix="emte-postgres-"))
    try:
        cluster = Cluster(programs, folder)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.kill()
    finally:
        shutil.rmtree(folder)


def find_programs() -> Path | None:
    """The folder of PostgreSQL's server programs; None if there is none."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    return next((path.parent for path in sorted(_DEBIANS.glob("*/bin/initdb"))), None)


def _children(parent: int) -> set[int]:
    return {pid for pid, ppid in _processes() if ppid == parent}


def _everybody() -> set[int]:
    return {pid for pid, _ in _processes()}


def _processes() -> Iterator[tuple[int, int]]:
    """Each process and its parent; zombies are no processes."""
    listing = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    )
    for line in listing.stdout.splitlines():
        pid, ppid, stat = line.split()
        if not stat.startswith("Z"):
            yield int(pid), int(ppid)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
