"""The model of the table of sessions: what migrate, flush and dumpdata make of it."""

from __future__ import annotations

import json
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections
from django.test import TransactionTestCase, override_settings

from django_kvsessions.models import StoredSession
from django_kvsessions.stores import stores
from django_kvsessions.stores.database import DatabaseStore
from tests.support.databases import (
    ALICE,
    BACKEND,
    KEY,
    OTHER,
    add_database,
    record,
    run_sql,
    sqlite_database,
)
from tests.support.servers_database import databases, mariadb, own_database, postgres

__all__ = ["databases", "mariadb", "own_database", "postgres"]

APP = "django_kvsessions"


@contextmanager
def living_on(alias: str, **options: Any) -> Iterator[DatabaseStore]:
    """The site's sessions are there."""
    config = {"BACKEND": BACKEND, "LOCATION": alias, "OPTIONS": options}
    with override_settings(SESSION_STORES={"default": config}):
        store = stores["default"]
        assert isinstance(store, DatabaseStore)
        yield store


def migrate(alias: str, *to: str, **options: Any) -> str:
    out = StringIO()
    call_command("migrate", APP, *to, database=alias, stdout=out, verbosity=1, **options)
    return out.getvalue()


def tables(alias: str) -> list[str]:
    return connections[alias].introspection.table_names()


