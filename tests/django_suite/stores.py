"""The stores that Django's session tests run on. A new store is a new entry here."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import Any

from testservers.redis import redis_server, valkey_server


def session_stores(stack: ExitStack) -> dict[str, dict[str, Any]]:
    """SESSION_STORES, as JSON can carry it. A server that a store needs is entered on ``stack``.

    "default" is for the tests that know nothing of stores, which run meanwhile
    in other processes; each other store has Django's session tests to itself.
    Those with a dot in their alias are only parts of others.
    """
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    redis = stack.enter_context(redis_server())
    valkey = stack.enter_context(valkey_server())
    return {
        "default": {"LOCATION": f"{folder}/default"},
        "semidbm": {"LOCATION": f"{folder}/semidbm"},
        "database": store("database.DatabaseStore", "sessions"),
        "layered": store("layered.LayeredStore", cache="layered.cache", store="layered.store"),
        "layered.cache": store("memory.MemoryStore"),
        "layered.store": {"LOCATION": f"{folder}/layered"},
        "lmdb": store("lmdb.LMDBStore", f"{folder}/lmdb"),
        "memory": store("memory.MemoryStore"),
        "redis": store("redis.RedisStore", f"redis://127.0.0.1:{redis.port}/0"),
        "valkey": store("redis.RedisStore", f"redis://127.0.0.1:{valkey.port}/0"),
    }


def store(backend: str, location: str | None = None, **options: Any) -> dict[str, Any]:
    backend = f"django_kvsessions.stores.{backend}"
    return {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}
