"""Journals for tests: the journal's own writer, told what a real engine decided."""

from collections.abc import Sequence

from matching import protocol
from matching.config import Var
from matching.engine import Engine
from matching.events import Duplicate, Event, Rejected
from matching.journal import Header, Journal, Mark, durable_path
from matching.order import Amend, Cancel, Command, Login, NewOrder

LINEAGE = "9c1f0a44d2b7e683"
START = 1_700_000_000_000_000


class JournalFile:
    """`var/journal/<ticker>.log` as a matching server would write it, one batch after the other.

    `play` lets the engine decide; `add` journals what this engine does not offer.
    """

    def __init__(self, var: Var, ticker: str = "intc", *, lineage: str = LINEAGE) -> None:
        self.path = var.journal_file(ticker)
        self.header = Header(
            ticker=ticker, lineage=lineage, tick=100, lot=1, reference=1_000_000, salt=0xDEADBEEF
        )
        self.engine = Engine(ticker)
        self.journal = Journal(self.header)
        self.time = START
        self.path.write_bytes(self.header.encode())
        self.journal.epoch(1, at=self.time)
        self.commit()

    @property
    def seq(self) -> int:
        return self.journal.seq

    def play(self, *texts: str) -> None:
        """Commands that the engine must take, a millisecond apart, and the end of their batch."""
        for text in texts:
            before = self.seq
            self.try_to_play(text)
            assert self.seq > before, f"{text} was rejected"
        self.commit()

    def try_to_play(self, text: str) -> None:
        """A command into the open batch, unless the engine rejects it, or has had its id before."""
        self.time += 1_000
        command = protocol.parse(text, ticker=self.header.ticker)
        assert not isinstance(command, Login)
        events = self.engine.apply(command, self.time)
        if not (events and isinstance(events[0], Rejected | Duplicate)):
            self._append(command, events)

    def add(self, text: str, *events: Event) -> None:
        """A command and its events as told, in the open batch."""
        self.time += 1_000
        command = protocol.parse(text, ticker=self.header.ticker)
        assert not isinstance(command, Login)
        self._append(command, events)

    def commit(self, *, durable: bool = True) -> None:
        """End the batch; without `durable` the mark stays where it was."""
        with self.path.open("ab") as file:
            file.write(self.journal.close_batch())
        if durable:
            self.mark()

    def mark(self, mark: Mark | None = None) -> None:
        """Write the durable mark in place, in one go: by default the end of the journal."""
        path = durable_path(self.path)
        path.touch()
        with path.open("r+b", buffering=0) as file:
            file.write((mark or self.journal.mark).encode())

    def _append(self, command: Command, events: Sequence[Event]) -> None:
        oid = 0
        if events and isinstance(command, NewOrder | Cancel | Amend):
            oid = getattr(events[0], "oid", 0)
        self.journal.append(command, oid=oid, events=events, at=self.time)
