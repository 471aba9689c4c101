"""One server, or one cluster, as RedisStore talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.retry

from django_kvsessions.stores.process.clients import Clients
from django_kvsessions.stores.redis.connections import AsyncConnections, Command, Connections
from django_kvsessions.stores.redis.pools import (
    AsyncClusterConnections,
    ClusterConnections,
    async_connections_of,
    connections_of,
)

__all__ = ["Node"]

TIMEOUT = 3.0
MAX_CONNECTIONS = 100


class Node:
    """One server or one cluster, for sync code and for each event loop."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Any],
        make_async: Callable[[], Any] | None,
    ) -> None:
        """``name`` is for messages. ``make`` is called at the first use, ``make_async`` at the
        first one in each event loop; without it, async calls go through threads."""
        self.name = name
        self.in_threads = make_async is None
        self.clients = Clients(make, make_async or make)

    @classmethod
    def at(cls, url: str, name: str, options: dict[str, Any]) -> Node:
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

    @classmethod
    def of_client(
        cls, name: str, make: Callable[[], Any], make_async: Callable[[], Any] | None
    ) -> Node:
        """What callables of the project give: clients or pools."""
        return cls(
            name,
            lambda: connections_of(make()),
            None if make_async is None else lambda: async_connections_of(make_async()),
        )

    @classmethod
    def of_cluster(cls, urls: Sequence[str], name: str, options: dict[str, Any]) -> Node:
        """The cluster that has nodes at these URLs; the first one's credentials are for all."""
        options = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, **options}
        places = [urlsplit(url) for url in urls]

        def make(package: Any, retry: Any) -> Any:
            nodes = [
                package.cluster.ClusterNode(place.hostname or "localhost", place.port or 6379)
                for place in places
            ]
            # Waiting between attempts would outlast the timeouts.
            again = retry(redis.backoff.NoBackoff(), 1)
            return package.RedisCluster.from_url(
                urls[0], startup_nodes=nodes, retry=again, **options
            )

        return cls.of_client(
            name,
            lambda: make(redis, redis.retry.Retry),
            lambda: make(redis.asyncio, redis.asyncio.retry.Retry),
        )

    def talk(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = self.clients.get().talk(commands)
        return replies

    async def atalk(self, commands: Sequence[Command]) -> list[Any]:
        if self.in_threads:
            return await asyncio.to_thread(self.talk, commands)
        replies: list[Any] = await (await self.clients.aget()).talk(commands)
        return replies

    def forget(self) -> None:
        """Let the next command open a connection of its own."""
        connections = self.clients.opened()
        if isinstance(connections, ClusterConnections):
            # Clients before redis-py 8 forget for good the nodes that they could not reach.
            self.clients.drop()
        elif connections is not None:
            connections.forget()

    async def aforget(self) -> None:
        connections = self.clients.opened_in_loop()
        if connections is None:
            self.forget()
        elif isinstance(connections, AsyncClusterConnections):
            await self.clients.adrop()
        else:
            await connections.forget()

    def close(self) -> None:
        self.clients.close()

    async def aclose(self) -> None:
        await self.clients.aclose()

    def scan(
        self, pattern: bytes, count: int, exchange: Callable[[Command], Any]
    ) -> Iterator[list[bytes]]:
        """The names of keys, some ``count`` at a time, of every primary there is."""
        connections = self.clients.get()
        if not isinstance(connections, ClusterConnections):
            cursor = b"0"
            while True:
                cursor, names = exchange(
                    (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % count)
                )
                yield names
                if cursor == b"0":
                    return
        if not connections.client.get_primaries():
            self.forget()
            connections = self.clients.get()
        for primary in connections.client.get_primaries():
            position = 0
            while True:
                answer, names = connections.client.scan(
                    position, match=pattern, count=count, target_nodes=primary
                )
                yield names
                [position] = answer.values()
                if not position:
                    break
