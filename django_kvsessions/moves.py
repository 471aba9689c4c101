"""A session gets a new id, or ends, while other requests of its visitor go on."""

from __future__ import annotations

from contextlib import suppress

from django.contrib.sessions.backends.base import UpdateError

from django_kvsessions import conf
from django_kvsessions.colours import Colour
from django_kvsessions.saved import (
    Found,
    Moved,
    Saved,
    Unreadable,
    make_end,
    make_notice,
    new_revision,
)
from django_kvsessions.stores.base import Record
from django_kvsessions.updates import ATTEMPTS, Updates

__all__ = ["Moves"]


class Moves(Updates):
    """New ids, and ends."""

    async def _move(self, call: Colour) -> None:
        """Store the session under a new id, then put a notice in the place of the former.

        The new record comes first, so that no failure on the way loses the session.
        """
        if self.session_key is None or self._is_notice:
            await self._create(call)
            return
        if self._saved is None:
            # Cleared without being loaded: there may be nothing to be retired.
            answer = await self._find(call, self._key)
            if not isinstance(answer, tuple):
                await self._create(call)
                return
            self._saved, self._is_cleared = answer[0], True
        before = self.session_key, self._moved_to, self._saved
        store, key, former, is_cleared = self.store, self._key, self._saved, self._is_cleared
        if conf.fallback_engines():
            await self._delete_elsewhere(call, self.session_key)
        await self._create(call, self._created())
        self.has_moved = True
        while True:
            notice = make_notice(key, self._key)
            if await call(store.replace, store.areplace, key, notice, expected=former.revision):
                return
            answer = await self._find(call, key)
            if not isinstance(answer, tuple):
                break
            # Another request has changed it meanwhile.
            await self._bring_over(call, former, answer, is_cleared)
            former = answer[0]
        if former.user is None or isinstance(answer, Unreadable):
            return
        # It must not live on under a new id if it was ended.
        try:
            key, found = await self._locate(call, key, former)
        except UpdateError:
            await self._take_back(call, *before)
            raise
        if conf.middleware_leaves_cookies():
            # Another request was faster: one new id is enough.
            assert self._saved is not None
            payload = self._saved.payload
            await self._take_back(call, *before)
            self._moved_to, self.leaves_cookie = key, True
            await self._rebase(call, payload, found)
            await self._update(call)
        else:
            await self._bring_over(call, former, found, is_cleared)

    async def _bring_over(
        self, call: Colour, former: Saved, found: Found, is_cleared: bool
    ) -> None:
        """Merge what others have changed since ``former`` into the new record."""
        stored = self._saved
        assert stored is not None
        self._saved, self._is_cleared = former, is_cleared
        await self._rebase(call, stored.payload, found)
        self._saved = stored
        await self._update(call)

    async def _take_back(
        self, call: Colour, session_key: str, moved_to: bytes | None, saved: Saved
    ) -> None:
        """Remove the new record, and go on under the former id."""
        store, key = self.store, self._key
        self._session_key, self._moved_to = session_key, moved_to
        self._saved = self._sent = saved
        self.has_moved = self._is_new_id = False
        await call(store.delete, store.adelete, key)

    async def _end_anywhere(self, call: Colour, session_key: str, key: bytes) -> None:
        """End what has this id, in the fallbacks first: the store is what tells who comes late."""
        store = self.store
        await self._delete_elsewhere(call, session_key)
        await call(store.replace, store.areplace, key, make_end(key))

    async def _delete_elsewhere(self, call: Colour, session_key: str) -> None:
        # Late, so that only who moves imports it.
        from django_kvsessions.moving.arrivals import delete_elsewhere

        await delete_elsewhere(call, session_key)

    async def _end(self, call: Colour) -> None:
        """End the session, wherever it is, so that no other request carries it on."""
        if self.session_key is None or self._is_notice:
            return
        store, key, former = self.store, self._key, self._saved
        is_moving = bool(conf.fallback_engines())
        if is_moving:
            await self._delete_elsewhere(call, self.session_key)
        for _ in range(ATTEMPTS):
            if former is not None:
                # Not deleted at once: another request may be moving it right now.
                ended = make_end(key) if is_moving else Record(b"", 0.0, new_revision())
                if await call(store.replace, store.areplace, key, ended, expected=former.revision):
                    if not is_moving:
                        await call(store.delete, store.adelete, key)
                    return
            answer = await self._find(call, key)
            if isinstance(answer, Moved) and former is not None:
                with suppress(UpdateError):
                    key, answer = await self._locate(call, key, former)
            if not isinstance(answer, tuple):
                # It was an anonymous one, and is a user's by now, which is not for it to end.
                is_user = former is not None and former.user is not None
                self._is_notice = isinstance(answer, Moved) and not is_user
                return
            former = answer[0]
