"""Threads, and async tasks, that want the same keys."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from functools import partial

from django_kvsessions.stores.base import Record, Store
from django_kvsessions.testing.kit import Kit
from django_kvsessions.testing.records import ALICE, BOB, LONG, increment, make_key, next_count
from django_kvsessions.testing.workers import wait_until

__all__ = ["Races"]


class Races(Kit):
    """Threads, and async tasks, that want the same keys at the same moment."""

    def test_one_thread_wins_each_create(self, store: Store, eager_switches: None) -> None:
        for number in range(self.race_keys):
            key = make_key(number)

            def create(name: int, key: bytes = key) -> int | None:
                won = store.create(key, self.make_record(b"%d" % name, revision=name))
                return name if won else None

            results = self.race(*[lambda name=name: create(name) for name in range(self.racers)])
            winners = [name for name in results if name is not None]
            assert len(winners) == 1, f"{len(winners)} threads created the same key"
            self.assert_same(
                store.load(key), self.make_record(b"%d" % winners[0], revision=winners[0])
            )

    def test_one_task_wins_each_create(self, store: Store) -> None:
        async def main() -> None:
            for number in range(self.race_keys):
                key = make_key(number)
                won = await asyncio.gather(
                    *[
                        store.acreate(key, self.make_record(b"%d" % name, revision=name))
                        for name in range(self.racers)
                    ]
                )
                assert won.count(True) == 1
                loaded = await store.aload(key)
                assert loaded is not None
                assert loaded.revision == won.index(True)
            await store.aclose()

        asyncio.run(main())

    def test_threads_lose_no_compare_and_swap(self, store: Store, eager_switches: None) -> None:
        store.create(make_key(1), self.make_record(b"0", revision=0))
        self.race(*[lambda: increment(store, make_key(1), self.increments)] * self.racers)
        loaded = store.load(make_key(1))
        assert loaded is not None
        assert int(loaded.data) == self.increments * self.racers

    def test_tasks_lose_no_compare_and_swap(self, store: Store) -> None:
        async def increment() -> None:
            for _ in range(self.increments):
                swapped = False
                while not swapped:
                    record = await store.aload(make_key(1))
                    assert record is not None
                    swapped = await store.areplace(
                        make_key(1),
                        next_count(record),
                        expected=record.revision,
                    )

        async def main() -> Record | None:
            await store.acreate(make_key(1), self.make_record(b"0", revision=0))
            await asyncio.gather(*[increment() for _ in range(self.racers)])
            loaded = await store.aload(make_key(1))
            await store.aclose()
            return loaded

        loaded = asyncio.run(main())
        assert loaded is not None
        assert int(loaded.data) == self.increments * self.racers

    def test_no_replace_or_touch_that_races_a_delete_revives(
        self, store: Store, eager_switches: None
    ) -> None:
        for number in range(self.race_keys):
            key = make_key(number)
            store.create(key, self.make_record())

            deleted = threading.Event()
            changes: list[bool] = []

            def delete(
                key: bytes = key,
                deleted: threading.Event = deleted,
                changes: list[bool] = changes,
            ) -> bool:
                wait_until(lambda: len(changes) >= 5, self.patience)
                was_there = store.delete(key)
                deleted.set()
                return was_there

            def revives(
                change: Callable[[], bool],
                deleted: threading.Event = deleted,
                changes: list[bool] = changes,
            ) -> bool:
                """Change the record until it is gone; whether a change succeeded after that."""
                while True:
                    too_late = deleted.is_set()
                    if not change():
                        return False
                    changes.append(True)
                    if too_late:
                        return True

            def replace(key: bytes = key) -> bool:
                return store.replace(key, self.make_record(b"replaced", revision=2))

            def swap(key: bytes = key) -> bool:
                record = store.load(key)
                if record is None:
                    return False
                store.replace(key, self.make_record(b"swapped"), expected=record.revision)
                return True

            def touch(key: bytes = key) -> bool:
                return store.touch(key, time.time() + LONG)

            *revived, was_there = self.race(
                partial(revives, replace), partial(revives, swap), partial(revives, touch), delete
            )
            assert was_there is True
            assert revived == [False, False, False]
            self.assert_absent(store, key)

    def test_no_task_that_races_a_delete_revives(self, store: Store) -> None:
        async def main() -> None:
            for number in range(self.race_keys):
                key = make_key(number)
                await store.acreate(key, self.make_record())
                *_, deleted = await asyncio.gather(
                    store.areplace(key, self.make_record(b"replaced", revision=2)),
                    store.atouch(key, time.time() + 2 * LONG),
                    store.areplace(key, self.make_record(b"swapped", revision=3), expected=1),
                    store.adelete(key),
                )
                assert deleted is True
                assert await store.aload(key) is None
            await store.aclose()

        asyncio.run(main())

    def test_one_thread_wins_each_delete(self, store: Store, eager_switches: None) -> None:
        for number in range(self.race_keys):
            key = make_key(number)
            store.create(key, self.make_record())
            deleted = self.race(*[lambda key=key: store.delete(key)] * self.racers)
            assert deleted.count(True) == 1

    def test_scans_and_clean_ups_go_on_under_writing_threads(
        self, store: Store, eager_switches: None
    ) -> None:
        finished = threading.Event()
        alive = {make_key(f"alive {number}") for number in range(self.race_keys)}
        for key in alive:
            store.create(key, self.make_record(owner=ALICE))

        def write(writer: int) -> None:
            for number in itertools.count():
                if finished.is_set():
                    return
                key = make_key((writer, number))
                assert store.create(key, self.make_record(owner=BOB))
                assert store.replace(key, self.make_record(b"x" * 100, owner=ALICE))
                assert store.delete(key)

        def scan() -> None:
            try:
                for _ in range(self.scans):
                    assert {key for key, _ in store.scan()} >= alive
                    theirs = dict(store.scan_owner(ALICE))
                    assert theirs.keys() >= alive
                    assert {record.owner for record in theirs.values()} == {ALICE}
            finally:
                finished.set()

        def clean_up() -> None:
            while not finished.is_set():
                assert sum(store.delete_expired(batch_size=7)) == 0

        self.race(lambda: write(1), lambda: write(2), scan, clean_up)
        assert {key for key, _ in store.scan()} == alive
