"""What a session object knows of its record: loading, opening, and what is to be stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from django.contrib.auth import SESSION_KEY as USER_ID
from django.contrib.sessions.backends.base import UpdateError

from django_kvsessions import cards, codec, conf
from django_kvsessions.colours import Colour
from django_kvsessions.lifetime import Lifetime, created, renews_cookie
from django_kvsessions.saved import (
    EXPIRY,
    LARGEST_RATIO,
    Answer,
    Found,
    Moved,
    Place,
    Saved,
    Unreadable,
    make_record,
    new_revision,
    open_record,
)
from django_kvsessions.serializers import Serializer, SessionData
from django_kvsessions.signals import session_rejected, tell
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store, StoreUnavailable

__all__ = ["LONG_WORK", "MOVES", "State", "in_thread"]

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
    # Where the id was loaded from, which the save needs too.
    _loaded_place = Place(b"", None)
    # Where another request has moved the session.
    _moved_to: Place | None = None
    # Whether what is saved next replaces everything, whoever wrote it.
    _is_cleared = False
    # What parallel requests have begun with, where the session had nothing.
    _starts: Mapping[str, Any] = MappingProxyType({})
    _has_login = False
    # Whether what is stored next, or was stored last, is a login.
    _is_login = False
    # Whether what follows from that, or from another password, is still to be done.
    _is_unsettled = False
    # Whether there is anything new for the card.
    _has_news = False
    # META of the request, for the card of a user's session.
    _visitor: Mapping[str, Any] | None = None
    # Labels that are not stored yet; ``None`` for one that is to go.
    _labels: Mapping[str, str | None] = MappingProxyType({})
    # Whether the id is too old for the login that was made under it.
    _needs_new_id = False
    _is_new_id = False
    # Whether a former id leads to what opens this session.
    _hands_over = False
    # Whether the visitor's cookie was the session itself, and is to be replaced.
    _is_exchanged = False

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
        self._hands_over = False
        self._starts, self._labels = {}, {}

    @property
    def cookie_is_due(self) -> bool:
        """Whether the visitor needs the cookie: a new one, or one that lives on."""
        return self._saved is not None and renews_cookie(self._sent, self._saved)

    @property
    def public_id(self) -> str | None:
        """What lists call the session: it opens nothing, and addresses nothing.

        ``None`` where there is no id yet. As with ``session_key``, whether the id that
        a visitor offers is good for anything is known when the session was loaded.
        """
        if self._is_notice or self.session_key is None:
            return None
        return codec.public_id(self._key)

    @property
    def store(self) -> Store:
        return stores[conf.store_alias()]

    @property
    def _key(self) -> bytes:
        """The storage key."""
        return self._place.key

    @property
    def _place(self) -> Place:
        if self._moved_to is not None:
            return self._moved_to
        session_key, loaded = self.session_key, self._loaded_place
        assert session_key is not None
        if loaded.opener == session_key:
            return loaded
        return Place(codec.storage_key(session_key), session_key)

    # Loading

    async def _find(self, call: Colour, place: Place) -> Answer:
        store = self.store
        record = await call(store.load, store.aload, place.key)
        if conf.fallback_engines():
            return await self._find_anywhere(call, place, record)
        return await self._open(call, place, record)

    async def _find_anywhere(self, call: Colour, place: Place, record: Record | None) -> Answer:
        # Late, so that only who moves imports it.
        from django_kvsessions.moving.arrivals import read_through

        return await read_through(self, call, place, record)

    def _exchange_id(self, session_key: str, key: bytes) -> None:
        """Go on under an ordinary id, in the place of a cookie that was the session itself."""
        self._session_key, self._loaded_place = session_key, Place(key, session_key)
        self._is_exchanged = self.modified = True

    async def _open(self, call: Colour, place: Place, record: Record | None) -> Answer:
        store = self.store
        # Compressed, it may be several times as large.
        if record is None or len(record.data) < LONG_WORK / 4:
            answer = self._opened(store, place, record)
        else:
            answer = await call(self._opened, in_thread(self._opened), store, place, record)
        if type(answer) is Unreadable:
            await tell(call, session_rejected, store, reason=answer.reason)
        return answer

    def _opened(self, store: Store, place: Place, record: Record | None) -> Answer:
        return open_record(self.serializer(), place, record, LARGEST_RATIO * store.max_record_size)

    async def _catch_up(self, call: Colour) -> Found:
        """The session as it is stored now, wherever it has moved to.

        ``UpdateError`` where it was ended, or has become the session of a user
        who had not logged in when this object loaded it.
        """
        place, found = await self._locate(call, self._place, self._saved)
        if place.key != self._key:
            if not conf.middleware_leaves_cookies():
                raise UpdateError
            # Its new id is not known here, so the cookie is for others to send.
            self._moved_to, self.leaves_cookie = place, True
        return found

    async def _locate(
        self, call: Colour, place: Place, former: Saved | None
    ) -> tuple[Place, Found]:
        """Where the session is that was loaded from ``place``, and what is stored there."""
        start = place
        for _ in range(MOVES):
            answer = await self._find(call, place)
            if isinstance(answer, tuple):
                if place != start and (former is None or answer[0].user != former.user):
                    break
                return place, answer
            if isinstance(answer, Unreadable):
                raise StoreUnavailable(
                    f"The session that was loaded cannot be read any more: {answer.reason}."
                )
            if not isinstance(answer, Moved):
                break
            place = answer.successor
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
            owner, authenticated = b"", 0.0
        elif former is None or has_login or user != former.user:
            owner, authenticated = codec.owner_digest(user), life
            self._is_login = self._is_unsettled = True
        else:
            owner = codec.owner_digest(user) if former.is_stale else former.owner
            authenticated = former.authenticated
        card = b"" if former is None else former.card
        if self._has_news:
            card = cards.renewed(card, None if user is None else self._visitor, self._labels)
        expiry = data.get(EXPIRY)
        expires = self._expires(expiry, life)
        return Saved(
            payload, life, expires, new_revision(), owner, user, expiry, authenticated, card
        )

    def _record(self, store: Store, place: Place, saved: Saved) -> Record:
        return make_record(place, saved, LARGEST_RATIO * store.max_record_size)

    def _keep(self, store: Store, saved: Saved, has_login: bool = False) -> None:
        if (provisional := store.provisional()) is not None:
            saved = saved._replace(provisional=provisional, before=self._saved)
        self._saved, self._has_login, self._is_cleared = saved, has_login, False
        if self._has_news:
            self._labels, self._has_news = {}, self._visitor is not None

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
