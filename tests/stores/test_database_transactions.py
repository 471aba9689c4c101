"""DatabaseStore in transactions of the site: what follows them, and what stands in their way."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from typing import TypeVar

import pytest
from asgiref.sync import async_to_sync
from django.db import Error, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from django_kvsessions.engine import SessionStore
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.database import DatabaseStore
from tests.support.databases import (
    ALICE,
    BACKEND,
    KEY,
    OTHER,
    calls,
    disconnecting,
    elsewhere,
    record,
    run_sql,
    table_name,
    writes,
)
from tests.support.servers_database import alias, databases, lite, mariadb, postgres

__all__ = ["alias", "databases", "lite", "mariadb", "postgres"]

T = TypeVar("T")


@pytest.fixture
def store(alias: str) -> DatabaseStore:
    store = DatabaseStore(alias, table=table_name())
    store.setup()
    return store


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
