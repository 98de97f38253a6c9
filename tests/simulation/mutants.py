"""Mutants: faults that are planted in the source, one at a time, to see that the simulation finds
each.

    python -m tests.simulation.mutants            all of them: make mutants
    python -m tests.simulation.mutants sync mark  those whose name has one of these words

Each is planted in a copy of the source, and the stories are told from seed 0 on until one does not
hold. Damage to what was safe is in no story: faults about that are looked for by the fixed day of
`exhaustive`. The table says how many seeds it took, and what was found. Exit code 0: all were
found; 1: one was not, or its text is not in the source any more.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent

SEEDS = 2_000
"""So many stories are told at most."""

EVERY = 7
"""Of the fixed day's files so manyth bytes and lengths are damaged: enough to find a fault."""

COPIED = ("matching", "log2db", "app", "tests")
"""What a simulation is made of."""


class Mutant(NamedTuple):
    """A fault: in `file`, `right` (there once) becomes `wrong`.

    by_day: whether the fixed day is to find it, not a story.
    """

    name: str
    file: str
    right: str
    wrong: str
    by_day: bool = False


MUTANTS = (
    Mutant(
        "answer before the write",
        "matching/groupcommit.py",
        "                    await loop.run_in_executor(self._writer, write, batch)\n"
        "                self._settle(batch)\n",
        "                    self._settle(batch)\n"
        "                    await loop.run_in_executor(self._writer, write, batch)\n"
        "                else:\n"
        "                    self._settle(batch)\n",
    ),
    Mutant(
        "answer before the sync",
        "matching/groupcommit.py",
        "write = self._write_and_sync if self._syncs else self._write",
        "write = self._write",
    ),
    Mutant(
        "the sync's result is swallowed",
        "matching/exchange.py",
        "        journal.sync()\n        mark.write_at(0, self.mark)\n",
        "        try:\n            journal.sync()\n        except OSError:\n            pass\n"
        "        mark.write_at(0, self.mark)\n",
    ),
    Mutant(
        "a failed sync is tried again",
        "matching/exchange.py",
        "        journal.sync()\n        mark.write_at(0, self.mark)\n",
        "        try:\n            journal.sync()\n"
        "        except OSError:\n            journal.sync()\n"
        "        mark.write_at(0, self.mark)\n",
    ),
    Mutant(
        "the mark is written before the sync",
        "matching/exchange.py",
        "        journal.sync()\n        mark.write_at(0, self.mark)\n",
        "        mark.write_at(0, self.mark)\n        journal.sync()\n",
    ),
    Mutant(
        "the next batch is written before the sync",
        "matching/groupcommit.py",
        "            while self._exchange.has_work:\n"
        "                batch = self._exchange.take_batch()\n"
        "                if batch.data:\n"
        "                    self._last_write = loop.time()\n"
        "                    self.batch_commands.observe(batch.commands)\n"
        "                    await loop.run_in_executor(self._writer, write, batch)\n"
        "                self._settle(batch)\n",
        "            written = []\n"
        "            while self._exchange.has_work:\n"
        "                batch = self._exchange.take_batch()\n"
        "                if batch.data:\n"
        "                    await loop.run_in_executor(self._writer, self._write, batch)\n"
        "                written.append(batch)\n"
        "            for batch in written:\n"
        "                if batch.data:\n"
        "                    await loop.run_in_executor(self._writer, self._sync, batch)\n"
        "                self._settle(batch)\n",
    ),
    Mutant(
        "with --durability write the mark moves at the write",
        "matching/groupcommit.py",
        "            batch.write(self._journal)\n        self._unsynced = batch\n",
        "            batch.write(self._journal)\n"
        "            self._mark.write_at(0, batch.mark)\n"
        "        self._unsynced = batch\n",
    ),
    Mutant(
        "the feed shows what is not written",
        "matching/exchange.py",
        "            batch.changes = self._take_changes(mark.seq)\n",
        "            batch.changes = self._take_changes(mark.seq)\n"
        "            self.feed.apply(batch.changes)\n",
    ),
    Mutant(
        "recovery serves without a sync",
        "matching/recovery.py",
        "        file.sync()\n        journal = Journal(",
        "        journal = Journal(",
    ),
    Mutant(
        "what a failed sync forgot is not written again",
        "matching/recovery.py",
        "        _write_again(file, durable.offset if durable is not None else 0)\n",
        "",
    ),
    Mutant(
        "a torn tail is not cut",
        "matching/recovery.py",
        "    file.truncate(end.offset)\n",
        "",
    ),
    Mutant(
        "a torn tail is cut and not kept",
        "matching/recovery.py",
        "            copy.append(file.read(offset, _COPY_SIZE))\n",
        "            pass\n",
    ),
    Mutant(
        "a torn tail is cut before its copy is safe",
        "matching/recovery.py",
        "        copy.sync()\n",
        "",
    ),
    Mutant(
        "a batch may lack its commit",
        "matching/journal.py",
        "        line = self._line(offset)\n            seq += 1\n",
        "        if lines and b'\\n' not in self._source.read(offset, self._end - offset):\n"
        "                chain = before.chain\n"
        "                self._position = Position(seq, offset, number, chain)\n"
        "                return Batch(ticker=self._header.ticker, number=number,"
        " first_seq=before.seq + 1,\n"
        "                    last_seq=seq, offset=before.offset, end_offset=offset, chain=chain,"
        " lines=lines)\n"
        "            line = self._line(offset)\n            seq += 1\n",
    ),
    Mutant(
        "a batch is taken without its chain",
        "matching/journal.py",
        '        if self._block[commit:end] != _seal(f"{text} h={chain}",'
        ' self._header.salt).encode("ascii"):\n            return None\n',
        "",
        by_day=True,
    ),
    Mutant(
        "a line's CRC is not checked",
        "matching/journal.py",
        '            if line[-_CRC_SIZE:] != b" x=%08x\\n" % crc32(text, salt):\n',
        "            if False:\n",
        by_day=True,
    ),
    Mutant(
        "the chain is not checked",
        "matching/journal.py",
        '        if text[-_CHAIN_SIZE:] != b" h=%b" % chain.encode("ascii"):\n',
        "        if False:\n",
        by_day=True,
    ),
    Mutant(
        "damage in the middle counts as a torn tail",
        "matching/journal.py",
        "                self._refuse_if_promised(damage)\n",
        "",
        by_day=True,
    ),
    Mutant(
        "a journal may end before its mark",
        "matching/journal.py",
        "    if end is not None and (mark.seq > end.seq or mark.offset > end.offset):\n",
        "    if False:\n",
        by_day=True,
    ),
    Mutant(
        "a reader does not stop at the mark",
        "matching/journal.py",
        "    end = source.size() if until is None else until\n",
        "    end = source.size()\n",
    ),
    Mutant(
        "seen signatures are lost at a restart",
        "matching/recovery.py",
        "        signatures=replay.recent_signatures(),\n        trades=",
        "        signatures=[],\n        trades=",
    ),
    Mutant(
        "the epoch is not written",
        "matching/exchange.py",
        "        self._journal.epoch(self.epoch, at=self._now())\n",
        "",
    ),
    Mutant(
        "time goes back with the clock",
        "matching/exchange.py",
        "        return max(self._clock.now(), self._journal.time, self._engine.time)\n",
        "        return self._clock.now()\n",
    ),
    Mutant(
        "cod orders survive a crash",
        "matching/exchange.py",
        "        self._queue.append(partial(self._cancel_lost, iter(self._disconnects)))\n",
        "",
    ),
    Mutant(
        "cod orders survive their connection",
        "matching/exchange.py",
        "        oids = sorted(session.cod_oids & self._open.keys())\n",
        "        oids = []\n",
    ),
    Mutant(
        "log2db moves its place in a transaction of its own",
        "log2db/settlement.py",
        "fold.place, closed=closed)\n    try:\n",
        "fold.place, closed=closed)\n"
        "    db.executesql('COMMIT')\n    db.executesql('BEGIN IMMEDIATE')\n    try:\n",
    ),
    Mutant(
        "log2db pays in a transaction of its own",
        "log2db/settlement.py",
        "    _settle_rows(db, header, before, step, at=at).pay(db)\n",
        "    fold = _settle_rows(db, header, before, step, at=at)\n"
        "    db.executesql('COMMIT')\n    db.executesql('BEGIN IMMEDIATE')\n"
        "    fold.pay(db)\n",
    ),
    Mutant(
        "a snapshot's hash is not checked",
        "matching/snapshot.py",
        "        if _hash(body) != header.body:\n",
        "        if False:\n",
        by_day=True,
    ),
    Mutant(
        "a snapshot is used without what is before it",
        "matching/recovery.py",
        "        check_stretches(file, replay.snapshot.before, reach=reach)\n",
        "        pass\n",
        by_day=True,
    ),
    Mutant(
        "a snapshot forgets the rates",
        "matching/savedstate.py",
        "        if owner != HOUSE\n",
        "        if False\n",
    ),
)


