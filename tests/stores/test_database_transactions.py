"""DatabaseStore in transactions of the site: what follows them, and what stands in their way."""

from __future__ import annotations

import asyncio
import re
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.sessions.backends.base import UpdateError
from django.db import Error, OperationalError, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path

from django_kvsessions.engine import SessionStore
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.database import DatabaseStore
from tests.support.databases import (
    ALICE,
    BACKEND,
    KEY,
    OTHER,
    add_database,
    calls,
    disconnecting,
    elsewhere,
    end_connection,
    record,
    run_sql,
    table_name,
    writes,
)
from tests.support.servers_database import alias, databases, lite, mariadb, postgres

pytestmark = pytest.mark.each_django

__all__ = ["alias", "databases", "lite", "mariadb", "postgres"]


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
            assert store.replace(KEY, new := record(b"new"))
        assert elsewhere(lambda: store.load(KEY)) == new

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


@contextmanager
def serving(store: DatabaseStore) -> Iterator[None]:
    """The site's sessions are in that store."""
    options = {"table": store._table.name}
    config = {"BACKEND": BACKEND, "LOCATION": store.alias, "OPTIONS": options}
    with override_settings(SESSION_STORES={"default": config}):
        yield


def begun(**data: Any) -> SessionStore:
    """A stored session, as a request loads it."""
    session = SessionStore()
    session.update(data)
    session.save()
    loaded = SessionStore(session.session_key)
    assert dict(loaded.items()) == data
    return loaded


def stored(session: SessionStore) -> dict[str, Any]:
    return elsewhere(lambda: dict(SessionStore(session.session_key).items()))


def change(session: SessionStore, **data: Any) -> None:
    """What another request does."""

    def apply() -> None:
        other = SessionStore(session.session_key)
        other.update(data)
        other.save()

    elsewhere(apply)


@pytest.fixture(params=["sync", "async"])
def save(request: pytest.FixtureRequest) -> Callable[[SessionStore], None]:
    if request.param == "sync":
        return lambda session: session.save()
    return lambda session: async_to_sync(session.asave)()


Save = Callable[[SessionStore], None]


