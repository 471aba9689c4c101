"""How a record stands in a row of LibSQLStore's table."""

from __future__ import annotations

import struct

from django_kvsessions.stores.base import Record
from django_kvsessions.stores.libsql.database import Row, Value

__all__ = ["from_row", "revision_value", "time_value", "to_values"]

# Blobs, see Value; big-endian ones sort as what they stand for.
_TIME = struct.Struct(">d")
_REVISION = struct.Struct(">Q")


def time_value(moment: float) -> bytes:
    # Before 1970 is as expired as 1970.
    return _TIME.pack(max(0.0, moment))


def revision_value(revision: int) -> bytes:
    return _REVISION.pack(revision)


def to_values(record: Record) -> tuple[Value, ...]:
    data, expires, revision, owner = record
    # The driver takes no other type that has bytes.
    return bytes(data), time_value(expires), revision_value(revision), bytes(owner) or None


def from_row(row: Row) -> Record:
    data, expires, revision, owner = row[:4]
    return Record(data, _TIME.unpack(expires)[0], _REVISION.unpack(revision)[0], owner or b"")
