"""The child process that takes one snapshot of a journal, beside the server that writes it.

    python -m matching.snapshotchild --seconds 240 var/journal/intc.log

It begins with the last snapshot, replays what has become durable since, keeps the new state, and
prints its record, its hash and its size: what `matching.snapshotter`, which starts it, wants to
know. A replay that takes longer than `--seconds` ends where it has come to; the next goes on there.

Nothing depends on it, so it gives way to everything: to whoever wants the processor, to whoever
wants the memory, and it ends at once when its stdin does, as it does when its parent ends. Only the
`--last` one, for which a server that stops waits, takes the processor that the server leaves.
"""

import argparse
import gc
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from matching.disk import SystemDisk
from matching.engine import Broken
from matching.exits import ExitCode
from matching.journal import JournalDamaged, UnknownJournal
from matching.recovery import take_snapshot


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 taken; else not, with the reason on stderr: 75, or 1 for a bug."""
    parser = argparse.ArgumentParser(
        prog="python -m matching.snapshotchild",
        description="Take a snapshot of a product's journal, as its matching server has it done."
        " Ends when its stdin does.",
        epilog="example:\n"
        "  sleep 60 | python -m matching.snapshotchild --seconds 50 var/journal/intc.log",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, required=True, help="how long to replay at most")
    parser.add_argument(
        "--last", action="store_true", help="the server has stopped and waits: do not be nice"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the journal")
    options = parser.parse_args(arguments)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    if not options.last:
        os.nice(19)
    _give_memory()
    end = time.monotonic() + options.seconds
    try:
        check, size = take_snapshot(
            SystemDisk(),
            options.file,
            is_enough=lambda: time.monotonic() >= end,
            free=gc.collect,
        )
    except Broken as error:
        print(error, file=sys.stderr)
        return ExitCode.BUG
    except (JournalDamaged, UnknownJournal) as error:
        print(error, file=sys.stderr)
        return ExitCode.DISK
    except OSError as error:
        print(error.strerror or error, file=sys.stderr)
        return ExitCode.DISK
    print(check.seq, check.digest, size)
    return ExitCode.DONE


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(ExitCode.BUG)


def _give_memory() -> None:
    gc.disable()  # what is built is kept, until all of the replay goes at once
    with suppress(OSError):  # Linux only: of all processes of the machine take this one first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
