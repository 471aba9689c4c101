"""What the async methods promise beyond what the sync ones do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

from django_kvsessions.stores.base import Store
from django_kvsessions.testing.kit import Kit
from django_kvsessions.testing.records import LONG, make_key

__all__ = ["AsyncMethods"]


class AsyncMethods(Kit):
    """What the async methods promise beyond what the sync ones do."""

    def test_async_methods_run_inline_only_where_they_cannot_block(self, store: Store) -> None:
        async def runs_inline(coroutine: Coroutine[object, None, object]) -> bool:
            task = asyncio.ensure_future(coroutine)
            await asyncio.sleep(0)
            inline = task.done()
            await task
            return inline

        async def main() -> list[bool]:
            key = make_key(1)
            inline = [
                await runs_inline(call)
                for call in (
                    store.acreate(key, self.make_record()),
                    store.areplace(key, self.make_record(revision=2), expected=1),
                    store.atouch(key, time.time() + 2 * LONG),
                    store.adelete(key),
                    store.aload(make_key("absent")),
                )
            ]
            await store.aclose()
            return inline

        *writes, load = asyncio.run(main())
        assert writes == [store.is_nonblocking] * 4
        # Writes may have to wait for the disk where loads do not.
        assert load or not store.is_nonblocking

    def test_one_event_loop_after_another_may_use_the_store(self, store: Store) -> None:
        # As asgiref's async_to_sync does: each call of it is a loop of its own.
        async def count(number: int) -> int:
            created = await store.acreate(make_key(number), self.make_record())
            loaded = [await store.aload(make_key(earlier)) for earlier in range(number + 1)]
            return created + len([record for record in loaded if record is not None])

        for number in range(3):
            assert asyncio.run(count(number)) == number + 2
        self.race(*[lambda: asyncio.run(store.aload(make_key(0)))] * 2)
        assert store.load(make_key(2)) is not None
