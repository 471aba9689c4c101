"""Where each session is in the log: one hash table on disk for all processes of the machine.

A file of buckets, each read as a whole. It has the ends of some keys, which also say which
bucket is their home, with a checksum; and for each of them where the record is, and its expiry.
What finds no room at home goes to the next bucket that has some, and each full one that it
passes says so.

Readers take no lock. Where a record is said to be is believed where the log has the key's
there; that a key is absent, where the buckets verify. All else is ``Unsure``, which is settled
under the writer's lock. A table that was replaced is cut to nothing, and reads as unsure too.

It is never synced: a table is believed within the boot in which it was made.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, repeat
from zlib import crc32

from django_kvsessions.stores.base import KEY_SIZE
from django_kvsessions.stores.process.boot import NO_BOOT, boot_identity

__all__ = ["Index", "Unsure", "depth_for", "slot"]

HEADER, BUCKET, HEAD = 4096, 256, 16
#: In a bucket the ends of keys come first, then the values, as many of each.
ENDING, VALUE, SLOTS = 8, 16, 10
VALUES = HEAD + SLOTS * ENDING
#: Buckets behind those that are homes, for what the last of them have no room for.
SPARE = 64
SMALLEST, LARGEST = 8, 30
#: How full a table is made at most, and how full it becomes before it is made anew.
FILLED, CROWDED = 0.35, 0.55
#: Where the end of the key begins that a slot has. Sessions' keys are hashes.
PRINT = KEY_SIZE - ENDING

_FIXED = struct.Struct(">8s8s16sQQQQI")
MAGIC = b"kvindex2"
#: Places in the header of two numbers: see ``complete`` and ``compact_from``.
COMPLETE_AT, COMPACT_AT = 128, 192
_SLOT = struct.Struct(">8sQd")
_VALUE = struct.Struct(">Qd")
_CHUNK = 64 * 1024
#: What is written at once: of larger writes the system makes larger pieces of memory, in
#: which each later write of a bucket costs many times as much.
_WRITTEN = 4096

#: Says what a slot is to be in another table; ``None``: nothing.
Moved = Callable[[bytes], bytes | None]
slot = _SLOT.pack
unpack_slot = _SLOT.unpack
unpack_value = _VALUE.unpack_from
pack_value = _VALUE.pack


class Unsure(Exception):
    """What the table says cannot be believed as it is."""


def depth_for(count: int) -> int:
    """Of how many bits a home is in a table for so many keys."""
    return max(SMALLEST, min(LARGEST, int(count / SLOTS / FILLED).bit_length()))


class Index:
    """An open table. The descriptor closes when the last user of this object lets go.

    What changes it is only for the one process that holds the writer's lock.
    """

    def __init__(self, descriptor: int) -> None:
        """``Unsure`` where the file is no table of this boot."""
        self.descriptor = descriptor
        fixed = os.pread(descriptor, _FIXED.size, 0)
        if len(fixed) < _FIXED.size or crc32(fixed[:-4]) != _FIXED.unpack(fixed)[-1]:
            raise Unsure
        magic, self.identity, boot, device, inode, own, self.depth, _ = _FIXED.unpack(fixed)
        self.fixed = fixed
        #: The device and the inode of the log that it is about.
        self.log = device, inode
        status = os.fstat(descriptor)
        self.inode = status.st_ino
        self.homes = 1 << self.depth
        size = HEADER + (self.homes + SPARE) * BUCKET
        if magic != MAGIC or NO_BOOT in (boot, boot_identity()) or boot != boot_identity():
            raise Unsure
        if (status.st_ino, status.st_size) != (own, size):
            raise Unsure
        self.shift = 32 - self.depth
        self._seed = int.from_bytes(self.identity[:4], "big")

    def __del__(self) -> None:
        # Whatever the system says of it, the descriptor is gone.
        with suppress(OSError):
            os.close(self.descriptor)

    @classmethod
    def write(
        cls, descriptor: int, log: tuple[int, int], depth: int, homes: Iterable[list[bytes]]
    ) -> Index:
        """Fill an empty file: the slots of each home, in order. The log is read from 0 on."""
        seed = os.urandom(8)
        bucket_seed, position = int.from_bytes(seed[:4], "big"), HEADER
        os.pwrite(descriptor, bytes(HEADER), 0)
        left: list[bytes] = []
        page: list[bytes] = []
        for number, slots in enumerate(chain(homes, repeat([], SPARE))):
            here = left + slots if left else slots
            left = here[SLOTS:]
            page.append(_bucket(bucket_seed ^ number, here, bool(left)))
            if len(page) == _WRITTEN // BUCKET:
                position += os.pwrite(descriptor, b"".join(page), position)
                page.clear()
        if left or position != HEADER + ((1 << depth) + SPARE) * BUCKET:
            raise Unsure
        own = os.fstat(descriptor).st_ino
        fixed = _FIXED.pack(MAGIC, seed, boot_identity(), *log, own, depth, 0)
        os.pwrite(descriptor, fixed[:-4] + crc32(fixed[:-4]).to_bytes(4, "big"), 0)
        return cls(descriptor)

    def rewritten(self, descriptor: int, log: tuple[int, int], depth: int, moved: Moved) -> Index:
        """A copy with another depth, in an empty file; ``moved`` says where records are now."""
        return Index.write(descriptor, log, depth, self._by_home(depth, moved))

    def _by_home(self, depth: int, moved: Moved) -> Iterator[list[bytes]]:
        shift = 32 - depth
        done = 0
        waiting: dict[int, list[bytes]] = {}
        for end, slots in self.runs():
            for one in slots:
                after = moved(one)
                if after is not None:
                    waiting.setdefault(crc32(one[:8]) >> shift, []).append(after)
            for home in range(done, end >> shift):
                yield waiting.pop(home, [])
            done = end >> shift

    # The header

    def complete(self) -> int:
        """Up to where all that is in the log is in the table."""
        data = os.pread(self.descriptor, 8, COMPLETE_AT)
        if len(data) < 8:
            raise Unsure
        return int.from_bytes(data, "big")

    def note_complete(self, end: int) -> None:
        os.pwrite(self.descriptor, end.to_bytes(8, "big"), COMPLETE_AT)

    @property
    def compact_from(self) -> int:
        """Up to this size of the log a compaction cannot be worth it; a mere hint."""
        return int.from_bytes(os.pread(self.descriptor, 8, COMPACT_AT), "big")

    @compact_from.setter
    def compact_from(self, size: int) -> None:
        os.pwrite(self.descriptor, size.to_bytes(8, "big"), COMPACT_AT)

    def is_as_it_was(self) -> bool:
        return os.pread(self.descriptor, _FIXED.size, 0) == self.fixed

    def retire(self) -> None:
        """Let nobody believe it any more."""
        os.ftruncate(self.descriptor, 0)

    # Looking

    def bucket(self, number: int) -> bytes:
        """A bucket that verifies."""
        for _ in range(3):
            # It may have been read while it was written.
            data = os.pread(self.descriptor, BUCKET, HEADER + number * BUCKET)
            if self._verifies(data, number):
                return data
        raise Unsure

    def _verifies(self, data: bytes, number: int) -> bool:
        return len(data) == BUCKET and crc32(data[4:VALUES], self._seed ^ number) == int.from_bytes(
            data[:4], "big"
        )

    def find(self, bucket: bytes, ending: bytes, start: int = 0) -> int:
        """Which slot of a bucket, from one on, has the end of a key; -1: none."""
        at = bucket.find(ending, HEAD + start * ENDING, HEAD + bucket[5] * ENDING)
        while at >= 0 and at % ENDING:
            at = bucket.find(ending, at + 1, HEAD + bucket[5] * ENDING)
        return (at - HEAD) // ENDING if at >= 0 else -1

    def points_to(self, key: bytes, place: int) -> bool:
        """Whether the record at a place is the key's of now."""
        number = crc32(key[PRINT:]) >> self.shift
        while True:
            bucket = self.bucket(number)
            at = self.find(bucket, key[PRINT:])
            while at >= 0:
                if unpack_value(bucket, VALUES + at * VALUE)[0] == place:
                    return True
                at = self.find(bucket, key[PRINT:], at + 1)
            if not bucket[4]:
                return False
            number += 1

    def runs(self, start: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """All slots, of some homes after the other, and the hash that comes next.

        From the hash ``start`` on; of a home in which that falls, all.
        """
        first = start >> self.shift
        last = self.homes + SPARE
        found: list[bytes] = []
        for chunk in range(first, last, _CHUNK // BUCKET):
            data = os.pread(self.descriptor, _CHUNK, HEADER + chunk * BUCKET)
            for number in range(chunk, min(chunk + _CHUNK // BUCKET, last)):
                at = (number - chunk) * BUCKET
                bucket = data[at : at + BUCKET]
                if not self._verifies(bucket, number):
                    bucket = self.bucket(number)
                found += [
                    bucket[HEAD + at * 8 : HEAD + at * 8 + 8]
                    + bucket[VALUES + at * 16 : VALUES + at * 16 + 16]
                    for at in range(bucket[5])
                ]
                if not bucket[4] and number < self.homes - 1:
                    yield number + 1 << self.shift, found
                    found = []
        yield 1 << 32, found

    def crowding(self) -> float:
        """How full it is, by a sample."""
        step = max(1, self.homes // 64)
        counts = [self.bucket(number)[5] for number in range(0, self.homes, step)]
        return sum(counts) / len(counts) / SLOTS

    # Changing

    def room(self, key: bytes) -> tuple[int, bytes]:
        """Which bucket has room for a key that is not there.

        ``Unsure`` where there is none.
        """
        number = crc32(key[PRINT:]) >> self.shift
        while number < self.homes + SPARE:
            bucket = self.bucket(number)
            if bucket[5] < SLOTS:
                return number, bucket
            if not bucket[4]:
                # Before anything is behind it, for a process may be killed at any time.
                self._write(number, b"\1" + bucket[5:])
            number += 1
        raise Unsure

    def move(self, number: int, at: int, value: bytes) -> None:
        """Say of a key that is there where its record is now."""
        # Not the whole bucket, whose checksum is about which keys are there.
        os.pwrite(self.descriptor, value, HEADER + number * BUCKET + VALUES + at * VALUE)

    def add(self, number: int, bucket: bytes, key: bytes, value: bytes) -> None:
        """Fill the first slot of a bucket that is free."""
        count = bucket[5]
        at, to = HEAD + count * ENDING, VALUES + count * VALUE
        head = b"".join(
            (bucket[4:5], bytes((count + 1,)), bucket[6:at], key[PRINT:], bucket[at + ENDING : to])
        )
        self._write(number, b"".join((head, value, bucket[to + VALUE :])))

    def remove(self, number: int, at: int) -> None:
        """Empty a slot; the last one of its bucket takes its place."""
        bucket = bytearray(self.bucket(number))
        last = bucket[5] = bucket[5] - 1
        for first, size in ((HEAD, ENDING), (VALUES, VALUE)):
            end = first + last * size
            bucket[first + at * size : first + (at + 1) * size] = bucket[end : end + size]
            bucket[end : end + size] = bytes(size)
        self._write(number, bytes(bucket[4:]))

    def _write(self, number: int, data: bytes) -> None:
        check = crc32(data[: VALUES - 4], self._seed ^ number).to_bytes(4, "big")
        os.pwrite(self.descriptor, check + data, HEADER + number * BUCKET)


def _bucket(seed: int, slots: list[bytes], is_followed: bool) -> bytes:
    slots = slots[:SLOTS]
    data = bytes((is_followed, len(slots))) + bytes(10) + b"".join([one[:8] for one in slots])
    data = data.ljust(VALUES - 4, b"\0")
    check = crc32(data, seed).to_bytes(4, "big")
    return (check + data + b"".join([one[8:] for one in slots])).ljust(BUCKET, b"\0")
