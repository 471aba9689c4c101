"""Connections that redis-py keeps: in pools and clients of the project, and in clusters."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import ResponseError

from django_kvsessions.stores.redis.connections import Command, aconverse, converse

__all__ = [
    "AsyncClusterConnections",
    "ClusterConnections",
    "async_connections_of",
    "connections_of",
]


class PoolConnections:
    """Connections from a pool that belongs to the project, and goes by the pool's own rules."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def talk(self, commands: Sequence[Command]) -> list[Any]:
        connection = self.pool.get_connection()
        try:
            return converse(connection, commands)
        finally:
            self.pool.release(connection)

    def forget(self) -> None:
        self.pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        pass


class AsyncPoolConnections:
    """As ``PoolConnections``, from a client that the project made for this event loop."""

    def __init__(self, client: Any, pool: Any) -> None:
        self.client = client
        self.pool = pool

    async def talk(self, commands: Sequence[Command]) -> list[Any]:
        connection = await self.pool.get_connection()
        try:
            return await aconverse(connection, commands)
        finally:
            await self.pool.release(connection)

    async def forget(self) -> None:
        await self.pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        await self.client.aclose()


class ClusterConnections:
    """A client of a Redis Cluster, which finds the node of each key."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def talk(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = []
        for name, *arguments in commands:
            try:
                replies.append(self.client.execute_command(name.decode(), *arguments))
            except ResponseError as error:
                replies.append(error)
        return replies

    def close(self) -> None:
        pass


class AsyncClusterConnections:
    """As ``ClusterConnections``, in one event loop."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def talk(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = []
        for name, *arguments in commands:
            try:
                replies.append(await self.client.execute_command(name.decode(), *arguments))
            except ResponseError as error:
                replies.append(error)
        return replies

    async def close(self) -> None:
        await self.client.aclose()


def connections_of(client: Any) -> PoolConnections | ClusterConnections:
    pool = getattr(client, "connection_pool", client)
    if hasattr(pool, "get_connection") and not inspect.iscoroutinefunction(pool.disconnect):
        return PoolConnections(pool)
    if hasattr(client, "get_primaries") and not inspect.iscoroutinefunction(client.execute_command):
        refuse_decoding(client)
        return ClusterConnections(client)
    raise ImproperlyConfigured(
        f"OPTIONS['client'] gives a {type(client).__name__}; it must give a redis.Redis, "
        "a redis.ConnectionPool or a redis.RedisCluster."
    )


def async_connections_of(client: Any) -> AsyncPoolConnections | AsyncClusterConnections:
    pool = getattr(client, "connection_pool", client)
    if hasattr(pool, "get_connection") and inspect.iscoroutinefunction(pool.disconnect):
        return AsyncPoolConnections(client, pool)
    if inspect.iscoroutinefunction(getattr(client, "execute_command", None)):
        refuse_decoding(client)
        return AsyncClusterConnections(client)
    raise ImproperlyConfigured(
        f"OPTIONS['async_client'] gives a {type(client).__name__}; it must give a client, "
        "a connection pool or a cluster of redis.asyncio."
    )


def refuse_decoding(client: Any) -> None:
    if client.get_encoder().decode_responses:
        raise ImproperlyConfigured(
            "The client in OPTIONS has decode_responses=True, but sessions are bytes: leave it out."
        )
