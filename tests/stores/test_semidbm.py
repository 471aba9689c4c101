"""What the semidbm store promises beyond the contract."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import semidbm
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.base import Record, StoreCorrupted, StoreUnavailable
from django_kvsessions.stores.semidbm import (
    SemidbmStore,
    compaction,
    files,
    generation,
    syncing,
)
from django_kvsessions.testing import MakeStore, Processes, StoreConformance, wait_until
from tests.support.servers import missing

LATER = time.time() + 1e6


def key(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=32).digest()


def record(number: int, size: int = 50, expires: float = LATER) -> Record:
    return Record(b"%d:" % number + bytes(size), expires, number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def store(folder: Path) -> Iterator[SemidbmStore]:
    store = SemidbmStore(folder)
    yield store
    store.close()


def held(folder: Path) -> dict[bytes, Record]:
    """What a process that starts now finds."""
    store = SemidbmStore(folder)
    try:
        return dict(store.scan())
    finally:
        store.close()


def held_by_semidbm(folder: Path) -> set[bytes]:
    """The keys that plain semidbm finds."""
    database = semidbm.open(str(folder), "r")
    try:
        return set(database.keys())
    finally:
        database.close()


class TestSemidbmStore(StoreConformance):
    makes_backups = True

    @pytest.fixture
    def make_store(self, folder: Path) -> MakeStore:
        return partial(SemidbmStore, folder)


class TestFullDurability(StoreConformance):
    makes_backups = True

    # Writes wait for the disk, so they leave the event loop.
    @pytest.fixture
    def make_store(self, folder: Path) -> MakeStore:
        return partial(SemidbmStore, folder, durability="full")


class AlwaysCompacting(SemidbmStore):
    """Compacts at every clean-up and whenever a write notices a little garbage."""

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        yield from super().delete_expired(batch_size=batch_size)
        self.compact()


def always_compacting(folder: Path) -> SemidbmStore:
    generation.SMALL_LOG = 20_000
    compaction.COMPACTION_PAUSE = 0.05
    return AlwaysCompacting(folder)


class TestUnderStress(Processes):
    """Four processes with two threads each are killed while others compact and clear."""

    kill_processes = 4
    kill_threads = 2
    kills = 10
    # Each compaction waits for the disk several times, and so do the writers.
    patience = 240.0
    # A compaction leaves out what has expired, and may leave the cleaner nothing.
    removes_expired_itself = True

    @pytest.fixture
    def make_store(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> MakeStore:
        # What ``always_compacting`` changes is put back after the test.
        monkeypatch.setattr(generation, "SMALL_LOG", generation.SMALL_LOG)
        monkeypatch.setattr(compaction, "COMPACTION_PAUSE", compaction.COMPACTION_PAUSE)
        return partial(always_compacting, folder)


# The format


def test_plain_semidbm_opens_what_is_written(store: SemidbmStore, folder: Path) -> None:
    for number in range(50):
        store.create(key(number), record(number))
    for number in range(0, 50, 3):
        assert store.delete(key(number))
        assert not store.delete(key(number))
    live = {key(number) for number in range(50) if number % 3}
    assert held_by_semidbm(folder) == live
    store.compact()
    assert held_by_semidbm(folder) == live


def test_plain_semidbm_opens_the_log_whatever_its_length(folder: Path, tmp_path: Path) -> None:
    # semidbm cannot open an empty file, nor one that ends where it maps its next part.
    boundary = 300 * os.sysconf("SC_PAGE_SIZE")
    store = SemidbmStore(folder, max_record_size=2 * boundary)
    assert store.load(key(1)) is None
    assert held_by_semidbm(folder) == set()
    store.create(key(1), record(1))
    size = (folder / "data").stat().st_size
    one = size - 8
    store.create(key(2), Record(bytes(boundary - size - (one - len(record(1).data))), LATER, 2))
    assert (folder / "data").stat().st_size == boundary
    store.close()
    assert set(held(folder)) == {key(1), key(2)}


def test_the_files_are_for_their_owner_only(folder: Path) -> None:
    before = os.umask(0)
    try:
        store = SemidbmStore(folder)
        store.create(key(1), record(1))
        store.compact()
        with (folder / "data").open("ab") as file:
            file.write(b"torn")
        store.create(key(2), record(2))
        store.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes) >= {"data", "lock", "quarantine", "index"}
    assert set(modes.values()) == {0o600}


def test_what_root_makes_belongs_to_the_owner_of_the_folder(folder: Path) -> None:
    if os.geteuid() != 0:
        missing("only root can give files away")
    folder.mkdir()
    os.chown(folder, 4242, 4343)
    store = SemidbmStore(folder)
    store.create(key(1), record(1))
    store.compact()
    store.close()
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()}
    assert owners == {(4242, 4343)}


# Damage


def written(folder: Path, numbers: range) -> list[int]:
    """Where each record ends in the log."""
    store = SemidbmStore(folder, durability="process")
    ends = []
    for number in numbers:
        assert store.create(key(number), record(number))
        ends.append((folder / "data").stat().st_size)
    store.close()
    return ends


def test_a_log_cut_at_any_byte_keeps_what_verifies(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = written(folder, range(10))
    data = (folder / "data").read_bytes()
    for cut in range(ends[6], ends[9]):
        copy = tmp_path / "copy"
        copy.mkdir()
        (copy / "data").write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        caplog.clear()
        assert set(held(copy)) == {key(number) for number in range(whole)}
        torn = cut - ends[whole - 1]
        if torn:
            assert (copy / "quarantine").read_bytes() == data[ends[whole - 1] : cut]
            assert f"{torn} bytes" in caplog.text
        else:
            assert not (copy / "quarantine").exists()
        store = SemidbmStore(copy)
        assert store.create(key(99), record(99))
        store.close()
        assert held_by_semidbm(copy) == {key(number) for number in [*range(whole), 99]}
        shutil.rmtree(copy)


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bytes_cost_the_records_they_are_in_and_no_others(
    seed: int, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = [8, *written(folder, range(40))]
    chance = random.Random(seed)
    data = bytearray((folder / "data").read_bytes())
    hit = set()
    for _ in range(chance.choice([1, 1, 3])):
        position = chance.randrange(8, len(data))
        data[position] ^= 1 << chance.randrange(8)
        hit.add(sum(end <= position for end in ends) - 1)
    (folder / "data").write_bytes(data)
    found = held(folder)
    assert set(found) == {key(number) for number in range(40) if number not in hit}
    assert all(found[key(n)] == record(n) for n in range(40) if n not in hit)
    assert "verify" in caplog.text or "damaged" in caplog.text
    store = SemidbmStore(folder)
    assert store.create(key(99), record(99))
    while not store.compact():  # The write may have started one by itself.
        time.sleep(0.01)
    store.close()
    # Rewritten without the damage, which is set aside byte for byte.
    assert held_by_semidbm(folder) == {*found, key(99)}
    quarantine = (folder / "quarantine").read_bytes()
    for number in hit:
        assert bytes(data[ends[number] : ends[number + 1]]) in quarantine


def test_a_running_process_sees_what_is_behind_damage_at_once(
    store: SemidbmStore, folder: Path
) -> None:
    ends = [8, *written(folder, range(20))]
    reader = SemidbmStore(folder)
    data = bytearray((folder / "data").read_bytes())
    data[ends[3] + 3] ^= 0xFF  # the size of a key, so that the log cannot be followed
    (folder / "data").write_bytes(data)
    assert [n for n in range(20) if reader.load(key(n)) is None] == [3]
    assert store.load(key(19)) == record(19)
    reader.close()


def test_a_process_that_meets_damage_waits_for_the_lock_to_see_behind_it(folder: Path) -> None:
    ends = [8, *written(folder, range(20))]
    data = bytearray((folder / "data").read_bytes())
    data[ends[3] + 3] ^= 0xFF
    (folder / "data").write_bytes(data)
    with lock_held_elsewhere(folder) as holder:
        reader = SemidbmStore(folder)
        threading.Timer(0.3, holder.kill).start()
        assert reader.load(key(19)) == record(19)
        reader.close()


def test_damage_does_not_bring_an_older_version_back(folder: Path) -> None:
    store = SemidbmStore(folder)
    store.create(key(1), record(1))
    before = (folder / "data").stat().st_size
    store.replace(key(1), record(2))
    store.create(key(2), record(3))
    store.close()
    with (folder / "data").open("r+b") as file:
        file.seek(before + 80)
        file.write(b"\xff")
    assert set(held(folder)) == {key(2)}


def logged(folder: Path, synced: int) -> tuple[list[dict[int, int | None]], list[int]]:
    """Sessions that come, change and go; of the steps only the first are synced.

    Returns what there was after each step, by number its revision, and where the log ended.
    """
    chance = random.Random(7)
    states: list[dict[int, int | None]] = [{}]
    ends = [8]
    store = SemidbmStore(folder, durability="process")
    for step in range(90):
        if step == synced:
            store.close()
            store = SemidbmStore(folder)
            store.touch(key(0), LATER)
            store.close()  # which syncs
            ends[-1] = (folder / "data").stat().st_size
            store = SemidbmStore(folder, durability="process")
        state, number = dict(states[-1]), step if step < 15 else chance.randrange(15)
        if state.get(number) is None:
            assert store.create(key(number), record(step, size=100))
            state[number] = step
        elif number and chance.random() < 0.3:
            assert store.delete(key(number))
            state[number] = None
        else:
            assert store.replace(key(number), record(step, size=100))
            state[number] = step
        states.append(state)
        ends.append((folder / "data").stat().st_size)
    store.close()
    return states, ends


def revisions(folder: Path) -> dict[int, int]:
    """What three processes find that come one after another; the second one writes and syncs."""
    found = []
    for _ in range(3):
        store = SemidbmStore(folder)
        loaded = {number: store.load(key(number)) for number in range(15)}
        found.append({n: one.revision for n, one in loaded.items() if one is not None})
        if len(found) == 2:
            store.create(key(99), record(99))
        store.close()
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.mark.parametrize("seed", range(40))
def test_what_a_power_cut_tears_gives_back_what_was_synced_before(seed: int, folder: Path) -> None:
    synced = 60
    states, ends = logged(folder, synced)
    data = bytearray((folder / "data").read_bytes())
    chance = random.Random(seed)
    size = chance.choice([64, 512, 4096])
    blocks = [(at, min(at + size, len(data))) for at in range(ends[synced], len(data), size)]
    for start, end in chance.sample(blocks, chance.randint(1, len(blocks))):
        lost = end - start
        data[start:end] = bytes(lost) if chance.random() < 0.5 else chance.randbytes(lost)
    if chance.random() < 0.3:
        del data[chance.randint(ends[synced], len(data)) :]
    (folder / "data").write_bytes(data)
    (folder / "index").unlink()  # which nobody believes in after a power cut
    found = revisions(folder)
    for number in range(15):
        # As it was at the sync, or at any moment after it.
        assert found.get(number) in {state.get(number) for state in states[synced:]}, number


def test_a_bit_that_flips_in_what_was_synced_brings_nothing_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which would make another file of it.
    monkeypatch.setattr(compaction.Compaction, "soon", lambda self: None)
    states, ends = logged(folder, 89)
    data = (folder / "data").read_bytes()
    note = (folder / "synced").read_bytes()
    chance = random.Random(5)
    for position in range(8, ends[89], 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << chance.randrange(8)
        # In place, for a copy is not the file that was synced.
        (folder / "data").write_bytes(flipped)
        (folder / "synced").write_bytes(note)
        found = revisions(folder)
        hit = [n for n in range(15) if found.get(n) != states[-1].get(n)]
        assert len(hit) <= 1, position
        assert not hit or hit[0] not in found, position


def test_damage_at_the_end_of_what_was_synced_brings_no_older_version_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_INTERVAL", 0.0)
    store = SemidbmStore(folder, durability="full")
    store.create(key(1), record(1))
    store.create(key(2), record(2))
    start = (folder / "data").stat().st_size
    store.replace(key(1), record(3))
    store.close()
    data, note = (folder / "data").read_bytes(), (folder / "synced").read_bytes()
    for position in range(start, len(data), 3):
        flipped = bytearray(data)
        flipped[position] ^= 16
        # In place, for a copy is not the file that was synced.
        (folder / "data").write_bytes(flipped)
        (folder / "synced").write_bytes(note)
        (folder / "index").unlink()
        assert set(held(folder)) == {key(2)}, position
        assert set(held(folder)) == {key(2)}, position
    # What lies behind the last sync may be torn, and what it replaced counts again.
    (folder / "data").write_bytes(data[:start] + data[start:].replace(b"3:", b"X:"))
    (folder / "synced").unlink()
    (folder / "index").unlink()
    assert held(folder) == {key(1): record(1), key(2): record(2)}


def test_a_block_that_is_lost_of_what_was_synced_costs_no_session_outside_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction.Compaction, "soon", lambda self: None)
    states, ends = logged(folder, 89)
    data, note = (folder / "data").read_bytes(), (folder / "synced").read_bytes()
    for start in range(512, ends[89], 512):
        damaged = bytearray(data)
        damaged[start : start + 512] = bytes(len(damaged[start : start + 512]))
        (folder / "data").write_bytes(damaged)
        (folder / "synced").write_bytes(note)
        hit = [step for step in range(90) if ends[step] < start + 512 and ends[step + 1] > start]
        found = revisions(folder)
        for number in range(15):
            changes = [n for n in hit if states[n].get(number) != states[n + 1].get(number)]
            later = [states[n].get(number) for n in range(hit[-1] + 1, 91)]
            if not changes or len(set(later)) > 1:
                assert found.get(number) == states[-1].get(number), (start, number)


def test_a_record_damaged_under_a_running_process_reads_as_none(
    store: SemidbmStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        store.create(key(number), record(number))
    with (folder / "data").open("r+b") as file:
        file.seek(8 + 80)
        file.write(b"\xff")
    assert store.load(key(0)) is None
    assert caplog.records[-1].name == "django.security.SuspiciousSession"
    assert not store.replace(key(0), record(9))
    assert store.create(key(0), record(10))
    assert store.load(key(1)) == record(1)


@pytest.mark.parametrize("seed", range(20))
def test_blocks_that_a_power_cut_lost_cost_nothing_before_them(seed: int, folder: Path) -> None:
    ends = [8, *written(folder, range(100))]
    data = bytearray((folder / "data").read_bytes())
    chance = random.Random(seed)
    synced = ends[50]
    blocks = range(synced // 512 + 1, len(data) // 512 + 1)
    for block in chance.sample(blocks, chance.randint(1, len(blocks))):
        data[block * 512 : (block + 1) * 512] = bytes(len(data[block * 512 : (block + 1) * 512]))
    (folder / "data").write_bytes(data)
    found = held(folder)
    assert all(found.get(key(number)) == record(number) for number in range(50))
    numbers = {key(number): number for number in range(100)}
    assert all(found[name] == record(numbers[name]) for name in found)


def test_a_file_that_is_not_ours_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "data").write_bytes(b"somebody's precious data")
    with pytest.raises(StoreCorrupted, match="LOCATION"):
        SemidbmStore(folder).load(key(1))
    assert (folder / "data").read_bytes() == b"somebody's precious data"


@pytest.mark.parametrize("size", range(8))
def test_a_file_whose_maker_was_killed_is_made_again(size: int, folder: Path) -> None:
    folder.mkdir()
    (folder / "data").write_bytes(b"SEMI\x00\x01\x00\x01"[:size])
    store = SemidbmStore(folder)
    assert store.create(key(1), record(1))
    store.close()
    assert set(held(folder)) == {key(1)}


# A full disk


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Writes that would make a file longer are cut short, then refused."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def fill(store: SemidbmStore) -> int:
    for number in range(100_000):
        try:
            store.create(key(number), record(number, size=3000))
        except StoreUnavailable:
            return number
    raise AssertionError("the disk never filled up")


def check_full(store: SemidbmStore, folder: Path, written: int) -> None:
    """With no room left: errors, and nothing lost."""
    assert 5 < written < 100_000
    for call in (
        partial(store.create, key(-1), record(1, size=3000)),
        partial(store.replace, key(0), record(0, size=3000)),
    ):
        with pytest.raises(StoreUnavailable, match=str(folder)):
            call()
    other = SemidbmStore(folder)
    for each in (store, other):
        assert all(each.load(key(n)) == record(n, size=3000) for n in range(written))
        assert each.load(key(written)) is None
    other.close()
    assert not (folder / "quarantine").exists()


def check_recovered(store: SemidbmStore, folder: Path, written: int) -> None:
    assert store.create(key(written), record(written))
    assert store.replace(key(0), record(1))
    assert set(held(folder)) == {key(number) for number in range(written + 1)}
    assert held_by_semidbm(folder) == {key(number) for number in range(written + 1)}


def test_a_quota_that_is_used_up_loses_nothing(store: SemidbmStore, folder: Path) -> None:
    with limited_file_size(100_001):
        count = fill(store)
        check_full(store, folder, count)
    check_recovered(store, folder, count)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mountpoint = tmp_path / "disk"
    mountpoint.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mountpoint)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        missing("mounting a tmpfs needs root; the quota above is tested everywhere")
    yield mountpoint
    subprocess.run(["umount", "-l", str(mountpoint)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    folder = small_disk / "sessions"
    store = SemidbmStore(folder)
    count = fill(store)
    check_full(store, folder, count)
    with pytest.raises(StoreUnavailable):
        store.compact()
    check_full(store, folder, count)
    ballast.unlink()
    check_recovered(store, folder, count)
    store.close()


# Compaction


def test_a_compaction_shrinks_the_log_and_loses_nothing(store: SemidbmStore, folder: Path) -> None:
    for number in range(300):
        store.create(key(number), record(number))
        store.replace(key(number), record(number, size=100))
    for number in range(200):
        store.delete(key(number))
    before = (folder / "data").stat().st_size
    assert store.compact()
    assert (folder / "data").stat().st_size < before / 3
    expected = {key(number): record(number, size=100) for number in range(200, 300)}
    assert dict(store.scan()) == expected
    assert held(folder) == expected


def test_other_processes_follow_a_compaction(store: SemidbmStore, folder: Path) -> None:
    others = [SemidbmStore(folder) for _ in range(3)]
    for number in range(2000):
        store.create(key(number), record(number))
    for other in others:
        assert other.load(key(1)) == record(1)
    for number in range(0, 2000, 2):
        store.delete(key(number))
    store.compact()
    others[0].delete(key(1))
    others[1].replace(key(3), record(4))
    others[2].create(key(0), record(5))
    for each in (store, *others):
        found = dict(each.scan())
        assert len(found) == 1000
        assert found[key(3)] == record(4)
        assert found[key(0)] == record(5)
        assert found[key(1999)] == record(1999)
        assert key(1) not in found
    for each in others:
        each.close()


def test_a_process_that_slept_through_compactions_wakes_up_right(
    store: SemidbmStore, folder: Path
) -> None:
    sleeper = SemidbmStore(folder)
    for number in range(500):
        store.create(key(number), record(number))
    assert sleeper.load(key(1)) == record(1)
    for turn in range(3):
        for number in range(turn, 500, 5):
            store.delete(key(number))
        store.compact()
    expected = {key(number) for number in range(500) if number % 5 > 2}
    assert {name for name, _ in sleeper.scan()} == expected
    for number in range(500):
        assert (sleeper.load(key(number)) is not None) == (number % 5 > 2)
    sleeper.close()


def test_a_second_compaction_may_come_before_the_first_is_followed(
    store: SemidbmStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SemidbmStore(folder)
    for number in range(2000):
        store.create(key(number), record(number))
    assert slow.load(key(1)) == record(1)
    store.delete(key(0))
    store.compact()
    assert slow.load(key(2)) == record(2)
    store.delete(key(1))
    store.compact()
    assert {name for name, _ in slow.scan()} == {key(number) for number in range(2, 2000)}
    slow.close()


def test_deletes_during_a_compaction_stay_deleted(
    store: SemidbmStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SemidbmStore(folder)
    for number in range(300):
        store.create(key(number), record(number, size=200))
    write_index = store._journal.index_file.write

    def meanwhile(*args: Any) -> Any:
        # Some before their records are copied, some after.
        for number in range(50):
            assert other.delete(key(number))
        index = write_index(*args)
        for number in range(50, 100):
            assert other.delete(key(number))
            assert other.replace(key(number + 50), record(number, size=20))
        assert other.create(key(10), record(10))
        return index

    monkeypatch.setattr(store._journal.index_file, "write", meanwhile)
    store.compact()
    expected = {key(10), *(key(number) for number in range(100, 300))}
    for each in (store, other):
        assert {name for name, _ in each.scan()} == expected
        loaded = each.load(key(149))
        assert loaded is not None
        assert loaded.revision == 99
    assert held_by_semidbm(folder) == expected
    other.close()


def test_garbage_is_compacted_by_itself(
    store: SemidbmStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "SMALL_LOG", 10_000)
    reader = SemidbmStore(folder)
    store.create(key(1), record(1))
    for revision in range(2000):
        store.replace(key(1), record(revision))
        assert reader.load(key(1)) == record(revision)
    assert store.replace(key(1), record(5))
    deadline = time.monotonic() + 30
    while (folder / "data").stat().st_size > 60_000 and time.monotonic() < deadline:
        time.sleep(0.05)
        store.replace(key(1), record(4))
    assert (folder / "data").stat().st_size <= 60_000
    store.replace(key(1), record(5))
    assert store.load(key(1)) == reader.load(key(1)) == record(5)
    reader.close()


def test_clean_up_ends_with_a_compaction_where_it_pays(
    store: SemidbmStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "SMALL_LOG", 1000)
    # Not by itself before it.
    monkeypatch.setattr(store._compaction, "soon", lambda _: None)
    for number in range(1000):
        store.create(key(number), record(number, expires=LATER if number < 100 else 1.0))
    before = (folder / "data").stat().st_size
    assert sum(store.delete_expired()) == 900
    assert (folder / "data").stat().st_size < before / 5
    assert len(held(folder)) == 100


def test_what_a_killed_compaction_left_is_removed(store: SemidbmStore, folder: Path) -> None:
    store.create(key(1), record(1))
    (folder / "data.new").write_bytes(b"half of it")
    assert store.compact()
    assert not (folder / "data.new").exists()
    assert set(held(folder)) == {key(1)}


def test_only_one_compaction_runs_at_a_time(
    store: SemidbmStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SemidbmStore(folder)
    store.create(key(1), record(1))
    answers = []
    write_index = store._journal.index_file.write

    def meanwhile(*args: Any) -> Any:
        answers.append(other.compact())
        answers.append(store.compact())
        return write_index(*args)

    monkeypatch.setattr(store._journal.index_file, "write", meanwhile)
    assert store.compact()
    assert answers == [False, False]
    other.close()


def test_a_folder_that_is_removed_starts_afresh(
    store: SemidbmStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_INTERVAL", 0.1)
    store.create(key(1), record(1))
    shutil.rmtree(folder)
    time.sleep(0.2)
    assert store.load(key(1)) is None
    assert store.create(key(2), record(2))
    assert set(held(folder)) == {key(2)}


@pytest.mark.parametrize("first", ["load", "create"])
def test_a_restored_copy_is_followed(
    first: str,
    store: SemidbmStore,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "LOOK_INTERVAL", 0.1)
    store.create(key(1), record(1))
    shutil.copytree(folder, tmp_path / "backup")
    store.create(key(2), record(2))
    folder.rename(tmp_path / "former")
    (tmp_path / "backup").rename(folder)
    time.sleep(0.2)
    if first == "create":
        assert store.create(key(2), record(2))
        assert store.delete(key(2))
    assert store.load(key(2)) is None
    assert store.load(key(1)) == record(1)
    assert store.create(key(3), record(3))
    assert set(held(folder)) == {key(1), key(3)}


# Locks


HOLD_LOCK = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def lock_held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD_LOCK, str(folder / "lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_stopped_process_that_holds_the_lock_is_named(folder: Path) -> None:
    store = SemidbmStore(folder, lock_timeout=0.3)
    store.create(key(1), record(1))
    with lock_held_elsewhere(folder) as holder:
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="lock_timeout") as caught:
            store.create(key(2), record(2))
        assert str(folder / "lock") in str(caught.value)
        # Readers do not care.
        assert store.load(key(1)) == record(1)
    assert store.create(key(2), record(2))
    store.close()


def test_a_lock_that_is_taken_does_not_block_the_event_loop(folder: Path) -> None:
    store = SemidbmStore(folder)
    store.create(key(1), record(1))

    async def main(holder: subprocess.Popen[str]) -> int:
        writing = asyncio.create_task(store.acreate(key(2), record(2)))
        turns = 0
        while turns < 20:
            await asyncio.sleep(0.005)
            turns += 1
        assert not writing.done()
        holder.kill()
        assert await writing
        return turns

    with lock_held_elsewhere(folder) as holder:
        assert asyncio.run(main(holder)) == 20
    assert store.load(key(2)) == record(2)
    store.close()


def test_a_lock_file_that_was_removed_locks_nobody_out_and_nobody_in(
    store: SemidbmStore, folder: Path
) -> None:
    store.create(key(1), record(1))
    with lock_held_elsewhere(folder):
        (folder / "lock").unlink()
        assert store.create(key(2), record(2))
    other = SemidbmStore(folder, lock_timeout=0.2)
    with lock_held_elsewhere(folder), pytest.raises(StoreUnavailable):
        other.create(key(3), record(3))
    other.close()


@contextmanager
def failing(module: Any, name: str, nth: int, number: int) -> Iterator[list[int]]:
    """The nth call of a function of the system fails; yields how many calls there were."""
    function, calls = getattr(module, name), [0]

    def call(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            raise OSError(number, os.strerror(number))
        return function(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, call)
        yield calls


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOSPC])
@pytest.mark.parametrize("call", ["flock", "open", "fstat", "stat", "close", "chown", "lseek"])
@pytest.mark.parametrize("used_before", [False, True], ids=["first-use", "later"])
def test_a_call_of_the_system_that_fails_once_locks_nobody_out(
    call: str, number: int, used_before: bool, tmp_path: Path
) -> None:
    module, name = (fcntl, "flock") if call == "flock" else (os, call)
    for nth in count(1):
        folder = tmp_path / str(nth)
        store = SemidbmStore(folder, durability="process", lock_timeout=0.2)
        acknowledged = {key(0)} if used_before and store.create(key(0), record(0)) else set()
        with failing(module, name, nth, number) as calls, suppress(StoreUnavailable):
            if store.create(key(1), record(1)):
                acknowledged.add(key(1))
        assert store.create(key(2), record(2))
        other = SemidbmStore(folder, durability="process", lock_timeout=0.2)
        assert other.create(key(3), record(3))
        assert acknowledged | {key(2), key(3)} <= set(held(folder))
        store.close()
        other.close()
        if calls[0] < nth:
            return


def test_a_forked_child_writes_beside_its_parent(folder: Path) -> None:
    # In a process of its own: this one has threads.
    code = f"""
