"""One server, as RedisStore talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import redis
import redis.asyncio

from django_kvsessions.stores.process.clients import Clients
from django_kvsessions.stores.redis.connections import AsyncConnections, Connections
from django_kvsessions.stores.redis.pools import AsyncPoolConnections, PoolConnections
from django_kvsessions.stores.redis.scripts import Command, Reply
from django_kvsessions.stores.redis.settings import Options

__all__ = ["MAX_CONNECTIONS", "TIMEOUT", "Node"]

TIMEOUT = 3.0
MAX_CONNECTIONS = 100


class Node:
    """One server, for sync code and for each event loop."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Connections | PoolConnections],
        make_async: Callable[[], AsyncConnections | AsyncPoolConnections] | None,
    ) -> None:
        """``name`` is for messages. ``make`` is called at the first use, ``make_async`` at the
        first one in each event loop; without it, async calls go through threads."""
        self.name = name
        self.in_threads = make_async is None
        self.clients = Clients(make, make_async)

    @classmethod
    def at(cls, url: str, name: str, options: Options) -> Node:
        """The server at a URL. TypeError or ValueError for what redis-py does not take."""
        options = {
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT,
            "max_connections": MAX_CONNECTIONS,
            "protocol": 2,
            **options,
        }
        pool = redis.ConnectionPool.from_url(url, **options)
        async_pool = redis.asyncio.ConnectionPool.from_url(url, **options)
        for each in (pool, async_pool):
            # It connects at its first use, but names wrong options now.
            each.connection_class(**each.connection_kwargs)
        return cls(name, lambda: Connections(pool), lambda: AsyncConnections(async_pool))

    def talk(self, commands: Sequence[Command]) -> list[Reply]:
        """The replies, in one round trip; the driver's error, or ``NotSent``, for an outage."""
        return self.clients.get().talk(commands)

    async def atalk(self, commands: Sequence[Command]) -> list[Reply]:
        if self.in_threads:
            return await asyncio.to_thread(self.talk, commands)
        return await (await self.clients.aget()).talk(commands)

    def close(self) -> None:
        self.clients.close()

    async def aclose(self) -> None:
        await self.clients.aclose()
