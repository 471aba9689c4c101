"""FirestoreStore on Google's emulator."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_kvsessions.engine import SessionStore
from django_kvsessions.stores.base import Record, StoreUnavailable
from django_kvsessions.stores.firestore import FirestoreStore
from django_kvsessions.testing import Cutting, MakeStore
from django_kvsessions.testing.proxy import Proxy
from tests.support.counting import assert_nothing_counts_twice
from tests.support.full_races import SlowRaces
from tests.support.servers import missing, serve
from testservers import Server, free_port
from testservers.firestore import firestore_emulator

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", autouse=True)
def driver() -> None:
    if importlib.util.find_spec("google.cloud.firestore") is None:
        missing("google-cloud-firestore is not installed: pip install django-kvsessions[firestore]")


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    yield from serve(firestore_emulator)


@pytest.fixture
def emulator(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An emulator that the tests share: use collections of your own."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{running.port}")
    return running


def new_collection() -> str:
    return f"c{uuid.uuid4().hex}"


class TestFirestore(SlowRaces):
    # gRPC does not survive a fork while other threads use it.
    fork_safe = False
    scan_records = 150
    expired_records = 15

    @pytest.fixture
    def make_store(self, emulator: Server) -> MakeStore:
        return partial(FirestoreStore, new_collection(), project="demo-t", timeout=20)

    @pytest.fixture
    def cutting(self, make_store: MakeStore, emulator: Server) -> Iterator[Cutting]:
        with Proxy(("127.0.0.1", emulator.port)) as proxy:
            yield lambda: connecting_to(make_store(), proxy.port), proxy


def connecting_to(store: Any, port: int) -> Any:
    """The store, with clients that go to this port, whatever the environment says later."""
    clients = store._documents._clients

    def at_port(make: Callable[[], Any]) -> Callable[[], Any]:
        def made() -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{port}")
                return make()

        return made

    clients._make, clients._make_async = at_port(clients._make), at_port(clients._make_async)
    return store


class Breakable:
    """Between the store and the emulator, which forgets everything when it is stopped."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = free_port()
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.listener: socket.socket | None = None

    def start(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def stop(self) -> None:
        assert self.listener is not None
        # Closing alone would not wake what accepts.
        for each in (self.listener, *(each for pair in self.pairs for each in pair)):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.pairs.clear()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            backend = socket.create_connection(("127.0.0.1", self.target))
            self.pairs.append((client, backend))
            for pair in ((client, backend), (backend, client)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


def record(data: bytes = b"data", owner: bytes = b"") -> Record:
    return Record(data, time.time() + 600, 1, owner)


class TestOutages:
    @pytest.fixture
    def proxy(self, running: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Breakable]:
        proxy = Breakable(running.port)
        proxy.start()
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{proxy.port}")
        yield proxy
        proxy.stop()

    def test_a_cut_connection_is_an_outage_and_not_a_logout(self, proxy: Breakable) -> None:
        backend = "django_kvsessions.stores.firestore.FirestoreStore"
        options = {"project": "demo-t", "timeout": 2}
        settings = {
            "default": {"BACKEND": backend, "LOCATION": new_collection(), "OPTIONS": options}
        }
        with override_settings(SESSION_STORES=settings):
            session = SessionStore()
            session["cart"] = 1
            session.create()
            key = session.session_key
            proxy.stop()
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                SessionStore(key).get("cart")
            session["cart"] = 2
            with pytest.raises(StoreUnavailable):
                session.save()
            assert time.monotonic() - started < 20
            proxy.start()
            deadline = time.monotonic() + 30
            while True:
                try:
                    assert SessionStore(key)["cart"] == 1
                    break
                except StoreUnavailable:
                    # gRPC connects again in its own time.
                    assert time.monotonic() < deadline
                    time.sleep(0.2)

    def test_every_method_ends_within_the_timeout_of_a_server_that_is_silent(
        self, running: Server, emulator: Server
    ) -> None:
        store = FirestoreStore(new_collection(), project="demo-t", timeout=0.5)
        key = b"k" * 32
        running.pause()
        try:
            started = time.monotonic()
            for call in (
                lambda: store.load(key),
                lambda: store.create(key, record()),
                lambda: store.replace(key, record()),
                lambda: store.touch(key, time.time() + 60),
                lambda: store.delete(key),
                lambda: list(store.delete_expired()),
                lambda: list(store.scan()),
                lambda: list(store.scan_owner(b"a" * 16)),
                store.stats,
                store.setup,
                lambda: asyncio.run(store.aload(key)),
            ):
                called = time.monotonic()
                with pytest.raises(StoreUnavailable, match="demo-t") as raised:
                    call()
                assert raised.value.__cause__ is not None
                # With all that it asked; a client is made in it, twice.
                assert time.monotonic() - called < 0.5 + 2
            assert time.monotonic() - started < 11 * 0.5 + 15
        finally:
            running.resume()
        store.close()


class TestLostAnswers:
    def test_nothing_counts_twice(self, emulator: Server) -> None:
        make = partial(FirestoreStore, new_collection(), project="demo-t", timeout=10)
        with Proxy(("127.0.0.1", emulator.port)) as proxy:
            direct, through = make(), connecting_to(make(), proxy.port)
            assert_nothing_counts_twice(through, direct, proxy)
            direct.close()
            through.close()

    def test_all_attempts_together_end_with_the_timeout(self, emulator: Server) -> None:
        """What is sent again, because every answer is lost, is sent for so long and no longer."""
        make = partial(FirestoreStore, new_collection(), project="demo-t", timeout=1.5)
        key = b"k" * 32
        with Proxy(("127.0.0.1", emulator.port)) as proxy:
            direct, through = make(), connecting_to(make(), proxy.port)
            assert direct.create(key, record())
            assert through.load(key)
            for ask in (
                lambda: through.load(key),
                lambda: through.replace(key, record(), expected=1),
                lambda: through.touch(key, time.time() + 900),
                lambda: through.delete(key),
            ):
                with proxy.cut_answer(times=10_000):
                    started = time.monotonic()
                    with pytest.raises(StoreUnavailable):
                        ask()
                    assert time.monotonic() - started < 1.5 + 1
            assert direct.load(key) is not None
            direct.close()
            through.close()


class TestSettings:
    @pytest.mark.parametrize(
        ("location", "options", "named"),
        [
            ("a/b", {}, "LOCATION"),
            ("", {}, "LOCATION"),
            ("__all__", {}, "LOCATION"),
            ("sessions", {"timeout": 0}, "timeout"),
            ("sessions", {"timeout": "5"}, r"OPTIONS\['timeout'\] must be a number of seconds"),
            ("sessions", {"max_record_size": 1024 * 1024}, "1 MiB"),
            ("sessions", {"max_record_size": "x"}, r"OPTIONS\['max_record_size'\] must be a whole"),
            ("sessions", {"project": 5}, r"OPTIONS\['project'\] must be a text"),
            ("sessions", {"database": None}, r"OPTIONS\['database'\] must be a text"),
            ("sessions", {"credentials": {}}, r"OPTIONS\['credentials'\] must be a text"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, location: str, options: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ImproperlyConfigured, match=named):
            FirestoreStore(location, **options)

    def test_missing_credentials_are_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)
        store = FirestoreStore(project="demo-t", credentials=tmp_path / "key.json")
        for call in (
            lambda: store.load(b"k" * 32),
            lambda: asyncio.run(store.aload(b"k" * 32)),
        ):
            with pytest.raises(StoreUnavailable, match=r"OPTIONS\['credentials'\].*key.json"):
                call()

    def test_setup_turns_on_the_ttl_and_spares_the_index_of_the_data(
        self, emulator: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The emulator has no administration, so this looks at what would be asked of it.
        from google.cloud import firestore_admin_v1 as admin_v1

        asked: list[Any] = []

        class Admin:
            def __init__(self, credentials: object) -> None:
                pass

            def get_field(self, name: str, **limits: object) -> Any:
                index = admin_v1.Index(query_scope="COLLECTION")
                config = admin_v1.Field.IndexConfig(indexes=[index])
                return admin_v1.Field(name=name, index_config=config)

            def update_field(self, request: dict[str, Any], **limits: object) -> None:
                asked.append(request)

        monkeypatch.setattr(admin_v1, "FirestoreAdminClient", Admin)
        store = FirestoreStore("mine", project="demo-t")
        assert store.load(b"k" * 32) is None
        monkeypatch.delenv("FIRESTORE_EMULATOR_HOST")
        store.setup()
        where = "projects/demo-t/databases/(default)/collectionGroups/mine/fields"
        ttl, data = asked
        assert ttl["field"].name == f"{where}/expires"
        assert "ttl_config" in ttl["field"]
        assert ttl["update_mask"] == {"paths": ["ttl_config"]}
        assert data["field"].name == f"{where}/data"
        assert list(data["field"].index_config.indexes) == []
        assert data["update_mask"] == {"paths": ["index_config"]}
        store.close()
