"""``StoreConformance``: the whole contract of ``stores.base.Store`` as a pytest class.

A store's author subclasses it and says how the store is opened::

    from functools import partial

    from django_kvsessions.testing import StoreConformance

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def make_store(self, tmp_path):
            return partial(MyStore, tmp_path / "sessions")

``make_store`` returns a picklable callable without arguments. Whatever it
opens is empty at the start of each test, and every call opens the same data,
in this process or in another one.

The class attributes are of two kinds. The flags say what kind of store this
is; a test that cannot apply is not collected (it is never passed silently).
The sizes say how much the tests do: lower them for a slow server, raise them
to put a store under stress. pytest and freezegun must be installed. For
readable failures, put ``pytest.register_assert_rewrite("django_kvsessions.testing")``
into conftest.py, before anything imports this module.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import freezegun
import pytest

from django_kvsessions.stores.base import (
    KEY_SIZE,
    MAX_REVISION,
    OWNER_SIZE,
    Record,
    Store,
    StoreStats,
    StoreUnavailable,
)
from django_kvsessions.testing_processes import (
    LONG,
    KillRun,
    MakeStore,
    Process,
    clean_from,
    count_up,
    create_keys,
    fork_and_kill,
    increment,
    make_key,
    next_count,
    opened,
    run_processes,
    wait_until,
    write_from,
)

__all__ = ["MakeStore", "StoreConformance"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

ALICE = b"\x0aalice".ljust(OWNER_SIZE, b"\x00")
BOB = b"\xffbob".ljust(OWNER_SIZE, b"\xff")


def requires(**flags: bool) -> Callable[[F], F]:
    """Collect the test only for stores whose flags are these."""

    def mark(function: F) -> F:
        function.requires = flags  # type: ignore[attr-defined]
        return function

    return mark


class AsyncCalls(Store):
    """A store used through its async methods, so that one test covers both colours."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(max_record_size=store.max_record_size)
        self.store = store
        self.loop = loop

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
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

    def close(self) -> None:
        self.wait(self.store.aclose())


class Clock:
    """The real clock: to advance is to wait."""

    def __init__(self, short_life: float) -> None:
        #: Seconds after which a record made to expire in a test does so.
        self.short_life = short_life

    def now(self) -> float:
        return time.time()

    def advance(self, seconds: float) -> None:
        time.sleep(seconds)

    def soon(self) -> float:
        return self.now() + self.short_life

    def outlive(self) -> None:
        """Let whatever was to expire ``soon`` expire."""
        # A server's clock and ours may round differently.
        self.advance(self.short_life + 0.05)


class FrozenClock(Clock):
    """A clock that stands still until it is told to advance."""

    def __init__(self, frozen: Any) -> None:
        super().__init__(short_life=10.0)
        self.frozen = frozen

    def advance(self, seconds: float) -> None:
        self.frozen.tick(seconds)

    def outlive(self) -> None:
        self.advance(self.short_life)


