"""Records that the tests write, and how their store is opened.

Without pytest, since the processes that tests start need none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django_kvsessions.stores.base import KEY_SIZE, OWNER_SIZE, Record, Store

__all__ = ["ALICE", "BOB", "LONG", "MakeStore", "increment", "make_key", "next_count", "opened"]

#: Opens the store; picklable, so that other processes can call it too.
MakeStore = Callable[[], Store]

#: Seconds that no test takes.
LONG = 3600.0

ALICE = b"\x0aalice".ljust(OWNER_SIZE, b"\x00")
BOB = b"\xffbob".ljust(OWNER_SIZE, b"\xff")


def make_key(name: object) -> bytes:
    return hashlib.blake2b(str(name).encode(), digest_size=KEY_SIZE).digest()


def next_count(record: Record) -> Record:
    return record._replace(data=b"%d" % (int(record.data) + 1), revision=record.revision + 1)


def increment(store: Store, key: bytes, times: int) -> None:
    """Raise the number in a record by compare-and-swap."""
    for _ in range(times):
        swapped = False
        while not swapped:
            record = store.load(key)
            assert record is not None
            swapped = store.replace(key, next_count(record), expected=record.revision)


@contextmanager
def opened(make_store: MakeStore) -> Iterator[Store]:
    store = make_store()
    try:
        yield store
    finally:
        store.close()
