"""The stores that ``manage.py demo --store NAME`` can run on.

Each is a context manager that gets the demo's folder and gives SESSION_STORES. One that needs
a server starts it meanwhile, with the help of ``testservers``, on a free port; add it to STORES.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

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

#: Seconds to wait for servers that share the machine with the site and its visitors.
PATIENCE = 20

SessionStores = dict[str, dict[str, Any]]


def only(backend: str, location: str, **options: Any) -> SessionStores:
    """SESSION_STORES with one store; it has to survive a trip through JSON."""
    backend = f"django_kvsessions.stores.{backend}"
    return {"default": {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}}


@contextmanager
def semidbm(folder: Path) -> Iterator[SessionStores]:
    yield only("semidbm.SemidbmStore", str(folder / "sessions"))


@contextmanager
def lmdb(folder: Path) -> Iterator[SessionStores]:
    yield only("lmdb.LMDBStore", str(folder / "sessions"))


@contextmanager
def redis(folder: Path) -> Iterator[SessionStores]:
    with redis_server() as server:
        yield only("redis.RedisStore", f"redis://127.0.0.1:{server.port}/0")


@contextmanager
def valkey(folder: Path) -> Iterator[SessionStores]:
    with valkey_server() as server:
        yield only("redis.RedisStore", f"redis://127.0.0.1:{server.port}/0")


@contextmanager
def database(settings: dict[str, Any]) -> Iterator[SessionStores]:
    """The whole site on a database of that server, as a site would have it."""
    with patch.dict(os.environ, KVSESSIONS_DATABASE=json.dumps(settings)):
        yield only("database.DatabaseStore", "default")


@contextmanager
def sqlite(folder: Path) -> Iterator[SessionStores]:
    yield only("database.DatabaseStore", "default")


@contextmanager
def postgres(folder: Path) -> Iterator[SessionStores]:
    with postgres_server() as server, database(postgres_database(server)) as stores:
        yield stores


@contextmanager
def mysql(folder: Path) -> Iterator[SessionStores]:
    with mariadb_server() as server, database(mysql_database(server)) as stores:
        yield stores


@contextmanager
def mongodb(folder: Path) -> Iterator[SessionStores]:
    with mongodb_server() as server:
        url = f"mongodb://127.0.0.1:{server.port}/sessions"
        yield only("mongodb.MongoDBStore", url, socketTimeoutMS=PATIENCE * 1000)


@contextmanager
def dynamodb(folder: Path) -> Iterator[SessionStores]:
    with dynalite_server() as server:
        yield only(
            "dynamodb.DynamoDBStore",
            "sessions",
            timeout=PATIENCE,
            **client_options(server),
        )


@contextmanager
def firestore(folder: Path) -> Iterator[SessionStores]:
    with firestore_emulator() as server:
        address = f"127.0.0.1:{server.port}"
        with patch.dict(os.environ, FIRESTORE_EMULATOR_HOST=address):
            project = "demo-sessions"
            yield only("firestore.FirestoreStore", "sessions", project=project, timeout=PATIENCE)


@contextmanager
def libsql(folder: Path) -> Iterator[SessionStores]:
    yield only("libsql.LibSQLStore", str(folder / "sessions.db"), timeout=PATIENCE)


@contextmanager
def sqld(folder: Path) -> Iterator[SessionStores]:
    with sqld_server() as server:
        yield only("libsql.LibSQLStore", f"http://127.0.0.1:{server.port}", timeout=PATIENCE)


@contextmanager
def surrealdb(folder: Path) -> Iterator[SessionStores]:
    """Its server: a file of the embedded engine belongs to one process alone."""
    with surrealdb_server() as server:
        yield only(
            "surrealdb.SurrealDBStore",
            f"http://127.0.0.1:{server.port}",
            timeout=PATIENCE,
            username="root",
            password=SURREALDB_PASSWORD,
        )


STORES: dict[str, Callable[[Path], AbstractContextManager[SessionStores]]] = {
    "semidbm": semidbm,
    "lmdb": lmdb,
    "redis": redis,
    "valkey": valkey,
    "sqlite": sqlite,
    "postgres": postgres,
    "mysql": mysql,
    "mongodb": mongodb,
    "dynamodb": dynamodb,
    "firestore": firestore,
    "libsql": libsql,
    "sqld": sqld,
    "surrealdb": surrealdb,
}
