"""semidbm's file: an append-only log of records, read and verified from any offset.

A file starts with an identifier and a version. A record is the size of its
key, the size of its value (-1 for a deletion, which has no value), the key,
the value, and a CRC-32 of key and value; numbers are big-endian. Here a key
always has 32 bytes, and a value starts with the expiry.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from zlib import crc32

from semidbm.loaders import _DELETED as DELETED
from semidbm.loaders import FILE_FORMAT_VERSION, FILE_IDENTIFIER

from django_kvsessions.stores.base import KEY_SIZE, OWNER_SIZE, Record

FILE_HEADER: bytes = FILE_IDENTIFIER + struct.pack(">HH", *FILE_FORMAT_VERSION)
#: What a record takes besides its value.
OVERHEAD = 8 + KEY_SIZE + 4
MAX_VALUE_SIZE = 2**24 - 1

_HEAD = struct.Struct(f">ii{KEY_SIZE}sd")
_SIZES = struct.Struct(">ii")
_VALUE = struct.Struct(">dQB")
_HEAD_AND_OWNER = struct.Struct(f">ii{KEY_SIZE}sdQB{OWNER_SIZE}s")
_KEY_AND_VALUE = struct.Struct(f">{KEY_SIZE}sdQB")
_CRC = struct.Struct(">I")
#: How each record begins.
KEY_SIZE_BYTES = struct.pack(">i", KEY_SIZE)
_CHUNK = 256 * 1024

#: The least and the most that a value takes besides the record's data.
VALUE_OVERHEAD = _VALUE.size + OWNER_SIZE


class Damaged(Exception):
    """Records do not follow each other any more as they did."""


class LogFile:
    """An open log. The descriptor closes when the last user of this object lets go.

    Reading and appending use no file offset, so threads and forked processes
    may share one.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        status = os.fstat(descriptor)
        self.inode = status.st_ino
        self.identity = status.st_dev, status.st_ino

    def __del__(self) -> None:
        # Whatever the system says of it, the descriptor is gone.
        with suppress(OSError):
            os.close(self.descriptor)

    def is_at(self, path: str) -> bool:
        """Whether the path still names this file."""
        try:
            return os.stat(path).st_ino == self.inode
        except FileNotFoundError:
            return False

    def size(self) -> int:
        # A quarter of what fstat takes. Nobody uses the offset that it moves.
        return os.lseek(self.descriptor, 0, os.SEEK_END)

    def read(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset``, fewer only at the end of the file."""
        data = os.pread(self.descriptor, size, offset)
        while len(data) < size and (
            more := os.pread(self.descriptor, size - len(data), offset + len(data))
        ):
            data += more
        return data

    def append(self, data: bytes) -> None:
        """Add ``data`` at the end as a whole, or raise ``OSError`` and add nothing.

        Only for the one process that holds the writer's lock.
        """
        written = os.write(self.descriptor, data)
        if written == len(data):
            return
        # A disk that fills up takes a part and says so only at the next write.
        start = self.size() - written
        try:
            while written < len(data):
                written += os.write(self.descriptor, data[written:])
        except OSError:
            os.ftruncate(self.descriptor, start)
            raise

    def truncate(self, size: int) -> None:
        os.ftruncate(self.descriptor, size)

    def sync(self) -> None:
        os.fdatasync(self.descriptor)


#: Where a record is: key, start, end, size of the value (below 0: a deletion), expiry.
Entry = tuple[bytes, int, int, int, float]


def put(key: bytes, record: Record) -> bytes:
    """The log record that sets a key."""
    data, expires, revision, owner = record
    content = b"".join((key, _VALUE.pack(expires, revision, len(owner)), owner, data))
    return b"".join(
        (_SIZES.pack(KEY_SIZE, len(content) - KEY_SIZE), content, _CRC.pack(crc32(content)))
    )


def put_nothing(key: bytes) -> bytes:
    """A record that says nothing, so that a deletion may follow it in any case."""
    return _SIZES.pack(KEY_SIZE, 0) + key + _CRC.pack(crc32(key))


def deletion(key: bytes) -> bytes:
    """The log record that removes a key. semidbm wants the key to be there before it."""
    return _SIZES.pack(KEY_SIZE, DELETED) + key + _CRC.pack(crc32(key))


def read_record(log: LogFile, key: bytes, start: int, size: int) -> Record | None:
    """The record at ``start``; ``None`` if what is there is damaged or another key's."""
    length = KEY_SIZE + size
    blob = os.pread(log.descriptor, length + 4, start + 8)
    if len(blob) != length + 4 or crc32(blob[:-4]) != _CRC.unpack_from(blob, length)[0]:
        return None
    found, expires, revision, owner_size = _KEY_AND_VALUE.unpack_from(blob)
    if found != key:
        return None
    data = _KEY_AND_VALUE.size + owner_size
    return Record(blob[data:-4], expires, revision, blob[data - owner_size : data])


def read_revision(log: LogFile, start: int) -> int:
    """The revision of a record that is known to be there."""
    return int.from_bytes(os.pread(log.descriptor, 8, start + 8 + KEY_SIZE + 8), "big")


def read_log(log: LogFile, start: int, stop: int, chunk: int = _CHUNK) -> Iterator[Entry]:
    """Each record from ``start`` on, up to ``stop`` or the first that does not verify."""
    # Runs once a record whenever a process starts: hence the local names.
    head, crc, wanted, overhead = _HEAD.unpack_from, _CRC.unpack_from, KEY_SIZE, OVERHEAD
    while start < stop:
        # Padded, since a deletion at the very end is shorter than what is unpacked at once.
        data = log.read(min(chunk, stop - start), start) + bytes(_HEAD.size)
        size = len(data) - _HEAD.size
        view = memoryview(data)
        position = 0
        while position < size:
            key_size, value_size, key, expires = head(data, position)
            end = position + overhead
            if value_size > 0:
                end += value_size
            if end > size:
                if value_size > MAX_VALUE_SIZE:
                    return
                break
            if key_size != wanted or crc32(view[position + 8 : end - 4]) != crc(data, end - 4)[0]:
                return
            yield key, start + position, start + end, value_size, expires
            position = end
        if position:
            start += position
        elif size == stop - start or chunk > MAX_VALUE_SIZE + OVERHEAD:
            return
        else:
            # A record larger than what was read: once more with room for the largest.
            chunk = MAX_VALUE_SIZE + OVERHEAD + 1


def read_owners(log: LogFile, start: int, stop: int) -> Iterator[tuple[bytes, bytes]]:
    """Key and owner of each record between two places where records begin; ``Damaged``.

    Those of nobody are left out. What was verified before is not verified again.
    """
    head = _HEAD_AND_OWNER
    while start < stop:
        data = log.read(min(_CHUNK, stop - start), start)
        size, position = len(data), 0
        is_last = size == stop - start
        # Padded, since a record may be shorter than what is unpacked at once.
        data += bytes(head.size)
        while position + (OVERHEAD if is_last else head.size) <= size:
            key_size, value_size, key, _, _, owner_size, owner = head.unpack_from(data, position)
            if key_size != KEY_SIZE:
                raise Damaged
            if value_size > 0 and owner_size:
                yield key, owner[:owner_size]
            position += OVERHEAD + max(value_size, 0)
        if not position:
            raise Damaged
        # What is left of a large record need not be read.
        start += position
    if start != stop:
        raise Damaged


def find_record(log: LogFile, start: int, stop: int) -> int | None:
    """Where the first record after ``start`` begins that verifies; ``None`` if none does."""
    while start < stop:
        data = log.read(min(_CHUNK, stop - start), start)
        found = data.find(KEY_SIZE_BYTES)
        while found >= 0:
            if next(read_log(log, start + found, stop, 4096), None) is not None:
                return start + found
            found = data.find(KEY_SIZE_BYTES, found + 1)
        if start + len(data) >= stop:
            return None
        # The pattern may lie across the edge of what was read.
        start += len(data) - len(KEY_SIZE_BYTES) + 1
    return None
