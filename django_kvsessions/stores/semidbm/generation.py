"""The log of the semidbm store as one process knows it: its files and an index in memory."""

from __future__ import annotations

import time

from django_kvsessions.stores.base import Record, StoreStats
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.log import LogFile

#: A log of up to this many bytes is never worth a compaction.
SMALL_LOG = 4 * 1024 * 1024
#: One that has more than so many times its live bytes is.
WORTH = 1.75
#: What a log may grow by, in parts of its live bytes, until they are counted again. With the
#: above it keeps a log within twice of them, and costs a write less than parsing its record.
GROWTH = 8
#: How many revisions a process keeps in mind.
SEEN_LATELY = 1000
NOT_SEEN = (0, -1)

# An index entry is one integer of 48 bytes: the expiry in microseconds, where
# the record starts, the size of its value, and which of the two files of its
# generation it is in. In this order, so that entries compare by expiry.
EXPIRY_SHIFT, START_SHIFT, SIZE_SHIFT = 65, 25, 1
SIZE_MASK = logfile.MAX_VALUE_SIZE
PLACE_MASK = 2**EXPIRY_SHIFT - 1


class Unreadable(Exception):
    """A record has moved since the index said where it is, or is damaged."""


def live_from() -> int:
    """Index entries below this have expired."""
    return int(time.time() * 1_000_000) + 1 << EXPIRY_SHIFT


def record_bytes(entry: int) -> int:
    return (entry >> SIZE_SHIFT & SIZE_MASK) + logfile.OVERHEAD


class Generation:
    """The log as this process knows it: files, index, and how far it is parsed.

    ``logs`` has the current file at place ``flag`` and, while the index moves
    over after a compaction, its predecessor at the other. A reader takes one
    generation and finds files and index in it that fit together.
    """

    def __init__(self, log: LogFile) -> None:
        self.log = log
        self.flag = 0
        self.logs: list[LogFile | None] = [log, None]
        self.index: dict[bytes, int] = {}
        #: The revisions of records read lately, so that a save after a load need not look.
        self.seen: dict[bytes, tuple[int, int]] = {}
        self.end = len(logfile.FILE_HEADER)
        self.damaged = False
        self.moved = (0, 0)
        #: Up to this size of the log a compaction cannot be worth it.
        self.compact_from = SMALL_LOG

    def successor(self, log: LogFile, copied_end: int, end: int) -> Generation:
        """The same records, going on from ``end`` in another file.

        Up to ``copied_end`` each key is in it at most once.
        """
        following = Generation(log)
        following.flag = 1 - self.flag
        following.logs = [log, self.log] if self.flag else [self.log, log]
        following.index = self.index
        following.end = end
        following.moved = (copied_end, end)
        return following

    @property
    def is_moving(self) -> bool:
        return None not in self.logs

    @property
    def may_need_compaction(self) -> bool:
        return self.damaged or self.end > self.compact_from

    def needs_compaction(self, *, anew: bool = False) -> bool:
        """Whether garbage, and what has expired, is worth it. Looks at every entry.

        ``anew``: also where the log has not grown much since it was looked at last.
        """
        if not (anew or self.may_need_compaction):
            return False
        limit = live_from()
        live = sum(record_bytes(entry) for entry in list(self.index.values()) if entry >= limit)
        bound = max(SMALL_LOG, int(WORTH * live))
        if self.damaged or self.end > bound:
            return True
        self.compact_from = max(bound, self.end + live // GROWTH)
        return False

    def parse(self, stop: int) -> None:
        """Take in what the log has up to ``stop`` or the first bytes that do not verify."""
        index, flag, end = self.index, self.flag, self.end
        for key, start, following, size, expires in logfile.read_log(self.log, end, stop):
            if size > 0:
                # entry(), written out: this runs once a record at every start.
                index[key] = int(expires * 1_000_000) << 65 | start << 25 | size << 1 | flag
            else:
                index.pop(key, None)
            end = following
        self.end = end

    def entry(self, expires: float, start: int, size: int) -> int:
        return (
            int(expires * 1_000_000) << EXPIRY_SHIFT
            | start << START_SHIFT
            | size << SIZE_SHIFT
            | self.flag
        )

    def whereabouts(self, entry: int) -> tuple[int, int]:
        """Where the record of an entry starts in its file, and the size of its value."""
        place = entry & PLACE_MASK
        return place >> START_SHIFT, place >> SIZE_SHIFT & SIZE_MASK

    def moved_to(self, entry: int, start: int) -> int:
        """The entry of a record that was copied to ``start`` of the current file."""
        size = entry >> SIZE_SHIFT & SIZE_MASK
        expiry = entry >> EXPIRY_SHIFT << EXPIRY_SHIFT
        return expiry | start << START_SHIFT | size << SIZE_SHIFT | self.flag

    def stats(self) -> StoreStats:
        entries, limit = list(self.index.values()), live_from()
        live = sum(entry >= limit for entry in entries)
        oldest = (min(entries) >> EXPIRY_SHIFT) / 1_000_000 if entries else None
        return StoreStats(live, len(entries) - live, self.end, oldest=oldest)

    def load(self, key: bytes) -> Record | None:
        """A live record, as of now. ``Unreadable`` where it is not what the index says."""
        entry = self.index.get(key)
        if entry is None or entry >> EXPIRY_SHIFT <= int(time.time() * 1_000_000):
            return None
        log = self.logs[entry & 1]
        if log is None:
            raise Unreadable
        place = entry & PLACE_MASK
        record = logfile.read_record(
            log, key, place >> START_SHIFT, place >> SIZE_SHIFT & SIZE_MASK
        )
        if record is None:
            raise Unreadable
        seen = self.seen
        if len(seen) >= SEEN_LATELY:
            seen.clear()
        seen[key] = entry, record[2]
        return record

    def live(self, key: bytes) -> int | None:
        entry = self.index.get(key)
        if entry is None or entry >> EXPIRY_SHIFT <= int(time.time() * 1_000_000):
            return None
        return entry

    def revision(self, key: bytes) -> int:
        """The revision of a live record, without reading its data; -1 where it is gone."""
        entry = self.live(key)
        if entry is None:
            return -1
        seen, revision = self.seen.get(key, NOT_SEEN)
        if seen == entry:
            return revision
        log = self.logs[entry & 1]
        if log is None:
            # It moved just now, and is found in its new place.
            return self.revision(key)
        return logfile.read_revision(log, (entry & PLACE_MASK) >> START_SHIFT)
