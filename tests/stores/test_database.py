"""DatabaseStore on real databases: PostgreSQL, MariaDB and SQLite."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import Error, OperationalError, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import make_store as configured
from django_kvsessions.stores.base import Record, Store, StoreUnavailable
from django_kvsessions.stores.database import DatabaseStore
from django_kvsessions.testing import MakeStore, StoreConformance
from tests.support.databases import add_database, open_store, remove_databases
from tests.support.outages import Outage, killing, visiting
from tests.support.servers import serve
from tests.support.servers_database import mariadb, postgres
from testservers import Server, free_port
from testservers.mysql import django_database as mysql_database
from testservers.mysql import mariadb_server
from testservers.postgres import django_database as postgres_database
from testservers.postgres import postgres_server

pytestmark = pytest.mark.each_django

__all__ = ["mariadb", "postgres"]

T = TypeVar("T")

KEY = b"k" * 32
OTHER = b"o" * 32
ALICE = b"a" * 16
BACKEND = "django_kvsessions.stores.database.DatabaseStore"


def record(data: bytes = b"data", owner: bytes = b"", seconds: float = 600) -> Record:
    revision = int.from_bytes(os.urandom(8), "big") >> 1
    return Record(data, time.time() + seconds, revision, owner)


def table_name() -> str:
    return f"t{uuid.uuid4().hex}"


def sqlite_database(path: Path, **options: Any) -> dict[str, Any]:
    # Without its fsyncs a killed process still loses nothing.
    options = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": "PRAGMA synchronous=OFF",
        **options,
    }
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": options}


@pytest.fixture(autouse=True)
def _databases(django_db_blocker: Any) -> Iterator[None]:
    """The databases of these tests may be used, and their connections end with the test."""
    with django_db_blocker.unblock():
        yield
        connections.close_all()
        # Async methods have a thread of their own, which stays.
        asyncio.run(sync_to_async(connections.close_all)())
        remove_databases()


def disconnecting(function: Callable[[], T]) -> T:
    """Call it in a thread that ends after it, as a request does: without a connection."""
    try:
        return function()
    finally:
        connections.close_all()


class DatabaseConformance(StoreConformance):
    kills = 2
    increments = 10
    race_keys = 10

    def race(self, *functions: Callable[[], T]) -> list[T]:
        return super().race(*[partial(disconnecting, function) for function in functions])


class TestSQLite(DatabaseConformance):
    # An SQLite connection of another thread that is in a transaction when the process
    # forks is rolled back by the child, where nobody can reach it.
    fork_safe = False

    @pytest.fixture
    def make_store(self, request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
        timeout = 0.1 if "outage" in request.fixturenames else 30
        database = sqlite_database(tmp_path / "db", timeout=timeout)
        return partial(open_store, f"lite-{tmp_path}", database)

    @pytest.fixture
    def outage(self, tmp_path: Path) -> Outage:
        @contextmanager
        def locked() -> Iterator[None]:
            with closing(sqlite3.connect(tmp_path / "db", timeout=30)) as connection:
                connection.execute("BEGIN EXCLUSIVE")
                yield

        return locked


@pytest.mark.servers
class TestPostgreSQL(DatabaseConformance):
    processes = 4

    @pytest.fixture
    def make_store(self, postgres: Server) -> MakeStore:
        return partial(open_store, "postgres", postgres_database(postgres), table=table_name())

    @pytest.fixture
    def outage(self, postgres: Server) -> Outage:
        return killing(postgres)


@pytest.mark.servers
class TestMariaDB(DatabaseConformance):
    # A fork tears down the thread-locals of the parent's other threads in the child, and
    # mysqlclient takes leave of the server on the connections that were in them.
    fork_safe = False

    @pytest.fixture
    def make_store(self, mariadb: Server) -> MakeStore:
        return partial(open_store, "mariadb", mysql_database(mariadb), table=table_name())

    @pytest.fixture
    def outage(self, mariadb: Server) -> Outage:
        return killing(mariadb)


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.servers),
        pytest.param("mariadb", marks=pytest.mark.servers),
    ]
)
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


@pytest.fixture
def store(alias: str) -> DatabaseStore:
    store = DatabaseStore(alias, table=table_name())
    store.setup()
    return store


def run_sql(alias: str, *statements: str) -> list[Any]:
    """The rows of the last one, if any."""
    with connections[alias].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def elsewhere(function: Callable[[], T]) -> T:
    """What it gives on a connection of its own."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(disconnecting(function)))
    thread.start()
    thread.join(60)
    assert results, "it is still waiting, or failed"
    return results[0]


def calls(store: Store) -> list[Callable[[], object]]:
    return [lambda: store.load(KEY), *writes(store)]


