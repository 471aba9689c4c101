"""How a table of ``index`` is laid out in its file.

A header, then buckets of which each is read as a whole: a checksum of the ends of the keys that
are in it, whether the next bucket has more, how many there are, their ends, and as many values:
where the record is, in which second it expires, and a checksum of these and the end of the key.
"""

from __future__ import annotations

import os
import struct
import sys
from zlib import crc32

from django_kvsessions.stores.base import KEY_SIZE

HEADER, BUCKET, HEAD = 4096, 256, 16
#: In a bucket the ends of keys come first, then the values, as many of each.
ENDING, VALUE, SLOTS = 8, 16, 10
VALUES = HEAD + SLOTS * ENDING
#: Buckets behind those that are homes, for what the last of them have no room for.
SPARE = 64
#: Where the end of the key begins that a slot has. Sessions' keys are hashes.
PRINT = KEY_SIZE - ENDING
#: Seconds that are too many for the hint of when a record expires, and what is in a free slot.
NO_HINT = 2**32 - 2
FREE = bytes(8) + b"\xff" * 4 + bytes(4)

MAGIC = b"kvindex3"
FIXED = struct.Struct("=8s8s16sQQQQI")
NUMBER = struct.Struct("=QI")
#: Places in the header of two numbers: see ``complete`` and ``compact_from``.
COMPLETE_AT, COMPACT_AT = 128, 192
# A file of this machine alone: as its processor has them, so that many are looked at at once.
_SLOT = struct.Struct("=8sQI")
_VALUE = struct.Struct("=QII")
_PLACE = struct.Struct("=QI")
_CHECK = struct.Struct("=I")
CONTENT = struct.Struct("=16x" + "8s" * SLOTS + "12sI" * SLOTS)
#: How much of a value its checksum is about.
CHECKED = _PLACE.size

#: Of an ending, a place and a hint: what ``Index.runs`` gives and ``Index.write`` takes.
slot = _SLOT.pack
unpack_slot = _SLOT.unpack
unpack_value = _VALUE.unpack_from
pack_place, pack_check = _PLACE.pack, _CHECK.pack


def names_itself(descriptor: int) -> bool:
    """Whether a file is a table that was made there: a copy of it is not what others have open."""
    fixed = os.pread(descriptor, FIXED.size, 0)
    if len(fixed) < FIXED.size:
        return False
    magic, *_, own, _, check = FIXED.unpack(fixed)
    return bool(
        magic == MAGIC and crc32(fixed[:-4]) == check and os.fstat(descriptor).st_ino == own
    )


def hint(expires: float) -> int:
    """Of when a record expires: the second in which that is, or before it."""
    return int(expires) if 0 <= expires < NO_HINT else NO_HINT if expires > 0 else 0


def size_of(depth: int) -> int:
    return HEADER + ((1 << depth) + SPARE) * BUCKET


def bucket_of(seed: int, number: int, slots: list[bytes], is_followed: bool) -> bytes:
    slots = slots[:SLOTS]
    data = bytes((is_followed, len(slots))) + bytes(10) + b"".join([one[:8] for one in slots])
    data = data.ljust(VALUES - 4, b"\0")
    parts = [crc32(data, seed ^ number).to_bytes(4, sys.byteorder), data]
    for one in slots:
        parts += one[8:], crc32(one[8:], crc32(one[:8]) ^ seed).to_bytes(4, sys.byteorder)
    parts.append(FREE * (SLOTS - len(slots)))
    return b"".join(parts)
