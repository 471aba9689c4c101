"""LibSQLStore on local files and on a real sqld."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import os
import select
import socket
import ssl
import stat
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_kvsessions.engine import SessionStore
from django_kvsessions.stores.base import Record, StoreCorrupted, StoreUnavailable
from django_kvsessions.stores.libsql import LibSQLStore
from django_kvsessions.testing import Cutting, MakeStore, Proxy
from tests.support.full_races import FullRaces, SlowRaces
from tests.support.outages import Outage, assert_restarts_are_not_noticed, killing
from tests.support.servers import missing, serve
from testservers import Server, free_port
from testservers.libsql import sqld_server

if TYPE_CHECKING:
    from typing_extensions import Self

# Their drivers are only installed where the servers are.
pytestmark = pytest.mark.servers

KEY = b"k" * 32
OTHER = b"o" * 32
ALICE = b"a" * 16
SECRET = "s3cret"


@pytest.fixture(scope="module", autouse=True)
def driver() -> None:
    for package in ("libsql", "httpx"):
        if importlib.util.find_spec(package) is None:
            missing(f"{package} is not installed: pip install django-kvsessions[libsql]")


@pytest.fixture(scope="session")
def sqld() -> Iterator[Server]:
    """A sqld that every test of the run shares: use tables of your own."""
    yield from serve(sqld_server)


@pytest.fixture
def server() -> Iterator[Server]:
    """A sqld of the test's own, to be mistreated."""
    yield from serve(sqld_server)


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def new_table() -> str:
    return f"t{uuid.uuid4().hex}"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def patient(load: Callable[[], Record | None]) -> Record | None:
    """What it gives, as soon as a server on a busy machine answers within its short timeout."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return load()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise


def record(data: bytes = b"data", owner: bytes = b"", seconds: float = 600) -> Record:
    revision = int.from_bytes(os.urandom(8), "big") >> 1
    return Record(data, time.time() + seconds, revision, owner)


class TestFile(FullRaces):
    makes_backups = True
    expiry_resolution = 0

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return partial(LibSQLStore, tmp_path / "folder" / "sessions.db")


@pytest.mark.servers
class TestServer(SlowRaces):
    expiry_resolution = 0
    kills = 2

    @pytest.fixture
    def table(self) -> str:
        return new_table()

    @pytest.fixture
    def make_store(self, sqld: Server, table: str) -> MakeStore:
        return partial(LibSQLStore, url(sqld), table=table, timeout=20)

    @pytest.fixture
    def outage(self, sqld: Server) -> Outage:
        return killing(sqld)

    @pytest.fixture
    def cutting(self, sqld: Server, table: str) -> Iterator[Cutting]:
        with Proxy(("127.0.0.1", sqld.port)) as proxy:
            location = f"http://127.0.0.1:{proxy.port}"
            yield partial(LibSQLStore, location, table=table, timeout=20), proxy


def another(path: Path) -> AbstractContextManager[Any]:
    """A connection of somebody else's."""
    # Not sqlite3's: two libraries in one process do not see each other's locks.
    import libsql

    return closing(libsql.connect(str(path), timeout=0, isolation_level=None))


def come_and_go(path: Path, key: bytes) -> bool:
    """What another process does: create a record, and leave."""
    with closing(LibSQLStore(path)) as store:
        return store.create(key, record())


