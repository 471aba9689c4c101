"""Real processes on the same data."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from django_kvsessions.stores.base import Store
from django_kvsessions.testing.killing import KillRun
from django_kvsessions.testing.kit import Kit, requires
from django_kvsessions.testing.records import MakeStore, make_key
from django_kvsessions.testing.workers import Process, count_up, create_keys, run_processes
from django_kvsessions.testing.writers import clean_from, fork_and_kill, write_from

__all__ = ["Processes"]


class Processes(Kit):
    """Real processes on the same data, some of them killed."""

    @requires(shared_between_processes=True)
    def test_one_process_wins_each_create(
        self, store: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        results = run_processes(
            tmp_path,
            [
                (create_keys, make_store, tmp_path, number, self.processes, self.process_keys)
                for number in range(self.processes)
            ],
            self.patience,
        )
        assert sum(len(won) for won in results) == self.process_keys
        for process, won in enumerate(results):
            for number in won:
                loaded = store.load(make_key(number))
                assert loaded is not None
                assert loaded.data == b"%d" % process

    @requires(shared_between_processes=True)
    def test_processes_lose_no_compare_and_swap(
        self, store: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        store.create(make_key("counter"), self.make_record(b"0", revision=0))
        run_processes(
            tmp_path,
            [
                (count_up, make_store, tmp_path, number, self.processes, self.process_increments)
                for number in range(self.processes)
            ],
            self.patience,
        )
        loaded = store.load(make_key("counter"))
        assert loaded is not None
        assert int(loaded.data) == self.processes * self.process_increments

    @requires(shared_between_processes=True)
    def test_killed_processes_lose_nothing(
        self, store: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        run = KillRun(
            tmp_path,
            self.kill_processes,
            self.kill_threads,
            self.kill_keys,
            self.patience,
        )
        cleaner = Process(tmp_path / "cleaner", clean_from, make_store, run)
        writers = {
            number: Process(tmp_path / f"writer-{number}-0", write_from, make_store, run, number)
            for number in range(self.kill_processes)
        }
        try:
            for kill in range(self.kills):
                victim = kill % self.kill_processes
                run.wait_for_writes(victim)
                time.sleep(random.uniform(0, 0.1))
                assert writers[victim].kill() == -signal.SIGKILL
                run.assert_no_failure()
                writers[victim] = Process(
                    tmp_path / f"writer-{victim}-{kill + 1}", write_from, make_store, run, victim
                )
            for number in range(self.kill_processes):
                run.wait_for_writes(number)
            run.stop()
            for process in writers.values():
                process.result(self.patience)
            assert cleaner.result(self.patience) > 0 or self.removes_expired_itself
        finally:
            run.stop()
            for process in (*writers.values(), cleaner):
                process.kill()
        run.assert_nothing_lost(store)

    @requires(shared_between_processes=True, fork_safe=True)
    def test_killed_forks_of_an_open_store_lose_nothing(
        self, store: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        run = KillRun(
            tmp_path,
            self.kill_processes + 1,
            self.kill_threads,
            self.kill_keys,
            self.patience,
        )
        parent = Process(tmp_path / "parent", fork_and_kill, make_store, run, self.kills)
        try:
            assert parent.result(2 * self.patience) > 0 or self.removes_expired_itself
        finally:
            parent.kill()
        run.assert_nothing_lost(store)
