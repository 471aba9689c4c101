"""What ``StoreConformance`` runs in processes of their own, some of which it kills.

Apart from testing.py, so that none of them has to import pytest.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django_kvsessions.stores.base import KEY_SIZE, Record, Store

MakeStore = Callable[[], Store]

LONG = 3600.0


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


def wait_until(condition: Callable[[], bool], patience: float) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nothing happened for {patience} seconds.")
        time.sleep(0.002)


def meet(folder: Path, name: object, others: int, patience: float = 60) -> None:
    """Wait until ``others`` processes have come here."""
    place = folder / "meeting"
    place.mkdir(exist_ok=True)
    (place / str(name)).touch()
    wait_until(lambda: len(os.listdir(place)) >= others, patience)


class Process:
    """A new interpreter that calls a function.

    Files carry what it returns or raises: a killed process may leave a queue
    or a lock of multiprocessing behind in a state that stops all the others.
    """

    # Not fork: the test process may have threads, and servers' connections.
    context = multiprocessing.get_context("spawn")

    def __init__(self, path: Path, function: Callable[..., Any], *arguments: Any) -> None:
        self.path = path
        self.process = self.context.Process(target=call, args=(path, function, arguments))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def result(self, patience: float) -> Any:
        self.process.join(patience)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"{self.path.name} was still running after {patience} seconds.")
        assert self.path.exists(), f"{self.path.name} ended with code {self.process.exitcode}."
        succeeded, value = pickle.loads(self.path.read_bytes())  # noqa: S301 (written by call)
        assert succeeded, f"In {self.path.name}:\n{value}"
        return value

    def kill(self) -> int | None:
        """Kill it and its forks; the code that it ended with."""
        self.process.kill()
        self.process.join()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.process.exitcode


def call(path: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # A group of its own, so that what it forks can be killed with it.
    os.setsid()
    try:
        outcome = (True, function(*arguments))
    except BaseException:
        outcome = (False, traceback.format_exc())
    half_written = path.with_suffix(".part")
    half_written.write_bytes(pickle.dumps(outcome))
    half_written.rename(path)


def run_processes(folder: Path, calls: list[tuple[Any, ...]], patience: float) -> list[Any]:
    """Call each function in a process of its own, all at once; what each returned."""
    processes = [Process(folder / f"process-{i}", *each) for i, each in enumerate(calls)]
    try:
        return [process.result(patience) for process in processes]
    finally:
        for process in processes:
            process.kill()


@contextmanager
def opened(make_store: MakeStore) -> Iterator[Store]:
    store = make_store()
    try:
        yield store
    finally:
        store.close()


def create_keys(
    make_store: MakeStore, folder: Path, number: int, processes: int, keys: int
) -> list[int]:
    """Try to create each key; the ones that this process was first with."""
    with opened(make_store) as store:
        assert store.load(make_key("absent")) is None
        meet(folder, number, processes)
        record = Record(b"%d" % number, time.time() + LONG, number)
        return [key for key in range(keys) if store.create(make_key(key), record)]


def count_up(make_store: MakeStore, folder: Path, number: int, processes: int, times: int) -> None:
    with opened(make_store) as store:
        assert store.load(make_key("absent")) is None
        meet(folder, number, processes)
        increment(store, make_key("counter"), times)


# The kill -9 runs. Each thread of each process is a *writer* with keys of its
# own, and a journal that says what it was about to do and what the store
# acknowledged. A killed writer's successor reads the journal and goes on. The
# records' counters only ever rise, through deletions too, so every writer also
# checks that the others' records never go back and never return.

ABSENT = 0


class KillRun:
    """The files and sizes of one run; picklable."""

    def __init__(
        self,
        folder: Path,
        processes: int,
        threads: int,
        keys: int,
        patience: float,
    ) -> None:
        self.folder = folder
        self.processes = processes
        self.threads = threads
        self.keys = keys
        self.patience = patience

    def writers(self, process: int) -> range:
        return range(process * self.threads, (process + 1) * self.threads)

    def key(self, writer: int, number: int) -> bytes:
        return make_key(f"{writer}/{number}")

    def journal(self, writer: int) -> Path:
        return self.folder / f"journal-{writer}"

    def stop(self) -> None:
        (self.folder / "stop").touch()

    def stopped(self) -> bool:
        return os.path.exists(self.folder / "stop")

    def fail(self, message: str) -> None:
        with (self.folder / "failures").open("a") as file:
            file.write(message + "\n")

    def assert_no_failure(self) -> None:
        failures = self.folder / "failures"
        assert not failures.exists(), failures.read_text()

    def wait_for_writes(self, process: int) -> None:
        """Until each writer of the process has made some dozen changes more."""
        sizes = {writer: self.written(writer) for writer in self.writers(process)}
        wait_until(
            lambda: (
                (self.folder / "failures").exists()
                or all(self.written(writer) >= sizes[writer] + 500 for writer in sizes)
            ),
            self.patience,
        )
        self.assert_no_failure()

    def written(self, writer: int) -> int:
        """Bytes in the writer's journal, which are about twenty for each change."""
        journal = self.journal(writer)
        return journal.stat().st_size if journal.exists() else 0

    def read_journal(self, writer: int) -> tuple[dict[int, set[int]], int]:
        """The counters that each key may have now, and the highest one used."""
        possible: dict[int, set[int]] = {number: {ABSENT} for number in range(self.keys)}
        highest = 0
        text = self.journal(writer).read_text() if self.journal(writer).exists() else ""
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            sign, number, *counters = line.split()
            values = {int(counter) for counter in counters}
            highest = max(highest, *values)
            if sign == "?":
                possible[int(number)] |= values
            else:
                possible[int(number)] = values
        return possible, highest

    def counter(self, writer: int, number: int, record: Record | None, moment: float) -> int:
        """The counter in a record that was loaded after ``moment``, once all else is right."""
        if record is None:
            return ABSENT
        name, _, rest = record.data.partition(b" ")
        assert name == b"%d/%d" % (writer, number), "a record under the wrong key"
        counter = int(rest.partition(b" ")[0])
        assert record.revision == counter, "a revision of another record"
        assert record.owner == b"%016d" % writer, "an owner of another record"
        assert record.expires > moment - 0.01, "an expired record was returned"
        return counter

    def record(self, writer: int, number: int, counter: int, short: bool) -> Record:
        padding = os.urandom(random.choice((0, 50, 500, 5000)))
        return Record(
            b"%d/%d %d %b" % (writer, number, counter, padding),
            time.time() + (random.choice((0.001, 0.01, 0.1)) if short else LONG),
            counter,
            b"%016d" % writer,
        )

    def assert_nothing_lost(self, store: Store) -> None:
        self.assert_no_failure()
        present = {}
        for writer in range(self.processes * self.threads):
            assert self.written(writer) >= 500
            possible, _ = self.read_journal(writer)
            for number in range(self.keys):
                moment = time.time()
                record = store.load(self.key(writer, number))
                counter = self.counter(writer, number, record, moment)
                assert counter in possible[number], (
                    f"writer {writer}'s record {number} is at {counter}, "
                    f"but may only be at {possible[number]}"
                )
                if counter != ABSENT and len(possible[number]) == 1:
                    present[self.key(writer, number)] = counter
        scanned = [(key, record.revision) for key, record in store.scan()]
        assert len(scanned) == len(dict(scanned)), "scan returned a record twice"
        assert dict(scanned).items() >= present.items()


