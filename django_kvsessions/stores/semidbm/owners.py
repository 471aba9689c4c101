"""Which records an owner may have: for who lists a user's sessions, made when somebody first does.

The log is read once, and after that what was appended to it since. Nothing is done
for it when a record is read or written.
"""

from __future__ import annotations

import threading

from django_kvsessions.stores.base import KEY_SIZE
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.generation import Generation
from django_kvsessions.stores.semidbm.log import Damaged, LogFile

__all__ = ["Owners"]

#: Of an owner: how many bits choose a bucket, and which bytes are kept beside each key in it.
BUCKET_BITS, KEPT = 12, slice(1, 5)
ENTRY_SIZE = 4 + KEY_SIZE


class Owners:
    """The keys by owner, in about 40 bytes a record.

    It knows of every record that has an owner, and of some that have it no more: those
    go when the log is compacted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._log: LogFile | None = None
        self._end = 0
        self._buckets: list[bytearray] = []

    def keys(self, generation: Generation, owner: bytes) -> list[bytes]:
        """Each key that the owner has in the log as it was parsed, and a few others."""
        with self._lock:
            try:
                self._catch_up(generation)
            except Damaged:
                # Each record is looked at until a compaction leaves out what is damaged.
                return list(generation.index)
            bucket = bytes(self._buckets[_bucket(owner)])
        kept = owner[KEPT]
        return [
            bucket[start + len(kept) : start + ENTRY_SIZE]
            for start in range(0, len(bucket), ENTRY_SIZE)
            if bucket.startswith(kept, start)
        ]

    def _catch_up(self, generation: Generation) -> None:
        log, end = generation.log, generation.end
        if log is not self._log:
            # A compaction leaves out what is over, so this does too.
            self._buckets = [bytearray() for _ in range(2**BUCKET_BITS)]
            self._log, self._end = log, len(logfile.FILE_HEADER)
        for key, owner in logfile.read_owners(log, self._end, end):
            bucket, entry = self._buckets[_bucket(owner)], owner[KEPT] + key
            if entry not in bucket:
                bucket += entry
        self._end = max(self._end, end)


def _bucket(owner: bytes) -> int:
    return int.from_bytes(owner[:2], "big") >> 16 - BUCKET_BITS
