"""RedisStore on real servers: Redis and Valkey."""

from __future__ import annotations

import uuid
from functools import partial

import pytest

from django_kvsessions.stores.redis import RedisStore
from django_kvsessions.testing import MakeStore, StoreConformance
from tests.servers_redis import cluster, redis, valkey
from testservers import Server

__all__ = ["cluster", "redis", "valkey"]

pytestmark = pytest.mark.servers


class RedisConformance(StoreConformance):
    removes_expired_itself = True


class TestRedis(RedisConformance):
    @pytest.fixture
    def make_store(self, redis: Server) -> MakeStore:
        return partial(RedisStore, url(redis), prefix=uuid.uuid4().hex)


class TestValkey(RedisConformance):
    @pytest.fixture
    def make_store(self, valkey: Server) -> MakeStore:
        return partial(RedisStore, url(valkey), prefix=uuid.uuid4().hex)


class TestCluster(RedisConformance):
    @pytest.fixture
    def make_store(self, cluster: Server) -> MakeStore:
        return partial(RedisStore, url(cluster), cluster=True, prefix=uuid.uuid4().hex)


def url(server: Server, database: int = 0) -> str:
    return f"redis://127.0.0.1:{server.port}/{database}"
