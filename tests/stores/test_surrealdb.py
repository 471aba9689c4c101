"""SurrealDBStore on its embedded engines and on a server."""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django_kvsessions.steps import run

from django_kvsessions.stores.base import Record, StoreUnavailable
from django_kvsessions.stores.surrealdb import SurrealDBStore
from django_kvsessions.testing import MakeStore
from tests.support.full_races import FullRaces, SlowRaces
from tests.support.outages import Outage, killing
from tests.support.servers import missing, serve
from testservers import Server
from testservers.surrealdb import PASSWORD, surrealdb_server

# Their drivers are only installed where the servers are.
pytestmark = pytest.mark.servers

KEY = b"k" * 32
RECORD = Record(b"data", 4e9, 2**62, b"a" * 16)


@pytest.fixture(scope="module", autouse=True)
def driver() -> None:
    if importlib.util.find_spec("surrealdb") is None:
        missing("surrealdb is not installed: pip install django-kvsessions[surrealdb]")


class TestFile(FullRaces):
    """One process alone may have the file, and a fork is another."""

    shared_between_processes = False
    fork_safe = False
    expiry_resolution = 0
    race_keys = 10
    scans = 5
    scan_records = 300

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return partial(SurrealDBStore, f"surrealkv://{tmp_path}/sessions")


class TestMemory(TestFile):
    persistent = False

    @pytest.fixture
    def make_store(self) -> MakeStore:
        return partial(SurrealDBStore, "mem://")


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from serve(surrealdb_server)


# The driver's, when it sends the largest records over HTTP.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.servers
class TestServer(SlowRaces):
    expiry_resolution = 0
    scan_records = 150

    @pytest.fixture
    def make_store(self, server: Server) -> MakeStore:
        table = f"t{uuid.uuid4().hex}"
        login: dict[str, Any] = {"username": "root", "password": PASSWORD}
        return partial(SurrealDBStore, url(server), table=table, timeout=20, **login)

    @pytest.fixture
    def outage(self, server: Server) -> Outage:
        return killing(server)


def hold(location: str, ready: Any, done: Any) -> None:
    store = SurrealDBStore(location)
    store.setup()
    store.create(KEY, RECORD)
    ready.set()
    done.wait(60)
    # As it ends when it is killed.
    os._exit(0)


class TestFileAlone:
    def test_a_second_process_is_refused_and_told_what_to_use(self, tmp_path: Path) -> None:
        location = f"surrealkv://{tmp_path}/sessions"
        context = multiprocessing.get_context("spawn")
        ready, done = context.Event(), context.Event()
        process = context.Process(target=hold, args=(location, ready, done))
        process.start()
        assert ready.wait(60)
        store = SurrealDBStore(location)
        for call in (lambda: store.load(KEY), lambda: asyncio.run(store.acreate(KEY, RECORD))):
            with pytest.raises(StoreUnavailable, match="another process.*server.*SemidbmStore"):
                call()
        done.set()
        process.join(60)
        # The lock went with its holder, and what it had acknowledged is there.
        assert store.load(KEY) == RECORD
        store.close()

    def test_a_second_store_of_the_same_process_is_refused_too(self, tmp_path: Path) -> None:
        first, second = (SurrealDBStore(f"file://{tmp_path}/sessions") for _ in range(2))
        assert first.create(KEY, RECORD)
        with pytest.raises(StoreUnavailable, match="in use"):
            second.load(KEY)
        first.close()
        assert second.load(KEY) == RECORD
        second.close()

    def test_a_fork_is_another_process(self, tmp_path: Path) -> None:
        # The driver's threads run on, so the child is a program of its own.
        source = (
            "import os, sys; from tests.stores.test_surrealdb import *\n"
            "import warnings; warnings.simplefilter('ignore')\n"
            "store = SurrealDBStore(sys.argv[1]); assert store.create(KEY, RECORD)\n"
            "child = os.fork()\n"
            "if not child:\n"
            "    try: store.load(KEY)\n"
            "    except StoreUnavailable: os._exit(7)\n"
            "    os._exit(1)\n"
            "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
            "assert store.load(KEY) == RECORD; store.close()\n"
        )
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
        line = [sys.executable, "-c", source, f"surrealkv://{tmp_path}/sessions"]
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            line,
            env=environment,
            cwd=root,
            timeout=120,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def test_scan_goes_by_the_keys_whatever_the_expiries(self) -> None:
        store = SurrealDBStore("mem://")
        store.setup()
        records = {
            os.urandom(32): RECORD._replace(expires=4e9 - number, revision=number)
            for number in range(100)
        }
        for key, record in records.items():
            store.create(key, record)
        found = list(store.scan())
        assert len(found) == 100
        assert dict(found) == records
        store.close()

    def test_clean_up_spares_what_has_no_expiry(self, tmp_path: Path) -> None:
        store = SurrealDBStore(f"surrealkv://{tmp_path}/sessions")
        store.setup()
        run(store._connection.ask("CREATE django_kvsessions:other SET name = 'mine'", {}))
        store.create(KEY, RECORD._replace(expires=1.0))
        assert sum(store.delete_expired()) == 1
        rows, _ = run(store._connection.ask("SELECT VALUE name FROM django_kvsessions", {}))
        assert rows == ["mine"]
        store.close()


@pytest.mark.servers
class TestFaultsOfServers:
    def test_a_paused_server_is_unavailable_within_the_timeout(self, server: Server) -> None:
        store = SurrealDBStore(url(server), timeout=0.5)
        server.pause()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"LOCATION.*OPTIONS\['timeout'\]"):
            store.load(KEY)
        with pytest.raises(StoreUnavailable, match="LOCATION"):
            asyncio.run(store.acreate(KEY, RECORD))
        assert time.monotonic() - started < 15
        server.resume()
        store.close()

    def test_wrong_credentials_are_named_and_not_shown(self, server: Server) -> None:
        store = SurrealDBStore(url(server), username="root", password="wr0ng")
        with pytest.raises(StoreUnavailable, match="sign-in.*OPTIONS") as raised:
            store.load(KEY)
        assert "wr0ng" not in str(raised.value)
        store.close()


class TestSettings:
    @pytest.mark.parametrize(
        ("location", "options", "named"),
        [
            (None, {}, "LOCATION"),
            ("sessions.db", {}, "LOCATION"),
            ("surrealkv://", {}, "LOCATION"),
            ("ws://root:s3cret@server", {}, "OPTIONS\\['password'\\]"),
            ("mem://", {"table": "a b"}, "table"),
            ("mem://", {"namespace": 1}, "namespace"),
            ("mem://", {"timeout": 0}, "timeout"),
            ("ws://server", {"password": "s3cret"}, "username"),
            ("ws://server", {"level": "table"}, "level"),
        ],
    )
    def test_what_is_wrong_is_named_and_secrets_are_not(
        self, location: str, options: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ImproperlyConfigured, match=named) as raised:
            SurrealDBStore(location, **options)
        assert "s3cret" not in str(raised.value)