class Kit:
    """What an author sets, and what the tests below are given."""

    # What kind of store this is.

    #: Two stores on the same data see each other's writes, in one process or in several.
    shared_between_processes = True
    #: What was acknowledged is there after ``close`` and in the next process.
    persistent = True
    #: A store opened before ``os.fork`` may be used in the child too.
    fork_safe = hasattr(os, "fork")
    #: Expiry is judged by ``time.time`` of this process, so a frozen clock rules it.
    uses_local_clock = True
    #: Expired records go without ``delete_expired``, which may then yield nothing.
    removes_expired_itself = False
    #: The life, in seconds, of records that a test waits for on the real clock: the
    #: shortest that the store can keep, but time enough to create one and touch it.
    min_expiry_seconds = 0.3
    #: How exactly an expiry is kept, in seconds.
    expiry_resolution = 0.001
    #: The author may override this with a fixture that gives a callable without
    #: arguments, which returns a context manager: while it is entered, the
    #: backend behind the store fails (a server is stopped, a network is cut).
    outage: Any = None

    # How much the tests do.

    #: Threads, and async tasks, that race each other, and keys that they race for.
    racers = 8
    race_keys = 25
    #: Compare-and-swap increments of one counter by each racer.
    increments = 20
    #: Scans of ``race_keys`` records while other threads write.
    scans = 20
    #: Records that expire together in the clean-up tests.
    expired_records = 25
    #: Records, and bytes in each, that ``scan`` must not hold in memory at once.
    scan_records = 1000
    scan_record_size = 10_000
    #: Real processes that race each other, and what each does.
    processes = 3
    process_keys = 100
    process_increments = 40
    #: The kill -9 runs: processes and threads in each that write, keys of each
    #: thread, and how often a process is killed and started again.
    kill_processes = 2
    kill_threads = 2
    kill_keys = 15
    kills = 4
    #: Seconds after which something that waits has failed.
    patience = 60.0

    @pytest.fixture
    def store(self, make_store: MakeStore) -> Iterator[Store]:
        store = make_store()
        store.setup()
        yield store
        store.close()

    @pytest.fixture(params=["sync", "async"])
    def both(self, request: pytest.FixtureRequest, store: Store) -> Iterator[Store]:
        """The store through its sync methods, then through its async ones."""
        if request.param == "sync":
            yield store
            return
        loop = asyncio.new_event_loop()
        try:
            yield AsyncCalls(store, loop)
            loop.run_until_complete(store.aclose())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    @pytest.fixture
    def clock(self) -> Iterator[Clock]:
        if not self.uses_local_clock:
            yield Clock(self.min_expiry_seconds)
            return
        start = datetime.now(timezone.utc).replace(microsecond=0)
        with freezegun.freeze_time(start, real_asyncio=True) as frozen:
            # freezegun gives the real time to whatever the threading module calls,
            # which is every async method that runs in a worker thread.
            freezegun.api.ignore_lists[-1] = ("_pytest.timing", "_pytest.runner")
            yield FrozenClock(frozen)

    @pytest.fixture
    def eager_switches(self) -> Iterator[None]:
        """Threads that take turns a thousand times as often, so that races show."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(before)

    @pytest.fixture(autouse=True)
    def _set_later(self) -> None:
        # At the start, since threads that race would each work it out for themselves.
        #: An hour from the start of the test.
        self.later = time.time() + LONG

    def make_record(
        self,
        data: bytes = b"data",
        expires: float | None = None,
        revision: int = 1,
        owner: bytes = b"",
    ) -> Record:
        return Record(data, self.later if expires is None else expires, revision, owner)

    def assert_same(self, loaded: Record | None, expected: Record) -> None:
        assert loaded is not None, "a live record is missing"
        assert abs(loaded.expires - expected.expires) <= self.expiry_resolution
        assert loaded._replace(expires=0.0) == expected._replace(expires=0.0)

    def assert_absent(self, store: Store, key: bytes) -> None:
        assert store.load(key) is None
        assert key not in [found for found, _ in store.scan()]

    def race(self, *functions: Callable[[], T]) -> list[T]:
        """Call them at the same moment, each in a thread; what each returned."""
        barrier = threading.Barrier(len(functions))
        results: dict[int, T] = {}
        errors: list[BaseException] = []

        def start(number: int) -> None:
            try:
                barrier.wait(self.patience)
                results[number] = functions[number]()
            except BaseException as error:
                errors.append(error)

        # A daemon does not keep the tests from ending when a store has locked itself up.
        threads = [
            threading.Thread(target=start, args=(number,), daemon=True)
            for number in range(len(functions))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.patience)
            assert not thread.is_alive(), f"a thread is still waiting after {self.patience} s"
        for error in errors:
            raise error
        return [results[number] for number in range(len(functions))]


class Basics(Kit):
    """load, create, replace, touch and delete of live records."""

    def test_a_key_that_was_never_written_is_absent(self, both: Store) -> None:
        key = make_key("never")
        assert both.load(key) is None
        assert both.touch(key, time.time() + LONG) is False
        assert both.delete(key) is False
        assert both.replace(key, self.make_record()) is False
        assert both.replace(key, self.make_record(), expected=1) is False
        self.assert_absent(both, key)

    def test_what_was_created_is_loaded(self, both: Store) -> None:
        record = self.make_record(b"payload", owner=ALICE)
        assert both.create(make_key(1), record) is True
        loaded = both.load(make_key(1))
        self.assert_same(loaded, record)
        assert loaded is not None
        assert [type(loaded)] + [type(field) for field in loaded] == [
            Record, bytes, float, int, bytes
        ]  # fmt: skip

    def test_create_leaves_a_live_record_alone(self, both: Store) -> None:
        first, second = self.make_record(b"first"), self.make_record(b"second", revision=2)
        assert both.create(make_key(1), first) is True
        assert both.create(make_key(1), second) is False
        self.assert_same(both.load(make_key(1)), first)

    def test_replace_changes_the_whole_record(self, both: Store) -> None:
        both.create(make_key(1), self.make_record(b"a longer first", owner=ALICE))
        second = self.make_record(b"second", time.time() + 2 * LONG, revision=2, owner=BOB)
        assert both.replace(make_key(1), second) is True
        self.assert_same(both.load(make_key(1)), second)

    def test_replace_goes_by_the_expected_revision(self, both: Store) -> None:
        first, second = self.make_record(b"1", revision=7), self.make_record(b"2", revision=0)
        both.create(make_key(1), first)
        assert both.replace(make_key(1), second, expected=8) is False
        assert both.replace(make_key(1), second, expected=0) is False
        self.assert_same(both.load(make_key(1)), first)
        assert both.replace(make_key(1), second, expected=7) is True
        # Zero is a revision like any other, not "none given".
        assert both.replace(make_key(1), first, expected=7) is False
        self.assert_same(both.load(make_key(1)), second)
        assert both.replace(make_key(1), first, expected=0) is True
        self.assert_same(both.load(make_key(1)), first)

    def test_touch_moves_the_expiry_and_nothing_else(self, both: Store) -> None:
        record = self.make_record(b"touched", revision=5, owner=ALICE)
        both.create(make_key(1), record)
        for expires in (record.expires + LONG, record.expires - LONG / 2):
            assert both.touch(make_key(1), expires) is True
            self.assert_same(both.load(make_key(1)), record._replace(expires=expires))
        assert both.replace(make_key(1), record, expected=5) is True

    def test_touch_goes_by_the_expected_revision(self, both: Store) -> None:
        record = self.make_record(b"touched", revision=0, owner=ALICE)
        both.create(make_key(1), record)
        assert both.touch(make_key(1), record.expires + LONG, expected=1) is False
        self.assert_same(both.load(make_key(1)), record)
        assert both.touch(make_key(1), record.expires + LONG, expected=0) is True
        self.assert_same(both.load(make_key(1)), record._replace(expires=record.expires + LONG))
        # A touch is no new revision, so the next one may expect the same.
        assert both.touch(make_key(1), record.expires, expected=0) is True
        assert both.replace(make_key(1), record._replace(revision=3), expected=0) is True
        assert both.touch(make_key(1), record.expires + LONG, expected=0) is False
        self.assert_same(both.load(make_key(1)), record._replace(revision=3))
        assert both.touch(make_key(2), record.expires, expected=0) is False
        self.assert_absent(both, make_key(2))

    def test_delete_is_true_only_for_a_live_record(self, both: Store) -> None:
        both.create(make_key(1), self.make_record(owner=ALICE))
        assert both.delete(make_key(1)) is True
        assert both.delete(make_key(1)) is False
        self.assert_absent(both, make_key(1))
        assert list(both.scan_owner(ALICE)) == []

    def test_nothing_but_create_brings_a_deleted_record_back(self, both: Store) -> None:
        record = self.make_record()
        both.create(make_key(1), record)
        both.delete(make_key(1))
        assert both.replace(make_key(1), record) is False
        assert both.replace(make_key(1), record, expected=record.revision) is False
        assert both.touch(make_key(1), time.time() + LONG) is False
        self.assert_absent(both, make_key(1))
        assert both.create(make_key(1), record) is True
        self.assert_same(both.load(make_key(1)), record)

    def test_keys_that_differ_in_one_bit_do_not_mix(self, both: Store) -> None:
        keys = [b"\x00" * KEY_SIZE, b"\xff" * KEY_SIZE, bytes(range(KEY_SIZE))]
        keys += [b"\x00" * 31 + b"\x01", b"\x01" + b"\x00" * 31, b"\n" * KEY_SIZE, b"%" * KEY_SIZE]
        for number, key in enumerate(keys):
            assert both.create(key, self.make_record(key, revision=number)) is True
        for number, key in enumerate(keys):
            self.assert_same(both.load(key), self.make_record(key, revision=number))
        assert both.delete(keys[0]) is True
        assert {key for key, _ in both.scan()} == set(keys[1:])

    def test_setup_may_run_again(self, both: Store) -> None:
        record = self.make_record()
        both.create(make_key(1), record)
        both.setup()
        both.setup()
        self.assert_same(both.load(make_key(1)), record)

    def test_a_closed_store_reopens_at_the_next_use(self, both: Store) -> None:
        both.create(make_key(1), self.make_record())
        both.close()
        both.close()
        assert both.create(make_key(2), self.make_record()) is True
        assert both.load(make_key(2)) is not None

    @requires(persistent=True)
    def test_what_was_acknowledged_outlives_the_store(
        self, both: Store, make_store: MakeStore
    ) -> None:
        record = self.make_record(owner=ALICE)
        both.create(make_key(1), record)
        both.create(make_key(2), record)
        both.delete(make_key(2))
        both.close()
        with opened(make_store) as again:
            self.assert_same(again.load(make_key(1)), record)
            assert again.load(make_key(2)) is None

    @requires(shared_between_processes=True)
    def test_two_stores_on_the_same_data_see_each_other(
        self, both: Store, make_store: MakeStore
    ) -> None:
        with opened(make_store) as other:
            record = self.make_record(owner=ALICE)
            assert both.create(make_key(1), record) is True
            assert other.create(make_key(1), record) is False
            self.assert_same(other.load(make_key(1)), record)
            assert other.replace(make_key(1), record._replace(data=b"", revision=2), expected=1)
            self.assert_same(both.load(make_key(1)), record._replace(data=b"", revision=2))
            assert both.replace(make_key(1), record, expected=1) is False
            assert [key for key, _ in both.scan_owner(ALICE)] == [make_key(1)]
            assert other.delete(make_key(1)) is True
            self.assert_absent(both, make_key(1))
            assert both.touch(make_key(1), time.time() + LONG) is False


class Values(Kit):
    """What a record may hold, and what is refused before anything is written."""

    @pytest.mark.parametrize("revision", [0, 1, 2**31, 2**53 + 1, MAX_REVISION])
    def test_a_revision_comes_back_exactly(self, both: Store, revision: int) -> None:
        record = self.make_record(revision=revision)
        both.create(make_key(1), record)
        self.assert_same(both.load(make_key(1)), record)
        assert both.replace(make_key(1), record, expected=(revision + 1) % 2**63) is False
        assert both.replace(make_key(1), record, expected=revision) is True

    @pytest.mark.parametrize("owner", [b"", ALICE, b"\x00" * 16, b"\xff" * 16, bytes(range(16))])
    def test_an_owner_comes_back_exactly(self, both: Store, owner: bytes) -> None:
        record = self.make_record(owner=owner)
        both.create(make_key(1), record)
        self.assert_same(both.load(make_key(1)), record)

    @pytest.mark.parametrize(
        "data",
        [b"", b"\x00", bytes(range(256)) * 3, b"\r\n\x1a' \x00\xff\xfe", "\u2028".encode()],
        ids=["empty", "NUL", "every byte", "awkward", "text"],
    )
    def test_data_comes_back_byte_for_byte(self, both: Store, data: bytes) -> None:
        both.create(make_key(1), self.make_record(data))
        self.assert_same(both.load(make_key(1)), self.make_record(data))
        both.replace(make_key(1), self.make_record(data[::-1], revision=2))
        self.assert_same(both.load(make_key(1)), self.make_record(data[::-1], revision=2))

    def test_a_record_at_the_limit_fits_and_one_over_it_is_refused(self, both: Store) -> None:
        limit = both.max_record_size
        largest = self.make_record(os.urandom(limit), revision=MAX_REVISION, owner=ALICE)
        too_large = self.make_record(b"x" * (limit + 1), revision=2)
        assert both.create(make_key(1), largest) is True
        with pytest.raises(ValueError, match=str(limit)):
            both.create(make_key(2), too_large)
        with pytest.raises(ValueError, match=str(limit)):
            both.replace(make_key(1), too_large)
        self.assert_same(both.load(make_key(1)), largest)
        self.assert_absent(both, make_key(2))

    @pytest.mark.parametrize("key", [b"", b"k", b"k" * 31, b"k" * 33], ids=len)
    def test_a_key_of_the_wrong_length_is_refused(self, both: Store, key: bytes) -> None:
        for call in (
            lambda: both.load(key),
            lambda: both.create(key, self.make_record()),
            lambda: both.replace(key, self.make_record()),
            lambda: both.touch(key, time.time() + LONG),
            lambda: both.delete(key),
        ):
            with pytest.raises(ValueError, match="32"):
                call()
        assert list(both.scan()) == []

    @pytest.mark.parametrize(
        ("field", "value", "named"),
        [
            ("revision", -1, "revision"),
            ("revision", 2**63, "revision"),
            ("owner", b"short", "owner"),
            ("owner", b"o" * 17, "owner"),
            ("expires", float("inf"), "expiry"),
            ("expires", float("nan"), "expiry"),
        ],
    )
    def test_a_wrong_record_is_refused(
        self, both: Store, field: str, value: Any, named: str
    ) -> None:
        good = self.make_record()
        wrong = good._replace(**{field: value})
        both.create(make_key(1), good)
        with pytest.raises(ValueError, match=named):
            both.create(make_key(2), wrong)
        with pytest.raises(ValueError, match=named):
            both.replace(make_key(1), wrong)
        self.assert_absent(both, make_key(2))
        self.assert_same(both.load(make_key(1)), good)

    @pytest.mark.parametrize("expires", [float("inf"), float("nan")])
    def test_a_touch_to_no_time_is_refused(self, both: Store, expires: float) -> None:
        record = self.make_record()
        both.create(make_key(1), record)
        with pytest.raises(ValueError, match="expiry"):
            both.touch(make_key(1), expires)
        self.assert_same(both.load(make_key(1)), record)

    def test_what_was_loaded_stays_as_it_is(self, both: Store) -> None:
        # Some engines lend a view of their own memory.
        record = self.make_record(b"first" * 100)
        both.create(make_key(1), record)
        loaded = both.load(make_key(1))
        scanned = dict(both.scan())[make_key(1)]
        both.replace(make_key(1), self.make_record(b"other" * 100, revision=2))
        both.delete(make_key(1))
        both.close()
        self.assert_same(loaded, record)
        self.assert_same(scanned, record)


class Expiry(Kit):
    """At or past its expiry a record does not exist for anyone."""

    @requires(uses_local_clock=True)
    def test_a_record_lives_until_its_very_second(self, both: Store, clock: Clock) -> None:
        record = self.make_record(expires=clock.now() + 100)
        both.create(make_key(1), record)
        clock.advance(99)
        self.assert_same(both.load(make_key(1)), record)
        clock.advance(1)
        assert both.load(make_key(1)) is None

    @requires(uses_local_clock=True)
    def test_touch_decides_the_very_second(self, both: Store, clock: Clock) -> None:
        both.create(make_key(1), self.make_record(expires=clock.now() + 100))
        both.create(make_key(2), self.make_record(expires=clock.now() + 100))
        assert both.touch(make_key(1), clock.now() + 200)
        assert both.touch(make_key(2), clock.now() + 50)
        clock.advance(49)
        assert both.load(make_key(2)) is not None
        clock.advance(1)
        assert both.load(make_key(2)) is None
        clock.advance(149)
        assert both.load(make_key(1)) is not None
        clock.advance(1)
        assert both.load(make_key(1)) is None

    def test_an_expired_record_is_absent_for_everyone(self, both: Store, clock: Clock) -> None:
        record = self.make_record(expires=clock.soon(), owner=ALICE)
        alive = self.make_record(expires=clock.now() + LONG, owner=ALICE)
        for number in range(6):
            both.create(make_key(number), record)
        both.create(make_key("alive"), alive)
        clock.outlive()
        assert both.load(make_key(0)) is None
        assert both.touch(make_key(1), clock.now() + LONG) is False
        assert both.replace(make_key(2), alive) is False
        assert both.replace(make_key(3), alive, expected=record.revision) is False
        assert both.delete(make_key(4)) is False
        assert [key for key, _ in both.scan()] == [make_key("alive")]
        assert [key for key, _ in both.scan_owner(ALICE)] == [make_key("alive")]
        for number in range(6):
            assert both.load(make_key(number)) is None

    def test_create_takes_the_place_of_an_expired_record(self, both: Store, clock: Clock) -> None:
        both.create(make_key(1), self.make_record(b"old", clock.soon(), 1, ALICE))
        clock.outlive()
        new = self.make_record(b"new", clock.now() + LONG, 2, BOB)
        assert both.create(make_key(1), new) is True
        self.assert_same(both.load(make_key(1)), new)
        assert [key for key, _ in both.scan()] == [make_key(1)]
        assert list(both.scan_owner(ALICE)) == []
        # Clearing what was there before must not take the new one along.
        for _ in both.delete_expired():
            pass
        self.assert_same(both.load(make_key(1)), new)

    def test_replace_moves_the_expiry(self, both: Store, clock: Clock) -> None:
        both.create(make_key(1), self.make_record(expires=clock.soon()))
        both.replace(make_key(1), self.make_record(expires=clock.now() + LONG, revision=2))
        both.create(make_key(2), self.make_record(expires=clock.now() + LONG))
        both.replace(make_key(2), self.make_record(expires=clock.soon(), revision=2))
        clock.outlive()
        assert both.load(make_key(1)) is not None
        assert both.load(make_key(2)) is None

    def test_an_expiry_in_the_past_ends_a_record(self, both: Store, clock: Clock) -> None:
        past = clock.now() - 10
        assert both.create(make_key(1), self.make_record(expires=past)) is True
        for number in (2, 3):
            both.create(make_key(number), self.make_record(expires=clock.now() + LONG))
        assert both.replace(make_key(2), self.make_record(expires=past, revision=2)) is True
        assert both.touch(make_key(3), past) is True
        for number in (1, 2, 3):
            self.assert_absent(both, make_key(number))
            assert both.create(make_key(number), self.make_record(expires=clock.now() + LONG))


class CleanUp(Kit):
    """delete_expired and stats."""

    def fill(self, store: Store, clock: Clock) -> None:
        """``expired_records`` that have expired, and three live ones, two of them renewed."""
        alive = self.make_record(expires=clock.now() + LONG)
        store.create(make_key("touched"), self.make_record(expires=clock.soon()))
        assert store.touch(make_key("touched"), alive.expires)
        store.create(make_key("replaced"), self.make_record(expires=clock.soon()))
        assert store.replace(make_key("replaced"), alive)
        for number in range(self.expired_records):
            store.create(make_key(number), self.make_record(expires=clock.soon(), owner=ALICE))
        store.create(make_key("alive"), alive._replace(owner=ALICE))
        clock.outlive()

    def assert_only_live_ones_left(self, store: Store) -> None:
        alive = {make_key("touched"), make_key("replaced"), make_key("alive")}
        assert {key for key, _ in store.scan()} == alive
        assert all(store.load(key) is not None for key in alive)
        assert [key for key, _ in store.scan_owner(ALICE)] == [make_key("alive")]

    def test_clean_up_leaves_the_living_alone(self, both: Store, clock: Clock) -> None:
        self.fill(both, clock)
        for _ in both.delete_expired(batch_size=10):
            pass
        self.assert_only_live_ones_left(both)
        assert both.stats().expired in (0, None)

    @requires(removes_expired_itself=False)
    def test_clean_up_removes_each_expired_record_once(self, both: Store, clock: Clock) -> None:
        self.fill(both, clock)
        assert sum(both.delete_expired(batch_size=10)) == self.expired_records
        assert sum(both.delete_expired(batch_size=10)) == 0
        self.assert_only_live_ones_left(both)

    @requires(removes_expired_itself=False)
    def test_clean_up_keeps_to_its_batch_size(self, both: Store, clock: Clock) -> None:
        self.fill(both, clock)
        batches = list(both.delete_expired(batch_size=10))
        assert max(batches) <= 10
        assert sum(batches) == self.expired_records

    @requires(removes_expired_itself=False)
    def test_clean_up_may_stop_half_way(self, both: Store, clock: Clock) -> None:
        self.fill(both, clock)
        batches = both.delete_expired(batch_size=5)
        first = next(batches)
        del batches
        assert 0 <= first <= 5
        assert both.create(make_key("new"), self.make_record(expires=clock.now() + LONG))
        assert both.delete(make_key("new"))
        assert first + sum(both.delete_expired(batch_size=5)) == self.expired_records

    @requires(removes_expired_itself=False)
    def test_the_store_stays_usable_between_batches(self, store: Store, clock: Clock) -> None:
        self.fill(store, clock)
        renewed = [make_key(number) for number in range(self.expired_records)]
        alive = self.make_record(expires=clock.now() + LONG)

        def use() -> None:
            assert store.load(make_key("alive")) is not None
            assert store.create(make_key("new"), alive)
            assert store.replace(make_key("new"), alive)
            assert store.touch(make_key("new"), alive.expires)
            assert store.delete(make_key("new"))

        for count in store.delete_expired(batch_size=5):
            # From another thread, which a lock held over a yield would stop.
            self.race(use)
            while renewed:
                # Whatever takes an expired record's place meanwhile must stay.
                assert store.create(renewed.pop(), alive)
            assert count <= 5
        for number in range(self.expired_records):
            assert store.load(make_key(number)) is not None
        assert store.load(make_key("alive")) is not None

    @requires(removes_expired_itself=False)
    def test_two_clean_ups_at_once_remove_each_record_once(
        self, store: Store, clock: Clock, eager_switches: None
    ) -> None:
        self.fill(store, clock)
        removed = self.race(*[lambda: sum(store.delete_expired(batch_size=3))] * 2)
        assert sum(removed) == self.expired_records
        self.assert_only_live_ones_left(store)

    @requires(shared_between_processes=True, removes_expired_itself=False)
    def test_two_stores_that_clean_up_at_once_remove_each_record_once(
        self, store: Store, make_store: MakeStore, clock: Clock
    ) -> None:
        self.fill(store, clock)
        with opened(make_store) as other:
            removed = self.race(
                lambda: sum(store.delete_expired(batch_size=3)),
                lambda: sum(other.delete_expired(batch_size=3)),
            )
        assert sum(removed) == self.expired_records
        self.assert_only_live_ones_left(store)

    def test_stats_count_the_living_and_the_expired(self, both: Store, clock: Clock) -> None:
        assert both.stats().live in (0, None)
        self.fill(both, clock)
        stats = both.stats()
        assert stats.live in (3, None)
        assert stats.size is None or stats.size > 0
        if not self.removes_expired_itself:
            assert stats.expired in (self.expired_records, None)


class Scanning(Kit):
    """scan and scan_owner."""

    def test_scan_finds_every_record_once(self, both: Store) -> None:
        assert list(both.scan()) == []
        records = {
            make_key(number): self.make_record(b"%d" % number, revision=number)
            for number in range(150)
        }
        for key, record in records.items():
            both.create(key, record)
        found = list(both.scan())
        assert len(found) == len(records)
        for key, record in found:
            self.assert_same(record, records[key])

    def test_scan_goes_on_while_others_write(self, both: Store) -> None:
        for number in range(150):
            both.create(make_key(number), self.make_record(b"%d" % number))
        found = []
        for count, (key, record) in enumerate(both.scan()):
            found.append(key)
            assert key == make_key(record.data.decode())
            if count < 20:
                # The first hundred stay, some of them renewed; the others go under the scan.
                both.replace(make_key(count), self.make_record(b"%d" % count, revision=2))
                both.touch(make_key(20 + count), time.time() + 2 * LONG)
                both.delete(make_key(100 + count))
                both.create(make_key(1000 + count), self.make_record(b"%d" % (1000 + count)))
        assert len(found) == len(set(found))
        assert set(found) >= {make_key(number) for number in range(100)}

    def test_scan_may_stop_half_way(self, both: Store) -> None:
        for number in range(20):
            both.create(make_key(number), self.make_record())
        records = both.scan()
        next(records)
        del records
        assert both.create(make_key("new"), self.make_record()) is True
        assert len(list(both.scan())) == 21

    def test_scan_owner_finds_what_is_theirs_now(self, both: Store) -> None:
        for number in range(6):
            both.create(make_key(number), self.make_record(owner=[b"", ALICE, BOB][number % 3]))
        both.replace(make_key(0), self.make_record(b"login", owner=ALICE))
        both.replace(make_key(1), self.make_record(b"logout", owner=b""))
        both.touch(make_key(4), time.time() + 2 * LONG)
        found = dict(both.scan_owner(ALICE))
        assert found.keys() == {make_key(0), make_key(4)}
        self.assert_same(found[make_key(0)], self.make_record(b"login", owner=ALICE))
        assert {key for key, _ in both.scan_owner(BOB)} == {make_key(2), make_key(5)}
        assert list(both.scan_owner(b"nobody".ljust(OWNER_SIZE, b"\x00"))) == []

    def test_scan_owner_goes_on_while_owners_change(self, both: Store) -> None:
        for number in range(150):
            both.create(make_key(number), self.make_record(owner=ALICE))
        for count, (_, record) in enumerate(both.scan_owner(ALICE)):
            assert record.owner == ALICE
            if count == 0:
                for number in range(150):
                    both.replace(make_key(number), self.make_record(owner=BOB))
        assert len(list(both.scan_owner(BOB))) == 150

    @pytest.mark.parametrize("owner", [b"", b"short", b"o" * 17], ids=len)
    def test_scan_owner_refuses_what_is_no_owner(self, both: Store, owner: bytes) -> None:
        both.create(make_key(1), self.make_record())
        with pytest.raises(ValueError, match="owner"):
            list(both.scan_owner(owner))

    def test_scan_runs_in_bounded_memory(self, store: Store) -> None:
        total = self.scan_records * self.scan_record_size
        for number in range(self.scan_records):
            store.create(make_key(number), self.make_record(os.urandom(self.scan_record_size)))

        async def ascan() -> int:
            count = 0
            async for _, record in store.ascan():
                count += len(record.data) == self.scan_record_size
            await store.aclose()
            return count

        def scan() -> int:
            return sum(len(record.data) == self.scan_record_size for _, record in store.scan())

        tracemalloc.start()
        try:
            for count in (scan, lambda: asyncio.run(ascan())):
                before = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
                assert count() == self.scan_records
                used = tracemalloc.get_traced_memory()[1] - before
                assert used < total / 2, f"scanning {total} bytes took {used} bytes of memory"
        finally:
            tracemalloc.stop()


class AsyncMethods(Kit):
    """What the async methods promise beyond what the sync ones do."""

    def test_async_methods_run_inline_only_where_they_cannot_block(self, store: Store) -> None:
        async def runs_inline(coroutine: Coroutine[Any, Any, Any]) -> bool:
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


class Outages(Kit):
    """A backend that fails says so, and loses nothing that it acknowledged."""

    @requires(outage=True)
    def test_every_method_says_that_the_store_is_unavailable(
        self, both: Store, outage: Callable[[], AbstractContextManager[object]]
    ) -> None:
        records = {make_key(number): self.make_record(b"%d" % number) for number in range(5)}
        for key, record in records.items():
            assert both.create(key, record)
        new = make_key("new")
        with outage():
            for call in (
                lambda: both.load(make_key(1)),
                lambda: both.create(new, self.make_record()),
                lambda: both.replace(make_key(1), self.make_record(b"lost", revision=2)),
                lambda: both.replace(make_key(1), self.make_record(b"lost"), expected=1),
                lambda: both.touch(make_key(1), time.time() + 2 * LONG),
                lambda: both.delete(make_key(1)),
                lambda: list(both.delete_expired()),
                lambda: list(both.scan()),
                lambda: list(both.scan_owner(ALICE)),
                both.stats,
            ):
                with pytest.raises(StoreUnavailable) as raised:
                    call()
                assert raised.value.__cause__ is not None, "the driver's own error is not chained"
        assert dict(both.scan()).keys() == records.keys()
        for key, record in records.items():
            self.assert_same(both.load(key), record)
        assert both.create(new, self.make_record()) is True

    @requires(outage=True)
    def test_an_outage_in_the_middle_of_writing_loses_nothing(
        self, store: Store, outage: Callable[[], AbstractContextManager[object]]
    ) -> None:
        acknowledged: list[int] = []
        failures: list[Exception] = []

        def write() -> None:
            for number in range(1_000_000):
                try:
                    assert store.create(make_key(number), self.make_record(b"%d" % number))
                except Exception as error:
                    failures.append(error)
                    return
                acknowledged.append(number)

        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: len(acknowledged) >= 5 or bool(failures), self.patience)
        with outage():
            writer.join(self.patience)
        assert [type(error) for error in failures] == [StoreUnavailable]
        assert len(acknowledged) >= 5
        for number in acknowledged:
            self.assert_same(store.load(make_key(number)), self.make_record(b"%d" % number))


class Processes(Kit):
    """Real processes on the same data, some of them killed."""

    @requires(shared_between_processes=True)
    def test_one_process_wins_each_create(
        self, store: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        results = run_processes(
            tmp_path,
            [
                (create_keys, make_store, tmp_path, number, self.processes, self.process_keys)
                for number in range(self.processes)
            ],
            self.patience,
        )
        assert sum(len(won) for won in results) == self.process_keys
        for process, won in enumerate(results):
            for number in won:
                loaded = store.load(make_key(number))
                assert loaded is not None
                assert loaded.data == b"%d" % process

    @requires(shared_between_processes=True)
    def test_processes_lose_no_compare_and_swap(
        self, store: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        store.create(make_key("counter"), self.make_record(b"0", revision=0))
        run_processes(
            tmp_path,
            [
                (count_up, make_store, tmp_path, number, self.processes, self.process_increments)
                for number in range(self.processes)
            ],
            self.patience,
        )
        loaded = store.load(make_key("counter"))
        assert loaded is not None
        assert int(loaded.data) == self.processes * self.process_increments

    @requires(shared_between_processes=True)
    def test_killed_processes_lose_nothing(
        self, store: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        run = KillRun(
            tmp_path,
            self.kill_processes,
            self.kill_threads,
            self.kill_keys,
            self.patience,
        )
        cleaner = Process(tmp_path / "cleaner", clean_from, make_store, run)
        writers = {
            number: Process(tmp_path / f"writer-{number}-0", write_from, make_store, run, number)
            for number in range(self.kill_processes)
        }
        try:
            for kill in range(self.kills):
                victim = kill % self.kill_processes
                run.wait_for_writes(victim)
                time.sleep(random.uniform(0, 0.1))
                assert writers[victim].kill() == -signal.SIGKILL
                run.assert_no_failure()
                writers[victim] = Process(
                    tmp_path / f"writer-{victim}-{kill + 1}", write_from, make_store, run, victim
                )
            for number in range(self.kill_processes):
                run.wait_for_writes(number)
            run.stop()
            for process in writers.values():
                process.result(self.patience)
            assert cleaner.result(self.patience) > 0 or self.removes_expired_itself
        finally:
            run.stop()
            for process in (*writers.values(), cleaner):
                process.kill()
        run.assert_nothing_lost(store)

    @requires(shared_between_processes=True, fork_safe=True)
    def test_killed_forks_of_an_open_store_lose_nothing(
        self, store: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        run = KillRun(
            tmp_path,
            self.kill_processes + 1,
            self.kill_threads,
            self.kill_keys,
            self.patience,
        )
        parent = Process(tmp_path / "parent", fork_and_kill, make_store, run, self.kills)
        try:
            assert parent.result(2 * self.patience) > 0 or self.removes_expired_itself
        finally:
            parent.kill()
        run.assert_nothing_lost(store)


class StoreConformance(
    Basics, Values, Expiry, CleanUp, Scanning, AsyncMethods, Races, Outages, Processes
):
    """Subclass this, name the class ``Test...`` and define the fixture ``make_store``.

    See the module for an example, and ``Kit`` for what can be set.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in dir(StoreConformance):
            test = getattr(StoreConformance, name)
            flags = getattr(test, "requires", None)
            if flags is not None and getattr(cls, name) in (test, None):
                applies = all(bool(getattr(cls, flag)) is flags[flag] for flag in flags)
                # pytest collects no None, and a subclass may set the flag again.
                setattr(cls, name, test if applies else None)