import os, sys
from django_kvsessions.stores.semidbm import SemidbmStore
from django_kvsessions.stores.base import Record
store = SemidbmStore({str(folder)!r})
key = lambda number: number.to_bytes(32, "big")
store.create(key(0), Record(b"0", {LATER}, 0))
children = []
for child in range(4):
    if not (pid := os.fork()):
        status = 0 if all(
            store.create(key(1 + child * 100 + number), Record(b"x", {LATER}, 0))
            for number in range(100)
        ) else 1
        os._exit(status)
    children.append(pid)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
assert store.stats().live == 401
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert len(held(folder)) == 401


# Durability


def is_of(folder: Path, descriptor: int) -> bool:
    """Not of another test's store, whose thread has not ended yet."""
    return os.fstat(descriptor).st_ino == (folder / "data").stat().st_ino


@pytest.fixture
def syncs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When data was synced to the disk."""
    moments: list[float] = []
    fdatasync = os.fdatasync

    def counted(descriptor: int) -> None:
        fdatasync(descriptor)
        if is_of(folder, descriptor):
            moments.append(time.monotonic())

    monkeypatch.setattr(os, "fdatasync", counted)
    return moments


def test_full_durability_syncs_before_it_acknowledges(folder: Path, syncs: list[float]) -> None:
    store = SemidbmStore(folder, durability="full")
    store.create(key(0), record(0))
    for call in (
        partial(store.create, key(1), record(1)),
        partial(store.replace, key(1), record(2)),
        partial(store.touch, key(1), LATER + 1),
        partial(store.delete, key(1)),
    ):
        syncs.clear()
        assert call()
        assert len(syncs) == 1
    store.close()


def test_writers_at_once_share_a_sync(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SemidbmStore(folder, durability="full")
    store.create(key(0), record(0))
    syncs = 0

    def sync(descriptor: int) -> None:
        nonlocal syncs
        if not is_of(folder, descriptor):
            return
        syncs += 1
        # The first one lasts until the others have written and wait.
        wait_until(lambda: store.stats().live == 17, 60)

    monkeypatch.setattr(os, "fdatasync", sync)
    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(lambda n: store.create(key(n), record(n)), range(1, 17)))
    assert syncs == 2
    store.close()


def test_at_interval_a_write_is_synced_within_a_second_and_not_by_the_writer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[float, float]] = []
    writer = threading.get_ident()

    def slow(descriptor: int) -> None:
        assert threading.get_ident() != writer
        if not is_of(folder, descriptor):
            return
        start = time.monotonic()
        time.sleep(0.3)  # As on a disk that is busy, and not as long as this one happens to take.
        synced.append((start, time.monotonic()))

    store = SemidbmStore(folder)
    store.create(key(0), record(0))
    monkeypatch.setattr(os, "fdatasync", slow)
    writes: list[float] = []
    late = 0.0
    while len(writes) < 200:
        store.create(key(1 + len(writes)), record(1))
        writes.append(time.monotonic())
        time.sleep(0.01)
        # How long a machine that has much else to do lets a thread wait for its turn.
        late = max(late, time.monotonic() - writes[-1] - 0.01)
    wait_until(lambda: bool(synced) and synced[-1][0] > writes[-1], 10)
    waits = sorted(
        next(end for start, end in synced if start >= moment) - moment for moment in writes
    )
    # The thread that syncs takes turns like any other, some four of them.
    assert waits[-1] < 1 + 4 * late
    assert waits[len(waits) * 9 // 10] < 1 + 2 * late
    # And not all the time.
    assert len(synced) <= 2 + (synced[-1][1] - writes[0]) / 0.5
    monkeypatch.undo()
    store.close()


def test_at_interval_the_last_write_is_synced_at_exit(folder: Path) -> None:
    code = f"""