class TestFaultsOfFiles:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "sessions.db"

    @pytest.fixture
    def store(self, path: Path) -> Iterator[LibSQLStore]:
        store = LibSQLStore(path, timeout=0.3)
        store.setup()
        yield store
        store.close()

    def test_only_its_owner_can_read_the_file(self, store: LibSQLStore, path: Path) -> None:
        store.create(KEY, record())
        for each in path.parent.iterdir():
            assert stat.S_IMODE(each.stat().st_mode) == 0o600

    def test_a_process_that_leaves_takes_no_write_of_others_with_it(
        self, store: LibSQLStore, path: Path
    ) -> None:
        # Only the last one to leave may remove the WAL, and it tells by the others' locks.
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(store.load, KEY).result() is None
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            assert process.submit(come_and_go, path, OTHER).result()
            assert store.load(OTHER) is not None
            assert store.create(KEY, record())
            assert not process.submit(come_and_go, path, KEY).result()

    def test_a_wait_for_a_lock_ends_and_stops_no_other_thread(
        self, store: LibSQLStore, path: Path
    ) -> None:
        kept = record()
        store.create(KEY, kept)
        errors: list[StoreUnavailable] = []

        def delete() -> None:
            try:
                store.delete(KEY)
            except StoreUnavailable as error:
                errors.append(error)

        with another(path) as other:
            other.execute("BEGIN IMMEDIATE")
            turns = 0
            waiting = threading.Thread(target=delete)
            waiting.start()
            while waiting.is_alive():
                turns += 1
                time.sleep(0.001)
            assert turns > 20
            assert len(errors) == 1
            with pytest.raises(StoreUnavailable, match=r"locked.*OPTIONS\['timeout'\], 0.3"):
                store.create(OTHER, kept)
            # Readers do not wait for a writer.
            assert store.load(KEY) == kept
            other.execute("ROLLBACK")
        assert store.create(OTHER, kept)

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_what_the_driver_does_not_take_for_bytes_is_kept_as_bytes(
        self, store: LibSQLStore, kind: type[bytes]
    ) -> None:
        kept = record(b"a\0b\xff", ALICE)
        assert store.create(KEY, kept._replace(data=kind(kept.data), owner=kind(ALICE)))
        assert store.load(KEY) == kept

    def test_the_largest_numbers_are_kept_exactly(self, store: LibSQLStore) -> None:
        # The driver binds integers from 2**31 on as floats.
        kept = Record(b"data", 2.0**40 + 2**-10, 2**63 - 1)
        store.create(KEY, kept)
        assert store.load(KEY) == kept
        assert store.replace(KEY, kept._replace(revision=2**53 + 1), expected=2**63 - 1)
        assert not store.touch(KEY, kept.expires, expected=2**53)
        assert store.touch(KEY, kept.expires, expected=2**53 + 1)

    def test_a_file_that_is_no_database_is_corrupted(self, path: Path) -> None:
        path.write_bytes(b"garbage" * 1000)
        with pytest.raises(StoreCorrupted, match=str(path)):
            LibSQLStore(path).load(KEY)

    def test_a_missing_table_says_how_it_is_made(self, path: Path) -> None:
        store = LibSQLStore(path, table="mine")
        for call in (lambda: store.load(KEY), lambda: store.create(KEY, record())):
            with pytest.raises(StoreUnavailable, match="mine.*setupsessions"):
                call()
        store.setup()
        assert store.create(KEY, record())

    def test_another_table_of_the_same_name_is_not_written_to(self, path: Path) -> None:
        with another(path) as other:
            other.execute("CREATE TABLE django_kvsessions (key BLOB, name TEXT)")
        store = LibSQLStore(path)
        with pytest.raises(StoreUnavailable, match=r"OPTIONS\['table'\].*not one of sessions"):
            store.create(KEY, record())

    def test_clean_up_and_owners_follow_the_indexes(self, store: LibSQLStore, path: Path) -> None:
        from django_kvsessions.stores.libsql.table import statements

        with another(path) as other:
            for name, index in (("clean", "_expires"), ("owned", "_owner"), ("load", "autoindex")):
                sql = statements("django_kvsessions")[name]
                values: list[Any] = [b""] * sql.count("?")
                if name == "clean":
                    values[-1] = 1
                plan = other.execute(f"EXPLAIN QUERY PLAN {sql}", tuple(values)).fetchall()
                assert index in str(plan)
                assert "SCAN django_kvsessions" not in str(plan)


@pytest.mark.servers
class TestFaultsOfServers:
    @pytest.fixture
    def store(self, server: Server) -> Iterator[LibSQLStore]:
        store = LibSQLStore(url(server), timeout=2)
        store.setup()
        yield store
        store.close()

    def test_a_paused_server_is_unavailable_within_the_timeout(self, server: Server) -> None:
        with closing(LibSQLStore(url(server), timeout=20)) as slow:
            slow.setup()
        store = LibSQLStore(url(server), timeout=0.5)
        server.pause()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port}.*LOCATION"):
            store.load(KEY)
        with pytest.raises(StoreUnavailable, match="LOCATION"):
            asyncio.run(store.acreate(KEY, record()))
        assert time.monotonic() - started < 10
        server.resume()
        assert patient(lambda: store.load(KEY)) is None
        store.close()

    def test_a_restart_between_two_requests_is_not_noticed(
        self, server: Server, store: LibSQLStore
    ) -> None:
        assert_restarts_are_not_noticed(server, store)

    def test_an_outage_logs_nobody_out(self, server: Server, store: LibSQLStore) -> None:
        backend = "django_kvsessions.stores.libsql.LibSQLStore"
        settings = {"default": {"BACKEND": backend, "LOCATION": url(server)}}
        with override_settings(SESSION_STORES=settings):
            session = SessionStore()
            session["cart"] = 1
            session.create()
            key = session.session_key
            server.kill()
            with pytest.raises(StoreUnavailable):
                SessionStore(key).get("cart")
            server.start()
            assert SessionStore(key)["cart"] == 1

    def test_a_slow_server_stops_no_other_thread(self, server: Server, store: LibSQLStore) -> None:
        # libSQL's own client would: it waits for an answer with Python's lock held.
        errors: list[StoreUnavailable] = []

        def load() -> None:
            try:
                store.load(KEY)
            except StoreUnavailable as error:
                errors.append(error)

        server.pause()
        waiting = threading.Thread(target=load)
        waiting.start()
        turns = 0
        while waiting.is_alive():
            turns += 1
            time.sleep(0.001)
        server.resume()
        assert len(errors) == 1
        assert turns > 100

    def test_a_write_whose_answer_was_lost_knows_its_own_success(
        self, server: Server, store: LibSQLStore
    ) -> None:
        with Proxy(("127.0.0.1", server.port)) as proxy:
            lossy = LibSQLStore(f"http://127.0.0.1:{proxy.port}")
            first, second = record(b"first"), record(b"second")
            lossy.load(KEY)
            with proxy.cut_answer():
                assert lossy.create(KEY, first) is True
            with proxy.cut_answer():
                assert lossy.replace(KEY, second, expected=first.revision) is True
            # Somebody else's record is not taken for one's own.
            with proxy.cut_answer(), pytest.raises(StoreUnavailable, match="does not say"):
                lossy.create(KEY, first)
            assert proxy.cuts == 3
            lossy.close()
        assert store.load(KEY) == second

    def test_a_server_asks_for_the_token(self) -> None:
        try:
            from cryptography.hazmat.primitives.asymmetric import ed25519 as keys
        except ImportError:
            missing("cryptography is not installed: pip install cryptography")
        private = keys.Ed25519PrivateKey.generate()
        public = b64(private.public_key().public_bytes_raw())
        head, body = (b64(json.dumps(part).encode()) for part in ({"alg": "EdDSA"}, {"a": "rw"}))
        token = f"{head}.{body}.{b64(private.sign(f'{head}.{body}'.encode()))}"
        for server in serve(partial(sqld_server, public_key=public)):
            store = LibSQLStore(url(server), auth_token=token)
            store.setup()
            assert store.create(KEY, record())
            store.close()
            for wrong in (None, SECRET):
                store = LibSQLStore(url(server), auth_token=wrong)
                with pytest.raises(StoreUnavailable, match=r"OPTIONS\['auth_token'\]") as raised:
                    store.load(KEY)
                assert SECRET not in str(raised.value)
                store.close()

    def test_tls_trusts_the_certificates_it_is_told(self, server: Server, tmp_path: Path) -> None:
        context, authority = certificate(tmp_path)
        with TLSProxy(server.port, context) as proxy:
            location = f"libsql://localhost:{proxy.port}"
            store = LibSQLStore(location, ca_certs=authority)
            store.setup()
            assert store.create(KEY, record())
            assert asyncio.run(store.aload(KEY))
            store.close()
            store = LibSQLStore(location)
            with pytest.raises(StoreUnavailable, match="(?i)certificate"):
                store.load(KEY)
            store.close()


