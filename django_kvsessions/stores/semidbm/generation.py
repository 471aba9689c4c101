"""A log and its index, as a process has them open: both are replaced together."""

from __future__ import annotations

import os
from time import time
from typing import NamedTuple
from zlib import crc32

from django_kvsessions.stores.base import Record
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.index import (
    BUCKET,
    CROWDED,
    HEAD,
    HEADER,
    PRINT,
    SLOTS,
    VALUE,
    VALUES,
    Index,
    Unsure,
    pack_value,
    unpack_slot,
    unpack_value,
)
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["Damaged", "Found", "Generation", "worth_from"]

#: Garbage up to this many bytes is never worth a compaction.
GARBAGE_FLOOR = 4 * 1024 * 1024
_new = tuple.__new__
#: How many sessions a process keeps in mind.
SEEN_LATELY = 1000
#: How many bytes a process that writes alone appends before it notes that the index has them.
ALONE = 16 * 1024
#: For how many writes one that has met another's does so each time.
BESIDE_OTHERS = 64


def worth_from(live: int) -> int:
    """From which size of the log on its garbage exceeds that many live bytes enough."""
    return 2 * live + GARBAGE_FLOOR


class Found(NamedTuple):
    """Where a key is, or where it is to be, as it was when ``end`` was where the log ended.

    The number of its bucket and the slot there (-1: none yet); its place in the log (0: it is
    not there), its expiry, and its revision (-1: not known); the bucket of what is not there.
    """

    end: int
    number: int
    slot: int
    place: int
    expires: float
    revision: int
    bucket: bytes = b""


class Damaged(Exception):
    """The record of a key does not verify."""

    def __init__(self, number: int, slot: int) -> None:
        self.slot = number, slot