def writes(store: Store) -> list[Callable[[], bool]]:
    """Every change; KEY is there, OTHER is not."""
    return [
        lambda: store.create(OTHER, record()),
        lambda: store.replace(KEY, record(b"new")),
        lambda: store.replace(KEY, record(b"new"), expected=1),
        lambda: store.touch(KEY, time.time() + 900),
        lambda: store.delete(KEY),
    ]


class TestTransactions:
    def test_each_call_is_one_statement(self, store: DatabaseStore) -> None:
        store.create(KEY, record())
        for call in calls(store):
            with CaptureQueriesContext(connections[store.alias]) as queries:
                call()
            assert len(queries) == 1

    def test_a_write_follows_the_atomic_block_it_is_made_in(self, store: DatabaseStore) -> None:
        kept = record(b"kept", owner=ALICE)
        store.create(KEY, kept)
        for number, change in enumerate(writes(store)):
            with transaction.atomic(using=store.alias):
                assert change() is (number != 2)
                if connections[store.alias].vendor != "sqlite":
                    assert elsewhere(lambda: store.load(KEY)) == kept
                transaction.set_rollback(True, using=store.alias)
            assert dict(store.scan()) == {KEY: kept}
        with transaction.atomic(using=store.alias):
            assert store.replace(KEY, record(b"new"))
        assert elsewhere(lambda: store.load(KEY)).data == b"new"  # type: ignore[union-attr]

    def test_a_taken_key_leaves_the_atomic_block_usable(self, store: DatabaseStore) -> None:
        kept = record(b"kept")
        store.create(KEY, kept)
        with transaction.atomic(using=store.alias):
            assert store.create(KEY, record()) is False
            assert store.create(OTHER, kept) is True
            assert store.load(KEY) == kept
        assert dict(store.scan()) == {KEY: kept, OTHER: kept}

    def test_a_failed_write_leaves_the_atomic_block_usable(self, alias: str) -> None:
        store = DatabaseStore(alias, table=table_name())
        create, *indexes = store.setup_statements()
        limited = re.sub(r"(data\W \w+ NOT NULL)", r"\1 CHECK (length(data) < 100)", create)
        assert limited != create
        run_sql(alias, limited, *indexes)
        kept = record(b"kept")
        store.create(KEY, kept)
        with transaction.atomic(using=alias):
            for fail in (
                lambda: store.create(OTHER, record(b"x" * 100)),
                lambda: store.replace(KEY, record(b"x" * 100)),
            ):
                with pytest.raises(StoreUnavailable) as raised:
                    fail()
                assert isinstance(raised.value.__cause__, Error)
                assert store.load(KEY) == kept
            assert store.touch(KEY, kept.expires + 100)
        assert store.load(KEY) == kept._replace(expires=kept.expires + 100)

    def test_a_write_that_waited_for_a_touch_finds_the_only_record(
        self, store: DatabaseStore
    ) -> None:
        _, replace, _, touch, delete = writes(store)
        for write in (replace, touch, delete):
            store.delete(KEY)
            assert store.create(KEY, record(seconds=900))
            with ThreadPoolExecutor() as pool:
                with transaction.atomic(using=store.alias):
                    assert store.touch(KEY, time.time() + 1200)
                    waiting = pool.submit(disconnecting, write)
                    with pytest.raises(StillWaiting):
                        waiting.result(0.5)
                    # Behind one who reads the index of expiries upwards.
                    assert store.touch(KEY, time.time() + 300)
                assert waiting.result(60) is True

    def test_async_calls_are_part_of_the_atomic_block_around_them(
        self, store: DatabaseStore
    ) -> None:
        with transaction.atomic(using=store.alias):
            assert async_to_sync(store.acreate)(KEY, record())
            assert store.load(KEY) is not None
            transaction.set_rollback(True, using=store.alias)
        assert store.load(KEY) is None

    def test_a_session_saved_in_a_block_that_fails_stays_as_it_was(
        self, store: DatabaseStore
    ) -> None:
        options = {"table": store._table.name}
        stores = {"default": {"BACKEND": BACKEND, "LOCATION": store.alias, "OPTIONS": options}}
        with override_settings(SESSION_STORES=stores):
            session = SessionStore()
            session["cart"] = 1
            session.save()
            with pytest.raises(ZeroDivisionError), transaction.atomic(using=store.alias):
                again = SessionStore(session.session_key)
                again["cart"] = 2
                again.save()
                raise ZeroDivisionError
            assert SessionStore(session.session_key)["cart"] == 1


