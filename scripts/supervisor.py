"""The supervisor: starts programs, starts again what ends, and leaves no process behind.

It is given the programs that should run (`want`), and told to look after them some times a second
(`step`). What keeps it in order:

- A child's output is appended to `var/run/<name>.out`, which starts anew at 10 MB.
- At most two children per core may be starting (no pid file yet) at a time: so that the first of
  forty processes are ready before the last is begun.
- A child that ends is started again: after half a second, then twice as long each time, up to 30 s.
  Where the exit code says that a human is needed (usage, disk, configuration), after a minute, then
  up to ten.
- Children live in sessions of their own: Ctrl-C in the terminal reaches the supervisor alone, which
  ends them in order: SIGTERM, 5 s (a matching server, for its last snapshot, has 25), SIGKILL.
- Should the supervisor itself be killed, Linux ends the children (PR_SET_PDEATHSIG). Elsewhere they
  run on; `var/run/serve.children` names them, and the next supervisor stops those that are left.
- A lock on `var/run/the-venue.lock` keeps a second supervisor away.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from app.models.runrequest import LOCK
from matching.client import Backoff
from matching.config import Var
from matching.exits import ExitCode, Fatal
from matching.pidfile import read_pid
from matching.snapshotter import STOP_CHILD_SECONDS

OUTPUT_LIMIT = 10 * 1024 * 1024
"""The size in bytes at which a child's output file starts anew."""

END_SECONDS = 5.0
"""How long a child may take to end after SIGTERM."""

STEADY_SECONDS = 60.0
"""A child that ran for so long is not counted among the failing ones when it ends."""

LOCK_SECONDS = 0.2
"""How long a supervisor tries to become the only one."""

START_SECONDS = 10.0
"""A child without a pid file after so long no longer keeps others from starting."""

TRIM_SECONDS = 10.0
_NEEDS_A_HUMAN = (ExitCode.USAGE, ExitCode.DISK, ExitCode.CONFIGURATION)
_PR_SET_PDEATHSIG = 1


class Role(Enum):
    """What a program is to a venue, in the order of starting."""

    MATCHING_SERVER = "matching server"
    WEB = "web"
    LOG2DB = "log2db"
    ROBOT = "robot"


@dataclass(frozen=True)
class Program:
    """One program that should run: the module for `python -m`, and its arguments.

    `name` is also that of the pid file which it holds while it runs.
    """

    name: str
    role: Role
    module: str
    arguments: tuple[str, ...]


class State(Enum):
    """How a wanted program fares."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"


class _Child:
    """A program and its present process, if there is one."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.next_start = 0.0
        self.output_start = 0
        self.told_to_end_at: float | None = None
        self.is_ready = False
        self.restart = Backoff(first_seconds=0.5, longest_seconds=30.0)
        self.retry = Backoff(first_seconds=60.0, longest_seconds=600.0)


