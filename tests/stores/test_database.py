"""DatabaseStore on real databases: PostgreSQL, MariaDB and SQLite."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import OperationalError, connections
from django.test import modify_settings, override_settings

from django_kvsessions.stores import make_store as configured
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.database import DatabaseStore
from django_kvsessions.testing import Cutting, MakeStore, Proxy, StoreConformance
from tests.support.databases import (
    ALICE,
    BACKEND,
    KEY,
    add_database,
    calls,
    disconnecting,
    open_store,
    record,
    run_sql,
    sqlite_database,
    table_name,
)
from tests.support.outages import Outage, killing
from tests.support.servers import missing
from tests.support.servers_database import alias, databases, lite, mariadb, postgres
from testservers import Server, free_port
from testservers.mysql import django_database as mysql_database
from testservers.postgres import django_database as postgres_database

pytestmark = pytest.mark.each_django

__all__ = ["alias", "databases", "lite", "mariadb", "postgres"]

T = TypeVar("T")


@contextmanager
def through_proxy(server: Server, database: dict[str, Any], table: str) -> Iterator[Cutting]:
    """For the kit's fixture ``cutting``."""
    with Proxy(("127.0.0.1", server.port)) as proxy:
        alias = f"{database['ENGINE']}-{proxy.port}"
        yield partial(open_store, alias, {**database, "PORT": str(proxy.port)}, table=table), proxy
        # Not by waiting for an answer.
        connections.close_all()


class DatabaseConformance(StoreConformance):
    kills = 2
    increments = 10
    race_keys = 10

    @pytest.fixture(autouse=True)
    def _name_table(self) -> None:
        self.table = table_name()

    @pytest.fixture
    def somebody(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(1) as executor:
            yield executor
            executor.submit(connections.close_all).result(self.patience)

    def race(self, *functions: Callable[[], T]) -> list[T]:
        return super().race(*[partial(disconnecting, function) for function in functions])


class TestSQLite(DatabaseConformance):
    makes_backups = True
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
        return partial(open_store, "postgres", postgres_database(postgres), table=self.table)

    @pytest.fixture
    def cutting(self, postgres: Server) -> Iterator[Cutting]:
        with through_proxy(postgres, postgres_database(postgres), self.table) as cutting:
            yield cutting

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
        return partial(open_store, "mariadb", mysql_database(mariadb), table=self.table)

    @pytest.fixture
    def cutting(self, mariadb: Server) -> Iterator[Cutting]:
        with through_proxy(mariadb, mysql_database(mariadb), self.table) as cutting:
            yield cutting

    @pytest.fixture
    def outage(self, mariadb: Server) -> Outage:
        return killing(mariadb)


@pytest.fixture
def store(alias: str) -> DatabaseStore:
    store = DatabaseStore(alias, table=table_name())
    store.setup()
    return store


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

    def test_without_the_app_it_says_that_the_app_is_missing(self, lite: str) -> None:
        store = DatabaseStore(lite, table="absent")
        with (
            modify_settings(INSTALLED_APPS={"remove": "django_kvsessions"}),
            pytest.raises(StoreUnavailable, match='"django_kvsessions" to INSTALLED_APPS.*migrate'),
        ):
            store.load(KEY)
        with pytest.raises(StoreUnavailable) as raised:
            store.load(KEY)
        assert "INSTALLED_APPS" not in str(raised.value)

    def test_setup_makes_what_is_missing_and_nothing_else(self, alias: str) -> None:
        store = DatabaseStore(alias, table=table_name())
        statements = store.setup_statements()
        assert [sql.split()[:2] for sql in statements] == [
            ["CREATE", "TABLE"],
            ["CREATE", "INDEX"],
            ["CREATE", "INDEX"],
        ]
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


@pytest.mark.servers
def test_a_site_on_pymysql(mariadb: Server) -> None:
    if find_spec("pymysql") is None:
        missing("PyMySQL is not installed: pip install PyMySQL")
    add_database("mariadb", mysql_database(mariadb))
    name = f"d{table_name()}"
    run_sql("mariadb", f"CREATE DATABASE {name}")
    database = {**mysql_database(mariadb), "NAME": name}
    line = [sys.executable, "-m", "tests.support.on_pymysql", json.dumps(database)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_many_expired_rows_that_nobody_removes_are_told_by_the_check(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_kvsessions.stores.database.store.MANY_EXPIRED", 3)
    store = DatabaseStore(alias, table=table_name())
    store.setup()
    for number in range(3):
        assert list(store.check_server(alias="default")) == []
        store.create(b"%032d" % number, record(seconds=-1))
    (warning,) = store.check_server(alias="default")
    assert warning.id == "kvsessions.W133"
    assert "clearsessions" in str(warning.hint)
    assert list(store.delete_expired()) == [3]
    assert list(store.check_server(alias="default")) == []
