"""What the automatic clean-up keeps a store at, and what requests notice of it."""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import django
from django.conf import settings

from benchmarks import report
from benchmarks.command import Command, add_rounds
from benchmarks.measure import Result, put
from benchmarks.report import Target
from django_kvsessions import cleaning, conf
from django_kvsessions.stores.base import Record, Store
from django_kvsessions.stores.database import DatabaseStore
from django_kvsessions.stores.lmdb import LMDBStore
from django_kvsessions.stores.semidbm import SemidbmStore
from django_kvsessions.stores.semidbm.journal import Journal

__all__ = ["AutoClean", "Most", "simulate"]

#: Seconds that a session lives, and bytes that it has.
LIFE = 60.0
SIZE = 600
STORES = ("semidbm", "lmdb", "sqlite")


class Most(NamedTuple):
    """The most that a store held at any moment: records, and bytes."""

    records: int
    size: int
    #: Bytes of what is live, with what the store itself needs for it.
    live_size: int


def simulate(
    store: Store, *, living: int, lives: int, size_of: Callable[[], int] | None = None
) -> Most:
    """Constant traffic on a clock of its own, ``living`` sessions a minute, for so many minutes.

    Clean-ups and compactions are asked for and done as in a site, but at once, and not beside.
    ``size_of``: the bytes of a store that does not tell them itself.
    """
    clock = start = time.time()
    cleaner, due = cleaning.Cleaner(), random.Random(1)
    cleaner.is_serving = True
    records = size = live_size = 0
    timing = SimpleNamespace(monotonic=lambda: clock, sleep=lambda seconds: None)
    with (
        patch("time.time", lambda: clock),
        patch.object(cleaning, "time", timing),
        patch.object(cleaning, "_is_testing", return_value=False),
        patch.object(cleaning, "_interval", lambda: LIFE / 10),
        patch.object(conf, "auto_clean", return_value=True),
        patch.object(Journal, "start", start_and_wait),
    ):
        for number in range(living * lives):
            clock = start + number * LIFE / living
            store.create(b"%032d" % number, Record(bytes(SIZE), clock + LIFE, 1))
            if due.random() < cleaning.CHANCE:
                cleaner.start(store)
                if cleaner._thread is not None:
                    cleaner._thread.join()
            if number % (living // 10) == 0:
                stats = store.stats()
                if number == living:
                    live_size = size_of() if size_of else stats.size or 0
                records = max(records, (stats.live or 0) + (stats.expired or 0))
                size = max(size, size_of() if size_of else stats.size or 0)
    return Most(records, size, live_size)


_start = Journal.start


def start_and_wait(
    journal: Journal, purpose: str, function: Callable[..., None], *args: object
) -> threading.Thread:
    thread = _start(journal, purpose, function, *args)
    # What moves the index waits for a lock that its starter holds.
    if purpose == "compact":
        thread.join()
    return thread


def requests(store: Store, count: int, live: int, number: int) -> list[float]:
    """Seconds that each of so many requests takes: a new session, and one loaded and saved."""
    taken = []
    for turn in range(number, number + count):
        started = time.perf_counter()
        moment = time.time()
        # Of what is new, as much expires as is created.
        store.create(b"n%031d" % turn, Record(bytes(SIZE), moment + 1, 1))
        key = b"l%031d" % (turn * 7919 % live)
        record = store.load(key)
        assert record is not None
        store.replace(key, record._replace(revision=turn), expected=record.revision)
        cleaning.created(store)
        taken.append(time.perf_counter() - started)
    return taken


@contextmanager
def serving() -> Iterator[None]:
    """This process is one that serves, and cleans up as often as it may."""
    with (
        patch.object(cleaning._cleaner, "is_serving", True),
        patch.object(cleaning, "_interval", lambda: 0.001),
        patch.object(conf, "auto_clean", return_value=True),
    ):
        yield


def size_of_file(path: Path) -> int:
    return path.stat().st_size


def open_stores(folder: Path) -> dict[str, Store]:
    from django.db import connections

    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "db")}
    options = {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA synchronous=OFF"}
    connections.settings["auto-clean"] = connections.configure_settings(
        {"default": {}, "auto-clean": {**database, "OPTIONS": options}}
    )["auto-clean"]
    stores: dict[str, Store] = {
        "semidbm": SemidbmStore(folder / "semidbm"),
        "lmdb": LMDBStore(folder / "lmdb", durability="process"),
        "sqlite": DatabaseStore("auto-clean"),
    }
    for store in stores.values():
        store.setup()
    return stores


class AutoClean(Command):
    """What the automatic clean-up keeps a store at, and what requests notice of it."""

    targets = (
        *(
            Target(f"times its living, the most records on {name}", 2, f"records/{name}")
            for name in STORES
        ),
        *(
            Target(f"times its live content, the most bytes on {name}", 2, f"sizes/{name}")
            for name in STORES
        ),
        Target("times without, the p99.9 of a request on semidbm", 1.1, "on/p999", "off/p999"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--living", type=int, default=10_000, help="sessions (default 10000)")
        parser.add_argument("--lives", type=int, default=20, help="of 60 s each (default 20)")
        parser.add_argument("--requests", type=int, default=5000, help="in a round (default 5000)")
        add_rounds(parser, 10)

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        settings.configure(DATABASES={}, SECRET_KEY="for this run", USE_TZ=True)
        django.setup()
        for name, store in open_stores(folder).items():
            size_of = partial(size_of_file, folder / "db") if name == "sqlite" else None
            most = simulate(store, living=options.living, lives=options.lives, size_of=size_of)
            put(results, most.records / options.living, "records", name)
            if most.live_size:
                put(results, most.size / most.live_size, "sizes", name)
            store.close()
        store = SemidbmStore(folder / "requests")
        for number in range(options.living):
            store.create(b"l%031d" % number, Record(bytes(SIZE), 4e9, 0))
        number = 0
        taken: dict[str, list[float]] = {"on": [], "off": []}
        for _ in range(options.rounds):
            for arm in random.sample(["on", "off"], 2):
                with serving() if arm == "on" else nullcontext():
                    taken[arm] += requests(store, options.requests, options.living, number)
                number += options.requests
        for arm, seconds in taken.items():
            seconds.sort()
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
                put(results, seconds[int(len(seconds) * share)], arm, name)
        store.close()

    def render(self, results: Result) -> Iterator[str]:
        yield report.grid("the most, in times of the living", rows(results), ["records", "sizes"])
        columns = ["p50", "p99", "p999"]
        arms = {f"with it {arm}": results[arm] for arm in ("on", "off") if arm in results}
        yield report.grid("a request, ms", arms, columns, 1e3)


def rows(results: Result) -> dict[str, dict[str, list[float]]]:
    return {
        name: {part: results.get(part, {}).get(name, []) for part in ("records", "sizes")}
        for name in results.get("records", {})
    }
