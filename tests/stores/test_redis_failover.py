"""RedisStore where a primary is lost or replaced: lists of URLs, Sentinels, a cluster."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.base import Record, StoreUnavailable
from django_kvsessions.stores.redis import RedisStore
from tests.support.servers import missing, serve, until
from testservers import Missing, Server, free_port
from testservers.redis import (
    cluster_node,
    command,
    form_cluster,
    redis_server,
    says,
    sentinel_server,
    valkey_server,
)

pytestmark = pytest.mark.servers

KEY = b"k" * 32
OTHER = b"o" * 32
#: Seconds that a failover may take on a busy machine.
PATIENCE = 60.0


def url(server: Server) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


def record(data: bytes = b"data", owner: bytes = b"") -> Record:
    return Record(data, time.time() + 600, int.from_bytes(os.urandom(8), "big") >> 1, owner)


def has_role(role: str, server: Server) -> bool:
    try:
        return says(server, "INFO replication", f"role:{role}".encode())
    except ConnectionError:
        # One that is told to follow another cuts its clients off.
        return False


def follows(replica: Server, primary: Server) -> bool:
    """Whether the replica has all that the primary has, and both know of each other."""
    size = command(primary.port, "DBSIZE")
    return (
        says(primary, "INFO replication", b"state=online")
        and says(replica, "INFO replication", b"master_link_status:up")
        and command(replica.port, "DBSIZE") == size
    )


@contextmanager
def running(*makes: Callable[[], Server]) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        try:
            yield [stack.enter_context(make()) for make in makes]
        except Missing as reason:
            missing(reason)


@pytest.fixture(params=[redis_server, valkey_server], ids=["redis", "valkey"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Server]]:
    """A primary and its replica."""
    make = request.param
    for primary in serve(partial(make, "--repl-diskless-sync-delay", "0", durable=True)):
        replicates = ("--replicaof", f"127.0.0.1 {primary.port}")
        for replica in serve(partial(make, *replicates, durable=True)):
            until(partial(follows, replica, primary))
            yield primary, replica


def promote(replica: Server, primary: Server) -> None:
    """What an operator does in a planned switch."""
    until(lambda: follows(replica, primary))
    command(replica.port, "REPLICAOF NO ONE")
    command(primary.port, f"REPLICAOF 127.0.0.1 {replica.port}")


def either(store: RedisStore) -> list[Callable[[], Record | None]]:
    """A load in each colour."""
    return [lambda: store.load(KEY), lambda: asyncio.run(store.aload(KEY))]


class TestSeveral:
    """LOCATION is a list."""

    def test_a_process_that_only_reads_leaves_a_demoted_primary(
        self, pair: tuple[Server, Server]
    ) -> None:
        primary, replica = pair
        reader, writer = (RedisStore([url(primary), url(replica)]) for _ in range(2))
        assert writer.create(KEY, record())
        assert reader.load(KEY)
        promote(replica, primary)
        # So that what is ended now does not reach the former primary.
        command(primary.port, "REPLICAOF 127.0.0.1 1")
        assert writer.delete(KEY) is True
        for load in either(reader):
            assert load() is None
        writer.close()
        reader.close()

    def test_the_reading_async_process_leaves_it_too(self, pair: tuple[Server, Server]) -> None:
        primary, replica = pair
        store = RedisStore([url(primary), url(replica)])
        kept = record()

        async def work() -> None:
            await store.acreate(KEY, kept)
            assert await store.aload(KEY) == kept
            promote(replica, primary)
            command(primary.port, "REPLICAOF 127.0.0.1 1")
            assert command(replica.port, "FLUSHALL").startswith(b"+OK")
            assert await store.aload(KEY) is None

        asyncio.run(work())

    def test_two_primaries_are_refused(self) -> None:
        with running(redis_server, redis_server) as (first, second):
            store = RedisStore([url(first), url(second)])
            for call in (
                lambda: store.load(KEY),
                lambda: store.create(KEY, record()),
                lambda: asyncio.run(store.aload(KEY)),
            ):
                with pytest.raises(StoreUnavailable, match=r"LOCATION.*both.*REPLICAOF") as raised:
                    call()
                assert str(first.port) in str(raised.value)
                assert str(second.port) in str(raised.value)
            assert command(first.port, "DBSIZE") == command(second.port, "DBSIZE") == b":0\r\n"

    def test_no_ended_session_comes_back_when_there_are_two_primaries_at_runtime(
        self, pair: tuple[Server, Server]
    ) -> None:
        primary, replica = pair
        behind = RedisStore([url(primary), url(replica)])
        assert behind.create(KEY, record())
        assert behind.load(KEY)
        until(lambda: follows(replica, primary))
        command(replica.port, "REPLICAOF NO ONE")
        # Somebody who reaches the new one alone ends the session there.
        assert RedisStore(url(replica)).delete(KEY) is True
        until(lambda: b"connected_slaves:0" in command(primary.port, "INFO replication"))
        for load in either(behind):
            with pytest.raises(StoreUnavailable, match="both say that they are the primary"):
                load()
        with pytest.raises(StoreUnavailable, match="both say that they are the primary"):
            behind.touch(KEY, time.time() + 900)
        command(primary.port, f"REPLICAOF 127.0.0.1 {replica.port}")
        for load in either(behind):
            assert load() is None

    def test_an_error_reply_asks_nobody_else(self, pair: tuple[Server, Server]) -> None:
        primary, replica = pair
        store = RedisStore([url(replica), url(primary)], socket_timeout=5)
        assert store.create(KEY, record())
        command(primary.port, "CONFIG SET maxmemory 1")
        replica.pause()
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=r"OOM|maxmemory"):
                store.create(OTHER, record())
            assert store.load(KEY)
        assert time.monotonic() - started < 4
        replica.resume()
        store.close()

    def test_a_hanging_primary_is_left_when_another_one_is_there(
        self, pair: tuple[Server, Server]
    ) -> None:
        primary, replica = pair
        store = RedisStore([url(primary), url(replica)], socket_timeout=0.3)
        kept = record()
        assert store.create(KEY, kept)
        until(lambda: follows(replica, primary))
        primary.pause()
        with pytest.raises(StoreUnavailable):
            store.load(KEY)
        command(replica.port, "REPLICAOF NO ONE")
        assert store.load(KEY) == kept
        started = time.monotonic()
        assert all(store.load(KEY) == kept for _ in range(10))
        # It is not asked each time.
        assert time.monotonic() - started < 3 * 0.3
        store.close()
        primary.resume()


class TestSentinel:
    @pytest.fixture
    def sentinel(self, pair: tuple[Server, Server]) -> Iterator[Server]:
        for sentinel in serve(partial(sentinel_server, pair[0], "mymaster")):
            # It has to hear of the replica before it can promote it.
            until(partial(says, sentinel, "INFO sentinel", b"slaves=1"))
            yield sentinel

    @pytest.fixture
    def location(self, sentinel: Server) -> str:
        # One that is not there is passed over.
        return f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/mymaster/0"

    def test_the_primary_that_a_sentinel_names_is_used(
        self, pair: tuple[Server, Server], location: str
    ) -> None:
        kept = record(owner=b"a" * 16)
        for place in (location, location.replace("redis+", "valkey+")):
            store = RedisStore(place)
            store.delete(KEY)
            assert store.create(KEY, kept)
            for load in either(store):
                assert load() == kept
            assert dict(store.scan()) == dict(store.scan_owner(b"a" * 16)) == {KEY: kept}
            store.close()
        assert RedisStore(url(pair[0])).load(KEY) == kept

    @pytest.mark.parametrize("how", ["kill", "pause"])
    @pytest.mark.parametrize("colour", ["sync", "async"])
    def test_a_failover_is_an_outage_of_seconds_and_logs_nobody_out(
        self, pair: tuple[Server, Server], location: str, how: str, colour: str
    ) -> None:
        primary, replica = pair
        store = RedisStore(location, socket_timeout=0.5)
        kept = record()
        assert store.create(KEY, kept)
        until(lambda: follows(replica, primary))
        asking = Asking(store, [KEY])
        with asking.in_colour(colour):
            until(lambda: asking.answered > 10)
            getattr(primary, how)()
            until(lambda: has_role("master", replica))
            seen = asking.answered
            until(lambda: asking.answered > seen + 10)
        assert asking.absent == 0
        assert asking.failed > 0
        assert store.replace(KEY, record(b"new"), expected=kept.revision) is True
        if how == "pause":
            primary.resume()
            # It believes to be the primary, until the Sentinel tells it otherwise.
            until(lambda: has_role("slave", primary))
            for load in either(store):
                found = load()
                assert found is not None
                assert found.data == b"new"

    def test_a_name_that_no_sentinel_knows_is_said_to_be_unknown(self, location: str) -> None:
        store = RedisStore(location.replace("mymaster", "yourmaster"))
        for load in either(store):
            with pytest.raises(StoreUnavailable, match=r"LOCATION.*'yourmaster'.*sentinel monitor"):
                load()

    def test_sentinels_that_do_not_answer_are_named(self) -> None:
        store = RedisStore(f"redis+sentinel://127.0.0.1:{free_port()}/mymaster/0")
        for load in either(store):
            with pytest.raises(StoreUnavailable, match="Sentinels in LOCATION"):
                load()


class Asked(NamedTuple):
    at: float
    seconds: float
    good: bool


class Asking:
    """Loads, one after another, until the context ends."""

    def __init__(self, store: RedisStore, keys: list[bytes]) -> None:
        self.store = store
        self.keys = keys
        self.asked: list[Asked] = []
        self.absent = 0
        self.stop = False

    @property
    def answered(self) -> int:
        return sum(asked.good for asked in self.asked)

    @property
    def failed(self) -> int:
        return len(self.asked) - self.answered

    @property
    def slowest(self) -> float:
        return max(asked.seconds for asked in self.asked)

    @property
    def outage(self) -> float:
        """Seconds between two good answers, the longest."""
        good = [asked.at for asked in self.asked if asked.good]
        return max(later - former for former, later in pairwise(good))

    @contextmanager
    def in_colour(self, *colour: str, others: tuple[Asking, ...] = ()) -> Iterator[None]:
        every = [self, *others]
        if colour == ("sync",):
            threads = [threading.Thread(target=each.ask) for each in every]
        else:

            async def together() -> None:
                await asyncio.gather(*(each.aask() for each in every))

            threads = [threading.Thread(target=lambda: asyncio.run(together()))]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for each in every:
                each.stop = True
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive()

    def ask(self) -> None:
        while not self.stop:
            for key in self.keys:
                started = time.monotonic()
                try:
                    self.note(started, self.store.load(key))
                except StoreUnavailable:
                    self.note(started, None, good=False)
                time.sleep(0.005)

    async def aask(self) -> None:
        while not self.stop:
            for key in self.keys:
                started = time.monotonic()
                try:
                    self.note(started, await self.store.aload(key))
                except StoreUnavailable:
                    self.note(started, None, good=False)
                await asyncio.sleep(0.005)

    def note(self, started: float, found: Record | None, *, good: bool = True) -> None:
        if good and found is None:
            self.absent += 1
        moment = time.monotonic()
        self.asked.append(Asked(moment, moment - started, good))


class TestCluster:
    @pytest.fixture
    def nodes(self) -> Iterator[list[Server]]:
        """Three primaries, and a replica of the first."""
        with running(*[cluster_node] * 4) as nodes:
            form_cluster(nodes[:3], nodes[3])
            yield nodes

    @pytest.mark.parametrize("how", ["kill", "pause"])
    @pytest.mark.parametrize("colour", ["sync", "async"])
    def test_the_loss_of_the_first_node_is_nothing_to_the_others(
        self,
        nodes: list[Server],
        how: str,
        colour: str,
        record_property: Callable[[str, object], None],
    ) -> None:
        store = RedisStore(url(nodes[0]), cluster=True, socket_timeout=3)
        keys = [b"%032d" % number for number in range(60)]
        for key in keys:
            assert store.create(key, record(owner=b"a" * 16))
        held = [key for key in keys if holds(nodes[0], key)]
        healthy = [key for key in keys if key not in held]
        assert len(held) > 5
        assert len(healthy) > 5
        until(lambda: follows(nodes[3], nodes[0]))
        there, lost = Asking(store, healthy), Asking(store, held)
        with there.in_colour(colour, others=(lost,)):
            until(lambda: lost.answered > 10)
            getattr(nodes[0], how)()
            until(lambda: has_role("master", nodes[3]))
            seen = lost.answered
            until(lambda: lost.answered > seen + 10)
        assert (there.failed, there.absent, lost.absent) == (0, 0, 0)
        # Nobody has waited for the one that does not answer.
        assert there.slowest < 2.7
        record_property("outage", round(lost.outage, 2))
        record_property("slowest", round(there.slowest, 3))
        assert {key for key, _ in store.scan()} == set(keys)
        for key in held[:3]:
            assert store.replace(key, record(b"new"))
            assert store.delete(key)
        if how == "pause":
            nodes[0].resume()

    def test_moved_slots_are_followed(self, nodes: list[Server]) -> None:
        store = RedisStore([url(node) for node in nodes[:3]], cluster=True)
        assert store.create(KEY, record(b"moved"))
        source = next(node for node in nodes[:3] if holds(node, KEY))
        target = next(node for node in nodes[:3] if node is not source)
        [name] = names(source)
        slot = int(run(source, "CLUSTER", "KEYSLOT", name))
        ids = {node: run(node, "CLUSTER", "MYID").decode() for node in (source, target)}
        run(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        run(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        run(source, "MIGRATE", "127.0.0.1", target.port, name, 0, 5000)
        # It is at the one, but the slot is the other's still.
        for load in either(store):
            found = load()
            assert found is not None
            assert found.data == b"moved"
        assert store.touch(KEY, time.time() + 900)
        for node in (target, source):
            run(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        for load in either(store):
            assert load()
        assert store.delete(KEY) is True

    def test_a_cluster_that_lacks_slots_says_so(self) -> None:
        with running(cluster_node) as [node]:
            command(node.port, "CLUSTER ADDSLOTSRANGE 0 10")
            store = RedisStore(url(node), cluster=True)
            for load in either(store):
                with pytest.raises(StoreUnavailable, match=r"LOCATION.*slot.*cluster fix"):
                    load()

    def test_nodes_of_two_clusters_are_refused(self) -> None:
        with running(cluster_node, cluster_node) as nodes:
            for node in nodes:
                command(node.port, "CLUSTER ADDSLOTSRANGE 0 16383")
            store = RedisStore([url(node) for node in nodes], cluster=True)
            for load in either(store):
                with pytest.raises(StoreUnavailable, match="LOCATION names nodes of two clusters"):
                    load()

    def test_what_is_no_cluster_and_what_is_one_are_told_apart(self) -> None:
        with running(redis_server) as [server]:
            store = RedisStore(url(server), cluster=True)
            for load in either(store):
                with pytest.raises(ImproperlyConfigured, match=r"OPTIONS\['cluster'\]"):
                    load()
        with running(cluster_node, cluster_node) as nodes:
            form_cluster(nodes)
            stores = [RedisStore(url(node)) for node in nodes]
            with pytest.raises(StoreUnavailable, match=r"OPTIONS\['cluster'\]"):
                [store.load(KEY) for store in stores]


def run(server: Server, *arguments: Any) -> Any:
    import redis

    with redis.Redis(port=server.port) as client:
        return client.execute_command(*arguments)


def names(server: Server) -> list[bytes]:
    import redis

    with redis.Redis(port=server.port) as client:
        return list(client.scan_iter(_type="STRING"))


def holds(server: Server, key: bytes) -> bool:
    return any(name.endswith(key) for name in names(server))
