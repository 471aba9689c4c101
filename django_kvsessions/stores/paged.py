"""What stores share that have a sync and an async variant of each call: one source for both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Generic, TypeAlias, TypeVar

from django.core.checks import CheckMessage

from django_kvsessions.colours import Colour, awaiting, blocking, run
from django_kvsessions.stores.base import (
    KEY_SIZE,
    Record,
    Store,
    StoreStats,
    StoreUnavailable,
    now,
)

__all__ = ["ColouredStore", "Page", "PagedStore", "unknown_outcome"]

#: Where a page begins.
Start = TypeVar("Start")
#: Live records, and where the next page begins; ``None`` after the last one.
Page: TypeAlias = tuple[list[tuple[bytes, Record]], Start | None]


class ColouredStore(Store):
    """A store that writes each method on one record once, as a coroutine; arguments are checked."""

    @abstractmethod
    async def _load(self, call: Colour, key: bytes) -> Record | None: ...

    @abstractmethod
    async def _create(self, call: Colour, key: bytes, record: Record) -> bool: ...

    @abstractmethod
    async def _replace(
        self, call: Colour, key: bytes, record: Record, expected: int | None
    ) -> bool: ...

    @abstractmethod
    async def _touch(
        self, call: Colour, key: bytes, expires: float, expected: int | None
    ) -> bool: ...

    @abstractmethod
    async def _delete(self, call: Colour, key: bytes) -> bool: ...

    async def _was_put(
        self, call: Colour, key: bytes, record: Record, *, changed: bool, repeated: bool
    ) -> bool:
        """What to say of a write; ``repeated`` if an answer to it was lost before this one.

        It may have been done the first time, so "nothing to do" proves nothing.
        ``StoreUnavailable`` where what is there now does not prove it either.
        """
        if changed or not repeated:
            return changed
        there = await self._load(call, key)
        # Another request may have touched it since.
        if there is not None and there._replace(expires=record.expires) == record:
            return True
        raise unknown_outcome()

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        return run(self._load(blocking, key))

    async def aload(self, key: bytes) -> Record | None:
        self.check_key(key)
        return await self._load(awaiting, key)

    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        return run(self._create(blocking, key, record))

    async def acreate(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        return await self._create(awaiting, key, record)

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        return run(self._replace(blocking, key, record, expected))

    async def areplace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        return await self._replace(awaiting, key, record, expected)

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        self.check_touch(key, expires)
        return run(self._touch(blocking, key, expires, expected))

    async def atouch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        self.check_touch(key, expires)
        return await self._touch(awaiting, key, expires, expected)

    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        return run(self._delete(blocking, key))

    async def adelete(self, key: bytes) -> bool:
        self.check_key(key)
        return await self._delete(awaiting, key)


def unknown_outcome() -> StoreUnavailable:
    """The error for a request whose answer was lost, and of which nothing is known."""
    return StoreUnavailable(
        "The connection was lost before the answer came, and what the store holds now does "
        "not say whether the request was carried out."
    )


class PagedStore(ColouredStore, Generic[Start]):
    """A store that writes all else so too: batches, pages, setup and stats."""

    #: LOCATION names a server, not a file of this machine.
    has_server = True

    @abstractmethod
    async def _delete_batch(self, call: Colour, moment: float, batch_size: int) -> int | None:
        """Remove some of what had expired at ``moment``; ``None`` when there is no more."""

    @abstractmethod
    async def _page(self, call: Colour, owner: bytes | None, start: Start | None) -> Page[Start]:
        """Some of the records, of one owner or of all; ``start`` is ``None`` at first."""

    @abstractmethod
    async def _setup(self, call: Colour) -> None: ...

    @abstractmethod
    async def _stats(self, call: Colour) -> StoreStats: ...

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        # What expires from now on is not waited for, so that it ends.
        moment = now()
        while (count := run(self._delete_batch(blocking, moment, batch_size))) is not None:
            yield count

    async def adelete_expired(self, *, batch_size: int = 1000) -> AsyncIterator[int]:
        moment = now()
        while (count := await self._delete_batch(awaiting, moment, batch_size)) is not None:
            yield count

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        return self._pages(None)

    def ascan(self) -> AsyncIterator[tuple[bytes, Record]]:
        return self._apages(None)

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        self.check_owner(owner)
        return self._pages(owner)

    def ascan_owner(self, owner: bytes) -> AsyncIterator[tuple[bytes, Record]]:
        self.check_owner(owner)
        return self._apages(owner)

    def _pages(self, owner: bytes | None) -> Iterator[tuple[bytes, Record]]:
        items, start = run(self._page(blocking, owner, None))
        yield from items
        while start is not None:
            items, start = run(self._page(blocking, owner, start))
            yield from items

    async def _apages(self, owner: bytes | None) -> AsyncIterator[tuple[bytes, Record]]:
        items, start = await self._page(awaiting, owner, None)
        for item in items:
            yield item
        while start is not None:
            items, start = await self._page(awaiting, owner, start)
            for item in items:
                yield item

    def check_server(self, *, alias: str) -> Iterable[CheckMessage]:
        """``StoreUnavailable`` where there is a server, and it does not answer."""
        if self.has_server:
            self.load(bytes(KEY_SIZE))
        return ()

    def setup(self) -> None:
        run(self._setup(blocking))

    async def asetup(self) -> None:
        await self._setup(awaiting)

    def stats(self) -> StoreStats:
        return run(self._stats(blocking))

    async def astats(self) -> StoreStats:
        return await self._stats(awaiting)
