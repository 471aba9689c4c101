"""Connections of RedisStore: a list of commands in one round trip, in both colours.

They stand on redis-py's connections instead of its client, which takes twice as
long for a command.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.exceptions import ResponseError

__all__ = ["AsyncConnections", "Command", "Connections", "aconverse", "converse"]

#: Name and arguments. Where the server answers with an error, that is the reply.
Command = tuple[bytes, ...]

BUSY = "every connection is in use (OPTIONS['max_connections'])"


class Connections:
    """The connections of this process to one server.

    What is idle stays here instead of going back to redis-py's pool, where
    each use costs as much as the command itself.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.timeout: float | None = pool.connection_kwargs["socket_timeout"]
        self.idle: list[Any] = []
        self.slots = threading.Semaphore(pool.max_connections)

    def talk(self, commands: Sequence[Command]) -> list[Any]:
        if not self.slots.acquire(timeout=self.timeout):
            raise exceptions.TimeoutError(BUSY)
        try:
            try:
                connection = self.idle.pop()
            except IndexError:
                connection = self.pool.connection_class(**self.pool.connection_kwargs)
            replies = converse(connection, commands)
            self.idle.append(connection)
            return replies
        finally:
            self.slots.release()

    def forget(self) -> None:
        """Close what is idle, so that the next command opens a connection of its own."""
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.disconnect()

    def close(self) -> None:
        self.forget()


class AsyncConnections:
    """The connections of one event loop to one server."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.timeout: float | None = pool.connection_kwargs["socket_timeout"]
        self.idle: list[Any] = []
        self.slots = asyncio.Semaphore(pool.max_connections)

    async def talk(self, commands: Sequence[Command]) -> list[Any]:
        try:
            # wait_for costs a task; a free slot needs no waiting.
            if self.slots.locked():
                await asyncio.wait_for(self.slots.acquire(), self.timeout)
            else:
                await self.slots.acquire()
        except asyncio.TimeoutError:
            raise exceptions.TimeoutError(BUSY) from None
        try:
            if self.idle:
                connection = self.idle.pop()
            else:
                connection = self.pool.connection_class(**self.pool.connection_kwargs)
            replies = await aconverse(connection, commands)
            self.idle.append(connection)
            return replies
        finally:
            self.slots.release()

    async def forget(self) -> None:
        idle, self.idle = self.idle, []
        for connection in idle:
            await connection.disconnect()

    async def close(self) -> None:
        await self.forget()


def converse(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Send all, then read all."""
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        replies: list[Any] = []
        for _ in commands:
            try:
                # The project's pool may be set to decode, which session data does not survive.
                replies.append(connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        return replies
    except BaseException:
        # An answer left unread would be taken for the answer to the next question.
        connection.disconnect()
        raise


async def aconverse(connection: Any, commands: Sequence[Command]) -> list[Any]:
    try:
        await connection.send_packed_command(connection.pack_commands(commands))
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        return replies
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
