"""RedisStore on real servers: Redis, Valkey and a Redis Cluster."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Hashable, Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import freezegun
import pytest
import redis as driver
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

import django_kvsessions.stores.redis
from benchmarks.sample import session_data, session_key
from django_kvsessions.serializers import MessagePackSerializer
from django_kvsessions.stores import make_store as configured
from django_kvsessions.stores.base import Record, Store, StoreCorrupted, StoreUnavailable
from django_kvsessions.stores.redis import RedisStore
from django_kvsessions.testing import Cutting, MakeStore, Proxy, StoreConformance
from django_kvsessions.testing.cuts import Cut
from tests.support.outages import Outage, assert_restarts_are_not_noticed, killing, visiting
from tests.support.servers import require_driver, serve, until
from tests.support.servers_redis import cluster, redis, valkey
from testservers import Server, free_port
from testservers.redis import command, redis_server, says, valkey_server

__all__ = ["cluster", "redis", "valkey"]

KEY = b"k" * 32
OTHER = b"o" * 32
ALICE = b"a" * 16
BOB = b"b" * 16
SECRET = "s3cret"


def url(server: Server, user: str = "") -> str:
    return f"redis://{user}127.0.0.1:{server.port}/0"


def record(data: bytes = b"data", owner: bytes = b"", seconds: float = 600) -> Record:
    revision = int.from_bytes(os.urandom(8), "big") >> 1
    return Record(data, time.time() + seconds, revision, owner)


class RedisConformance(StoreConformance):
    pytestmark = pytest.mark.servers

    removes_expired_itself = True
    kills = 2


class FewerConformance(RedisConformance):
    """The same code again on another server."""

    processes = 2
    process_keys = 30
    process_increments = 10
    kills = 1


def cutting_before(server: Server, make_store: partial[RedisStore]) -> Iterator[Cutting]:
    with Proxy(("127.0.0.1", server.port)) as proxy:
        place = f"redis://127.0.0.1:{proxy.port}/0"
        yield partial(RedisStore, place, **make_store.keywords), proxy


class TestRedis(RedisConformance):
    processes = 4

    @pytest.fixture
    def make_store(self, redis: Server) -> MakeStore:
        return partial(RedisStore, url(redis), prefix=uuid.uuid4().hex)

    @pytest.fixture
    def outage(self, redis: Server) -> Outage:
        return killing(redis)

    @pytest.fixture
    def cutting(self, redis: Server, make_store: partial[RedisStore]) -> Iterator[Cutting]:
        yield from cutting_before(redis, make_store)


class TestValkey(FewerConformance):
    @pytest.fixture
    def make_store(self, valkey: Server) -> MakeStore:
        return partial(RedisStore, url(valkey), prefix=uuid.uuid4().hex)

    @pytest.fixture
    def cutting(self, valkey: Server, make_store: partial[RedisStore]) -> Iterator[Cutting]:
        yield from cutting_before(valkey, make_store)

    @pytest.fixture
    def outage(self, valkey: Server) -> Outage:
        return killing(valkey)


class TestCluster(FewerConformance):
    @pytest.fixture
    def make_store(self, cluster: Server) -> MakeStore:
        return partial(RedisStore, url(cluster), cluster=True, prefix=uuid.uuid4().hex)

    @pytest.fixture
    def outage(self, cluster: Server) -> Outage:
        return killing(cluster)


@pytest.fixture(params=[redis_server, valkey_server], ids=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A durable server of the test's own, to be mistreated."""
    yield from serve(partial(request.param, durable=True))


@pytest.fixture
def store(server: Server) -> Iterator[RedisStore]:
    store = RedisStore(url(server), client_name="mine")
    yield store
    store.close()


@pytest.fixture
def hasty(server: Server) -> Iterator[RedisStore]:
    store = RedisStore(url(server), socket_timeout=0.3)
    yield store
    store.close()


def connected(client: driver.Redis) -> int:
    """How many connections the store has at this moment."""
    return [each["name"] for each in client.client_list()].count("mine")


@pytest.fixture
def client(server: Server) -> Iterator[driver.Redis]:
    """A look at the server from the side."""
    with driver.Redis(port=server.port) as client:
        yield client


def awaited(function: Callable[..., Coroutine[object, None, object]], *args: object) -> object:
    return asyncio.run(function(*args))


def giving(client: object) -> Callable[[], object]:
    return lambda: client


def calls(store: Store) -> list[Callable[[], Any]]:
    return [lambda: store.load(KEY), *writes(store)]


def writes(store: Store) -> list[Callable[[], Any]]:
    """Every change, of a key that is there and of one that is not."""
    return [
        lambda: store.create(OTHER, record()),
        lambda: store.replace(KEY, record()),
        lambda: store.replace(OTHER, record()),
        lambda: store.touch(KEY, time.time() + 900),
        lambda: store.touch(OTHER, time.time() + 900),
        lambda: store.delete(KEY),
        lambda: store.delete(OTHER),
    ]


