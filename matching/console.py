"""The console: lines for whoever watches a program. Nobody has to.

A terminal that was closed, a pipe whose reader has gone or a full disk does not end a program that
trades: from then on it prints into nothing.
"""

import os
import sys


def say(line: str) -> None:
    """Print a line, at once, as long as it can be."""
    try:
        print(line, flush=True)
    except OSError:
        # What could not be written would be tried again at the end, and fail the exit code.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
