"""Every store as a site may configure it, with the server that it needs: a new one is entered here.

Django's own tests, the demo, the check of each extra and the tests of options
read it. Needs nothing that is not installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from testservers import Missing, Server
from testservers import mysql as mysql_server
from testservers import postgres as postgres_server
from testservers import surrealdb as surrealdb_server
from testservers.dynamodb import CREDENTIALS, dynalite_server
from testservers.firestore import firestore_emulator
from testservers.libsql import sqld_server
from testservers.mongodb import mongodb_server
from testservers.redis import redis_server, valkey_server

__all__ = ["STORES", "Entry", "Running", "is_installed", "running", "settings_of"]

#: Seconds to wait for a server that shares a busy machine with what asks it.
PATIENCE = 20


class Entry(NamedTuple):
    """A store, in whose texts ``{folder}`` and ``{port}`` are filled in."""

    #: The class, below django_kvsessions.stores.
    backend: str
    location: str
    options: Mapping[str, Any] = {}
    #: What its driver is imported as, and what pip installs it by.
    driver: str | None = None
    install: str | None = None
    #: What starts its server, and what is to be in the environment then.
    server: Callable[[], Server] | None = None
    environ: Mapping[str, str] = {}
    #: What DATABASES says of the server, for a store on one of these.
    database: Callable[[Server], dict[str, Any]] | None = None
    #: OPTIONS with which it gives up soon where no server is.
    impatient: Mapping[str, Any] = {}
    #: Processes share it.
    shared: bool = True

    @property
    def extra(self) -> str | None:
        """The extra of this package that brings its driver."""
        name = self.backend.partition(".")[0]
        return name if self.install == f"django-kvsessions[{name}]" else None


def with_extra(backend: str, location: str, **fields: Any) -> Entry:
    name = backend.partition(".")[0]
    return Entry(backend, location, install=f"django-kvsessions[{name}]", **fields)


STORES: dict[str, Entry] = {
    "semidbm": Entry("semidbm.SemidbmStore", "{folder}/sessions", driver="semidbm"),
    "lmdb": with_extra("lmdb.LMDBStore", "{folder}/sessions", driver="lmdb"),
    "sqlite": Entry("database.DatabaseStore", "default", driver="sqlite3"),
    "postgres": Entry(
        "database.DatabaseStore",
        "default",
        driver="psycopg",
        install="psycopg[binary]",
        server=postgres_server.postgres_server,
        database=postgres_server.django_database,
    ),
    "mysql": Entry(
        "database.DatabaseStore",
        "default",
        driver="MySQLdb",
        install="mysqlclient",
        server=mysql_server.mariadb_server,
        database=mysql_server.django_database,
    ),
    "redis": with_extra(
        "redis.RedisStore", "redis://127.0.0.1:{port}/0", driver="redis", server=redis_server
    ),
    "valkey": with_extra(
        "redis.RedisStore", "redis://127.0.0.1:{port}/0", driver="redis", server=valkey_server
    ),
    "mongodb": with_extra(
        "mongodb.MongoDBStore",
        "mongodb://127.0.0.1:{port}/sessions",
        options={"socketTimeoutMS": PATIENCE * 1000},
        driver="pymongo",
        server=mongodb_server,
        impatient={"serverSelectionTimeoutMS": 300},
    ),
    "dynamodb": with_extra(
        "dynamodb.DynamoDBStore",
        "sessions",
        options={
            "timeout": PATIENCE,
            "endpoint_url": "http://127.0.0.1:{port}",
            **CREDENTIALS,
        },
        driver="boto3",
        server=dynalite_server,
        impatient={"attempts": 1},
    ),
    "firestore": with_extra(
        "firestore.FirestoreStore",
        "sessions",
        options={"project": "demo-sessions", "timeout": PATIENCE},
        driver="google.cloud.firestore",
        server=firestore_emulator,
        environ={"FIRESTORE_EMULATOR_HOST": "127.0.0.1:{port}"},
    ),
    "libsql": with_extra(
        "libsql.LibSQLStore",
        "{folder}/sessions.db",
        options={"timeout": PATIENCE},
        driver="libsql",
    ),
    "sqld": with_extra(
        "libsql.LibSQLStore",
        "http://127.0.0.1:{port}",
        options={"timeout": PATIENCE},
        # The store takes both of its drivers or none.
        driver="libsql",
        server=sqld_server,
    ),
    "surrealkv": with_extra(
        "surrealdb.SurrealDBStore",
        "surrealkv://{folder}/sessions",
        driver="surrealdb",
        shared=False,
    ),
    "surrealdb": with_extra(
        "surrealdb.SurrealDBStore",
        "http://127.0.0.1:{port}",
        options={
            "timeout": PATIENCE,
            "username": "root",
            "password": surrealdb_server.PASSWORD,
        },
        driver="surrealdb",
        server=surrealdb_server.surrealdb_server,
    ),
}


class Running(NamedTuple):
    """Entries of SESSION_STORES and DATABASES, which JSON can carry."""

    store: dict[str, Any]
    database: dict[str, Any] | None


@contextmanager
def running(
    name: str, folder: Path, through: Callable[[int], AbstractContextManager[int]] = nullcontext
) -> Iterator[Running]:
    """The store on its server, started meanwhile; ``Missing`` where something is not installed.

    ``through``: what is to be between the two. It gets the server's port, and gives that
    which the store is to ask.
    """
    entry = STORES[name]
    if not is_installed(entry):
        raise Missing(f"{entry.driver} is not installed: pip install {entry.install}")
    if entry.server is None:
        yield Running(settings_of(entry, folder), None)
        return
    with entry.server() as server, through(server.port) as port:
        environ = {key: value.format(port=port) for key, value in entry.environ.items()}
        database = None
        if entry.database is not None:
            database = {**entry.database(server), "PORT": str(port)}
        with patch.dict(os.environ, environ):
            yield Running(settings_of(entry, folder, port), database)


def settings_of(entry: Entry, folder: Path, port: int = 0) -> dict[str, Any]:
    def fill(value: Any) -> Any:
        return value.format(folder=folder, port=port) if isinstance(value, str) else value

    return {
        "BACKEND": f"django_kvsessions.stores.{entry.backend}",
        "LOCATION": fill(entry.location),
        "OPTIONS": {option: fill(value) for option, value in entry.options.items()},
    }


def is_installed(entry: Entry) -> bool:
    if entry.driver is None:
        return True
    try:
        return find_spec(entry.driver) is not None
    except ModuleNotFoundError:
        # The parent of a dotted name is missing.
        return False