class LosingProxy:
    """Passes everything on, but loses the next answer that it is told to lose."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.losing = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            backend = socket.create_connection(("127.0.0.1", self.target))
            for pump in (self.ask, self.answer):
                threading.Thread(target=pump, args=(client, backend), daemon=True).start()

    def ask(self, client: socket.socket, backend: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                backend.sendall(data)
            backend.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def answer(self, client: socket.socket, backend: socket.socket) -> None:
        with client, backend:
            try:
                while data := backend.recv(65536):
                    if self.losing:
                        self.losing -= 1
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    client.sendall(data)
            except OSError:
                pass


@pytest.fixture
def proxy(server: Server) -> Iterator[LosingProxy]:
    proxy = LosingProxy(server.port)
    yield proxy
    proxy.listener.close()


@pytest.mark.servers
class TestFaults:
    def test_a_paused_server_is_unavailable_within_the_timeout(
        self, server: Server, hasty: RedisStore
    ) -> None:
        hasty.create(KEY, record())

        async def twice() -> None:
            # One with a connection already there, one that has to connect.
            assert await hasty.aload(KEY)
            server.pause()
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="Timeout"):
                    await hasty.aload(KEY)
            server.resume()
            assert await hasty.aload(KEY)

        server.pause()
        started = time.monotonic()
        for call in calls(hasty):
            with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port}.*LOCATION"):
                call()
        assert time.monotonic() - started < 10 * 0.3 + 5
        server.resume()
        hasty.create(KEY, record())
        asyncio.run(twice())

    def test_by_default_a_request_waits_for_seconds_at_most(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}")
            started = time.monotonic()
            with pytest.raises(StoreUnavailable, match="Timeout"):
                store.load(KEY)
            assert time.monotonic() - started < 10

    def test_a_restart_between_two_requests_is_not_noticed(
        self, server: Server, store: RedisStore
    ) -> None:
        assert_restarts_are_not_noticed(server, store)

    @pytest.mark.parametrize("how", ["replica", "too few replicas"])
    def test_a_server_made_read_only_is_unavailable_not_a_logout(
        self, server: Server, store: RedisStore, client: driver.Redis, how: str
    ) -> None:
        kept = record(b"kept", owner=ALICE)
        store.create(KEY, kept)
        if how == "replica":
            client.replicaof("127.0.0.1", free_port())
        else:
            client.config_set("min-replicas-to-write", 1)
        for write in writes(store):
            with pytest.raises(StoreUnavailable, match=r"(?i)read only|NOREPLICAS"):
                write()
        if how == "replica":
            command(server.port, "REPLICAOF NO ONE")
        else:
            client.config_set("min-replicas-to-write", 0)
        assert store.load(KEY) == kept
        assert store.replace(KEY, record(b"new"))

    def test_a_full_server_is_unavailable_and_keeps_what_it_has(
        self, store: RedisStore, client: driver.Redis
    ) -> None:
        kept = record(b"kept", owner=ALICE)
        store.create(KEY, kept)
        client.config_set("maxmemory", 1)
        growing = writes(store)[:2]
        for write in growing:
            with pytest.raises(StoreUnavailable, match=r"OOM|maxmemory"):
                write()
        assert store.load(KEY) == kept
        assert store.delete(KEY)

    def test_a_write_whose_answer_was_lost_knows_its_own_success(
        self, store: RedisStore, proxy: LosingProxy
    ) -> None:
        lossy = RedisStore(f"redis://127.0.0.1:{proxy.port}")
        first, second, third = (record(owner=ALICE) for _ in range(3))
        lossy.load(KEY)
        proxy.losing = 1
        assert lossy.create(KEY, first) is True
        assert store.load(KEY) == first
        proxy.losing = 1
        assert lossy.replace(KEY, second, expected=first.revision) is True
        assert store.load(KEY) == second
        assert proxy.losing == 0

        async def asynchronously() -> None:
            await lossy.aload(KEY)
            proxy.losing = 1
            assert await lossy.areplace(KEY, third, expected=second.revision) is True
            proxy.losing = 1
            assert await lossy.acreate(OTHER, first) is True

        asyncio.run(asynchronously())
        assert (store.load(KEY), store.load(OTHER)) == (third, first)
        assert proxy.losing == 0
        lossy.close()

    def test_a_repeated_write_does_not_take_another_for_its_own(
        self, store: RedisStore, proxy: LosingProxy
    ) -> None:
        lossy = RedisStore(f"redis://127.0.0.1:{proxy.port}")
        theirs = record(b"theirs")
        store.create(KEY, theirs)
        lossy.load(KEY)
        # The very same record, revision included, from somebody else: it does not say whether
        # ours was there before.
        proxy.losing = 1
        with pytest.raises(StoreUnavailable, match="does not say"):
            lossy.create(KEY, theirs)
        proxy.losing = 1
        with pytest.raises(StoreUnavailable, match="does not say"):
            lossy.replace(KEY, theirs, expected=theirs.revision - 1)
        assert proxy.losing == 0
        lossy.close()

    def test_answers_lost_twice_are_unavailable(
        self, store: RedisStore, proxy: LosingProxy
    ) -> None:
        lossy = RedisStore(f"redis://127.0.0.1:{proxy.port}")
        proxy.losing = 2
        with pytest.raises(StoreUnavailable):
            lossy.create(KEY, record())
        lossy.close()

    def test_an_interrupted_request_leaves_no_answer_for_the_next(
        self, server: Server, store: RedisStore
    ) -> None:
        async def cancelled() -> None:
            mine = record(b"mine")
            await store.acreate(KEY, mine)
            await store.acreate(OTHER, record(b"theirs"))
            for delay in (0, 0.0001, 0.0002, 0.0005, 0.001):
                task = asyncio.ensure_future(store.aload(OTHER))
                await asyncio.sleep(delay)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert await store.aload(KEY) == mine
            server.pause()
            task = asyncio.ensure_future(store.aload(OTHER))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server.resume()
            assert await store.aload(KEY) == mine

        asyncio.run(cancelled())

    def test_scripts_that_the_server_forgot_are_sent_again(
        self, server: Server, store: RedisStore
    ) -> None:
        store.create(KEY, record())
        command(server.port, "SCRIPT FLUSH")
        assert store.replace(KEY, record(b"new", owner=ALICE))
        assert [key for key, _ in store.scan_owner(ALICE)] == [KEY]

    def test_kills_and_pauses_log_nobody_out_and_lose_no_acknowledged_change(
        self, server: Server
    ) -> None:
        settings = {
            "default": {
                "BACKEND": "django_kvsessions.stores.redis.RedisStore",
                "LOCATION": url(server),
                "OPTIONS": {"socket_timeout": 0.2},
            }
        }
        with override_settings(SESSION_STORES=settings), visiting(4) as failures:
            for _ in range(3):
                time.sleep(0.2)
                server.kill()
                time.sleep(0.1)
                server.start()
                time.sleep(0.2)
                server.pause()
                time.sleep(0.3)
                server.resume()
                time.sleep(0.1)
                server.restart()
            time.sleep(0.2)
        assert all(failures)

    def test_a_visitor_gets_errors_and_stays_logged_in(self, server: Server) -> None:
        settings = {
            "default": {
                "BACKEND": "django_kvsessions.stores.redis.RedisStore",
                "LOCATION": url(server),
                "OPTIONS": {"socket_timeout": 0.3},
            }
        }
        with override_settings(
            SESSION_STORES=settings,
            MIDDLEWARE=["django_kvsessions.middleware.SessionMiddleware"],
            ROOT_URLCONF=__name__,
        ):
            visitor = Client(raise_request_exception=False)
            for name in ("known", "blind"):
                assert visitor.get(f"/{name}").status_code == 200
            cookie = visitor.cookies["sessionid"].value
            for fail, heal in (
                (server.pause, server.resume),
                (server.kill, server.start),
                (server.stop, server.start),
            ):
                fail()
                for name in ("known", "blind"):
                    response = visitor.get(f"/{name}")
                    assert response.status_code >= 500
                    assert not response.cookies
                heal()
                assert visitor.get("/known").content == b"1"
                assert visitor.cookies["sessionid"].value == cookie


def known(request: HttpRequest) -> HttpResponse:
    """Reads the session, and keeps what it finds."""
    return HttpResponse(str(request.session.setdefault("visits", 1)))


def blind(request: HttpRequest) -> HttpResponse:
    """Writes at the end of the request."""
    request.session["at"] = time.time()
    return HttpResponse()


urlpatterns = [path("known", known), path("blind", blind)]


@pytest.mark.servers
class TestFailover:
    @pytest.fixture
    def pair(self) -> Iterator[tuple[Server, Server]]:
        for primary in serve(partial(redis_server, "--repl-diskless-sync-delay", "0")):
            replicates = ("--replicaof", f"127.0.0.1 {primary.port}")
            for replica in serve(partial(redis_server, *replicates)):
                until(partial(says, replica, "INFO", b"master_link_status:up"))
                yield primary, replica

    def test_no_replica_answers_whatever_the_order(self, pair: tuple[Server, Server]) -> None:
        primary, replica = pair
        store = RedisStore([url(replica), url(primary)])
        kept = record()
        assert store.create(KEY, kept)
        command(replica.port, "REPLICAOF 127.0.0.1 1")  # it falls behind
        assert store.delete(KEY)
        assert store.load(KEY) is None
        assert RedisStore([url(replica), url(primary)]).load(KEY) is None

    def test_a_promoted_replica_takes_over(self, pair: tuple[Server, Server]) -> None:
        primary, replica = pair
        store = RedisStore([url(primary), url(replica)])
        kept = record()
        store.create(KEY, kept)
        until(lambda: b"slave0" in (info := command(primary.port, "INFO")) and b"lag=0" in info)
        until(lambda: command(replica.port, "DBSIZE").startswith(b":1"))
        primary.kill()
        for call in calls(store):
            with pytest.raises(StoreUnavailable, match="primary"):
                call()
        command(replica.port, "REPLICAOF NO ONE")
        assert store.load(KEY) == kept
        assert asyncio.run(store.aload(KEY)) == kept
        assert store.replace(KEY, record(b"new"))

    def test_a_demoted_primary_is_left(self, pair: tuple[Server, Server]) -> None:
        primary, replica = pair
        store = RedisStore([url(primary), url(replica)])
        store.create(KEY, record())
        until(lambda: command(replica.port, "DBSIZE").startswith(b":1"))
        command(replica.port, "REPLICAOF NO ONE")
        command(primary.port, f"REPLICAOF 127.0.0.1 {replica.port}")
        assert store.replace(KEY, record(b"new"))
        assert asyncio.run(store.areplace(KEY, record(b"newer")))


@pytest.mark.servers
class TestServer:
    """What the store leaves on the server, and how it gets there."""

    @pytest.fixture
    def server(self, redis: Server) -> Server:
        return redis

    @pytest.fixture(autouse=True)
    def _empty(self, client: driver.Redis) -> None:
        client.flushall()

    def test_the_server_removes_what_has_expired(
        self, store: RedisStore, client: driver.Redis
    ) -> None:
        store.create(KEY, record(seconds=0.2, owner=ALICE))
        store.create(OTHER, record(owner=BOB))
        store.touch(OTHER, time.time() + 0.2)
        assert len(list(client.scan_iter(_type="STRING"))) == 2
        until(lambda: not list(client.scan_iter(_type="STRING")))

    def test_a_touch_moves_every_expiry_and_rewrites_nothing(
        self, store: RedisStore, client: driver.Redis
    ) -> None:
        kept = record(b"x" * 10_000, owner=ALICE, seconds=100)
        store.create(KEY, kept)
        before = client.info("stats")["total_net_input_bytes"]
        assert store.touch(KEY, time.time() + 1000)
        assert client.info("stats")["total_net_input_bytes"] - before < 5_000
        assert client.dbsize() == 2
        assert all(900_000 < client.pttl(name) <= 1_100_000 for name in client.scan_iter())
        loaded = store.load(KEY)
        assert loaded is not None
        assert loaded[0::2] == kept[0::2]

    def test_the_index_of_an_owner_cleans_itself(
        self, store: RedisStore, client: driver.Redis
    ) -> None:
        store.create(KEY, record(owner=ALICE, seconds=0.1))
        store.create(OTHER, record(owner=ALICE, seconds=500))
        [index] = client.scan_iter(_type="ZSET")
        assert client.zcard(index) == 2
        # It goes by whole seconds.
        time.sleep(1.15)
        store.replace(OTHER, record(owner=ALICE, seconds=600))
        assert client.zcard(index) == 1
        # It lives as long as the longest, and somewhat longer.
        assert 600_000 < client.pttl(index) <= 660_000
        store.delete(OTHER)
        until(lambda: client.dbsize() == 0)

    def test_the_index_lists_a_session_as_long_as_it_lives(self, store: RedisStore) -> None:
        """However its life was prolonged."""
        with freezegun.freeze_time(real_asyncio=True) as clock:
            store.create(KEY, record(owner=ALICE, seconds=100))
            for number in range(40):
                clock.tick(60)
                # Others make the index drop what has expired.
                store.create(b"%032d" % number, record(owner=ALICE, seconds=10))
                if number % 3:
                    assert store.touch(KEY, time.time() + 100)
                else:
                    assert store.replace(KEY, record(owner=ALICE, seconds=100 + number))
                assert KEY in [key for key, _ in store.scan_owner(ALICE)]
            store.delete(KEY)
            assert [key for key, _ in store.scan_owner(ALICE)] == [b"%032d" % 39]

    def test_a_session_that_changes_hands_is_listed_by_its_owner_alone(
        self, store: RedisStore
    ) -> None:
        store.create(KEY, record())
        for owner in (ALICE, BOB, ALICE, b""):
            assert store.replace(KEY, record(owner=owner))
            assert store.touch(KEY, time.time() + 10_000)
            listed = [name for name in (ALICE, BOB) if [*store.scan_owner(name)]]
            assert listed == [name for name in (owner,) if name]

    def test_owners_that_share_an_index_are_told_apart(self, store: RedisStore) -> None:
        owners = [ALICE, ALICE[:-1] + b"b", ALICE[:8] + b"c" * 8, ALICE[:1] + b"d" * 15]
        for number, owner in enumerate(owners):
            store.create(b"%032d" % number, record(owner=owner))
        for number, owner in enumerate(owners):
            assert [key for key, _ in store.scan_owner(owner)] == [b"%032d" % number]

    def test_a_session_takes_little_more_than_in_django_redis(self) -> None:
        """What it takes more is the index by user, which Django's cache engine does not have."""
        django_redis = {"BACKEND": "django_redis.cache.RedisCache", "TIMEOUT": 1209600}
        more = {}
        for server in serve(redis_server):
            caches_there = {"default": {**django_redis, "LOCATION": url(server)}}
            with override_settings(CACHES=caches_there), driver.Redis(port=server.port) as client:
                store = RedisStore(url(server))
                for owned, number in ((True, 10_000), (False, 2_500)):
                    taken = []
                    for ours in (True, False):
                        client.flushall()
                        before = client.info("memory")["used_memory"]
                        for at in range(number):
                            data = session_data(at)
                            if not owned:
                                data = {name: data[name] for name in data if "_auth" not in name}
                            if ours:
                                key = blake2b(b"%d" % at, digest_size=32).digest()
                                owner = blake2b(key, digest_size=16).digest() if owned else b""
                                # The package adds some 30 bytes that bind it to its key.
                                packed = MessagePackSerializer().dumps(data) + bytes(30)
                                store.create(key, record(packed, owner, 1209600))
                            else:
                                name = f"django.contrib.sessions.cache{session_key(at)}"
                                caches["default"].set(name, data)
                        # The server moves what it has grown out of by and by.
                        time.sleep(1)
                        taken.append(client.info("memory")["used_memory"] - before)
                    more[owned] = (taken[0] - taken[1]) / number
                store.close()
                caches.close_all()
        assert more[True] <= 150
        assert more[False] <= 50

    def test_an_entry_of_the_index_counts_only_with_its_record(self, store: RedisStore) -> None:
        store.create(KEY, record(owner=ALICE))
        store.create(OTHER, record(owner=ALICE))
        store.replace(KEY, record(owner=BOB))
        assert [key for key, _ in store.scan_owner(ALICE)] == [OTHER]
        assert [key for key, _ in store.scan_owner(BOB)] == [KEY]

    @pytest.mark.parametrize("prefix", ["a", "a*", "[a-z]", "a?\\", "ä{b}"])
    def test_sites_share_a_server_by_prefix_and_version(self, server: Server, prefix: str) -> None:
        stores = [
            RedisStore(url(server), prefix=prefix),
            RedisStore(url(server), prefix=prefix, version=2),
            RedisStore(url(server), prefix="ab"),
        ]
        for number, store in enumerate(stores):
            assert store.create(KEY, record(b"%d" % number, owner=ALICE))
        for number, store in enumerate(stores):
            assert [found.data for _, found in store.scan()] == [b"%d" % number]
            assert [found.data for _, found in store.scan_owner(ALICE)] == [b"%d" % number]
            assert store.stats().live == 1
            store.close()

    @pytest.mark.parametrize("value", ["text", "hash"])
    def test_a_value_of_somebody_else_is_damage_not_an_absent_session(
        self, store: RedisStore, client: driver.Redis, value: str
    ) -> None:
        store.create(KEY, record())
        [name] = client.scan_iter()
        client.delete(name)
        if value == "text":
            client.set(name, "other")
        else:
            client.hset(name, "a", "b")
        with pytest.raises(StoreCorrupted, match="prefix"):
            store.load(KEY)

    def test_an_event_loop_leaves_no_connection_behind(
        self, store: RedisStore, client: driver.Redis
    ) -> None:
        async def work() -> None:
            await store.acreate(KEY, record())
            await asyncio.gather(*(store.aload(KEY) for _ in range(10)))
            assert connected(client) > 1

        asyncio.run(work())
        asyncio.run(work())
        until(lambda: connected(client) == 0)

    def test_close_lets_go_and_the_next_use_connects_again(
        self, store: RedisStore, client: driver.Redis
    ) -> None:
        async def work() -> None:
            await store.acreate(KEY, record())
            await store.aclose()
            until(lambda: connected(client) == 0)
            assert await store.aload(KEY)

        asyncio.run(work())
        assert store.load(KEY)
        store.close()
        until(lambda: connected(client) == 0)
        assert store.load(KEY)

    def test_more_threads_and_tasks_than_connections_wait(
        self, server: Server, client: driver.Redis
    ) -> None:
        store = RedisStore(url(server), max_connections=2)
        store.create(KEY, record())
        found: list[object] = []
        threads = [
            threading.Thread(target=lambda: found.extend(store.load(KEY) for _ in range(50)))
            for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        async def many() -> None:
            found.extend(await asyncio.gather(*(store.aload(KEY) for _ in range(500))))

        asyncio.run(many())
        assert len(found) == 1000
        assert all(found)
        store.close()

    def test_a_socket_and_a_database_of_its_own(self) -> None:
        for server in serve(partial(redis_server, "--unixsocket", "redis.sock")):
            place = server.folder / "redis.sock"
            store = RedisStore(f"unix://{place}?db=3")
            store.create(KEY, record())
            assert store.load(KEY)
            assert asyncio.run(store.aload(KEY))
            with driver.Redis(port=server.port, db=3) as client:
                assert client.dbsize() == 1
            server.stop()
            with pytest.raises(StoreUnavailable, match=str(place)):
                store.load(KEY)

    @pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
    def test_tls(self, tmp_path: Path, scheme: str) -> None:
        certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
        if shutil.which("openssl") is None:
            pytest.fail("openssl is not installed: apt-get install openssl")
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", private, "-out", certificate),
            ],
            check=True,
            capture_output=True,
        )
        port = free_port()
        options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
        options += ["--tls-cert-file", str(certificate), "--tls-key-file", str(private)]
        for _ in serve(partial(redis_server, *options)):
            store = RedisStore(f"{scheme}://127.0.0.1:{port}", ssl_ca_certs=str(certificate))
            store.create(KEY, record())
            assert store.load(KEY)
            assert asyncio.run(store.aload(KEY))
            with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
                RedisStore(f"{scheme}://127.0.0.1:{port}").load(KEY)
            store.close()

    def test_username_and_password(self) -> None:
        password = "p@s/s:w#?rd"
        options = ["--user", "web", "on", f">{password}", "~sessions:*", "+@all"]
        for server in serve(partial(redis_server, *options, "--requirepass", SECRET)):
            stores = [
                RedisStore(url(server, "web:p%40s%2Fs%3Aw%23%3Frd@")),
                RedisStore(url(server), username="web", password=password),
                RedisStore(url(server, f":{SECRET}@")),
            ]
            for store in stores:
                store.create(KEY, record())
                assert store.load(KEY)
                assert asyncio.run(store.aload(KEY))
                store.close()
            wrong = [
                RedisStore(url(server)),
                RedisStore(url(server, ":s3cretx@")),
                RedisStore(url(server), username="web", password="s3cretx"),
            ]
            for store in wrong:
                for call in (partial(store.load, KEY), lambda s=store: asyncio.run(s.aload(KEY))):
                    with pytest.raises(StoreUnavailable, match="username or password") as raised:
                        call()
                    assert f"127.0.0.1:{server.port}" in str(raised.value)
                    assert "s3cretx" not in f"{raised.value} {raised.value.__cause__}"
                store.close()

    def test_the_acl_of_the_documentation_is_enough(self) -> None:
        rights = documented_acl()
        assert "+@all" not in rights
        for server in serve(partial(redis_server, "--requirepass", "admin", durable=True)):
            with driver.Redis(port=server.port, password="admin") as admin:
                admin.execute_command("ACL", "SETUSER", "web", "on", f">{SECRET}", *rights)
                store = RedisStore(url(server), username="web", password=SECRET, prefix="mysite")
                mine = record(owner=ALICE)
                assert store.create(KEY, mine) is True
                assert store.create(KEY, mine) is False
                assert store.touch(KEY, time.time() + 9000)
                assert asyncio.run(store.areplace(KEY, record(owner=BOB)))
                assert [key for key, _ in store.scan()] == [KEY]
                assert [key for key, _ in store.scan_owner(BOB)] == [KEY]
                assert store.stats().live == 1
                assert store.check_server(alias="web") == []
                assert store.delete(KEY) is True
                several = [url(server), f"redis://127.0.0.1:{free_port()}"]
                store.close()
                lists = RedisStore(several, username="web", password=SECRET, prefix="mysite")
                assert lists.create(KEY, mine)
                lists.close()

    def test_a_permission_that_is_missing_is_not_called_a_wrong_password(self) -> None:
        rights = ["~sessions:*", "+@all", "-evalsha", "-eval"]
        for server in serve(partial(redis_server, "--user", "web", "on", f">{SECRET}", *rights)):
            here = url(server, f"web:{SECRET}@")
            store, elsewhere = RedisStore(here), RedisStore(here, prefix="elsewhere")
            calls: list[tuple[Callable[[], Any], str]] = [
                (partial(store.replace, KEY, record()), "eval"),
                (partial(awaited, store.areplace, KEY, record()), "eval"),
                (partial(elsewhere.load, KEY), "keys"),
                (partial(awaited, elsewhere.aload, KEY), "keys"),
            ]
            for call, what in calls:
                with pytest.raises(StoreUnavailable, match=rf"denies.*{what}") as raised:
                    call()
                assert "password" not in str(raised.value)
            store.close()
            elsewhere.close()

    def test_credentials_that_change_come_from_a_provider(self) -> None:
        asked: list[int] = []

        class Provider(driver.CredentialProvider):
            def get_credentials(self) -> tuple[str, str]:
                asked.append(1)
                return "default", SECRET

        for server in serve(partial(redis_server, "--requirepass", SECRET)):
            store = RedisStore(url(server), credential_provider=Provider())
            assert store.create(KEY, record())
            assert asyncio.run(store.aload(KEY))
            assert len(asked) == 2
            store.close()

    def test_each_change_is_one_round_trip(self, server: Server) -> None:
        with Proxy(("127.0.0.1", server.port)) as proxy:
            store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0")
            # Scripts are known by their digests from then on.
            for _ in range(2):
                changes: list[Callable[[], bool]] = [
                    lambda: store.create(KEY, record(owner=ALICE)),
                    lambda: store.replace(KEY, record(owner=ALICE)),
                    lambda: store.touch(KEY, time.time() + 610),
                    lambda: store.delete(KEY),
                ]
                trips = []
                for change in changes:
                    whole = RoundTrips()
                    with proxy.arm(whole):
                        assert change() is True
                    trips.append(whole.trips)
            assert trips == [1, 1, 1, 1]
            assert [*store.scan_owner(ALICE)] == []
            store.close()

    def test_a_deleted_session_leaves_nothing_behind(
        self, store: RedisStore, client: driver.Redis
    ) -> None:
        store.create(KEY, record(owner=ALICE))
        store.create(OTHER, record())
        assert store.delete(KEY)
        assert store.delete(OTHER)
        assert client.dbsize() == 0