class TestRollbacks:
    @pytest.fixture(autouse=True)
    def _serve(self, store: DatabaseStore) -> Iterator[None]:
        with serving(store):
            yield

    def test_a_session_saved_in_a_block_that_fails_stays_as_it_was(
        self, store: DatabaseStore
    ) -> None:
        session = begun(cart=1)
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=store.alias):
            session["cart"] = 2
            session.save()
            raise ZeroDivisionError
        assert stored(session) == {"cart": 1}

    def test_what_a_failed_block_took_back_is_saved_with_the_next_save(
        self, store: DatabaseStore, save: Save
    ) -> None:
        session = begun(cart=1)
        with suppress(ZeroDivisionError), transaction.atomic(using=store.alias):
            session["cart"] = 2
            save(session)
            raise ZeroDivisionError
        save(session)
        assert stored(session) == {"cart": 2}

    def test_it_is_saved_too_where_nothing_says_that_it_was_modified(
        self, store: DatabaseStore, save: Save
    ) -> None:
        session = begun(cart={"book": 1})
        with suppress(ZeroDivisionError), transaction.atomic(using=store.alias):
            session["cart"]["book"] = 2
            save(session)
            raise ZeroDivisionError
        assert not session.modified
        save(session)
        assert stored(session) == {"cart": {"book": 2}}

    def test_only_what_the_failed_savepoint_took_back_is_saved_again(
        self, store: DatabaseStore, save: Save
    ) -> None:
        session = begun(outer=1, inner=1)
        with transaction.atomic(using=store.alias):
            session["outer"] = 2
            save(session)
            for number in (2, 3):
                with suppress(ZeroDivisionError), transaction.atomic(using=store.alias):
                    session["inner"] = number
                    save(session)
                    raise ZeroDivisionError
            save(session)
        assert stored(session) == {"outer": 2, "inner": 3}

    def test_a_savepoint_that_was_kept_goes_with_the_block_around_it(
        self, store: DatabaseStore, save: Save
    ) -> None:
        session = begun(first=1)
        with transaction.atomic(using=store.alias):
            session["first"] = 2
            save(session)
            with transaction.atomic(using=store.alias):
                session["second"] = 2
                save(session)
            transaction.set_rollback(True, using=store.alias)
        save(session)
        assert stored(session) == {"first": 2, "second": 2}

    def test_what_another_request_did_after_the_rollback_is_kept(
        self, store: DatabaseStore, save: Save
    ) -> None:
        session = begun(mine=1, theirs=1)
        with transaction.atomic(using=store.alias):
            session["mine"] = 2
            save(session)
            transaction.set_rollback(True, using=store.alias)
        change(session, theirs=2)
        save(session)
        assert stored(session) == {"mine": 2, "theirs": 2}

    def test_what_was_committed_is_not_done_again_over_another_request(
        self, store: DatabaseStore, save: Save
    ) -> None:
        session = begun(count=0)
        with transaction.atomic(using=store.alias):
            session["count"] += 1
            save(session)
        change(session, count=2)
        save(session)
        assert stored(session) == {"count": 2}

    def test_a_mutation_brings_back_nothing_and_loses_nothing(self, store: DatabaseStore) -> None:
        def count(data: dict[str, Any]) -> None:
            data["count"] += 1

        session = begun(cart=1, count=0)
        with transaction.atomic(using=store.alias):
            session["cart"] = 2
            session.mutate(count)
            session.save()
            transaction.set_rollback(True, using=store.alias)
        session.mutate(count)
        session.save()
        # What was seen of the first count stays in the object, as any change that is undone.
        assert stored(session)["cart"] == 2
        with transaction.atomic(using=store.alias):
            session.mutate(count)
        before = stored(session)["count"]
        change(session, count=before + 1)
        session.save()
        assert stored(session)["count"] == before + 1

    def test_a_new_id_that_was_taken_back_leaves_the_former_session(
        self, store: DatabaseStore
    ) -> None:
        session = begun(cart=1)
        former = SessionStore(session.session_key)
        with transaction.atomic(using=store.alias):
            session.cycle_key()
            transaction.set_rollback(True, using=store.alias)
        # As with Django's own engine.
        with pytest.raises(UpdateError):
            session.save()
        assert stored(former) == {"cart": 1}

    def test_a_test_case_counts_its_own_callbacks_alone(self, store: DatabaseStore) -> None:
        class Case(TestCase):
            databases = {store.alias}

            def test(self) -> None:
                session = begun(cart=1)
                with self.captureOnCommitCallbacks(using=store.alias) as callbacks:
                    session["cart"] = 2
                    session.save()
                    with suppress(ZeroDivisionError), transaction.atomic(using=store.alias):
                        session["cart"] = 3
                        session.save()
                        raise ZeroDivisionError
                    session.save()
                assert callbacks == []
                assert SessionStore(session.session_key)["cart"] == 3

        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
        assert (result.testsRun, result.errors, result.failures) == (1, [], [])


@pytest.fixture
def isolated(alias: str) -> Iterator[DatabaseStore]:
    """A store on a connection whose transactions see what was there when they began."""
    settings = connections[alias].settings_dict
    level: Any = "repeatable read"
    if connections[alias].vendor == "postgresql":
        import psycopg

        level = psycopg.IsolationLevel.REPEATABLE_READ
    database = {**settings, "OPTIONS": {**settings["OPTIONS"], "isolation_level": level}}
    add_database(f"{alias}-isolated", database)
    store = DatabaseStore(f"{alias}-isolated", table=table_name())
    store.setup()
    with serving(store):
        yield store