class TestSettings:
    @pytest.mark.parametrize(
        ("location", "options", "named"),
        [
            (None, {}, "LOCATION"),
            ("ftp://server", {}, "LOCATION"),
            ("libsql://", {}, "LOCATION"),
            ("libsql://user:s3cret@server", {}, "auth_token"),
            ("libsql://server?authToken=s3cret", {}, "auth_token"),
            ("http://server?authToken=s3cret", {}, "auth_token"),
            ("sessions.db", {"auth_token": SECRET}, "LOCATION"),
            ("sessions.db", {"table": "a b"}, "table"),
            ("sessions.db", {"timeout": 0}, "timeout"),
            ("sessions.db", {"timeout": "3"}, "timeout"),
            ("sessions.db", {"durability": "none"}, "durability"),
            ("sessions.db", {"durability": ["safe"]}, "durability"),
            ("sessions.db", {"max_record_size": 0}, "max_record_size"),
            ("sessions.db", {"table": "t" * 64}, "table"),
            ("libsql://server", {"auth_token": b"s3cret"}, "auth_token"),
            ("libsql://server", {"ca_certs": 1}, "ca_certs"),
            ("libsql://server", {"ca_certs": "/nowhere.pem"}, "ca_certs"),
        ],
    )
    def test_what_is_wrong_is_named_and_secrets_are_not(
        self, location: str, options: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ImproperlyConfigured, match=named) as raised:
            LibSQLStore(location, **options)
        assert SECRET not in str(raised.value)

    def test_an_unreachable_server_is_named(self) -> None:
        store = LibSQLStore(f"libsql://127.0.0.1:{free_port()}?tls=0")
        with pytest.raises(StoreUnavailable, match="127.0.0.1.*LOCATION"):
            store.load(KEY)
        store.close()

    def test_nothing_is_opened_before_the_first_use(self, tmp_path: Path) -> None:
        LibSQLStore(tmp_path / "sessions.db")
        assert list(tmp_path.iterdir()) == []


class TLSProxy:
    """Speaks TLS, before a server that does not."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.target = port
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # Closing alone would not wake what accepts.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(30)

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.serve, args=(client,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def serve(self, client: socket.socket) -> None:
        with closing(client), socket.create_connection(("127.0.0.1", self.target)) as backend:
            try:
                with self.context.wrap_socket(client, server_side=True) as client:
                    # The protocol is a question, then its answer.
                    while data := client.recv(65536):
                        backend.sendall(data)
                        if select.select([backend], [], [], 0.5)[0]:
                            client.sendall(backend.recv(65536))
            except OSError:
                pass


def certificate(folder: Path) -> tuple[ssl.SSLContext, str]:
    """For a server at ``localhost``, and the path of what a client must trust."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    line += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    line += ["-addext", "basicConstraints=critical,CA:TRUE"]
    line += ["-addext", "keyUsage=critical,keyCertSign,digitalSignature"]
    line += ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(line, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, str(cert)