class RoundTrips(Cut):
    """Counts them, and cuts nothing."""

    trips = 0
    is_answered = True

    def requests(self, connection: Hashable, size: int) -> int | None:
        self.trips += self.is_answered
        self.is_answered = False
        return super().requests(connection, size)

    def answers(self, connection: Hashable, size: int) -> int | None:
        self.is_answered = True
        return super().answers(connection, size)


def documented_acl() -> list[str]:
    text = (Path(__file__).parents[2] / "docs/stores/redis.md").read_text()
    [line] = re.findall(r"^ACL SETUSER (.*)$", text, re.MULTILINE)
    return [word for word in line.split() if word[0] in "~+"]


@pytest.mark.servers
class TestCheckServer:
    @pytest.fixture
    def server(self, redis: Server) -> Server:
        return redis

    @pytest.fixture(autouse=True)
    def _as_it_was(self, client: driver.Redis) -> Iterator[None]:
        names = ("maxmemory-policy", "save", "appendonly")
        before = {name: str(client.config_get(name)[name]) for name in names}
        yield
        for name, value in before.items():
            client.config_set(name, value)

    def ids(self, store: RedisStore) -> list[str | None]:
        messages = store.check_server(alias="web")
        assert all("SESSION_STORES['web']" in message.msg for message in messages)
        assert all(message.hint for message in messages)
        return [message.id for message in messages]

    def test_a_durable_server_that_never_evicts_is_well(self, store: RedisStore) -> None:
        assert self.ids(store) == []

    @pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "volatile-random"])
    def test_a_server_set_to_evict(
        self, store: RedisStore, client: driver.Redis, policy: str
    ) -> None:
        client.config_set("maxmemory-policy", policy)
        assert self.ids(store) == ["kvsessions.W140"]

    def test_a_server_without_persistence(self, store: RedisStore, client: driver.Redis) -> None:
        client.config_set("appendonly", "no")
        assert self.ids(store) == ["kvsessions.W141"]
        client.config_set("save", "3600 1")
        assert self.ids(store) == []

    def test_a_cluster_is_looked_at_too(self, cluster: Server) -> None:
        store = RedisStore(url(cluster), cluster=True)
        assert self.ids(store) == []
        store.close()

    def test_a_server_that_does_not_tell_is_not_guessed_at(self) -> None:
        for server in serve(partial(redis_server, "--rename-command", "CONFIG", "")):
            store = RedisStore(url(server))
            assert self.ids(store) == []
            store.close()

    def test_an_unreachable_server_is_said_to_be(self) -> None:
        with pytest.raises(StoreUnavailable):
            RedisStore(f"redis://127.0.0.1:{free_port()}").check_server(alias="web")


