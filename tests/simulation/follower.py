"""Followers: other processes that read the journal up to its durable mark, and may end at any step.

`Follower` is log2db's reading with a database in memory, that keeps what it was told or, after a
power cut, loses the last transactions, as SQLite in WAL mode may. `DatabaseFollower` settles into
a real SQLite file by log2db's own settlement.
"""

import atexit
import shutil
import tempfile
from contextlib import closing, suppress
from functools import cache
from pathlib import Path

from app.models import settings
from app.models.db import DAL, execute, migrate, open_database, rows, transaction
from log2db.settlement import resume, settle, steps
from log2db.verify import verify
from matching.config import Var
from matching.journal import (
    Header,
    Mark,
    Position,
    beginning,
    read_batches,
    read_header,
)
from tests.database import add_user
from tests.simulated_disk import Crash
from tests.simulation.commands import OWNERS
from tests.simulation.history import History
from tests.simulation.machine import DURABLE, JOURNAL, SETTLED, Machine


@cache
def a_database() -> DAL:
    """An empty SQLite file of this process, gone with it: all stories that want one share it."""
    var = Var(Path(tempfile.mkdtemp(prefix="emte-simulation-")))
    atexit.register(shutil.rmtree, var.root, ignore_errors=True)
    var.make()
    uri = settings.database_uri(var)
    migrate(uri, var)
    db = open_database(uri)
    for owner in OWNERS:
        assert add_user(db, f"owner{owner}").id == owner
    return db


class Follower:
    """Each `poll` is a life of the process: it begins anew from what its database has."""

    def __init__(self, machine: Machine) -> None:
        self._is_at_work = False
        self._machine = machine
        self._lines: list[str] = []
        self._commits: list[tuple[int, Position]] = []
        """How many lines the database had after each transaction, and the place."""
        self._safe = 0
        """So many transactions no power cut takes back."""

    def poll(self) -> None:
        """Look at the mark and settle up to it, as far as the process lives."""
        if self._is_at_work:
            return
        self._is_at_work = True
        with suppress(Crash, OSError):
            self._follow()
        self._is_at_work = False

    def catch_up(self) -> None:
        """Settle all that is durable, whatever ends in between."""
        disk = self._machine.disk
        while True:
            self.poll()
            mark = Mark.decode(disk.content(DURABLE), DURABLE.name)
            assert mark is not None
            if self._commits and self._commits[-1][1].seq >= mark.seq:
                return

    def power_cut(self) -> None:
        """The last transactions may be gone."""
        kept = self._machine.rng.randint(self._safe, len(self._commits))
        del self._commits[kept:]
        del self._lines[self._commits[-1][0] if self._commits else 0 :]

    def check(self, history: History) -> None:
        """All that it was ever given is in the journal."""
        there = [line.text for line in history.lines[: len(self._lines)]]
        assert there == self._lines, "a follower saw what is gone"

    def _follow(self) -> None:
        disk = self._machine.disk
        if not disk.exists(DURABLE) or not disk.exists(JOURNAL):
            return
        mark = Mark.decode(disk.content(DURABLE), DURABLE.name)
        if mark is None:
            return
        self._may_end()
        with closing(disk.open(JOURNAL)) as file:
            header = read_header(file)
            position = self._commits[-1][1] if self._commits else beginning(header)
            if mark.seq <= position.seq:
                return
            for batch in read_batches(file, header, position, until=mark.offset):
                self._may_end()
                self._commit(batch.lines, batch.position)
                self._may_end()
                self._say_settled(header, batch.position)
        if self._machine.chance(0.3):
            self._safe = len(self._commits)

    def _commit(self, lines: list[str], position: Position) -> None:
        self._lines += lines
        self._commits.append((len(self._lines), position))

    def _say_settled(self, header: Header, position: Position) -> None:
        disk = self._machine.disk
        mark = Mark(position.seq, position.offset, header.lineage)
        with closing(disk.open(SETTLED) if disk.exists(SETTLED) else disk.create(SETTLED)) as file:
            file.write_at(0, mark.encode())

    def _may_end(self) -> None:
        if self._machine.chance(0.05):
            raise Crash


class DatabaseFollower(Follower):
    """The same with log2db's settlement; a process that ends rolls its transaction back."""

    def __init__(self, machine: Machine, db: DAL) -> None:
        super().__init__(machine)
        self._db = db
        with transaction(db, write=True):
            for table in ("match", "buy_sell_order", "position", "log_position"):
                execute(db, f'DELETE FROM "{table}"')
            execute(db, "UPDATE auth_user SET actual_cash = 0")

    def power_cut(self) -> None:
        """This database is on another machine."""

    def check(self, history: History) -> None:
        super().check(history)
        if not self._commits:
            return
        with transaction(self._db):
            totals = rows(self._db, "SELECT SUM(shares), SUM(cash) FROM position")[0]
        assert totals in ((0, 0), (None, None)), f"shares and cash are not conserved: {totals}"
        with closing(self._machine.disk.open(JOURNAL)) as file:
            report = verify(self._db, file, "intc", None)
        assert not report.differences, "\n".join(report.differences)

    def _commit(self, lines: list[str], position: Position) -> None:
        db = self._db
        with closing(self._machine.disk.open(JOURNAL)) as file:
            header = read_header(file)
            with transaction(db, write=True):
                before = resume(db, header)
            for step in steps(read_batches(file, header, before, until=position.offset)):
                with transaction(db, write=True):
                    settle(db, header, before, step, at=self._machine.now())
                    self._may_end()
        super()._commit(lines, position)
