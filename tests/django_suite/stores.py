"""The stores that Django's session tests run on. A new store is a new entry here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from testservers import Missing, Server
from testservers.dynamodb import client_options, dynalite_server
from testservers.firestore import firestore_emulator
from testservers.libsql import sqld_server
from testservers.mongodb import mongodb_server
from testservers.mysql import django_database as mysql_database
from testservers.mysql import mariadb_server
from testservers.postgres import django_database as postgres_database
from testservers.postgres import postgres_server
from testservers.redis import redis_server, valkey_server
from testservers.surrealdb import PASSWORD as SURREALDB_PASSWORD
from testservers.surrealdb import surrealdb_server

Entry = dict[str, Any]

#: Seconds to wait for servers that share a busy machine with the tests.
PATIENCE = 20

Served = dict[str, tuple[Callable[[], Server], Callable[[Server], Entry]]]


def store(backend: str, location: str | None = None, **options: Any) -> Entry:
    backend = f"django_kvsessions.stores.{backend}"
    return {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}


def redis_store(server: Server) -> Entry:
    return store("redis.RedisStore", f"redis://127.0.0.1:{server.port}/0")


def mongodb_store(server: Server) -> Entry:
    url = f"mongodb://127.0.0.1:{server.port}/sessions"
    return store("mongodb.MongoDBStore", url, socketTimeoutMS=PATIENCE * 1000)


def dynamodb_store(server: Server) -> Entry:
    return store(
        "dynamodb.DynamoDBStore",
        "sessions",
        timeout=PATIENCE,
        **client_options(server),
    )


def firestore_store(server: Server) -> Entry:
    return store("firestore.FirestoreStore", "sessions", project="demo-sessions", timeout=PATIENCE)


def libsql_store(server: Server) -> Entry:
    return store("libsql.LibSQLStore", f"http://127.0.0.1:{server.port}", timeout=PATIENCE)


def surrealdb_store(server: Server) -> Entry:
    return store(
        "surrealdb.SurrealDBStore",
        f"http://127.0.0.1:{server.port}",
        timeout=PATIENCE,
        username="root",
        password=SURREALDB_PASSWORD,
    )


#: Entries of SESSION_STORES that need a server.
SERVED: Served = {
    "redis": (redis_server, redis_store),
    "valkey": (valkey_server, redis_store),
    "mongodb": (mongodb_server, mongodb_store),
    "dynamodb": (dynalite_server, dynamodb_store),
    "firestore": (firestore_emulator, firestore_store),
    "sqld": (sqld_server, libsql_store),
    "surrealdb": (surrealdb_server, surrealdb_store),
}
#: Entries of DATABASES, each for a store with the same alias.
DATABASES: Served = {
    "postgres": (postgres_server, postgres_database),
    "mariadb": (mariadb_server, mysql_database),
}
#: What their drivers are imported as, and installed by.
DRIVERS = {"postgres": ("psycopg", "psycopg[binary]"), "mariadb": ("MySQLdb", "mysqlclient")}


def session_stores(stack: ExitStack) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """SESSION_STORES, and the DATABASES of some of them, as JSON can carry them.

    Servers are entered on ``stack``, and so is what they need in the environment. What is not
    installed is left out, but not where CI is set.

    "default" is for the tests that know nothing of stores, which run meanwhile
    in other processes; each other store has Django's session tests to itself.
    Those with a dot in their alias are only parts of others.
    """
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    embedded = {
        "lmdb": store("lmdb.LMDBStore", f"{folder}/lmdb"),
        "libsql": store("libsql.LibSQLStore", f"{folder}/libsql"),
        "surrealkv": store("surrealdb.SurrealDBStore", f"surrealkv://{folder}/surrealkv"),
    }
    # A file, because the store's async methods come from other threads.
    sqlite = {
        "ENGINE": "django.db.backends.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        "TEST": {"NAME": f"{folder}/sqlite"},
    }
    databases = {"sqlite": sqlite, **with_drivers(started(DATABASES, stack))}
    stores = {
        "default": {"LOCATION": f"{folder}/default"},
        "semidbm": {"LOCATION": f"{folder}/semidbm"},
        "memory": store("memory.MemoryStore"),
        "layered": store("layered.LayeredStore", cache="layered.cache", store="layered.store"),
        "layered.cache": store("memory.MemoryStore"),
        "layered.store": {"LOCATION": f"{folder}/layered"},
        **{alias: store("database.DatabaseStore", alias) for alias in databases},
        **with_drivers({**embedded, **started(SERVED, stack)}),
    }
    return stores, databases


def started(served: Served, stack: ExitStack) -> dict[str, Entry]:
    """The entries whose servers are installed, and run from now on."""
    entries = {}
    for alias, (make, describe) in served.items():
        try:
            server = stack.enter_context(make())
        except Missing as reason:
            leave_out(alias, reason)
            continue
        entries[alias] = describe(server)
        if alias == "firestore":
            address = f"127.0.0.1:{server.port}"
            stack.enter_context(patch.dict(os.environ, FIRESTORE_EMULATOR_HOST=address))
    return entries


def with_drivers(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Those whose drivers are installed."""
    found = {}
    for alias, entry in entries.items():
        try:
            if alias in DRIVERS:
                module, package = DRIVERS[alias]
                if find_spec(module) is None:
                    raise Missing(f"{module} is not installed: pip install {package}")
            else:
                import_string(entry["BACKEND"])(entry["LOCATION"], **entry["OPTIONS"])
        except (ImproperlyConfigured, Missing) as reason:
            leave_out(alias, reason)
        else:
            found[alias] = entry
    return found


def leave_out(alias: str, reason: Exception) -> None:
    if os.environ.get("CI"):
        raise reason
    print(f"Not run on {alias}: {reason}")
