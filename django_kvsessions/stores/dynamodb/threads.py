"""Threads of a store's own, for a driver that only blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from django_kvsessions.stores.process.clients import Clients

__all__ = ["Threads"]

T = TypeVar("T")


class Threads:
    """Up to ``limit`` threads for each process, started when there is something to do.

    The event loop's own executor has a few threads that everybody shares: a
    store whose server is silent would keep all else waiting.
    """

    def __init__(self, limit: int) -> None:
        self._pools: Clients[Pool, Pool] = Clients(lambda: Pool(limit), None)

    async def call(self, function: Callable[[], T]) -> T:
        pool = self._pools.get()
        loop = asyncio.get_running_loop()
        # As asyncio.to_thread does: what the caller set for itself is seen in the thread.
        return await loop.run_in_executor(pool.executor, partial(copy_context().run, function))

    def close(self) -> None:
        """The threads end when they have done what they were given."""
        self._pools.close()


class Pool:
    def __init__(self, limit: int) -> None:
        self.executor = ThreadPoolExecutor(limit, thread_name_prefix="kvsessions")

    def close(self) -> None:
        self.executor.shutdown(wait=False)
