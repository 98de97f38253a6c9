"""How a process of EMTE ends: one line that says why, and an exit code that says whose turn it is.

| code | meaning |
|---|---|
| 0 | done, or asked to stop by a signal |
| 1 | a bug: ours, with its traceback, or one in a user's strategy, in one line |
| 2 | usage |
| 69 | a port is taken, or the other side is away |
| 75 | the disk, or what is on it, cannot be relied on |
| 78 | configuration |
| 130 | a command that was to say something was interrupted by Ctrl-C before it had |
| 141 | likewise, whoever read it went away, as `head` does |
"""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum


class ExitCode(IntEnum):
    DONE = 0
    BUG = 1
    USAGE = 2
    UNAVAILABLE = 69
    DISK = 75
    CONFIGURATION = 78
    INTERRUPTED = 128 + signal.SIGINT
    UNREAD = 128 + signal.SIGPIPE


class Fatal(Exception):
    """A process cannot go on: `message` is one line for the operator."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def code_of(error: OSError) -> ExitCode:
    """Whose turn it is when a file cannot be opened or made: 78 if a name or a right is wrong, or
    too few files may be open; else 75, the disk is full, read-only or broken.
    """
    if isinstance(error, _SET_WRONGLY) or error.errno in (errno.EMFILE, errno.ENFILE):
        return ExitCode.CONFIGURATION
    return ExitCode.DISK


_SET_WRONGLY = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)


def end_on_interrupt() -> None:
    """Let Ctrl-C end the process at once, without a word, until `run` has begun.

    A program calls it before its imports, which take a while and have nothing to clean up. A signal
    that whoever started the program has it ignore stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt_on_stop() -> None:
    """Let SIGTERM end the process as Ctrl-C does, while there is nothing yet to stop in order."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


def run(program: str, body: Callable[[], None]) -> int:
    """Run a process's body; the exit code for `sys.exit`. A Fatal prints its one line on stderr."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        body()
    except Fatal as fatal:
        return _complain(program, fatal)
    except KeyboardInterrupt:
        return ExitCode.DONE
    return ExitCode.DONE


def run_command(program: str, body: Callable[[], int]) -> int:
    """Run the body of a command that is to say something; its exit code for `sys.exit`.

    Ctrl-C ends it without a word, and so does the end of whoever reads what it prints (`… | head`).
    Neither is its verdict: they have codes of their own, those that a shell has for such ends.
    """
    try:
        try:
            return body()
        finally:
            if sys.stdout is not None:  # it is, where the shell has closed it
                sys.stdout.flush()  # else the interpreter finds out when nobody can catch it
    except Fatal as fatal:
        return _complain(program, fatal)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        if not _is_unread():
            raise
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())  # what is left in the buffer goes there
        os.close(nothing)
        return ExitCode.UNREAD


def _complain(program: str, fatal: Fatal) -> int:
    # It may go to the very disk that is full; the exit code is to tell all the same.
    with suppress(OSError):
        print(f"{program}: {fatal.message}", file=sys.stderr, flush=True)
    return fatal.code


def _is_unread() -> bool:
    """Whether it is our stdout that nobody reads any more, and no connection."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return bool(poll.poll(0))
