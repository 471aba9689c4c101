"""A log and its index, as a process has them open: both are replaced together."""

from __future__ import annotations

import os
from time import time
from zlib import crc32

from django_kvsessions.stores.base import Record
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.index import (
    BUCKET,
    CROWDED,
    HEAD,
    HEADER,
    PRINT,
    SLOT,
    Found,
    Index,
    Unsure,
    slot,
    unpack_place,
    unpack_slot,
)
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["Damaged", "Generation"]

#: Garbage up to this many bytes is never worth a compaction.
GARBAGE_FLOOR = 4 * 1024 * 1024
#: How many revisions a process keeps in mind.
SEEN_LATELY = 1000
NOT_SEEN = (0, -1)
#: How many bytes a process that writes alone appends before it notes that the index has them.
ALONE = 4096
#: For how many writes one that has met another's does so each time.
BESIDE_OTHERS = 64


class Damaged(Exception):
    """The record of a key does not verify, or the slot that points there does not."""

    def __init__(self, found: Found) -> None:
        self.found = found


class Generation:
    """One log and its index."""

    def __init__(self, log: LogFile, index: Index) -> None:
        self.log = log
        self.index = index
        #: The revisions of records read lately, so that a save after a load need not look.
        self.seen: dict[bytes, tuple[int, int]] = {}
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
            logfile.record_bytes(unpack_place(one)[0])
            for _, slots in self.index.runs()
            for one in slots
        )
        self.compact_from = self.index.compact_from = 2 * live + GARBAGE_FLOOR
        return self.damaged or self.end > self.compact_from

    def is_crowded(self) -> bool:
        return self.index.crowding() > CROWDED

    # Reading

    def load(self, key: bytes) -> Record | None:
        """A live record, as of now. ``Unsure`` where it is not what the index says."""
        index = self.index
        ending = key[PRINT:]
        # index.candidates(), for the one that nearly every load needs.
        bucket = os.pread(
            index.descriptor, BUCKET, (crc32(ending) >> index.shift) * BUCKET + HEADER
        )
        at = bucket.find(ending, HEAD)
        if at >= 0 and (at - HEAD) % SLOT == 0:
            (place,) = unpack_place(bucket, at)
            record = logfile.read_record(self.log, key, place)
            if record is not None:
                seen = self.seen
                if len(seen) >= SEEN_LATELY:
                    seen.clear()
                seen[key] = place, record[2]
                return record if record[1] > time() else None
        try:
            place = self._find(key)[0]
        except Damaged:
            raise Unsure from None
        if not place:
            return None
        record = logfile.read_record(self.log, key, place)
        if record is None:
            raise Unsure
        return record if record.expires > time() else None

    def _find(self, key: bytes) -> tuple[int, float, Found | None]:
        """The place and the expiry of a key's record, and its slot; 0 where there is none."""
        for found in self.index.candidates(key):
            _, bucket, at = found
            _, place, expires = unpack_slot(bucket, at)
            if self.seen.get(key, NOT_SEEN)[0] == place:
                return place, expires, found
            whose = logfile.read_key(self.log, place)
            if whose == key:
                return place, expires, found
            if logfile.read_record(self.log, whose, place) is None:
                raise Damaged(found)
        return 0, 0.0, None

    def find(self, key: bytes) -> Looked:
        place, expires, found = self._find(key)
        return Looked(self, key, place, expires, found)

    # Only for the one process that holds the writer's lock

    def remove(self, keys: list[bytes]) -> None:
        """Remove keys that are there, in one write."""
        data = b"".join(map(logfile.deletion, keys))
        self.log.append(data)
        for key in keys:
            self.enter(key, None)
        self.know(self.end + len(data))

    def enter(self, key: bytes, content: bytes | None) -> None:
        """Say in the index where a key's record is now, or that there is none."""
        *_, found = self._find(key)
        if content is None:
            if found is not None:
                self.index.remove(found)
        elif found is None:
            self.index.put(self.index.room(key), content)
        else:
            self.index.put(found, content)

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
            if size > complete:
                self.take_in(size)

    def take_in(self, stop: int) -> None:
        # Only what each key is in the end, since readers see each change.
        changes: dict[bytes, bytes | None] = {}
        for key, start, end, size, expires in logfile.read_log(self.log, self.end, stop):
            place = logfile.place_of(start, size)
            changes[key] = slot(key[PRINT:], place, expires) if size > 0 else None
            self.end = end
        for key, content in changes.items():
            self.enter(key, content)
        if self.end != self.noted:
            self.index.note_complete(self.end)
            self.noted = self.end


class Looked:
    """What there is of a key, for whoever holds the writer's lock."""

    __slots__ = ("expires", "found", "generation", "key", "place")

    def __init__(
        self, generation: Generation, key: bytes, place: int, expires: float, found: Found | None
    ) -> None:
        self.generation = generation
        self.key = key
        self.place = place
        self.expires = expires
        self.found = found

    @property
    def is_live(self) -> bool:
        return self.expires > time()

    def revision(self) -> int:
        """The revision of a live record, without reading its data; -1 where it is gone."""
        if self.expires <= time():
            return -1
        seen, revision = self.generation.seen.get(self.key, NOT_SEEN)
        if seen == self.place:
            return revision
        return logfile.read_revision(self.generation.log, self.place)

    def read(self) -> Record | None:
        """The live record. ``Damaged`` where it is not what the index says."""
        if self.found is None or self.expires <= time():
            return None
        record = logfile.read_record(self.generation.log, self.key, self.place)
        if record is None:
            raise Damaged(self.found)
        return record

    def put(self, record: Record) -> None:
        """Set the key, by one write."""
        generation, key = self.generation, self.key
        index, end = generation.index, generation.end
        found = self.found
        if found is None:
            # First, since the index may be full.
            found = index.room(key)
            generation.crowded = generation.crowded or found[0] != crc32(key[PRINT:]) >> index.shift
        data = logfile.put(key, record)
        generation.log.append(data)
        place = end << 24 | len(data) - logfile.OVERHEAD
        index.put(found, slot(key[PRINT:], place, record[1]))
        generation.know(end + len(data))
