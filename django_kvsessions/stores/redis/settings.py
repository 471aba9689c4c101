"""What LOCATION and OPTIONS of RedisStore may be, and the URLs in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn, TypeAlias
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores import options

__all__ = [
    "OWN",
    "Client",
    "Make",
    "Options",
    "SentinelURL",
    "address",
    "check_options",
    "host_and_port",
    "name_prefix",
    "sentinel_url",
    "unknown_option",
    "urls",
    "with_place",
]

#: The store's own options; all others go to the driver's connections.
OWN = (
    "prefix",
    "version",
    "cluster",
    "client",
    "async_client",
    "sentinel_kwargs",
    "max_record_size",
)
REFUSED = {
    "decode_responses": "sessions are bytes",
    "retry": "the store repeats by itself what it may repeat",
    "retry_on_error": "the store repeats by itself what it may repeat",
    "retry_on_timeout": "a timeout is the limit that a request waits",
    "connection_pool": "give the pool as OPTIONS['client']",
}
SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}
SENTINEL = re.compile(
    r"(?P<scheme>redis|rediss|valkey|valkeys)\+sentinel://(?P<user>[^/?#@]*@)?"
    r"(?P<places>[^/?#@]+)/(?P<service>[^/?#@]+)(?:/(?P<database>\d+))?/?(?:\?(?P<query>[^@#]*))?"
)
DEFAULT_PORT, SENTINEL_PORT = 6379, 26379

Place = tuple[str, int]
#: What redis-py's connections take, by name.
Options = Mapping[str, Any]
#: A client or a pool that the project gives: redis-py's or valkey-py's.
Client: TypeAlias = Any
Make: TypeAlias = Callable[[], Client]


class SentinelURL(NamedTuple):
    """``url`` has the credentials and the database of the primary, and TLS or not."""

    places: list[Place]
    service: str
    url: str


def name_prefix(prefix: object, version: object) -> bytes:
    """What the name of each key begins with."""
    if isinstance(version, bool) or not isinstance(version, (int, str)) or version == "":
        options.refuse("version", "a whole number or a text", version)
    return f"{options.text('prefix', prefix)}:{version}:".encode()


def check_options(given: Options) -> None:
    """Refuse, among what goes to the driver, what the store cannot work with."""
    for name, reason in REFUSED.items():
        if given.get(name):
            raise ImproperlyConfigured(f"OPTIONS has {name!r}: leave it out, {reason}.")
    for name in ("socket_timeout", "socket_connect_timeout"):
        # The driver takes None for no limit.
        if given.get(name) is not None:
            options.seconds(name, given[name])
    if given.get("max_connections") is not None:
        options.whole_number("max_connections", given["max_connections"], at_least=1)
    for name in ("username", "password", "client_name"):
        if given.get(name) is not None and not isinstance(given[name], str):
            # Not the value: it may be a secret.
            raise ImproperlyConfigured(f"OPTIONS[{name!r}] must be a text.")


def unknown_option(error: Exception) -> ImproperlyConfigured:
    """The error for what the driver's connections do not take."""
    reason = re.sub(r"^.*__init__\(\) ", "", str(error))
    return ImproperlyConfigured(
        f"OPTIONS, or the query of LOCATION, has what redis-py does not take: {reason}. "
        f"RedisStore's own options are {', '.join(OWN)}; all others are those of redis-py's "
        "connections, such as socket_timeout, password and ssl_ca_certs."
    )


def urls(location: Any) -> list[str]:
    """The URLs in LOCATION, as redis-py knows them."""
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
                parts.scheme in SCHEMES
                and re.fullmatch(path, parts.path) is not None
                and parts.port != 0
                and not parts.fragment
                and "@" not in parts.query
            )
        except ValueError:
            well = False
        if not well:
            # from None: redis-py's and urllib's own errors repeat parts of the password.
            refuse(url)
    return [re.sub(r"^\w+", lambda scheme: SCHEMES[scheme[0].lower()], url) for url in found]


def sentinel_url(location: object) -> SentinelURL | None:
    """LOCATION where it names Sentinels; ``None`` where it does not."""
    if not isinstance(location, str) or "+sentinel" not in location.partition("://")[0]:
        if isinstance(location, (list, tuple)) and any(
            "+sentinel" in str(each) for each in location
        ):
            raise ImproperlyConfigured(
                "LOCATION is a list with a Sentinel in it: write one URL with every Sentinel, "
                "redis+sentinel://host:port,host:port/name/0."
            )
        return None
    found = SENTINEL.fullmatch(location)
    if found is None:
        refuse(location)
    places = []
    for place in found["places"].split(","):
        try:
            places.append(host_and_port(f"redis://{place}", SENTINEL_PORT))
        except ValueError:
            refuse(location)
    url = f"{SCHEMES[found['scheme']]}://{found['user'] or ''}localhost/{found['database'] or 0}"
    return SentinelURL(places, found["service"], f"{url}?{found['query'] or ''}")


def refuse(url: str) -> NoReturn:
    raise ImproperlyConfigured(
        f"LOCATION has {hidden(url)!r}, which is no Redis URL: write "
        "redis://user:password@host:6379/0, rediss:// for TLS, valkey:// or valkeys:// likewise, "
        "unix:///path?db=0, or redis+sentinel://user:password@host:26379,host:26379/name/0, "
        "and percent-encode what is special in the password."
    ) from None


def with_place(url: str, host: str, port: int) -> str:
    """The URL of another server, with the same credentials."""
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return urlsplit(url)._replace(netloc=f"{user}{at}{place}").geturl()


def host_and_port(url: str, default: int = DEFAULT_PORT) -> Place:
    """ValueError where it has no port that can be."""
    parts = urlsplit(url)
    return parts.hostname or "localhost", parts.port or default


def hidden(url: str) -> str:
    """The URL without what may be secret: all before the last @, and the query."""
    return re.sub(r"//.*@", "//***@", url, flags=re.DOTALL).partition("?")[0]


def address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    host, port = host_and_port(url)
    return f"{host}:{port}"
