"""Fixtures: real PostgreSQL and MariaDB servers, and databases of Django's beside its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from tests.support.databases import add_database, remove_databases, run_sql, sqlite_database
from tests.support.servers import serve
from testservers import Server
from testservers.mysql import django_database as mysql_database
from testservers.mysql import mariadb_server
from testservers.postgres import django_database as postgres_database
from testservers.postgres import postgres_server

__all__ = ["alias", "databases", "lite", "mariadb", "own_database", "postgres"]

EACH = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.servers),
    pytest.param("mariadb", marks=pytest.mark.servers),
]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A durable PostgreSQL that every test of the run shares: use tables of your own."""
    yield from serve(partial(postgres_server, durable=True))


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """A durable MariaDB that every test of the run shares: use tables of your own."""
    yield from serve(partial(mariadb_server, durable=True))


@pytest.fixture(autouse=True)
def databases(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The databases of these tests may be used, and their connections end with the test.

    Django's own test database is set up before: a thread that stays must not have
    a connection to what was there instead.
    """
    with django_db_blocker.unblock():
        yield
        connections.close_all()
        # Async methods have a thread of their own, which stays.
        asyncio.run(sync_to_async(connections.close_all)())
        remove_databases()


@pytest.fixture(params=EACH)
def alias(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each database in turn."""
    if request.param == "sqlite":
        alias = f"lite-{tmp_path}"
        add_database(alias, sqlite_database(tmp_path / "db"))
        return alias
    server = request.getfixturevalue(request.param)
    make = postgres_database if request.param == "postgres" else mysql_database
    add_database(request.param, make(server))
    return str(request.param)


@pytest.fixture
def lite(tmp_path: Path) -> str:
    alias = f"lite-{tmp_path}"
    add_database(alias, sqlite_database(tmp_path / "db"))
    return alias


@pytest.fixture(params=EACH)
def own_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each database in turn, with nothing in it."""
    name = f"d{uuid.uuid4().hex}"
    if request.param == "sqlite":
        add_database(name, sqlite_database(tmp_path / "db"))
        return name
    server = request.getfixturevalue(request.param)
    make = postgres_database if request.param == "postgres" else mysql_database
    add_database(str(request.param), make(server))
    run_sql(str(request.param), f"CREATE DATABASE {name}")
    add_database(name, {**make(server), "NAME": name})
    return name