@pytest.mark.servers
class TestClients:
    """Connections that the project brings along."""

    @pytest.fixture
    def server(self, redis: Server) -> Server:
        return redis

    def use(self, store: RedisStore) -> None:
        mine = record(bytes(range(256)), owner=ALICE)
        store.delete(KEY)
        assert store.create(KEY, mine)
        assert store.create(KEY, mine) is False
        assert store.load(KEY) == mine
        assert asyncio.run(store.aload(KEY)) == mine
        assert dict(store.scan()) == {KEY: mine}
        assert dict(store.scan_owner(ALICE)) == {KEY: mine}
        store.close()
        assert store.load(KEY) == mine
        store.close()

    @pytest.mark.parametrize(
        "backend", ["django.core.cache.backends.redis.RedisCache", "django_redis.cache.RedisCache"]
    )
    def test_an_alias_in_caches(self, server: Server, backend: str) -> None:
        cache = {"BACKEND": backend, "LOCATION": url(server)}
        with override_settings(CACHES={"default": cache, "web": cache}):
            self.use(RedisStore(client="web", prefix=uuid.uuid4().hex))
            caches.close_all()

    def test_a_client_or_a_pool_even_one_that_decodes(self, server: Server) -> None:
        with driver.Redis(port=server.port, decode_responses=True) as client:
            for given in (client, client.connection_pool):
                self.use(RedisStore(client=giving(given), prefix=uuid.uuid4().hex))

    def test_the_newest_protocol(self, server: Server) -> None:
        with driver.Redis(port=server.port, protocol=3) as client:
            self.use(RedisStore(client=lambda: client, prefix=uuid.uuid4().hex))
            assert RedisStore(client=lambda: client).check_server(alias="web") == []
        self.use(RedisStore(url(server), protocol=3, prefix=uuid.uuid4().hex))

    def test_clients_of_valkey_py(self, valkey: Server) -> None:
        of_valkey = require_driver("valkey")
        options = {"port": valkey.port}
        with of_valkey.Valkey(**options) as client:
            for given in (client, client.connection_pool):
                self.use(RedisStore(client=giving(given), prefix=uuid.uuid4().hex))
        clients: dict[str, Any] = {
            "client": lambda: of_valkey.Valkey(**options),
            "async_client": lambda: of_valkey.asyncio.Valkey(**options),
        }
        self.use(RedisStore(**clients, prefix=uuid.uuid4().hex))
        options = {"port": free_port()}
        store = RedisStore(**clients)
        for call in (lambda: store.load(KEY), lambda: asyncio.run(store.aload(KEY))):
            with pytest.raises(StoreUnavailable, match=r"OPTIONS\['client'\].*does not answer"):
                call()

    def test_a_server_that_forgot_the_scripts_of_a_valkey_client(self, valkey: Server) -> None:
        of_valkey = require_driver("valkey")
        with of_valkey.Valkey(port=valkey.port) as client:
            store = RedisStore(client=lambda: client, prefix=uuid.uuid4().hex)
            assert store.create(KEY, record(owner=ALICE))
            assert store.replace(KEY, record(owner=ALICE))
            client.script_flush()
            assert store.replace(KEY, record(owner=ALICE))
            assert store.delete(KEY)

    def test_urls_of_valkey(self, valkey: Server) -> None:
        store = RedisStore(f"valkey://127.0.0.1:{valkey.port}/0", prefix=uuid.uuid4().hex)
        assert store.create(KEY, record())
        assert asyncio.run(store.aload(KEY))
        store.close()

    def test_an_async_client_for_each_event_loop(
        self, server: Server, client: driver.Redis
    ) -> None:
        made: list[Any] = []

        def make() -> Any:
            made.append(driver.asyncio.Redis(port=server.port))
            return made[-1]

        self.use(
            RedisStore(
                client=lambda: driver.Redis(port=server.port),
                async_client=make,
                prefix=uuid.uuid4().hex,
            )
        )
        assert len(made) == 1

    def test_a_cluster(self, cluster: Server) -> None:
        def make(**options: Any) -> Any:
            return driver.RedisCluster(host="127.0.0.1", port=cluster.port, **options)

        with make() as client:
            self.use(RedisStore(client=lambda: client, prefix=uuid.uuid4().hex))
        with (
            make(decode_responses=True) as client,
            pytest.raises(ImproperlyConfigured, match="decode_responses"),
        ):
            RedisStore(client=lambda: client).load(KEY)

    def test_what_is_no_client_is_refused(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"OPTIONS\['client'\] gives a dict"):
            RedisStore(client=dict).load(KEY)
        with pytest.raises(ImproperlyConfigured, match=r"OPTIONS\['client'\] gives a Redis"):
            RedisStore(client=driver.asyncio.Redis).load(KEY)
        with pytest.raises(ImproperlyConfigured, match=r"OPTIONS\['async_client'\] gives a Redis"):
            asyncio.run(RedisStore(client=driver.Redis, async_client=driver.Redis).aload(KEY))


