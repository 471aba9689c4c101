from __future__ import annotations

import os
import signal
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any

import freezegun
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record
from django_kvsessions.stores.memory import MemoryStore
from django_kvsessions.testing import MakeStore, StoreConformance

START = datetime(2100, 1, 1, tzinfo=timezone.utc)
BEGIN = START.timestamp()


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def record(data: bytes = b"data", expires: float = 2e10, owner: bytes = b"") -> Record:
    return Record(data, expires, 1, owner)


def held(store: MemoryStore) -> list[int]:
    return sorted(int.from_bytes(found, "big") for found, _ in store.scan())


class TestMemoryStore(StoreConformance):
    shared_between_processes = False
    persistent = False

    @pytest.fixture
    def make_store(self) -> MakeStore:
        return partial(MemoryStore)


class TestBound:
    def test_the_oldest_goes_first(self) -> None:
        store = MemoryStore(max_entries=4)
        for number in range(6):
            assert store.create(key(number), record()) is True
        assert held(store) == [2, 3, 4, 5]

    @pytest.mark.parametrize(
        "use",
        [
            lambda store: store.load(key(0)),
            lambda store: store.touch(key(0), 3e10),
            lambda store: store.replace(key(0), record()),
        ],
        ids=["load", "touch", "replace"],
    )
    def test_what_was_used_goes_last(self, use: Callable[[MemoryStore], object]) -> None:
        store = MemoryStore(max_entries=3)
        for number in range(3):
            store.create(key(number), record())
        use(store)
        store.create(key(3), record())
        assert held(store) == [0, 2, 3]
        store.create(key(4), record())
        assert held(store) == [0, 3, 4]

    def test_the_expired_go_before_the_living(self) -> None:
        with freezegun.freeze_time(START) as frozen:
            store = MemoryStore(max_entries=3)
            store.create(key(0), record())
            store.create(key(1), record(expires=BEGIN + 5))
            store.create(key(2), record())
            frozen.tick(10.0)
            store.create(key(3), record())
            assert held(store) == [0, 2, 3]
            assert store.stats().expired == 0

    def test_there_are_never_more_than_max_entries(self) -> None:
        store = MemoryStore(max_entries=10)
        for number in range(100):
            store.create(key(number), record(expires=time.time() + number % 3 - 1))
            stats = store.stats()
            assert stats.live is not None
            assert stats.expired is not None
            assert stats.live + stats.expired <= 10

    def test_a_record_in_the_place_of_an_expired_one_pushes_nobody_out(self) -> None:
        store = MemoryStore(max_entries=2)
        store.create(key(0), record())
        store.create(key(1), record(expires=1.0))
        store.create(key(1), record())
        assert held(store) == [0, 1]

    def test_a_scan_is_no_use(self) -> None:
        store = MemoryStore(max_entries=2)
        store.create(key(0), record())
        store.create(key(1), record())
        next(store.scan())
        store.create(key(2), record())
        assert held(store) == [1, 2]

    def test_what_was_pushed_out_leaves_the_owner_index(self) -> None:
        owner = b"o" * 16
        store = MemoryStore(max_entries=1)
        store.create(key(0), record(owner=owner))
        store.create(key(1), record())
        assert list(store.scan_owner(owner)) == []


@pytest.mark.parametrize("expires", [float("inf"), float("nan")])
def test_a_touch_with_no_time_at_all_changes_nothing(expires: float) -> None:
    store = MemoryStore()
    store.create(key(0), record())
    with pytest.raises((ValueError, OverflowError)):
        store.touch(key(0), expires)
    assert store.load(key(0)) == record()
    assert store.delete(key(0)) is True


class TestCleanUp:
    def calls_to_clean_up(self, living: int) -> int:
        """Function calls, C ones too, that it takes to remove ten expired records."""
        store = MemoryStore()
        for number in range(living):
            store.create(key(number), record(expires=BEGIN + 1000 + number % 100))
        for number in range(10):
            store.create(key(living + number), record(expires=BEGIN + number / 10))
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += 1

        with freezegun.freeze_time(START) as frozen:
            frozen.tick(500.0)
            before = sys.getprofile()
            sys.setprofile(count)
            try:
                assert sum(store.delete_expired()) == 10
            finally:
                sys.setprofile(before)
        assert len(held(store)) == living
        return calls

    def test_it_costs_in_proportion_to_what_expired(self) -> None:
        assert self.calls_to_clean_up(living=10_000) < self.calls_to_clean_up(living=100) * 1.2

    def test_what_was_renewed_or_deleted_leaves_nothing_behind(self) -> None:
        store = MemoryStore()
        store.create(key(0), record(expires=BEGIN * 2))
        tracemalloc.start()
        try:
            for seconds in range(50_000):
                assert store.touch(key(0), BEGIN * 2 + seconds)
            for number in range(5000):
                assert store.create(key(1), record(owner=key(number)[-16:])) is True
                assert store.delete(key(1)) is True
            # Fifty thousand numbers in a list would be two megabytes.
            assert tracemalloc.get_traced_memory()[0] < 500_000
        finally:
            tracemalloc.stop()


