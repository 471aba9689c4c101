"""Where each session is in the log: one hash table on disk for all processes of the machine.

A file of buckets, each read as a whole. It has the ends of some keys, which also say which
bucket is their home, with a checksum of these; and for each of them where the record is and when
it expires, with a checksum of its own. What finds no room at home goes to the next bucket that
has some, and each full one that it passes says so.

Readers take no lock. Where a record is said to be is believed where the log has the key's
there; that a key is absent, where the buckets verify. All else is ``Unsure``, which is settled
under the writer's lock. A table that was replaced is cut to nothing, and reads as unsure too.

It is never synced: a table is believed within the boot in which it was made.
"""

from __future__ import annotations

# Longer than 300 lines: what is read without a lock is best read beside what writes it.
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, repeat
from zlib import crc32

from django_kvsessions.stores.process.boot import boot_identity
from django_kvsessions.stores.semidbm.layout import (
    BEGINNING,
    BEGINNING_AT,
    BUCKET,
    COMPACT_AT,
    COMPLETE_AT,
    CONTENT,
    ENDING,
    FIXED,
    FREE,
    HEAD,
    HEADER,
    MAGIC,
    NUMBER,
    PRINT,
    RESIDUE,
    SLOTS,
    SPARE,
    VALUE,
    VALUES,
    bucket_of,
    names_itself,
    size_of,
    unpack_value,
)
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["Index", "Unsure", "depth_for"]

SMALLEST, LARGEST = 8, 30
#: How full a table is made at most, and how full it becomes before it is made anew.
FILLED, CROWDED = 0.55, 0.6
_CHUNK = 64 * 1024
#: What is written at once: of larger writes the system makes larger pieces of memory, in
#: which each later write of a bucket costs many times as much.
_WRITTEN = 4096

