"""Databases that come and go while the tests run; imported by spawned processes too."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections

from django_kvsessions.stores.base import Record, Store
from django_kvsessions.stores.database import DatabaseStore
from django_kvsessions.testing import wait_until

__all__ = [
    "ALICE",
    "BACKEND",
    "KEY",
    "OTHER",
    "add_database",
    "calls",
    "disconnecting",
    "elsewhere",
    "end_connection",
    "open_store",
    "record",
    "remove_databases",
    "run_sql",
    "server_process",
    "sqlite_database",
    "table_name",
    "writes",
]

T = TypeVar("T")

KEY = b"k" * 32
OTHER = b"o" * 32
ALICE = b"a" * 16
BACKEND = "django_kvsessions.stores.database.DatabaseStore"

_added: set[str] = set()


def add_database(alias: str, database: dict[str, Any]) -> None:
    """As if DATABASES had it."""
    if not settings.configured:
        # A spawned process: it needs no other settings.
        settings.configure(DATABASES={"default": {}})
        django.setup()
    if alias not in connections.settings:
        configured = connections.configure_settings({"default": {}, alias: dict(database)})
        connections.settings[alias] = configured[alias]
        _added.add(alias)


def remove_databases() -> None:
    """Those that were added: Django's checks would ask them, with their servers gone."""
    _forget_connections()
    # The views of async tests run in a thread that outlives them.
    asyncio.run(sync_to_async(_forget_connections)())
    while _added:
        del connections.settings[_added.pop()]


def _forget_connections() -> None:
    for alias in _added:
        with suppress(AttributeError):
            del connections[alias]


def open_store(alias: str, database: dict[str, Any], **options: Any) -> DatabaseStore:
    add_database(alias, database)
    return DatabaseStore(alias, **options)


def record(data: bytes = b"data", owner: bytes = b"", seconds: float = 600) -> Record:
    revision = int.from_bytes(os.urandom(8), "big") >> 1
    return Record(data, time.time() + seconds, revision, owner)


def table_name() -> str:
    return f"t{uuid.uuid4().hex}"


def sqlite_database(path: Path, **options: Any) -> dict[str, Any]:
    # Without its fsyncs a killed process still loses nothing.
    options = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": "PRAGMA synchronous=OFF",
        **options,
    }
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": options}


def disconnecting(function: Callable[[], T]) -> T:
    """Call it in a thread that ends after it, as a request does: without a connection."""
    try:
        return function()
    finally:
        connections.close_all()


def run_sql(alias: str, *statements: str) -> list[Any]:
    """The rows of the last one, if any."""
    with connections[alias].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def elsewhere(function: Callable[[], T]) -> T:
    """What it gives on a connection of its own."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(disconnecting(function)))
    thread.start()
    thread.join(60)
    assert results, "it is still waiting, or failed"
    return results[0]


def calls(store: Store) -> list[Callable[[], object]]:
    return [lambda: store.load(KEY), *writes(store)]


def writes(store: Store) -> list[Callable[[], bool]]:
    """Every change; KEY is there, OTHER is not."""
    return [
        lambda: store.create(OTHER, record()),
        lambda: store.replace(KEY, record(b"new")),
        lambda: store.replace(KEY, record(b"new"), expected=1),
        lambda: store.touch(KEY, time.time() + 900),
        lambda: store.delete(KEY),
    ]


def server_process(alias: str) -> int:
    """Which of the server's processes or threads serves this connection."""
    vendor = connections[alias].vendor
    mine = "pg_backend_pid()" if vendor == "postgresql" else "CONNECTION_ID()"
    [(number,)] = run_sql(alias, f"SELECT {mine}")
    return int(number)


def end_connection(alias: str) -> None:
    """As the server does when it restarts, or after an idle time."""
    number = server_process(alias)

    def end() -> None:
        if connections[alias].vendor == "postgresql":
            assert run_sql(alias, f"SELECT pg_terminate_backend({number}, 30000)") == [(True,)]
            return
        left = f"SELECT count(*) FROM information_schema.processlist WHERE id = {number}"
        run_sql(alias, f"KILL {number}")
        wait_until(lambda: run_sql(alias, left)[0][0] == 0, 30)

    elsewhere(end)
