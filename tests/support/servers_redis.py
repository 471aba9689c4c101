"""Fixtures: real Redis and Valkey servers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.servers import serve
from testservers import Server
from testservers.redis import cluster_server, redis_server, valkey_server

__all__ = ["cluster", "redis", "valkey"]


@pytest.fixture(scope="session")
def redis() -> Iterator[Server]:
    """A durable Redis that every test of the run shares: use prefixes of your own."""
    yield from serve(partial(redis_server, durable=True))


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """A durable Valkey that every test of the run shares: use prefixes of your own."""
    yield from serve(partial(valkey_server, durable=True))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Server]:
    """A durable Redis Cluster that every test of the run shares: use prefixes of your own."""
    yield from serve(cluster_server)
