"""MongoDBStore on its wire protocol: a stand-in over mongomock, and a real server.

KVSESSIONS_TEST_MONGODB_URL names the real server, with a database; each test
uses a collection of its own there and drops it.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timezone
from functools import partial
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import make_store as configured
from django_kvsessions.stores.base import Record, StoreCorrupted, StoreUnavailable
from django_kvsessions.stores.mongodb import MongoDBStore
from django_kvsessions.testing import Cutting, MakeStore
from django_kvsessions.testing.proxy import Proxy
from tests.support.counting import assert_nothing_counts_twice
from tests.support.full_races import FullRaces
from tests.support.outages import Outage
from tests.support.servers import serve
from testservers import free_port
from testservers.mongodb import MongoDBServer, mongodb_server

# Their drivers are only installed where the servers are.
pytestmark = pytest.mark.servers

REAL = os.environ.get("KVSESSIONS_TEST_MONGODB_URL", "")
KEY = b"k" * 32
ALICE = b"a" * 16
SECRET = "s3cret"


@pytest.fixture(scope="session")
def mongodb() -> Iterator[Any]:
    """A stand-in that every test of the run shares: use collections of your own."""
    yield from serve(mongodb_server)


@pytest.fixture
def url(mongodb: MongoDBServer) -> str:
    return f"mongodb://127.0.0.1:{mongodb.port}/sessions"


@pytest.fixture
def make_store(url: str) -> partial[MongoDBStore]:
    return partial(MongoDBStore, url, collection=uuid.uuid4().hex, serverSelectionTimeoutMS=800)


@pytest.fixture
def store(make_store: MakeStore) -> Iterator[Any]:
    store = make_store()
    yield store
    store.close()


@pytest.fixture
def collection(url: str, store: MongoDBStore) -> Iterator[Any]:
    """A look at the store's collection from the side."""
    import pymongo

    with pymongo.MongoClient[Any](url) as client:
        yield client.sessions[store._collection.name]


def without_network(server: MongoDBServer) -> Outage:
    @contextmanager
    def cut() -> Iterator[None]:
        server.cut()
        try:
            yield
        finally:
            server.mend()

    return cut


def record(data: bytes = b"data", owner: bytes = b"", seconds: float = 600) -> Record:
    return Record(data, time.time() + seconds, int.from_bytes(os.urandom(8), "big") >> 1, owner)


@pytest.mark.servers
class TestMongoDB(FullRaces):
    kills = 2
    process_keys = 50
    scans = 10
    scan_records = 500

    @pytest.fixture
    def make_store(self, make_store: partial[MongoDBStore]) -> partial[MongoDBStore]:
        return make_store

    @pytest.fixture
    def outage(self, mongodb: MongoDBServer) -> Outage:
        return without_network(mongodb)

    @pytest.fixture
    def cutting(
        self, make_store: partial[MongoDBStore], mongodb: MongoDBServer
    ) -> Iterator[Cutting]:
        with Proxy(("127.0.0.1", mongodb.port)) as proxy:
            # Otherwise pymongo looks after the server in connections of its own, and waits
            # half a second after each that is lost. It sends writes again here.
            location = f"mongodb://127.0.0.1:{proxy.port}/sessions?loadBalanced=true"
            yield partial(MongoDBStore, location, **make_store.keywords), proxy


if REAL:

    @pytest.mark.servers
    class TestRealMongoDB(FullRaces):
        @pytest.fixture
        def make_store(self) -> Iterator[MakeStore]:
            import pymongo

            name = "test_" + uuid.uuid4().hex
            yield partial(MongoDBStore, REAL, collection=name)
            with pymongo.MongoClient[Any](REAL) as client:
                client.get_default_database().drop_collection(name)


