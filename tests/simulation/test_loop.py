"""Threads of a simulated process."""

from collections.abc import Iterator

import pytest

from tests.simulated_disk import Crash
from tests.simulation.loop import SimulatedLoop, SimulatedThread


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    loop = SimulatedLoop()
    yield loop
    loop.end()


def test_a_crash_ends_the_process_that_waits_for_its_thread(loop: SimulatedLoop) -> None:
    ended: list[str] = []
    thread = SimulatedThread(
        loop,
        seconds=lambda: 0.001,
        is_alive=lambda: not ended,
        on_crash=lambda: ended.append("crashed"),
    )

    def crash() -> None:
        raise Crash

    thread.submit(crash)
    after = thread.submit(lambda: ended.append("run"))
    with pytest.raises(Crash):
        thread.shutdown()
    assert ended == ["crashed"]
    assert not after.done()