class Found(NamedTuple):
    """What became of a fault: how many seeds it took (0: the fixed day), and what was said."""

    mutant: Mutant
    seeds: int | None
    what: str


class Stale(Exception):
    """A fault's text is not in the source, or more than once."""


def planted(mutant: Mutant, source: str) -> str:
    """The source with the fault. Stale."""
    times = source.count(mutant.right)
    if times != 1:
        raise Stale(f"{mutant.name}: its text is {times} times in {mutant.file}")
    return source.replace(mutant.right, mutant.wrong)


def hunt(mutant: Mutant) -> Found:
    """Plant the fault in a copy, and play until it is found. Stale."""
    with tempfile.TemporaryDirectory(prefix="emte-mutant-") as folder:
        root = Path(folder)
        for name in COPIED:
            shutil.copytree(
                ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "static")
            )
        path = root / mutant.file
        path.write_text(planted(mutant, path.read_text(encoding="utf-8")), encoding="utf-8")
        if mutant.by_day:
            said = _play(root, "--exhaustive", "--every", str(EVERY))
            failed = re.search(r"^the fixed day(): (.*)$", said, re.MULTILINE)
        else:
            said = _play(root, "--seeds", f"0:{SEEDS}", "--jobs", "1")
            failed = re.search(r"^seed (\d+): (.*)$", said, re.MULTILINE)
        if failed is None:
            return Found(mutant, None, said.strip().rpartition("\n")[2])
        return Found(mutant, int(failed[1]) + 1 if failed[1] else 0, failed[2])