@pytest.mark.servers
class TestOnTheServer:
    def test_writes_wait_for_the_journals_of_a_majority(self, store: MongoDBStore) -> None:
        import pymongo.monitoring

        seen: list[dict[str, Any]] = []

        class Listener(pymongo.monitoring.CommandListener):
            def started(self, event: Any) -> None:
                seen.append(event.command)

            def succeeded(self, event: Any) -> None: ...
            def failed(self, event: Any) -> None: ...

        where = store._collection.settings["write_concern"].document
        assert where == {"w": "majority", "j": True}
        address = store._collection.clients.get().address
        assert address is not None
        port = address[1]
        other = MongoDBStore(f"mongodb://127.0.0.1:{port}/s", event_listeners=[Listener()])
        other.create(KEY, record())
        other.replace(KEY, record())
        other.touch(KEY, time.time() + 900)
        other.delete(KEY)
        other.close()
        concerns = [each["writeConcern"] for each in seen]
        assert [dict(each) for each in concerns] == [{"w": "majority", "j": True}] * 4

    def test_locations_own_write_concern_wins(self, url: str) -> None:
        with_own = MongoDBStore(f"{url}?w=1")
        assert with_own.create(uuid.uuid4().bytes * 2, record())
        assert "write_concern" not in with_own._collection.settings
        with_own.close()

    def test_setup_makes_a_ttl_index_and_one_by_owner(
        self, store: MongoDBStore, collection: Any
    ) -> None:
        assert len(store.setup_statements()) == 2
        assert [each.id for each in store.check_server(alias="x")] == ["kvsessions.W150"] * 2
        store.setup()
        assert store.setup_statements() == []
        assert store.check_server(alias="x") == []
        indexes = collection.index_information()
        assert indexes.keys() == {"_id_", "expires", "owner"}

    def test_the_ttl_index_is_on_a_date(self, store: MongoDBStore, collection: Any) -> None:
        written = record(owner=ALICE)
        store.create(KEY, written)
        [document] = collection.find()
        assert document["_id"] == KEY
        assert (
            abs(document["expires"].replace(tzinfo=timezone.utc).timestamp() - written.expires)
            < 0.01
        )
        assert document["owner"] == ALICE
        store.replace(KEY, record())
        assert "owner" not in collection.find_one()

    def test_an_expired_record_is_gone_for_the_server_too(
        self, store: MongoDBStore, collection: Any
    ) -> None:
        store.setup()
        store.create(KEY, record(seconds=-3600))
        assert collection.count_documents({}) == 0

    def test_a_document_that_is_no_session_is_damage(
        self, store: MongoDBStore, collection: Any
    ) -> None:
        collection.insert_one({"_id": KEY, "name": "a customer"})
        with pytest.raises(StoreCorrupted, match="collection.*shared"):
            store.load(KEY)

    def test_each_event_loop_has_a_client_of_its_own(self, store: MongoDBStore) -> None:
        async def use() -> object:
            assert (await store.aload(KEY)) is None
            return await store._collection.clients.aget()

        first, second = asyncio.run(use()), asyncio.run(use())
        assert first is not second

    @pytest.mark.parametrize("limit", ["timeoutMS", "socketTimeoutMS"])
    def test_a_call_ends_with_its_timeout_whatever_is_tried_within_it(
        self, url: str, mongodb: MongoDBServer, limit: str
    ) -> None:
        options: dict[str, Any] = {limit: 1000}
        store = MongoDBStore(url, **options)
        assert store.load(KEY) is None
        mongodb.pause()
        try:
            for ask in (
                lambda: store.load(KEY),
                lambda: store.create(KEY, record()),
                lambda: store.replace(KEY, record(), expected=1),
                lambda: store.touch(KEY, time.time() + 60),
                lambda: store.delete(KEY),
                lambda: list(store.scan()),
                lambda: list(store.delete_expired()),
            ):
                started = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    ask()
                # Of each socket, the former limit, one connection may be tried after another.
                assert time.monotonic() - started < (1.7 if limit == "timeoutMS" else 10)
        finally:
            mongodb.resume()
            store.close()

    @pytest.mark.parametrize(
        ("query", "options", "seconds"),
        [
            ("", {}, 3.0),
            ("?serverSelectionTimeoutMS=800", {"connectTimeoutMS": 500}, 3.0),
            ("?timeoutMS=500", {}, 0.5),
            ("", {"timeoutMS": 700}, 0.7),
            # What sites set before it was there.
            ("?socketTimeoutMS=900", {}, None),
        ],
    )
    def test_a_call_has_one_time_limit_unless_told_otherwise(
        self, url: str, query: str, options: dict[str, Any], seconds: float | None
    ) -> None:
        store = MongoDBStore(url + query, **options)
        assert store._collection.clients.get().options.timeout == seconds
        store.close()

    @pytest.mark.parametrize("balanced", ["true", "false"])
    def test_nothing_counts_twice(
        self, store: MongoDBStore, mongodb: MongoDBServer, balanced: str
    ) -> None:
        with Proxy(("127.0.0.1", mongodb.port)) as proxy:
            location = f"mongodb://127.0.0.1:{proxy.port}/sessions?loadBalanced={balanced}"
            through = MongoDBStore(location, collection=store._collection.name)
            assert_nothing_counts_twice(through, store, proxy)
            through.close()

    def test_setup_may_take_longer_than_a_call(self, url: str) -> None:
        import pymongo.monitoring

        limits: list[int] = []

        class Listener(pymongo.monitoring.CommandListener):
            def started(self, event: Any) -> None:
                if event.command_name == "createIndexes":
                    limits.append(event.command["maxTimeMS"])

            def succeeded(self, event: Any) -> None: ...
            def failed(self, event: Any) -> None: ...

        store = MongoDBStore(url, collection=uuid.uuid4().hex, event_listeners=[Listener()])
        store.setup()
        asyncio.run(store.asetup())
        store.close()
        assert len(limits) == 4
        assert min(limits) > 60_000

    def test_an_outage_is_no_logout(self, url: str, mongodb: MongoDBServer, settings: Any) -> None:
        options = {"collection": uuid.uuid4().hex, "serverSelectionTimeoutMS": 800}
        settings.SESSION_STORES = {
            "default": {
                "BACKEND": "django_kvsessions.stores.mongodb.MongoDBStore",
                "LOCATION": url,
                "OPTIONS": options,
            }
        }
        session = SessionStore()
        session["cart"] = [1]
        session.save()
        key = session.session_key
        with without_network(mongodb)():
            again = SessionStore(key)
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                again.get("cart")
            assert time.monotonic() - started < 10
            assert again.session_key == key
        assert SessionStore(key)["cart"] == [1]


