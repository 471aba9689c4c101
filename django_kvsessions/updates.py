"""How a stored session changes: load, change, store if nobody was faster, else merge and repeat.

Each coroutine here is run in both colours (see ``colours``). What a session
object knows of the store is ``_saved``; every write is conditional on its
revision.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.contrib.sessions.backends.base import UpdateError

from django_kvsessions import cleaning, codec, counts, reports
from django_kvsessions.colours import Colour
from django_kvsessions.lifetime import touch_interval
from django_kvsessions.merging import merge_sessions, take_over
from django_kvsessions.saved import EXPIRY, Found, Place, Saved
from django_kvsessions.serializers import SessionData
from django_kvsessions.signals import session_conflict, session_started, tell
from django_kvsessions.state import LONG_WORK, State, in_thread
from django_kvsessions.stores.base import Record, Store, StoreError, StoreUnavailable, now
from django_kvsessions.stores.process import pauses

__all__ = ["ATTEMPTS", "Updates"]

P = ParamSpec("P")
T = TypeVar("T")

# Two collisions of 160 random bits in a row do not happen: a store that says so is broken.
CREATE_ATTEMPTS = 100
# Of any number of requests that change one session at once, one succeeds in each round.
ATTEMPTS = 1000
#: Seconds between two attempts on a small session, and how much more it is for each byte.
LONGEST_PAUSE = 0.05
PER_BYTE = 1e-4


class Updates(State):
    """Creating, saving, changing and touching."""

    # Storing

    def _get_new_session_key(self) -> str:
        # Whether it is free is for the store's put-if-absent to say.
        return codec.new_session_key()

    async def _aget_new_session_key(self) -> str:
        return codec.new_session_key()

    async def _create(self, call: Colour, begun: float | None = None) -> None:
        """Store the session under a new id; ``begun``, where its life goes on."""
        for _ in range(CREATE_ATTEMPTS):
            session_key = self._get_new_session_key()
            if await self._insert(call, session_key, begun):
                self._session_key = session_key
                self._moved_to = None
                self._is_new_id = self.modified = True
                self._is_notice = self.leaves_cookie = self._needs_new_id = False
                return
        raise StoreError("The store says of every new session id that it is taken.")

    async def _insert(self, call: Colour, session_key: str, begun: float | None = None) -> bool:
        store, key = self.store, codec.storage_key(session_key)
        place = Place(key, session_key)
        payload, has_login = self._dumps(self._session), self._has_login
        is_new, begun = begun is None, now() if begun is None else begun
        saved = self._next(payload, self._session, self._saved, begun, has_login)
        if not await call(store.create, store.acreate, key, self._record(store, place, saved)):
            return False
        cleaning.created(store)
        # Of a new id, no cookie was sent.
        self._saved = self._sent = None
        self._keep(store, saved)
        if is_new and saved.user is None and session_started.receivers:
            await tell(call, session_started, store, user_id=None, user_agent=None, ip=None)
        return True

    async def _update(self, call: Colour) -> None:
        """Store what has changed, and touch what has not; merge where others were faster."""
        store = self.store
        for attempt in range(ATTEMPTS):
            place, former = self._place, self._saved
            assert former is not None
            data, has_login = self._session_cache, self._has_login
            if len(former.payload) < LONG_WORK:
                saved, record = self._prepared(store, place, former, data, has_login)
            else:
                saved, record = await work(
                    call, former, self._prepared, store, place, former, data, has_login
                )
            if record is not None:
                if await call(
                    store.replace, store.areplace, place.key, record, expected=former.revision
                ):
                    self._keep(store, saved)
                    return
                found = await self._catch_up(call)
                await tell(call, session_conflict, store)
            else:
                is_there = await self._touch_if_due(call)
                is_settled = former.is_final and not self.modified
                if is_settled or (is_there and not self._is_cleared):
                    # That an unchanged session has ended is nothing to tell anybody about.
                    return
                # Nothing to write, and yet who saves wants to know of a logout.
                found = await self._catch_up(call)
                if found[0].revision == former.revision:
                    return
            await self._rebase(call, saved.payload, found)
            await pause(call, attempt, saved)
        raise StoreUnavailable(f"Other requests were faster than this one {ATTEMPTS} times.")

    def _prepared(
        self,
        store: Store,
        place: Place,
        former: Saved,
        data: SessionData,
        has_login: bool = False,
    ) -> tuple[Saved, Record | None]:
        """What to store now; no record where nothing has changed."""
        payload = self._dumps(data)
        # Judged by the bytes, since a nested change leaves the modified flag alone.
        is_same = payload == former.payload and not former.is_stale
        if is_same and not has_login and not self._labels:
            return former, None
        saved = self._next(payload, data, former, None, has_login)
        return saved, self._record(store, place, saved)

    async def _rebase(self, call: Colour, payload: bytes, found: Found) -> None:
        """Put this session's own changes on top of what another request has saved."""
        saved, theirs = found
        former = self._base(saved.revision)
        self._saved = saved._replace(provisional=former.provisional, before=former.before)
        if not self._is_cleared:
            await work(call, saved, self._merge, former.payload, payload, theirs)

    def _merge(self, base: bytes, mine: bytes, theirs: SessionData) -> None:
        merged = theirs
        if base != mine:
            loads = self.serializer().loads
            merged = merge_sessions(
                loads(base), self._session, theirs, self._starts, self._as_stored
            )
        take_over(self._session, merged)

    def _as_stored(self, data: SessionData) -> SessionData:
        return self.serializer().loads(self._dumps(data))

    async def _mutate(self, call: Colour, function: Callable[[SessionData], T]) -> T:
        if self._is_notice:
            raise UpdateError
        if self.session_key is None:
            data = self._as_stored(self._session)
            result = plain(function(data))
            take_over(self._session, data)
            await self._create(call)
            return result
        store = self.store
        for attempt in range(ATTEMPTS):
            before, data = await self._catch_up(call)
            if self._saved is not None:
                former = self._saved = self._base(before.revision)
                before = before._replace(provisional=former.provisional, before=former.before)
            result = plain(function(data))
            place = self._place
            saved, record = await work(call, before, self._prepared, store, place, before, data)
            if record is not None and not await call(
                store.replace, store.areplace, place.key, record, expected=before.revision
            ):
                await tell(call, session_conflict, store)
                await pause(call, attempt, saved)
                continue
            await work(call, saved, self._adopt, before.payload, data)
            is_cleared = self._is_cleared or self._saved is None
            if record is None:
                self._saved = saved
            else:
                self._keep(store, saved, self._has_login)
            self._is_cleared = is_cleared
            return result
        raise StoreUnavailable(f"Other requests were faster than this one {ATTEMPTS} times.")

    def _adopt(self, before: bytes, after: SessionData) -> None:
        """Show what a mutation made of ``before``, with what is not saved yet left as it is."""
        loads, former = self.serializer().loads, self._saved
        is_cleared = self._is_cleared or former is None
        if former is not None and not is_cleared and self._dumps(self._session) == former.payload:
            take_over(self._session, after)
            return
        unsaved = dict(self._session)
        if former is not None and not is_cleared:
            base = loads(former.payload)
            unsaved = merge_sessions(base, unsaved, loads(before), self._starts, self._as_stored)
        # The mutation came last, so it counts where both changed the same.
        merged = merge_sessions(loads(before), after, unsaved, {}, self._as_stored)
        take_over(self._session, merged)

    # Touching

    async def _touch_if_due(self, call: Colour) -> bool:
        """Whether the record is known to be there, with nothing left to be done."""
        expires = self._due_expiry()
        if expires is None:
            return False
        try:
            return await self._touch(call, expires)
        except StoreUnavailable as error:
            reports.unextended(error)
            return not self.modified

    def _due_expiry(self) -> float | None:
        """When the record is to expire from now on; ``None`` if it need not be told yet."""
        assert self._saved is not None
        expires = self._expires(self._session.get(EXPIRY), self._saved.created)
        is_due = abs(expires - self._saved.expires) >= touch_interval(expires)
        return expires if is_due else None

    async def _touch(self, call: Colour, expires: float) -> bool:
        """Move the expiry of what this object loaded; ``False`` if it is not there any more."""
        store, saved = self.store, self._saved
        assert saved is not None
        touched = await call(store.touch, store.atouch, self._key, expires, expected=saved.revision)
        if touched:
            self._saved = saved._replace(expires=expires)
        return touched

    async def _slide(self, call: Colour) -> bool:
        if self.session_key is None or self._saved is None:
            return False
        expires = self._due_expiry()
        return expires is not None and await self._touch(call, expires)


async def work(
    call: Colour,
    saved: Saved,
    function: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Do it here, or, of a large session, in a thread where it would hold an event loop up."""
    if len(saved.payload) < LONG_WORK:
        return function(*args, **kwargs)
    return await call(function, in_thread(function), *args, **kwargs)


async def pause(call: Colour, attempt: int, saved: Saved) -> None:
    """Wait after an attempt that lost a race, the longer the more each of them costs."""
    counts.add("retries")
    longest = min(LONGEST_PAUSE, 0.001 * 2 ** min(attempt, 10)) * (
        1 + len(saved.payload) * PER_BYTE
    )
    await pauses.pause(call, random.uniform(0, longest))


def plain(result: T) -> T:
    """``TypeError`` for what an async function returns, which would never be run."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError("mutate() and amutate() take a plain function, not an async one.")
    return result
