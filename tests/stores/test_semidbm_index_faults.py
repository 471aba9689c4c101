"""The index on disk, where the system refuses to make or write it: errors, and nothing lost."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from django_kvsessions.stores.base import Record, StoreUnavailable
from django_kvsessions.stores.semidbm import SemidbmStore, compaction, files, index
from django_kvsessions.testing.workers import Process

pytestmark = [pytest.mark.same, pytest.mark.slow]

LATER = 4e9
NOBODY = 65534


def key(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=32).digest()


def record(number: int, revision: int) -> Record:
    return Record(b"%d at %d" % (number, revision), LATER, revision)


def opened(folder: Path) -> SemidbmStore:
    return SemidbmStore(folder, durability="process")


class Sessions:
    """Does things to stores that may refuse, and knows what each session may be."""

    def __init__(self) -> None:
        #: For each number its revisions; ``None``: not there.
        self.held: dict[int, set[int | None]] = {}
        self.revision = 0
        self.refused = 0

    def do(self, chance: random.Random, store: SemidbmStore, number: int) -> None:
        what = chance.choice(["load", "create", "create", "replace", "delete", "all", "compact"])
        before = self.held.get(number, {None})
        self.revision += 1
        new = record(number, self.revision)
        after: set[int | None] = {new.revision}
        try:
            if what == "create":
                if store.create(key(number), new):
                    assert None in before, number
                else:
                    assert before != {None}, number
                    after = before
            elif what == "replace":
                if store.replace(key(number), new):
                    assert before != {None}, number
                else:
                    assert None in before, number
                    after = before
            elif what == "delete":
                assert store.delete(key(number)) or None in before, number
                after = {None}
            else:
                after = before
                if what == "load":
                    self.load(store, number)
                elif what == "all" and chance.random() < 0.2:
                    self.scan(store)
                elif what == "compact" and chance.random() < 0.2:
                    store.compact()
        except StoreUnavailable:
            self.refused += 1
            after = before | after
        self.held[number] = after

    def load(self, store: SemidbmStore, number: int) -> None:
        found = store.load(key(number))
        assert found is None or found == record(number, found.revision)
        assert (found and found.revision) in self.held.get(number, {None}), number

    def scan(self, store: SemidbmStore) -> None:
        found = {name: one.revision for name, one in store.scan()}
        for number, allowed in self.held.items():
            assert found.pop(key(number), None) in allowed, number
        assert not found

    def check(self, store: SemidbmStore) -> None:
        for number in self.held:
            self.load(store, number)
        self.scan(store)


Fault = Callable[[Path, random.Random], AbstractContextManager[None]]


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


@contextmanager
def full(folder: Path, chance: random.Random) -> Iterator[None]:
    # Among other sizes such as end in the last page of an index of 16 homes, and of 32.
    size = chance.choice([chance.randrange(100, 40_000), 24_575, 24_000, 20_480, 28_671, 28_000])
    with limited(resource.RLIMIT_FSIZE, size):
        yield


@contextmanager
def without_descriptors(folder: Path, chance: random.Random) -> Iterator[None]:
    lowest = os.dup(0)
    os.close(lowest)
    with limited(resource.RLIMIT_NOFILE, lowest + chance.randrange(7)):
        yield


@contextmanager
def read_only(folder: Path, chance: random.Random) -> Iterator[None]:
    mode = stat.S_IMODE(folder.stat().st_mode)
    if chance.random() < 0.5:
        # The files may be written nevertheless, but none made.
        for path in folder.iterdir():
            path.chmod(0o666)
    folder.chmod(0o555)
    if is_root := os.geteuid() == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(mode)


FAULTS: dict[str, Fault] = {
    "full": full,
    "without descriptors": without_descriptors,
    "read-only": read_only,
}


def keep(path: Path) -> None:
    """As it is."""


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    path.unlink()


def run(folder: Path, name: str, seed: int, seconds: float) -> tuple[int, int]:
    """How often something was refused, and in how many faults."""
    index.SMALLEST = 4
    files.LOOK_INTERVAL = 0.02
    compaction.COMPACTION_PAUSE = 0.01
    chance = random.Random(seed)
    sessions = Sessions()
    stores = [opened(folder), opened(folder)]
    deadline = time.monotonic() + seconds
    turn = 0
    while turn < 15 or time.monotonic() < deadline:
        turn += 1
        # It grows, and is then made anew with less.
        numbers = (30, 90, 180)[turn % 3]
        for _ in range(30):
            sessions.do(chance, chance.choice(stores), chance.randrange(numbers))
        for number in range(numbers, 180):
            if sessions.held.get(number, {None}) != {None}:
                stores[0].delete(key(number))
                sessions.held[number] = {None}
        refused = sessions.refused
        happen = chance.choice([keep, damage, empty, remove])
        happen(folder / "index")
        with FAULTS[name](folder, chance):
            new = opened(folder)
            for _ in range(30):
                sessions.do(chance, chance.choice([*stores, new]), chance.randrange(numbers))
        with closing(new), closing(opened(folder)) as newer:
            for store in (chance.choice([*stores, new, newer]), *stores, new, newer):
                sessions.check(store)
            refused = sessions.refused
            for _ in range(30):
                sessions.do(chance, chance.choice([*stores, new]), chance.randrange(numbers))
            assert sessions.refused == refused, "it is as usable as before"
    for store in stores:
        store.close()
    return sessions.refused, turn


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_system_refuses_loses_nothing_and_passes(name: str, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # pytest's folders are closed to the user that the process becomes.
        for parent in (tmp_path, *tmp_path.parents):
            if not parent.stat().st_mode & stat.S_IXOTH:
                parent.chmod(0o755)
    seed, seconds = os.environ.get("SEED", "1"), os.environ.get("SECONDS_EACH", "0")
    folder = tmp_path / "sessions"
    refused, _ = Process(tmp_path / "result", run, folder, name, int(seed), float(seconds)).result(
        300
    )
    assert refused > 10
