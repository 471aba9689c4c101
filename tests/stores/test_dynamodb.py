"""DynamoDBStore on two stand-ins, each strict where the other is lax: moto and dynalite."""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import os
import socket
import struct
import subprocess
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import make_store as configured
from django_kvsessions.stores.base import Record, StoreCorrupted, StoreUnavailable
from django_kvsessions.stores.dynamodb import DynamoDBStore
from django_kvsessions.stores.dynamodb.store import LARGEST
from django_kvsessions.testing import Cutting, MakeStore
from django_kvsessions.testing.proxy import Proxy
from tests.support.counting import assert_nothing_counts_twice
from tests.support.full_races import FullRaces
from tests.support.outages import Outage, killing
from tests.support.servers import serve
from testservers import Server, free_port
from testservers.dynamodb import dynalite_server, moto_server

# Their drivers are only installed where the servers are.
pytestmark = pytest.mark.servers

KEY = b"k" * 32
ALICE = b"a" * 16
BOB = b"b" * 16
SECRET = "s3cret-key"
OPTIONS: dict[str, Any] = {
    "region_name": "eu-west-1",
    "aws_access_key_id": "AKIDEXAMPLE",
    "aws_secret_access_key": SECRET,
    "attempts": 2,
}
#: Seconds for a call of one of many threads, on a busy machine.
PATIENCE = 20


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    """A moto that every test of the run shares: use tables of your own."""
    yield from serve(moto_server)


@pytest.fixture(scope="session")
def dynalite() -> Iterator[Server]:
    """A dynalite that every test of the run shares: use tables of your own."""
    yield from serve(dynalite_server)


def opening(port: int, **options: Any) -> partial[DynamoDBStore]:
    table = f"sessions-{uuid.uuid4().hex}"
    return partial(DynamoDBStore, table, **{**OPTIONS, "endpoint_url": at(port), **options})


