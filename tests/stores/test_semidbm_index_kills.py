"""The index on disk, changed by processes at once that are killed at any call of the system."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from django_kvsessions.stores.base import Record
from django_kvsessions.stores.semidbm import SemidbmStore, compaction, files, generation, index
from django_kvsessions.stores.semidbm.compaction import Compaction
from django_kvsessions.stores.semidbm.journal import Journal
from django_kvsessions.testing import MakeStore, Processes
from django_kvsessions.testing.workers import Process, meet, run_processes

pytestmark = [pytest.mark.same, pytest.mark.slow]

LATER = 4e9
CHANGING = ["open", "write", "pwrite", "rename", "unlink", "ftruncate", "fsync", "fdatasync"]
#: What a session is, by its number: the revision of its record.
Held = dict[int, int]
#: What is done to which session.
Operation = tuple[str, int]

_write = os.write


def key(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=32).digest()


def record(number: int, revision: int) -> Record:
    return Record(b"%d at %d" % (number, revision), LATER, revision)


def opened(folder: Path) -> SemidbmStore:
    return SemidbmStore(folder, durability="process")


def after(held: Held, turn: int, operation: Operation) -> Held:
    what, number = operation
    if what in ("create", "replace"):
        return {**held, number: 1000 + turn}
    return {one: held[one] for one in held if (what, one) != ("delete", number)}


def do(store: SemidbmStore, turn: int, operation: Operation) -> None:
    what, number = operation
    if what == "compact":
        assert store.compact()
    elif what == "delete":
        assert store.delete(key(number))
    else:
        assert getattr(store, what)(key(number), record(number, 1000 + turn))


def die_at(nth: int, half: bool) -> list[int]:
    """Kill this process at a call that changes files: before it, or with half of it done.

    Returns how many calls there were.
    """
    calls = [0]

    def dying(name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == nth:
                if half and name in ("write", "pwrite"):
                    descriptor, data, *rest = arguments
                    function(descriptor, data[: len(data) // 2], *rest)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in CHANGING:
        setattr(os, name, dying(name))
    return calls


def at_once(
    self: Journal, purpose: str, function: Callable[..., None], *arguments: object
) -> threading.Thread:
    function(*arguments)
    return threading.Thread()


def in_child(folder: Path, operations: list[Operation], nth: int, half: bool) -> tuple[int, int]:
    """How many operations a child has acknowledged, and at how many calls it could be killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            # What it does in the background it does where it would begin that.
            Journal.start = at_once  # type: ignore[method-assign]
            store = opened(folder)
            calls = die_at(nth, half)
            for turn, operation in enumerate(operations):
                do(store, turn, operation)
                _write(writer, b".")
            _write(writer, b"%d" % calls[0])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    done = said.count(b".")
    return done, int(said[done:] or b"0")


def loaded(store: SemidbmStore, numbers: set[int]) -> Held:
    found = {number: store.load(key(number)) for number in numbers}
    for number, one in found.items():
        assert one is None or one == record(number, one.revision)
    return {number: one.revision for number, one in found.items() if one is not None}


def check(folder: Path, beside: SemidbmStore, before: Held, then: Held, nth: int) -> None:
    """All that was acknowledged is there; what was not may be there."""
    numbers = {*before, *then, 5000, 5001}
    held: Held = {}
    sure = [number for number in before if before[number] == then.get(number)]
    if nth % 3:
        # Some are the first to be loaded, by what is in mind; others to be written.
        for number in sure[:: 1 if nth % 3 == 1 else 7]:
            assert beside.replace(key(number), record(number, 3000), expected=before[number])
            held[number] = 3000
        assert beside.create(key(5000), record(5000, 3000))
        held[5000] = 3000
    found = loaded(beside, numbers)
    for number in numbers:
        allowed = {held[number]} if number in held else {before.get(number), then.get(number)}
        assert found.get(number) in allowed, number
    with closing(opened(folder)) as new:
        first, found = found, loaded(new, numbers)
        for number in numbers:
            # What was not entered any more, the next one who has the lock has entered.
            assert found.get(number) in (first.get(number), then.get(number)), number
        for store in (new, beside):
            assert loaded(store, numbers) == found
            scanned = {name: one.revision for name, one in store.scan()}
            assert scanned == {key(number): found[number] for number in found}
        if nth % 2:
            assert new.compact()
            assert loaded(beside, numbers) == loaded(new, numbers) == found


#: What is done before, and by the process that is killed.
FULL = [("create", number) for number in range(90)]
SCENARIOS: dict[str, tuple[list[Operation], list[Operation]]] = {
    "first use": ([], [("create", number) for number in range(3)]),
    "writes": (FULL[:20], [("create", 30), ("replace", 3), ("delete", 4), ("create", 4)]),
    "growth": (FULL, [("create", number) for number in range(100, 140)]),
    "compaction": (
        [*FULL[:60], *[("delete", number) for number in range(0, 60, 4)]],
        [("replace", 1), ("compact", 0), ("delete", 2), ("create", 0)],
    ),
    "damage": (FULL[:40], [("replace", 1), ("create", 100), ("delete", 2)]),
    "removal": (FULL[:40], [("replace", 1), ("create", 100), ("delete", 2)]),
}


def prepare(scenario: str, path: Path) -> None:
    if scenario == "damage":
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(bytes(path.stat().st_size - 4096))
    elif scenario == "removal":
        path.unlink()


