"""SurrealDBStore on its embedded engines and on a server."""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import override_settings

from django_kvsessions.colours import blocking, run
from django_kvsessions.stores.base import Record, StoreUnavailable
from django_kvsessions.stores.surrealdb import SurrealDBStore
from django_kvsessions.testing import Cutting, MakeStore, Proxy
from django_kvsessions.testing.basics import Basics
from django_kvsessions.testing.lost_answers import CutAnswers
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
    makes_backups = True
    expiry_resolution = 0
    race_keys = 10
    scans = 5
    scan_records = 300

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return partial(SurrealDBStore, f"surrealkv://{tmp_path}/sessions")


class TestMemory(TestFile):
    makes_backups = False
    persistent = False

    @pytest.fixture
    def make_store(self) -> MakeStore:
        return partial(SurrealDBStore, "mem://")


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from serve(surrealdb_server)


@pytest.fixture(scope="module")
def websocket_server() -> Iterator[Server]:
    yield from serve(partial(surrealdb_server, websocket=True))


# The driver's, when it sends the largest records over HTTP.
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
class TestServer(SlowRaces):
    expiry_resolution = 0
    scan_records = 150

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        table = f"t{uuid.uuid4().hex}"
        return {"table": table, "timeout": 20, "username": "root", "password": PASSWORD}

    @pytest.fixture
    def make_store(self, server: Server, options: dict[str, Any]) -> MakeStore:
        return partial(SurrealDBStore, url(server), **options)

    @pytest.fixture
    def outage(self, server: Server) -> Outage:
        return killing(server)

    @pytest.fixture
    def cutting(self, server: Server, options: dict[str, Any]) -> Iterator[Cutting]:
        # To sign in takes longer than all else, and would come again after each cut.
        anonymous = {**options, "username": None, "password": None}
        with Proxy(("127.0.0.1", server.port)) as proxy:
            location = f"http://127.0.0.1:{proxy.port}"
            yield partial(SurrealDBStore, location, **anonymous), proxy


class TestWebSocket(Basics, CutAnswers):
    """What differs from HTTP: one connection for many questions, and how it ends."""

    @pytest.fixture
    def table(self) -> str:
        return f"t{uuid.uuid4().hex}"

    @pytest.fixture
    def make_store(self, websocket_server: Server, table: str) -> MakeStore:
        return partial(
            SurrealDBStore, f"ws://127.0.0.1:{websocket_server.port}", table=table, timeout=20
        )

    @pytest.fixture
    def cutting(self, websocket_server: Server, table: str) -> Iterator[Cutting]:
        with Proxy(("127.0.0.1", websocket_server.port)) as proxy:
            location = f"ws://127.0.0.1:{proxy.port}"
            yield partial(SurrealDBStore, location, table=table, timeout=20), proxy


