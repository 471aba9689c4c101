"""A log and its index, as a process has them open: both are replaced together."""

from __future__ import annotations

import os
import time
from typing import NamedTuple
from zlib import crc32

from django_kvsessions.stores.base import Record
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm import survey
from django_kvsessions.stores.semidbm.index import CROWDED, Index, Unsure
from django_kvsessions.stores.semidbm.layout import (
    BUCKET,
    ENDING,
    HEAD,
    HEADER,
    PRINT,
    RESIDUE,
    SLOTS,
    VALUE,
    VALUES,
    slot_of,
    unpack_value,
)
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["Found", "Generation", "worth_from"]

#: A log of up to this many bytes is never worth a compaction.
SMALL_LOG = 4 * 1024 * 1024
#: One that has more than so many times its live bytes is.
WORTH = 1.75
#: What a log may grow by, in parts of its live bytes, until they are counted again. With the
#: above it keeps a log within twice of them.
GROWTH = 8
#: How many sessions a process keeps in mind.
SEEN_LATELY = 1000
#: How many bytes a process that writes alone appends before it notes that the index has them.
ALONE = 16 * 1024
#: For how many writes one that has met another's does so each time.
BESIDE_OTHERS = 64
_new = tuple.__new__


def worth_from(live: int) -> int:
    """Up to which size a log with that many live bytes is not worth a compaction."""
    return max(SMALL_LOG, int(WORTH * live))


