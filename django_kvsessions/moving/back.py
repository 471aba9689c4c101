"""``SESSION_ENGINE = "django_kvsessions.moving.back"``: on another engine, as before or again.

The sessions are those of the engine that SESSION_MOVE_BACK_TO names. One that is in the store
is moved out of it on its first use, under the same id. So this is the way back; and, before
the way there, what lets workers from before and after a switch serve the same visitors.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from django_kvsessions import conf
from django_kvsessions.colours import Colour, awaiting, blocking, run
from django_kvsessions.merging import merge_sessions
from django_kvsessions.moving import departures
from django_kvsessions.moving.formers import Former, make_former
from django_kvsessions.serializers import SessionData

__all__ = ["SessionStore"]  # noqa: F822 (see __getattr__)

SETTING = "SESSION_MOVE_BACK_TO"


class Unset(ImproperlyConfigured, AttributeError):
    """The module has no SessionStore as long as nobody says which."""


class TakesBack(SessionBase):
    """What is added to the engine's own SessionStore."""

    takes_back = True
    former: Former
    # What was loaded, which later changes are compared with.
    _loaded: SessionData | None = None

    def load(self) -> SessionData:
        key, data = self.session_key, None
        for _ in range(departures.ROUNDS):
            if (data := run(self._take_over(blocking))) is None:
                data = super().load()
            if self.session_key or not run(departures.is_there(blocking, key)):
                break
            # A worker of the other engine was faster.
            self._session_key = key
        return self._keep(data or {})

    async def aload(self) -> SessionData:
        key, data = self.session_key, None
        for _ in range(departures.ROUNDS):
            if (data := await self._take_over(awaiting)) is None:
                data = await super().aload()
            if self.session_key or not await departures.is_there(awaiting, key):
                break
            self._session_key = key
        return self._keep(data or {})

    async def _take_over(self, call: Colour) -> SessionData | None:
        """What to go on with where the engine itself keeps nothing; ``None`` where it has it."""
        key = self.session_key
        if key is None:
            return None
        if not self.former.is_cookie:
            try:
                await departures.take_over(call, self.former, key)
            except departures.Unkeepable:
                # Nothing is shown of it, its cookie stays, and a change to it is refused.
                return {}
            return None
        data = await departures.lend(call, key)
        if data is not None:
            # As the session itself, at the end of this request.
            self.modified = True
        return data

    def _keep(self, data: SessionData) -> SessionData:
        self._loaded = deepcopy(data)
        return data

    def save(self, must_create: bool = False) -> None:
        try:
            super().save(must_create)
        except UpdateError:
            if must_create or not run(self._was_moved(blocking)):
                raise
            # A worker of the other engine has moved it meanwhile, and may have changed it.
            self._merge(type(self)(self.session_key).load())
            super().save()

    async def asave(self, must_create: bool = False) -> None:
        try:
            await super().asave(must_create)
        except UpdateError:
            if must_create or not await self._was_moved(awaiting):
                raise
            self._merge(await type(self)(self.session_key).aload())
            await super().asave()

    async def _was_moved(self, call: Colour) -> bool:
        try:
            return await departures.take_over(call, self.former, self.session_key or "")
        except departures.Unkeepable:
            return False

    def _merge(self, theirs: SessionData) -> None:
        mine: SessionData = dict(self.items())
        base = self._loaded or {}
        self._session_cache = merge_sessions(base, mine, theirs, {}, dict)

    def exists(self, session_key: str) -> bool:
        return bool(super().exists(session_key)) or run(departures.is_there(blocking, session_key))

    async def aexists(self, session_key: str) -> bool:
        there = await super().aexists(session_key)
        return bool(there) or await departures.is_there(awaiting, session_key)

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        super().delete(session_key)
        if key:
            run(departures.end(blocking, key))

    async def adelete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        await super().adelete(session_key)
        if key:
            await departures.end(awaiting, key)


@cache
def session_store(path: str) -> type[SessionBase]:
    former = make_former(path, SETTING)
    # Django's engines sign what they store with the name of the class in the salt.
    body = {
        "__module__": __name__,
        "__qualname__": former.engine.__qualname__,
        "__doc__": TakesBack.__doc__,
        "former": former,
    }
    return type(former.engine.__name__, (TakesBack, former.engine), body)


def __getattr__(name: str) -> Any:
    if name != "SessionStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return session_store(conf.move_back_to())
    except ImproperlyConfigured as error:
        raise Unset(str(error)) from error


def _forget(*, setting: str, **kwargs: Any) -> None:
    session_store.cache_clear()


setting_changed.connect(_forget)
