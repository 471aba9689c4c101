"""Stores that each break one promise, and the kit's tests that must catch it.

Not collected by itself, because everything in here fails: test_testing.py runs it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from django_kvsessions.stores.base import Record, Store, StoreUnavailable, now
from django_kvsessions.stores.memory import MemoryStore
from django_kvsessions.testing import MakeStore, StoreConformance
from tests.kit import toy_server
from tests.kit.broken_servers import BrokenToyStore
from tests.kit.folder_store import FolderStore, outage


class Broken:
    caught_by: ClassVar[tuple[str, ...]]


class CreateOverwrites(Broken, MemoryStore):
    caught_by = ("test_create_leaves_a_live_record_alone", "test_one_task_wins_each_create")

    def create(self, key: bytes, record: Record) -> bool:
        return super().create(key, record) or super().replace(key, record)


class CreateLooksBeforeItWrites(Broken, MemoryStore):
    caught_by = ("test_one_thread_wins_each_create",)

    def create(self, key: bytes, record: Record) -> bool:
        if self.load(key) is not None:
            return False
        time.sleep(0.001)
        return super().create(key, record) or super().replace(key, record)


class CreateIsStoppedByTheExpired(Broken, MemoryStore):
    caught_by = ("test_create_takes_the_place_of_an_expired_record",)

    def create(self, key: bytes, record: Record) -> bool:
        return key not in self._records and super().create(key, record)


class TouchTakesNoTime(Broken, MemoryStore):
    caught_by = ("test_a_touch_to_no_time_is_refused",)

    def check_touch(self, key: bytes, expires: float) -> None:
        self.check_key(key)


class ReplaceInserts(Broken, MemoryStore):
    caught_by = (
        "test_a_key_that_was_never_written_is_absent",
        "test_nothing_but_create_brings_a_deleted_record_back",
        "test_an_expired_record_is_absent_for_everyone",
        "test_no_replace_or_touch_that_races_a_delete_revives",
    )
    inserted = 0

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        if super().replace(key, record, expected=expected):
            return True
        # Not for ever: a test's loop until the record is gone must come to its end.
        self.inserted += 1
        return expected is None and self.inserted < 100 and super().create(key, record)


class ReplaceLooksBeforeItWrites(Broken, MemoryStore):
    caught_by = (
        "test_threads_lose_no_compare_and_swap",
        "test_no_replace_or_touch_that_races_a_delete_revives",
    )

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        current = self.load(key)
        if current is None or expected not in (None, current.revision):
            return False
        time.sleep(0.0001)
        return super().create(key, record) or super().replace(key, record)


class ReplaceTakesZeroForNone(Broken, MemoryStore):
    caught_by = ("test_replace_goes_by_the_expected_revision",)

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        return super().replace(key, record, expected=expected or None)


class TouchForgetsWhatIsExpected(Broken, MemoryStore):
    caught_by = ("test_touch_goes_by_the_expected_revision",)

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        return super().touch(key, expires)


class TouchRevivesTheExpired(Broken, MemoryStore):
    caught_by = ("test_an_expired_record_is_absent_for_everyone",)

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        record = self._records.get(key)
        if record is None:
            return False
        self._put(key, record._replace(expires=expires))
        return True


class TouchCountsAsAChange(Broken, MemoryStore):
    caught_by = ("test_touch_moves_the_expiry_and_nothing_else",)

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        record = self.load(key)
        return record is not None and self.replace(
            key, record._replace(expires=expires, revision=record.revision + 1)
        )


class LoadReturnsTheExpired(Broken, MemoryStore):
    caught_by = (
        "test_a_record_lives_until_its_very_second",
        "test_touch_decides_the_very_second",
        "test_an_expired_record_is_absent_for_everyone",
        "test_an_expiry_in_the_past_ends_a_record",
    )

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        return self._records.get(key)


class LoadIsASecondLate(Broken, MemoryStore):
    caught_by = ("test_a_record_lives_until_its_very_second",)

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        record = self._records.get(key)
        return record if record is not None and record.expires > now() - 1 else None


class DeleteIsTrueForTheExpired(Broken, MemoryStore):
    caught_by = ("test_an_expired_record_is_absent_for_everyone",)

    def delete(self, key: bytes) -> bool:
        there = key in self._records
        return super().delete(key) or there


class KeysAreCut(Broken, MemoryStore):
    caught_by = ("test_keys_that_differ_in_one_bit_do_not_mix",)

    def create(self, key: bytes, record: Record) -> bool:
        return super().create(key[:31] + b"\x00", record)

    def load(self, key: bytes) -> Record | None:
        return super().load(key[:31] + b"\x00")


class DataIsCutAtNul(Broken, MemoryStore):
    caught_by = ("test_data_comes_back_byte_for_byte",)

    def create(self, key: bytes, record: Record) -> bool:
        return super().create(key, record._replace(data=record.data.rstrip(b"\x00")))


class RevisionsAreDoubles(Broken, MemoryStore):
    caught_by = ("test_a_revision_comes_back_exactly",)

    def create(self, key: bytes, record: Record) -> bool:
        return super().create(key, record._replace(revision=int(float(record.revision))))


class WritesBeforeItChecks(Broken, MemoryStore):
    caught_by = (
        "test_a_record_at_the_limit_fits_and_one_over_it_is_refused",
        "test_a_wrong_record_is_refused",
    )

    def create(self, key: bytes, record: Record) -> bool:
        self._put(key, record)
        self.check_record(key, record)
        return True


class LendsItsMemory(Broken, MemoryStore):
    caught_by = ("test_what_was_created_is_loaded",)

    def load(self, key: bytes) -> Record | None:
        record = super().load(key)
        return record and record._replace(data=memoryview(record.data))  # type: ignore[arg-type]  # the fault


class ScanHoldsEverything(Broken, MemoryStore):
    caught_by = ("test_scan_runs_in_bounded_memory",)

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        copies = [(key, record, bytearray(record.data)) for key, record in super().scan()]
        return ((key, record._replace(data=bytes(data))) for key, record, data in copies)


class ScanReturnsTheExpired(Broken, MemoryStore):
    caught_by = ("test_an_expired_record_is_absent_for_everyone",)

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        return iter(list(self._records.items()))


class ScanStopsWhenOthersWrite(Broken, MemoryStore):
    caught_by = ("test_scan_goes_on_while_others_write",)

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        return ((key, record) for key, record in self._records.items())


class ScanOwnerGoesByTheFirstOwner(Broken, MemoryStore):
    caught_by = ("test_scan_owner_finds_what_is_theirs_now",)

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        owners = self._by_owner
        self._by_owner = {}
        try:
            return super().replace(key, record._replace(owner=b""), expected=expected)
        except KeyError:
            return True
        finally:
            self._by_owner = owners


class CleanUpIsOneBatch(Broken, MemoryStore):
    caught_by = ("test_clean_up_keeps_to_its_batch_size",)

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        return super().delete_expired(batch_size=1000)


class CleanUpHoldsTheLock(Broken, MemoryStore):
    caught_by = ("test_the_store_stays_usable_between_batches",)

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        with self._lock:
            while removed := self._remove_expired(batch_size):
                yield removed


class CleanUpTakesTheRenewed(Broken, MemoryStore):
    caught_by = (
        "test_clean_up_leaves_the_living_alone",
        "test_clean_up_removes_each_expired_record_once",
    )

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        self.forgotten = key
        return super().touch(key, expires, expected=expected)

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        yield from super().delete_expired(batch_size=batch_size)
        yield int(self.delete(self.forgotten))


class CleanUpTakesWhatTookThePlace(Broken, MemoryStore):
    caught_by = ("test_the_store_stays_usable_between_batches",)

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        expired = [key for key, record in self._records.items() if record.expires <= now()]
        while expired:
            batch, expired = expired[:batch_size], expired[batch_size:]
            for key in batch:
                self._remove(key)
            yield len(batch)


class CleanUpCountsTheRemovedTwice(Broken, MemoryStore):
    caught_by = ("test_two_clean_ups_at_once_remove_each_record_once",)

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        expired = [key for key, record in self._records.items() if record.expires <= now()]
        time.sleep(0.1)
        for start in range(0, len(expired), batch_size):
            batch = expired[start : start + batch_size]
            for key in batch:
                if key in self._records:
                    self._remove(key)
            yield len(batch)


class StatsCountTheExpired(Broken, MemoryStore):
    caught_by = ("test_stats_count_the_living_and_the_expired",)

    def stats(self) -> Any:
        stats = super().stats()
        assert stats.live is not None
        assert stats.expired is not None
        return stats._replace(live=stats.live + stats.expired)


class AsyncBlocksTheLoop(Broken, MemoryStore):
    caught_by = ("test_async_methods_run_inline_only_where_they_cannot_block",)
    is_nonblocking = False

    async def acreate(self, key: bytes, record: Record) -> bool:
        return self.create(key, record)


class AsyncHopsToAThread(Broken, MemoryStore):
    caught_by = ("test_async_methods_run_inline_only_where_they_cannot_block",)

    async def aload(self, key: bytes) -> Record | None:
        return await asyncio.to_thread(self.load, key)


class AsyncIsForgotten(Broken, MemoryStore):
    caught_by = (
        "test_replace_goes_by_the_expected_revision[async]",
        "test_tasks_lose_no_compare_and_swap",
    )

    async def areplace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        await asyncio.sleep(0)
        return self.replace(key, record)


class AsyncBelongsToItsFirstLoop(Broken, MemoryStore):
    caught_by = ("test_one_event_loop_after_another_may_use_the_store",)
    loop: asyncio.AbstractEventLoop | None = None

    async def aload(self, key: bytes) -> Record | None:
        self.loop = self.loop or asyncio.get_running_loop()
        if self.loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        return self.load(key)


class ProcessesLookBeforeTheyWrite(Broken, FolderStore):
    caught_by = ("test_one_process_wins_each_create", "test_processes_lose_no_compare_and_swap")

    def create(self, key: bytes, record: Record) -> bool:
        if self.load(key) is not None:
            return False
        time.sleep(0.001)
        with self.locked():
            self.write(key, record)
        return True

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        current = self.load(key)
        if current is None or expected not in (None, current.revision):
            return False
        time.sleep(0.001)
        with self.locked():
            self.write(key, record)
        return True


class WritesLater(Broken, FolderStore):
    """Acknowledges a write before another process, or the disk, has it."""

    caught_by = (
        "test_killed_processes_lose_nothing",
        "test_two_stores_on_the_same_data_see_each_other",
    )

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.pending: dict[bytes, Record] = {}

    def live(self, key: bytes) -> Record | None:
        return self.pending.get(key) or super().live(key)

    def write(self, key: bytes, record: Record) -> None:
        self.pending[key] = record
        if len(self.pending) > 5:
            while self.pending:
                super().write(*self.pending.popitem())

    def delete(self, key: bytes) -> bool:
        return super().delete(key) if key not in self.pending else bool(self.pending.pop(key))


class CleanUpLooksBeforeItRemoves(Broken, FolderStore):
    caught_by = ("test_killed_processes_lose_nothing",)

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        expired = [key for key in self.keys() if self.load(key) is None]
        time.sleep(0.01)
        for key in expired:
            with self.locked():
                self.path(key).unlink(missing_ok=True)
            yield 1


class ForksShareTheirLock(Broken, FolderStore):
    """Locks through one descriptor, which forks hold together."""

    caught_by = ("test_killed_forks_of_an_open_store_lose_nothing",)
    descriptor: int | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        if self.descriptor is None:
            self.descriptor = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        yield
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)


class OutageIsALogout(Broken, FolderStore):
    caught_by = ("test_every_method_says_that_the_store_is_unavailable",)

    def load(self, key: bytes) -> Record | None:
        try:
            return super().load(key)
        except StoreUnavailable:
            return None


class OutageIsTheDriversError(Broken, FolderStore):
    caught_by = (
        "test_every_method_says_that_the_store_is_unavailable",
        "test_an_outage_in_the_middle_of_writing_loses_nothing",
    )

    def create(self, key: bytes, record: Record) -> bool:
        try:
            return super().create(key, record)
        except StoreUnavailable as error:
            raise OSError("driver") from error


class BackupMissesTheLatest(Broken, FolderStore):
    caught_by = (
        "test_a_copy_holds_what_the_store_held",
        "test_a_copy_made_under_a_writer_holds_all_that_was_acknowledged_before",
    )

    def backup(self, folder: str | os.PathLike[str]) -> None:
        super().backup(folder)
        max(Path(folder).iterdir(), key=lambda path: path.stat().st_mtime_ns).unlink()


class BackupGoesAnywhere(Broken, FolderStore):
    caught_by = ("test_a_copy_is_made_in_no_folder_that_holds_something",)

    def backup(self, folder: str | os.PathLike[str]) -> None:
        with self.locked():
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)


class BackupIsOpenedWhereThereIsNone(Broken, FolderStore):
    caught_by = ("test_a_folder_without_a_copy_is_not_taken_for_an_empty_one",)

    def scan_backup(self, folder: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record]]:
        copy = type(self)(Path(folder))
        copy.setup()
        return copy.scan()


class BackupSaysNothing(Broken, MemoryStore):
    caught_by = ("test_a_store_that_makes_no_copies_says_what_does",)

    def backup(self, folder: str | os.PathLike[str]) -> None:
        raise NotImplementedError


def conformance(store: type[Store]) -> dict[str, Any]:
    shared = issubclass(store, FolderStore)

    @pytest.fixture
    def make_store(self: StoreConformance, tmp_path: Path) -> MakeStore:
        return partial(store, *([tmp_path / "records"] if shared else []))

    return {
        "make_store": make_store,
        "outage": outage if shared else None,
        "shared_between_processes": shared,
        "makes_backups": shared,
        "persistent": shared,
        "patience": 5.0 if shared else 1.0,
    }


BROKEN = {store.__name__: store.caught_by for store in Broken.__subclasses__()}
for broken in Broken.__subclasses__():
    assert issubclass(broken, Store)
    attributes = conformance(broken)
    globals()[f"Test{broken.__name__}"] = type("Test", (StoreConformance,), attributes)

BROKEN.update({store.__name__: store.caught_by for store in BrokenToyStore.__subclasses__()})
for toy in BrokenToyStore.__subclasses__():
    attributes = {**toy_server.conformance(toy), "patience": 1.0}
    globals()[f"Test{toy.__name__}"] = type("Test", (StoreConformance,), attributes)
