"""From LOCATION and OPTIONS of RedisStore to servers: one, several, a cluster, the project's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_kvsessions.colours import Colour
from django_kvsessions.stores.redis import errors, settings
from django_kvsessions.stores.redis.cluster import Cluster
from django_kvsessions.stores.redis.node import Node
from django_kvsessions.stores.redis.pools import (
    AsyncPoolConnections,
    PoolConnections,
    is_cluster,
)
from django_kvsessions.stores.redis.scripts import Command, Reply
from django_kvsessions.stores.redis.servers import One, Sentinels, Servers, Several
from django_kvsessions.stores.redis.settings import Client, Make, Options

__all__ = ["errors", "servers"]


def servers(
    location: object,
    cluster: bool,
    client: str | Make | None,
    async_client: str | Make | None,
    sentinel_kwargs: Options | None,
    options: Options,
) -> tuple[Servers, str]:
    """The servers that the settings name, and which setting it was."""
    settings.check_options(options)
    if client is not None:
        others = ["LOCATION"] * bool(location) + ["cluster"] * cluster + list(options)
        others += ["sentinel_kwargs"] * (sentinel_kwargs is not None)
        if others:
            raise ImproperlyConfigured(
                "OPTIONS['client'] brings connections and their settings along: leave out "
                f"{', '.join(others)}."
            )
        make_async = None if async_client is None else callable_of("async_client", async_client)
        name = f"client {client!r}" if isinstance(client, str) else "the client"
        return Given(name, callable_of("client", client), make_async), "OPTIONS['client']"
    if async_client is not None:
        raise ImproperlyConfigured("OPTIONS['async_client'] needs OPTIONS['client'] as well.")
    if (sentinel := settings.sentinel_url(location)) is not None:
        if cluster:
            raise ImproperlyConfigured("OPTIONS['cluster'] is for LOCATIONs without a Sentinel.")
        return sentinels(sentinel, sentinel_kwargs or {}, options), "LOCATION"
    if sentinel_kwargs is not None:
        raise ImproperlyConfigured(
            "OPTIONS['sentinel_kwargs'] needs a Sentinel in LOCATION: "
            "redis+sentinel://host:port,host:port/name/0."
        )
    found = settings.urls(location)
    if cluster:
        places = [settings.host_and_port(url) for url in found]
        return Cluster(places, near(found[0], options)), "LOCATION"
    nodes = [node_at(url, options) for url in found]
    return (One(nodes[0]) if len(nodes) == 1 else Several(nodes)), "LOCATION"


def sentinels(named: settings.SentinelURL, sentinel_kwargs: Options, options: Options) -> Sentinels:
    # Credentials are the primary's; what else makes a connection is for both.
    shared = {name: options[name] for name in options if name.startswith(("socket_", "ssl_"))}
    scheme = named.url.partition("://")[0]
    nodes = [
        node_at(settings.with_place(f"{scheme}://", *place), {**shared, **sentinel_kwargs})
        for place in named.places
    ]
    make = near(named.url, options)
    # Names a wrong option now.
    make("localhost", 0)
    return Sentinels(nodes, named.service, make)


def near(url: str, options: Options) -> Callable[[str, int], Node]:
    """Nodes elsewhere, reached as the one at the URL is."""
    return lambda host, port: node_at(settings.with_place(url, host, port), options)


def node_at(url: str, options: Options) -> Node:
    try:
        return Node.at(url, settings.address(url), options)
    except (TypeError, ValueError) as error:
        raise settings.unknown_option(error) from error


class Given(Servers):
    """Whatever the project's callables give, called at the first use."""

    def __init__(self, name: str, make: Make, make_async: Make | None) -> None:
        self.name = name
        self._makes = make, make_async
        self._servers: Servers | None = None

    def _find(self) -> Servers:
        make, make_async = self._makes
        client = make()
        if is_cluster(client):
            found: Servers = cluster_of(client)
        else:
            # It is the first one that is used, too.
            made = [PoolConnections(client)]
            found = One(
                Node(
                    self.name,
                    lambda: made.pop() if made else PoolConnections(make()),
                    None if make_async is None else lambda: AsyncPoolConnections(make_async()),
                )
            )
        # Another thread may have been here at the same time.
        servers = self._servers or found
        self._servers = servers
        return servers

    async def _afind(self) -> Servers:
        # A cluster's client talks to its nodes while it is made.
        return await asyncio.to_thread(self._find)

    async def talk(self, call: Colour, commands: Sequence[Command], *, again: bool) -> list[Reply]:
        if (servers := self._servers) is None:
            servers = await call(self._find, self._afind)
        return await servers.talk(call, commands, again=again)

    async def primaries(self, call: Colour) -> Sequence[Node]:
        if (servers := self._servers) is None:
            servers = await call(self._find, self._afind)
        return await servers.primaries(call)

    def nodes(self) -> Sequence[Node]:
        return [] if self._servers is None else self._servers.nodes()


def cluster_of(client: Client) -> Cluster:
    """The cluster of a client, over connections that are made as the client makes its own."""
    given = client.get_connection_kwargs()
    options = {
        name: value
        for name, value in given.items()
        if value is not None
        and name.startswith(
            ("socket_", "ssl_", "username", "password", "credential_", "client_name")
        )
    }
    has_tls = given.get("ssl") or "SSL" in str(given.get("connection_class"))
    url = "rediss://localhost" if has_tls else "redis://localhost"
    return Cluster([(node.host, node.port) for node in client.get_nodes()], near(url, options))


def callable_of(name: str, given: str | Make) -> Make:
    if isinstance(given, str):
        if name == "client" and given in django_settings.CACHES:
            client = client_of_cache(given)
            return lambda: client
        try:
            given = import_string(given)
        except ImportError as error:
            aliases = ", ".join(repr(alias) for alias in django_settings.CACHES)
            raise ImproperlyConfigured(
                f"OPTIONS[{name!r}] is {given!r}, which cannot be imported"
                + (f" and is no alias in CACHES, which has {aliases}." if name == "client" else ".")
            ) from error
    if not callable(given):
        raise ImproperlyConfigured(
            f"OPTIONS[{name!r}] must be a callable without arguments, not {type(given).__name__}."
        )
    return given


def client_of_cache(alias: str) -> Client:
    cache: Any = caches[alias]
    if hasattr(cache, "client"):
        return cache.client.get_client(write=True)  # django-redis
    if hasattr(getattr(cache, "_cache", None), "get_client"):
        return cache._cache.get_client(None, write=True)  # django.core.cache.backends.redis
    raise ImproperlyConfigured(
        f"OPTIONS['client'] is {alias!r}, but CACHES[{alias!r}] is not on Redis: "
        f"it is a {type(cache).__name__}."
    )