class Supervisor:
    """The children of one `var/`.

    `on_start` is told of each start, `on_end` of each end that was not asked for, with a sentence.
    """

    def __init__(
        self,
        var: Var,
        *,
        on_start: Callable[[Program], None],
        on_end: Callable[[Program, str], None],
    ) -> None:
        self._var = var
        self._on_start = on_start
        self._on_end = on_end
        self._children: dict[str, _Child] = {}
        self._leaving: list[_Child] = []
        self._next_trim = 0.0
        self._is_hurried = False

    def want(self, programs: Iterable[Program]) -> None:
        """These programs should run from now on, with these arguments, and no others."""
        wanted = {program.name: program for program in programs}
        for name, child in list(self._children.items()):
            if wanted.get(name) != child.program:
                del self._children[name]
                if child.process is not None:
                    self._leaving.append(child)
        for name, program in wanted.items():
            if name not in self._children:
                self._children[name] = _Child(program)

    def state(self, name: str) -> State:
        """How the program of that name fares; one that is not wanted is down."""
        child = self._children.get(name)
        if child is None or child.process is None:
            return State.DOWN
        return State.UP if self._is_ready(child) else State.STARTING

    def is_running(self, name: str) -> bool:
        """Whether there is a process of that name, wanted or on its way out."""
        children = [*self._children.values(), *self._leaving]
        return any(child.program.name == name and child.process is not None for child in children)

    def runs(self, role: Role) -> bool:
        """Whether there is a process of that role, wanted or on its way out."""
        children = [*self._children.values(), *self._leaving]
        return any(child.program.role is role and child.process is not None for child in children)

    def step(self) -> None:
        """Look after the children: note what ended, end what is not wanted, start what is due."""
        now = time.monotonic()
        for child in self._children.values():
            self._note_end(child, now)
        self._end_leaving(now)
        self._start_due(now)
        if now >= self._next_trim:
            self._trim_outputs()
            self._next_trim = now + TRIM_SECONDS

    def stop(self, role: Role) -> None:
        """End all children of a role for good: SIGTERM, time to end, SIGKILL."""
        leaving = [child for child in self._children.values() if child.program.role is role]
        for child in leaving:
            del self._children[child.program.name]
        self._leaving.extend(child for child in leaving if child.process is not None)
        while any(child.program.role is role for child in self._leaving):
            self._end_leaving(time.monotonic())
            time.sleep(0.02)

    def hurry(self) -> None:
        """Give children that are told to end no time any more."""
        self._is_hurried = True

    @property
    def is_hurried(self) -> bool:
        return self._is_hurried

    def _is_ready(self, child: _Child) -> bool:
        if child.process is not None and not child.is_ready:
            pid = read_pid(self._var.run_dir / f"{child.program.name}.pid")
            child.is_ready = pid == child.process.pid
        return child.is_ready

    def _note_end(self, child: _Child, now: float) -> None:
        if child.process is None or child.process.poll() is None:
            return
        code = child.process.returncode
        child.process = None
        child.is_ready = False
        if now - child.started_at >= STEADY_SECONDS:
            child.restart.reset()
            child.retry.reset()
        last_words = self._last_words(child) if code > 0 else ""
        why = f": {last_words}" if last_words else ""
        backoff = child.retry if code in _NEEDS_A_HUMAN else child.restart
        self._put_off(child, now, backoff, f"ended with {_spelled(code)}{why}")
        self._record_children()

    def _put_off(self, child: _Child, now: float, backoff: Backoff, what: str) -> None:
        wait_seconds = backoff.next_seconds()
        child.next_start = now + wait_seconds
        self._on_end(child.program, f"{what}; next start in {wait_seconds:.1f} s")

    def _last_words(self, child: _Child) -> str:
        """The last line that a child printed, which says why it ended (matching.exits)."""
        try:
            with self._output(child).open("rb") as output:
                size = output.seek(0, os.SEEK_END)
                output.seek(
                    max(child.output_start if child.output_start <= size else 0, size - 2048)
                )
                lines = output.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")

    def _start_due(self, now: float) -> None:
        starting = sum(
            child.process is not None
            and now - child.started_at < START_SECONDS
            and not self._is_ready(child)
            for child in self._children.values()
        )
        room = 2 * (os.cpu_count() or 1) - starting
        ending = {child.program.name for child in self._leaving}
        due = (
            child
            for role in Role
            for child in self._children.values()
            if child.program.role is role
            and child.process is None
            and now >= child.next_start
            and child.program.name not in ending
        )
        for child, _ in zip(due, range(room), strict=False):
            self._start(child, now)

    def _start(self, child: _Child, now: float) -> None:
        program = child.program
        try:
            with self._output(child).open("ab") as output:
                child.output_start = output.tell()
                child.process = subprocess.Popen(
                    [sys.executable, "-m", program.module, *program.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with_parent() if sys.platform == "linux" else None,
                )
        except OSError as error:  # out of processes or of disk: both may pass
            self._put_off(child, now, child.restart, f"cannot be started: {error}")
            return
        child.started_at = now
        self._record_children()
        self._on_start(program)

    def _end_leaving(self, now: float) -> None:
        for child in list(self._leaving):
            assert child.process is not None
            if child.process.poll() is not None:
                self._leaving.remove(child)
                self._record_children()
            elif child.told_to_end_at is None:
                child.process.terminate()
                child.told_to_end_at = now
            elif self._is_hurried or now - child.told_to_end_at >= _end_seconds(child.program.role):
                child.process.kill()
                child.process.wait()
                self._on_end(child.program, "did not end when asked to, and was killed")

    def _output(self, child: _Child) -> Path:
        return self._var.run_dir / f"{child.program.name}.out"

    def _trim_outputs(self) -> None:
        """Children append, so a file that is cut to nothing goes on from its beginning."""
        for child in self._children.values():
            with suppress(FileNotFoundError):
                if self._output(child).stat().st_size > OUTPUT_LIMIT:
                    os.truncate(self._output(child), 0)

    def _record_children(self) -> None:
        """Name the living children, for the supervisor that comes after a sudden end of ours."""
        children = [*self._children.values(), *self._leaving]
        lines = [
            f"{child.process.pid} {child.program.module}\n"
            for child in children
            if child.process is not None
        ]
        path = _children_file(self._var)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        with suppress(OSError):  # a full disk is no reason to end a venue that trades
            aside.write_text("".join(lines), encoding="ascii")
            aside.replace(path)


@contextmanager
def sole_supervisor(var: Var) -> Iterator[None]:
    """Be the only supervisor of this `var/`, and stop what a killed one left.

    Fatal (69) if another supervises it.
    """
    with (var.run_dir / LOCK).open("w") as lock:
        # Who only asks whether somebody supervises it has the lock for a moment.
        end = time.monotonic() + LOCK_SECONDS
        while not _take(lock):
            if time.monotonic() > end:
                raise Fatal(
                    ExitCode.UNAVAILABLE,
                    f"a venue runs in {var.root} already; `bash stop_all.sh` stops it",
                )
            time.sleep(0.01)
        _stop_leftovers(var)
        yield


def _end_seconds(role: Role) -> float:
    """How long a child of that role may take to end; a matching server takes a last snapshot."""
    return END_SECONDS + (STOP_CHILD_SECONDS if role is Role.MATCHING_SERVER else 0)


def _take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _stop_leftovers(var: Var) -> None:
    """End the children of a supervisor that was killed, where the system has not done so."""
    left = list(_leftovers(var))
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid, _ in left:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        end = time.monotonic() + END_SECONDS + STOP_CHILD_SECONDS
        while left and time.monotonic() < end:
            time.sleep(0.05)
            left = [(pid, module) for pid, module in left if _runs(pid, module, var)]


def _leftovers(var: Var) -> Iterator[tuple[int, str]]:
    try:
        lines = _children_file(var).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        pid, _, module = line.partition(" ")
        if pid.isdecimal() and _runs(int(pid), module, var):
            yield int(pid), module


def _runs(pid: int, module: str, var: Var) -> bool:
    """Whether that process runs that module for this `var/`.

    A process id may have passed to somebody else, be it to a child of another venue.
    """
    words = f"{_command_line(pid)} "
    return f" -m {module} " in words and f" --var {var.root} " in words


def _command_line(pid: int) -> str:
    """The words of a process's command line, parted by spaces; empty if there is no process."""
    if Path("/proc/self/cmdline").exists():
        try:
            return (
                Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
            )
        except OSError:
            return ""
    listing = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listing.stdout.strip()


def _children_file(var: Var) -> Path:
    return var.run_dir / "serve.children"


def die_with_parent() -> Callable[[], None]:
    """What a child does between fork and exec, so that it ends when we end, however that comes."""
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def ask_for_the_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before we could ask
            os._exit(ExitCode.UNAVAILABLE)

    return ask_for_the_signal


def _spelled(code: int) -> str:
    """An exit code of subprocess in words: below 0 it is a signal's number."""
    if code < 0:
        return signal.Signals(-code).name
    known = {int(known): known.name.lower() for known in ExitCode}
    return f"exit code {code} ({known[code]})" if code in known else f"exit code {code}"
