"""Play many stories, on all cores, and say which seed fails and why.

    python -m tests.simulation --seeds 0:10000        or: make simulate SEEDS=0:10000
    python -m tests.simulation --seeds 1234:1235      one seed: its story is printed if it fails
    python -m tests.simulation --exhaustive           a fixed day: every crash, every bit flipped

Exit code 0: nothing failed; 1: something did; 2: usage. The digest at the end is of all stories:
the same program plays the same ones, byte for byte.
"""

import argparse
import os
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from tests.simulation.exhaustive import (
    crash_everywhere,
    damage_everywhere,
    damage_snapshots_everywhere,
    splice_everywhere,
)
from tests.simulation.story import story_of

CHUNK = 25
"""So many seeds a worker plays before it says so."""

STORY_SECONDS = 30
"""A story that takes longer does not end."""

PROGRESS_SECONDS = 5.0


class Failure(NamedTuple):
    """A seed whose story did not hold, what broke, and the traceback."""

    seed: int
    what: str
    trace: str


class Played(NamedTuple):
    """What became of some seeds, up to the first that failed."""

    seeds: range
    digest: str
    counts: Counter[str]
    failure: Failure | None


def play_some(seeds: range) -> Played:
    """Play the stories in their order; the first failure ends it."""
    counts: Counter[str] = Counter()
    digest = blake2b(digest_size=16)
    for seed in seeds:
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(STORY_SECONDS)
        try:
            told = story_of(seed).play()
        except Exception as error:  # noqa: BLE001 - any error of a story is what we look for
            failure = Failure(seed, _sentence(error), traceback.format_exc())
            return Played(seeds, "", counts, failure)
        finally:
            signal.alarm(0)
        digest.update(told.digest.encode())
        counts += told.counts
        counts["stories"] += 1
    return Played(seeds, digest.hexdigest(), counts, None)


def _give_up(*_: object) -> None:
    raise TimeoutError(f"the story has not ended after {STORY_SECONDS} s")


def _sentence(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    first_line = str(error).partition("\n")[0][:200] or (last.line or "")
    place = f"{os.path.relpath(last.filename)}:{last.lineno}"
    return f"{type(error).__name__}: {first_line} ({place})"


def play_all(seeds: range, *, jobs: int) -> Iterator[Played]:
    """Chunk by chunk, in order; no chunk after one that failed."""
    chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    if jobs == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield (played := play_some(chunk))
            if played.failure is not None:
                return
        return
    with ProcessPoolExecutor(jobs) as pool:
        for played in pool.map(play_some, chunks):
            yield played
            if played.failure is not None:
                pool.shutdown(cancel_futures=True)
                return


def report(seeds: range, *, jobs: int) -> int:
    """Play and print; the exit code."""
    began = said = time.monotonic()
    counts: Counter[str] = Counter()
    digest = blake2b(digest_size=16)
    for played in play_all(seeds, jobs=jobs):
        counts += played.counts
        digest.update(played.digest.encode())
        now = time.monotonic()
        if played.failure is not None:
            _print_failure(played.failure, alone=len(seeds) == 1)
            return 1
        if now - said >= PROGRESS_SECONDS:
            said = now
            rate = counts["stories"] / (now - began)
            left = (len(seeds) - counts["stories"]) / rate
            print(
                f"{counts['stories']:,} of {len(seeds):,} stories, {rate:.0f} a second,"
                f" {left / 60:.1f} minutes left",
                flush=True,
            )
    took = time.monotonic() - began
    what = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    print(f"seeds {seeds.start}:{seeds.stop}: nothing failed in {took:.1f} s: {what}")
    print(f"digest {digest.hexdigest()}")
    return 0


def try_everything(*, every: int) -> int:
    """All of `tests.simulation.exhaustive`, but damage only `every`-th bytes; the exit code."""
    for what, go in (
        ("crashes", crash_everywhere),
        ("batches of another history", splice_everywhere),
        ("damaged journals", partial(damage_everywhere, every=every)),
        ("damaged snapshots", partial(damage_snapshots_everywhere, every=every)),
    ):
        began = time.monotonic()
        try:
            cases = go()
        except Exception as error:  # noqa: BLE001 - any error is what we look for
            print(traceback.format_exc())
            print(f"the fixed day: {_sentence(error)}")
            return 1
        took = time.monotonic() - began
        print(f"{cases:,} {what}: all as they may be, in {took:.0f} s", flush=True)
    return 0


def _print_failure(failure: Failure, *, alone: bool) -> None:
    if alone:
        story = story_of(failure.seed)
        try:
            story.play()
        except Exception:  # noqa: BLE001 - it is known to fail
            for line in story.machine.told:
                print(*line)
        print(failure.trace)
    print(f"seed {failure.seed}: {failure.what}")
    print(f"again: make simulate SEEDS={failure.seed}:{failure.seed + 1}")


def _seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:END, like 0:10000")
    return range(int(match[1]), int(match[2]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Play stories of crashes, each told by its seed, and check what must hold.",
        epilog="examples:\n"
        "  python -m tests.simulation --seeds 0:10000\n"
        "  python -m tests.simulation --seeds 1234:1235",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seeds", type=_seeds, default=range(10_000), metavar="FIRST:END", help="0:10000"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (all cores)"
    )
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="instead: a fixed day, ended at each operation, and each bit of its files flipped",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="with it: bits of each N-th byte only (1)"
    )
    options = parser.parse_args(arguments)
    if options.exhaustive:
        return try_everything(every=max(1, options.every))
    return report(options.seeds, jobs=max(1, options.jobs))


if __name__ == "__main__":
    sys.exit(main())
