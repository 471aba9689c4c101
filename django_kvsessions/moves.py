"""A session gets a new id, or ends, while other requests of its visitor go on."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from django.contrib.sessions.backends.base import UpdateError

from django_kvsessions import codec, conf
from django_kvsessions.colours import Colour
from django_kvsessions.endings import is_over, retire
from django_kvsessions.owners import end
from django_kvsessions.saved import (
    Foreign,
    Found,
    Moved,
    Place,
    Saved,
    Unreadable,
    make_end,
    make_notice,
)
from django_kvsessions.signals import session_ended, tell
from django_kvsessions.updates import ATTEMPTS, Updates

__all__ = ["Moves"]


class Moves(Updates):
    """New ids, and ends."""

    # Whose the session was that was given a new id.
    _former_user: str | None = None

    async def _move(self, call: Colour) -> None:
        """Store the session under a new id, then put a notice in the place of the former.

        The new record comes first, so that no failure on the way loses the session.
        """
        if self.session_key is None or self._is_notice:
            await self._create(call)
            return
        if self._saved is None:
            # Cleared without being loaded: there may be nothing to be retired.
            answer = await self._find(call, self._place)
            if not isinstance(answer, tuple):
                await self._create(call)
                return
            self._saved, self._is_cleared = answer[0], True
        before, has_login = (self.session_key, self._moved_to, self._saved), self._has_login
        store, place, former, is_cleared = self.store, self._place, self._saved, self._is_cleared
        if conf.fallback_engines():
            await self._delete_elsewhere(call, self.session_key)
        await self._create(call, self._created())
        self.has_moved, self._former_user = True, former.user
        while True:
            notice = make_notice(place, self._place, hands_over=self._is_handed_over(former))
            since = time.monotonic()
            if await call(
                store.replace, store.areplace, place.key, notice, expected=former.revision
            ):
                if former.user is not None:
                    await self._check_end(call, former.user, place.key, since, *before)
                return
            answer = await self._find(call, place)
            if not isinstance(answer, tuple):
                break
            # Another request has changed it meanwhile.
            await self._bring_over(call, former, answer, is_cleared)
            former = answer[0]
        if former.user is None or isinstance(answer, Unreadable):
            return
        # It must not live on under a new id if it was ended.
        try:
            place, found = await self._locate(call, place, former)
        except UpdateError:
            await self._take_back(call, *before)
            raise
        if conf.middleware_leaves_cookies():
            # Another request was faster: one new id is enough.
            assert self._saved is not None
            payload = self._saved.payload
            await self._take_back(call, *before)
            self._moved_to, self.leaves_cookie, self._has_login = place, True, has_login
            await self._rebase(call, payload, found)
            await self._update(call)
        else:
            await self._bring_over(call, former, found, is_cleared)

    def _is_handed_over(self, former: Saved) -> bool:
        """Whether who has the former id is given what opens the session under the new one.

        Never where there was no user: such an id may have been planted before a login.
        """
        assert self._saved is not None
        is_same = former.user is not None and former.user == self._saved.user
        self._hands_over = is_same and conf.encryption()
        return self._hands_over

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

    async def _check_end(
        self, call: Colour, user: str, key: bytes, since: float, *before: Any
    ) -> None:
        """``UpdateError`` where all sessions of the user were ended while this one moved."""
        assert self._saved is not None
        login = self._saved.authenticated
        if await is_over(call, self.store, user, login, key, self._key, since):
            await self._take_back(call, *before)
            raise UpdateError

    async def _take_back(
        self, call: Colour, session_key: str, moved_to: Place | None, saved: Saved
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
        store, place, former = self.store, self._place, self._saved
        if conf.fallback_engines():
            await self._delete_elsewhere(call, self.session_key)
        for _ in range(ATTEMPTS):
            if former is not None and await retire(call, store, place.key, former.revision):
                await tell(call, session_ended, store, reason="logout", user_id=former.user)
                return
            answer = await self._find(call, place)
            if isinstance(answer, Moved) and former is not None:
                with suppress(UpdateError):
                    place, answer = await self._locate(call, place, former)
            if isinstance(answer, (Moved, Foreign)) and former is not None and former.user:
                # Encrypted meanwhile, for an id that is not known here: its head says whose it is.
                owners = codec.owner_digests(former.user)
                await end(call, store, owners, place.key, former.revision, former.user, "logout")
                return
            if not isinstance(answer, tuple):
                # It was an anonymous one, and is a user's by now, which is not for it to end.
                is_user = former is not None and former.user is not None
                self._is_notice = isinstance(answer, Moved) and not is_user
                return
            former = answer[0]
