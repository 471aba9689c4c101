"""What stores share that have a sync and an async variant of each call: one source for both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.steps import Steps, arun, run
from django_kvsessions.stores.base import Record, Store, StoreStats, now

__all__ = ["Page", "PagedStore", "SteppedStore", "check_timeout"]

#: Live records, and where the next page begins; ``None`` after the last one.
Page = tuple[list[tuple[bytes, Record]], Any]


def check_timeout(timeout: object) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise ImproperlyConfigured(
            f"OPTIONS['timeout'] must be a number of seconds above 0, not {timeout!r}."
        )


class SteppedStore(Store):
    """A store that writes each method on one record once, as steps; arguments are checked."""

    @abstractmethod
    def _load(self, key: bytes) -> Steps[Record | None]: ...

    @abstractmethod
    def _create(self, key: bytes, record: Record) -> Steps[bool]: ...

    @abstractmethod
    def _replace(self, key: bytes, record: Record, expected: int | None) -> Steps[bool]: ...

    @abstractmethod
    def _touch(self, key: bytes, expires: float) -> Steps[bool]: ...

    @abstractmethod
    def _delete(self, key: bytes) -> Steps[bool]: ...

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        return run(self._load(key))

    async def aload(self, key: bytes) -> Record | None:
        self.check_key(key)
        return await arun(self._load(key))

    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        return run(self._create(key, record))

    async def acreate(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        return await arun(self._create(key, record))

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        return run(self._replace(key, record, expected))

    async def areplace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        return await arun(self._replace(key, record, expected))

    def touch(self, key: bytes, expires: float) -> bool:
        self.check_touch(key, expires)
        return run(self._touch(key, expires))

    async def atouch(self, key: bytes, expires: float) -> bool:
        self.check_touch(key, expires)
        return await arun(self._touch(key, expires))

    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        return run(self._delete(key))

    async def adelete(self, key: bytes) -> bool:
        self.check_key(key)
        return await arun(self._delete(key))


class PagedStore(SteppedStore):
    """A store that writes all else as steps too: batches, pages, setup and stats."""

    @abstractmethod
    def _delete_batch(self, moment: float, batch_size: int) -> Steps[int | None]:
        """Remove some of what had expired at ``moment``; ``None`` when there is no more."""

    @abstractmethod
    def _page(self, owner: bytes | None, start: Any) -> Steps[Page]:
        """Some of the records, of one owner or of all; ``start`` is ``None`` at first."""

    @abstractmethod
    def _setup(self) -> Steps[None]: ...

    @abstractmethod
    def _stats(self) -> Steps[StoreStats]: ...

    def _was_put(self, changed: bool, repeated: bool, key: bytes, record: Record) -> Steps[bool]:
        """What to say of a write: one sent again may have been done the first time."""
        if changed or not repeated:
            return changed
        return (yield from self._load(key)) == record

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        # What expires from now on is not waited for, so that it ends.
        moment = now()
        while (count := run(self._delete_batch(moment, batch_size))) is not None:
            yield count

    async def adelete_expired(self, *, batch_size: int = 1000) -> AsyncIterator[int]:
        moment = now()
        while (count := await arun(self._delete_batch(moment, batch_size))) is not None:
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
        items, start = run(self._page(owner, None))
        yield from items
        while start is not None:
            items, start = run(self._page(owner, start))
            yield from items

    async def _apages(self, owner: bytes | None) -> AsyncIterator[tuple[bytes, Record]]:
        items, start = await arun(self._page(owner, None))
        for item in items:
            yield item
        while start is not None:
            items, start = await arun(self._page(owner, start))
            for item in items:
                yield item

    def setup(self) -> None:
        run(self._setup())

    async def asetup(self) -> None:
        await arun(self._setup())

    def stats(self) -> StoreStats:
        return run(self._stats())

    async def astats(self) -> StoreStats:
        return await arun(self._stats())
