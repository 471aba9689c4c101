"""What the processes of a kill -9 run do: write, look, clean up, fork."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable

from django_kvsessions.stores.base import Store
from django_kvsessions.testing.killing import ABSENT, SHORT_LIVES, KillRun
from django_kvsessions.testing.records import MakeStore, opened

__all__ = ["clean_from", "fork_and_kill", "write_from"]


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
        if not removed:
            # On a busy machine, all that was to expire may do so only now.
            time.sleep(max(SHORT_LIVES))
            removed = sum(store.delete_expired())
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
