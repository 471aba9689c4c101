"""A cache in front of a store, which never serves what the store has ended or replaced."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import ParamSpec

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions import conf
from django_kvsessions.colours import Colour, awaiting, blocking, run
from django_kvsessions.stores import options, store_class, stores
from django_kvsessions.stores.base import (
    Provisional,
    Record,
    Store,
    StoreError,
    StoreStats,
    now,
)
from django_kvsessions.stores.memory import MemoryStore
from django_kvsessions.stores.paged import ColouredStore

# Longer than 300 lines: how a copy gets into the cache is one protocol, best read in one place.

__all__ = ["LayeredStore"]

logger = logging.getLogger("django_kvsessions")

P = ParamSpec("P")

# Before the data of a cached copy: expiry, revision and size of the owner.
_HEADER = struct.Struct(">dQB")
#: Keys that are remembered while the cache fails; beyond, the oldest are forgotten.
_DISTRUSTED = 100_000


class LayeredStore(ColouredStore):
    """Writes to ``store``, reads from ``cache`` what is younger than ``max_age`` seconds.

    ``cache`` and ``store`` are aliases of SESSION_STORES, or stores. What one
    process has ended or replaced is not served any more by that process, nor by
    any other that shares its cache; where each process has a cache of its own,
    the others may serve it for up to ``max_age`` seconds. A cache that fails is
    a miss and a line in the log; a store that fails raises as it always does.
    The machines that share a cache need clocks that agree to well within ``max_age``.
    """

    # How a copy gets into the cache: a marker with a random revision goes first,
    # then the store is read or written, then the copy replaces that very marker.
    # Every write also marks the key before it asks the store, and settles it
    # afterwards, and so no reader that asked the store before the write can still
    # find its marker there. Taking anything out of the cache is safe at any time.
    # A marker is no answer: whoever finds one asks the store. That which a delete
    # leaves behind is the tombstone.

    def __init__(
        self,
        location: None = None,
        *,
        cache: str | Store | None = None,
        store: str | Store | None = None,
        max_age: float = 5.0,
        max_record_size: int = 1024 * 1024,
    ) -> None:
        super().__init__(max_record_size=max_record_size)
        if location is not None:
            raise ImproperlyConfigured(
                f"LOCATION is {location!r}, but LayeredStore keeps nothing itself: leave it out "
                "and name two aliases as OPTIONS['cache'] and OPTIONS['store']."
            )
        if not isinstance(cache, (str, Store)):
            options.refuse("cache", "an alias of SESSION_STORES", cache)
        if not isinstance(store, (str, Store)):
            options.refuse("store", "an alias of SESSION_STORES", store)
        self.max_age = options.seconds("max_age", max_age)
        _check_layers(cache, store)
        self._cache = cache
        self._store = store
        self._distrusted = MemoryStore(max_entries=_DISTRUSTED)
        self._distrusts = False

    @property
    def cache(self) -> Store:
        return stores[self._cache] if isinstance(self._cache, str) else self._cache

    @property
    def store(self) -> Store:
        return stores[self._store] if isinstance(self._store, str) else self._store

    @property
    def is_nonblocking(self) -> bool:  # type: ignore[override]  # read only
        return self.cache.is_nonblocking and self.store.is_nonblocking

    @property
    def is_cleaned_by_default(self) -> bool:  # type: ignore[override]  # read only
        return self.store.is_cleaned_by_default

    def provisional(self) -> Provisional | None:
        return self.store.provisional()

    def cleaned_elsewhere(self) -> str | None:
        return self.store.cleaned_elsewhere()

    async def _load(self, call: Colour, key: bytes) -> Record | None:
        token = None
        try:
            # In a transaction of the site's, the store says what nobody else sees yet.
            if not self._is_distrusted(key) and self.provisional() is None:
                cached = await call(self.cache.load, self.cache.aload, key)
                if cached is None:
                    token, marker = self._marker()
                    if not (await call(self.cache.create, self.cache.acreate, key, marker)):
                        # Somebody else is about to fill it.
                        token = None
                elif cached.data:
                    return _opened(cached.data)
        except Exception as error:
            self._report(error)
            token = None
        # Its age counts from before the store was asked, or a write of another
        # process could be missing from it for longer than max_age.
        moment = now()
        record: Record | None = await call(self.store.load, self.store.aload, key)
        if token is not None:
            try:
                if record is None:
                    await call(self.cache.delete, self.cache.adelete, key)
                else:
                    await self._fill(call, key, record, token, moment)
            except Exception as error:
                self._report(error)
        return record

    async def _create(self, call: Colour, key: bytes, record: Record) -> bool:
        store = self.store
        return await self._write(call, key, record, store.create, store.acreate, key, record)

    async def _replace(
        self, call: Colour, key: bytes, record: Record, expected: int | None
    ) -> bool:
        replace = partial(self.store.replace, expected=expected)
        areplace = partial(self.store.areplace, expected=expected)
        return await self._write(call, key, record, replace, areplace, key, record)

    async def _touch(self, call: Colour, key: bytes, expires: float, expected: int | None) -> bool:
        touch = partial(self.store.touch, expected=expected)
        atouch = partial(self.store.atouch, expected=expected)
        return await self._write(call, key, None, touch, atouch, key, expires)

    async def _delete(self, call: Colour, key: bytes) -> bool:
        # Found before anything is written, if the settings are wrong.
        store = self.store
        await self._mark(call, key)
        done = await call(store.delete, store.adelete, key)
        # What it leaves is the tombstone.
        await self._mark(call, key)
        return done

    async def _write(
        self,
        call: Colour,
        key: bytes,
        record: Record | None,
        write: Callable[P, bool],
        awrite: Callable[P, Awaitable[bool]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> bool:
        """Let the store do it, and never leave an older copy in the cache.

        ``record`` is what the key holds when the store says yes, if that is known.
        """
        moment = now()
        # Should this process be killed, or the call be cancelled or time out once
        # the store has it, then the old copy is gone already.
        token = await self._mark(call, key)
        done = await call(write, awrite, *args, **kwargs)
        try:
            if self.provisional() is not None:
                # It may be rolled back, and until then others read the former one.
                self._distrust(key)
            elif not (done and record and await self._fill(call, key, record, token, moment)):
                await call(self.cache.delete, self.cache.adelete, key)
        except Exception as error:
            self._distrust(key)
            self._report(error)
        return done

    async def _mark(self, call: Colour, key: bytes) -> int | None:
        try:
            return await self._settle(call, key)
        except Exception as error:
            self._distrust(key)
            self._report(error)
            return None

    async def _settle(self, call: Colour, key: bytes) -> int:
        """Put a marker in the place of whatever the cache holds; what it can be replaced by."""
        token, marker = self._marker()
        if not (await call(self.cache.replace, self.cache.areplace, key, marker)):
            # If this fails too, a newer one is there, and the token fits nothing.
            await call(self.cache.create, self.cache.acreate, key, marker)
        return token

    async def _fill(
        self, call: Colour, key: bytes, record: Record, token: int | None, moment: float
    ) -> bool:
        """Put a copy in the place of the marker, if it is still there."""
        owner = record.owner
        data = _HEADER.pack(record.expires, record.revision, len(owner)) + owner + record.data
        if token is None or len(data) > self.cache.max_record_size:
            return False
        expires = min(record.expires, moment + self.max_age)
        copy = Record(data, expires, _random())
        return await call(self.cache.replace, self.cache.areplace, key, copy, expected=token)

    def _marker(self) -> tuple[int, Record]:
        token = _random()
        return token, Record(b"", now() + self.max_age, token)

    # A cache that was away when a key was written comes back with the old copy.
    # All other processes may serve it until it is too old, but not this one.

    def _distrust(self, key: bytes) -> None:
        _, marker = self._marker()
        self._distrusted.delete(key)
        self._distrusted.create(key, marker)
        self._distrusts = True

    def _is_distrusted(self, key: bytes) -> bool:
        return self._distrusts and self._distrusted.load(key) is not None

    def _report(self, error: Exception) -> None:
        if isinstance(error, ImproperlyConfigured):
            raise error
        logger.warning(
            "The cache %r of a layered session store failed: %s The store answers in its place, "
            "and no session is lost: see to the cache.",
            self._cache,
            error,
        )

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """Removes what has expired from the store, and then from the cache.

        Counts what the store removed: copies are no sessions.
        """
        try:
            yield from self.store.delete_expired(batch_size=batch_size)
        except StoreError:
            self._clear_cache(batch_size)
            raise
        self._clear_cache(batch_size)

    def _clear_cache(self, batch_size: int) -> None:
        try:
            for _ in self.cache.delete_expired(batch_size=batch_size):
                pass
        except Exception as error:
            self._report(error)

    async def adelete_expired(self, *, batch_size: int = 1000) -> AsyncIterator[int]:
        try:
            async for count in self.store.adelete_expired(batch_size=batch_size):
                yield count
        except StoreError:
            await self._aclear_cache(batch_size)
            raise
        await self._aclear_cache(batch_size)

    async def _aclear_cache(self, batch_size: int) -> None:
        try:
            async for _ in self.cache.adelete_expired(batch_size=batch_size):
                pass
        except Exception as error:
            self._report(error)

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        return self.store.scan()

    def ascan(self) -> AsyncIterator[tuple[bytes, Record]]:
        return self.store.ascan()

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        return self.store.scan_owner(owner)

    def ascan_owner(self, owner: bytes) -> AsyncIterator[tuple[bytes, Record]]:
        return self.store.ascan_owner(owner)

    def setup(self) -> None:
        run(self._setup(blocking))

    async def asetup(self) -> None:
        await self._setup(awaiting)

    async def _setup(self, call: Colour) -> None:
        await call(self.store.setup, self.store.asetup)
        try:
            await call(self.cache.setup, self.cache.asetup)
        except Exception as error:
            self._report(error)

    def backup(self, folder: str | os.PathLike[str]) -> None:
        """The store's."""
        self.store.backup(folder)

    async def abackup(self, folder: str | os.PathLike[str]) -> None:
        await self.store.abackup(folder)

    def scan_backup(self, folder: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record]]:
        return self.store.scan_backup(folder)

    def stats(self) -> StoreStats:
        """The store's."""
        return self.store.stats()

    async def astats(self) -> StoreStats:
        return await self.store.astats()

    def close(self) -> None:
        """Closes what was given as a store; what an alias names is closed with ``stores``."""
        run(self._close(blocking))

    async def aclose(self) -> None:
        await self._close(awaiting)

    async def _close(self, call: Colour) -> None:
        # Looking an alias up would open a store only to close it.
        if isinstance(self._cache, Store):
            try:
                await call(self._cache.close, self._cache.aclose)
            except Exception as error:
                self._report(error)
        if isinstance(self._store, Store):
            await call(self._store.close, self._store.aclose)

    def check(self, *, alias: str) -> list[checks.CheckMessage]:
        """One cache in front of two stores would serve the records of either as the other's."""
        return [
            checks.Error(
                f"SESSION_STORES[{alias!r}] and SESSION_STORES[{other!r}] put one cache, "
                f"{self._cache!r}, in front of two stores.",
                hint="Give each its own cache, or the same store.",
                id="kvsessions.E120",
            )
            for other in conf.aliases()
            if (layers := _layers(other)).get("cache") == self._cache
            and layers.get("store") != self._store
        ]


