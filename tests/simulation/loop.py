"""An event loop whose time is simulated, and threads that run in it: all in one order of events.

Nobody waits: where an asyncio program would sleep, the loop's clock jumps to what comes next. A
second of a server's life so costs what its work costs, and every run of a story is the same.

>>> loop = SimulatedLoop()
>>> _ = loop.call_later(3600, loop.stop)
>>> loop.run()
>>> loop.time()
3600.0
>>> loop.end()
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from tests.simulated_disk import Crash


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs callbacks and tasks until somebody stops it."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self  # whom the base class asks to wait
        self._now = 0.0
        self._broken: BaseException | None = None
        self.set_exception_handler(self._break_off)

    def time(self) -> float:
        return self._now

    def run(self) -> None:
        """Run until `stop`; whatever a callback or an unobserved task raised is raised here."""
        self.run_forever()
        broken, self._broken = self._broken, None
        if broken is not None:
            raise broken

    def end(self) -> None:
        """Nothing more happens: tasks are cancelled, what was to come later is forgotten."""
        self._scheduled.clear()  # type: ignore[attr-defined]
        while tasks := asyncio.all_tasks(self):
            for task in tasks:
                task.cancel()
            self.call_soon(self.stop)
            self.run_forever()
        self.close()

    def _break_off(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._broken = self._broken or context.get("exception") or AssertionError(context)
        self.stop()

    # What the base class needs of a loop over a real selector.

    def select(self, timeout: float | None) -> Sequence[object]:
        assert timeout is not None, "everybody waits for ever"
        self._now += timeout
        return ()

    def _process_events(self, events: Sequence[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def __del__(self) -> None:
        """It holds nothing that must be closed."""


class SimulatedThread(Executor):
    """A thread of one process: what it is given runs a moment later, in turn, while others go on.

    Nothing runs once the process has ended; `on_crash` is called if the job itself is its end.
    """

    def __init__(
        self,
        loop: SimulatedLoop,
        *,
        seconds: Callable[[], float],
        is_alive: Callable[[], bool],
        on_crash: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._is_alive = is_alive
        self._on_crash = on_crash
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._free_at = 0.0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._jobs.append((future, lambda: fn(*args, **kwargs)))
        self._free_at = max(self._free_at, self._loop.time()) + self._seconds()
        self._loop.call_at(self._free_at, self._run_next)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Run at once what was given; Crash if the process ends meanwhile."""
        while self._jobs:
            self._run_next()
            if not self._is_alive():
                raise Crash

    def _run_next(self) -> None:
        if not self._jobs or not self._is_alive():
            return
        future, job = self._jobs.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = job()
        except Crash:
            self._on_crash()
        except BaseException as error:  # noqa: BLE001 - whoever waits for the future gets it
            future.set_exception(error)
        else:
            future.set_result(result)
