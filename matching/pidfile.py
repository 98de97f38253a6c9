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
