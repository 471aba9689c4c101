"""Sessions in this process's memory: for tests, and as the cache of a layered store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import TypeVar

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.base import Record, Store, StoreStats, now
from django_kvsessions.stores.options import whole_number
from django_kvsessions.stores.process import forks

__all__ = ["MemoryStore"]

T = TypeVar("T", int, bytes)

# What CPython needs for a record beside its data: the tuple, its numbers, the
# key, and an entry in each of the three indexes.
ENTRY_OVERHEAD = 600


class MemoryStore(Store):
    """Keeps up to ``max_entries`` records in this process, and forgets them with it.

    When it is full, what has expired goes first, then what was not used for
    longest. A forked child goes on with a copy of its own.
    """

    is_cleaned_by_default = True
    is_nonblocking = True

    backed_up_by = "what is in memory is not to be kept"

    def __init__(
        self,
        location: None = None,
        *,
        max_entries: int = 100_000,
        max_record_size: int = 1024 * 1024,
    ) -> None:
        super().__init__(max_record_size=max_record_size)
        if location is not None:
            raise ImproperlyConfigured(
                f"LOCATION is {location!r}, but MemoryStore keeps nothing outside its process: "
                "leave LOCATION out, or choose another BACKEND."
            )
        self.max_entries = whole_number("max_entries", max_entries, at_least=1)
        # Least recently used first. An LRU library would be one more dependency
        # of the base install, and none of them lets records also go by expiry.
        self._records: OrderedDict[bytes, Record] = OrderedDict()
        # The keys that expire within each second, and a heap of these seconds.
        # A renewed record changes seconds in constant time and leaves at most
        # a number behind, so nothing here grows with the number of renewals.
        self._by_second: dict[int, dict[bytes, None]] = {}
        self._seconds: list[int] = []
        self._by_owner: dict[bytes, dict[bytes, None]] = {}
        self._size = 0
        self._hits = 0
        self._misses = 0
        self._lock = threading.Lock()
        forks.hold(self._lock)

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        with self._lock:
            record = self._records.get(key)
            if record is None or record.expires <= now():
                self._misses += 1
                return None
            self._records.move_to_end(key)
            self._hits += 1
            return record

    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        with self._lock:
            if self._live(key) is not None:
                return False
            self._put(key, record)
            return True

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        with self._lock:
            current = self._live(key)
            if current is None or expected not in (None, current.revision):
                return False
            self._put(key, record)
            return True

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        self.check_touch(key, expires)
        with self._lock:
            current = self._live(key)
            if current is None or expected not in (None, current.revision):
                return False
            self._put(key, current._replace(expires=expires))
            return True

    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        with self._lock:
            if self._live(key) is None:
                return False
            self._remove(key)
            return True

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        while True:
            with self._lock:
                removed = self._remove_expired(batch_size)
            if not removed:
                return
            yield removed

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        with self._lock:
            keys = list(self._records)
        return self._each_live(keys)

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        self.check_owner(owner)
        with self._lock:
            keys = list(self._by_owner.get(owner, ()))
        return ((key, record) for key, record in self._each_live(keys) if record.owner == owner)

    def stats(self) -> StoreStats:
        """The size is an estimate in bytes; hits and misses are those of ``load``."""
        with self._lock:
            moment = now()
            expired = sum(
                len(keys)
                if second < int(moment)
                else sum(self._records[key].expires <= moment for key in keys)
                for second, keys in self._by_second.items()
                if second <= moment
            )
            return StoreStats(
                live=len(self._records) - expired,
                expired=expired,
                size=self._size,
                hits=self._hits,
                misses=self._misses,
            )

    # All of these are called with the lock held.

    def _live(self, key: bytes) -> Record | None:
        record = self._records.get(key)
        return record if record is not None and record.expires > now() else None

    def _put(self, key: bytes, record: Record) -> None:
        """Keep a record as the most recently used one, in the place of any other."""
        # Before anything changes, because it fails where the expiry is no time at all.
        second = int(record.expires)
        if key in self._records:
            self._remove(key)
        elif len(self._records) >= self.max_entries:
            self._remove(self._least_needed())
        self._records[key] = record
        if second in self._by_second:
            self._by_second[second][key] = None
        else:
            self._by_second[second] = {key: None}
            heappush(self._seconds, second)
            if len(self._seconds) > 2 * len(self._by_second) + 100:
                self._seconds = list(self._by_second)
                heapify(self._seconds)
        if record.owner:
            self._by_owner.setdefault(record.owner, {})[key] = None
        self._size += len(record.data) + ENTRY_OVERHEAD

    def _remove(self, key: bytes) -> None:
        record = self._records.pop(key)
        _remove_from(self._by_second, int(record.expires), key)
        if record.owner:
            _remove_from(self._by_owner, record.owner, key)
        self._size -= len(record.data) + ENTRY_OVERHEAD

    def _first_second(self) -> int | None:
        """The first second in which something expires."""
        while self._seconds and self._seconds[0] not in self._by_second:
            heappop(self._seconds)
        return self._seconds[0] if self._seconds else None

    def _least_needed(self) -> bytes:
        second = self._first_second()
        # Only seconds that are over, where any key will do: looking for one in
        # the present second would make each creation in a full store slow.
        if second is not None and second < int(now()):
            return next(iter(self._by_second[second]))
        return next(iter(self._records))

    def _remove_expired(self, at_most: int) -> int:
        moment = now()
        removed = 0
        while removed < at_most:
            second = self._first_second()
            if second is None or second > moment:
                break
            keys = self._by_second[second]
            expired = (key for key in keys if self._records[key].expires <= moment)
            due = list(islice(expired, at_most - removed))
            if not due:
                break
            for key in due:
                self._remove(key)
            removed += len(due)
        return removed

    # And this without it: a scan must not stop the others.

    def _each_live(self, keys: list[bytes]) -> Iterator[tuple[bytes, Record]]:
        for key in keys:
            with self._lock:
                record = self._live(key)
            if record is not None:
                yield key, record


def _remove_from(index: dict[T, dict[bytes, None]], value: T, key: bytes) -> None:
    keys = index[value]
    del keys[key]
    if not keys:
        del index[value]
