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
    """
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    redis = stack.enter_context(redis_server())
    valkey = stack.enter_context(valkey_server())
    return {
        "default": {"LOCATION": f"{folder}/default"},
        "semidbm": {"LOCATION": f"{folder}/semidbm"},
        "memory": store("memory.MemoryStore"),
        "redis": store("redis.RedisStore", f"redis://127.0.0.1:{redis.port}/0"),
        "valkey": store("redis.RedisStore", f"redis://127.0.0.1:{valkey.port}/0"),
    }


def store(backend: str, location: str | None = None) -> dict[str, Any]:
    return {"BACKEND": f"django_kvsessions.stores.{backend}", "LOCATION": location}