class Writer:
    """Changes its own records at random, and looks at everyone's."""

    def __init__(self, store: Store, run: KillRun, writer: int) -> None:
        self.store = store
        self.run = run
        self.writer = writer
        self.possible, self.highest = run.read_journal(writer)
        self.journal = os.open(run.journal(writer), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        # A predecessor may have been killed in the middle of a line.
        os.write(self.journal, b"\n" if self.has_torn_line() else b"")
        # The counter at which each record was last seen, and whether it was gone since.
        self.seen: dict[tuple[int, int], tuple[int, bool]] = {}

    def has_torn_line(self) -> bool:
        text = self.run.journal(self.writer).read_text()
        return bool(text) and not text.endswith("\n")

    def write(self, sign: str, number: int, counters: set[int]) -> None:
        os.write(self.journal, f"{sign} {number} {' '.join(map(str, counters))}\n".encode())

    def work(self) -> None:
        try:
            while not self.run.stopped():
                self.change(random.randrange(self.run.keys))
                self.look(
                    random.randrange(self.run.processes * self.run.threads),
                    random.randrange(self.run.keys),
                )
        except BaseException:
            self.run.fail(f"Writer {self.writer}:\n{traceback.format_exc()}")
        finally:
            os.close(self.journal)

    def look(self, writer: int, number: int) -> None:
        moment = time.time()
        record = self.store.load(self.run.key(writer, number))
        counter = self.run.counter(writer, number, record, moment)
        seen, gone = self.seen.get((writer, number), (ABSENT, False))
        if counter == ABSENT:
            self.seen[writer, number] = (seen, True)
            return
        assert counter >= seen, f"a record at {counter} was seen after it was at {seen}"
        assert counter > seen or not gone, f"a record at {counter} was seen after it was gone"
        self.seen[writer, number] = (counter, False)

    def change(self, number: int) -> None:
        key = self.run.key(self.writer, number)
        moment = time.time()
        record = self.store.load(key)
        counter = self.run.counter(self.writer, number, record, moment)
        assert counter in self.possible[number], (
            f"record {number} is at {counter}, but may only be at {self.possible[number]}"
        )
        short = random.random() < 0.3
        new = self.highest + 1
        written = self.run.record(self.writer, number, new, short)
        if record is None:
            # An earlier record may have expired, so there may be one to take the place of.
            assert self.attempt(number, new, short, lambda: self.store.create(key, written))
            return
        kind = random.choice(("replace", "replace", "touch", "delete"))
        if kind == "replace":
            expected = random.choice((None, counter))
            done = self.attempt(
                number, new, short, lambda: self.store.replace(key, written, expected=expected)
            )
        elif kind == "touch":
            done = self.attempt(
                number, counter, short, lambda: self.store.touch(key, written.expires)
            )
        else:
            done = self.attempt(number, ABSENT, False, lambda: self.store.delete(key))
        assert done or record.expires < time.time() + 0.01, f"{kind} missed a live record"

    def attempt(self, number: int, counter: int, short: bool, change: Callable[[], bool]) -> bool:
        self.highest = max(self.highest, counter)
        self.write("?", number, {counter, ABSENT} if short else {counter})
        done = change()
        after = {ABSENT} if not done else {counter, ABSENT} if short else {counter}
        self.possible[number] = after
        self.write("=", number, after)
        return done


def run_writers(store: Store, run: KillRun, process: int) -> None:
    threads = [
        threading.Thread(target=Writer(store, run, writer).work) for writer in run.writers(process)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def write_from(make_store: MakeStore, run: KillRun, process: int) -> None:
    with opened(make_store) as store:
        run_writers(store, run, process)


def clean(store: Store, run: KillRun) -> int:
    """Clean up until the run stops; how many records that removed."""
    removed = 0
    try:
        while not run.stopped():
            for count in store.delete_expired(batch_size=5):
                assert count <= 5
                removed += count
            time.sleep(0.005)
    except BaseException:
        run.fail(f"Cleaning up:\n{traceback.format_exc()}")
    return removed


def clean_from(make_store: MakeStore, run: KillRun) -> int:
    with opened(make_store) as store:
        return clean(store, run)


def fork_and_kill(make_store: MakeStore, run: KillRun, kills: int) -> int:
    """Fork writers that use this process's open store, while it writes and cleans up itself."""
    # Forking under threads is what a preloading server does, and what is tested here.
    warnings.simplefilter("ignore", DeprecationWarning)
    own = run.processes - 1
    removed: list[int] = []
    children: dict[int, int] = {}
    with opened(make_store) as store:
        threads = [
            threading.Thread(target=run_writers, args=(store, run, own)),
            threading.Thread(target=lambda: removed.append(clean(store, run))),
        ]
        for thread in threads:
            thread.start()
        try:
            run.wait_for_writes(own)
            for number in range(own):
                children[number] = fork_writers(store, run, number)
            for kill in range(kills):
                victim = kill % own
                run.wait_for_writes(victim)
                os.kill(children[victim], signal.SIGKILL)
                assert os.waitpid(children.pop(victim), 0)[1] == signal.SIGKILL
                children[victim] = fork_writers(store, run, victim)
            for number in range(run.processes):
                run.wait_for_writes(number)
        finally:
            run.stop()
            for thread in threads:
                thread.join()
            for child in children.values():
                os.waitpid(child, 0)
    run.assert_no_failure()
    return removed[0]


def fork_writers(store: Store, run: KillRun, process: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            run_writers(store, run, process)
        except BaseException:
            run.fail(traceback.format_exc())
        finally:
            os._exit(0)
    return child
