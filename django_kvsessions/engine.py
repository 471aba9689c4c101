"""``SESSION_ENGINE = "django_kvsessions.engine"``: Django's sessions on a Store."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from django.contrib.auth import SESSION_KEY as USER_ID
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError

from django_kvsessions import codec, conf
from django_kvsessions.merging import merge
from django_kvsessions.steps import Call, Steps, arun, clock, run
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store, StoreError, StoreUnavailable, now

__all__ = ["SessionStore"]

security_log = logging.getLogger("django.security.SuspiciousSession")

T = TypeVar("T")

# Two collisions of 160 random bits in a row do not happen: a store that says so is broken.
CREATE_ATTEMPTS = 100
# Of any number of requests that change one session at once, one succeeds in each round.
SAVE_ATTEMPTS = 1000
LONGEST_PAUSE = 0.05
# In the place of a revision: whatever is there is to be replaced.
ANY = -1


class Saved(NamedTuple):
    """A session as the store has it: what later changes are compared with."""

    payload: bytes
    created: float
    expires: float
    revision: int
    owner: bytes
    #: Sealed under a former SECRET_KEY, so to be written anew at the next save.
    stale: bool = False


class SessionStore(SessionBase):
    """A session on the store that SESSION_STORE_ALIAS names.

    Where the store cannot answer, every method raises ``StoreUnavailable`` and
    the session keeps its id: an outage is not a logout.
    """

    if TYPE_CHECKING:  # what the stubs of SessionBase leave out
        _session: dict[str, Any]
        _session_cache: dict[str, Any]

        def _get_session(self, no_load: bool = False) -> dict[str, Any]: ...
        async def _aget_session(self, no_load: bool = False) -> dict[str, Any]: ...

    def __init__(self, session_key: str | None = None) -> None:
        # SessionBase would import the serializer by its dotted path for each request.
        self._session_key = session_key
        self.accessed = False
        self.modified = False
        self.serializer = conf.serializer()
        self._saved: Saved | None = None
        #: Whether this object wrote or touched the record, so that the cookie is due too.
        self.refreshed = False

    @property
    def store(self) -> Store:
        return stores[conf.store_alias()]

    # Loading

    def load(self) -> dict[str, Any]:
        if (session_key := self.session_key) is None:
            return {}
        key = codec.storage_key(session_key)
        return self._loaded(key, self.store.load(key))

    async def aload(self) -> dict[str, Any]:
        if self.session_key is None:
            return {}
        key = codec.storage_key(self.session_key)
        return self._loaded(key, await self.store.aload(key))

    def _loaded(self, key: bytes, record: Record | None) -> dict[str, Any]:
        opened = self._open(key, record)
        if opened is None:
            self._session_key = None
            return {}
        self._saved, data = opened
        return data

    def _find(self, key: bytes) -> Steps[tuple[Saved, dict[str, Any]] | None]:
        return self._open(key, (yield self.store, "load", (key,), {}))

    def _open(self, key: bytes, record: Record | None) -> tuple[Saved, dict[str, Any]] | None:
        """What a record says; ``None`` where there is none, or none to trust."""
        if record is None:
            return None
        sealed, expires, revision, owner = record
        try:
            payload, created, stale = codec.open_record(key, owner, sealed)
            data = self.serializer().loads(payload)
            if not isinstance(data, dict):
                raise codec.BadRecord("it holds no dict")
        except MemoryError:
            # It says nothing about the record.
            raise
        except Exception as error:
            # Whatever a serializer may raise, the visitor gets a fresh session.
            security_log.warning("A session record does not verify or decode: %s", error)
            return None
        age = conf.absolute_age()
        if age is not None and created + age <= now():
            return None
        return Saved(payload, created, expires, revision, owner, stale), data

    def clear(self) -> None:
        super().clear()
        # What is written next replaces everything, so there is nothing to merge with.
        if self._saved is not None:
            self._saved = self._saved._replace(revision=ANY)

    # Creating

    def create(self) -> None:
        self._get_session(no_load=True)
        run(self._create())

    async def acreate(self) -> None:
        await self._aget_session(no_load=True)
        await arun(self._create())

    def _create(self, created: float | None = None) -> Steps[None]:
        for _ in range(CREATE_ATTEMPTS):
            session_key = self._get_new_session_key()
            if (yield from self._insert(session_key, created)):
                self._session_key = session_key
                self.modified = True
                return
        raise StoreError("The store says of every new session id that it is taken.")

    def _insert(self, session_key: str, created: float | None = None) -> Steps[bool]:
        key = codec.storage_key(session_key)
        saved = self._next(self._serialized(), created or now())
        if not (yield self.store, "create", (key, make_record(key, saved)), {}):
            return False
        self._keep(saved)
        return True

    def _get_new_session_key(self) -> str:
        # Whether it is free is for the store's put-if-absent to say.
        return codec.new_session_key()

    async def _aget_new_session_key(self) -> str:
        return codec.new_session_key()

    # Saving

    def save(self, must_create: bool = False) -> None:
        if self.session_key is None:
            return self.create()
        self._get_session(no_load=must_create)
        return run(self._save(must_create))

    async def asave(self, must_create: bool = False) -> None:
        if self.session_key is None:
            return await self.acreate()
        await self._aget_session(no_load=must_create)
        return await arun(self._save(must_create))

    def _save(self, must_create: bool) -> Steps[None]:
        if self.session_key is None:
            # It was there to be loaded only now, and is not.
            raise UpdateError
        if must_create:
            if not (yield from self._insert(self.session_key)):
                raise CreateError
            return
        key = codec.storage_key(self.session_key)
        if self._saved is None:
            # Written without being loaded. Its life still counts from its creation.
            found = yield from self._find(key)
            if found is None:
                raise UpdateError
            self._saved = found[0]._replace(revision=ANY)
        for attempt in range(SAVE_ATTEMPTS):
            payload, former = self._serialized(), self._saved
            is_any = former.revision == ANY
            # Judged by the bytes, since a nested change leaves the modified flag alone.
            if payload == former.payload and not (is_any or former.stale):
                is_there = yield from self._touch(key)
                if is_there is None and self.modified:
                    # Nothing to write, and yet who saves wants to know of a logout.
                    is_there = (yield self.store, "load", (key,), {}) is not None
                if is_there is False:
                    raise UpdateError
                return
            saved = self._next(payload, former.created)
            if (yield self._replace(key, saved, former.revision)):
                self._keep(saved)
                return
            if is_any:
                raise UpdateError
            yield from self._rebase(key, payload)
            yield clock, "sleep", (pause(attempt),), {}
        raise StoreUnavailable(f"Other requests were faster than this one {SAVE_ATTEMPTS} times.")

    def _replace(self, key: bytes, saved: Saved, revision: int) -> Call:
        expected = {} if revision == ANY else {"expected": revision}
        return self.store, "replace", (key, make_record(key, saved)), expected

    def _rebase(self, key: bytes, payload: bytes) -> Steps[None]:
        """Put this session's own changes on top of what another request has saved."""
        found = yield from self._find(key)
        if found is None:
            raise UpdateError
        assert self._saved is not None
        former, (self._saved, theirs) = self._saved, found
        self._merge(former.payload, payload, theirs)

    def _merge(self, base: bytes, mine: bytes, theirs: dict[str, Any]) -> None:
        serializer = self.serializer()
        # All three sides as they come out of the store: JSON, for one, makes strings of keys.
        merged = merge(serializer.loads(base), serializer.loads(mine), theirs, serializer.dumps)
        self._session.clear()
        self._session.update(merged)

    def mutate(self, function: Callable[[dict[str, Any]], T]) -> T:
        """Change the session in one atomic step: ``function`` gets the freshest data.

        It changes the dict in place, and runs again, on fresher data, when
        another request was faster; so it should do nothing else. What it
        returns is returned. Where it raises, nothing is changed.

        Changes of this request that are not saved yet stay so. A session that
        was ended raises ``UpdateError``; one that has no id yet is created.
        """
        self._get_session()
        return run(self._mutate(function))

    async def amutate(self, function: Callable[[dict[str, Any]], T]) -> T:
        """As ``mutate``; the function is a plain one here too."""
        await self._aget_session()
        return await arun(self._mutate(function))

    def _mutate(self, function: Callable[[dict[str, Any]], T]) -> Steps[T]:
        if self.session_key is None:
            yield from self._create()
        assert self.session_key is not None
        key = codec.storage_key(self.session_key)
        mine = self._serialized()
        for attempt in range(SAVE_ATTEMPTS):
            found = yield from self._find(key)
            if found is None:
                raise UpdateError
            current, data = found
            result = function(data)
            saved = self._next(self._serialized(data), current.created, data)
            if saved.payload == current.payload:
                saved = current
            elif not (yield self._replace(key, saved, current.revision)):
                yield clock, "sleep", (pause(attempt),), {}
                continue
            former = self._saved
            if former is not None and former.revision != ANY:
                # Changes that are not saved yet go on top of what was stored just now.
                self._merge(former.payload, mine, data)
                self._keep(saved)
            return result
        raise StoreUnavailable(f"Other requests were faster than this one {SAVE_ATTEMPTS} times.")

    def touch(self) -> bool:
        """Move the expiry of an unchanged session, where SESSION_TOUCH_INTERVAL says so.

        ``True`` if it was moved. A session that was ended stays ended.
        """
        return run(self._slide())

    async def atouch(self) -> bool:
        return await arun(self._slide())

    def _slide(self) -> Steps[bool]:
        if self.session_key is None or self._saved is None:
            return False
        return bool((yield from self._touch(codec.storage_key(self.session_key))))

    def _touch(self, key: bytes) -> Steps[bool | None]:
        """``None`` if the expiry need not move yet, ``False`` if the session is gone."""
        assert self._saved is not None
        expires = self._expires(self._session_cache, self._saved.created)
        if abs(expires - self._saved.expires) < self._touch_interval():
            return None
        if not (yield self.store, "touch", (key, expires), {}):
            return False
        self._keep(self._saved._replace(expires=expires))
        return True

    def _touch_interval(self) -> float:
        interval, age = conf.touch_interval(), self.get_expiry_age()
        if interval is None:
            return age / 100
        # A session that lives for less than the interval would never be extended.
        return interval if interval < age else age / 2

    def _next(self, payload: bytes, created: float, data: dict[str, Any] | None = None) -> Saved:
        """What is to be stored now, under a new revision."""
        data = self._session if data is None else data
        owner = b""
        if (user_id := data.get(USER_ID)) is not None:
            owner = codec.owner_digest(str(user_id))
            saved = self._saved
            if saved is not None and owner != saved.owner and not saved.stale:
                # A login starts a new life.
                created = now()
        revision = int.from_bytes(os.urandom(8), "big") >> 1
        return Saved(payload, created, self._expires(data, created), revision, owner)

    def _keep(self, saved: Saved) -> None:
        self._saved = saved
        self.refreshed = True

    def _serialized(self, data: dict[str, Any] | None = None) -> bytes:
        data = self._session if data is None else data
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

    # Ending

    def exists(self, session_key: str | None) -> bool:
        return run(self._exists(session_key))

    async def aexists(self, session_key: str | None) -> bool:
        return await arun(self._exists(session_key))

    def _exists(self, session_key: str | None) -> Steps[bool]:
        if not session_key:
            return False
        return (yield from self._find(codec.storage_key(session_key))) is not None

    def delete(self, session_key: str | None = None) -> None:
        run(self._delete(session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        await arun(self._delete(session_key))

    def _delete(self, session_key: str | None) -> Steps[bool]:
        session_key = session_key or self.session_key
        if session_key is None:
            return False
        deleted: bool = yield self.store, "delete", (codec.storage_key(session_key),), {}
        return deleted

    def cycle_key(self) -> None:
        self._get_session()
        run(self._cycle_key())

    async def acycle_key(self) -> None:
        await self._aget_session()
        await arun(self._cycle_key())

    def _cycle_key(self) -> Steps[None]:
        former = self.session_key
        yield from self._create(self._saved.created if self._saved else None)
        if former is None or (yield from self._delete(former)):
            return
        if USER_ID in self._session:
            # Somebody ended the session meanwhile: it must not live on under a new id.
            yield from self._delete(None)
            raise UpdateError

    @classmethod
    def clear_expired(cls) -> None:
        for _ in stores[conf.store_alias()].delete_expired():
            pass

    @classmethod
    async def aclear_expired(cls) -> None:
        async for _ in stores[conf.store_alias()].adelete_expired():
            pass

    # Expiry: the idle limit as Django has it, within SESSION_ABSOLUTE_AGE.

    def get_expiry_age(self, **kwargs: Any) -> int:
        return self._capped_age(super().get_expiry_age(**kwargs))

    async def aget_expiry_age(self, **kwargs: Any) -> int:
        return self._capped_age(await super().aget_expiry_age(**kwargs))

    def get_expiry_date(self, **kwargs: Any) -> datetime:
        return self._capped_date(super().get_expiry_date(**kwargs))

    async def aget_expiry_date(self, **kwargs: Any) -> datetime:
        return self._capped_date(await super().aget_expiry_date(**kwargs))

    def _end_of_life(self) -> float | None:
        return end_of_life(self._saved.created if self._saved else now())

    def _capped_age(self, age: int) -> int:
        end = self._end_of_life()
        return age if end is None else min(age, max(0, int(end - now())))

    def _capped_date(self, date: datetime) -> datetime:
        end = self._end_of_life()
        return date if end is None else min(date, datetime.fromtimestamp(end, date.tzinfo))

    def _expires(self, data: dict[str, Any], created: float) -> float:
        expiry = data.get("_session_expiry")
        if expiry:
            expires = super().get_expiry_date(expiry=expiry).timestamp()
        else:
            expires = now() + self.get_session_cookie_age()
        end = end_of_life(created)
        return expires if end is None else min(expires, end)


def make_record(key: bytes, saved: Saved) -> Record:
    data = codec.seal(key, saved.owner, saved.created, saved.payload)
    return Record(data, saved.expires, saved.revision, saved.owner)


def end_of_life(created: float) -> float | None:
    """When SESSION_ABSOLUTE_AGE ends a session, in Unix time; ``None`` if it does not."""
    age = conf.absolute_age()
    return None if age is None else created + age


def pause(attempt: int) -> float:
    """How long to wait, in seconds, after an attempt that lost a race."""
    return random.uniform(0, min(LONGEST_PAUSE, 0.001 * 2 ** min(attempt, 10)))