def _layers(alias: str) -> Mapping[str, object]:
    """The OPTIONS of a layered store; empty for others, and for what is configured wrongly."""
    try:
        is_layered = issubclass(store_class(alias), LayeredStore)
    except ImproperlyConfigured:
        return {}
    return conf.store(alias)["OPTIONS"] if is_layered else {}


def _check_layers(cache: str | Store, store: str | Store) -> None:
    if cache == store:
        raise ImproperlyConfigured(
            f"OPTIONS['cache'] and OPTIONS['store'] are both {cache!r}: name two stores."
        )
    _check_alias("cache", cache, ())
    _check_alias("store", store, ())
    if isinstance(cache, str) and isinstance(store, str):
        place = conf.store(cache)
        if place["LOCATION"] is not None and place == conf.store(store):
            raise ImproperlyConfigured(
                f"OPTIONS['cache'] and OPTIONS['store'], {cache!r} and {store!r}, are one place: "
                "the cache would write over the store's records."
            )


def _check_alias(option: str, alias: object, path: tuple[str, ...]) -> None:
    """Follow an alias through all the layers below it."""
    if not isinstance(alias, str):
        return
    if alias in path:
        cycle = " -> ".join(repr(name) for name in (*path, alias))
        raise ImproperlyConfigured(f"OPTIONS[{option!r}] leads in a circle: {cycle}.")
    try:
        backend = store_class(alias)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"OPTIONS[{option!r}]: {error}") from error
    if issubclass(backend, LayeredStore):
        layers = conf.store(alias)["OPTIONS"]
        for below in ("cache", "store"):
            _check_alias(below, layers.get(below), (*path, alias))


def _opened(data: bytes) -> Record:
    """The record that a cached copy is of."""
    expires, revision, owner_size = _HEADER.unpack_from(data)
    start = _HEADER.size + owner_size
    return Record(data[start:], expires, revision, data[_HEADER.size : start])


def _random() -> int:
    return int.from_bytes(os.urandom(8), "big") >> 1