def at(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def cut_between(make_store: partial[DynamoDBStore], server: Server) -> Iterator[Cutting]:
    """The body of the kit's fixture ``cutting``."""
    with Proxy(("127.0.0.1", server.port)) as proxy:
        yield partial(make_store, endpoint_url=at(proxy.port), attempts=3), proxy


def record(data: bytes = b"data", owner: bytes = b"", seconds: float = 600) -> Record:
    return Record(data, time.time() + seconds, int.from_bytes(os.urandom(8), "big") >> 1, owner)


class DynamoDBConformance(FullRaces):
    pytestmark = pytest.mark.servers

    removes_expired_itself = True
    race_keys = 6
    increments = 4
    scans = 3
    expired_records = 6
    # A page has 1 MB, which JSON multiplies.
    scan_records = 1500
    process_keys = 10
    kill_threads = 1
    kill_keys = 6
    kills = 1


class TestMoto(DynamoDBConformance):
    cut_points = 8

    @pytest.fixture
    def make_store(self, moto: Server) -> MakeStore:
        # It measures binary values by their base64.
        return opening(moto.port, timeout=PATIENCE, max_record_size=300_000)

    @pytest.fixture
    def cutting(self, make_store: partial[DynamoDBStore], moto: Server) -> Iterator[Cutting]:
        yield from cut_between(make_store, moto)


class TestDynalite(DynamoDBConformance):
    @pytest.fixture
    def make_store(self, dynalite: Server) -> MakeStore:
        return opening(dynalite.port, timeout=PATIENCE)

    @pytest.fixture
    def cutting(self, make_store: partial[DynamoDBStore], dynalite: Server) -> Iterator[Cutting]:
        yield from cut_between(make_store, dynalite)

    @pytest.fixture
    def outage(self, dynalite: Server) -> Outage:
        return killing(dynalite)


@pytest.mark.servers
def test_dynalite_outlives_a_client_that_is_killed_while_it_sends(dynalite: Server) -> None:
    process = dynalite.process
    assert process is not None
    with socket.create_connection(("127.0.0.1", dynalite.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        time.sleep(0.1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    assert dynalite.answers()


class Busy(ThreadingHTTPServer):
    """Passes requests on to a stand-in, except those that it is told to answer or to spoil.

    No stand-in throttles, leaves keys unprocessed or loses an answer; this does.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = port
        self.throttled = self.lost = self.unprocessed = 0
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def of(self, operation: str) -> list[dict[str, Any]]:
        return [body for name, body in self.asked if name == operation]


class Handler(BaseHTTPRequestHandler):
    server: Busy
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        proxy = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        proxy.asked.append((operation, json.loads(body)))
        if proxy.throttled:
            proxy.throttled -= 1
            throttling = "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"
            self.answer(400, json.dumps({"__type": throttling, "message": "slow down"}).encode())
        elif proxy.unprocessed and operation == "BatchGetItem":
            proxy.unprocessed -= 1
            left = {"Responses": {}, "UnprocessedKeys": json.loads(body)["RequestItems"]}
            self.answer(200, json.dumps(left).encode())
        else:
            connection = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=10)
            connection.request("POST", "/", body, dict(self.headers))
            response = connection.getresponse()
            content = response.read()
            connection.close()
            if proxy.lost:
                proxy.lost -= 1
                self.close_connection = True
            else:
                self.answer(response.status, content)

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(params=["moto", "dynalite"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxy(server: Server) -> Iterator[Busy]:
    with Busy(server.port) as proxy:
        Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.fixture
def store(proxy: Busy) -> Iterator[DynamoDBStore]:
    store = opening(proxy.server_port, attempts=3)()
    store.setup()
    yield store
    store.close()


@pytest.mark.servers
class TestService:
    def test_throttling_is_retried_and_then_unavailable(
        self, store: DynamoDBStore, proxy: Busy
    ) -> None:
        proxy.throttled = 2
        assert store.create(KEY, record()) is True
        proxy.asked.clear()
        proxy.throttled = 100
        with pytest.raises(StoreUnavailable, match="slow down"):
            store.load(KEY)
        assert len(proxy.of("GetItem")) == 3
        proxy.throttled = 0
        assert store.load(KEY) is not None

    def test_a_write_whose_answer_was_lost_was_done(
        self, store: DynamoDBStore, proxy: Busy
    ) -> None:
        first, second = record(b"first"), record(b"second")
        proxy.lost = 1
        assert store.create(KEY, first) is True
        proxy.lost = 1
        assert store.replace(KEY, second, expected=first.revision) is True
        assert store.load(KEY) == second
        assert store.create(KEY, second) is False
        assert store.replace(KEY, second, expected=first.revision) is False
        # Whole seconds, which DynamoDB does not write as Python does.
        later = time.time() // 1 + 900
        for expected in (None, second.revision):
            later += 1
            proxy.lost = 1
            assert store.touch(KEY, later, expected=expected) is True
            assert store.load(KEY) == second._replace(expires=later)
        asked = len(proxy.of("UpdateItem"))
        assert asked == 2

    def test_a_delete_is_never_sent_again(self, store: DynamoDBStore, proxy: Busy) -> None:
        store.create(KEY, record())
        proxy.lost = 1
        with pytest.raises(StoreUnavailable, match="answer"):
            store.delete(KEY)
        assert len(proxy.of("DeleteItem")) == 1
        assert store.load(KEY) is None
        assert store.delete(KEY) is False

    def test_keys_left_unprocessed_are_asked_for_again(
        self, store: DynamoDBStore, proxy: Busy
    ) -> None:
        written = record(owner=ALICE)
        store.create(KEY, written)
        proxy.unprocessed = 2
        assert list(store.scan_owner(ALICE)) == [(KEY, written)]
        assert len(proxy.of("BatchGetItem")) == 3
        proxy.unprocessed = 100
        with pytest.raises(StoreUnavailable, match="unprocessed"):
            list(store.scan_owner(ALICE))

    def test_reads_are_strongly_consistent_unless_told_otherwise(
        self, store: DynamoDBStore, proxy: Busy
    ) -> None:
        for reads in (store, opening(proxy.server_port, consistent=False)()):
            reads.setup()
            reads.create(KEY, record(owner=ALICE))
            proxy.asked.clear()
            reads.load(KEY)
            list(reads.scan())
            list(reads.scan_owner(ALICE))
            bodies = [*proxy.of("GetItem"), *proxy.of("Scan")]
            [batch] = proxy.of("BatchGetItem")
            bodies += batch["RequestItems"].values()
            assert [body["ConsistentRead"] for body in bodies] == [reads is store] * 3
            reads.close()

    def test_an_item_has_a_ttl_in_whole_seconds_rounded_up(
        self, store: DynamoDBStore, proxy: Busy
    ) -> None:
        expires = time.time() // 1 + 600.25
        store.create(KEY, record()._replace(expires=expires))
        store.touch(KEY, expires + 1)
        [put], [update] = proxy.of("PutItem"), proxy.of("UpdateItem")
        assert put["Item"]["ttl"] == {"N": str(int(expires) + 1)}
        assert update["ExpressionAttributeValues"][":ttl"] == {"N": str(int(expires) + 2)}
        assert "owner" not in put["Item"]

    def test_setup_makes_what_is_missing(self, server: Server) -> None:
        store = opening(server.port, tags={"team": "web"})()
        assert len(store.setup_statements()) == 3
        assert {each.id for each in store.check_server(alias="x")} == {"kvsessions.W160"}
        store.setup()
        # dynalite knows no TTL, and the check goes on saying so.
        assert store.setup_statements() in ([], ["enable its TTL"])
        store.close()

    def test_a_table_gets_its_ttl_tags_and_bill(self, moto: Server) -> None:
        store = opening(moto.port, tags={"team": "web"})()
        store.setup()
        assert store.setup_statements() == []
        client, table = store._table.clients.get(), store._table.name
        ttl = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}
        description = store._table.description()
        assert description["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        tags = client.list_tags_of_resource(ResourceArn=description["TableArn"])["Tags"]
        assert tags == [{"Key": "team", "Value": "web"}]
        store.close()

    def test_setup_adds_the_index_to_a_table_without_one(self, moto: Server) -> None:
        store = opening(moto.port)()
        store._table.clients.get().create_table(
            TableName=store._table.name,
            AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "B"}],
            KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        assert store.setup_statements() == ["create its index owner", "enable its TTL"]
        store.setup()
        store.create(KEY, record(owner=ALICE))
        assert [key for key, _ in store.scan_owner(ALICE)] == [KEY]
        store.close()

    def test_a_table_of_something_else_is_refused(self, server: Server) -> None:
        store = opening(server.port)()
        store._table.clients.get().create_table(
            TableName=store._table.name,
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        with pytest.raises(ImproperlyConfigured, match="name another table"):
            store.setup()
        store.close()

    def test_an_item_that_is_no_session_is_damage(self, store: DynamoDBStore) -> None:
        item = {"key": {"B": KEY}, "name": {"S": "a customer"}}
        store._table.ask(lambda client: client.put_item(TableName=store._table.name, Item=item))
        with pytest.raises(StoreCorrupted, match="shared"):
            store.load(KEY)

    def test_a_missing_table_is_named_with_the_cure(self, server: Server) -> None:
        store = opening(server.port)()
        with pytest.raises(StoreUnavailable, match="setupsessions.*region_name"):
            store.load(KEY)
        store.close()

    def test_a_large_page_is_followed_by_the_next(self, store: DynamoDBStore, proxy: Busy) -> None:
        keys = {bytes([number]) * 32 for number in range(5)}
        for key in keys:
            store.create(key, record(os.urandom(300_000), owner=BOB))
        assert {key for key, _ in store.scan()} == keys
        assert len(proxy.of("Scan")) > 1
        assert {key for key, _ in store.scan_owner(BOB)} == keys

    def test_async_calls_do_not_block_the_loop(self, store: DynamoDBStore) -> None:
        async def main() -> None:
            await store.acreate(KEY, record())
            loaded = await asyncio.gather(*[store.aload(KEY) for _ in range(10)])
            assert None not in loaded

        assert store.is_nonblocking is False
        asyncio.run(main())

    def test_an_outage_is_no_logout(self, dynalite: Server, settings: Any) -> None:
        store = opening(dynalite.port)
        store().setup()
        settings.SESSION_STORES = {
            "default": {
                "BACKEND": "django_kvsessions.stores.dynamodb.DynamoDBStore",
                "LOCATION": store.args[0],
                "OPTIONS": store.keywords,
            }
        }
        session = SessionStore()
        session["cart"] = [1]
        session.save()
        key = session.session_key
        dynalite.kill()
        try:
            again = SessionStore(key)
            with pytest.raises(StoreUnavailable):
                again.get("cart")
            assert again.session_key == key
        finally:
            dynalite.start()
        assert SessionStore(key)["cart"] == [1]


@pytest.mark.servers
class TestLostAnswers:
    @pytest.fixture
    def cutter(self, server: Server) -> Iterator[Proxy]:
        with Proxy(("127.0.0.1", server.port)) as cutter:
            yield cutter

    @pytest.fixture
    def direct(self, server: Server) -> Iterator[DynamoDBStore]:
        store = opening(server.port)()
        store.setup()
        yield store
        store.close()

    @pytest.fixture
    def through(self, direct: DynamoDBStore, cutter: Proxy) -> Iterator[DynamoDBStore]:
        store = DynamoDBStore(
            direct._table.name, **{**OPTIONS, "endpoint_url": at(cutter.port), "attempts": 3}
        )
        yield store
        store.close()

    def test_nothing_counts_twice(
        self, through: DynamoDBStore, direct: DynamoDBStore, cutter: Proxy
    ) -> None:
        assert_nothing_counts_twice(through, direct, cutter)

    @pytest.mark.parametrize("name", ["load", "scan", "scan_owner"])
    def test_an_answer_cut_anywhere_is_never_no_session(
        self, direct: DynamoDBStore, cutter: Proxy, name: str
    ) -> None:
        written = record(owner=ALICE)
        direct.create(KEY, written)
        once = DynamoDBStore(
            direct._table.name, **{**OPTIONS, "endpoint_url": at(cutter.port), "attempts": 1}
        )
        ask: Callable[[], Record | None] = {
            "load": lambda: once.load(KEY),
            "scan": lambda: dict(once.scan()).get(KEY),
            "scan_owner": lambda: dict(once.scan_owner(ALICE)).get(KEY),
        }[name]
        with cutter.measure() as whole:
            assert ask() == written
        for point in range(0, whole.answered - 4, whole.answered // 48):
            # botocore takes an end for an empty answer, and a success.
            with cutter.cut_answer(after=point, reset=False) as cut:
                with pytest.raises(StoreUnavailable) as raised:
                    ask()
                assert raised.value.__cause__ is not None
                assert cut.happened == 1
        once.close()


@pytest.mark.servers
class TestTime:
    """One time limit for all attempts, and threads of the store's own."""

    @pytest.fixture
    def paused(self, dynalite: Server) -> Iterator[Callable[..., DynamoDBStore]]:
        with ExitStack() as stack:

            def make(**options: Any) -> DynamoDBStore:
                store = opening(dynalite.port, **options)()
                stack.callback(store.close)
                # Making a client takes botocore some time of its own.
                store.setup()
                dynalite.pause()
                stack.callback(dynalite.resume)
                return store

            yield make

    @pytest.mark.parametrize("attempts", [1, 3, 10])
    def test_all_attempts_together_end_with_the_timeout(
        self, paused: Callable[..., DynamoDBStore], attempts: int
    ) -> None:
        store = paused(timeout=1.5, attempts=attempts)
        for ask in (
            lambda: store.load(KEY),
            lambda: store.create(KEY, record()),
            lambda: store.replace(KEY, record()),
            lambda: store.replace(KEY, record(), expected=1),
            lambda: store.touch(KEY, time.time() + 60),
            lambda: store.delete(KEY),
            lambda: asyncio.run(store.aload(KEY)),
        ):
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                ask()
            # Three attempts of such a time each would be 4.5 seconds.
            assert time.monotonic() - started < 2 * 1.5

    def test_a_silent_server_keeps_nobody_elses_threads(
        self, paused: Callable[..., DynamoDBStore]
    ) -> None:
        store = paused(timeout=3.0, attempts=3)

        async def main() -> tuple[float, float]:
            began = time.monotonic()
            loads = [asyncio.ensure_future(store.aload(KEY)) for _ in range(120)]
            await asyncio.sleep(0.1)
            asked = time.monotonic()
            await asyncio.to_thread(time.monotonic)
            elsewhere = time.monotonic() - asked
            outcomes = await asyncio.gather(*loads, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            return elsewhere, time.monotonic() - began

        elsewhere, altogether = asyncio.run(main())
        assert elsewhere < 1
        # Those that waited for a thread end with the same limit.
        # One after the other they took 45 seconds, and three attempts each take nine.
        assert altogether < 3 + 4

    def test_closing_ends_the_threads(self, dynalite: Server) -> None:
        store = opening(dynalite.port)()
        store.setup()
        before = set(threading.enumerate())
        assert asyncio.run(store.aload(KEY)) is None
        [thread] = set(threading.enumerate()) - before
        store.close()
        thread.join(10)
        assert not thread.is_alive()
        # The next use begins anew.
        assert asyncio.run(store.aload(KEY)) is None
        store.close()

    def test_a_fork_has_threads_of_its_own(self, dynalite: Server) -> None:
        store = opening(dynalite.port)()
        store.setup()
        assert asyncio.run(store.aload(KEY)) is None
        context = multiprocessing.get_context("fork")
        with warnings.catch_warnings():
            # Python 3.12 warns of forks of processes with threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = context.Process(target=load_or_fail, args=(store,))
            child.start()
        child.join(30)
        assert child.exitcode == 0
        store.close()


def load_or_fail(store: DynamoDBStore) -> None:
    assert asyncio.run(store.acreate(KEY, record())) is True


class TestBadInput:
    """Nothing here needs a server."""

    def test_a_server_that_does_not_answer_gives_up_in_time(self) -> None:
        store = opening(free_port(), timeout=0.5)()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="sessions-.*LOCATION.*eu-west-1") as raised:
            store.load(KEY)
        assert time.monotonic() - started < 15
        assert SECRET not in str(raised.value)
        store.close()

    def test_missing_credentials_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        store = DynamoDBStore("sessions", region_name="eu-west-1")
        with pytest.raises(StoreUnavailable, match="aws_access_key_id"):
            store.load(KEY)
        store.close()
        with pytest.raises(ImproperlyConfigured, match="region_name"):
            DynamoDBStore("sessions")

    def test_a_record_over_dynamodbs_limit_is_refused_by_its_name(self) -> None:
        store = opening(free_port())()
        with pytest.raises(ValueError, match="400 KB"):
            store.create(KEY, record(b"x" * (LARGEST + 1)))

    @pytest.mark.parametrize(
        ("location", "options", "message"),
        [
            (None, {}, "LOCATION must be the name of a table"),
            ("t", {}, "3 to 255"),
            ("a table", {}, "LOCATION"),
            ("sessions", {"max_record_size": 2**20}, "400 KB"),
            ("sessions", {"timeout": 0}, "timeout"),
            ("sessions", {"attempts": "3"}, "attempts"),
            ("sessions", {"no_such": 1}, "no_such"),
            ("sessions", {"timeout": "3"}, r"OPTIONS\['timeout'\] must be a number of seconds"),
            ("sessions", {"timeout": True}, r"OPTIONS\['timeout'\] must be a number of seconds"),
            ("sessions", {"attempts": 0}, r"OPTIONS\['attempts'\] must be a whole number from 1"),
            ("sessions", {"attempts": 1.5}, r"OPTIONS\['attempts'\] must be a whole number"),
            ("sessions", {"consistent": "no"}, r"OPTIONS\['consistent'\] must be True or False"),
            ("sessions", {"max_record_size": "x"}, r"OPTIONS\['max_record_size'\] must be a whole"),
            ("sessions", {"tags": "team"}, r"OPTIONS\['tags'\] must be a dict of texts"),
            ("sessions", {"tags": {"team": 1}}, r"OPTIONS\['tags'\] must be a dict of texts"),
            ("sessions", {"region_name": 1}, r"OPTIONS\['region_name'\] must be a text"),
            (
                "sessions",
                {"endpoint_url": "localhost:8000"},
                r"OPTIONS\['endpoint_url'\] must be a",
            ),
            ("sessions", {"use_ssl": "no"}, r"OPTIONS\['use_ssl'\] must be True or False"),
            ("sessions", {"verify": 1}, r"OPTIONS\['verify'\] must be True or False"),
            ("sessions", {"config": {}}, r"OPTIONS\['config'\] must be a botocore"),
            ("sessions", {"service_name": "s3"}, "service_name"),
            (
                "sessions",
                {"aws_secret_access_key": SECRET.encode()},
                r"OPTIONS\['aws_secret_access_key'\] must be a text",
            ),
        ],
    )
    def test_wrong_settings_are_named(
        self, location: Any, options: dict[str, Any], message: str, settings: Any
    ) -> None:
        settings.SESSION_STORES = {
            "default": {
                "BACKEND": "django_kvsessions.stores.dynamodb.DynamoDBStore",
                "LOCATION": location,
                "OPTIONS": {**OPTIONS, **options},
            }
        }
        with pytest.raises(ImproperlyConfigured, match=message) as raised:
            configured("default")
        assert "SESSION_STORES['default']" in str(raised.value)
        assert SECRET not in str(raised.value)
