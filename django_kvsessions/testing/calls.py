"""A store's async methods, called from sync code."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from django_kvsessions.stores.base import Record, Store, StoreStats

__all__ = ["AsyncCalls"]

T = TypeVar("T")


class AsyncCalls(Store):
    """A store used through its async methods, so that one test covers both colours."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(max_record_size=store.max_record_size)
        self.store = store
        self.loop = loop

    def wait(self, coroutine: Coroutine[object, None, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def iterate(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> tuple[bool, Any]:
            try:
                return True, await iterator.__anext__()
            except StopAsyncIteration:
                return False, None

        while True:
            more, item = self.wait(following())
            if not more:
                return
            yield item

    def load(self, key: bytes) -> Record | None:
        return self.wait(self.store.aload(key))

    def create(self, key: bytes, record: Record) -> bool:
        return self.wait(self.store.acreate(key, record))

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        return self.wait(self.store.areplace(key, record, expected=expected))

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        return self.wait(self.store.atouch(key, expires, expected=expected))

    def delete(self, key: bytes) -> bool:
        return self.wait(self.store.adelete(key))

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        return self.iterate(self.store.adelete_expired(batch_size=batch_size))

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        return self.iterate(self.store.ascan())

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        return self.iterate(self.store.ascan_owner(owner))

    def setup(self) -> None:
        self.wait(self.store.asetup())

    def stats(self) -> StoreStats:
        return self.wait(self.store.astats())

    def backup(self, folder: str | os.PathLike[str]) -> None:
        self.wait(self.store.abackup(folder))

    def scan_backup(self, folder: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record]]:
        return self.store.scan_backup(folder)

    def close(self) -> None:
        self.wait(self.store.aclose())
