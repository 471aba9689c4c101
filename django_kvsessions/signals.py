"""What happens to sessions, for who wants to know: Django signals.

The sender is the class of the store. No argument has an id of a session, and no
receiver can break a request: what it raises is logged, by ``django.dispatch``.
``user_id`` is a text, as Django keeps it in the session, or ``None`` for nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from django.dispatch import Signal

from django_kvsessions import colours
from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import Store, StoreUnavailable

__all__ = [
    "awaiting",
    "blocking",
    "session_conflict",
    "session_ended",
    "session_rejected",
    "session_started",
    "store_failed",
    "tell",
]

P = ParamSpec("P")
T = TypeVar("T")

#: A session was stored for the first time: an anonymous one, or that of a login.
#: ``user_id``, ``user_agent`` and ``ip`` (both as the settings have them recorded, or ``None``).
session_started = Signal()
#: ``user_id``, whose it was; ``reason``: "logout"; "login", after which it goes on as another;
#: "elsewhere", by another request or a change of the password; "limit"; "command".
session_ended = Signal()
#: A record is there that does not verify or decode. ``reason``, in words.
session_rejected = Signal()
#: Another request had changed the session since it was loaded: the changes are merged.
session_conflict = Signal()
#: The store could not answer. ``operation``, a method of the store; ``error``.
store_failed = Signal()


async def tell(call: Colour, signal: Signal, store: Store, **named: Any) -> None:
    """Send it, where anybody listens."""
    if signal.receivers:
        await call(signal.send_robust, signal.asend_robust, type(store), **named)


# The colours of the engine, in which it hears of each failure.


async def blocking(
    function: Callable[P, T],
    afunction: Callable[P, Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    try:
        return function(*args, **kwargs)
    except StoreUnavailable as error:
        await _fail(colours.blocking, function, error)
        raise


async def awaiting(
    function: Callable[P, T],
    afunction: Callable[P, Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    try:
        return await afunction(*args, **kwargs)
    except StoreUnavailable as error:
        await _fail(colours.awaiting, function, error)
        raise


async def _fail(call: Colour, function: Callable[..., Any], error: StoreUnavailable) -> None:
    store = getattr(function, "__self__", None)
    if isinstance(store, Store):
        await tell(call, store_failed, store, operation=function.__name__, error=error)
