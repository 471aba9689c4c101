"""How RedisStore talks to a server: a list of commands in one round trip, in both colours.

It stands on redis-py's connections instead of its client, which takes twice as
long for a command.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.retry
from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from redis import exceptions
from redis.exceptions import ResponseError

__all__ = ["Command", "Node", "exceptions", "nodes"]

#: Name and arguments. Where the server answers with an error, that is the reply.
Command = tuple[bytes, ...]

TIMEOUT = 3.0
MAX_CONNECTIONS = 100
BUSY = "every connection is in use (OPTIONS['max_connections'])"

REFUSED_OPTIONS = {
    "decode_responses": "sessions are bytes",
    "retry": "the store repeats by itself what it may repeat",
    "retry_on_error": "the store repeats by itself what it may repeat",
    "retry_on_timeout": "a timeout is the limit that a request waits",
    "connection_pool": "give the pool as OPTIONS['client']",
}


class Connections:
    """The connections of this process to one server.

    What is idle stays here instead of going back to redis-py's pool, where
    each use costs as much as the command itself.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.timeout: float | None = pool.connection_kwargs["socket_timeout"]
        self.reset()

    def reset(self) -> None:
        self.pid = os.getpid()
        self.idle: list[Any] = []
        self.slots = threading.Semaphore(self.pool.max_connections)

    def talk(self, commands: Sequence[Command]) -> list[Any]:
        # A fork's child would share sockets with its parent, and locks held by no thread of it.
        if self.pid != os.getpid():
            self.reset()
        slots = self.slots
        if not slots.acquire(timeout=self.timeout):
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
            slots.release()

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
        self.make = make
        self.make_async = make_async
        self.lock = threading.Lock()
        self.connections: Any = None
        self.loops: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[Any]]] = {}

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

    def opened(self) -> Any:
        if self.connections is None:
            with self.lock:
                if self.connections is None:
                    self.connections = self.make()
        return self.connections

    def talk(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = self.opened().talk(commands)
        return replies

    async def atalk(self, commands: Sequence[Command]) -> list[Any]:
        if self.make_async is None:
            return await asyncio.to_thread(self.talk, commands)
        connections = await self.opened_in_loop(self.make_async)
        replies: list[Any] = await connections.talk(commands)
        return replies

    async def opened_in_loop(self, make: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        opened = self.loops.get(loop)
        if opened is None:
            for other in list(self.loops):
                if other.is_closed():
                    self.loops.pop(other, None)
            connections = make()
            lifetime = self.live(loop, connections)
            opened = self.loops[loop] = connections, lifetime
            await lifetime.__anext__()
        return opened[0]

    async def live(self, loop: asyncio.AbstractEventLoop, connections: Any) -> AsyncGenerator[Any]:
        # An event loop that ends closes the async generators it has met. It gives no
        # other notice, and by then its connections must be closed.
        try:
            yield
        finally:
            self.loops.pop(loop, None)
            await connections.close()

    def forget(self) -> None:
        if isinstance(self.connections, ClusterConnections):
            # Clients before redis-py 8 forget for good the nodes that they could not reach.
            self.connections = None
        elif self.connections is not None:
            self.connections.forget()

    async def aforget(self) -> None:
        opened = self.loops.get(asyncio.get_running_loop())
        if opened is None:
            self.forget()
        elif isinstance(opened[0], AsyncClusterConnections):
            await opened[1].aclose()
        else:
            await opened[0].forget()

    def close(self) -> None:
        connections, self.connections = self.connections, None
        if connections is not None:
            connections.close()
        for loop, (_, lifetime) in list(self.loops.items()):
            # The others are closed by their own loops.
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(lifetime.aclose(), loop)

    async def aclose(self) -> None:
        opened = self.loops.get(asyncio.get_running_loop())
        if opened is not None:
            await opened[1].aclose()
        self.close()

    def scan(
        self, pattern: bytes, count: int, exchange: Callable[[Command], Any]
    ) -> Iterator[list[bytes]]:
        """The names of keys, some ``count`` at a time, of every primary there is."""
        connections = self.opened()
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
            connections = self.opened()
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


def nodes(
    location: Any, cluster: bool, client: Any, async_client: Any, options: dict[str, Any]
) -> tuple[list[Node], str]:
    """The nodes that the settings name, and which setting it was."""
    for name, reason in REFUSED_OPTIONS.items():
        if options.get(name):
            raise ImproperlyConfigured(f"OPTIONS has {name!r}: leave it out, {reason}.")
    if client is not None:
        others = ["LOCATION"] * bool(location) + ["cluster"] * cluster + list(options)
        if others:
            raise ImproperlyConfigured(
                "OPTIONS['client'] brings connections and their settings along: leave out "
                f"{', '.join(others)}."
            )
        make_async = callable_of("async_client", async_client) if async_client else None
        name = f"client {client!r}" if isinstance(client, str) else "the client"
        node = Node.of_client(name, callable_of("client", client), make_async)
        return [node], "OPTIONS['client']"
    if async_client is not None:
        raise ImproperlyConfigured("OPTIONS['async_client'] needs OPTIONS['client'] as well.")
    found = urls(location)
    if cluster:
        return [Node.of_cluster(found, ", ".join(map(address, found)), options)], "LOCATION"
    try:
        return [Node.at(url, address(url), options) for url in found], "LOCATION"
    except (TypeError, ValueError) as error:
        reason = re.sub(r"^.*__init__\(\) ", "", str(error))
        raise ImproperlyConfigured(
            f"OPTIONS, or the query of LOCATION, has what redis-py does not take: {reason}"
        ) from error


def callable_of(name: str, given: str | Callable[[], Any]) -> Callable[[], Any]:
    if isinstance(given, str):
        if name == "client" and given in settings.CACHES:
            client = client_of_cache(given)
            return lambda: client
        try:
            given = import_string(given)
        except ImportError as error:
            aliases = ", ".join(repr(alias) for alias in settings.CACHES)
            raise ImproperlyConfigured(
                f"OPTIONS[{name!r}] is {given!r}, which cannot be imported"
                + (f" and is no alias in CACHES, which has {aliases}." if name == "client" else ".")
            ) from error
    if not callable(given):
        raise ImproperlyConfigured(
            f"OPTIONS[{name!r}] must be a callable without arguments, not {type(given).__name__}."
        )
    return given


def client_of_cache(alias: str) -> Any:
    cache: Any = caches[alias]
    if hasattr(cache, "client"):
        return cache.client.get_client(write=True)  # django-redis
    if hasattr(getattr(cache, "_cache", None), "get_client"):
        return cache._cache.get_client(None, write=True)  # django.core.cache.backends.redis
    raise ImproperlyConfigured(
        f"OPTIONS['client'] is {alias!r}, but CACHES[{alias!r}] is not on Redis: "
        f"it is a {type(cache).__name__}."
    )


def urls(location: Any) -> list[str]:
    if not location:
        raise ImproperlyConfigured(
            "LOCATION is missing: name a URL, such as redis://127.0.0.1:6379/0."
        )
    found = list(location) if isinstance(location, (list, tuple)) else [location]
    for url in found:
        if not isinstance(url, str):
            raise ImproperlyConfigured(
                f"LOCATION must be a URL or a list of URLs, not a {type(url).__name__}."
            )
        try:
            parts = urlsplit(url)
            # redis-py would take a wrong database to be 0, and half a password to be a host.
            path = r"/.+" if parts.scheme == "unix" else r"(/\d*)?"
            well = (
                parts.scheme in ("redis", "rediss", "unix")
                and re.fullmatch(path, parts.path) is not None
                and parts.port != 0
                and not parts.fragment
                and "@" not in parts.query
            )
        except ValueError:
            well = False
        if not well:
            # from None: redis-py's and urllib's own errors repeat parts of the password.
            raise ImproperlyConfigured(
                f"LOCATION has {hidden(url)!r}, which is no Redis URL: write "
                "redis://user:password@host:6379/0, rediss:// for TLS, or unix:///path?db=0, "
                "and percent-encode what is special in the password."
            ) from None
    return found


def hidden(url: str) -> str:
    """The URL without what may be secret: all before the last @, and the query."""
    return re.sub(r"//.*@", "//***@", url, flags=re.DOTALL).partition("?")[0]


def address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
