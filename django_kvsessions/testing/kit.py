"""What every part of the kit stands on: flags, sizes, fixtures and assertions."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, TypeVar

import freezegun
import pytest

from django_kvsessions.stores.base import Record, Store
from django_kvsessions.testing.calls import AsyncCalls
from django_kvsessions.testing.clocks import Clock, FrozenClock
from django_kvsessions.testing.records import LONG, MakeStore

__all__ = ["Kit", "requires"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


def requires(**flags: bool) -> Callable[[F], F]:
    """Collect the test only for stores whose flags are these."""

    def mark(function: F) -> F:
        function.requires = flags  # type: ignore[attr-defined]  # a note on it
        return function

    return mark


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
    #: ``backup`` makes copies; otherwise it says what else does.
    makes_backups = False
    #: The life, in seconds, of records that a test waits for on the real clock: the
    #: shortest that the store can keep, but time enough to create one and touch it.
    min_expiry_seconds = 0.3
    #: How exactly an expiry is kept, in seconds.
    expiry_resolution = 0.001
    #: The author may override this with a fixture that gives a callable without
    #: arguments, which returns a context manager: while it is entered, the
    #: backend behind the store fails (a server is stopped, a network is cut).
    outage: Any = None
    #: Likewise with a fixture that gives two things: a callable without arguments
    #: that opens the store through a ``proxy.Proxy``, and that proxy. What it opens
    #: has the same data as what ``make_store`` opens. For a store with a server.
    cutting: Any = None

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
    #: Copies that are made while another thread writes all the time.
    backups = 3
    #: How many points, from the first byte of an answer to its last, it is cut at.
    cut_points = 20
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
        with self.in_colour(store, request.param) as coloured:
            yield coloured

    @contextmanager
    def in_colour(self, store: Store, colour: str) -> Iterator[Store]:
        if colour == "sync":
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
