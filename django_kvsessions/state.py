"""What a session object knows of its record: loading, opening, and what is to be stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from django.contrib.auth import SESSION_KEY as USER_ID
from django.contrib.sessions.backends.base import UpdateError

from django_kvsessions import codec, conf
from django_kvsessions.colours import Colour
from django_kvsessions.lifetime import Lifetime, created, renews_cookie
from django_kvsessions.saved import (
    EXPIRY,
    LARGEST_RATIO,
    Answer,
    Found,
    Saved,
    Unreadable,
    make_record,
    new_revision,
    open_record,
)
from django_kvsessions.serializers import Serializer, SessionData
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store, StoreUnavailable

__all__ = ["LONG_WORK", "State", "in_thread"]

P = ParamSpec("P")
T = TypeVar("T")

#: How many notices are followed one after the other.
MOVES = 10
#: Bytes of a session from which on its handling would hold an event loop up.
LONG_WORK = 64 * 1024


class State(Lifetime):
    """A session and what is known of it as it is stored."""

    if TYPE_CHECKING:  # what the stubs of SessionBase leave out
        _session: SessionData
        serializer: type[Serializer]

    # Of the class, as most requests only read: an object gets what it changes.

    #: Whether this object gave the session a new id in the place of a former one.
    has_moved = False
    #: Whether the cookie is that of a session which is there, and not this object's to end.
    leaves_cookie = False
    # Whether another request has given the session a new id.
    _is_notice = False
    _saved: Saved | None = None
    # What the cookie was sent for that the visitor has.
    _sent: Saved | None = None
    # The id that was loaded, and its storage key, which the save needs too.
    _place: tuple[str, bytes] = "", b""
    # The storage key, where another request has moved the session there.
    _moved_to: bytes | None = None
    # Whether what is saved next replaces everything, whoever wrote it.
    _is_cleared = False
    # What parallel requests have begun with, where the session had nothing.
    _starts: Mapping[str, Any] = MappingProxyType({})
    _has_login = False
    # Whether the id is too old for the login that was made under it.
    _needs_new_id = False
    _is_new_id = False

    def __init__(self, session_key: str | None = None) -> None:
        # SessionBase would import the serializer by its dotted path for each request.
        self._session_key = session_key
        self.accessed = False
        self.modified = False
        self.serializer = conf.serializer()

    def _forget(self) -> None:
        """Know nothing of any stored session."""
        self._saved = self._sent = self._moved_to = None
        self._is_cleared = self._has_login = self._needs_new_id = self._is_new_id = False
        self._starts = {}

    @property
    def cookie_is_due(self) -> bool:
        """Whether the visitor needs the cookie: a new one, or one that lives on."""
        return self._saved is not None and renews_cookie(self._sent, self._saved)

    @property
    def store(self) -> Store:
        return stores[conf.store_alias()]

    @property
    def _key(self) -> bytes:
        """The storage key."""
        if self._moved_to is not None:
            return self._moved_to
        session_key, place = self.session_key, self._place
        assert session_key is not None
        return place[1] if place[0] == session_key else codec.storage_key(session_key)

    # Loading

    async def _find(self, call: Colour, key: bytes) -> Answer:
        store = self.store
        record = await call(store.load, store.aload, key)
        # Compressed, it may be several times as large.
        if record is None or len(record.data) < LONG_WORK / 4:
            return self._opened(store, key, record)
        return await call(self._opened, in_thread(self._opened), store, key, record)

    def _opened(self, store: Store, key: bytes, record: Record | None) -> Answer:
        return open_record(self.serializer(), key, record, LARGEST_RATIO * store.max_record_size)

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
            if isinstance(answer, tuple):
                if key != start and (former is None or answer[0].user != former.user):
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
        data: SessionData,
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
        expiry = data.get(EXPIRY)
        expires = self._expires(expiry, life)
        return Saved(payload, life, expires, new_revision(), owner, user, expiry)

    def _record(self, store: Store, key: bytes, saved: Saved) -> Record:
        return make_record(key, saved, LARGEST_RATIO * store.max_record_size)

    def _keep(self, store: Store, saved: Saved, has_login: bool = False) -> None:
        if (provisional := store.provisional()) is not None:
            saved = saved._replace(provisional=provisional, before=self._saved)
        self._saved, self._has_login, self._is_cleared = saved, has_login, False

    def _base(self, revision: int) -> Saved:
        """What this object last loaded or stored of what is at that revision now.

        What it stored in a transaction that was rolled back is not saved yet.
        """
        saved = self._saved
        assert saved is not None
        while saved.before is not None and saved.revision != revision and not saved.is_final:
            saved = saved.before
        return saved

    def _dumps(self, data: SessionData) -> bytes:
        dumps = self.serializer().dumps
        try:
            return dumps(data)
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
