"""On the semidbm store, a user's sessions are found without looking at everybody's."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_kvsessions.stores.base import Record
from django_kvsessions.stores.semidbm import SemidbmStore

pytestmark = pytest.mark.same

LATER = time.time() + 1e6
ALICE, BOB = b"a" * 16, b"b" * 16
#: Of the same bucket as ALICE, and of the same bytes beside each key.
NAMESAKE = ALICE[:5] + bytes(11)


def key(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=32).digest()


def record(number: int, owner: bytes = ALICE, size: int = 50, expires: float = LATER) -> Record:
    return Record(b"%d:" % number + bytes(size), expires, number, owner)


def crowd(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=16).digest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SemidbmStore]:
    store = SemidbmStore(tmp_path / "sessions", durability="process")
    yield store
    store.close()


def listed(store: SemidbmStore, owner: bytes = ALICE) -> set[int]:
    return {found.revision for _, found in store.scan_owner(owner)}


@pytest.mark.parametrize("size", [0, 50, 300_000])
def test_the_second_list_reads_what_is_theirs_and_what_is_new(
    store: SemidbmStore, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        owner = ALICE if number % 100 == 0 else b"" if number % 3 == 0 else crowd(number)
        store.create(key(number), record(number, owner, size if number % 50 == 0 else 50))
    assert listed(store) == {0, 100, 200}
    assert listed(store, NAMESAKE) == set()
    store.create(key(300), record(300))
    reads = []
    read = os.pread

    def counted(*args: int) -> bytes:
        reads.append(args)
        return read(*args)

    monkeypatch.setattr(os, "pread", counted)
    assert listed(store) == {0, 100, 200, 300}
    # The four, and the end of the log.
    assert len(reads) <= 4 + 2
    reads.clear()
    assert listed(store, BOB) == set()
    assert len(reads) == 0


def test_it_is_right_after_each_kind_of_change_also_by_another_process(
    store: SemidbmStore,
) -> None:
    other = SemidbmStore(store.path, durability="process")
    try:
        for changing, looking in ((store, store), (other, store), (store, other)):
            assert listed(looking) == listed(looking, BOB) == set()
            changing.create(key(1), record(1, b""))
            changing.create(key(2), record(2, b""))
            assert listed(looking) == set()
            changing.replace(key(1), record(3, ALICE))
            changing.replace(key(2), record(4, ALICE, size=0))
            assert listed(looking) == {3, 4}
            changing.replace(key(2), record(5, BOB))
            assert (listed(looking), listed(looking, BOB)) == ({3}, {5})
            changing.touch(key(1), LATER + 1)
            changing.touch(key(2), time.time() - 1)
            assert (listed(looking), listed(looking, BOB)) == ({3}, set())
            changing.delete(key(1))
            changing.delete(key(2))
    finally:
        other.close()


def test_it_is_right_after_a_compaction_of_ones_own_and_of_others(store: SemidbmStore) -> None:
    other = SemidbmStore(store.path, durability="process")
    try:
        for number in range(100):
            store.create(key(number), record(number, ALICE if number % 10 == 0 else BOB))
        tens = set(range(0, 100, 10))
        for compacting in (store, other):
            assert listed(store) == listed(other) == tens
            store.delete(key(min(tens)))
            tens.remove(min(tens))
            assert compacting.compact()
            store.create(key(1000 + len(tens)), record(1000 + len(tens)))
            tens.add(1000 + len(tens))
            assert listed(store) == listed(other) == tens
            assert len(listed(other, BOB)) == 90
    finally:
        other.close()


def test_what_is_damaged_hides_nothing_else(store: SemidbmStore) -> None:
    for number in range(20):
        store.create(key(number), record(number))
    path = Path(store.path) / "data"
    data = path.read_bytes()
    # The size of the tenth record's value, which says where the next one is.
    place = data.index(key(10)) - 4
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\x00\x01\x00\x00")
    assert listed(store) >= set(range(20)) - {10}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="There are no forks here.")
def test_a_forked_child_finds_them_too(store: SemidbmStore) -> None:
    for number in range(20):
        store.create(key(number), record(number, ALICE if number % 2 else BOB))
    odd = set(range(1, 20, 2))
    assert listed(store) == odd
    child = os.fork()
    if child == 0:
        try:
            store.create(key(21), record(21))
            os._exit(0 if listed(store) == odd | {21} else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert listed(store) == odd | {21}