def assert_succeeds(source: str, *arguments: str) -> None:
    """Run a program that has what this module has."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    program = "from tests.stores.test_surrealdb import *\n" + textwrap.dedent(source)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def hold(location: str, ready: Any, done: Any) -> None:
    store = SurrealDBStore(location, timeout=60)
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
        source = """
            # Python warns of a fork under threads, which is what is tested.
            import warnings; warnings.simplefilter("ignore", DeprecationWarning)
            store = SurrealDBStore(sys.argv[1])
            assert store.create(KEY, RECORD)
            child = os.fork()
            if not child:
                try:
                    store.load(KEY)
                except StoreUnavailable:
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert store.load(KEY) == RECORD
            store.close()
        """
        assert_succeeds(source, f"surrealkv://{tmp_path}/sessions")

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
        run(store._connection.ask(blocking, "CREATE django_kvsessions:other SET name = 'mine'", {}))
        store.create(KEY, RECORD._replace(expires=1.0))
        assert sum(store.delete_expired()) == 1
        rows, _ = run(
            store._connection.ask(blocking, "SELECT VALUE name FROM django_kvsessions", {})
        )
        assert rows == ["mine"]
        store.close()


def wait_until_cleaned(store: SurrealDBStore) -> None:
    deadline = time.monotonic() + 30
    while store.stats().expired:
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestCleaning:
    @pytest.fixture(params=["file", "surrealkv", "mem"])
    def location(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        return "mem://" if request.param == "mem" else f"{request.param}://{tmp_path}/sessions"

    def test_what_expires_is_removed_by_the_process_that_has_the_engine(
        self, location: str
    ) -> None:
        store = SurrealDBStore(location, clean_interval=0.05)
        store.setup()
        for number in range(250):
            record = RECORD._replace(expires=1.0 if number else 4e9)
            assert store.create(bytes([number]) * 32, record)
        wait_until_cleaned(store)
        assert store.load(bytes(32)) == RECORD
        # Also after a pause of the store's.
        store.close()
        store.setup()
        assert store.create(KEY, RECORD._replace(expires=1.0))
        wait_until_cleaned(store)
        store.close()

    def test_who_was_refused_does_not_take_the_file_by_itself(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        location = f"surrealkv://{tmp_path}/sessions"
        first, second = (SurrealDBStore(location, clean_interval=0.02) for _ in range(2))
        first.setup()
        with pytest.raises(StoreUnavailable, match="in use"):
            second.load(KEY)
        first.close()
        time.sleep(0.3)
        assert first.load(KEY) is None
        assert [entry for entry in caplog.records if entry.name != "asyncio"] == []
        first.close()
        second.close()

    def test_it_goes_on_after_an_error(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = SurrealDBStore(f"file://{tmp_path}/sessions", clean_interval=0.05)
        ask = partial(store._connection.ask, blocking)
        store.setup()
        refuse = "EVENT keep ON django_kvsessions"
        # Before there is anything to be cleaned, which may be done at once.
        run(ask(f"DEFINE {refuse} WHEN $event = 'DELETE' THEN {{ THROW 'no' }}", {}))
        assert store.create(KEY, RECORD._replace(expires=1.0))
        deadline = time.monotonic() + 30
        while "expired sessions were not removed" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        run(ask(f"REMOVE {refuse}", {}))
        wait_until_cleaned(store)
        store.close()


class TestClearsessions:
    """The command, while another process has the file."""

    @pytest.fixture
    def location(self, tmp_path: Path) -> Iterator[str]:
        location = f"surrealkv://{tmp_path}/sessions"
        backend = "django_kvsessions.stores.surrealdb.SurrealDBStore"
        settings = {"default": {"BACKEND": backend, "LOCATION": location}}
        with override_settings(SESSION_STORES=settings):
            yield location

    @pytest.fixture
    def process(self, location: str) -> Iterator[Any]:
        """Another one, which has the file."""
        context = multiprocessing.get_context("spawn")
        ready, done = context.Event(), context.Event()
        process = context.Process(target=hold, args=(location, ready, done))
        process.start()
        assert ready.wait(60)
        yield process
        done.set()
        process.join(60)

    def test_it_says_who_cleans_up_and_is_content(
        self, process: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("clearsessions")
        said = capsys.readouterr().out
        assert f"process {process.pid} has the file and removes what expires" in said

    @pytest.mark.parametrize("colour", ["sync", "async"])
    def test_so_do_both_colours(self, process: Any, location: str, colour: str) -> None:
        store = SurrealDBStore(location)

        async def clean_up() -> list[int]:
            return [count async for count in store.adelete_expired()]

        assert (asyncio.run(clean_up()) if colour == "async" else [*store.delete_expired()]) == []
        store.close()

    def test_a_process_that_has_the_file_but_does_not_clean_up_is_an_error(
        self, process: Any, tmp_path: Path
    ) -> None:
        lock = tmp_path / "sessions.lock"
        long_ago = time.time() - 3600
        os.utime(lock, (long_ago, long_ago))
        with pytest.raises(CommandError, match=rf"process {process.pid}, .* 36\d\d s ago"):
            call_command("clearsessions")
        lock.write_text("")
        with pytest.raises(CommandError, match="in use by another process"):
            call_command("clearsessions")

    def test_it_cleans_up_when_nobody_has_the_file(
        self, location: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = SurrealDBStore(location)
        store.setup()
        store.create(KEY, RECORD._replace(expires=1.0))
        store.close()
        call_command("clearsessions")
        assert "Removed 1 expired session from 'default'" in capsys.readouterr().out


class TestEnd:
    """The interpreter ends while the engine hands over an answer, and goes on for a while."""

    # The engine's threads are slow to come back from telling the event loop, and the
    # interpreter's end is slower: it flushes what is printed.
    SLOWLY = """
        import asyncio.selector_events, threading
        tell = asyncio.selector_events.BaseSelectorEventLoop._write_to_self
        class Output:
            closed = False
            def flush(self, is_finalizing=sys.is_finalizing, sleep=time.sleep):
                if is_finalizing():
                    sleep(1)
        def tell_slowly(loop):
            tell(loop)
            if threading.get_ident() not in {thread.ident for thread in threading.enumerate()}:
                time.sleep(0.3)
        store = SurrealDBStore(sys.argv[1])
        store.setup()
        asyncio.selector_events.BaseSelectorEventLoop._write_to_self = tell_slowly
        sys.stdout = Output()
        store.load(KEY)
    """

    def test_a_process_that_ends_is_not_aborted(self, tmp_path: Path) -> None:
        assert_succeeds(self.SLOWLY, f"surrealkv://{tmp_path}/sessions")

    def test_nor_is_one_that_has_closed_the_store(self, tmp_path: Path) -> None:
        source = textwrap.dedent(self.SLOWLY) + "store.close()\n"
        assert_succeeds(source, f"surrealkv://{tmp_path}/sessions")

    def test_what_comes_after_the_end_is_refused(self, tmp_path: Path) -> None:
        # What was registered first is called last.
        source = """
            import atexit
            def late():
                try:
                    store.load(KEY)
                except StoreUnavailable as error:
                    os._exit(0 if "process is ending" in str(error) else 2)
                os._exit(3)
            atexit.register(late)
            store = SurrealDBStore(sys.argv[1])
            store.setup()
        """
        assert_succeeds(source, f"surrealkv://{tmp_path}/sessions")


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
            ("mem://", {"database": ""}, "database"),
            ("mem://", {"timeout": 0}, "timeout"),
            ("mem://", {"timeout": "5"}, "timeout"),
            ("mem://", {"clean_interval": None}, "clean_interval"),
            ("mem://", {"max_record_size": "x"}, "max_record_size"),
            ("ws://server", {"password": "s3cret"}, "username"),
            ("ws://server", {"username": "root"}, "password"),
            ("ws://server", {"username": "root", "password": b"s3cret"}, "password"),
            ("ws://server", {"username": 1, "password": "s3cret"}, "username"),
            ("ws://server", {"level": "table"}, "level"),
        ],
    )
    def test_what_is_wrong_is_named_and_secrets_are_not(
        self, location: str, options: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ImproperlyConfigured, match=named) as raised:
            SurrealDBStore(location, **options)
        assert "s3cret" not in str(raised.value)
