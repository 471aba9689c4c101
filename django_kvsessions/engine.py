"""``SESSION_ENGINE = "django_kvsessions.engine"``: Django's sessions on a Store."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, TypeVar

from django.contrib.auth import HASH_SESSION_KEY as USER_HASH
from django.contrib.auth import SESSION_KEY as USER_ID
from django.contrib.sessions.backends.base import CreateError, UpdateError

from django_kvsessions import codec, conf
from django_kvsessions.colours import Colour, run
from django_kvsessions.logins import Logins
from django_kvsessions.saved import LARGEST_RATIO, Answer, Moved, Place, Unreadable, open_record
from django_kvsessions.serializers import SessionData
from django_kvsessions.signals import awaiting, blocking, session_rejected, store_failed, tell
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable

__all__ = ["SessionStore"]

T = TypeVar("T")


class SessionStore(Logins):
    """A session on the store that SESSION_STORE_ALIAS names.

    Where the store cannot answer, every method raises ``StoreUnavailable`` and
    the session keeps its id: an outage is not a logout.
    """

    if TYPE_CHECKING:  # what the stubs of SessionBase leave out

        def _get_session(self, no_load: bool = False) -> SessionData: ...
        async def _aget_session(self, no_load: bool = False) -> SessionData: ...

    # Loading

    def load(self) -> SessionData:
        if (session_key := self.session_key) is None:
            return {}
        key = codec.storage_key(session_key)
        place = self._loaded_place = Place(key, session_key)
        store = self.store
        limit = LARGEST_RATIO * store.max_record_size
        try:
            record = store.load(key)
        except StoreUnavailable as error:
            run(tell(blocking, store_failed, store, operation="load", error=error))
            raise
        if conf.fallback_engines():
            return self._loaded(run(self._find_anywhere(blocking, place, record)))
        answer = open_record(self.serializer(), place, record, limit)
        if type(answer) is Unreadable:
            run(tell(blocking, session_rejected, store, reason=answer.reason))
        return self._loaded(answer)

    async def aload(self) -> SessionData:
        if self.session_key is None:
            return {}
        place = self._loaded_place = self._place
        return self._loaded(await self._find(awaiting, place))

    def _loaded(self, answer: Answer) -> SessionData:
        # Where it is asked for once more: what this object has changed, it has changed since the
        # first time. (Looking into __dict__ would make each later use of an attribute slower.)
        is_first = getattr(self, "_session_cache", None) is None
        if type(answer) is tuple:
            saved, data = answer
            if is_first:
                self._saved = saved
                self._sent = None if self._is_exchanged else saved
            return data
        if not is_first:
            return {}
        if isinstance(answer, Moved):
            self._is_notice = self.leaves_cookie = True
            return {}
        self._session_key = None
        self.leaves_cookie = isinstance(answer, Unreadable)
        return {}

    def is_empty(self) -> bool:
        # Or middleware would delete a cookie that may be good for other requests.
        return super().is_empty() and (self.modified or not self.leaves_cookie)

    def exists(self, session_key: str | None) -> bool:
        return run(self._exists(blocking, session_key))

    async def aexists(self, session_key: str | None) -> bool:
        return await self._exists(awaiting, session_key)

    async def _exists(self, call: Colour, session_key: str | None) -> bool:
        if not session_key:
            return False
        place = Place(codec.storage_key(session_key), session_key)
        return isinstance(await self._find(call, place), tuple)

    # Changing what was loaded

    def __setitem__(self, key: str, value: object) -> None:
        if key == USER_HASH:
            self._change_hash(self._session.get(key), value)
        super().__setitem__(key, value)
        if key == USER_ID:
            self._log_in()

    async def aset(self, key: str, value: object) -> None:
        if key == USER_HASH:
            self._change_hash((await self._aget_session()).get(key), value)
        await super().aset(key, value)
        if key == USER_ID:
            self._log_in()

    def clear(self) -> None:
        super().clear()
        self._is_cleared = True

    def mutate(self, function: Callable[[SessionData], T]) -> T:
        """Change the session in one atomic step: ``function`` gets the freshest data.

        It changes the dict in place, and runs again, on fresher data, when
        another request was faster; so it should do nothing else. What it
        returns is returned. Where it raises, nothing is changed. ``TypeError``
        for an async function.

        Changes of this request that are not saved yet stay so. A session that
        was ended raises ``UpdateError``; one that has no id yet is created.
        """
        self._get_session()
        result = run(self._mutate(blocking, function))
        if self._is_unsettled:
            run(self._settle(blocking))
        return result

    async def amutate(self, function: Callable[[SessionData], T]) -> T:
        """As ``mutate``; the function is a plain one here too."""
        await self._aget_session()
        result = await self._mutate(awaiting, function)
        if self._is_unsettled:
            await self._settle(awaiting)
        return result

    def start_from(self, key: str, value: object) -> None:
        """Say what a change of ``key`` begins with, where the session has nothing under it.

        Parallel requests that begin with the same default are merged by it,
        as if it had been stored.
        """
        self._starts = {**self._starts, key: value}

    # Storing

    def create(self) -> None:
        self._get_session(no_load=True)
        run(self._create(blocking))
        if self._is_unsettled:
            run(self._settle(blocking))

    async def acreate(self) -> None:
        await self._aget_session(no_load=True)
        await self._create(awaiting)
        if self._is_unsettled:
            await self._settle(awaiting)

    def save(self, must_create: bool = False) -> None:
        if self.session_key is None and not self._is_notice:
            return self.create()
        self._get_session(no_load=must_create)
        run(self._save(blocking, must_create))
        if self._is_unsettled:
            run(self._settle(blocking))
        return None

    async def asave(self, must_create: bool = False) -> None:
        if self.session_key is None and not self._is_notice:
            return await self.acreate()
        await self._aget_session(no_load=must_create)
        await self._save(awaiting, must_create)
        if self._is_unsettled:
            await self._settle(awaiting)
        return None

    def _save(self, call: Colour, must_create: bool) -> Coroutine[object, None, None]:
        if must_create:
            return self._save_new(call)
        if self._saved is None or self._is_notice:
            return self._save_unloaded(call)
        return self._move(call) if self._needs_new_id else self._update(call)

    async def _save_new(self, call: Colour) -> None:
        assert self.session_key is not None
        if not await self._insert(call, self.session_key):
            raise CreateError

    async def _save_unloaded(self, call: Colour) -> None:
        if self._is_notice:
            if self._session:
                # Nothing may be written into a session from before a login.
                raise UpdateError
            return
        if self.session_key is None:
            # It was there to be loaded only now, and is not.
            raise UpdateError
        if isinstance(await self._find(call, self._place), Unreadable):
            # What was there stays; this one owes it nothing.
            await self._create(call)
            return
        # Written without being loaded. Its life still counts from its creation.
        self._saved, _ = await self._catch_up(call)
        self._is_cleared = True
        await self._save(call, must_create=False)

    def touch(self) -> bool:
        """Move the expiry of the session as it is stored, where SESSION_TOUCH_INTERVAL says so.

        ``True`` if it was moved. A session that was ended stays ended.
        """
        self._get_session()
        return run(self._slide(blocking))

    async def atouch(self) -> bool:
        await self._aget_session()
        return await self._slide(awaiting)

    # Ending

    def delete(self, session_key: str | None = None) -> None:
        run(self._delete(blocking, session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        await self._delete(awaiting, session_key)

    async def _delete(self, call: Colour, session_key: str | None) -> None:
        if session_key is not None:
            key = codec.storage_key(session_key)
        elif self.session_key is not None and not self._is_notice:
            key, session_key = self._key, self.session_key
        else:
            return
        if conf.fallback_engines():
            await self._end_anywhere(call, session_key, key)
        else:
            await call(self.store.delete, self.store.adelete, key)

    def flush(self) -> None:
        run(self._flush(blocking))

    async def aflush(self) -> None:
        await self._flush(awaiting)

    async def _flush(self, call: Colour) -> None:
        self.clear()
        await self._end(call)
        self._session_key = None
        self._forget()
        self.leaves_cookie = self._is_notice

    def cycle_key(self) -> None:
        """Give the session a new id. What it holds is stored under it, and its life goes on.

        ``UpdateError`` where it is a user's, and was ended meanwhile. After
        ``StoreUnavailable`` it has the one id or the other, and is stored under it.
        """
        self._get_session()
        run(self._move(blocking))
        if self._is_unsettled:
            run(self._settle(blocking))

    async def acycle_key(self) -> None:
        await self._aget_session()
        await self._move(awaiting)
        if self._is_unsettled:
            await self._settle(awaiting)

    @classmethod
    def clear_expired(cls) -> None:
        for _ in stores[conf.store_alias()].delete_expired():
            pass

    @classmethod
    async def aclear_expired(cls) -> None:
        async for _ in stores[conf.store_alias()].adelete_expired():
            pass