@pytest.mark.servers
@pytest.mark.parametrize("alias", ["mariadb"], indirect=True)
class TestRepeatableReadOnMySQL:
    def test_a_conflict_is_merged_at_the_second_look(
        self, isolated: DatabaseStore, save: Save
    ) -> None:
        session = begun(mine=1, theirs=1)
        with transaction.atomic(using=isolated.alias):
            assert isolated.load(KEY) is None
            change(session, theirs=2)
            session["mine"] = 2
            with CaptureQueriesContext(connections[isolated.alias]) as queries:
                save(session)
            assert len([query for query in queries if "SAVEPOINT" not in query["sql"]]) == 3
            assert dict(SessionStore(session.session_key).items()) == {"mine": 2, "theirs": 2}
        assert stored(session) == {"mine": 2, "theirs": 2}

    def test_a_conflict_of_a_mutation_is_settled_at_the_second_look(
        self, isolated: DatabaseStore
    ) -> None:
        session = begun(count=1)
        with transaction.atomic(using=isolated.alias):
            assert isolated.load(KEY) is None
            change(session, count=5)
            with CaptureQueriesContext(connections[isolated.alias]) as queries:
                session.mutate(lambda data: data.update(count=data["count"] + 1))
            assert len([query for query in queries if "SAVEPOINT" not in query["sql"]]) == 4
        assert stored(session) == {"count": 6}

    def test_a_key_that_was_taken_meanwhile_is_taken(self, isolated: DatabaseStore) -> None:
        theirs = record(b"theirs")
        with transaction.atomic(using=isolated.alias):
            assert isolated.load(KEY) is None
            assert elsewhere(lambda: isolated.create(KEY, theirs))
            assert isolated.create(KEY, record()) is False
        assert isolated.load(KEY) == theirs

    def test_requests_in_blocks_that_change_one_session_do_not_deadlock(
        self, isolated: DatabaseStore
    ) -> None:
        session = begun(count=0, touched=0)

        def visit() -> None:
            for _ in range(5):
                with transaction.atomic(using=isolated.alias):
                    mine = SessionStore(session.session_key)
                    mine["touched"] = mine["touched"] + 1
                    time.sleep(0.01)
                    mine.save()
                    mine.mutate(lambda data: data.update(count=data["count"] + 1))

        started = time.monotonic()
        with ThreadPoolExecutor(4) as executor:
            for visitor in [executor.submit(disconnecting, visit) for _ in range(4)]:
                visitor.result(60)
        assert stored(session)["count"] == 20
        assert time.monotonic() - started < 30


@pytest.mark.servers
@pytest.mark.parametrize("alias", ["postgres", "mariadb"], indirect=True)
class TestBlocksThatCannotGoOn:
    """Decorators that begin a transaction again look for the database's own errors."""

    def test_a_deadlock_comes_out_as_the_databases_own_error(self, store: DatabaseStore) -> None:
        store.create(KEY, record())
        store.create(OTHER, record())
        barrier = threading.Barrier(2)

        def cross(first: bytes, second: bytes) -> Exception | None:
            try:
                with transaction.atomic(using=store.alias):
                    assert store.replace(first, record())
                    barrier.wait(30)
                    assert store.replace(second, record())
            except Exception as error:
                return error
            return None

        with ThreadPoolExecutor(2) as executor:
            ways = [(KEY, OTHER), (OTHER, KEY)]
            crossing = [executor.submit(disconnecting, partial(cross, *way)) for way in ways]
            outcomes = [done.result(60) for done in crossing]
        assert [type(outcome) for outcome in outcomes if outcome] == [OperationalError]

    def test_a_serialization_failure_comes_out_as_the_databases_own_error(
        self, isolated: DatabaseStore
    ) -> None:
        session = begun(cart=1)
        if connections[isolated.alias].vendor == "mysql":
            run_sql(isolated.alias, "SET SESSION innodb_snapshot_isolation = ON")
        with pytest.raises(OperationalError), transaction.atomic(using=isolated.alias):
            assert isolated.load(KEY) is None
            change(session, cart=2)
            session["cart"] = 3
            session.save()
        assert stored(session) == {"cart": 2}
        session.save()
        assert stored(session) == {"cart": 3}


