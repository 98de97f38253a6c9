"""Seeded crashes: engine, journal and recovery over a disk that fails, and what must hold after.

Each seed is one life of one product: batches of random commands (retries with the same ids among
them), a follower that reads up to the durable mark, a clock that jumps, and a disk that fails a
sync, fills up, loses power or stops the process after any operation, also inside recovery. After
each recovery:

- every command that was acknowledged is in the journal, with its oid, in its order, and nothing but
  commands of the batch in flight follows;
- the engine's state is that of an engine that was given exactly the journal's commands;
- recovering again finds the same;
- what the follower read is a beginning of what is there now.

A failing seed is run alone by `pytest tests/matching/test_recovery_simulation.py -k "[17]"`.
"""

import random
from collections.abc import Sequence

import pytest

from matching.engine import Engine
from matching.events import Accepted, Duplicate, Event, Rejected
from matching.journal import Mark, Position, beginning, read_batches, read_header
from matching.order import Cancel, Command, NewOrder
from matching.records import CommandRecord, parse_command
from matching.recovery import open_journal
from tests.matching.small_server import DURABLE, JOURNAL, SmallServer, parse
from tests.simulated_disk import Crash, SeededDice, SetClock, SimulatedDisk

SEEDS = 300


class Life:
    """One seed: the world around the server, and what it has been promised."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.disk = SimulatedDisk(rng)
        self.clock = SetClock()
        self.dice = SeededDice(rng)
        self.server: SmallServer | None = None
        self.promised: list[str] = []
        """Command lines of acknowledged batches, in the journal's order."""
        self.in_flight: list[str] = []
        """Those of the batch that a crash interrupted."""
        self.oids: dict[tuple[int, str], int] = {}
        """What traders were told: (owner, client id) → oid."""
        self.commands: list[str] = []
        """All order texts ever sent, to be sent again."""
        self.followed: list[str] = []
        self.position: Position | None = None
        self.crashes = 0

    # -- trading

    def command(self) -> str:
        rng = self.rng
        if self.commands and rng.random() < 0.25:
            return rng.choice(self.commands)
        owner = rng.randint(0, 4)
        kind = rng.random()
        if kind < 0.12:
            return f"{owner}:del {rng.randint(1, max(1, self.engine.next_oid))}"
        if kind < 0.15:
            return f"{owner}:del all"
        if kind < 0.17:
            return f"phase intc {rng.choice(('continuous', 'halted', 'closed', 'continuous'))}"
        if kind < 0.18:
            return f"key intc {owner + 1} {rng.randint(2, 5)}"
        text = f"{owner}:{rng.choice(('buy', 'sell'))} {rng.randint(1, 9)}"
        text += rng.choice(("", *(f"@{rng.randint(995, 1005) / 10}" for _ in range(6))))
        text += rng.choice(("", "", "", f"/{rng.randint(990, 1010) / 10}"))
        text += rng.choice(("", f" id=c{len(self.commands)}"))
        text += rng.choice(("", "", "", " tif=day", " tif=ioc", " tif=fok"))
        text += rng.choice(("", "", " stp=none", " stp=decrement", " stp=both"))
        self.commands.append(text)
        return text

    @property
    def engine(self) -> Engine:
        assert self.server is not None
        return self.server.engine

    def trade(self) -> None:
        """One batch, and the answers to it if all goes well."""
        assert self.server is not None
        self.clock.microseconds += self.rng.choice((0, 1, 500_000, -2_000_000))
        told: list[tuple[Command, Sequence[Event]]] = []
        self.in_flight = []
        for _ in range(self.rng.choice((1, 1, 2, 5, 15))):
            command = parse(self.command())
            prefix = self.dice.token(8).hex() if self.rng.random() < 0.3 else ""
            events = self.server.decide(command, signature_prefix=prefix)
            told.append((command, events))
        self.server.commit()
        for command, events in told:
            self.hear(command, events)
        self.promised = commands_in(self.disk)

    def hear(self, command: Command, events: Sequence[Event]) -> None:
        """The trader reads the answer, and compares it with what was said before."""
        if not isinstance(command, NewOrder) or not command.client_id:
            return
        first = events[0]
        key = (command.owner, command.client_id)
        if isinstance(first, Accepted | Duplicate):
            assert self.oids.setdefault(key, first.oid) == first.oid, f"{key} has two oids"
        else:
            assert isinstance(first, Rejected)

    def follow(self) -> None:
        """Read on up to the durable mark, as log2db does."""
        mark = Mark.decode(self.disk.content(DURABLE), "intc.durable")
        if mark is None:
            return
        file = self.disk.open(JOURNAL)
        header = read_header(file)
        position = self.position or beginning(header)
        if mark.offset < position.offset:
            return  # a power cut took back the mark, never the journal
        for batch in read_batches(file, header, position, until=mark.offset):
            self.followed += batch.lines
            self.position = batch.position

    # -- crashing

    def plan_fault(self) -> None:
        fault = self.rng.random()
        if fault < 0.08:
            self.disk.fail_sync = True
        elif fault < 0.16:
            self.disk.free = self.rng.randint(0, 600)
        elif fault < 0.4:
            self.disk.crash_after = self.rng.randint(1, 4)

    def crash(self) -> None:
        self.crashes += 1
        self.server = None
        self.disk.free = None
        if self.rng.random() < 0.5 and self.disk.exists(DURABLE):
            self.follow()  # before the server is up again, so that unsynced bytes are there to see
        if self.rng.random() < 0.5:
            self.disk.kill()
        else:
            self.disk.power_cut()

    def start(self) -> None:
        """Start the server, crashing now and then while it recovers."""
        while self.server is None:
            if self.rng.random() < 0.3:
                self.disk.crash_after = self.rng.randint(1, 9)
            try:
                self.server = SmallServer(self.disk, self.clock, self.dice)
                self.disk.crash_after = None
            except Crash:
                self.crash()

    def check(self) -> None:
        found = commands_in(self.disk)
        own = [line for line in found if "why=disconnect" not in line]
        assert own[: len(self.promised)] == self.promised, "an acknowledged command is gone"
        lines = [line for lines in all_lines(self.disk) for line in lines]
        assert lines[: len(self.followed)] == self.followed, "a follower saw what is gone"
        state = state_of(self.engine)
        assert state == state_of(replayed(self.disk)), "the state is not that of the journal"
        self.engine.check()
        again = open_journal(self.disk, JOURNAL, ticker="intc", dice=self.dice)
        assert state_of(again.engine) == state, "recovering twice is not recovering once"
        for (owner, client_id), oid in self.oids.items():
            order = self.engine.find(owner, client_id)
            assert order is not None, f"{owner}'s {client_id} is forgotten"
            assert order.oid == oid
        self.promised = own