def _play(root: Path, *arguments: str) -> str:
    """What the simulation of that copy prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def _row(found: Found) -> str:
    seeds = {None: "NOT FOUND", 0: "fixed day"}.get(found.seeds, str(found.seeds))
    what = re.sub(r" \([\w/.]+:\d+\)$", "", found.what).removeprefix("AssertionError: ")
    short = re.sub(r"[:;] \W*(\[?[A-Z]\w+\(|a line of|intc\.).*$", "", what)
    return f"| {found.mutant.name} | {seeds} | {short[:100]} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.mutants",
        description="Plant faults in copies of the source, and let the simulation find them.",
        epilog="examples:\n"
        "  python -m tests.simulation.mutants\n"
        "  python -m tests.simulation.mutants sync mark",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help="only faults whose name has one of them")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (all cores)"
    )
    options = parser.parse_args(arguments)
    words = options.words
    wanted = [each for each in MUTANTS if not words or any(word in each.name for word in words)]
    if not wanted:
        parser.error(f"no fault has {' or '.join(words)} in its name")
    print("| fault | seeds until it is found | by what |\n| --- | ---: | --- |", flush=True)
    missed = 0
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        try:
            for found in pool.map(hunt, wanted):
                print(_row(found), flush=True)
                missed += found.seeds is None
        except Stale as stale:
            pool.shutdown(cancel_futures=True)
            print(f"mutants: {stale}", file=sys.stderr)
            return 1
    print(f"\n{len(wanted) - missed} of {len(wanted)} faults were found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
