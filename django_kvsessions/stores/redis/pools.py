"""Connections that belong to the project: in its pools and clients, by their own rules."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.redis import errors
from django_kvsessions.stores.redis.connections import aconverse, converse, is_dead, socket_of
from django_kvsessions.stores.redis.scripts import Command, Reply
from django_kvsessions.stores.redis.settings import Client

__all__ = ["AsyncPoolConnections", "PoolConnections", "is_cluster"]


class PoolConnections:
    """Connections from a client or a pool of the project."""

    def __init__(self, client: Client) -> None:
        pool: Client = getattr(client, "connection_pool", client)
        if not hasattr(pool, "get_connection") or inspect.iscoroutinefunction(pool.disconnect):
            raise ImproperlyConfigured(
                f"OPTIONS['client'] gives a {type(client).__name__}; it must give a client, a "
                "connection pool or a cluster client of redis-py or valkey-py that is not async."
            )
        self.pool = pool
        self.arguments = arguments_of(pool)

    def talk(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            # It looks itself whether what was idle is dead by now.
            connection = self.pool.get_connection(*self.arguments)
        except errors.ANY as error:
            raise errors.NotSent(error) from error
        try:
            return converse(connection, commands)
        finally:
            self.pool.release(connection)

    def close(self) -> None:
        """The project's to do."""


class AsyncPoolConnections:
    """As ``PoolConnections``, from a client that the project made for this event loop."""

    def __init__(self, client: Client) -> None:
        pool: Client = getattr(client, "connection_pool", client)
        if not hasattr(pool, "get_connection") or not inspect.iscoroutinefunction(pool.disconnect):
            raise ImproperlyConfigured(
                f"OPTIONS['async_client'] gives a {type(client).__name__}; it must give a client "
                "or a connection pool of redis.asyncio or valkey.asyncio."
            )
        self.client = client
        self.pool = pool
        self.arguments = arguments_of(pool)

    async def talk(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            connection = await self.pool.get_connection(*self.arguments)
            if is_dead(socket_of(connection)):
                await connection.disconnect(nowait=True)
                await connection.connect()
        except errors.ANY as error:
            raise errors.NotSent(error) from error
        try:
            return await aconverse(connection, commands)
        finally:
            await self.pool.release(connection)

    async def close(self) -> None:
        await self.client.aclose()


def arguments_of(pool: Client) -> tuple[str, ...]:
    """For ``get_connection``: valkey-py requires a name of a command, redis-py warns of one."""
    name = inspect.signature(pool.get_connection).parameters.get("command_name")
    return () if name is None or name.default is not name.empty else ("EVALSHA",)


def is_cluster(client: Client) -> bool:
    if not hasattr(client, "get_primaries") or inspect.iscoroutinefunction(client.execute_command):
        return False
    if client.get_encoder().decode_responses:
        raise ImproperlyConfigured(
            "The client in OPTIONS has decode_responses=True, but sessions are bytes: leave it out."
        )
    return True