@pytest.mark.servers
@pytest.mark.parametrize("alias", ["postgres", "mariadb"], indirect=True)
class TestAutocommitOff:
    @pytest.fixture
    def manual(self, store: DatabaseStore) -> DatabaseStore:
        """A store with AUTOCOMMIT off; ``store`` has the same table."""
        name = f"{store.alias}-manual"
        add_database(name, {**connections[store.alias].settings_dict, "AUTOCOMMIT": False})
        return DatabaseStore(name, table=store._table.name)

    def test_a_write_is_there_for_others_when_the_site_commits(
        self, store: DatabaseStore, manual: DatabaseStore
    ) -> None:
        kept = record(b"kept")
        assert manual.create(KEY, kept)
        assert manual.load(KEY) == kept
        assert store.load(KEY) is None
        connections[manual.alias].commit()
        assert store.load(KEY) == kept
        assert manual.delete(KEY)
        connections[manual.alias].rollback()
        assert store.load(KEY) == kept

    def test_a_failed_write_leaves_the_transaction_usable(
        self, store: DatabaseStore, manual: DatabaseStore
    ) -> None:
        table = store._table.quoted
        run_sql(store.alias, f"ALTER TABLE {table} ADD CHECK (length(data) < 100)")
        kept = record(b"kept")
        assert manual.create(KEY, kept)
        with pytest.raises(StoreUnavailable):
            manual.create(OTHER, record(b"x" * 100))
        assert manual.load(KEY) == kept
        connections[manual.alias].commit()
        assert dict(store.scan()) == {KEY: kept}

    def test_what_a_lost_connection_took_with_it_is_not_done_alone(
        self, store: DatabaseStore, manual: DatabaseStore
    ) -> None:
        assert manual.create(KEY, record())
        end_connection(manual.alias)
        with pytest.raises(StoreUnavailable):
            manual.create(OTHER, record())
        connections[manual.alias].close()
        assert dict(store.scan()) == {}

    def test_a_save_that_the_site_rolled_back_is_made_again(
        self, store: DatabaseStore, manual: DatabaseStore
    ) -> None:
        with serving(store):
            session = begun(cart=1)
        with serving(manual):
            mine = SessionStore(session.session_key)
            mine["cart"] = 2
            mine.save()
            connections[manual.alias].rollback()
            mine.save()
            connections[manual.alias].commit()
        with serving(store):
            assert stored(session) == {"cart": 2}


# Views, and where they are found


def saved_and_undone(request: HttpRequest) -> HttpResponse:
    request.session["cart"] = 2
    request.session.save()
    transaction.set_rollback(True, using=request.GET["alias"])
    return HttpResponse()


def saved_in_a_block_that_fails(request: HttpRequest) -> HttpResponse:
    with suppress(ZeroDivisionError), transaction.atomic(using=request.GET["alias"]):
        request.session["cart"] = 2
        request.session.save()
        raise ZeroDivisionError
    return HttpResponse()


VIEWS = [saved_and_undone, saved_in_a_block_that_fails]
urlpatterns = [path(f"{view.__name__}/", view) for view in VIEWS]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(
    "middleware",
    [
        "django_kvsessions.middleware.SessionMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
    ],
)
def test_the_middleware_saves_what_atomic_requests_took_back(
    store: DatabaseStore, view: Callable[..., Any], colour: str, middleware: str
) -> None:
    settings = connections.settings[store.alias]
    with (
        serving(store),
        override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[middleware]),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(settings, "ATOMIC_REQUESTS", True)
        session = begun(cart=1)
        where = f"/{view.__name__}/?alias={store.alias}"
        cookie = f"sessionid={session.session_key}"
        if colour == "sync":
            client = Client()
            client.cookies.load(cookie)
            status = client.get(where).status_code
        else:
            async_client = AsyncClient()
            async_client.cookies.load(cookie)
            status = asyncio.run(async_client.get(where)).status_code
        assert status == 200
        assert stored(session) == {"cart": 2}
