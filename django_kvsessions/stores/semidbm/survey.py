"""What an index says of all sessions: how many there are, which they are, which have expired."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from zlib import crc32

from django_kvsessions.stores.base import KEY_SIZE, StoreStats
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.index import Index, Unsure
from django_kvsessions.stores.semidbm.layout import (
    BUCKET,
    HEADER,
    SLOTS,
    SPARE,
    VALUE,
    VALUES,
    unpack_slot,
)
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["Parts", "crowding", "expired", "keys", "live", "stats"]


#: How much of an index is looked at at once.
_CHUNK = 64 * 1024


def columns(index: Index, start: int = 0) -> Iterator[tuple[int, list[int], list[int]]]:
    """The places and the seconds of expiry of many slots, and the hash that comes next.

    Free slots are among them, with no place. Nothing is verified: whoever acts upon a place
    looks there.
    """
    step, last = _CHUNK // BUCKET, index.homes + SPARE
    for chunk in range(start >> index.shift, last, step):
        count = min(step, last - chunk)
        data = os.pread(index.descriptor, count * BUCKET, HEADER + chunk * BUCKET)
        if len(data) != count * BUCKET:
            raise Unsure
        places, hints = memoryview(data).cast("Q"), memoryview(data).cast("I")
        found: tuple[list[int], list[int]] = [], []
        for at in range(VALUES, BUCKET, VALUE):
            found[0].extend(places[at // 8 :: BUCKET // 8])
            found[1].extend(hints[(at + 8) // 4 :: BUCKET // 4])
        yield chunk + count << index.shift, *found


def crowding(index: Index) -> float:
    """How full it is, by a sample."""
    step = max(1, index.homes // 64)
    counts = [index.bucket(number)[5] for number in range(0, index.homes, step)]
    return sum(counts) / len(counts) / SLOTS


def live(index: Index) -> tuple[int, int]:
    """How many sessions there are about, and the bytes of their records."""
    now, count, size = time.time(), 0, 0
    for _, places, hints in columns(index):
        sizes = [
            place & logfile.MAX_VALUE_SIZE
            for place, expires in zip(places, hints, strict=True)
            if place and expires > now
        ]
        count += len(sizes)
        size += sum(sizes)
    return count, size + count * logfile.OVERHEAD


def stats(log: LogFile, index: Index) -> StoreStats:
    now, live, expired = time.time(), 0, 0
    oldest: float | None = None
    oldest_place = 0
    for _, places, hints in columns(index):
        for place, second in zip(places, hints, strict=True):
            if not place:
                continue
            is_this_one = second == int(now)
            is_live = (logfile.read_head(log, place)[1] if is_this_one else second) > now
            live, expired = live + is_live, expired + (not is_live)
            if oldest is None or second < oldest:
                oldest, oldest_place = second, place
    if oldest_place:
        oldest = logfile.read_head(log, oldest_place)[1]
    return StoreStats(live, expired, log.size(), oldest=oldest)


#: Keys, some at a time, each with the hash from which on to go on.
Parts = Iterator[tuple[int, list[bytes]]]


def keys(log: LogFile, index: Index, start: int) -> Parts:
    """All keys from a hash on."""
    for end, slots in index.runs(start):
        # A home may begin before that hash, and has been seen then.
        yield end, _keys(log, [unpack_slot(one)[1] for one in slots if crc32(one[:8]) >= start])


def expired(log: LogFile, index: Index, start: int) -> Parts:
    """Keys from a hash on of which many have expired, and all that have."""
    limit = time.time()
    for end, places, hints in columns(index, start):
        candidates = zip(places, hints, strict=True)
        yield end, _keys(log, [place for place, expires in candidates if expires <= limit])


def _keys(log: LogFile, places: list[int]) -> list[bytes]:
    found = [logfile.read_key(log, place) for place in places]
    if any(len(key) != KEY_SIZE for key in found):
        raise logfile.Damaged
    return found