class Generation:
    """One log and its index."""

    def __init__(self, log: LogFile, index: Index) -> None:
        self.log = log
        self.index = index
        #: What was found lately, so that a save after a load need not look. It holds while
        #: no other process has written since (``_floor``), nor this one in that bucket.
        self._seen: dict[bytes, Found] = {}
        self._floor = 0
        self._written: dict[int, int] = {}
        #: Where the log ended when this process last had the writer's lock.
        self.end = 0
        self.noted = 0
        self.compact_from = index.compact_from
        self.damaged = False
        self.crowded = False
        self._beside_others = 0

    @property
    def needs_care(self) -> bool:
        """Whether it may be worth a compaction, or a larger index."""
        return self.damaged or self.crowded or self.end > self.compact_from

    def needs_compaction(self) -> bool:
        """Whether garbage exceeds the live bytes by GARBAGE_FLOOR. Looks at every slot."""
        if not self.damaged and self.end <= self.compact_from:
            return False
        live = sum(
            logfile.record_bytes(unpack_slot(one)[1])
            for _, slots in self.index.runs()
            for one in slots
        )
        self.compact_from = self.index.compact_from = worth_from(live)
        return self.damaged or self.end > self.compact_from

    def is_crowded(self) -> bool:
        return self.index.crowding() > CROWDED

    # Reading

    def load(self, key: bytes) -> Record | None:
        """A live record, as of now. ``Unsure`` where it is not what the index says."""
        index, end = self.index, self.end
        ending = key[PRINT:]
        # What locate() does, for the one bucket that nearly every load needs.
        number = crc32(ending) >> index.shift
        bucket = os.pread(index.descriptor, BUCKET, number * BUCKET + HEADER)
        at = bucket.find(ending, HEAD, VALUES) - HEAD
        if at >= 0 and not at & 7:
            place, _ = unpack_value(bucket, VALUES + (at << 1))
            record = logfile.read_record(self.log, key, place)
            if record is not None:
                expires, seen = record[1], self._seen
                if len(seen) >= SEEN_LATELY:
                    seen.clear()
                seen[key] = _new(Found, (end, number, at >> 3, place, expires, record[2], b""))
                return record if expires > time() else None
        try:
            found = self.locate(key)
        except Damaged:
            raise Unsure from None
        if not found.place:
            return None
        record = logfile.read_record(self.log, key, found.place)
        if record is None:
            raise Unsure
        return record if record.expires > time() else None

    def locate(self, key: bytes) -> Found:
        """Where a key is. ``Unsure`` where what the index says is not what the log has."""
        index, end = self.index, self.end
        ending = key[PRINT:]
        number = crc32(ending) >> index.shift
        while True:
            bucket = index.bucket(number)
            at = index.find(bucket, ending)
            while at >= 0:
                place, expires = unpack_value(bucket, VALUES + at * VALUE)
                whose = logfile.read_key(self.log, place)
                if whose == key:
                    return Found(end, number, at, place, expires, -1)
                if logfile.read_record(self.log, whose, place) is None:
                    raise Unsure
                at = index.find(bucket, ending, at + 1)
            if not bucket[4]:
                return Found(end, number, -1, 0, 0.0, -1, bucket)
            number += 1

    # Only for the one process that holds the writer's lock

    def look(self, key: bytes) -> Found:
        """As ``locate``, by what was found lately if that still holds."""
        found = self._seen.get(key)
        if found is not None:
            end = found[0]
            if end >= self._floor and end >= self._written.get(found[1], 0):
                return found
        return self.locate(key)

    def revision(self, found: Found) -> int:
        """The revision of a live record, without reading its data; -1 where it is gone."""
        _, _, _, place, expires, revision, _ = found
        if expires <= time():
            return -1
        return logfile.read_revision(self.log, place) if revision < 0 else revision

    def read(self, key: bytes, found: Found) -> Record | None:
        """A live record. ``Damaged`` where it is not what the index says."""
        if found.expires <= time():
            return None
        record = logfile.read_record(self.log, key, found.place)
        if record is None:
            raise Damaged(found.number, found.slot)
        return record

    def room(self, key: bytes, found: Found) -> Found:
        """Where a key goes that is not there; ``Unsure`` where the index is full."""
        if found.bucket[5] < SLOTS and found.number == crc32(key[PRINT:]) >> self.index.shift:
            return found
        self.crowded = True
        number, bucket = self.index.room(key)
        return found._replace(number=number, bucket=bucket)

    def put(self, key: bytes, record: Record, found: Found) -> None:
        """Set a key, by one write."""
        data = logfile.put(key, record)
        start = self.end
        end = start + len(data)
        value = pack_value(start << 24 | len(data) - logfile.OVERHEAD, record[1])
        self.log.append(data)
        _, number, slot, _, _, _, bucket = found
        if slot < 0:
            self.index.add(number, bucket, key, value)
        else:
            self.index.move(number, slot, value)
        if len(self._written) > SEEN_LATELY:
            self._forget()
        self._written[number] = end
        self.know(end)

    def remove(self, keys: list[bytes]) -> None:
        """Remove keys that are there, in one write."""
        data = b"".join(map(logfile.deletion, keys))
        self.log.append(data)
        for key in keys:
            self.enter(key, None)
        self.know(self.end + len(data))

    def drop(self, damaged: Damaged) -> None:
        self.index.remove(*damaged.slot)
        self.damaged = True
        self._forget()

    def _forget(self) -> None:
        self._floor = self.end
        self._seen.clear()
        self._written.clear()

    def enter(self, key: bytes, value: bytes | None) -> None:
        """Say in the index where a key's record is now, or that there is none."""
        found = self.locate(key)
        if value is None:
            if found.place:
                self.index.remove(found.number, found.slot)
                self._written[found.number] = self.end + 1
        elif found.place:
            self.index.move(found.number, found.slot, value)
        else:
            found = self.room(key, found)
            self.index.add(found.number, found.bucket, key, value)

    def know(self, end: int) -> None:
        """That all is in the index up to where the log ends now."""
        self.end = end
        if self._beside_others:
            self._beside_others -= 1
        elif end - self.noted <= ALONE:
            # Whoever writes next looks at these few records once more.
            return
        self.index.note_complete(end)
        self.noted = end

    def catch_up(self) -> None:
        """Enter what others have appended, and have not entered yet, as far as it verifies."""
        complete, size = self.index.complete(), self.log.size()
        if (complete, size) != (self.noted, self.end):
            self.end = self.noted = complete
            self._beside_others = BESIDE_OTHERS
            self._forget()
            if size > complete:
                self.take_in(size)

    def take_in(self, stop: int) -> None:
        # Only what each key is in the end, since readers see each change.
        changes: dict[bytes, bytes | None] = {}
        for key, start, end, size, expires in logfile.read_log(self.log, self.end, stop):
            place = logfile.place_of(start, size)
            changes[key] = pack_value(place, expires) if size > 0 else None
            self.end = end
        for key, value in changes.items():
            self.enter(key, value)
        self._forget()
        if self.end != self.noted:
            self.index.note_complete(self.end)
            self.noted = self.end
