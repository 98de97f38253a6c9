"""How a process of EMTE ends: one line that says why, and an exit code that says whose turn it is.

| code | meaning |
|---|---|
| 0 | done, or asked to stop by a signal |
| 1 | a bug: ours, with its traceback, or one in a user's strategy, in one line |
| 2 | usage |
| 69 | a port is taken, or the other side is away |
| 75 | the disk, or what is on it, cannot be relied on |
| 78 | configuration |
"""

import errno
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
        # It may go to the very disk that is full; the exit code is to tell all the same.
        with suppress(OSError):
            print(f"{program}: {fatal.message}", file=sys.stderr, flush=True)
        return fatal.code
    except KeyboardInterrupt:
        return ExitCode.DONE
    return ExitCode.DONE
