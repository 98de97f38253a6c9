"""Transactions: blocking work on the database, off the event loop, each piece in one transaction.

pyDAL blocks and Tornado must not, so a plain function `function(db, …)` runs in one of a few worker
threads, each with a connection that it keeps: in a reading transaction, or in a writing one, where
what it checked and locked still stands when it stores. One that another got in the way of is begun
anew. It is committed
when the function returns and rolled back when it raises. Nobody awaits inside one.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from app.models.db import DAL, close, in_transaction, open_database

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4


class Transactions:
    """The worker threads of one web server and their connections to one database."""

    def __init__(self, uri: str) -> None:
        self._db = open_database(uri)
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="database")

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
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: in_transaction(self._db, work, write=write)
        )

    def close(self) -> None:
        """Close every thread's connection and end the threads; what runs is waited for."""
        everyone_is_here = threading.Barrier(THREADS)

        def close_own() -> None:
            everyone_is_here.wait()
            close(self._db)

        for _ in range(THREADS):
            self._executor.submit(close_own)
        self._executor.shutdown()