class TestBadInput:
    """Nothing here opens a connection to a server that is there."""

    def test_an_unreachable_server_is_named_and_secrets_are_not(self) -> None:
        port = free_port()
        location = f"mongodb://root:{SECRET}@127.0.0.1:{port}/s"
        store = MongoDBStore(location, serverSelectionTimeoutMS=100)
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}.*LOCATION") as raised:
            store.load(KEY)
        store.close()
        assert SECRET not in str(raised.value)

    @pytest.mark.parametrize(
        ("location", "options", "message"),
        [
            (None, {}, "LOCATION must be a URL"),
            (5, {}, "LOCATION must be a URL"),
            (f"mongodb://root:{SECRET}/x@y@host/s", {}, "percent-encode"),
            (f"mongodb://root:{SECRET}@host:port/s", {}, "percent-encode"),
            ("redis://host", {}, "mongodb://"),
            ("mongodb://host", {}, r"OPTIONS\['database'\]"),
            ("mongodb://host/s", {"database": 5}, r"OPTIONS\['database'\]"),
            ("mongodb://host/s", {"collection": "a..b"}, r"OPTIONS\['collection'\]"),
            ("mongodb://host/s", {"no_such": 1}, "OPTIONS.*no_such"),
            ("mongodb://host/s", {"maxPoolSize": "x"}, "OPTIONS.*maxPoolSize"),
            ("mongodb://host/s", {"max_record_size": 2**24}, "16 MiB"),
            (
                "mongodb://host/s",
                {"max_record_size": "x"},
                r"OPTIONS\['max_record_size'\] must be a whole number",
            ),
            ("mongodb://host/s", {"database": ""}, r"OPTIONS\['database'\] must be a text"),
            ("mongodb://host/s", {"collection": 5}, r"OPTIONS\['collection'\] must be a text"),
            ("mongodb://host/s?w=0", {}, "acknowledges"),
            ("mongodb://host/s", {"w": 0}, "acknowledges"),
        ],
    )
    def test_wrong_settings_are_named(
        self, location: Any, options: dict[str, Any], message: str, settings: Any
    ) -> None:
        settings.SESSION_STORES = {
            "default": {
                "BACKEND": "django_kvsessions.stores.mongodb.MongoDBStore",
                "LOCATION": location,
                "OPTIONS": options,
            }
        }
        with pytest.raises(ImproperlyConfigured, match=message) as raised:
            configured("default")
        assert "SESSION_STORES['default']" in str(raised.value)
        assert SECRET not in str(raised.value)
