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
#: Places in the header of numbers: see ``complete``, ``is_about`` and ``compact_from``.
COMPLETE_AT, BEGINNING_AT, COMPACT_AT = 128, 160, 192
#: How many of a log's first bytes tell it from another one that was in its place.
BEGINNING = 96
# A file of this machine alone: as its processor has them, so that many are looked at at once.
_SLOT = struct.Struct("=8sQI4x")
_VALUE = struct.Struct("=QI4x")
_PLACE = struct.Struct("=QI")
_CHECK = struct.Struct("<I")
CONTENT = struct.Struct("=16x" + "8s" * SLOTS + "16s" * SLOTS)
#: The CRC-32 of all that ends with its own CRC-32.
RESIDUE = 0x2144DF1C

unpack_slot = _SLOT.unpack
unpack_value = _VALUE.unpack_from
_pack_place, _pack_check = _PLACE.pack, _CHECK.pack


def slot_of(ending: bytes, place: int, expires: float) -> bytes:
    """Of the end of a key: what ``Index.runs`` gives and ``Index.write`` takes."""
    second = int(expires) if 0 <= expires < NO_HINT else NO_HINT if expires > 0 else 0
    checked = _pack_place(place, second)
    return ending + checked + _pack_check(crc32(checked, crc32(ending)))


def names_itself(descriptor: int) -> bool:
    """Whether a file is a table that was made there: a copy of it is not what others have open."""
    fixed = os.pread(descriptor, FIXED.size, 0)
    if len(fixed) < FIXED.size:
        return False
    magic, *_, own, _, check = FIXED.unpack(fixed)
    return bool(
        magic == MAGIC and crc32(fixed[:-4]) == check and os.fstat(descriptor).st_ino == own
    )


def size_of(depth: int) -> int:
    return HEADER + ((1 << depth) + SPARE) * BUCKET


def bucket_of(seed: int, slots: list[bytes], is_followed: bool) -> bytes:
    count = len(slots)
    ends = b"".join([one[:ENDING] for one in slots])
    data = b"%c%c%b%b" % (is_followed, count, bytes(10), ends.ljust(SLOTS * ENDING, b"\0"))
    values = b"".join([one[ENDING:] for one in slots])
    check = crc32(data, seed).to_bytes(4, sys.byteorder)
    return b"".join((check, data, values, FREE * (SLOTS - count)))
