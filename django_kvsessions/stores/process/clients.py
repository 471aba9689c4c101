"""Clients of a driver that must not cross a fork, nor go from one event loop to another."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, Generic, Protocol, TypeVar

from django_kvsessions.stores.process import forks

__all__ = ["Clients"]


class Client(Protocol):
    def close(self) -> Any: ...  # Awaited, of an event loop's.


C = TypeVar("C", bound=Client)
A = TypeVar("A", bound=Client)


class Clients(Generic[C, A]):
    """One client for the threads of a process, and one for each event loop, made at first use."""

    def __init__(self, make: Callable[[], C], make_async: Callable[[], A] | None) -> None:
        """``make_async``: ``None`` where no event loop is to have one, and ``aget`` is not used."""
        self._make = make
        self._make_async = make_async
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._client: C | None = None
        self._loops: dict[asyncio.AbstractEventLoop, tuple[A, AsyncGenerator[None, None]]] = {}

    def _check_fork(self) -> None:
        if self._pid != os.getpid():
            forks.keep_inherited((self._client, self._loops))
            self._begin()

    def get(self) -> C:
        self._check_fork()
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = self._make()
        return self._client

    async def aget(self) -> A:
        self._check_fork()
        loop = asyncio.get_running_loop()
        opened = self._loops.get(loop)
        if opened is None:
            for other in list(self._loops):
                if other.is_closed():
                    self._loops.pop(other, None)
            assert self._make_async is not None
            client = self._make_async()
            opened = self._loops[loop] = client, self._live(loop, client)
            await opened[1].__anext__()
        return opened[0]

    async def _live(self, loop: asyncio.AbstractEventLoop, client: A) -> AsyncGenerator[None, None]:
        # An event loop that ends closes the async generators it has met, and gives no
        # other notice.
        try:
            yield
        finally:
            self._loops.pop(loop, None)
            await client.close()

    def opened(self) -> C | None:
        """The client of this process; ``None`` where there is none now."""
        self._check_fork()
        return self._client

    def opened_in_loop(self) -> A | None:
        """The client of the running event loop; ``None`` where it has none now."""
        self._check_fork()
        client, _ = self._loops.get(asyncio.get_running_loop(), (None, None))
        return client

    def drop(self) -> None:
        """Close the client of this process, so that the next use makes another."""
        self._check_fork()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def adrop(self) -> None:
        """Close the client of the running event loop."""
        self._check_fork()
        opened = self._loops.get(asyncio.get_running_loop())
        if opened is not None:
            await opened[1].aclose()

    def close(self) -> None:
        self.drop()
        for loop, (_, lifetime) in list(self._loops.items()):
            # The others are closed by their own loops.
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(_end(lifetime), loop)

    async def aclose(self) -> None:
        await self.adrop()
        self.close()


async def _end(lifetime: AsyncGenerator[None, None]) -> None:
    await lifetime.aclose()
