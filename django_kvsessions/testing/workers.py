"""Processes that tests start, wait for and kill.

Without pytest, since the processes themselves need none.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from django_kvsessions.stores.base import Record
from django_kvsessions.testing.records import LONG, MakeStore, increment, make_key, opened

__all__ = ["Process", "count_up", "create_keys", "meet", "run_processes", "wait_until"]


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

    def __init__(self, path: Path, function: Callable[..., object], *arguments: object) -> None:
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


def call(path: Path, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
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