class TestTable:
    def test_a_missing_table_says_what_to_run(self, alias: str) -> None:
        store = DatabaseStore(alias, table="absent")
        for call in calls(store):
            with pytest.raises(StoreUnavailable, match="absent.*manage.py migrate.*setupsessions"):
                call()
        assert [message.id for message in store.check_server(alias="x")] == ["kvsessions.E131"]

    def test_a_table_of_something_else_is_no_logout(self, alias: str) -> None:
        for columns in (
            "id integer",
            "data integer, expires integer, revision integer, owner integer",
        ):
            store = DatabaseStore(alias, table=table_name())
            run_sql(alias, f"CREATE TABLE {store._table.quoted} ({columns})")
            store.check_server(alias="x")
            for call in calls(store):
                with pytest.raises(StoreUnavailable, match=store._table.name):
                    call()
            [message] = store.check_server(alias="x")
            assert message.id == "kvsessions.E132"
            assert "key" in message.msg
            assert message.hint is not None
            assert "OPTIONS['table']" in message.hint

    def test_setup_makes_what_is_missing_and_nothing_else(self, alias: str) -> None:
        store = DatabaseStore(alias, table=table_name())
        statements = store.setup_statements()
        assert [sql.split()[:2] for sql in statements] == [
            ["CREATE", "TABLE"], ["CREATE", "INDEX"], ["CREATE", "INDEX"]
        ]  # fmt: skip
        assert store.setup_statements() == statements
        run_sql(alias, *statements[:2])
        assert store.setup_statements() == statements[2:]
        store.setup()
        assert store.setup_statements() == []
        assert store.check_server(alias="x") == []

    def test_several_setups_at_once_succeed(self, alias: str) -> None:
        store = DatabaseStore(alias, table=table_name())
        errors: list[Exception] = []
        barrier = threading.Barrier(4)

        def set_up() -> None:
            try:
                connections[alias].ensure_connection()
                barrier.wait(30)
                store.setup()
            except Exception as error:
                errors.append(error)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=set_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        store.setup()
        assert (errors, store.setup_statements()) == ([], [])

    def test_queries_follow_the_indexes(self, lite: str) -> None:
        # The planners of the others judge by the size of the table.
        store = DatabaseStore(lite)
        store.setup()
        plans = [
            (store._table.expired, (1.0,), "expires"),
            (store._table.owned, (1.0, ALICE), "owner"),
            (store._table.load, (KEY, 1.0), "key"),
            (store._table.count_live, (1.0,), "expires"),
        ]
        with connections[store.alias].cursor() as cursor:
            for sql, values, column in plans:
                cursor.execute(f"EXPLAIN QUERY PLAN {sql}", values)
                plan = " ".join(row[3] for row in cursor.fetchall())
                assert f"({column}" in plan, plan
                assert "SCAN" not in plan, plan

    def test_migrate_makes_the_table_on_its_own_database_only(self, lite: str) -> None:
        other = f"{lite}-other"
        add_database(other, sqlite_database(Path(f"{connections[lite].settings_dict['NAME']}2")))
        stores = {"default": {"BACKEND": BACKEND, "LOCATION": lite}}
        with override_settings(SESSION_STORES=stores):
            call_command("migrate", database=other, verbosity=0)
            with pytest.raises(StoreUnavailable, match="missing"):
                configured("default").load(KEY)
            call_command("migrate", database=lite, verbosity=0)
            assert configured("default").load(KEY) is None
        with pytest.raises(StoreUnavailable, match="missing"):
            DatabaseStore(other).load(KEY)

    def test_setupsessions_shows_the_sql_then_runs_it(
        self, lite: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stores = {"default": {"BACKEND": BACKEND, "LOCATION": lite}}
        with override_settings(SESSION_STORES=stores):
            call_command("setupsessions", dry_run=True)
            assert 'CREATE TABLE "django_kvsessions"' in capsys.readouterr().out
            with pytest.raises(StoreUnavailable):
                configured("default").load(KEY)
            call_command("setupsessions")
            assert configured("default").load(KEY) is None
            call_command("setupsessions", dry_run=True)
            assert "nothing is missing" in capsys.readouterr().out

    @pytest.mark.servers
    @pytest.mark.parametrize("server", ["postgres", "mariadb"])
    def test_a_schema_of_its_own(self, server: str, request: pytest.FixtureRequest) -> None:
        make = postgres_database if server == "postgres" else mysql_database
        add_database(server, make(request.getfixturevalue(server)))
        schema = table_name()
        store = DatabaseStore(server, schema=schema, table="Sessions")
        with pytest.raises(StoreUnavailable):
            store.setup()
        run_sql(server, f"CREATE SCHEMA {schema}")
        store.setup()
        store.setup()
        kept = record(owner=ALICE)
        assert store.create(KEY, kept)
        assert store.replace(KEY, kept)
        assert list(store.scan_owner(ALICE)) == [(KEY, kept)]
        assert store.stats().live == 1
        assert store.stats().size
        assert store.touch(KEY, 1.0)
        assert list(store.delete_expired()) == [1]
        assert store.check_server(alias="x") == []
        with pytest.raises(StoreUnavailable, match="missing"):
            DatabaseStore(server, table="Sessions").load(KEY)


class TestSettings:
    @pytest.mark.parametrize("location", ["nowhere", 5, Path("default")])
    def test_a_wrong_alias_is_named(self, location: Any) -> None:
        stores = {"default": {"BACKEND": BACKEND, "LOCATION": location}}
        named = r"SESSION_STORES.*LOCATION.*DATABASES.*'default'"
        with (
            override_settings(SESSION_STORES=stores),
            pytest.raises(ImproperlyConfigured, match=named),
        ):
            configured("default")

    @pytest.mark.parametrize("option", ["table", "schema"])
    @pytest.mark.parametrize("name", ["", "a b", 'a"b', "a;b", "1a", "a.b", "a" * 64, "a\n", 5])
    def test_a_bad_identifier_is_refused(self, option: str, name: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match=option):
            DatabaseStore(**{option: name})

    def test_sqlite_has_no_schemas(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="schema"):
            DatabaseStore(schema="public")

    def test_a_database_that_is_none_is_refused(self) -> None:
        add_database("dummy", {})
        with pytest.raises(ImproperlyConfigured, match="dummy"):
            DatabaseStore("dummy")

    def test_the_default_is_the_default_database(self) -> None:
        assert DatabaseStore().setup_on_migrate == "default"

    def test_sqlite_without_immediate_transactions_is_warned_of(
        self, lite: str, tmp_path: Path
    ) -> None:
        add_database(f"{lite}-deferred", sqlite_database(tmp_path / "db", transaction_mode=None))
        assert DatabaseStore(lite).check(alias="x") == []
        [message] = DatabaseStore(f"{lite}-deferred").check(alias="x")
        assert message.id == "kvsessions.W130"

    @pytest.mark.servers
    def test_a_server_that_is_not_there_is_unavailable_and_no_password_is_shown(self) -> None:
        port = str(free_port())
        for engine in ("postgresql", "mysql"):
            add_database(
                f"absent-{engine}-{port}",
                {
                    "ENGINE": f"django.db.backends.{engine}",
                    "HOST": "127.0.0.1",
                    "PORT": port,
                    "NAME": "sessions",
                    "USER": "someone",
                    "PASSWORD": "s3cret",
                },
            )
            store = DatabaseStore(f"absent-{engine}-{port}")
            for call in calls(store):
                with pytest.raises(StoreUnavailable, match=r"DATABASES.*reached") as raised:
                    call()
                assert "s3cret" not in str(raised.value)

    @pytest.mark.servers
    def test_a_wrong_password_is_unavailable_and_not_shown(self, mariadb: Server) -> None:
        add_database("mariadb", mysql_database(mariadb))
        run_sql(
            "mariadb",
            "CREATE OR REPLACE USER someone@'127.0.0.1' IDENTIFIED BY 'right'",
            "GRANT ALL ON test.* TO someone@'127.0.0.1'",
        )
        wrong = {**mysql_database(mariadb), "USER": "someone", "PASSWORD": "s3cret"}
        add_database("mariadb-refused", wrong)
        with pytest.raises(StoreUnavailable, match="(?i)access denied.*someone") as raised:
            DatabaseStore("mariadb-refused").load(KEY)
        assert "s3cret" not in str(raised.value)

    @pytest.mark.servers
    def test_a_password_in_an_error_is_not_shown(self, postgres: Server) -> None:
        # The server trusts everyone, so that any password will do.
        add_database("with-password", {**postgres_database(postgres), "PASSWORD": "s3cret"})
        store = DatabaseStore("with-password")

        def fail(*args: Any) -> None:
            raise OperationalError("connecting with password=s3cret failed")

        with (
            connections["with-password"].execute_wrapper(fail),
            pytest.raises(StoreUnavailable, match="password=.* failed") as raised,
        ):
            store.load(KEY)
        assert "s3cret" not in str(raised.value)


def server_process(alias: str) -> int:
    """Which of the server's processes or threads serves this connection."""
    vendor = connections[alias].vendor
    mine = "pg_backend_pid()" if vendor == "postgresql" else "CONNECTION_ID()"
    [(number,)] = run_sql(alias, f"SELECT {mine}")
    return int(number)


def end_connection(alias: str) -> None:
    """As the server does when it restarts, or after an idle time."""
    number = server_process(alias)
    kill = f"KILL {number}"
    if connections[alias].vendor == "postgresql":
        kill = f"SELECT pg_terminate_backend({number})"
    elsewhere(lambda: run_sql(alias, kill))


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
        store.create(OTHER, theirs)
        with connection.execute_wrapper(LosingAnswers(store.alias)):
            assert store.replace(OTHER, first, expected=theirs.revision - 1) is False
        assert store.load(OTHER) == theirs

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
