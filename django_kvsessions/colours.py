"""One piece of logic for both colours, sync and async.

What to ask of a store, and what to do with the answer, is written once, as a
coroutine that is given the colour it runs in::

    async def _load(self, call: Colour, key: bytes) -> Record | None:
        return await call(self.store.load, self.store.aload, key)

``run(self._load(blocking, key))`` calls the first of each pair, ``await
self._load(awaiting, key)`` awaits the second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import ParamSpec, Protocol, TypeVar

__all__ = ["Colour", "awaiting", "blocking", "run"]

P = ParamSpec("P")
T = TypeVar("T")


class Colour(Protocol):
    """Calls ``function``, or awaits ``afunction``, which promises the same."""

    def __call__(
        self,
        function: Callable[P, T],
        afunction: Callable[P, Awaitable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[object, None, T]: ...


async def blocking(
    function: Callable[P, T],
    afunction: Callable[P, Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    return function(*args, **kwargs)


async def awaiting(
    function: Callable[P, T],
    afunction: Callable[P, Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    return await afunction(*args, **kwargs)


def run(coroutine: Coroutine[object, None, T]) -> T:
    """What a coroutine returns that was given ``blocking``, and so is never suspended."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} was suspended: it awaits something without its colour.")
