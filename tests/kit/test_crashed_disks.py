"""What a simulated power cut leaves: all that is possible, and nothing that is not."""

from __future__ import annotations

import mmap
import os
import random
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from django_kvsessions.testing.crashes import restarts, tracing
from django_kvsessions.testing.crashes.disk import Disk
from django_kvsessions.testing.crashes.pages import BLOCK, PAGE, Pages
from django_kvsessions.testing.crashes.tracing import Call, trace

pytestmark = [
    pytest.mark.same,
    pytest.mark.skipif(sys.platform != "linux", reason="System calls are seen on Linux only."),
]

A, B, C = b"a" * BLOCK, b"b" * BLOCK, b"c" * BLOCK
NOTHING = bytes(BLOCK)
STATES = 400


def lefts(pages: Pages, stop: int) -> set[bytes]:
    return {pages.left(stop, random.Random(seed)) for seed in range(STATES)}


def test_a_sync_is_of_what_was_written_before_it_began() -> None:
    pages = Pages(A)
    pages.change(1, B)
    pages.synced(2, 0, None)  # it began before
    assert lefts(pages, 2) == {A, B}
    pages.synced(3, 1, None)
    assert lefts(pages, 3) == {B}
    # And before it has ended nobody can know.
    assert lefts(pages, 2) == {A, B}


def test_a_block_comes_with_all_that_was_written_to_it_before() -> None:
    pages = Pages(b"")
    pages.change(1, b"one")
    pages.change(2, b"one two")
    assert lefts(pages, 2) == {b"", b"one", b"one two", bytes(3), bytes(7), b"one\0\0\0\0"}


def test_blocks_come_in_any_order_and_where_none_has_come_are_zeros() -> None:
    pages = Pages(b"")
    for number in range(1, 4):
        pages.change(number, (A + B + C)[: number * BLOCK])
    found = lefts(pages, 3)
    assert found == {b"", A, NOTHING, A + B, NOTHING + B, A + NOTHING, 2 * NOTHING} | {
        first + second + third
        for first in (A, NOTHING) for second in (B, NOTHING) for third in (C, NOTHING)
    }  # fmt: skip


def test_what_was_synced_is_no_zeros_and_is_not_torn() -> None:
    pages = Pages(A + A)
    pages.change(1, A + B)
    pages.synced(2, 1, None)
    pages.change(3, A + B + C)
    assert all(left.startswith(A + B) for left in lefts(pages, 3))


def test_a_file_that_is_never_synced_is_any_mixture_of_its_blocks() -> None:
    pages = Pages(A + A)
    pages.change(1, B + A)
    pages.change(2, B + B)
    pages.change(3, C + B)
    assert lefts(pages, 3) == {
        first + second for first in (A, B, C) for second in (A, B)
    }  # fmt: skip


def test_a_page_comes_as_a_whole_or_by_its_blocks() -> None:
    pages = Pages(A * 2 * PAGE)
    pages.change(1, B * 2 * PAGE)
    found = lefts(pages, 1)
    assert A * PAGE + B * PAGE in found
    assert any(left.startswith(A + B) for left in found)


def test_what_was_cut_off_does_not_come_back_behind_what_is_written_later() -> None:
    pages = Pages(A + A)
    pages.change(1, b"")
    pages.change(2, B)
    pages.change(3, B + C)
    # The old file, or the new one as far as it has come.
    assert lefts(pages, 3) == {
        A + A, b"", B, NOTHING, B + C, B + NOTHING, NOTHING + C, NOTHING + NOTHING
    }  # fmt: skip


def test_a_sync_of_a_part_is_of_that_part() -> None:
    pages = Pages(A + A)
    pages.change(1, B + A)
    pages.change(2, B + B)
    pages.synced(3, 2, range(BLOCK, 2 * BLOCK))
    assert lefts(pages, 3) == {A + B, B + B}


# What is seen of a process.


