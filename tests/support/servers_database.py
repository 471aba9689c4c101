"""Fixtures: real PostgreSQL and MariaDB servers, and databases of Django's beside its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.servers import serve
from testservers import Server
from testservers.mysql import mariadb_server
from testservers.postgres import postgres_server

__all__ = ["mariadb", "postgres"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A durable PostgreSQL that every test of the run shares: use tables of your own."""
    yield from serve(partial(postgres_server, durable=True))


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """A durable MariaDB that every test of the run shares: use tables of your own."""
    yield from serve(partial(mariadb_server, durable=True))
