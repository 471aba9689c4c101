"""What the operating system refuses is an outage of the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from django_kvsessions.stores.base import StoreUnavailable

__all__ = ["reports_os_errors", "unavailable"]

P = ParamSpec("P")
T = TypeVar("T")


class InFolder(Protocol):
    path: str


S = TypeVar("S", bound=InFolder)


def unavailable(path: str, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"The session store in {path}: {error}")


def reports_os_errors(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that raises ``StoreUnavailable`` where it would an ``OSError``."""

    @wraps(method)
    def reporting(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            raise unavailable(self.path, error) from error

    return reporting