def shape(alias: str) -> object:
    """The columns and indexes of the table."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        columns = connection.introspection.get_table_description(cursor, APP)
        constraints = connection.introspection.get_constraints(cursor, APP)
    indexes = {
        (name if not constraint["primary_key"] else "", *constraint["columns"])
        for name, constraint in constraints.items()
        if constraint["index"] or constraint["primary_key"]
    }
    return [column[:-1] for column in columns], indexes


def test_the_migration_says_what_it_makes_and_makes_it(own_database: str) -> None:
    with living_on(own_database) as store:
        plan = migrate(own_database, plan=True)
        assert "django_kvsessions.0001_initial" in plan
        assert "table django_kvsessions" in plan
        assert APP not in tables(own_database)
        assert "0001_initial... OK" in migrate(own_database)
        assert store.setup_statements() == []
        kept = record(owner=ALICE)
        assert store.create(KEY, kept)
        assert dict(store.scan_owner(ALICE)) == {KEY: kept}
        assert "No migrations to apply" in migrate(own_database)
        assert dict(store.scan()) == {KEY: kept}


def test_the_migration_makes_the_very_table_that_setup_makes(own_database: str) -> None:
    with living_on(own_database) as store:
        store.setup()
        before = shape(own_database)
        run_sql(own_database, f"DROP TABLE {APP}")
        out = StringIO()
        call_command("sqlmigrate", APP, "0001", database=own_database, stdout=out)
        made = [line for line in out.getvalue().splitlines() if line.startswith("CREATE")]
        assert sorted(line.rstrip(";") for line in made) == sorted(
            sql.rstrip(";") for sql in store.setup_statements()
        )
        migrate(own_database)
        assert shape(own_database) == before


def test_a_table_from_before_there_were_migrations_is_taken_over(own_database: str) -> None:
    kept = record(b"kept", owner=ALICE)
    with living_on(own_database) as store:
        store.setup()
        store.create(KEY, kept)
        before = shape(own_database)
        migrate(own_database)
        assert dict(store.scan()) == {KEY: kept}
        assert shape(own_database) == before
        assert store.replace(KEY, kept)


def test_an_index_that_such_a_table_lacks_is_added(own_database: str) -> None:
    with living_on(own_database) as store:
        run_sql(own_database, *store.setup_statements()[:2])
        store.create(KEY, record())
        migrate(own_database)
        assert store.setup_statements() == []
        assert store.stats().live == 1


def test_a_table_of_something_else_stops_the_migration_and_names_the_setting(
    own_database: str,
) -> None:
    with living_on(own_database) as store:
        run_sql(own_database, f"CREATE TABLE {APP} (id integer, data integer)")
        for make in (lambda: migrate(own_database), store.setup, store.setup_statements):
            with pytest.raises(
                ImproperlyConfigured,
                match=rf"OPTIONS\['table'\].*DATABASES\['{own_database}'\].*no key, expires.*Name",
            ):
                make()


def test_where_no_store_keeps_it_no_table_is_made(own_database: str) -> None:
    migrate(own_database)
    with living_on(own_database, table="other"):
        migrate(own_database, "zero")
        migrate(own_database)
    assert set(tables(own_database)) == {"django_migrations", "other"}


def test_a_store_that_comes_after_the_migration_gets_its_table_too(own_database: str) -> None:
    migrate(own_database)
    with living_on(own_database) as store:
        migrate(own_database)
        assert store.setup_statements() == []


def test_the_migration_can_be_undone(own_database: str) -> None:
    with living_on(own_database):
        migrate(own_database)
        migrate(own_database, "zero")
        assert tables(own_database) == ["django_migrations"]
        migrate(own_database)
        assert APP in tables(own_database)
    migrate(own_database, "zero")
    migrate(own_database, "zero")
    assert APP not in tables(own_database)


def test_flush_ends_every_session(own_database: str) -> None:
    with living_on(own_database) as store:
        call_command("migrate", database=own_database, verbosity=0)
        store.create(KEY, record(owner=ALICE))
        call_command("flush", database=own_database, interactive=False, verbosity=0)
        assert list(store.scan()) == []
        assert store.create(KEY, record())


def test_no_test_case_sees_the_sessions_of_another(own_database: str) -> None:
    class Case(TransactionTestCase):
        databases = {own_database}

        def test_one(self) -> None:
            assert list(stores["default"].scan()) == []
            assert stores["default"].create(KEY, record())

        test_another = test_one

    with living_on(own_database):
        call_command("migrate", database=own_database, verbosity=0)
        tests = unittest.defaultTestLoader.loadTestsFromTestCase(Case)
        result = unittest.TextTestRunner(stream=StringIO()).run(tests)
    assert (result.testsRun, result.errors, result.failures) == (2, [], [])


def test_dumpdata_and_loaddata_carry_sessions_over(own_database: str, tmp_path: Any) -> None:
    kept = record(bytes(range(256)), owner=ALICE)
    anonymous = record(b"")
    dump = tmp_path / "dump.json"
    with living_on(own_database) as store:
        migrate(own_database)
        store.create(KEY, kept)
        store.create(OTHER, anonymous)
        for everything in (False, True):
            call_command(
                "dumpdata", APP, database=own_database, output=dump, use_base_manager=everything
            )
            assert len(json.loads(dump.read_text())) == 2
        store.delete(KEY)
        store.delete(OTHER)
        call_command("loaddata", dump, database=own_database, verbosity=0)
        assert dict(store.scan()) == {KEY: kept, OTHER: anonymous}


def test_dumpdata_needs_no_table_where_no_store_keeps_one(own_database: str) -> None:
    migrate(own_database)
    for everything in (False, True):
        out = StringIO()
        call_command(
            "dumpdata", APP, database=own_database, stdout=out, use_base_manager=everything
        )
        assert json.loads(out.getvalue()) == []
    assert not StoredSession.objects.using(own_database).exists()


def test_the_model_and_the_migrations_agree() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_nothing_warns_of_the_model_on_any_database(own_database: str) -> None:
    messages = checks.run_checks(
        app_configs=[apps.get_app_config(APP)], tags=["models"], databases=[own_database]
    )
    assert messages == []


def test_a_router_that_knows_nothing_of_the_app_changes_nothing(tmp_path: Any) -> None:
    add_database("routed", sqlite_database(tmp_path / "db"))
    with (
        override_settings(DATABASE_ROUTERS=["tests.test_models.OnlyDefault"]),
        living_on("routed") as store,
    ):
        migrate("routed")
        assert store.create(KEY, record())


class OnlyDefault:
    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db == "default"