def kill_at_each_call(place: Path, scenario: str, limit: int) -> tuple[int, int]:
    """At how many calls a process was killed, and how many times the index was replaced."""
    index.SMALLEST = 4
    soon = Compaction.soon
    if scenario == "removal":
        files.LOOK_INTERVAL = 0.02
    first, operations = SCENARIOS[scenario]
    nth, calls, replaced = 1, 0, 0
    step = 1
    while True:
        folder = place / str(nth)
        half = nth % 2 == 0
        held: Held = {}
        with closing(opened(folder)) as beside:
            Compaction.soon = lambda self, generation: None  # type: ignore[method-assign]
            for turn, operation in enumerate(first):
                do(beside, turn, operation)
                held = after(held, turn, operation)
            if first:
                loaded(beside, set(held))
                prepare(scenario, folder / "index")
            Compaction.soon = soon  # type: ignore[method-assign]
            if not calls:
                # How many there are is seen where none is met.
                copy = place / "whole"
                with closing(opened(copy)) as whole:
                    Compaction.soon = lambda self, generation: None  # type: ignore[method-assign]
                    for turn, operation in enumerate(first):
                        do(whole, turn, operation)
                    Compaction.soon = soon  # type: ignore[method-assign]
                    if first:
                        former = (copy / "index").stat().st_ino
                        prepare(scenario, copy / "index")
                        _, calls = in_child(copy, operations, -1, False)
                        replaced = former != (copy / "index").stat().st_ino
                    else:
                        _, calls = in_child(copy, operations, -1, False)
                step = max(1, 2 * calls // limit)
                assert calls > len(operations)
            done, _ = in_child(folder, operations, (nth + 1) // 2, half)
            assert done < len(operations)
            for turn, operation in enumerate(operations[:done]):
                held = after(held, turn, operation)
            check(folder, beside, held, after(held, done, operations[done]), nth)
        nth += step
        if nth > 2 * calls:
            return calls, int(replaced)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_process_killed_at_any_call_loses_nothing_it_has_acknowledged(
    scenario: str, tmp_path: Path
) -> None:
    limit = int(os.environ.get("KILLS", "60"))
    process = Process(tmp_path / "result", kill_at_each_call, tmp_path, scenario, limit)
    _, replaced = process.result(300)
    assert bool(replaced) == (scenario not in ("writes", "first use"))


def grow(folder: Path, number: int, others: int, count: int) -> Held:
    """Create many, and write and read some others now and then, which are in mind mostly."""
    index.SMALLEST = 4
    chance = random.Random(number)
    held: Held = {}
    mine: list[int] = []
    with closing(opened(folder)) as store:
        meet(folder.parent, number, others)
        for turn in range(count):
            new = number * 1_000_000 + turn
            assert store.create(key(new), record(new, turn))
            held[new] = turn
            mine.append(new)
            one = chance.choice(mine[-50:] if turn % 2 else mine)
            # Now and then one that is seen first when others have made the index larger.
            for each in (one, mine[0], chance.choice(mine))[: 1 + 2 * (turn % 10 == 0)]:
                assert loaded(store, {each}) == ({each: held[each]} if each in held else {})
                if each in held and turn % 17 == 0:
                    assert store.delete(key(each))
                    del held[each]
                elif each in held:
                    revision = held[each] + 10_000
                    changed = store.replace(key(each), record(each, revision), expected=held[each])
                    assert changed
                    held[each] = revision
    return held


def test_an_index_that_grows_all_along_loses_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sessions"
    count = int(os.environ.get("CREATES", "2000"))
    calls = [(grow, folder, number, 3, count) for number in range(3)]
    held: Held = {}
    for one in run_processes(tmp_path, calls, 300):
        held.update(one)
    assert "failed" not in capfd.readouterr().err
    with closing(opened(folder)) as store:
        assert {name: one.revision for name, one in store.scan()} == {
            key(number): revision for number, revision in held.items()
        }
        assert loaded(store, set(held)) == held
        assert store._journal.current().index.depth >= 9


class Vandalised(SemidbmStore):
    """Compacts at every clean-up, when somebody has written something into the index."""

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        yield from super().delete_expired(batch_size=batch_size)
        with suppress(FileNotFoundError), open(os.path.join(self.path, "index"), "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            what = random.random()
            if what < 0.2:
                file.truncate(random.choice([0, 100, size // 2]))
            elif what < 0.6 and size:
                file.seek(random.choice([random.randrange(204), random.randrange(size)]))
                file.write(random.randbytes(random.choice([1, 8, 300])))
        self.compact()


def tiny_and_vandalised(folder: Path) -> SemidbmStore:
    # A compaction makes the index too small, and the next who create something larger again.
    index.SMALLEST, index.FILLED = 4, 2.0
    vars(generation).update(CROWDED=0.05, SMALL_LOG=20_000)
    compaction.COMPACTION_PAUSE = 0.05
    files.LOOK_INTERVAL = 0.2
    return Vandalised(folder)


class TestTinyAndVandalised(Processes):
    """Processes are killed while the index grows, shrinks and is overwritten all along."""

    kill_processes = 3
    kill_threads = 2
    kill_keys = 60
    process_keys = 40
    process_increments = 20
    kills = int(os.environ.get("KILLED", "4"))
    patience = 240.0
    removes_expired_itself = True

    @pytest.fixture
    def make_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeStore:
        # What is changed is put back after the test.
        for module, name in (
            (index, "SMALLEST"),
            (index, "FILLED"),
            (generation, "CROWDED"),
            (generation, "SMALL_LOG"),
            (compaction, "COMPACTION_PAUSE"),
            (files, "LOOK_INTERVAL"),
        ):
            monkeypatch.setattr(module, name, getattr(module, name))
        return partial(tiny_and_vandalised, tmp_path / "sessions")
