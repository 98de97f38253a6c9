"""Transactions: blocking work on the database, off the event loop, each piece in one transaction.

pyDAL blocks and Tornado must not, so a plain function `function(db, …)` runs in one of a few worker
threads, each with a connection that it keeps: in a reading transaction, or in a writing one, where
what it checked and locked still stands when it stores. One that another got in the way of is begun
anew. It is committed when the function returns and rolled back when it raises. Nobody awaits inside
one.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Concatenate, ParamSpec, TypeVar

from app.models.db import DAL, DatabaseAway, close, in_transaction, open_database

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4

CLOSE_SECONDS = 0.5
"""How long what runs may take when all ends; what is not committed then never happened."""


class Transactions:
    """The worker threads of one web server and their connections to one database."""

    def __init__(self, uri: str) -> None:
        self._db = open_database(uri)
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="database")
        self._is_closing = False

    async def read(
        self, function: Callable[Concatenate[DAL, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `function(db, …)` returns, seen in one consistent state of the database."""
        return await self._run(False, lambda: function(self._db, *args, **kwargs))

    async def write(
        self, function: Callable[Concatenate[DAL, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `function(db, …)` returns, once its changes are committed."""
        return await self._run(True, lambda: function(self._db, *args, **kwargs))

    async def _run(self, write: bool, work: Callable[[], T]) -> T:
        self._require_open()

        def transact() -> T:
            self._require_open()
            return in_transaction(self._db, work, write=write)

        return await asyncio.get_running_loop().run_in_executor(self._executor, transact)

    def _require_open(self) -> None:
        if self._is_closing:
            raise DatabaseAway("the web server ends")

    def close(self) -> None:
        """Close every thread's connection and end the threads; a moment is given to what runs.

        A thread that waits for the database longer than that ends with its wait.
        """
        self._is_closing = True
        everyone_is_here = threading.Barrier(THREADS)

        def close_own() -> None:
            with suppress(threading.BrokenBarrierError):
                everyone_is_here.wait(CLOSE_SECONDS)
            close(self._db)

        closing = [self._executor.submit(close_own) for _ in range(THREADS)]
        self._executor.shutdown(wait=False)
        wait(closing, timeout=2 * CLOSE_SECONDS)
