"""What LMDBStore keeps in LMDB: the records, and two indexes of them.

A record is its expiry, its revision, the size of the owner, the owner and the data. The
index of expiries has expiry and key as its key, so that LMDB sorts by it, and the owner as
its value; the index of owners has owner and key.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.base import OWNER_SIZE, Record, StoreCorrupted, now

if TYPE_CHECKING:
    import lmdb

    Transaction = lmdb.Transaction[bytes]

__all__ = [
    "LARGEST_RECORD",
    "Databases",
    "expiry_key",
    "first_expiry",
    "last_expired",
    "load",
    "open_databases",
    "put",
    "remove",
    "unpack",
]

MARKER, LAYOUT = b"django_kvsessions", b"1"

_EXPIRY = struct.Struct(">d")
_HEADER = struct.Struct(">dQB")
#: The most bytes that LMDB keeps in one value, less the header.
LARGEST_RECORD = 2**32 - 1 - _HEADER.size - OWNER_SIZE


class Databases(NamedTuple):
    records: lmdb._Database
    expiry: lmdb._Database
    owners: lmdb._Database


def open_databases(environment: lmdb.Environment, path: str) -> Databases:
    """Make or open them; ``ImproperlyConfigured`` where the file holds something else."""
    # py-lmdb keeps handles to named databases only from a write transaction.
    with environment.begin(write=True) as txn:
        layout = txn.get(MARKER)
        if layout is None and txn.stat()["entries"]:
            raise ImproperlyConfigured(
                f"LOCATION {path} holds an LMDB file of something else: "
                "name a folder that is empty or does not exist yet."
            )
        if layout not in (None, LAYOUT):
            raise ImproperlyConfigured(
                f"LOCATION {path} was written by a later django-kvsessions: update it."
            )
        databases = Databases(
            *(environment.open_db(name.encode(), txn=txn) for name in Databases._fields)
        )
        if layout is None:
            txn.put(MARKER, LAYOUT)
        return databases


def first_expiry(txn: Transaction, dbs: Databases) -> float | None:
    with txn.cursor(dbs.expiry) as index:
        return _EXPIRY.unpack_from(index.key())[0] if index.first() else None


def load(txn: Transaction, dbs: Databases, key: bytes) -> Record | None:
    value = txn.get(key, db=dbs.records)
    return None if value is None else unpack(value)


def unpack(value: bytes) -> Record:
    try:
        expires, revision, owner_size = _HEADER.unpack_from(value)
    except struct.error as error:
        raise StoreCorrupted(f"An LMDB record of {len(value)} bytes has no header.") from error
    data = _HEADER.size + owner_size
    return Record(value[data:], expires, revision, value[_HEADER.size : data])


def put(
    txn: Transaction, dbs: Databases, key: bytes, current: Record | None, record: Record
) -> None:
    """Write a record and its index entries in the place of the current one."""
    data, expires, revision, owner = record
    if current is not None and current.expires != expires:
        txn.delete(expiry_key(current.expires, key), db=dbs.expiry)
    if current is not None and current.owner and current.owner != owner:
        txn.delete(current.owner + key, db=dbs.owners)
    txn.put(key, _HEADER.pack(expires, revision, len(owner)) + owner + data, db=dbs.records)
    txn.put(expiry_key(expires, key), owner, db=dbs.expiry)
    if owner:
        txn.put(owner + key, b"", db=dbs.owners)


def remove(txn: Transaction, dbs: Databases, key: bytes, current: Record) -> None:
    """Remove a record and its index entries."""
    txn.delete(key, db=dbs.records)
    txn.delete(expiry_key(current.expires, key), db=dbs.expiry)
    if current.owner:
        txn.delete(current.owner + key, db=dbs.owners)


def expiry_key(expires: float, key: bytes) -> bytes:
    # Big-endian floats sort as their numbers do, except below zero.
    return _EXPIRY.pack(max(expires, 0.0)) + key


def last_expired() -> bytes:
    """Not before any entry that has expired now, and before all others."""
    return expiry_key(now(), b"\xff" * 33)