class Simulation:
    """A folder, what a process does in it, and what power cuts may leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def run(
        self, work: Callable[[], object], then: Callable[[Call], object] = lambda call: None
    ) -> None:
        """``then`` is done after each call was seen."""
        read, said = os.pipe()
        os.set_blocking(read, False)
        disk = self.disk = Disk(self.folder, read)

        def seen(call: Call) -> bool:
            kills = disk.seen(call)
            then(call)
            return kills

        try:
            assert trace(work, seen, self.folder) == 0
        except PermissionError as error:
            if "CI" in os.environ:
                raise
            pytest.skip(str(error))
        finally:
            os.close(said)
            os.close(read)

    def left(self, states: int = 60) -> list[dict[str, bytes]]:
        found: list[dict[str, bytes]] = []
        for seed in range(states):
            names, contents = self.disk.left(self.disk.last, random.Random(seed))
            state = {name: contents[inode] for name, inode in names.items()}
            if state not in found:
                found.append(state)
        return found

    def open(self, name: str, flags: int = os.O_RDWR | os.O_CREAT) -> int:
        return os.open(self.folder / name, flags)

    def sync(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


@pytest.fixture
def simulation(tmp_path: Path) -> Simulation:
    return Simulation(tmp_path / "there")


def same(found: list[dict[str, bytes]], *expected: dict[str, bytes]) -> bool:
    return all(one in found for one in expected) and len(found) == len(expected)


def test_a_name_comes_with_its_folders_sync_or_with_the_files(simulation: Simulation) -> None:
    def work() -> None:
        os.write(simulation.open("first"), b"1")
        second = simulation.open("second")
        os.write(second, b"2")
        os.fsync(second)
        simulation.open("third")

    simulation.run(work)
    found = simulation.left()
    assert all(state["second"] == b"2" for state in found)
    # In their order: what was named before is there too, if not what was written to it.
    assert {state["first"] for state in found} == {b"", b"1", b"\0"}
    assert {"third" in state for state in found} == {True, False}


@pytest.mark.parametrize("synced", ["folder", "file", "data", "nothing"])
def test_a_name_that_was_given_to_another_file_is_one_or_the_other(
    simulation: Simulation, synced: str
) -> None:
    (simulation.folder / "name").write_bytes(b"old")

    def work() -> None:
        new = simulation.open("new")
        os.write(new, b"new")
        os.fsync(new)
        os.rename(simulation.folder / "new", simulation.folder / "name")
        if synced == "folder":
            simulation.sync()
        elif synced == "file":
            os.fsync(new)
        elif synced == "data":
            # Which is all that it promises: the name is not in it.
            os.fdatasync(new)

    simulation.run(work)
    after, before = {"name": b"new"}, {"name": b"old", "new": b"new"}
    is_sure = synced in ("folder", "file")
    assert same(simulation.left(), *([after] if is_sure else [after, before]))


def test_a_rename_does_not_bring_what_was_not_synced(simulation: Simulation) -> None:
    (simulation.folder / "name").write_bytes(b"old")

    def work() -> None:
        os.write(simulation.open("new"), b"new")
        os.rename(simulation.folder / "new", simulation.folder / "name")
        simulation.sync()

    simulation.run(work)
    assert same(simulation.left(), {"name": b"new"}, {"name": b""}, {"name": b"\0\0\0"})


def test_a_deleted_file_may_come_back_with_what_was_written_after(simulation: Simulation) -> None:
    (simulation.folder / "name").write_bytes(b"old")

    def work() -> None:
        opened = simulation.open("name")
        os.unlink(simulation.folder / "name")
        os.pwrite(opened, b"new", 0)
        os.fsync(opened)

    simulation.run(work)
    assert same(simulation.left(), {}, {"name": b"new"})


def test_a_log_and_its_index_come_in_every_combination(simulation: Simulation) -> None:
    def work() -> None:
        log = simulation.open("log")
        os.write(log, A)
        os.fsync(log)
        index = simulation.open("index")  # which is never synced
        os.pwrite(index, A + A, 0)
        os.write(log, B)
        os.pwrite(index, B + B, 0)

    simulation.run(work)
    found = {(state["log"], state.get("index")) for state in simulation.left(states=2000)}
    logs = {A, A + B, A + NOTHING}
    # Missing, old, new, torn, zeroed.
    indices = {None, A + A, B + B, A + B, NOTHING + NOTHING}
    assert {log for log, _ in found} == logs
    assert found > {(log, index) for log in logs for index in indices}


def test_a_file_in_a_folder_of_the_folder_is_seen(simulation: Simulation) -> None:
    def work() -> None:
        os.mkdir(simulation.folder / "in")
        inner = simulation.open("in/name")
        os.write(inner, b"1")
        os.fsync(inner)

    simulation.run(work)
    simulation.disk.cut(simulation.disk.last, random.Random(1))
    assert (simulation.folder / "in" / "name").read_bytes() == b"1"


def test_a_file_that_is_emptied_as_it_is_opened_is_seen(simulation: Simulation) -> None:
    (simulation.folder / "name").write_bytes(b"old")
    simulation.run(lambda: simulation.open("name", os.O_WRONLY | os.O_TRUNC))
    assert same(simulation.left(), {"name": b"old"}, {"name": b""})


@pytest.mark.parametrize("flag", [os.O_DSYNC, os.O_SYNC, 0])
def test_a_file_that_is_written_through_needs_no_sync(simulation: Simulation, flag: int) -> None:
    (simulation.folder / "name").write_bytes(A + A)

    def work() -> None:
        os.pwrite(simulation.open("name"), B, 0)
        os.pwrite(simulation.open("name", os.O_RDWR | flag), B, BLOCK)

    simulation.run(work)
    found = simulation.left()
    # Of other bytes of the file that says nothing.
    assert {state["name"][:BLOCK] for state in found} == {A, B}
    assert {state["name"][BLOCK:] for state in found} == ({B} if flag else {A, B})


def test_what_a_process_does_by_its_memory_is_seen(simulation: Simulation) -> None:
    (simulation.folder / "name").write_bytes(A * 8 + A * 8)

    def work() -> None:
        memory = mmap.mmap(simulation.open("name"), 16 * BLOCK)
        memory[:] = B * 16
        memory.flush(0, 8 * BLOCK)

    simulation.run(work)
    found = simulation.left()
    assert all(state["name"].startswith(B * 8) for state in found)
    assert {state["name"][8 * BLOCK :] for state in found} > {A * 8, B * 8}


def test_what_is_copied_by_the_system_is_seen(simulation: Simulation) -> None:
    (simulation.folder / "name").write_bytes(b"old")

    def work() -> None:
        new = simulation.open("new")
        os.sendfile(new, simulation.open("name"), 0, 3)
        os.fsync(new)
        os.copy_file_range(simulation.open("name"), new, 3, 0, 3)
        os.fsync(new)

    simulation.run(work)
    assert same(simulation.left(), {"name": b"old", "new": b"oldold"})


def test_what_is_written_while_a_sync_is_under_way_may_be_lost(simulation: Simulation) -> None:
    name = simulation.folder / "name"
    name.write_bytes(b"old")

    def another(call: Call) -> None:
        if call.name == "fsync" and call.result is None:
            name.write_bytes(b"new")

    def work() -> None:
        os.fsync(simulation.open("name"))
        os.write(simulation.open("other"), b"1")

    simulation.run(work, another)
    assert {state["name"] for state in simulation.left()} == {b"old", b"new"}


def test_a_file_that_was_there_is_the_same_file_after_a_cut(simulation: Simulation) -> None:
    name = simulation.folder / "name"
    name.write_bytes(b"old")
    inode = name.stat().st_ino
    simulation.run(lambda: os.unlink(name))
    there = set()
    for seed in range(20):
        simulation.disk.cut(simulation.disk.last, random.Random(seed))
        there.add(name.exists())
        assert not name.exists() or (name.stat().st_ino, name.read_bytes()) == (inode, b"old")
    assert there == {True, False}


def test_threads_are_seen_and_other_folders_are_not(simulation: Simulation, tmp_path: Path) -> None:
    seen: list[Call] = []

    def note(call: Call) -> bool:
        seen.append(call)
        return False

    def work() -> None:
        descriptor = simulation.open("name")
        other = os.open(tmp_path / "there-too", os.O_WRONLY | os.O_CREAT)
        thread = threading.Thread(
            target=lambda: (os.write(descriptor, b"1"), os.write(other, b"2"))
        )
        thread.start()
        thread.join()
        os.chdir(simulation.folder)
        os.rename("name", "new")

    simulation.run(work)
    trace(work, note, simulation.folder)
    made = [(call.name.replace("at", ""), call.result is None) for call in seen]
    assert [(name.rstrip("2"), is_begun) for name, is_begun in made] == [
        (name, is_begun) for name in ("open", "write", "rename") for is_begun in (True, False)
    ]
    assert seen[3].result == 1


def test_a_killed_process_has_not_made_the_call(simulation: Simulation) -> None:
    count = 0

    def second(call: Call) -> bool:
        nonlocal count
        count += call.name == "write"
        return count == 2

    def work() -> None:
        descriptor = simulation.open("name")
        for number in range(3):
            os.write(descriptor, b"%d" % number)

    simulation.run(lambda: None)  # where nobody may trace, this skips
    status = trace(work, second, simulation.folder, ends=False)
    assert os.WTERMSIG(status) == 9
    assert (simulation.folder / "name").read_bytes() == b"0"


def refuse(numbers: list[int]) -> None:
    raise OSError


@pytest.mark.parametrize(("name", "refused"), [("_TRACEME", 9999), ("_stop_at", refuse)])
def test_where_nobody_may_trace_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, refused: object
) -> None:
    monkeypatch.setattr(tracing, name, refused)
    with pytest.raises(PermissionError, match="This system lets no process"):
        trace(lambda: None, lambda call: False, tmp_path)


def test_after_a_power_cut_the_machine_has_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("django_kvsessions.stores.boots")
    user = types.ModuleType("django_kvsessions.stores.user")
    for one in (module, user):
        vars(one)["boot_identity"] = lambda: b"before"
        monkeypatch.setitem(sys.modules, one.__name__, one)
    monkeypatch.setattr(restarts, "_MODULE", module.__name__)
    identities = set()
    for _ in range(2):
        restarts.start_again()
        assert module.boot_identity() == user.boot_identity()
        identities.add(user.boot_identity())
        assert len(user.boot_identity()) == 16
    assert len(identities) == 2


def test_a_store_that_knows_no_starts_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "_MODULE", "django_kvsessions.stores.missing")
    restarts.start_again()
