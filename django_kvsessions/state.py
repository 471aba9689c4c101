"""What a session object knows of its record: loading, opening, and what is to be stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from django.contrib.auth import SESSION_KEY as USER_ID
from django.contrib.sessions.backends.base import UpdateError

from django_kvsessions import codec, conf
from django_kvsessions.colours import Colour
from django_kvsessions.lifetime import Lifetime, created
from django_kvsessions.saved import (
    LARGEST_RATIO,
    Answer,
    Found,
    Saved,
    Unreadable,
    make_record,
    new_revision,
    open_record,
)
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store, StoreUnavailable

__all__ = ["State"]

P = ParamSpec("P")
T = TypeVar("T")

#: How many notices are followed one after the other.
MOVES = 10
#: Bytes of a session from which on its handling would hold an event loop up.
LONG_WORK = 64 * 1024


class State(Lifetime):
    """A session and what is known of it as it is stored."""

    if TYPE_CHECKING:  # what the stubs of SessionBase leave out
        _session: dict[str, Any]

    def __init__(self, session_key: str | None = None) -> None:
        # SessionBase would import the serializer by its dotted path for each request.
        self._session_key = session_key
        self.accessed = False
        self.modified = False
        self.serializer = conf.serializer()
        self._forget()
        #: Whether this object wrote or touched the record, so that the cookie is due too.
        self.refreshed = False
        #: Whether this object gave the session a new id in the place of a former one.
        self.has_moved = False
        #: Whether the cookie is that of a session which is there, and not this object's to end.
        self.leaves_cookie = False
        # Whether another request has given the session a new id.
        self._is_notice = False

    def _forget(self) -> None:
        """Know nothing of any stored session."""
        self._saved: Saved | None = None
        # The storage key, where another request has moved the session there.
        self._moved_to: bytes | None = None
        # Whether what is saved next replaces everything, whoever wrote it.
        self._is_cleared = False
        # What parallel requests have begun with, where the session had nothing.
        self._starts: dict[str, Any] = {}
        self._has_login = False
        # Whether the id is too old for the login that was made under it.
        self._needs_new_id = False
        self._is_new_id = False

    @property
    def store(self) -> Store:
        return stores[conf.store_alias()]

    @property
    def _key(self) -> bytes:
        """The storage key."""
        assert self.session_key is not None
        return self._moved_to or codec.storage_key(self.session_key)

    # Loading

    async def _find(self, call: Colour, key: bytes) -> Answer:
        store = self.store
        return await self._open(call, key, await call(store.load, store.aload, key))

    async def _open(self, call: Colour, key: bytes, record: Record | None) -> Answer:
        size = 0 if record is None else len(record.data)
        return await self._work(call, size, self._opened, key, record)

    def _opened(self, key: bytes, record: Record | None) -> Answer:
        return open_record(self.serializer(), key, record, self._limit)

    @property
    def _limit(self) -> int:
        return LARGEST_RATIO * self.store.max_record_size

    async def _work(
        self,
        call: Colour,
        size: int,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Do it here, or in a thread where it would keep an event loop from its other work."""
        if size < LONG_WORK:
            return function(*args, **kwargs)
        return await call(function, in_thread(function), *args, **kwargs)

    async def _catch_up(self, call: Colour) -> Found:
        """The session as it is stored now, wherever it has moved to.

        ``UpdateError`` where it was ended, or has become the session of a user
        who had not logged in when this object loaded it.
        """
        key, found = await self._locate(call, self._key, self._saved)
        if key != self._key:
            if not conf.middleware_leaves_cookies():
                raise UpdateError
            # Its new id is not known here, so the cookie is for others to send.
            self._moved_to, self.leaves_cookie = key, True
        return found

    async def _locate(self, call: Colour, key: bytes, former: Saved | None) -> tuple[bytes, Found]:
        """Where the session is that was loaded from ``key``, and what is stored there."""
        start = key
        for _ in range(MOVES):
            answer = await self._find(call, key)
            if isinstance(answer, Found):
                if key != start and (former is None or answer.saved.user != former.user):
                    break
                return key, answer
            if isinstance(answer, Unreadable):
                raise StoreUnavailable(
                    f"The session that was loaded cannot be read any more: {answer.reason}."
                )
            if answer is None:
                break
            key = answer.successor
        raise UpdateError

    # What is to be stored

    def _next(
        self,
        payload: bytes,
        data: dict[str, Any],
        former: Saved | None,
        begun: float | None = None,
        has_login: bool = False,
    ) -> Saved:
        """What is to be stored now, under a new revision."""
        user_id = data.get(USER_ID)
        user = None if user_id is None else str(user_id)
        life = created(former, user, has_login) if begun is None else begun
        if user is None:
            owner = b""
        elif former is not None and user == former.user and not former.is_stale:
            owner = former.owner
        else:
            owner = codec.owner_digest(user)
        expires = self._expires(data.get("_session_expiry"), life)
        return Saved(payload, life, expires, new_revision(), owner, user)

    def _record(self, key: bytes, saved: Saved) -> Record:
        return make_record(key, saved, self._limit)

    def _keep(self, saved: Saved, has_login: bool = False) -> None:
        self._saved, self._has_login = saved, has_login
        self._is_cleared, self.refreshed = False, True

    async def _serialized(self, call: Colour, data: dict[str, Any]) -> bytes:
        size = 0 if self._saved is None else len(self._saved.payload)
        return await self._work(call, size, self._dumps, data)

    def _dumps(self, data: dict[str, Any]) -> bytes:
        dumps = self.serializer().dumps
        try:
            return cast(bytes, dumps(data))
        except Exception as error:
            for name, value in data.items():
                try:
                    dumps({name: value})
                except Exception as cause:
                    raise TypeError(f"session[{name!r}] cannot be serialized: {cause}") from cause
            raise TypeError(f"The session cannot be serialized: {error}") from error


def in_thread(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    async def threaded(*args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(function, *args, **kwargs)

    return threaded
