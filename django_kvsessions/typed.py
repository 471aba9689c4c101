"""Strongly typed buckets, each a value of one type under one key of the session; typed requests."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.functional import Promise

from django_kvsessions.serializers import MessagePackSerializer, SessionData

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase

    from django_kvsessions.engine import SessionStore

__all__ = ["Bucket", "BucketError", "SessionRequest"]

T = TypeVar("T")
D = TypeVar("D")

_MISSING: Any = object()
_KEPT = (bytes, bytearray, datetime, date, time, timedelta, Decimal, UUID)
_IMMUTABLE = (type(None), int, float, str, tuple, frozenset, *_KEPT[:1], *_KEPT[2:])


class SessionRequest(HttpRequest):
    """A request whose ``session`` is this package's, for type checkers: annotate views with it."""

    session: SessionStore


class BucketError(ValueError):
    """A value does not fit the type of its bucket; says under which key, where and why."""


class Bucket(Generic[T]):
    """A dataclass, TypedDict, msgspec Struct or plain type bound to a session key.

    What is read is a fresh instance, checked against its annotations: changing
    it changes nothing in the session until it is set. What is written is
    checked too, and stored as plain dicts, lists and values.

    ``default``, where there is nothing under the key: a callable that makes one,
    or a value, copied each time. ``on_invalid="default"`` gives the default also
    where the stored value does not fit, instead of raising ``BucketError``.

    Each method has an async variant of the same name with an "a" before it.
    """

    @overload
    def __init__(
        self,
        type_: type[T],
        /,
        *,
        key: str,
        default: T | Callable[[], T] = ...,
        on_invalid: Literal["error", "default"] = ...,
    ) -> None: ...

    # What is no class, as ``int | None``: annotate the bucket.
    @overload
    def __init__(
        self,
        type_: object,
        /,
        *,
        key: str,
        default: T | Callable[[], T] = ...,
        on_invalid: Literal["error", "default"] = ...,
    ) -> None: ...

    def __init__(
        self,
        type_: object,
        /,
        *,
        key: str,
        default: T | Callable[[], T] = _MISSING,
        on_invalid: Literal["error", "default"] = "error",
    ) -> None:
        try:
            import msgspec
        except ImportError as error:
            raise ImproperlyConfigured(
                "Typed buckets need msgspec: pip install django-kvsessions[typed]"
            ) from error
        if on_invalid not in ("error", "default"):
            raise ValueError(f"on_invalid is 'error' or 'default', not {on_invalid!r}.")
        if on_invalid == "default" and default is _MISSING:
            raise ValueError("on_invalid='default' needs a default.")
        self.key = key
        self._msgspec = msgspec
        self._type = type_
        self._default = default
        self._on_invalid = on_invalid

    def __repr__(self) -> str:
        return f"Bucket({self._type_name()}, key={self.key!r})"

    @overload
    def get(self, session: SessionBase) -> T: ...

    @overload
    def get(self, session: SessionBase, default: D) -> T | D: ...

    def get(self, session: SessionBase, default: object = _MISSING) -> object:
        """The value in the session, or the default, which stays out of the session.

        ``BucketError`` where the value does not fit, or there is neither.
        """
        return self._value(session, session.get(self.key, _MISSING), default)

    @overload
    async def aget(self, session: SessionBase) -> T: ...

    @overload
    async def aget(self, session: SessionBase, default: D) -> T | D: ...

    async def aget(self, session: SessionBase, default: object = _MISSING) -> object:
        return self._value(session, await session.aget(self.key, _MISSING), default)

    def set(self, session: SessionBase, value: T) -> None:
        """Put the value into the session; ``BucketError``, and no change, if it does not fit."""
        session[self.key] = self._dump(session, value)

    async def aset(self, session: SessionBase, value: T) -> None:
        await session.aset(self.key, self._dump(session, value))

    def delete(self, session: SessionBase) -> None:
        """Take the value out of the session, if it is there."""
        session.pop(self.key, None)

    async def adelete(self, session: SessionBase) -> None:
        await session.apop(self.key, None)

    @contextmanager
    def change(self, session: SessionBase) -> Iterator[T]:
        """The value, or the default, to be changed in place; set at the end.

        After an exception the session is as it was. Two requests that change
        different fields both stick; for what no merge can know, as two that
        raise one counter, there is ``mutate``.
        """
        value = self._check_mutable(self.get(session))
        self._begin(session, value)
        yield value
        self.set(session, value)

    @asynccontextmanager
    async def achange(self, session: SessionBase) -> AsyncIterator[T]:
        value = self._check_mutable(await self.aget(session))
        self._begin(session, value)
        yield value
        await self.aset(session, value)

    def _begin(self, session: SessionBase, value: T) -> None:
        if hasattr(session, "start_from"):  # It is this package's engine.
            session.start_from(self.key, self._dump(session, value))

    def mutate(self, session: SessionBase, function: Callable[[T], T | None]) -> T:
        """Change the freshest value in one atomic step, and return it.

        The function changes the value in place or returns another. It is called
        again whenever another request was faster, so it must do nothing else;
        what it raises leaves the session as it was. Needs this package's engine.
        """
        return cast("SessionStore", session).mutate(self._mutation(session, function))

    async def amutate(self, session: SessionBase, function: Callable[[T], T | None]) -> T:
        return await cast("SessionStore", session).amutate(self._mutation(session, function))

    def _mutation(
        self, session: SessionBase, function: Callable[[T], T | None]
    ) -> Callable[[SessionData], T]:
        def mutation(data: SessionData) -> T:
            value: T = self._value(session, data.get(self.key, _MISSING), _MISSING)
            changed = function(value)
            if changed is not None:
                value = changed
            data[self.key] = self._dump(session, value)
            return value

        return mutation

    def _value(self, session: SessionBase, stored: object, default: object) -> Any:
        if stored is not _MISSING:
            try:
                return self._load(session, stored)
            except BucketError:
                if self._on_invalid == "error":
                    raise
        if default is not _MISSING:
            return default
        if self._default is _MISSING:
            raise BucketError(f"session[{self.key!r}] is not set, and its bucket has no default.")
        return self._default() if callable(self._default) else copy.deepcopy(self._default)

    def _load(self, session: SessionBase, stored: object) -> Any:
        try:
            # What is annotated as Any is not copied by msgspec.
            return self._convert(session, copy.deepcopy(stored))
        except (self._msgspec.ValidationError, RecursionError) as error:
            raise self._error(error) from error

    def _dump(self, session: SessionBase, value: T) -> object:
        try:
            if _keeps_types(session):
                built = self._msgspec.to_builtins(value, builtin_types=_KEPT, enc_hook=_plain)
                built = self._keep_sets(value, built)
            else:
                built = self._msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)
            self._convert(session, built)
        except (self._msgspec.ValidationError, TypeError, ValueError, RecursionError) as error:
            raise self._error(error) from error
        return built

    def _convert(self, session: SessionBase, value: object) -> Any:
        return self._msgspec.convert(value, self._type, str_keys=not _keeps_types(session))

    def _keep_sets(self, value: Any, built: Any) -> object:
        """Put sets where msgspec made lists of them.

        A list in the order of a set is another list in another process, which
        would count as a change of it when two requests are merged.
        """
        if isinstance(value, (set, frozenset)):
            kind = frozenset if isinstance(value, frozenset) else set
            try:
                return kind(map(self._keep_sets, value, built))
            except TypeError:
                # Of dataclasses, which are dicts by now.
                return built
        if isinstance(built, (dict, list)):
            for index, member in self._members(value, built):
                built[index] = self._keep_sets(member, built[index])
        elif isinstance(built, tuple):
            return tuple(map(self._keep_sets, value, built))
        return built

    def _members(self, value: object, built: Any) -> Iterable[tuple[Any, object]]:
        if isinstance(value, dict):
            return zip(list(built), value.values(), strict=True)
        if isinstance(value, list):
            return enumerate(value)
        if isinstance(built, list):
            return ()  # a Struct with array_like=True
        names = {name: name for name in built}
        if isinstance(value, self._msgspec.Struct):
            names = {field.encode_name: field.name for field in self._msgspec.structs.fields(value)}
        # A tagged Struct has one name more.
        return [(name, getattr(value, names[name])) for name in built if name in names]

    def _check_mutable(self, value: T) -> T:
        if isinstance(value, _IMMUTABLE):
            raise TypeError(
                f"{self!r} holds {type(value).__name__}, which cannot be changed in place: "
                "use set() or mutate()."
            )
        return value

    def _error(self, error: Exception) -> BucketError:
        return BucketError(f"session[{self.key!r}] does not fit {self._type_name()}: {error}")

    def _type_name(self) -> str:
        return self._type.__qualname__ if isinstance(self._type, type) else str(self._type)


def _keeps_types(session: SessionBase) -> bool:
    """Whether the session's serializer keeps datetimes, sets and the like."""
    serializer = session.serializer
    return isinstance(serializer, type) and issubclass(serializer, MessagePackSerializer)


def _plain(value: object) -> object:
    """The plain value of what msgspec does not take: subclasses and lazy strings."""
    # Called on the class, since an enum has its own __str__.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Promise):
        return str(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} cannot be stored")
