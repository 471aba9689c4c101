"""Connections of RedisStore: a list of commands in one round trip, in both colours.

They stand on redis-py's connections instead of its client, which takes twice as
long for a command. Whatever fails before a command was sent is ``NotSent``.
"""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from django_kvsessions.stores.redis import errors
from django_kvsessions.stores.redis.scripts import Command, Reply

if TYPE_CHECKING:
    from redis import ConnectionPool
    from redis.asyncio import ConnectionPool as AsyncConnectionPool

__all__ = [
    "AsyncConnections",
    "Connections",
    "aconverse",
    "converse",
    "is_dead",
    "socket_of",
]

#: Of redis-py or valkey-py, sync or async: few of their methods have types.
Connection: TypeAlias = Any


class Connections:
    """The connections of this process to one server.

    What is idle stays here instead of going back to redis-py's pool, where
    each use costs as much as the command itself.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.timeout: float | None = pool.connection_kwargs["socket_timeout"]
        self.idle: list[Connection] = []
        self.slots = threading.Semaphore(pool.max_connections)

    def talk(self, commands: Sequence[Command]) -> list[Reply]:
        if not self.slots.acquire(timeout=self.timeout):
            raise errors.Busy
        try:
            connection = self.take()
            replies = converse(connection, commands)
            self.idle.append(connection)
            return replies
        finally:
            self.slots.release()

    def take(self) -> Connection:
        while True:
            try:
                connection: Connection = self.idle.pop()
            except IndexError:
                break
            if not is_dead(connection._sock):
                return connection
            connection.disconnect()
        connection = self.pool.connection_class(**self.pool.connection_kwargs)
        try:
            connection.connect()
        except errors.ANY as error:
            raise errors.NotSent(error) from error
        return connection

    def close(self) -> None:
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.disconnect()


class AsyncConnections:
    """The connections of one event loop to one server."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self.pool = pool
        self.timeout: float | None = pool.connection_kwargs["socket_timeout"]
        self.idle: list[Connection] = []
        self.slots = asyncio.Semaphore(pool.max_connections)

    async def talk(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            # wait_for costs a task; a free slot needs no waiting.
            if self.slots.locked():
                await asyncio.wait_for(self.slots.acquire(), self.timeout)
            else:
                await self.slots.acquire()
        except asyncio.TimeoutError:
            raise errors.Busy from None
        try:
            connection = await self.take()
            replies = await aconverse(connection, commands)
            self.idle.append(connection)
            return replies
        finally:
            self.slots.release()

    async def take(self) -> Connection:
        while self.idle:
            connection: Connection = self.idle.pop()
            if not is_dead(socket_of(connection)):
                return connection
            await connection.disconnect(nowait=True)
        connection = self.pool.connection_class(**self.pool.connection_kwargs)
        try:
            await connection.connect()
        except errors.ANY as error:
            raise errors.NotSent(error) from error
        return connection

    async def close(self) -> None:
        idle, self.idle = self.idle, []
        for connection in idle:
            await connection.disconnect()


def socket_of(connection: Connection) -> Any:
    """The socket of an async connection: its event loop may not have come round yet to
    noticing its end."""
    writer = connection._writer
    return None if writer is None or writer.is_closing() else writer.get_extra_info("socket")


def is_dead(socket: Any) -> bool:
    """Whether an idle connection was closed by the server, or holds what nobody asked for."""
    if socket is None or socket.fileno() < 0:
        return True
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([socket], [], [], 0)[0])
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


def packed(commands: Sequence[Command]) -> bytes:
    """As the protocol has them; the drivers' own packing costs as much as a command."""
    parts = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        parts += [b"$%d\r\n%b\r\n" % (len(part), part) for part in command]
    return b"".join(parts)


def converse(connection: Connection, commands: Sequence[Command]) -> list[Reply]:
    """Send all, then read all."""
    try:
        connection.send_packed_command([packed(commands)])
        replies: list[Reply] = []
        for _ in commands:
            try:
                # The project's pool may be set to decode, which session data does not survive.
                replies.append(connection.read_response(disable_decoding=True))
            except errors.REPLY as error:
                replies.append(error)
        return replies
    except BaseException:
        # An answer left unread would be taken for the answer to the next question.
        connection.disconnect()
        raise


async def aconverse(connection: Connection, commands: Sequence[Command]) -> list[Reply]:
    try:
        await connection.send_packed_command([packed(commands)])
        replies: list[Reply] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except errors.REPLY as error:
                replies.append(error)
        return replies
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
