"""DatabaseStore when connections break, servers end and processes fork."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import pytest
from django.db import OperationalError, connections, transaction
from django.test import override_settings

from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.database import DatabaseStore
from tests.support.databases import (
    ALICE,
    BACKEND,
    KEY,
    OTHER,
    add_database,
    disconnecting,
    end_connection,
    record,
    run_sql,
    server_process,
    table_name,
    writes,
)
from tests.support.outages import visiting
from tests.support.servers import serve
from tests.support.servers_database import alias, databases, lite, mariadb, postgres
from testservers import Server
from testservers.mysql import django_database as mysql_database
from testservers.mysql import mariadb_server
from testservers.postgres import django_database as postgres_database
from testservers.postgres import postgres_server

pytestmark = pytest.mark.each_django

__all__ = ["alias", "databases", "lite", "mariadb", "postgres"]

T = TypeVar("T")


@pytest.fixture
def store(alias: str) -> DatabaseStore:
    store = DatabaseStore(alias, table=table_name())
    store.setup()
    return store


class LosingAnswers:
    """Carries a write out, then drops the connection instead of answering."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.left = 1

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if self.left and not sql.startswith("SELECT"):
            self.left -= 1
            connections[self.alias].connection.close()
            raise OperationalError("the connection was lost")
        return result


