"""The index on disk, whatever happens to it: every answer is as if nothing had."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from zlib import crc32

import pytest
import semidbm

from django_kvsessions.stores.base import Record
from django_kvsessions.stores.process.boot import NO_BOOT
from django_kvsessions.stores.semidbm import SemidbmStore, files, index
from django_kvsessions.stores.semidbm.compaction import Compaction

LATER = 4e9
#: Where the header has something, and the first two buckets.
HEADER = [*range(68), *range(128, 140), *range(192, 204)]
BUCKETS = [*range(4096, 4096 + 256), *range(4096 + 256, 4096 + 80 * 256, 509)]


def key(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=32).digest()


#: Keys of which the first 32nd of a table is the home.
AT_HOME = [number for number in range(1000) if crc32(key(number)[-8:]) >> 27 == 0]


def at_home(number: int) -> bytes:
    return key(AT_HOME[number])


def record(number: int, revision: int) -> Record:
    return Record(b"%d at %d" % (number, revision), LATER, revision)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables begin with 16 homes."""
    monkeypatch.setattr(index, "SMALLEST", 4)


def opened(folder: Path) -> SemidbmStore:
    return SemidbmStore(folder, durability="process")


class Sessions:
    """Does things to stores, and judges each answer by what was acknowledged before."""

    def __init__(self, name: Callable[[int], bytes] = key) -> None:
        self.key = name
        self.held: dict[int, int] = {}
        self.revision = 0

    def next(self, number: int) -> Record:
        self.revision += 1
        return record(number, self.revision)

    def load(self, store: SemidbmStore, number: int) -> None:
        revision = self.held.get(number)
        expected = None if revision is None else record(number, revision)
        assert store.load(self.key(number)) == expected, number

    def create(self, store: SemidbmStore, number: int) -> None:
        new = self.next(number)
        assert store.create(self.key(number), new) == (number not in self.held), number
        self.held.setdefault(number, new.revision)

    def replace(self, store: SemidbmStore, number: int) -> None:
        new, former = self.next(number), self.held.get(number)
        assert not store.replace(self.key(number), new, expected=self.revision + 1), number
        answer = store.replace(self.key(number), new, expected=former or 0)
        assert answer == (former is not None), number
        if answer:
            self.held[number] = new.revision

    def touch(self, store: SemidbmStore, number: int) -> None:
        former = self.held.get(number)
        answer = store.touch(self.key(number), LATER, expected=former)
        assert answer == (former is not None), number

    def delete(self, store: SemidbmStore, number: int) -> None:
        assert store.delete(self.key(number)) == (number in self.held), number
        self.held.pop(number, None)

    def scan(self, store: SemidbmStore, number: int = 0) -> None:
        expected = {self.key(number): record(number, at) for number, at in self.held.items()}
        found = list(store.scan())
        assert dict(found) == expected
        assert len(found) == len(expected)

    def clean_up(self, store: SemidbmStore, number: int = 0) -> None:
        assert sum(store.delete_expired()) == 0

    def compact(self, store: SemidbmStore, number: int = 0) -> None:
        store.compact()

    def all(self) -> list[Callable[[SemidbmStore, int], None]]:
        often = [self.load, self.create, self.replace, self.touch, self.delete]
        return [*often, *often, self.scan, self.clean_up, self.compact]

    def some(self, chance: random.Random, store: SemidbmStore, numbers: int) -> None:
        chance.choice(self.all())(store, chance.randrange(numbers))


# Damage


