"""Clock watch: whether the machine's clock goes on as time does, or was put.

Between two looks the clock and the monotonic one, which nobody can put, must have moved equally
far. The journal's time never goes back (PROTOCOL §5): while the clock is behind it, it stands, and
with it all that is counted by it (the age of a `ts=`, R16's rate). So an operator is to know.

>>> seconds = [100.0, 50.0]  # what the two show
>>> watch = ClockWatch(lambda: seconds[0], monotonic=lambda: seconds[1])
>>> seconds[:] = 101.0, 51.01
>>> watch.look()
0.0
>>> seconds[:] = 99.0, 52.01
>>> watch.look(), watch.jumps
(-3.0, 1)
"""

from collections.abc import Callable

TOLERANCE_SECONDS = 1.0
"""What is more is a jump; less may be a clock that is being set right, little by little."""


class ClockWatch:
    """Compares a clock (seconds since 1970) with a monotonic one, from look to look."""

    def __init__(self, clock: Callable[[], float], *, monotonic: Callable[[], float]) -> None:
        self.jumps = 0
        """How often the clock has jumped since the watch began."""
        self._clock = clock
        self._monotonic = monotonic
        self._lead = clock() - monotonic()

    def look(self) -> float:
        """Seconds by which the clock has jumped since the last look, to a hundredth; 0: not."""
        lead = self._clock() - self._monotonic()
        jump, self._lead = lead - self._lead, lead
        if abs(jump) <= TOLERANCE_SECONDS:
            return 0.0
        self.jumps += 1
        return round(jump, 2)
