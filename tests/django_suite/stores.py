"""The stores that Django's session tests run on: those of the registry, and some of parts."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from testservers import Missing
from testservers.registry import STORES, running

Entry = dict[str, Any]


def store(backend: str, location: str | None = None, **options: Any) -> Entry:
    backend = f"django_kvsessions.stores.{backend}"
    return {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}


def session_stores(stack: ExitStack) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """SESSION_STORES, and the DATABASES of some of them, as JSON can carry them.

    Servers are entered on ``stack``, and so is what they need in the environment. What is not
    installed is left out, but not where CI is set.

    "default" is for the tests that know nothing of stores, which run meanwhile
    in other processes; each other store has Django's session tests to itself.
    Those with a dot in their alias are only parts of others.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    stores = {
        "default": {"LOCATION": f"{folder}/default"},
        "memory": store("memory.MemoryStore"),
        "layered": store("layered.LayeredStore", cache="layered.cache", store="layered.store"),
        "layered.cache": store("memory.MemoryStore"),
        "layered.store": {"LOCATION": f"{folder}/layered"},
    }
    databases: dict[str, Entry] = {}
    for alias, entry in STORES.items():
        own = folder / alias
        own.mkdir()
        try:
            stores[alias], database = stack.enter_context(running(alias, own))
        except Missing as reason:
            if os.environ.get("CI"):
                raise
            print(f"Not run on {alias}: {reason}")
            continue
        if entry.backend == "database.DatabaseStore":
            # A database of the same alias.
            stores[alias]["LOCATION"] = alias
            databases[alias] = database or sqlite(own)
    return stores, databases


def sqlite(folder: Path) -> Entry:
    # A file, because the store's async methods come from other threads.
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        "TEST": {"NAME": f"{folder}/sqlite"},
    }