import os, atexit
from django_kvsessions.stores.semidbm import SemidbmStore
from django_kvsessions.stores.base import Record
store = SemidbmStore({str(folder)!r})
store.setup()
sync = os.fdatasync
os.fdatasync = lambda descriptor: (sync(descriptor), print("synced", flush=True))
store.create(bytes(32), Record(b"x", {LATER}, 0))
print("written", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.split() == ["written", "synced"]


def test_a_disk_that_cannot_sync_is_an_outage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SemidbmStore(folder, durability="full")
    store.create(key(0), record(0))

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        store.create(key(1), record(1))
    monkeypatch.undo()
    store.close()


# Bad input


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"durability": "most"}, r"'durability'\] must be one of 'process', 'interval', 'full'"),
        ({"durability": None}, "durability.*not None"),
        ({"durability": ["full"]}, "durability"),
        ({"lock_timeout": "10"}, r"'lock_timeout'\] must be a number of seconds.*not '10'"),
        ({"lock_timeout": None}, "lock_timeout"),
        ({"lock_timeout": True}, "lock_timeout"),
        ({"lock_timeout": 0}, "lock_timeout"),
        ({"lock_timeout": -1}, "lock_timeout"),
        ({"lock_timeout": float("nan")}, "lock_timeout"),
        ({"lock_timeout": 1e300}, "lock_timeout.*up to 86400"),
        ({"max_record_size": 0}, "max_record_size"),
        ({"max_record_size": "1000"}, "max_record_size"),
        ({"max_record_size": 2**24}, "max_record_size.*to 16777"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], named: str, folder: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=named):
        SemidbmStore(folder, **options)
    assert not folder.exists()


@pytest.mark.parametrize("location", [None, "", 7, b"/tmp"])
def test_a_location_is_required(location: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="LOCATION"):
        SemidbmStore(location)


def test_a_location_that_is_a_file_is_named(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(StoreUnavailable, match=str(folder)):
        SemidbmStore(folder).load(key(1))
    assert folder.read_text() == "a file"


def test_opening_leaves_no_trace_before_the_first_use(folder: Path) -> None:
    SemidbmStore(folder).close()
    assert not folder.exists()


def test_a_store_that_is_idle_ends_its_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "SYNC_INTERVAL", 0.05)
    monkeypatch.setattr(syncing, "IDLE_SYNCER", 0.1)

    def threads() -> int:
        return sum(thread.name.endswith(str(folder)) for thread in threading.enumerate())

    store = SemidbmStore(folder)
    store.create(key(1), record(1))
    assert threads() == 1
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threads() == 0
    store.create(key(2), record(2))
    assert threads() == 1
    store.close()
