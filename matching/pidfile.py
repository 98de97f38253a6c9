"""The pid file of a running process: `var/run/<name>.pid`, there while it runs and gone after.

`stop_all.sh` and `scripts/serve.py` find processes by it, so it names only what is alive: a file
left by a killed process is overwritten by the next one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matching.exits import ExitCode, Fatal


@contextmanager
def pidfile(run_dir: Path, name: str) -> Iterator[Path]:
    """Hold `run_dir/name.pid` with our process id; Fatal (75) if it cannot be written."""
    path = run_dir / f"{name}.pid"
    aside = run_dir / f"{name}.pid.{os.getpid()}"
    try:
        aside.write_text(f"{os.getpid()}\n", encoding="ascii")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise Fatal(ExitCode.DISK, f"cannot write {path}: {error.strerror}") from error
    try:
        yield path
    finally:
        if read_pid(path) == os.getpid():
            path.unlink(missing_ok=True)


def read_pid(path: Path) -> int | None:
    """The process id in a pid file; None if there is no such file or it holds no number."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None


def running(run_dir: Path) -> dict[str, int]:
    """Name → process id of the pid files there whose processes are alive.

    An id that a killed process left may be another program's by now.
    """
    pids = {path.stem: read_pid(path) for path in sorted(run_dir.glob("*.pid"))}
    return {name: pid for name, pid in pids.items() if pid is not None and is_alive(pid)}


def is_alive(pid: int) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's, but there
        pass
    return pid > 0
