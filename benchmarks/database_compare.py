"""``python -m benchmarks.database_compare``: this engine in a database beside Django's db engine.

Both take turns on one server, so what to read are the ratios. ``--clean-up ROWS`` measures
instead how long the saves of another process take while a tenth of so many rows is removed.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import multiprocessing
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.db import connection, transaction

from benchmarks.engines import OURS
from benchmarks.turns import Times, fill, report, take_turns
from testservers.mysql import django_database as mysql_database
from testservers.mysql import mariadb_server
from testservers.postgres import django_database as postgres_database
from testservers.postgres import postgres_server

OPERATIONS = ("create", "load", "save", "delete")
Waits = dict[str, list[float]]
STORE = "django_kvsessions.stores.database.DatabaseStore"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=DATABASES, default="postgres")
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=300)
    parser.add_argument("--clean-up", type=int, metavar="ROWS")
    options = parser.parse_args()
    # As an exception, so that the server goes when the run is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with DATABASES[options.database]() as database:
        configure(database)
        if options.clean_up is not None:
            clean_up(database, options.clean_up)
        else:
            report(measure(options.sessions, options.rounds, options.batch))
        connection.close()


@contextmanager
def postgres() -> Iterator[dict[str, Any]]:
    with postgres_server() as server:
        yield postgres_database(server)


@contextmanager
def mysql() -> Iterator[dict[str, Any]]:
    with mariadb_server() as server:
        yield mysql_database(server)


@contextmanager
def sqlite(**options: Any) -> Iterator[dict[str, Any]]:
    """As Django sets it up by itself."""
    with tempfile.TemporaryDirectory() as folder:
        yield {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(Path(folder) / "db.sqlite3"),
            "CONN_MAX_AGE": None,
            "OPTIONS": options,
        }


@contextmanager
def sqlite_wal() -> Iterator[dict[str, Any]]:
    command = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"
    with sqlite(init_command=command, transaction_mode="IMMEDIATE", timeout=20) as database:
        yield database


DATABASES: dict[str, Callable[[], Any]] = {
    "postgres": postgres,
    "mysql": mysql,
    "sqlite": sqlite,
    "sqlite-wal": sqlite_wal,
}


def configure(database: dict[str, Any]) -> None:
    settings.configure(
        SECRET_KEY="benchmark",
        USE_TZ=True,
        DATABASES={"default": database},
        INSTALLED_APPS=["django.contrib.sessions", "django_kvsessions"],
        SESSION_ENGINE="django_kvsessions.engine",
        SESSION_STORES={"default": {"BACKEND": STORE, "LOCATION": "default"}},
        LOGGING_CONFIG=None,
    )
    django.setup()


def measure(sessions: int, rounds: int, batch: int) -> Times:
    from django.contrib.sessions.backends.db import SessionStore as DatabaseSession
    from django.core.management import call_command

    from django_kvsessions.engine import SessionStore

    call_command("migrate", verbosity=0)
    engines: dict[str, Any] = {OURS: SessionStore, "db": DatabaseSession}
    fill(engines, sessions)
    vacuum()
    return take_turns(engines, OPERATIONS, sessions=sessions, rounds=rounds, batch=batch)


def vacuum() -> None:
    """So that PostgreSQL does not begin with it in the middle of a measurement."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


# A clean-up, and what others feel of it


def clean_up(database: dict[str, Any], rows: int) -> None:
    """A tenth has expired: two clean-ups at once, and another process that saves."""
    from django_kvsessions.stores import stores

    store = stores["default"]
    store.setup()
    fill_rows(rows)
    print(f"{rows} rows: {store.stats()}")
    report_waits("no clean-up", waits_during(database, rows, lambda: time.sleep(5)))
    removed: list[int] = []
    started = time.perf_counter()
    waits = waits_during(database, rows, lambda: clean_twice(removed))
    seconds = time.perf_counter() - started
    report_waits("two clean-ups", waits)
    print(f"{' + '.join(map(str, removed))} = {sum(removed)} removed in {seconds:.1f} s")
    print(store.stats())


def fill_rows(rows: int) -> None:
    """Every tenth row has expired."""
    from django_kvsessions.stores.base import Record
    from django_kvsessions.stores.database import DatabaseStore

    table = DatabaseStore()._table
    data = bytes(random.randrange(256) for _ in range(400))
    for start in range(0, rows, 10_000):
        values = []
        for number in range(start, min(start + 10_000, rows)):
            life = -random.uniform(1, 1e6) if number % 10 == 0 else random.uniform(1e5, 1e6)
            record = Record(data, time.time() + life, number)
            values.append((store_key(number), *record[:3], table.nobody))
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(table.insert, values)
    vacuum()


def store_key(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=32).digest()


def clean_twice(removed: list[int]) -> None:
    def clean() -> None:
        from django_kvsessions.stores import stores

        removed.append(sum(stores["default"].delete_expired()))
        connection.close()

    threads = [threading.Thread(target=clean) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def waits_during(database: dict[str, Any], rows: int, action: Callable[[], object]) -> Waits:
    """Seconds of each save that another process made meanwhile."""
    context = multiprocessing.get_context("spawn")
    stop, ready, results = context.Event(), context.Event(), context.SimpleQueue()
    saving = context.Process(target=save, args=(database, rows, stop, ready, results))
    saving.start()
    try:
        ready.wait(60)
        action()
    finally:
        stop.set()
    waits: Waits = results.get()
    saving.join()
    return waits


def save(database: dict[str, Any], rows: int, stop: Event, ready: Event, results: Any) -> None:
    """Save live sessions, one after the other; how long each took."""
    configure(database)
    from django_kvsessions.stores import stores
    from django_kvsessions.stores.base import Record

    store = stores["default"]
    waits: Waits = {"saves": [], "of SELECT 1": []}

    def ask() -> bool:
        # What waits for nobody, so the longest of these is the machine's own.
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return True

    # The first use connects, which no site does for each save.
    ask()
    # Python would look through all that was imported, once, in the middle of a save.
    gc.collect()
    gc.freeze()
    ready.set()
    while not stop.is_set():
        key = store_key(random.randrange(rows // 10) * 10 + random.randrange(1, 10))
        record = Record(b"x" * 400, time.time() + 1e6, random.getrandbits(63))
        for name, call in (("saves", partial(store.replace, key, record)), ("of SELECT 1", ask)):
            started = time.perf_counter()
            done = call()
            waits[name].append(time.perf_counter() - started)
            assert done
    connection.close()
    results.put(waits)


def report_waits(title: str, waits: Waits) -> None:
    for name, found in waits.items():
        found = sorted(found)
        print(
            f"{title}: {len(found)} {name}, median {statistics.median(found) * 1e3:.2f} ms, "
            f"p99.9 {found[int(len(found) * 0.999)] * 1e3:.1f} ms, "
            f"longest {found[-1] * 1e3:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
