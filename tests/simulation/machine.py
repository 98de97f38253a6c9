"""The machine on which a story plays: its clock, its disk with its faults, its dice, its lives.

Everything random comes from one seeded generator, everything that takes time from one loop. `tell`
keeps what happens; the digest of a story is made of it.
"""

import random
from pathlib import Path
from typing import Any

from tests.simulated_disk import SeededDice, SimulatedDisk
from tests.simulation.loop import SimulatedLoop

JOURNAL = Path("var/journal/intc.log")
DURABLE = JOURNAL.with_suffix(".durable")
SETTLED = JOURNAL.with_suffix(".settled")
TORN = JOURNAL.with_suffix(".torn")

BEGIN = 1_700_000_000_000_000
"""What the clock shows when a story begins (µs)."""


class Machine:
    """Satisfies `matching.ports.Clock`; `disk` and `dice` are the other ports."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loop = SimulatedLoop()
        self.disk = SimulatedDisk(self.rng)
        self.dice = SeededDice(self.rng)
        self.told: list[tuple[Any, ...]] = []
        self._lead = 0

    def now(self) -> int:
        return self.true_now() + self._lead

    def true_now(self) -> int:
        """What a clock shows that nobody puts (µs)."""
        return BEGIN + round(self.loop.time() * 1_000_000)

    def put_clock(self) -> None:
        """Somebody puts the clock, mostly by little, now and then back by more."""
        by = self.rng.choice((-3_000_000, -400_000, -1, 1_000, 2_000_000, 20_000_000))
        self._lead += by
        self.tell("the clock is put by", by)

    def tell(self, *what: Any) -> None:
        """Something happened: a word, and numbers or texts."""
        self.told.append((round(self.loop.time(), 6), *what))

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    # -- faults

    def plan_fault(self) -> None:
        """What the disk may do to the process that runs now, at one of its next operations."""
        disk, rng = self.disk, self.rng
        fault = rng.random()
        if fault < 0.12:
            disk.fail_sync = True
        elif fault < 0.22:
            disk.free = rng.choice((0, 100, 600, 100_000_000))
        elif fault < 0.60:
            disk.crash_after = rng.randint(1, 20)
            disk.tears = rng.random() < 0.3
        self._tell_plan("this life")

    def plan_fault_of_recovery(self) -> None:
        """Likewise, while a server starts."""
        disk, rng = self.disk, self.rng
        fault = rng.random()
        if fault < 0.25:
            disk.crash_after = rng.randint(1, 9)
            disk.tears = rng.random() < 0.3
        elif fault < 0.29:
            disk.fail_sync = True
        elif fault < 0.33:
            disk.fail_read = True
        elif fault < 0.36:
            disk.free = rng.choice((0, 50))
        self._tell_plan("this start")

    def _tell_plan(self, when: str) -> None:
        disk = self.disk
        if disk.crash_after is not None:
            how = "in the middle of" if disk.tears else "after"
            self.tell(f"{when} is to end {how} operation {disk.crash_after}")
        if disk.fail_sync or disk.fail_read:
            self.tell(f"{when} a {'sync' if disk.fail_sync else 'read'} is to fail")
        if disk.free is not None:
            self.tell(f"{when} has {disk.free} bytes free")

    def repair(self) -> None:
        """No fault is planned any more; what was lost stays lost."""
        disk = self.disk
        disk.crash_after = disk.free = None
        disk.tears = disk.fail_sync = disk.fail_read = False

    def end_process(self, *, power_fails: bool) -> None:
        """The server's process is gone, and with the power all that was not safe."""
        self.repair()
        if power_fails:
            self.disk.power_cut(lose_everything=self.chance(0.3))
        else:
            self.disk.kill()
        self.tell("power cut" if power_fails else "process ends")
