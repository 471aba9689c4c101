"""What LOCATION and OPTIONS of RedisStore name: servers, a cluster, or a client of the project."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from redis import exceptions

from django_kvsessions.stores.redis.node import Node

__all__ = ["exceptions", "nodes"]

REFUSED_OPTIONS = {
    "decode_responses": "sessions are bytes",
    "retry": "the store repeats by itself what it may repeat",
    "retry_on_error": "the store repeats by itself what it may repeat",
    "retry_on_timeout": "a timeout is the limit that a request waits",
    "connection_pool": "give the pool as OPTIONS['client']",
}


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