@pytest.mark.servers
@pytest.mark.parametrize("alias", ["postgres", "mariadb"], indirect=True)
class TestFaults:
    def test_a_connection_that_was_lost_between_two_requests_is_not_noticed(
        self, store: DatabaseStore
    ) -> None:
        store.create(KEY, record(owner=ALICE))
        for call in (
            lambda: store.load(KEY),
            lambda: store.create(OTHER, record()),
            lambda: store.replace(KEY, record(owner=ALICE)),
            lambda: store.touch(KEY, time.time() + 900),
            lambda: list(store.scan_owner(ALICE)),
            lambda: store.stats().live,
            lambda: store.delete(KEY),
        ):
            end_connection(store.alias)
            assert call()

    # Python warns of a fork under threads, which is what is tested.
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_fork_leaves_its_parents_connection_to_the_parent(self, store: DatabaseStore) -> None:
        theirs = record(b"child")
        store.create(KEY, record(b"parent"))
        before = server_process(store.alias)
        child = os.fork()
        if child == 0:
            done = False
            with suppress(BaseException):
                done = store.create(OTHER, theirs) and server_process(store.alias) != before
                connections.close_all()
            os._exit(0 if done else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert store.load(OTHER) == theirs
        assert server_process(store.alias) == before

    def test_in_an_atomic_block_it_is_an_error(self, store: DatabaseStore) -> None:
        kept = record(b"kept")
        store.create(KEY, kept)
        with pytest.raises(StoreUnavailable), transaction.atomic(using=store.alias):
            assert store.touch(KEY, time.time() + 900)
            end_connection(store.alias)
            store.replace(KEY, record(b"alone"))
        assert store.load(KEY) == kept

    def test_a_write_whose_answer_was_lost_knows_its_own_success(
        self, store: DatabaseStore
    ) -> None:
        first, second, theirs = record(b"1", ALICE), record(b"2"), record(b"theirs")
        connection = connections[store.alias]
        with connection.execute_wrapper(LosingAnswers(store.alias)):
            assert store.create(KEY, first) is True
        with connection.execute_wrapper(LosingAnswers(store.alias)):
            assert store.replace(KEY, second, expected=first.revision) is True
        assert store.load(KEY) == second
        later = second._replace(expires=second.expires + 100)
        with connection.execute_wrapper(LosingAnswers(store.alias)):
            assert store.touch(KEY, later.expires, expected=second.revision) is True
        assert store.load(KEY) == later
        store.create(OTHER, theirs)
        # What is there does not say whether it came before or after.
        with (
            connection.execute_wrapper(LosingAnswers(store.alias)),
            pytest.raises(StoreUnavailable, match="answer"),
        ):
            store.replace(OTHER, first, expected=theirs.revision - 1)
        assert store.load(OTHER) == theirs

    def test_a_delete_whose_answer_was_lost_does_not_say_that_nothing_was_there(
        self, store: DatabaseStore
    ) -> None:
        store.create(KEY, record())
        with (
            connections[store.alias].execute_wrapper(LosingAnswers(store.alias)),
            pytest.raises(StoreUnavailable, match="answer"),
        ):
            store.delete(KEY)
        assert store.load(KEY) is None

    def test_rows_that_others_have_locked_are_left_for_the_next_clean_up(
        self, store: DatabaseStore
    ) -> None:
        keys = [bytes([number]) * 32 for number in range(20)]
        for key in keys:
            store.create(key, record(seconds=-10))
        locked, finish = threading.Event(), threading.Event()

        def hold() -> None:
            lock = f"{store._table.load.replace('> %s', '< %s')} FOR UPDATE"
            with (
                transaction.atomic(using=store.alias),
                connections[store.alias].cursor() as cursor,
            ):
                for key in keys[3:8]:
                    cursor.execute(lock, (key, time.time()))
                    assert len(cursor.fetchall()) == 1
                locked.set()
                finish.wait(60)

        holder = threading.Thread(target=partial(disconnecting, hold))
        holder.start()
        locked.wait(60)
        try:
            assert sum(store.delete_expired(batch_size=4)) == 15
        finally:
            finish.set()
            holder.join()
        assert sum(store.delete_expired(batch_size=4)) == 5

    def test_two_clean_ups_under_writers_remove_each_row_once(self, store: DatabaseStore) -> None:
        with transaction.atomic(using=store.alias):
            for number in range(1000):
                seconds = -10 if number % 10 else 600
                store.create(number.to_bytes(32, "big"), record(seconds=seconds))
        stop = threading.Event()
        failures: list[object] = []

        def save() -> None:
            while not stop.is_set():
                alive = [number.to_bytes(32, "big") for number in range(0, 1000, 10)]
                failures.extend(key for key in alive if not store.replace(key, record()))

        writer = threading.Thread(target=partial(disconnecting, save))
        writer.start()
        removed: list[int] = []
        cleaners = [
            threading.Thread(
                target=partial(
                    disconnecting, lambda: removed.append(sum(store.delete_expired(batch_size=50)))
                )
            )
            for _ in range(2)
        ]
        for thread in cleaners:
            thread.start()
        for thread in (*cleaners,):
            thread.join(60)
        stop.set()
        writer.join(60)
        assert (failures, len(removed), sum(removed)) == ([], 2, 900)
        assert store.stats()[:2] == (100, 0)


def outages(server: Server) -> list[Callable[[], None]]:
    def kill() -> None:
        server.kill()
        time.sleep(0.1)
        server.start()

    def pause() -> None:
        server.pause()
        time.sleep(0.5)
        server.resume()

    return [kill, pause, server.restart]


class OutageTests:
    """On a server of the tests' own, to be mistreated."""

    def test_nobody_is_logged_out_and_no_acknowledged_change_is_lost(
        self, mistreated: tuple[Server, str]
    ) -> None:
        server, alias = mistreated
        DatabaseStore(alias).setup()
        with (
            override_settings(SESSION_STORES={"default": {"BACKEND": BACKEND, "LOCATION": alias}}),
            visiting(3, disconnecting) as failures,
        ):
            for outage in outages(server):
                time.sleep(0.3)
                outage()
            time.sleep(0.3)
        assert any(failures)

    def test_a_paused_server_is_unavailable_within_the_timeouts(
        self, mistreated: tuple[Server, str]
    ) -> None:
        server, alias = mistreated
        store = DatabaseStore(alias, table=table_name())
        store.setup()
        kept = record()
        store.create(KEY, kept)
        if connections[alias].vendor == "postgresql":
            # Its timeouts on the client's side are for connecting alone.
            connections[alias].close()
        server.pause()
        started = time.monotonic()
        try:
            for call in (lambda: store.load(KEY), lambda: store.replace(KEY, record())):
                with pytest.raises(StoreUnavailable):
                    call()
        finally:
            server.resume()
        assert time.monotonic() - started < 20
        assert store.load(KEY) == kept

    def test_a_server_made_read_only_is_unavailable_not_a_logout(
        self, mistreated: tuple[Server, str]
    ) -> None:
        _, alias = mistreated
        store = DatabaseStore(alias, table=table_name())
        store.setup()
        kept = record()
        store.create(KEY, kept)
        postgres = connections[alias].vendor == "postgresql"
        only = "default_transaction_read_only = {}" if postgres else "TRANSACTION READ {}"
        run_sql(alias, f"SET SESSION {only.format('on' if postgres else 'ONLY')}")
        for write in writes(store):
            with pytest.raises(StoreUnavailable, match="(?i)read.only"):
                write()
        assert store.load(KEY) == kept
        run_sql(alias, f"SET SESSION {only.format('off' if postgres else 'WRITE')}")
        assert store.replace(KEY, record())


@pytest.fixture(scope="module")
def fragile_postgres() -> Iterator[Server]:
    yield from serve(partial(postgres_server, durable=True))


@pytest.fixture(scope="module")
def fragile_mariadb() -> Iterator[Server]:
    yield from serve(partial(mariadb_server, durable=True))


@pytest.mark.servers
class TestPostgreSQLOutages(OutageTests):
    @pytest.fixture
    def mistreated(self, fragile_postgres: Server) -> tuple[Server, str]:
        add_database("fragile-postgres", postgres_database(fragile_postgres, connect_timeout=2))
        return fragile_postgres, "fragile-postgres"


@pytest.mark.servers
class TestMariaDBOutages(OutageTests):
    @pytest.fixture
    def mistreated(self, fragile_mariadb: Server) -> tuple[Server, str]:
        timeouts = {"connect_timeout": 2, "read_timeout": 2, "write_timeout": 2}
        add_database("fragile-mariadb", mysql_database(fragile_mariadb, **timeouts))
        return fragile_mariadb, "fragile-mariadb"


POOL = {"min_size": 3, "max_size": 3, "timeout": 20}


def answering(store: DatabaseStore) -> bytes:
    """A request: it takes a connection out of the pool, and gives it back."""
    try:
        found = store.load(KEY)
        assert found is not None
        return found.data
    finally:
        connections.close_all()


@pytest.mark.servers
class TestPool:
    @pytest.fixture
    def pooled(self, fragile_postgres: Server) -> Iterator[DatabaseStore]:
        alias = f"pooled-{uuid.uuid4().hex}"
        database = postgres_database(fragile_postgres, connect_timeout=2, pool=POOL)
        add_database(alias, {**database, "CONN_MAX_AGE": 0})
        store = DatabaseStore(alias, table=table_name())
        store.setup()
        store.create(KEY, record(b"kept"))
        connections.close_all()
        yield store
        connections[alias].close()
        connections[alias].close_pool()  # type: ignore[attr-defined]  # PostgreSQL's

    def fill(self, store: DatabaseStore) -> None:
        """Let the pool have as many connections as it may."""
        barrier = threading.Barrier(POOL["max_size"])

        def use() -> None:
            assert store.load(KEY) is not None
            barrier.wait(30)

        with ThreadPoolExecutor(POOL["max_size"]) as executor:
            for done in [executor.submit(disconnecting, use) for _ in range(POOL["max_size"])]:
                done.result(30)

    def test_a_restart_of_the_server_is_not_noticed_by_any_connection_of_the_pool(
        self, fragile_postgres: Server, pooled: DatabaseStore
    ) -> None:
        for _ in range(2):
            self.fill(pooled)
            fragile_postgres.restart()
            assert [answering(pooled) for _ in range(10)] == [b"kept"] * 10
        self.fill(pooled)
        fragile_postgres.restart()
        expires = time.time() + 900
        for number in range(10):
            try:
                assert pooled.touch(KEY, expires + number) is True
            finally:
                connections.close_all()

    # Python warns of a fork under threads, which is what is tested.
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_child_opens_a_pool_of_its_own(self, pooled: DatabaseStore) -> None:
        self.fill(pooled)
        parents = self.processes(pooled)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                for _ in range(20):
                    pooled.load(KEY)
                    os.write(writer, b"%d\n" % server_process(pooled.alias))
                    connections.close_all()
                connections[pooled.alias].close_pool()  # type: ignore[attr-defined]  # PostgreSQL's
                os._exit(0)
            os._exit(1)
        os.close(writer)
        # In both processes at once, where they would read each other's answers.
        assert [answering(pooled) for _ in range(50)] == [b"kept"] * 50
        assert os.waitpid(child, 0)[1] == 0
        with open(reader, "rb") as lines:
            used = {int(line) for line in lines}
        assert used
        assert used.isdisjoint(parents)
        assert [answering(pooled) for _ in range(10)] == [b"kept"] * 10
        assert self.processes(pooled) == parents

    def processes(self, store: DatabaseStore) -> set[int]:
        """Which processes of the server serve the pool."""
        found = set()
        for _ in range(10):
            found.add(server_process(store.alias))
            connections.close_all()
        return found