class Found(NamedTuple):
    """Where a key is, or where it is to be, as it was when ``end`` was where the log ended.

    The number of its bucket and the slot there (-1: none yet); its place in the log (0: it is
    not there), its expiry and its revision; the bucket, if that was read.
    """

    end: int
    number: int
    slot: int
    place: int
    expires: float
    revision: int
    bucket: bytes = b""


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
        #: Up to where the index is known to say that it has the log.
        self.noted = 0
        self.compact_from = index.compact_from
        self.damaged = False
        self.crowded = False
        self._beside_others = 0
        self._has_beginning = False

    @property
    def needs_care(self) -> bool:
        """Whether it may be worth a compaction, or a larger index."""
        return self.damaged or self.crowded or self.end > self.compact_from

    def is_behind(self) -> bool:
        """Whether the log may have what the index does not; an older copy of it does not."""
        try:
            return self.index.complete() != self.log.size()
        except Unsure:
            return True

    def needs_compaction(self, *, anew: bool = False) -> bool:
        """Whether garbage, and what has expired, is worth it. Looks at every slot.

        ``anew``: also where the log has not grown much since it was looked at last.
        """
        if not (anew or self.damaged or self.end > self.compact_from):
            return False
        _, live = survey.live(self.index)
        bound, size = worth_from(live), self.log.size()
        if self.damaged or size > bound:
            return True
        self.compact_from = self.index.compact_from = max(bound, size + live // GROWTH)
        return False

    def is_crowded(self) -> bool:
        return survey.crowding(self.index) > CROWDED

    # Reading

    def load(self, key: bytes) -> Record | None:
        """A live record, as of now. ``Unsure`` where it is not what the index says, or is not
        there and the index may lack some of the log."""
        index, end = self.index, self.end
        ending = key[PRINT:]
        check = crc32(ending)
        # What locate() does, for the one bucket that nearly every load needs.
        number = check >> index.shift
        bucket = os.pread(index.descriptor, BUCKET, number * BUCKET + HEADER)
        at = bucket.find(ending, HEAD, VALUES) - HEAD
        if at >= 0 and not at & 7:
            value = VALUES + (at << 1)
            if crc32(bucket[value : value + VALUE], check) == RESIDUE:
                place, _ = unpack_value(bucket, value)
                record = logfile.read_record(self.log, key, place)
                if record is not None:
                    expires, seen = record[1], self._seen
                    if len(seen) >= SEEN_LATELY:
                        seen.clear()
                    seen[key] = _new(Found, (end, number, at >> 3, place, expires, record[2], b""))
                    if expires > time.time():
                        return record
        found = self.locate(key)
        record = self.read(key, found) if found.place else None
        if record is None and self.log.size() not in (self.end, index.complete()):
            raise Unsure
        return record

    def locate(self, key: bytes) -> Found:
        """Where a key is. ``Unsure`` where what the index says is not what the log has."""
        index, end = self.index, self.end
        ending = key[PRINT:]
        number = crc32(ending) >> index.shift
        while True:
            bucket = index.bucket(number)
            at = index.find(bucket, ending)
            while at >= 0:
                place = index.place(bucket, at)
                whose, expires, revision = logfile.read_head(self.log, place)
                if whose == key:
                    return Found(end, number, at, place, expires, revision, bucket)
                if logfile.read_record(self.log, whose, place) is None:
                    raise Unsure
                at = index.find(bucket, ending, at + 1)
            if not bucket[4]:
                return Found(end, number, -1, 0, 0.0, -1, bucket)
            number += 1

    def read(self, key: bytes, found: Found) -> Record | None:
        """A live record. ``Unsure`` where it is not what the index says."""
        if found.expires <= time.time():
            return None
        record = logfile.read_record(self.log, key, found.place)
        if record is None:
            raise Unsure
        return record

    # Only for the one process that holds the writer's lock

    def look(self, key: bytes) -> Found:
        """As ``locate``, by what was found lately if that still holds."""
        found = self._seen.get(key)
        if found is not None:
            end = found[0]
            if end >= self._floor and end >= self._written.get(found[1], 0):
                return found
        return self.locate(key)

    def room(self, key: bytes, found: Found) -> Found:
        """Where a key goes that is not there; ``Unsure`` where the index is full."""
        home = crc32(key[PRINT:]) >> self.index.shift
        if found.bucket[5] < SLOTS and found.number == home:
            return found
        number, bucket = self.index.room(key)
        if number > home + 1:
            self.crowded = True
        return found._replace(number=number, bucket=bucket)

    def put(self, key: bytes, record: Record, found: Found) -> None:
        """Set a key, by one write."""
        data = logfile.put(key, record)
        start = self.end
        end = start + len(data)
        place = start << 24 | len(data) - logfile.OVERHEAD
        value = slot_of(key[PRINT:], place, record[1])[ENDING:]
        self.log.append(data)
        _, number, slot, _, _, _, bucket = found
        if slot < 0:
            self.index.add(number, bucket, key, value)
        else:
            self.index.move(number, slot, value)
        if len(self._written) > SEEN_LATELY:
            self._forget()
        self._written[number] = end
        self.end = end
        if self._beside_others or end - self.noted > ALONE:
            self.note()

    def remove(self, found: dict[bytes, Found]) -> None:
        """Remove keys that are there, in one write."""
        self.log.append(b"".join(map(logfile.deletion, found)))
        changed = set[int]()
        for key, one in found.items():
            self._take_out(self.locate(key) if one.number in changed else one)
            changed.add(one.number)
        self.end += len(found) * logfile.OVERHEAD
        if self._beside_others or self.end - self.noted > ALONE:
            self.note()

    def _take_out(self, found: Found) -> None:
        _, number, slot, _, _, _, bucket = found
        self.index.remove(number, slot, bucket or self.index.bucket(number))
        self._written[number] = self.end + 1

    def _forget(self) -> None:
        self._floor = self.end
        self._seen.clear()
        self._written.clear()

    def enter(self, key: bytes, value: bytes | None) -> None:
        """Say in the index where a key's record is now, or that there is none."""
        found = self.locate(key)
        if value is None:
            if found.place:
                self._take_out(found)
        elif found.place:
            self.index.move(found.number, found.slot, value)
        else:
            found = self.room(key, found)
            self.index.add(found.number, found.bucket, key, value)

    def note(self) -> None:
        """That all is in the index up to where the log ends now.

        Who writes alone does so now and then: the next one looks at these few records again.
        """
        if self._beside_others:
            self._beside_others -= 1
        if not self._has_beginning:
            self._has_beginning = self.index.note_beginning(self.log)
        self.index.note_complete(self.end)
        self.noted = self.end

    def mark(self) -> None:
        """Let the log grow, by which the other processes see that the index is another one."""
        if not self.log.is_alone():
            self.log.append(logfile.nothing())
            self.take_in(self.log.size())

    def catch_up(self, *, anew: bool = False) -> None:
        """Enter what others have appended, and have not entered yet.

        ``anew``: what the index does not say that it has, too, for an older copy may have been
        written over it. ``Unsure`` where some does not verify: it may be in it nevertheless.
        """
        complete, size = self.index.complete(), self.log.size()
        if not self.noted <= complete <= size:
            raise Unsure
        is_behind = (complete, size) != (self.noted, self.end)
        if is_behind:
            self._beside_others = BESIDE_OTHERS
        if is_behind or (anew and complete < size):
            self.end = self.noted = complete
            self._forget()
            if size > complete:
                self.take_in(size)
        if self.end != size:
            raise Unsure

    def take_in(self, stop: int) -> None:
        # Only what each key is in the end, since readers see each change.
        changes: dict[bytes, bytes | None] = {}
        for key, start, end, size, expires in logfile.read_log(self.log, self.end, stop):
            place = logfile.place_of(start, size)
            changes[key] = slot_of(key[PRINT:], place, expires)[ENDING:] if size > 0 else None
            self.end = end
        for key, value in changes.items():
            self.enter(key, value)
        self._forget()
        if self.end != self.noted:
            self.note()
