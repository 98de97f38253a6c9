"""The request for a new run and what became of it: how the web app and `serve.py` talk about one.

    ask(var, Request(by=7, name="ada", run=3, asked_on=now()))      # Ungranted: nobody is there
    request = pending(var)                                # what serve.py or demo.py looks for
    report(var, Progress(request, Step.CLOSING, run=3, changed_on=now()))
    finish(var, Progress(request, Step.BEGUN, run=3, changed_on=now()))

Two small files of `var/run/`, each put in its place whole. The web app makes `newrun.request`, of
which there is one at a time; whoever supervises the venue takes it away when it is done with it,
and says in `newrun.progress` how far it is. What is left of a killed supervisor is the next one's
to judge.
"""

import fcntl
import os
import secrets
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from matching.config import Var
from matching.pidfile import is_alive, read_pid

SUPERVISORS = ("serve", "demo")
"""The programs that carry requests out, by the names of their pid files."""

LOCK = "the-venue.lock"
"""What a supervisor holds in `var/run/` as long as it lives, however it ends (flock)."""


class Step(StrEnum):
    """How far a new run is, in this order; the last three are how it may end."""

    ASKED = "asked"
    CLOSING = "closing"  # the markets, so that day orders end as their journals say
    SETTLING = "settling"  # the servers stop, the database takes in the rest of their journals
    MOVING = "moving"  # the run has ended; its journals go to where those of past runs are
    STARTING = "starting"  # the servers of the new run
    BEGUN = "begun"
    REOPENING = "reopening"  # it was given up: all as it was
    FAILED = "failed"


class Request(msgspec.Struct, frozen=True):
    """Who asks for a new run, which one is to end for it, and when (µs)."""

    by: int
    name: str
    run: int
    asked_on: int


class Progress(msgspec.Struct, frozen=True):
    """What is being done about a request: `run` is the one that ends, `reason` why it does not.

    `phases`: the markets that were closed for it, and what they are to be again if it is given up.
    """

    request: Request
    step: Step
    run: int
    changed_on: int
    reason: str = ""
    phases: dict[str, str] = {}

    @property
    def is_over(self) -> bool:
        return self.step in (Step.BEGUN, Step.FAILED)


class Ungranted(Exception):
    """A request that cannot be left; the sentence says why."""


T = TypeVar("T")


def supervisor(var: Var) -> str | None:
    """The program that supervises this `var/` now and would carry a request out; None without one.

    A killed one leaves its pid file, and the number in it may be another's by now: so it must hold
    its lock too.
    """
    for name in SUPERVISORS:
        pid = read_pid(var.run_dir / f"{name}.pid")
        if pid is not None and is_alive(pid) and _is_held(var.run_dir / LOCK):
            return name
    return None


def ask(var: Var, request: Request) -> None:
    """Leave the request. Ungranted: nobody is there to carry it out, or one is under way."""
    if supervisor(var) is None:
        raise Ungranted("Nobody is there to carry it out: neither serve.py nor the demo runs here")
    try:
        aside = _write_aside(_request_path(var), request)
        try:
            os.link(aside, _request_path(var))  # of two at once, one finds the other's
        finally:
            aside.unlink()
    except FileExistsError as error:
        raise Ungranted("A new run is under way already") from error
    except OSError as error:
        raise Ungranted(f"It cannot be asked for: {error.strerror}") from error


def pending(var: Var) -> Request | None:
    """The request that is under way, or waits to be."""
    return _read(_request_path(var), Request)


def report(var: Var, progress: Progress) -> None:
    """Say how far it is."""
    _write_aside(_progress_path(var), progress).replace(_progress_path(var))


def finish(var: Var, progress: Progress) -> None:
    """Say how it ended, and make room for the next request."""
    report(var, progress)
    forget(var)


def forget(var: Var) -> None:
    """Make room for the next request."""
    _request_path(var).unlink(missing_ok=True)


def progress(var: Var) -> Progress | None:
    """How far the present request is, or how the last one ended; None if there never was one."""
    request, known = pending(var), _read(_progress_path(var), Progress)
    if request is not None and (known is None or known.request != request):
        return Progress(request, Step.ASKED, run=0, changed_on=request.asked_on)
    return known


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _request_path(var: Var) -> Path:
    return var.run_dir / "newrun.request"


def _progress_path(var: Var) -> Path:
    return var.run_dir / "newrun.progress"


def _write_aside(path: Path, content: msgspec.Struct) -> Path:
    aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        aside.write_bytes(msgspec.json.encode(content))
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return aside


def _read(path: Path, kind: type[T]) -> T | None:
    """What a file holds; None if there is none, or nothing of ours in it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
