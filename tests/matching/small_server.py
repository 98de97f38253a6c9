"""The smallest matching server: it decides, journals, syncs, and only then answers.

Tests of journal and recovery run it over a simulated disk; it keeps what it promised, so that a
test can ask for it after a crash.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from matching import protocol
from matching.events import Accepted, Amended, Canceled, Duplicate, Event, Rejected
from matching.order import CancelAll, Command, Login
from matching.ports import Clock, Dice, Disk
from matching.recovery import Recovered, open_journal
from tests.simulated_disk import SeededDice, SetClock, SimulatedDisk

JOURNAL = Path("var/journal/intc.log")
DURABLE = Path("var/journal/intc.durable")
SETTLED = Path("var/journal/intc.settled")
TORN = Path("var/journal/intc.torn")


class SmallServer:
    """One run of one product's server, from its start to its crash."""

    def __init__(
        self, disk: Disk, clock: Clock | None = None, dice: Dice | None = None, **terms: int
    ) -> None:
        self.clock = clock if clock is not None else SetClock()
        self.recovered: Recovered = open_journal(
            disk,
            JOURNAL,
            ticker="intc",
            dice=dice if dice is not None else SeededDice(random.Random(0)),
            **terms,
        )
        self.engine = self.recovered.engine
        self.journal = self.recovered.journal
        self.journal.epoch(self.recovered.epoch, at=self.now())
        for cancel in self.recovered.disconnects:
            self.decide(cancel)
        self.commit()

    def now(self) -> int:
        # The engine's time too: it has seen rejected commands, which the journal has not.
        return max(self.clock.now(), self.journal.time, self.engine.time)

    def decide(self, command: Command, *, signature_prefix: str = "") -> Sequence[Event]:
        """Apply a command and add it to the open batch, unless it changed nothing."""
        at = self.now()
        events = self.engine.apply(command, at)
        first = events[0] if events else None
        if not isinstance(first, Rejected | Duplicate):
            oid = 0
            if isinstance(first, Accepted | Amended | Canceled) and not isinstance(
                command, CancelAll
            ):
                oid = first.oid
            self.journal.append(
                command, oid=oid, events=events, at=at, signature_prefix=signature_prefix
            )
        return events

    def commit(self) -> None:
        """Write the open batch, sync it, move the mark. Only now may anybody be answered."""
        data = self.journal.close_batch()
        if data:
            self.recovered.file.append(data)
            self.recovered.file.sync()
            self.recovered.mark_file.write_at(0, self.journal.mark.encode())

    def trade(self, *texts: str) -> list[Sequence[Event]]:
        """Decide and commit some commands as one batch."""
        answers = [self.decide(parse(text)) for text in texts]
        self.commit()
        return answers


def parse(text: str) -> Command:
    command = protocol.parse(text, ticker="intc")
    assert not isinstance(command, Login)
    return command


def new_disk(seed: int = 0) -> SimulatedDisk:
    return SimulatedDisk(random.Random(seed))
