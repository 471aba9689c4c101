"""``SESSION_ENGINE = "django_kvsessions.engine"``: Django's sessions on a Store."""

from __future__ import annotations

import logging
import os
from typing import Any, cast

from django.contrib.auth import SESSION_KEY as USER_ID
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError

from django_kvsessions import codec, conf
from django_kvsessions.steps import Steps, arun, run
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store, StoreError, now

__all__ = ["SessionStore"]

security_log = logging.getLogger("django.security.SuspiciousSession")

# Two collisions of 160 random bits in a row do not happen: a store that says so is broken.
_CREATE_ATTEMPTS = 100


class SessionStore(SessionBase):
    """A session on the store that SESSION_STORE_ALIAS names.

    Where the store cannot answer, every method raises ``StoreUnavailable`` and
    the session keeps its id: an outage is not a logout.
    """

    def __init__(self, session_key: str | None = None) -> None:
        # SessionBase would import the serializer by its dotted path for each request.
        self._session_key = session_key
        self.accessed = False
        self.modified = False
        self.serializer = conf.serializer()
        self._created: float | None = None

    @property
    def store(self) -> Store:
        return stores[conf.store_alias()]

    # Loading

    def load(self) -> dict[str, Any]:
        return run(self._load())

    async def aload(self) -> dict[str, Any]:
        return await arun(self._load())

    def _load(self) -> Steps[dict[str, Any]]:
        if self.session_key is not None:
            key = codec.storage_key(self.session_key)
            record = yield self.store, "load", (key,), {}
            if record is not None:
                try:
                    return self._opened(key, record)
                except Exception as error:
                    # Whatever a serializer may raise, the visitor gets a fresh session.
                    security_log.warning("Session record does not verify or decode: %s", error)
        self._session_key = None
        return {}

    def _opened(self, key: bytes, record: Record) -> dict[str, Any]:
        opened = codec.open_record(key, record.owner, record.data)
        data = self.serializer().loads(opened.payload)
        if not isinstance(data, dict):
            raise codec.BadRecord("it holds no dict")
        self._created = opened.created
        return data

    # Creating

    def create(self) -> None:
        self._get_session(no_load=True)
        run(self._create())

    async def acreate(self) -> None:
        await self._aget_session(no_load=True)
        await arun(self._create())

    def _create(self) -> Steps[None]:
        for _ in range(_CREATE_ATTEMPTS):
            session_key = self._get_new_session_key()
            if (yield from self._insert(session_key)):
                self._session_key = session_key
                self.modified = True
                return
        raise StoreError("The store says of every new session id that it is taken.")

    def _insert(self, session_key: str) -> Steps[bool]:
        created = now()
        key = codec.storage_key(session_key)
        if not (yield self.store, "create", (key, self._record(key, created)), {}):
            return False
        self._created = created
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
        if self._created is None:
            # Written without being loaded: its age still counts from its creation.
            self._created = yield from self._load_created(key)
        if not (yield self.store, "replace", (key, self._record(key, self._created)), {}):
            raise UpdateError

    def _load_created(self, key: bytes) -> Steps[float]:
        record = yield self.store, "load", (key,), {}
        if record is None:
            raise UpdateError
        try:
            return codec.open_record(key, record.owner, record.data).created
        except codec.BadRecord:
            return now()

    def _record(self, key: bytes, created: float) -> Record:
        data = self._session
        user_id = data.get(USER_ID)
        owner = codec.owner_digest(str(user_id)) if user_id is not None else b""
        return Record(
            codec.seal(key, owner, created, self._serialized(data)),
            now() + self.get_expiry_age(),
            int.from_bytes(os.urandom(8), "big") >> 1,
            owner,
        )

    def _serialized(self, data: dict[str, Any]) -> bytes:
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
        record = yield self.store, "load", (codec.storage_key(session_key),), {}
        return record is not None

    def delete(self, session_key: str | None = None) -> None:
        run(self._delete(session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        await arun(self._delete(session_key))

    def _delete(self, session_key: str | None) -> Steps[bool]:
        session_key = session_key or self.session_key
        if session_key is None:
            return False
        return (yield self.store, "delete", (codec.storage_key(session_key),), {})

    def cycle_key(self) -> None:
        self._get_session()
        run(self._cycle_key())

    async def acycle_key(self) -> None:
        await self._aget_session()
        await arun(self._cycle_key())

    def _cycle_key(self) -> Steps[None]:
        former = self.session_key
        yield from self._create()
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
