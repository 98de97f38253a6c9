"""A program of EMTE as a process under test: with a `var/` of its own, ended in any case."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.supervisor import die_with_parent
from tests.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).resolve().parent.parent


class Process:
    """A running program; `lines` are what it has printed so far, stdout and stderr together."""

    def __init__(self, *arguments: str, var: Path, cwd: Path = ROOT, **environment: str) -> None:
        self.arguments = arguments
        self._popen = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, "EMTE_VAR": str(var), "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent() if sys.platform == "linux" else None,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """The first printed line that `pattern` finds; AssertionError if the process ends first."""

        def found() -> re.Match[str] | None:
            ended = not self.is_running
            if ended:
                self._reader.join(PATIENCE_SECONDS)
            for line in list(self.lines):
                if match := re.search(pattern, line):
                    return match
            assert not ended, f"{self.arguments} ended without {pattern!r}:\n{self.output}"
            return None

        return wait_until(found, f"{pattern!r} from {self.arguments}")

    def wait(self, *, patience_seconds: float = PATIENCE_SECONDS) -> int:
        """The exit code, once the process has ended by itself."""
        code = self._popen.wait(patience_seconds)
        self._reader.join(patience_seconds)
        return code

    def terminate(self) -> int:
        """SIGTERM, then the exit code."""
        self._popen.send_signal(signal.SIGTERM)
        return self.wait()

    def interrupt(self) -> int:
        """SIGINT, as Ctrl-C sends it, then the exit code."""
        self._popen.send_signal(signal.SIGINT)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, to this process alone."""
        self._popen.kill()
        self.wait()

    def end(self) -> None:
        """Leave nothing behind: SIGKILL to the process and all that it started in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self.wait()


@contextmanager
def running(*arguments: str, var: Path, cwd: Path = ROOT, **environment: str) -> Iterator[Process]:
    """A Process for the length of a `with` block."""
    process = Process(*arguments, var=var, cwd=cwd, **environment)
    try:
        yield process
    finally:
        process.end()