#: Says what a slot is to be in another table; ``None``: nothing.
Moved = Callable[[bytes], bytes | None]


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
        self.fixed = fixed = os.pread(descriptor, FIXED.size, 0)
        if not names_itself(descriptor):
            raise Unsure
        _, identity, self.boot, device, inode, self.inode, self.depth, _ = FIXED.unpack(fixed)
        #: The device and the inode of the log that it is about.
        self.log = device, inode
        self.homes = 1 << self.depth
        self.shift = 32 - self.depth
        self.bytes = size_of(self.depth)
        self.seed = int.from_bytes(identity[:4], sys.byteorder)
        if self.boot != boot_identity() or not self.is_whole():
            raise Unsure

    def __del__(self) -> None:
        # Whatever the system says of it, the descriptor is gone.
        with suppress(OSError):
            os.close(self.descriptor)

    @classmethod
    def write(
        cls, descriptor: int, log: tuple[int, int], depth: int, homes: Iterable[list[bytes]]
    ) -> Index:
        """Fill an empty file: the slots of each home, in order. The log is read from 0 on."""
        identity = os.urandom(8)
        seed, position = int.from_bytes(identity[:4], sys.byteorder), HEADER
        os.pwrite(descriptor, bytes(HEADER), 0)
        left: list[bytes] = []
        page: list[bytes] = []
        for number, slots in enumerate(chain(homes, repeat([], SPARE))):
            here = left + slots if left else slots
            left = here[SLOTS:]
            page.append(bucket_of(seed ^ number, here[:SLOTS], bool(left)))
            if len(page) == _WRITTEN // BUCKET:
                position += os.pwrite(descriptor, b"".join(page), position)
                page.clear()
        if position != size_of(depth):
            # A disk that fills up takes a part and says so only at the next write.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if left:
            raise Unsure
        own = os.fstat(descriptor).st_ino
        fixed = FIXED.pack(MAGIC, identity, boot_identity(), *log, own, depth, 0)[:-4]
        os.pwrite(descriptor, fixed + crc32(fixed).to_bytes(4, sys.byteorder), 0)
        return cls(descriptor)

    def by_home(self, depth: int, moved: Moved) -> Iterator[list[bytes]]:
        """For ``write``: all slots by their homes in another table, as ``moved`` wants them."""
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
        for _ in range(3):
            # It may have been read while it was written.
            found = self._read_number(COMPLETE_AT)
            if found is not None:
                return found
        raise Unsure

    def note_complete(self, end: int) -> None:
        self._write_number(COMPLETE_AT, end)

    def is_about(self, log: LogFile) -> bool:
        """Whether it was made for that log, and the log was not replaced in its place."""
        found = self._read_number(BEGINNING_AT) or 0
        size, check = found >> 32, found & 2**32 - 1
        return size > 0 and log.identity == self.log and crc32(log.read(size, 0)) == check

    def note_beginning(self, log: LogFile) -> bool:
        """By what to know the log; whether there is enough of it."""
        data = log.read(BEGINNING, 0)
        self._write_number(BEGINNING_AT, len(data) << 32 | crc32(data))
        return len(data) == BEGINNING

    @property
    def compact_from(self) -> int:
        """Up to this size of the log a compaction cannot be worth it; a mere hint."""
        return self._read_number(COMPACT_AT) or 0

    @compact_from.setter
    def compact_from(self, size: int) -> None:
        self._write_number(COMPACT_AT, size)

    def _read_number(self, at: int) -> int | None:
        data = os.pread(self.descriptor, NUMBER.size, at)
        if len(data) < NUMBER.size:
            return None
        number, check = NUMBER.unpack(data)
        return int(number) if crc32(data[:8], self.seed) == check else None

    def _write_number(self, at: int, number: int) -> None:
        data = NUMBER.pack(number, 0)[:8]
        os.pwrite(self.descriptor, NUMBER.pack(number, crc32(data, self.seed)), at)

    def is_as_it_was(self) -> bool:
        return os.pread(self.descriptor, FIXED.size, 0) == self.fixed

    def is_whole(self) -> bool:
        """Whether it was not retired since."""
        return os.lseek(self.descriptor, 0, os.SEEK_END) == self.bytes

    def retire(self) -> None:
        """Let nobody believe it any more."""
        os.ftruncate(self.descriptor, 0)

    # Looking

    def bucket(self, number: int) -> bytes:
        """A bucket whose ends of keys verify."""
        for _ in range(3):
            # It may have been read while it was written.
            data = os.pread(self.descriptor, BUCKET, HEADER + number * BUCKET)
            if self._verifies(data, number):
                return data
        raise Unsure

    def _verifies(self, data: bytes, number: int) -> bool:
        return len(data) == BUCKET and crc32(data[4:VALUES], self.seed ^ number) == int.from_bytes(
            data[:4], sys.byteorder
        )

    def find(self, bucket: bytes, ending: bytes, start: int = 0) -> int:
        """Which slot of a bucket, from one on, has the end of a key; -1: none."""
        at = bucket.find(ending, HEAD + start * ENDING, HEAD + bucket[5] * ENDING)
        while at >= 0 and at % ENDING:
            at = bucket.find(ending, at + 1, HEAD + bucket[5] * ENDING)
        return (at - HEAD) // ENDING if at >= 0 else -1

    def place(self, bucket: bytes, at: int) -> int:
        """Where the record of a slot is; ``Unsure`` where that does not verify."""
        start = VALUES + at * VALUE
        ending = bucket[HEAD + at * ENDING : HEAD + at * ENDING + ENDING]
        if crc32(bucket[start : start + VALUE], crc32(ending)) != RESIDUE:
            raise Unsure
        return int(unpack_value(bucket, start)[0])

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
                slots = self._slots(bucket, number)
                for _ in range(3):
                    if slots is not None:
                        break
                    bucket = self.bucket(number)
                    slots = self._slots(bucket, number)
                if slots is None:
                    raise Unsure
                found += slots
                if not bucket[4] and number < self.homes - 1:
                    yield number + 1 << self.shift, found
                    found = []
        yield 1 << 32, found

    def _slots(self, bucket: bytes, number: int) -> list[bytes] | None:
        if not self._verifies(bucket, number):
            return None
        found = CONTENT.unpack(bucket)
        slots = []
        for ending, value in zip(found[: bucket[5]], found[SLOTS:], strict=False):
            if crc32(value, crc32(ending)) != RESIDUE:
                return None
            slots.append(ending + value)
        return slots

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

    def remove(self, number: int, at: int, content: bytes) -> None:
        """Empty a slot of a bucket; the last one there takes its place."""
        bucket = bytearray(content)
        last = bucket[5] = bucket[5] - 1
        for first, size, nothing in ((HEAD, ENDING, bytes(ENDING)), (VALUES, VALUE, FREE)):
            end = first + last * size
            bucket[first + at * size : first + (at + 1) * size] = bucket[end : end + size]
            bucket[end : end + size] = nothing
        self._write(number, bytes(bucket[4:]))

    def _write(self, number: int, data: bytes) -> None:
        check = crc32(data[: VALUES - 4], self.seed ^ number).to_bytes(4, sys.byteorder)
        os.pwrite(self.descriptor, check + data, HEADER + number * BUCKET)
