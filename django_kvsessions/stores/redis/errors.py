"""The exceptions of the drivers: redis-py's, and valkey-py's where that is installed."""

from __future__ import annotations

from types import ModuleType
from typing import cast

from redis import exceptions

try:
    from valkey import exceptions as of_valkey
except ImportError:
    FAMILIES: list[ModuleType] = [exceptions]
else:
    FAMILIES = [exceptions, of_valkey]

__all__ = [
    "ANY",
    "CLUSTER_DOWN",
    "CONNECTION",
    "DENIED",
    "FAILURES",
    "MOVED",
    "NO_SCRIPT",
    "OUTAGES",
    "PASSWORD",
    "READ_ONLY",
    "REDIRECTED",
    "REPLY",
    "TIMEOUT",
    "Busy",
    "NotSent",
    "cause_of",
]

Errors = tuple[type[Exception], ...]


def named(*names: str) -> Errors:
    """The classes of these names, in each driver that has them."""
    found = (getattr(family, name, None) for family in FAMILIES for name in names)
    return cast(Errors, tuple(each for each in found if each is not None))


TIMEOUT = named("TimeoutError")
CONNECTION = named("ConnectionError")
NO_SCRIPT = named("NoScriptError")
READ_ONLY = named("ReadOnlyError")
REDIRECTED = named("AskError")
CLUSTER_DOWN = named("ClusterDownError")
MOVED = named("MovedError")
PASSWORD = named("AuthenticationError", "AuthorizationError")
DENIED = named("NoPermissionError")
#: What a server answers; the last two are errors of connections to the drivers.
REPLY = named("ResponseError", "BusyLoadingError", "AuthenticationError")
#: All that a driver may raise.
ANY: Errors = (
    *named("RedisError", "ValkeyError", "RedisClusterException", "ValkeyClusterException"),
    OSError,
)


class NotSent(Exception):
    """No connection came about, so nothing was carried out; ``error`` says why."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Busy(exceptions.RedisError):
    """Every connection that the store may open is in use."""

    def __init__(self) -> None:
        super().__init__("every connection is in use (OPTIONS['max_connections'])")


#: What may come of asking a server.
FAILURES: Errors = (NotSent, *ANY)
#: Those by which a server is out of reach.
OUTAGES: Errors = (NotSent, *CONNECTION, *TIMEOUT)


def cause_of(error: Exception) -> Exception:
    """The driver's own error."""
    return error.error if isinstance(error, NotSent) else error