def all_lines(disk: SimulatedDisk) -> list[list[str]]:
    file = disk.open(JOURNAL)
    return [batch.lines for batch in read_batches(file, read_header(file))]


def commands_in(disk: SimulatedDisk) -> list[str]:
    """The lines of the journal's commands, in order, without the server's own cancels."""
    return [line for lines in all_lines(disk) for line in lines if ": [" in line]


def replayed(disk: SimulatedDisk) -> Engine:
    """An engine that was given the journal's commands, and nothing else of it."""
    engine = Engine("intc")
    for line in commands_in(disk):
        stamp, _, text = line.partition(": ")
        record: CommandRecord = parse_command(text, ticker="intc")
        engine.apply(record.command, int(stamp.replace(".", "")))
    return engine


def state_of(engine: Engine) -> object:
    return (
        engine.phase,
        engine.last,
        engine.next_oid,
        engine.next_tid,
        [
            (o.oid, o.owner, o.side, o.price, o.stop, o.quantity, o.filled, o.client_id, o.cod)
            for o in engine.open_orders()
        ],
        [engine.position(owner) for owner in range(6)],
        [engine.generation(owner) for owner in range(6)],
    )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_acknowledged_is_ever_lost(seed: int) -> None:
    life = Life(random.Random(seed))
    life.start()
    for _ in range(life.rng.randint(3, 12)):
        life.plan_fault()
        try:
            life.trade()
            if life.rng.random() < 0.5:
                life.follow()
            if life.rng.random() < 0.2:
                raise Crash
        except (Crash, OSError):
            life.crash()
            life.start()
            life.check()
            life.follow()
    life.crash()
    life.start()
    life.check()


def test_the_same_after_a_crash_at_any_operation_of_one_life() -> None:
    """Some batches and a restart, cut short after each of their operations in turn."""
    operation = 0
    while True:
        operation += 1
        life = Life(random.Random(operation))
        life.disk.crash_after = operation
        try:
            life.server = SmallServer(life.disk, life.clock, life.dice)
            life.trade()
            life.trade()
            life.disk.replace(JOURNAL, life.disk.content(JOURNAL) + b"torn")
            life.server = SmallServer(life.disk, life.clock, life.dice)
            life.trade()
        except Crash:
            life.crash()
            life.start()
            life.check()
            continue
        break
    assert operation > 20


def test_orders_of_lost_sessions_are_canceled_once_whatever_crashes() -> None:
    for seed in range(60):
        life = Life(random.Random(seed))
        life.start()
        assert life.server is not None
        for owner in range(3):
            order = parse(f"{owner}:buy 5@9{owner}")
            assert isinstance(order, NewOrder)
            cod = {name: getattr(order, name) for name in order.__struct_fields__} | {"cod": True}
            life.server.decide(NewOrder(**cod))
        life.server.commit()
        life.crash()
        life.start()
        assert life.engine.open_orders() == []
        records = [
            parse_command(line.partition(": ")[2], ticker="intc") for line in commands_in(life.disk)
        ]
        canceled = [r.oid for r in records if isinstance(r.command, Cancel)]
        assert canceled == [1, 2, 3]