class TestSettings:
    """No server needed: nothing is opened before the first use."""

    @pytest.mark.parametrize(
        "location",
        [
            "",
            [],
            None,
            7,
            [7],
            "localhost:6379",
            "http://localhost:6379",
            "redis://localhost:port",
            "redis://localhost:99999",
            "redis://localhost/sessions",
            "redis://localhost/0/1",
            "unix://",
            "rediss//localhost",
            f"redis://:{SECRET}@localhost:63x79",
            f"redis://user:#{SECRET}@localhost",
            f"redis://user:1#{SECRET}@localhost",
            f"redis://user:1?{SECRET}@localhost",
            f"redis://user:1/{SECRET}@localhost",
            f"redis://user:/{SECRET}@localhost:6379/0",
            f"redis://localhost:x/0?password={SECRET}",
            ["redis://localhost", f"redos://:{SECRET}@localhost"],
            f"redis+sentinel://:{SECRET}@localhost:26379",
            f"redis+sentinel://:{SECRET}@localhost:26379/",
            f"redis+sentinel://:{SECRET}@localhost:port/mymaster/0",
            f"redis+sentinel://:{SECRET}@localhost:26379/mymaster/sessions",
            f"redos+sentinel://:{SECRET}@localhost:26379/mymaster/0",
            ["redis+sentinel://localhost/mymaster/0", f"redis://:{SECRET}@localhost"],
        ],
    )
    def test_a_location_that_is_no_url(self, location: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="LOCATION") as raised:
            RedisStore(location)
        assert SECRET not in str(raised.value)
        # What a traceback prints after "During handling of".
        assert raised.value.__suppress_context__ or raised.value.__context__ is None

    @pytest.mark.parametrize(
        "options",
        [
            {"sockettimeout": 3},
            {"decode_responses": True},
            {"retry_on_timeout": True},
            {"connection_pool": object()},
            {"prefix": ""},
            {"prefix": 3},
            {"version": ""},
            {"version": 1.5},
            {"version": True},
            {"cluster": "yes"},
            {"max_record_size": "1M"},
            {"socket_timeout": "3"},
            {"socket_timeout": 0},
            {"socket_connect_timeout": -1},
            {"max_connections": 0},
            {"max_connections": "many"},
            {"username": 3},
            {"password": 3},
            {"sentinel_kwargs": "password"},
            {"sentinel_kwargs": {"password": SECRET}},
            {"client": driver.Redis},
            {"async_client": driver.asyncio.Redis},
        ],
    )
    def test_a_wrong_option(self, options: dict[str, Any]) -> None:
        name = next(iter(options))
        with pytest.raises(ImproperlyConfigured, match=name):
            RedisStore("redis://localhost", **options)

    def test_a_misspelt_option_says_what_there_is(self) -> None:
        for location in ("redis://localhost", "redis+sentinel://localhost/mymaster/0"):
            with pytest.raises(ImproperlyConfigured, match="prefx") as raised:
                RedisStore(location, prefx="mysite")
            for there_is in ("prefix, version, cluster, client", "redis-py", "socket_timeout"):
                assert there_is in str(raised.value)

    def test_an_option_in_the_url_that_is_not_known(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"LOCATION.*sockettimeout"):
            RedisStore("redis://localhost?sockettimeout=3")

    @pytest.mark.parametrize("client", ["nowhere", "no.such.module", "default", 7])
    def test_a_client_that_is_not_there(self, client: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"OPTIONS\['client'\]"):
            RedisStore(client=client)

    def test_the_alias_is_named(self) -> None:
        store = {"BACKEND": "django_kvsessions.stores.redis.RedisStore", "OPTIONS": {}}
        with (
            override_settings(SESSION_STORES={"web": store}),
            pytest.raises(ImproperlyConfigured, match=r"SESSION_STORES\['web'\].*LOCATION"),
        ):
            configured("web")

    def test_nothing_is_opened_and_a_refused_connection_names_the_host(self) -> None:
        port = free_port()
        store = RedisStore(f"redis://:{SECRET}@127.0.0.1:{port}")
        both: list[Callable[[], Any]] = [
            lambda: store.load(KEY),
            lambda: asyncio.run(store.aload(KEY)),
        ]
        for call in both:
            with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port} .*LOCATION") as raised:
                call()
            assert SECRET not in f"{raised.value} {raised.value.__cause__}"
        store.close()

    def test_without_the_driver_the_pip_command_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "redis", None)
        monkeypatch.delitem(sys.modules, "django_kvsessions.stores.redis.client", raising=False)
        monkeypatch.delattr(django_kvsessions.stores.redis, "client", raising=False)
        with pytest.raises(ImproperlyConfigured, match=r"pip install django-kvsessions\[redis\]"):
            RedisStore("redis://localhost")