def overwrite(path: Path, position: int, data: bytes) -> None:
    """In place, as a running store has it open."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, position)
    finally:
        os.close(descriptor)


def damage(path: Path, position: int, size: int, chance: random.Random) -> None:
    data = bytearray(path.read_bytes()[position : position + size])
    data[0] ^= chance.randrange(1, 256)
    data[1:] = chance.randbytes(len(data) - 1)
    overwrite(path, position, bytes(data))


#: Which store is the first to meet what happened: one that has what it does in mind, one that
#: has written last, one beside it, and one that opens the folder then.
FIRST = ["in mind", "writer", "beside", "new"]


def check_first(
    first: str,
    folder: Path,
    stores: list[SemidbmStore],
    sessions: Sessions,
    happen: Callable[[], None],
    do: Callable[[SemidbmStore, int], None],
    chance: random.Random,
    numbers: int,
) -> None:
    """Something happens, and then ``first`` does something; all see the same after it."""
    writer, beside = stores
    sessions.replace(writer, chance.randrange(numbers))
    if first == "in mind":
        for number in range(numbers):
            sessions.load(writer, number)
    happen()
    with closing(opened(folder)) as new:
        store = {"beside": beside, "new": new}.get(first, writer)
        do(store, chance.randrange(numbers))
        for number in range(numbers):
            sessions.load(store, number)
        sessions.scan(chance.choice([writer, beside, new]))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize(
    ("positions", "interval"),
    [(HEADER, 0.01), (BUCKETS[::5], 0.01), (BUCKETS, 1000.0)],
    ids=["header", "buckets", "buckets-before-a-look"],
)
def test_no_byte_of_the_index_that_is_overwritten_makes_a_wrong_answer(
    positions: list[int],
    interval: float,
    first: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "LOOK_INTERVAL", interval)
    chance = random.Random(f"{first}{interval}{len(positions)}")
    sessions = Sessions(at_home)
    stores = [opened(folder), opened(folder)]
    for number in range(5):
        sessions.create(stores[0], number)
    for turn, position in enumerate(positions):
        if turn % 16 == 0:
            # Some that the first bucket has no room for.
            for number in range(16):
                if (number in sessions.held) != (number < 5 + turn % 3 * 4):
                    do = sessions.create if number not in sessions.held else sessions.delete
                    do(stores[0], number)
        happen = partial(damage, folder / "index", position, chance.choice([1, 1, 2, 9]), chance)
        what = chance.choice(sessions.all())
        check_first(first, folder, stores, sessions, happen, what, chance, 16)
    for store in stores:
        store.close()


@pytest.mark.usefixtures("tiny")
def test_a_clean_up_that_meets_damage_takes_out_what_has_expired_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The index that is made then has more homes than the one that is damaged.
    monkeypatch.setattr(Compaction, "soon", lambda self, generation: None)
    store = opened(folder)
    for number in range(150):
        expires = LATER if number % 3 else 1.0
        assert store.create(key(number), record(number, 1)._replace(expires=expires))
    size = (folder / "index").stat().st_size
    overwrite(folder / "index", 4096 + 15 * 256, bytes(8))
    assert sum(store.delete_expired()) == 50
    assert (folder / "index").stat().st_size > size
    with closing(opened(folder)) as new:
        for each in (store, new):
            assert [n for n in range(150) if each.load(key(n))] == [n for n in range(150) if n % 3]
            assert len(list(each.scan())) == 100
    store.close()


# Other files


def cut(size: float) -> Callable[[Path, bytes, bytes], None]:
    def do(path: Path, older: bytes, another: bytes) -> None:
        os.truncate(path, int(size * len(older)) if size < 1 else int(size))

    return do


def remove(path: Path, older: bytes, another: bytes) -> None:
    path.unlink()


def rename_older(path: Path, older: bytes, another: bytes) -> None:
    copies = [path.with_name("copied"), path.with_name("copied too")]
    for copy in copies:
        copy.write_bytes(older)
    # One of them may get the inode of the very file that it is a copy of, which was freed since.
    own = int.from_bytes(older[48:56], sys.byteorder)
    next(copy for copy in copies if copy.stat().st_ino != own).rename(path)
    for copy in copies:
        copy.unlink(missing_ok=True)


def rename_anothers(path: Path, older: bytes, another: bytes) -> None:
    rename_older(path, another, older)


def write_older(path: Path, older: bytes, another: bytes) -> None:
    overwrite(path, 0, older)
    time.sleep(1.5 * files.LOOK_INTERVAL)


def write_anothers(path: Path, older: bytes, another: bytes) -> None:
    overwrite(path, 0, another)


def write_zeros(path: Path, older: bytes, another: bytes) -> None:
    overwrite(path, 0, bytes(len(older)))


def write_noise(path: Path, older: bytes, another: bytes) -> None:
    path.write_bytes(random.Random(1).randbytes(len(older)))


def longer(path: Path, older: bytes, another: bytes) -> None:
    overwrite(path, len(older), bytes(256))


REPLACEMENTS = {
    "cut to nothing": cut(0),
    "cut to a few bytes": cut(100),
    "cut to its header": cut(4096),
    "cut to half": cut(0.5),
    "cut by a byte": cut(0.99999),
    "longer": longer,
    "removed": remove,
    "an older one renamed": rename_older,
    "another's renamed": rename_anothers,
    "an older one written": write_older,
    "another's written": write_anothers,
    "zeros": write_zeros,
    "noise": write_noise,
}


@pytest.fixture(scope="module")
def anothers(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The index of another store, with some of the same keys."""
    folder = tmp_path_factory.mktemp("another")
    with closing(opened(folder)) as store:
        for number in range(0, 60, 2):
            store.create(key(number), record(number, 1000))
        return (folder / "index").read_bytes()


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("name", REPLACEMENTS)
def test_whatever_takes_the_place_of_the_index_no_answer_changes(
    name: str, first: str, folder: Path, anothers: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_INTERVAL", 0.05)
    chance = random.Random(name + first)
    sessions = Sessions()
    stores = [opened(folder), opened(folder)]
    for number in range(40):
        sessions.create(stores[0], number)
    for _ in range(6):
        # Where it was removed, that has been noticed then.
        time.sleep(1.5 * files.LOOK_INTERVAL)
        sessions.load(stores[0], 1)
        older = (folder / "index").read_bytes()
        for _ in range(chance.choice([1, 2, 30])):
            sessions.some(chance, chance.choice(stores), 60)
        happen = partial(REPLACEMENTS[name], folder / "index", older, anothers)
        what = chance.choice(sessions.all())
        check_first(first, folder, stores, sessions, happen, what, chance, 60)
        for _ in range(20):
            sessions.some(chance, chance.choice(stores), 60)
    sessions.scan(stores[0])
    for store in stores:
        store.close()
    with closing(opened(folder)) as new:
        sessions.scan(new)


# What an index is about


def another_history(folder: Path, other: Path) -> Sessions:
    """A log of the same length in ``other`` as in ``folder``, with other sessions."""
    for where, first in ((folder, 100), (other, 200)):
        with closing(opened(where)) as store:
            sessions = Sessions()
            for number in range(first, first + 40):
                sessions.create(store, number)
            for number in range(first, first + 40, 4):
                sessions.delete(store, number)
    return sessions


def check_opens(folder: Path, sessions: Sessions) -> None:
    with closing(opened(folder)) as store:
        for number in range(100, 240):
            sessions.load(store, number)
        sessions.scan(store)
        sessions.create(store, 1)
    with closing(opened(folder)) as store:
        sessions.scan(store)


def test_an_index_of_another_boot_is_not_believed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = another_history(folder, tmp_path / "other")
    # In place, as a file system may bring back what was there before.
    (folder / "data").write_bytes((tmp_path / "other" / "data").read_bytes())
    monkeypatch.setattr(index, "boot_identity", lambda: b"another start!!!")
    check_opens(folder, sessions)


def test_an_index_of_another_log_is_not_believed(folder: Path, tmp_path: Path) -> None:
    sessions = another_history(folder, tmp_path / "other")
    (tmp_path / "other" / "data").rename(folder / "data")
    check_opens(folder, sessions)


def test_an_index_of_another_log_is_not_believed_by_who_has_it_open(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_INTERVAL", 0.05)
    sessions = another_history(folder, tmp_path / "other")
    stores = [opened(folder), opened(folder)]
    for store in stores:
        assert store.load(key(101)) is not None
    (tmp_path / "other" / "data").rename(folder / "data")
    time.sleep(0.1)
    for store in stores:
        sessions.load(store, 101)
        sessions.scan(store)
        sessions.create(store, 1 + len(sessions.held))
        store.close()
    check_opens(folder, sessions)


def test_an_index_in_a_copied_folder_is_not_believed(folder: Path, tmp_path: Path) -> None:
    sessions = another_history(folder, tmp_path / "other")
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "data").write_bytes((tmp_path / "other" / "data").read_bytes())
    check_opens(tmp_path / "copy", sessions)


def test_a_folder_of_an_earlier_version_opens(folder: Path) -> None:
    sessions = Sessions()
    with closing(opened(folder)) as store:
        for number in range(100):
            sessions.create(store, number)
            sessions.replace(store, number)
        for number in range(0, 100, 3):
            sessions.delete(store, number)
    (folder / "index").unlink()
    # How the log that a compaction made followed from the one before.
    (folder / "compaction").write_bytes(bytes(range(256)) * 10)
    (folder / "data.new").write_bytes(b"half of it")
    with closing(opened(folder)) as store:
        sessions.scan(store)
        for number in range(100):
            sessions.load(store, number)
        sessions.create(store, 0)
    database = semidbm.open(str(folder), "r")
    try:
        assert set(database.keys()) == {key(number) for number in sessions.held}
    finally:
        database.close()
    check_opens(folder, sessions)


def test_where_the_system_tells_no_boot_those_who_are_there_share_an_index(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "boot_identity", lambda: NO_BOOT)
    monkeypatch.setattr(files, "LOOK_INTERVAL", 0.05)
    sessions = another_history(folder, tmp_path / "other")
    (folder / "data").write_bytes((tmp_path / "other" / "data").read_bytes())
    # It may be of any boot, once nobody has the log open.
    check_opens(folder, sessions)
    first = opened(folder)
    sessions.scan(first)
    inode = (folder / "index").stat().st_ino
    stores = [first, *(opened(folder) for _ in range(3))]
    chance = random.Random(4)
    for _ in range(200):
        which, number = chance.choice(stores), chance.randrange(300)
        chance.choice([sessions.load, sessions.create, sessions.replace])(which, number)
    time.sleep(0.1)
    for store in stores:
        sessions.scan(store)
        # The others have it open still.
        assert (folder / "index").stat().st_ino == inode
    for store in stores:
        store.close()
    check_opens(folder, sessions)


# Ends of keys that are alike


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("seed", range(3))
def test_keys_with_the_same_end_are_not_taken_for_each_other(seed: int, folder: Path) -> None:
    sessions = Sessions(lambda number: key(number)[:24] + key(1000 + number % 2)[24:])
    chance = random.Random(seed)
    stores = [opened(folder), opened(folder)]
    for _ in range(600):
        sessions.some(chance, chance.choice(stores), 50)
    for store in stores:
        for number in range(50):
            sessions.load(store, number)
        sessions.scan(store)
        store.close()
    with closing(opened(folder)) as new:
        sessions.scan(new)


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize("how", ["in place", "anew"])
def test_a_backup_in_the_place_of_a_compacted_log_is_read_for_itself(
    how: str, is_compacted: bool, folder: Path, tmp_path: Path
) -> None:
    # A log in the same place may be another one, with records that begin at the same bytes.
    store = SemidbmStore(folder)
    for number in range(500):
        store.create(key(number), Record(bytes(50), LATER, 1))
    if is_compacted:
        store.compact()
    store.backup(tmp_path / "backup")
    for number in range(500):
        store.delete(key(number))
    for number in range(500, 600):
        store.create(key(number), Record(bytes(50), LATER, 1))
    store.compact()
    store.close()
    if how == "anew":
        (folder / "data").unlink()
    shutil.copyfile(tmp_path / "backup" / "data", folder / "data")
    store = SemidbmStore(folder)
    assert {name for name, _ in store.scan()} == {key(number) for number in range(500)}
    assert all(store.load(key(number)) is None for number in range(500, 600))
    store.close()
