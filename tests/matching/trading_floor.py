"""An exchange over a disk in memory, and the people who talk to it: what its tests stand on."""

import random
from pathlib import Path
from typing import Any

from matching import signing
from matching.exchange import Answer, Batch, Close, Exchange, Message, Reply
from matching.order import Phase
from matching.recovery import Recovered, open_journal
from matching.session import Session
from tests.simulated_disk import SeededDice, SetClock, SimulatedDisk

VENUE_KEY = "5e" * 32
JOURNAL = Path("intc.log")


class Person:
    """Takes what the exchange says; `told` are the JSON objects, in order."""

    def __init__(self, floor: "Floor") -> None:
        self._floor = floor
        self.told: list[dict[str, Any]] = []
        self.answers: list[Answer] = []
        self.closed: Close | None = None
        self.session: Session = floor.exchange.open_session(self, trusted=True)

    def deliver(self, message: Message) -> None:
        if isinstance(message, Close):
            self.closed = message
        elif isinstance(message, dict):
            self.told.append(message)
        else:
            if isinstance(message, Reply):
                self.answers.append(message.answer)
            self.told.append(message.to_dict())

    def take(self) -> list[dict[str, Any]]:
        """What was told since the last take."""
        told, self.told = self.told, []
        return told

    def send(self, text: str, *, req: int | None = None) -> None:
        self._floor.exchange.send(self.session, text, req=req)

    def submit(self, text: str, signature: str | None = None) -> None:
        """Send a text by itself; without a `signature`, under the venue key."""
        signed = signature if signature is not None else signing.sign(VENUE_KEY, text)
        self._floor.exchange.submit(text, signed, self, trusted=True)


class Floor:
    """One product, its disk and clock. `commit` makes everything decided so far durable."""

    def __init__(self, *, phase: Phase | None = None, seed: int = 1) -> None:
        rng = random.Random(seed)
        self.disk = SimulatedDisk(rng)
        self.clock = SetClock()
        self._dice = SeededDice(rng)
        self.generations: dict[int, int] = {}
        self._phase = phase
        self.recovered: Recovered
        self.exchange: Exchange
        self.open()

    def open(self) -> None:
        """Start the exchange on what the disk has."""
        self.recovered = open_journal(self.disk, JOURNAL, ticker="intc", dice=self._dice)
        self.exchange = Exchange(
            self.recovered,
            clock=self.clock,
            dice=self._dice,
            venue_key=VENUE_KEY,
            generations=self.generations,
        )
        self.exchange.start(phase=self._phase if self.recovered.is_new else None)
        self.commit()

    def restart(self) -> None:
        """kill -9, and a new process on the same disk."""
        self.disk.kill()
        self.open()

    @property
    def ts(self) -> int:
        return self.clock.now() // 1000

    def stranger(self) -> Person:
        return Person(self)

    def trader(self, owner: int, *, cod: bool = False, orders: bool = False) -> Person:
        return self._log_in(f"{owner}:login", signing.owner_key(VENUE_KEY, owner), cod, orders)

    def venue(self, *, cod: bool = False, orders: bool = False) -> Person:
        return self._log_in("login", VENUE_KEY, cod, orders)

    def _log_in(self, verb: str, key: str, cod: bool, orders: bool) -> Person:
        person = Person(self)
        nonce = person.session.nonce
        text = f"{verb} intc nonce={nonce}{' cod=1' if cod else ''} ts={self.ts}"
        self.exchange.login(person.session, text, signing.sign(key, text), req=None)
        if orders:
            self.exchange.subscribe_orders(person.session, req=None, wanted=True)
        self.commit()
        kinds = [message["type"] for message in person.take()]
        assert kinds == (["login", "orders"] if orders else ["login"])
        return person

    def store(self, batch: Batch) -> None:
        """Write and sync a batch; OSError if the disk fails."""
        if batch.data:
            batch.write(self.recovered.file)
            batch.sync(self.recovered.file, self.recovered.mark_file)

    def finish(self, batch: Batch) -> None:
        """The batch is durable: show and deliver."""
        self.exchange.settle(batch)
        for recipient, message in batch.deliveries:
            recipient.deliver(message)

    def commit(self) -> None:
        while self.exchange.has_work:
            batch = self.exchange.take_batch()
            self.store(batch)
            self.finish(batch)

    def ask(self, person: Person, text: str) -> dict[str, Any]:
        """Send one text in a session; its answer. What came beside it can still be taken."""
        person.send(text, req=99)
        self.commit()
        (answer,) = [message for message in person.told if message.get("req") == 99]
        person.told.remove(answer)
        return answer

    def journal_lines(self) -> list[str]:
        return self.disk.content(JOURNAL).decode("ascii").splitlines()

    def state(self) -> dict[str, Any]:
        """The public state but the seq, which ticks and starts move."""
        return {name: value for name, value in self.query().items() if name != "seq"}

    def query(self) -> dict[str, Any]:
        return self.exchange.query().to_dict()
