"""The default store from a thousand to ten million sessions."""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from django.conf import settings

from benchmarks import report
from benchmarks.arena import progress
from benchmarks.command import Command, add_rounds, numbers
from benchmarks.measure import Result, put
from benchmarks.worker import private_bytes
from django_kvsessions.stores.base import Record
from django_kvsessions.stores.semidbm import SemidbmStore
from django_kvsessions.stores.semidbm import log as logfile

__all__ = ["Sizes"]

BYTES = 400
BATCH = 2000


class Sizes(Command):
    """The default store from a thousand to ten million sessions.

    The log is written without the store, so the first process makes the index, as after a boot
    of the machine. Then others open it, and take turns with loads.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--sizes", type=numbers, default=[1000, 1_000_000, 10_000_000])
        add_rounds(parser, 5)

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        if not settings.configured:
            settings.configure()
        for size in [0, *options.sizes]:
            write_log(folder / str(size), size)
            made = apart(partial(make_index, folder / str(size)))
            for name, figure in made.items():
                put(results, figure, name, size)
            index = (folder / str(size) / "index").stat().st_size
            put(results, index / max(1, size), "index_bytes", size)
        for _ in progress(range(options.rounds), "turns"):
            for size in random.sample([0, *options.sizes], len(options.sizes) + 1):
                for name, figure in apart(partial(use, folder / str(size), size)).items():
                    put(results, figure, name, size)
        largest = options.sizes[-1]
        for name, figure in apart(partial(grow, folder / str(largest))).items():
            put(results, figure, name, largest)

    def render(self, results: Result) -> Iterator[str]:
        for title, name in (
            ("Seconds to make the index", "make_s"),
            ("Megabytes that the process takes for it at most", "make_mb"),
            ("Bytes of the index a session", "index_bytes"),
            ("Milliseconds to the first load in a new process", "open_ms"),
            ("Megabytes that it holds after 2,000 loads", "open_mb"),
            ("Microseconds of a load", "load_us"),
            ("Milliseconds of the longest of 20,000 saves", "alone_ms"),
            ("Milliseconds of the longest save of a process while another doubles the index",
             "growth_ms"),
            ("Seconds in which that was done", "growth_s"),
        ):  # fmt: skip
            if name in results:
                rows = [[f"{int(n):,}", report.short(median(v))] for n, v in results[name].items()]
                yield report.table(title, ["median"], rows)


def key(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=32).digest()


def write_log(folder: Path, size: int) -> None:
    folder.mkdir()
    data, expires = random.randbytes(BYTES), time.time() + 14 * 86400
    with (folder / "data").open("wb") as file:
        file.write(logfile.FILE_HEADER)
        for number in progress(range(size), f"{size:,}"):
            file.write(logfile.put(key(number), Record(data, expires, 1)))


def apart(function: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What it gives in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function).result()


def make_index(folder: Path) -> dict[str, float]:
    store = opened(folder)
    before, start = peak(), time.perf_counter()
    store.load(key(0))
    return {"make_s": time.perf_counter() - start, "make_mb": (peak() - before) / 1e6}


def use(folder: Path, size: int) -> dict[str, float]:
    store = opened(folder)
    before, start = private_bytes(), time.perf_counter()
    store.load(key(0))
    seconds = time.perf_counter() - start
    keys = [key(number) for number in random.choices(range(max(1, size)), k=BATCH)]
    for one in keys:
        store.load(one)
    held = private_bytes() - before
    keys = [key(number) for number in random.choices(range(max(1, size)), k=BATCH)]
    start = time.perf_counter()
    for one in keys:
        store.load(one)
    load = (time.perf_counter() - start) / BATCH
    return {"open_ms": seconds * 1e3, "open_mb": held / 1e6, "load_us": load * 1e6}


def grow(folder: Path) -> dict[str, float]:
    """Saves of this process, alone and while another one doubles the index."""
    store = opened(folder)
    alone = longest(store, lambda count: count < 20_000)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        start = time.perf_counter()
        other = pool.submit(double, folder)
        during = longest(store, lambda _: not other.done())
        seconds = time.perf_counter() - start
        other.result()
    return {"alone_ms": alone * 1e3, "growth_ms": during * 1e3, "growth_s": seconds}


def double(folder: Path) -> None:
    compaction = opened(folder)._compaction
    compaction._alone(compaction._grow)


def longest(store: SemidbmStore, more: Callable[[int], bool]) -> float:
    slowest, count = 0.0, 0
    record = Record(bytes(BYTES), time.time() + 86400, 2)
    while more(count):
        start = time.perf_counter()
        store.replace(key(count % 1000), record)
        slowest = max(slowest, time.perf_counter() - start)
        count += 1
    return slowest


def opened(folder: Path) -> SemidbmStore:
    if not settings.configured:
        settings.configure()
    return SemidbmStore(os.fspath(folder))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