class TestStats:
    def test_hits_and_misses_are_those_of_load(self) -> None:
        store = MemoryStore()
        store.create(key(0), record(owner=b"o" * 16))
        store.create(key(1), record(expires=1.0))
        for number in (0, 0, 0, 1, 2):
            store.load(key(number))
        list(store.scan())
        list(store.scan_owner(b"o" * 16))
        store.touch(key(0), 3e10)
        stats = store.stats()
        assert (stats.hits, stats.misses) == (3, 2)

    def test_the_size_is_about_what_the_memory_is(self) -> None:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            store = MemoryStore()
            for number in range(2000):
                store.create(
                    key(number),
                    record(bytes(500), time.time() + 1000 + number / 7, os.urandom(16)),
                )
            used = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        size = store.stats().size
        assert size is not None
        assert used / 1.5 < size < used * 1.5

    def test_the_size_follows_what_is_held(self) -> None:
        store = MemoryStore(max_entries=2)
        assert store.stats().size == 0
        sizes = []
        for number in range(3):
            store.create(key(number), record(b"x" * 1000))
            sizes.append(store.stats().size)
        assert sizes[0] is not None
        assert sizes == [sizes[0], 2 * sizes[0], 2 * sizes[0]]
        store.replace(key(2), record(b""))
        assert store.stats().size == 2 * sizes[0] - 1000
        for number in (1, 2):
            store.delete(key(number))
        assert store.stats().size == 0


class TestSettings:
    @pytest.mark.parametrize("max_entries", [0, -1, True, "10", 1.5, None])
    def test_max_entries_is_a_whole_number_from_one_up(self, max_entries: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="max_entries"):
            MemoryStore(max_entries=max_entries)

    def test_a_location_is_refused(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="leave LOCATION out"):
            MemoryStore("/var/lib/sessions")  # type: ignore[arg-type]  # is refused

    @override_settings(
        SESSION_STORES={
            "default": {
                "BACKEND": "django_kvsessions.stores.memory.MemoryStore",
                "OPTIONS": {"max_entries": 1, "max_record_size": 3},
            }
        }
    )
    def test_it_is_made_from_the_settings(self) -> None:
        store = stores["default"]
        assert isinstance(store, MemoryStore)
        store.create(key(0), record(b"abc"))
        store.create(key(1), record(b"abc"))
        assert held(store) == [1]
        with pytest.raises(ValueError, match="max_record_size"):
            store.create(key(2), record(b"abcd"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
class TestFork:
    # Python warns of a fork under threads, which is what is tested.
    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_child_goes_on_with_a_copy_that_is_whole(self) -> None:
        store = MemoryStore(max_entries=50)
        finished = threading.Event()

        def write() -> None:
            number = 20
            while not finished.is_set():
                number += 1
                store.create(key(number), record(expires=time.time() + number % 2, owner=b"o" * 16))
                store.touch(key(number), 3e10)
                store.delete(key(number - 20))

        def use_in_child() -> bool:
            numbers = held(store)
            stats = store.stats()
            theirs = {found for found, _ in store.scan_owner(b"o" * 16)}
            assert theirs == {key(number) for number in numbers}
            assert stats.live == len(numbers)
            for number in range(100):
                assert store.create(key(10**9 + number), record()) is True
            assert len(held(store)) == 50
            return True

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(30):
                child = os.fork()
                if child == 0:
                    # A lock that nobody will ever release must not stop the tests.
                    signal.alarm(20)
                    try:
                        os._exit(0 if use_in_child() else 1)
                    finally:
                        os._exit(2)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            finished.set()
            writer.join()
        assert all(number < 10**9 for number in held(store))
        assert store.create(key(10**9), record()) is True
