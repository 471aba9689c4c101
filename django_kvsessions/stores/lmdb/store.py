"""Sessions in LMDB, a memory-mapped B-tree: for millions of them on one machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from django.conf import settings
from django.core import checks

from django_kvsessions.stores import options
from django_kvsessions.stores.base import (
    KEY_SIZE,
    OWNER_SIZE,
    Record,
    Store,
    StoreCorrupted,
    StoreStats,
    now,
)
from django_kvsessions.stores.lmdb import table
from django_kvsessions.stores.lmdb.client import DURABILITY, Options, check_contents
from django_kvsessions.stores.lmdb.folder import shared_folder
from django_kvsessions.stores.process.copies import copy_in, whole_folder

if TYPE_CHECKING:
    from django_kvsessions.stores.lmdb.table import Databases, Transaction

__all__ = ["LMDBStore"]

# What one read transaction takes at most: a long one keeps LMDB from reusing
# freed pages, and the file grows.
_READ_RECORDS = 100
_READ_BYTES = 1024 * 1024
_COUNT_AT_ONCE = 10_000
# What one write transaction removes at most: other writers wait meanwhile.
_DELETE_AT_ONCE = 250


class LMDBStore(Store):
    """Keeps the records in the folder ``location``, for any number of processes on one machine.

    Reads take microseconds at any size; clean-up follows an index of expiries;
    the file grows by itself, is reused and never shrinks. A process that is
    stopped (not killed) inside a write holds up the writers until it goes on.
    The folder must be on a local disk, and must not be removed or replaced
    while a process has it open.
    """

    is_cleaned_by_default = True
    location_is_folder = True

    def __init__(
        self,
        location: str | os.PathLike[str],
        *,
        durability: str = "safe",
        map_size: int = 64 * 1024 * 1024,
        max_map_size: int = 1024**4,
        max_readers: int = 1024,
        max_record_size: int = 1024 * 1024,
    ) -> None:
        """``durability``: "safe" syncs the data at each commit, so that a power cut never
        corrupts and loses at most the last write; "full" loses nothing; "process" does not
        sync: nothing is lost with a killed process, but a power cut can corrupt the file.
        There is nothing between: LMDB reuses pages that the last sync still needs, so to sync
        once a second would corrupt too. SemidbmStore loses a second and waits for no disk.

        ``map_size``: bytes that the file may take at first; it doubles when it is full, up
        to ``max_map_size``. ``max_readers``: how many threads of all processes together may
        read at the same moment; it counts for the first process that opens the folder.
        """
        super().__init__(max_record_size=max_record_size)
        with options.driver("lmdb", "LMDBStore needs the package lmdb"):
            import lmdb
        path = os.path.realpath(options.folder(location))
        options.choice("durability", durability, DURABILITY)
        largest = table.LARGEST_RECORD
        options.whole_number("max_record_size", max_record_size, at_least=1, at_most=largest)
        options.whole_number("max_readers", max_readers, at_least=1, at_most=2**20)
        options.whole_number("map_size", map_size, at_least=2**16, at_most=2**47)
        options.whole_number("max_map_size", max_map_size, at_least=map_size, at_most=2**47)
        check_contents(path)
        self.durability = durability
        self.is_nonblocking = durability == "process"
        self._folder = shared_folder(
            lmdb, path, Options(durability, map_size, max_map_size, max_readers)
        )

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        record = self._folder.environment.read(table.load, key)
        return record if record is not None and record.expires > now() else None

    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)

        def create(txn: Transaction, dbs: Databases) -> bool:
            current = table.load(txn, dbs, key)
            if current is not None and current.expires > now():
                return False
            table.put(txn, dbs, key, current, record)
            return True

        return self._folder.environment.write(create)

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)

        def replace(txn: Transaction, dbs: Databases) -> bool:
            current = table.load(txn, dbs, key)
            if current is None or current.expires <= now():
                return False
            if expected is not None and current.revision != expected:
                return False
            table.put(txn, dbs, key, current, record)
            return True

        return self._folder.environment.write(replace)

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        self.check_touch(key, expires)

        def touch(txn: Transaction, dbs: Databases) -> bool:
            current = table.load(txn, dbs, key)
            if current is None or current.expires <= now():
                return False
            if expected not in (None, current.revision):
                return False
            # LMDB writes whole pages in any case: keeping the expiry apart from the
            # data would make every load look in two places, and save nothing here.
            table.put(txn, dbs, key, current, current._replace(expires=expires))
            return True

        return self._folder.environment.write(touch)

    def delete(self, key: bytes) -> bool:
        self.check_key(key)

        def delete(txn: Transaction, dbs: Databases) -> bool:
            current = table.load(txn, dbs, key)
            if current is None:
                return False
            table.remove(txn, dbs, key, current)
            return current.expires > now()

        return self._folder.environment.write(delete)

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """As the contract says; also gives back what killed readers held."""

        def delete_some(txn: Transaction, dbs: Databases) -> int:
            last = table.last_expired()
            keys: list[bytes] = []
            owned: list[bytes] = []
            with txn.cursor(dbs.expiry) as index:
                while len(keys) < at_once and index.first() and index.key() <= last:
                    # The index has the owner too, so that no record is read.
                    entry, owner = index.item()
                    key = entry[-KEY_SIZE:]
                    keys.append(key)
                    if owner:
                        owned.append(owner + key)
                    index.delete()
            # In the order of the trees, so that each of their pages is visited once.
            for key in sorted(keys):
                txn.delete(key, db=dbs.records)
            for key in sorted(owned):
                txn.delete(key, db=dbs.owners)
            return len(keys)

        environment = self._folder.environment
        environment.clear_dead_readers()
        at_once = min(batch_size, _DELETE_AT_ONCE)
        while count := environment.write(delete_some):
            yield count

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        def read_some(txn: Transaction, dbs: Databases, start: bytes) -> list[tuple[bytes, Record]]:
            found: list[tuple[bytes, Record]] = []
            size = 0
            with txn.cursor(dbs.records) as cursor:
                more = cursor.set_range(start)
                while more and len(found) < _READ_RECORDS and size < _READ_BYTES:
                    key, value = cursor.item()
                    found.append((key, table.unpack(value)))
                    size += len(value)
                    more = cursor.next()
            return found

        return self._scan(read_some)

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        self.check_owner(owner)

        def read_some(txn: Transaction, dbs: Databases, start: bytes) -> list[tuple[bytes, Record]]:
            found: list[tuple[bytes, Record]] = []
            size = 0
            with txn.cursor(dbs.owners) as index:
                more = index.set_range(owner + start)
                while more and len(found) < _READ_RECORDS and size < _READ_BYTES:
                    key = index.key()[OWNER_SIZE:]
                    if not index.key().startswith(owner):
                        break
                    record = table.load(txn, dbs, key)
                    if record is None:
                        raise StoreCorrupted("LMDB's index of owners names a record that is gone.")
                    found.append((key, record))
                    size += len(record.data)
                    more = index.next()
            return found

        return self._scan(read_some)

    def _scan(
        self, read_some: Callable[[Transaction, Databases, bytes], list[tuple[bytes, Record]]]
    ) -> Iterator[tuple[bytes, Record]]:
        """What ``read_some`` finds from a key on, again and again, outside its transactions."""
        environment = self._folder.environment
        start = b"\0"
        while found := environment.read(read_some, start):
            for key, record in found:
                if record.expires > now():
                    yield key, record
            start = found[-1][0] + b"\0"

    def setup(self) -> None:
        """Make the folder and its files."""
        self._folder.environment.read(lambda txn, dbs: None)

    def stats(self) -> StoreStats:
        """LMDB itself counts the records; only the expired ones are counted one by one."""

        def count_some(txn: Transaction, dbs: Databases, start: bytes) -> tuple[int, bytes]:
            count = 0
            with txn.cursor(dbs.expiry) as index:
                more = index.set_range(start)
                while more and count < _COUNT_AT_ONCE and index.key() <= last:
                    count += 1
                    start = index.key() + b"\0"
                    more = index.next()
            return count, start

        environment = self._folder.environment
        entries = environment.read(lambda txn, dbs: txn.stat(dbs.records)["entries"])
        last, expired = table.last_expired(), 0
        count, start = environment.read(count_some, b"\0")
        while count:
            expired += count
            count, start = environment.read(count_some, start)
        size = os.stat(os.path.join(self._folder.path, "data.mdb")).st_size
        oldest = environment.read(table.first_expiry)
        return StoreStats(max(entries - expired, 0), expired, size, oldest=oldest)

    def backup(self, folder: str | os.PathLike[str]) -> None:
        """Writers go on; where the map has to grow, those of this process wait."""
        with whole_folder(folder, own=self._folder.path) as temporary:
            self._folder.environment.copy(os.path.join(temporary, "data.mdb"))

    def scan_backup(self, folder: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record]]:
        copy_in(folder, "data.mdb")
        with closing(LMDBStore(folder)) as copy:
            yield from copy.scan()

    def close(self) -> None:
        """Close the file for every store of this process on this folder; a use reopens it."""
        self._folder.environment.close()

    async def aload(self, key: bytes) -> Record | None:
        # A read waits for no writer, whatever the durability.
        return self.load(key)

    def check(self, *, alias: str) -> list[checks.CheckMessage]:
        if self.durability != "process" or settings.DEBUG:
            return []
        return [
            checks.Warning(
                f"SESSION_STORES[{alias!r}]['OPTIONS']['durability'] is 'process': a power cut "
                "or a crash of the system can corrupt the file and end every session.",
                hint="Use 'safe', the default, unless the sessions may be lost.",
                id="kvsessions.W110",
            )
        ]
