from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from freezegun import freeze_time

from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store, StoreCorrupted, StoreUnavailable
from django_kvsessions.stores.lmdb import LMDBStore
from django_kvsessions.testing import MakeStore, StoreConformance
from tests.support.servers import missing

MIB = 1024 * 1024
PATIENCE = 60.0


def key(number: int) -> bytes:
    return b"%032d" % number


def record(data: bytes = b"data", life: float = 3600.0, owner: bytes = b"") -> Record:
    return Record(data, time.time() + life, 1, owner)


def runs_inline(call: Callable[[], Any]) -> bool:
    """Whether the coroutine of a call finishes without waiting for anything."""

    async def main() -> bool:
        task = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        inline: bool = task.done()
        await task
        return inline

    return asyncio.run(main())


@contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs ``code``; killed at the end if it still runs."""
    prelude = """
        import os, sys, threading, time
        import lmdb
        from django_kvsessions.stores.base import Record, StoreError
        from django_kvsessions.stores.lmdb import LMDBStore
        MIB = 1024 * 1024
        def key(number): return b"%032d" % number
        def record(data=b"data"): return Record(data, time.time() + 3600, 1)
        def say(*words): print(*words, flush=True)
    """
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(prelude) + textwrap.dedent(code),
            *map(str, arguments),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def output(code: str, *arguments: object) -> str:
    """What another process that ran ``code`` to its end printed."""
    with python(code, *arguments) as process:
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        return printed.strip()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def open_store(folder: Path) -> Iterator[Callable[..., LMDBStore]]:
    """Stores on the folder, closed at the end of the test."""
    opened = []

    def open_store(**options: Any) -> LMDBStore:
        opened.append(LMDBStore(folder, **options))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


OpenStore = Callable[..., LMDBStore]


class TestLMDBStore(StoreConformance):
    makes_backups = True
    # Each write waits for the disk: fewer and larger ones.
    scan_records = 600
    scan_record_size = 16_000

    @pytest.fixture
    def make_store(self, folder: Path) -> MakeStore:
        return partial(LMDBStore, folder, map_size=MIB)

    def test_async_methods_run_inline_only_where_they_cannot_block(self, store: Store) -> None:
        # A read waits for nobody; a write waits for other writers and the disk.
        later = time.time() + 3600
        assert not runs_inline(lambda: store.acreate(key(1), record()))
        assert runs_inline(lambda: store.aload(key(1)))
        assert not runs_inline(lambda: store.areplace(key(1), record()))
        assert not runs_inline(lambda: store.atouch(key(1), later))
        assert not runs_inline(lambda: store.adelete(key(1)))

    def test_killed_processes_lose_nothing(
        self, store: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        with growing(store, tmp_path / "sessions" / "data.mdb"):
            super().test_killed_processes_lose_nothing(store, make_store, tmp_path)

    def test_killed_forks_of_an_open_store_lose_nothing(
        self, store: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        with growing(store, tmp_path / "sessions" / "data.mdb"):
            super().test_killed_forks_of_an_open_store_lose_nothing(store, make_store, tmp_path)


@contextmanager
def growing(store: Store, file: Path) -> Iterator[None]:
    """Fill the store meanwhile, so that its map of 1 MiB grows three times and more."""

    def fill() -> None:
        for number in range(500):
            assert store.create(key(number), record(os.urandom(10_000)))
            time.sleep(0.003)

    filler = threading.Thread(target=fill)
    filler.start()
    try:
        yield
    finally:
        filler.join(PATIENCE)
    assert file.stat().st_size > 4 * MIB
    assert all(store.load(key(number)) is not None for number in range(500))


class TestFiles:
    def test_nothing_is_made_before_the_first_use(
        self, open_store: OpenStore, folder: Path
    ) -> None:
        store = open_store()
        assert not folder.exists()
        assert store.load(key(1)) is None
        assert folder.exists()

    def test_the_folder_and_its_files_are_for_their_owner_alone(
        self, open_store: OpenStore, folder: Path
    ) -> None:
        before = os.umask(0)
        try:
            open_store().create(key(1), record())
        finally:
            os.umask(before)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        files = ("data.mdb", "lock.mdb", "writers.lock", ".gitignore")
        assert modes == dict.fromkeys(files, 0o600)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_the_space_of_what_expired_is_used_again(
        self, open_store: OpenStore, folder: Path
    ) -> None:
        store = open_store(durability="process")
        for number in range(3000):
            store.create(key(number), record(os.urandom(600), life=0.0, owner=b"o" * 16))
        size = (folder / "data.mdb").stat().st_size
        for generation in range(1, 4):
            assert sum(store.delete_expired()) == 3000
            for number in range(3000):
                life = 0.0 if generation < 3 else 3600.0
                store.create(key(number), record(os.urandom(600), life=life, owner=b"o" * 16))
        assert store.stats().live == 3000
        assert (folder / "data.mdb").stat().st_size < size * 1.2

    @pytest.mark.parametrize(
        ("durability", "sync", "metasync"),
        [("safe", True, False), ("full", True, True), ("process", False, True)],
    )
    def test_durability_decides_what_is_synced(
        self,
        open_store: OpenStore,
        monkeypatch: pytest.MonkeyPatch,
        durability: str,
        sync: bool,
        metasync: bool,
    ) -> None:
        environments = []

        def open_environment(*args: Any, **kwargs: Any) -> lmdb.Environment:
            environments.append(lmdb.Environment(*args, **kwargs))
            return environments[-1]

        monkeypatch.setattr(lmdb, "open", open_environment)
        open_store(durability=durability).load(key(1))
        flags = environments[0].flags()
        assert (flags["sync"], flags["metasync"]) == (sync, metasync)
        # Either of these corrupts the file or kills the process, whatever the durability.
        assert not flags["writemap"]
        assert not flags["map_async"]

    def test_with_durability_process_nothing_leaves_the_event_loop(
        self, open_store: OpenStore
    ) -> None:
        store = open_store(durability="process")
        assert runs_inline(lambda: store.acreate(key(1), record()))
        assert runs_inline(lambda: store.aload(key(1)))
        assert runs_inline(lambda: store.adelete(key(1)))


class TestOneEnvironmentInAProcess:
    def test_aliases_of_one_folder_share_it(self, tmp_path: Path, folder: Path) -> None:
        (tmp_path / "link").symlink_to(folder)
        settings = {
            alias: {
                "BACKEND": "django_kvsessions.stores.lmdb.LMDBStore",
                "LOCATION": tmp_path / name,
                "OPTIONS": {"max_record_size": size},
            }
            for alias, name, size in (("default", "sessions", 100), ("other", "link", 200))
        }
        with override_settings(SESSION_STORES=settings):
            assert stores["default"].create(key(1), record())
            assert stores["other"].load(key(1)) is not None
            stores["other"].close()
            assert stores["default"].load(key(1)) is not None
            with pytest.raises(ValueError, match="100 bytes"):
                stores["default"].create(key(2), record(b"x" * 150))
            assert stores["other"].create(key(2), record(b"x" * 150))

    def test_other_options_for_one_folder_are_refused(self, open_store: OpenStore) -> None:
        first = open_store(durability="full")
        with pytest.raises(ImproperlyConfigured, match=r"full.*safe"):
            open_store(durability="safe")
        assert first.create(key(1), record())

    def test_a_folder_opened_past_the_store_is_reported(
        self, open_store: OpenStore, folder: Path
    ) -> None:
        open_store().create(key(1), record())
        open_store().close()
        with (
            lmdb.open(str(folder), max_dbs=3),
            pytest.raises(StoreUnavailable, match="already open in this process"),
        ):
            open_store().load(key(1))
        assert open_store().load(key(1)) is not None


class TestForks:
    def test_parent_and_child_go_on_while_threads_write(self, folder: Path) -> None:
        # In a process of its own, for the tests' may have threads that a fork leaves behind.
        code = """
            # Python warns of a fork under threads, which is what is tested.
            import warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            store = LMDBStore(sys.argv[1], map_size=MIB)
            stop = threading.Event()
            def write(writer):
                number = 0
                while not stop.is_set():
                    number += 1
                    assert store.create(key(writer * 10**6 + number), record(b"x" * 5000))
                    assert store.load(key(writer * 10**6 + number)).data == b"x" * 5000
            threads = [threading.Thread(target=write, args=[n]) for n in (1, 2, 3)]
            for thread in threads: thread.start()
            for child in range(10, 30):
                pid = os.fork()
                if not pid:
                    ok = store.create(key(child), record(b"child"))
                    ok = ok and store.load(key(child)).data == b"child"
                    os._exit(0 if ok else 1)
                assert os.waitpid(pid, 0)[1] == 0
                assert store.load(key(child)).data == b"child"
                assert store.create(key(child + 100), record())
            stop.set()
            for thread in threads: thread.join()
            say("done")
        """
        assert output(code, folder) == "done"

    def test_a_child_never_waits_for_a_thread_that_it_does_not_have(self, folder: Path) -> None:
        code = """
            # Python warns of a fork under threads, which is what is tested.
            import warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            # A thread that is interrupted where it holds the lock, as any may be.
            class Slow:
                def __init__(self, lock): self.lock = lock
                def release(self): self.lock.release()
                def acquire(self, *arguments):
                    taken = self.lock.acquire(*arguments)
                    if taken and threading.current_thread() in threads: time.sleep(0.005)
                    return taken
                def __enter__(self): self.acquire()
                def __exit__(self, *exception): self.release()
            threads, quick = [], threading.Lock
            threading.Lock = lambda: Slow(quick())
            store = LMDBStore(sys.argv[1], durability="process")
            store.create(key(1), record())
            threading.Lock = quick
            stop = threading.Event()
            def read():
                while not stop.is_set():
                    assert store.load(key(1)) is not None
            threads = [threading.Thread(target=read) for _ in range(3)]
            for thread in threads: thread.start()
            for _ in range(20):
                time.sleep(0.01)
                pid = os.fork()
                if not pid:
                    os._exit(0 if store.load(key(1)) else 1)
                assert os.waitpid(pid, 0)[1] == 0
            stop.set()
            for thread in threads: thread.join()
            say("done")
        """
        assert output(code, folder) == "done"

    @pytest.mark.skipif(not hasattr(ctypes, "PyDLL") or os.name != "posix", reason="no fork")
    def test_a_fork_that_python_is_not_told_of_is_noticed(self, folder: Path) -> None:
        # As by uWSGI, which forks in C and runs no hooks of os.register_at_fork.
        code = """
            import ctypes
            store = LMDBStore(sys.argv[1])
            store.create(key(1), record())
            pid = ctypes.PyDLL(None).fork()
            if not pid:
                ok = store.load(key(1)) is not None and store.create(key(2), record())
                os._exit(0 if ok else 1)
            assert os.waitpid(pid, 0)[1] == 0
            assert store.load(key(2)) is not None
            assert store.create(key(3), record())
            say("done")
        """
        assert output(code, folder) == "done"

    def test_a_child_of_a_child_has_an_environment_of_its_own(self, folder: Path) -> None:
        code = """
            store = LMDBStore(sys.argv[1])
            store.create(key(0), record())
            for depth in range(1, 4):
                pid = os.fork()
                if pid:
                    status = os.waitpid(pid, 0)[1]
                    assert store.load(key(3)) is not None
                    if depth > 1: os._exit(1 if status else 0)
                    assert status == 0
                    break
                assert store.load(key(depth - 1)) is not None
                assert store.create(key(depth), record())
            else:
                os._exit(0)
            say("done")
        """
        assert output(code, folder) == "done"


class TestWriters:
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    def test_those_that_are_killed_leave_nobody_asleep(self, folder: Path) -> None:
        """LMDB's own lock alone does so in one round of fifty (py-lmdb 3.0, Linux 6.18)."""
        code = """
            import random, signal
            def write(times):
                pid = os.fork()
                if pid: return pid
                store = LMDBStore(sys.argv[1], durability="process")
                store.delete(key(1))
                os.write(ready, b".")
                while times:
                    store.delete(key(1))
                    times -= 1
                os._exit(0)
            wait, ready = os.pipe()
            for _ in range(int(sys.argv[2])):
                survivor, *others = [write(3000), write(-1), write(-1), write(-1)]
                for _ in range(4): os.read(wait, 1)
                time.sleep(random.uniform(0, 0.005))
                for pid in others: os.kill(pid, signal.SIGKILL)
                for pid in others: os.waitpid(pid, 0)
                say(os.waitpid(survivor, 0)[1])
        """
        rounds = 100
        with python(code, folder, rounds) as process:
            printed, _ = process.communicate(timeout=5 * PATIENCE)
        assert printed.split() == ["0"] * rounds


class TestTheMap:
    def test_opening_goes_on_where_another_process_grows_it_meanwhile(
        self, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outcomes = [lmdb.MapResizedError("mdb_txn_begin"), lmdb.MapResizedError("mdb_txn_begin")]

        def open_environment(*args: Any, **kwargs: Any) -> lmdb.Environment:
            if outcomes:
                raise outcomes.pop()
            return lmdb.Environment(*args, **kwargs)

        monkeypatch.setattr(lmdb, "open", open_environment)
        assert open_store().create(key(1), record())
        assert outcomes == []

    def test_it_grows_under_threads_that_read_and_write(
        self, open_store: OpenStore, folder: Path
    ) -> None:
        store = open_store(map_size=MIB, durability="process")
        store.create(key(0), record(b"first"))
        failures: list[BaseException] = []
        full = threading.Event()

        def watch(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)
                full.set()

        def read() -> None:
            while not full.is_set():
                loaded = store.load(key(0))
                assert loaded is not None
                assert loaded.data == b"first"
                assert sum(1 for _ in store.scan()) >= 1

        def write(writer: int) -> None:
            for number in range(1, 120):
                assert store.create(key(writer * 1000 + number), record(os.urandom(20_000)))

        readers = [threading.Thread(target=watch, args=[read]) for _ in range(3)]
        writers = [threading.Thread(target=watch, args=[partial(write, n)]) for n in range(2)]
        # Threads take turns so often that some read is under way whenever the map grows.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in readers + writers:
                thread.start()
            for thread in writers:
                thread.join(PATIENCE)
            full.set()
            for thread in readers:
                thread.join(PATIENCE)
        finally:
            sys.setswitchinterval(interval)
        assert failures == []
        assert store.stats().live == 2 * 119 + 1
        assert (folder / "data.mdb").stat().st_size > 4 * MIB

    def test_it_follows_when_another_process_grew_it(
        self, open_store: OpenStore, folder: Path
    ) -> None:
        store = open_store(map_size=MIB)
        store.create(key(0), record())
        grow = """
            store = LMDBStore(sys.argv[1], map_size=MIB)
            first = int(sys.argv[2])
            for number in range(first, first + 300):
                assert store.create(key(number), record(b"x" * 20_000))
        """
        output(grow, folder, 1)
        assert store.load(key(300)) is not None
        output(grow, folder, 1001)
        assert store.create(key(2), record()) is False
        assert store.stats().live == 601

    def test_a_full_map_says_so_and_takes_records_again_after_a_clean_up(
        self, open_store: OpenStore
    ) -> None:
        store = open_store(map_size=MIB, max_map_size=2 * MIB)
        created = 0

        def fill() -> None:
            nonlocal created
            while store.create(key(created), record(b"x" * 20_000, life=60.0)):
                created += 1

        with pytest.raises(StoreUnavailable, match=r"full at 2097152.*max_map_size") as raised:
            fill()
        assert isinstance(raised.value.__cause__, lmdb.MapFullError)
        assert created > 50
        assert store.load(key(created)) is None
        assert store.delete(key(0)) is True
        with freeze_time(timedelta(seconds=61), tick=True):
            assert sum(store.delete_expired()) == created - 1
            assert store.create(key(created), record(b"x" * 20_000))


FILL = """
    store = LMDBStore(sys.argv[1], map_size=MIB, durability=sys.argv[2])
    for number in range(10):
        assert store.create(key(number), record(b"x" * 20_000))
    limit()
    number = 10
    while True:
        try:
            assert store.create(key(number), record(b"x" * 20_000))
        except StoreError as error:
            say(type(error).__name__, error)
            break
        number += 1
    assert store.load(key(number)) is None
    assert all(store.load(key(each)) is not None for each in range(number))
    relieve()
    assert store.create(key(number), record(b"x" * 20_000))
    assert store.stats().live == number + 1
"""


class TestAFullDisk:
    """An error that says so; what was there stays, and writing goes on when there is room."""

    @pytest.mark.parametrize("durability", ["safe", "full", "process"])
    def test_on_a_file_that_may_not_grow(self, folder: Path, durability: str) -> None:
        limited = """
            import resource
            def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, -1))
            def relieve(): resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        """
        code = textwrap.dedent(limited) + textwrap.dedent(FILL)
        said = output(code, folder, durability)
        assert said.startswith("StoreUnavailable LMDB could not write")
        assert f"{folder}: no space is left" in said

    @pytest.mark.parametrize("durability", ["safe", "full", "process"])
    def test_on_a_small_file_system(self, tmp_path: Path, durability: str) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            missing("mounting a small file system takes root")
        try:
            limited = """
                ballast = sys.argv[1] + "-ballast"
                def limit(): open(ballast, "wb").write(bytes(MIB))
                def relieve(): os.remove(ballast)
            """
            code = textwrap.dedent(limited) + textwrap.dedent(FILL)
            said = output(code, disk / "sessions", durability)
        finally:
            subprocess.run(["umount", disk], check=True)
        assert said.startswith("StoreUnavailable LMDB could not write")


HOLD_READERS = """
    environment = lmdb.open(sys.argv[1], max_dbs=3)
    readers = [environment.begin() for _ in range(int(sys.argv[2]))]
    say("reading")
    sys.stdin.readline()
"""
COUNT_READERS = """
    print(lmdb.open(sys.argv[1]).readers().count(sys.argv[2]))
"""


class TestReaders:
    def test_a_reader_waits_for_no_writer(self, open_store: OpenStore, folder: Path) -> None:
        store = open_store()
        store.create(key(1), record())
        write = """
            environment = lmdb.open(sys.argv[1], max_dbs=3)
            with environment.begin(write=True):
                say("writing")
                sys.stdin.readline()
        """
        with python(write, folder) as writer:
            assert next_line(writer) == "writing"
            waiting = threading.Thread(target=store.create, args=(key(2), record()))
            waiting.start()
            loaded = []
            reading = threading.Thread(target=lambda: loaded.append(store.load(key(1))))
            reading.start()
            reading.join(PATIENCE)
            assert loaded[0] is not None
            assert waiting.is_alive()
            writer.communicate("\n", timeout=PATIENCE)
            waiting.join(PATIENCE)
        assert store.load(key(2)) is not None

    def test_when_every_slot_is_taken_the_option_is_named(
        self, open_store: OpenStore, folder: Path
    ) -> None:
        store = open_store(max_readers=2)
        store.create(key(1), record())
        with python(HOLD_READERS, folder, 2) as process:
            assert next_line(process) == "reading"
            with pytest.raises(StoreUnavailable, match="max_readers"):
                store.load(key(1))
            assert store.create(key(2), record())
            process.communicate("\n", timeout=PATIENCE)
        assert store.load(key(1)) is not None

    def test_slots_of_killed_processes_are_taken_back_when_they_run_out(
        self, open_store: OpenStore, folder: Path
    ) -> None:
        store = open_store(max_readers=2)
        store.create(key(1), record())
        with python(HOLD_READERS, folder, 2) as process:
            assert next_line(process) == "reading"
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
        assert store.load(key(1)) is not None

    @pytest.mark.parametrize("how", ["clean-up", "opening"])
    def test_dead_readers_are_cleared_by(
        self, open_store: OpenStore, folder: Path, how: str
    ) -> None:
        store = open_store()
        store.create(key(1), record())
        with python(HOLD_READERS, folder, 1) as process:
            assert next_line(process) == "reading"
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
        assert output(COUNT_READERS, folder, process.pid) == "1"
        if how == "clean-up":
            assert list(store.delete_expired()) == []
        else:
            output("LMDBStore(sys.argv[1]).setup()", folder)
        assert output(COUNT_READERS, folder, process.pid) == "0"


def patched(path: Path, version: int) -> None:
    """Make an LMDB file say that it has another format."""
    content = bytearray(path.read_bytes())
    for page in (0, 4096):
        magic = content.index(b"\xde\xc0\xef\xbe", page)
        content[magic + 4 : magic + 8] = version.to_bytes(4, "little")
    path.write_bytes(content)


class TestWhatIsNotOurs:
    """Each is an error that names the path, and nothing is written over."""

    def test_a_folder_of_something_else(self, open_store: OpenStore, folder: Path) -> None:
        folder.mkdir()
        (folder / "photo.jpg").write_bytes(b"jpg")
        with pytest.raises(ImproperlyConfigured, match=r"sessions holds 'photo\.jpg'"):
            open_store()
        assert os.listdir(folder) == ["photo.jpg"]

    def test_a_folder_that_became_something_elses(
        self, open_store: OpenStore, folder: Path
    ) -> None:
        store = open_store()
        folder.mkdir()
        (folder / "photo.jpg").write_bytes(b"jpg")
        with pytest.raises(ImproperlyConfigured, match=r"photo\.jpg"):
            store.create(key(1), record())
        assert os.listdir(folder) == ["photo.jpg"]

    def test_hidden_files_are_no_hindrance(self, open_store: OpenStore, folder: Path) -> None:
        folder.mkdir()
        (folder / ".gitignore").write_text("*")
        assert open_store().create(key(1), record())

    def test_an_lmdb_file_of_something_else(self, open_store: OpenStore, folder: Path) -> None:
        with lmdb.open(str(folder), max_dbs=3) as environment, environment.begin(write=True) as txn:
            txn.put(b"other", b"thing")
        before = (folder / "data.mdb").read_bytes()
        with pytest.raises(ImproperlyConfigured, match="LMDB file of something else"):
            open_store().create(key(1), record())
        assert (folder / "data.mdb").read_bytes() == before

    def test_a_later_layout(self, open_store: OpenStore, folder: Path) -> None:
        with lmdb.open(str(folder), max_dbs=3) as environment, environment.begin(write=True) as txn:
            txn.put(b"django_kvsessions", b"2")
        with pytest.raises(ImproperlyConfigured, match="later django-kvsessions"):
            open_store().load(key(1))

    def test_a_file_that_is_not_lmdbs(self, open_store: OpenStore, folder: Path) -> None:
        folder.mkdir()
        (folder / "data.mdb").write_bytes(b"something else" * 1000)
        with pytest.raises(StoreCorrupted, match=r"data\.mdb is not a file of LMDB"):
            open_store().load(key(1))
        assert (folder / "data.mdb").read_bytes() == b"something else" * 1000

    @pytest.mark.parametrize("version", [2, 999])
    def test_a_format_that_this_lmdb_does_not_read(
        self, open_store: OpenStore, folder: Path, version: int
    ) -> None:
        store = open_store()
        store.create(key(1), record())
        store.close()
        patched(folder / "data.mdb", version)
        before = (folder / "data.mdb").read_bytes()
        with pytest.raises(StoreUnavailable, match=r"format.*mdb_dump"):
            store.load(key(1))
        assert (folder / "data.mdb").read_bytes() == before

    @pytest.mark.parametrize("lib_version", [0, 1])
    def test_a_file_of_either_lmdb_is_read_by_what_wrote_it(
        self, open_store: OpenStore, folder: Path, lib_version: int
    ) -> None:
        # LMDB 0.9 and 1.0 cannot read each other's files; the driver brings both.
        lmdb.open(str(folder), map_size=MIB, max_dbs=3, lib_version=lib_version).close()
        before = (folder / "data.mdb").read_bytes()[:40]
        store = open_store(map_size=MIB, durability="process")
        for number in range(200):
            assert store.create(key(number), record(os.urandom(20_000), owner=b"o" * 16))
        store.close()
        code = """
            store = LMDBStore(sys.argv[1], map_size=MIB)
            pid = os.fork()
            if not pid:
                os._exit(0 if store.delete(key(0)) else 1)
            assert os.waitpid(pid, 0)[1] == 0
            assert store.load(key(0)) is None
        """
        assert output(code, folder) == ""
        assert len(list(store.scan_owner(b"o" * 16))) == 199
        # Magic and version are where they were.
        assert (folder / "data.mdb").read_bytes()[16:24] == before[16:24]


class TestPermissions:
    @pytest.mark.parametrize("what", ["parent", "data.mdb", "lock.mdb", "writers.lock"])
    def test_a_missing_permission_is_named(self, folder: Path, what: str) -> None:
        code = """
            import tempfile
            # The driver imports parts of itself late, perhaps from where that user may not look.
            with tempfile.TemporaryDirectory() as other:
                LMDBStore(other + "/sessions").load(key(1))
            if os.geteuid() == 0:
                os.setgroups([]); os.setgid(65534); os.setuid(65534)
            try:
                LMDBStore(sys.argv[1]).load(key(1))
            except StoreError as error:
                say(type(error).__name__, error)
        """
        if os.geteuid() == 0:
            # pytest's folders are closed to the user that the process becomes.
            for parent in folder.parents:
                if not parent.stat().st_mode & stat.S_IXOTH:
                    parent.chmod(0o755)
        if what == "parent":
            folder.parent.chmod(0o555)
            cure = "Correct LOCATION, or make it for the user the site runs as"
        else:
            store = LMDBStore(folder)
            store.setup()
            store.close()
            folder.chmod(0o777)
            for name in ("data.mdb", "lock.mdb", "writers.lock"):
                (folder / name).chmod(0o444 if name == what else 0o666)
            cure = "ive the folder and (both|its) files to the user the site runs as"
        try:
            said = output(code, folder)
        finally:
            folder.parent.chmod(0o755)
        assert said.startswith("StoreUnavailable")
        assert str(folder) in said
        assert re.search(cure, said)


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"durability": "interval"}, r"durability.*'safe', 'full', 'process'"),
            ({"durability": None}, r"'durability'\] must be one of"),
            ({"durability": ["safe"]}, "durability"),
            ({"map_size": 1000}, r"'map_size'\] must be a whole number from 65536 to"),
            ({"map_size": "1 GiB"}, "map_size.*'1 GiB'"),
            ({"map_size": 2 * MIB, "max_map_size": MIB}, "max_map_size"),
            ({"max_readers": 0}, "max_readers"),
            ({"max_readers": True}, "max_readers"),
            ({"max_record_size": 0}, "max_record_size"),
            ({"max_record_size": 2**32}, "max_record_size.*4294967"),
        ],
    )
    def test_a_wrong_option_is_named(
        self, open_store: OpenStore, folder: Path, options: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ImproperlyConfigured, match=named):
            open_store(**options)
        assert not folder.exists()

    @pytest.mark.parametrize("location", [None, "", 7, b"/tmp"])
    def test_a_location_is_needed(self, location: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="LOCATION"):
            LMDBStore(location)

    def test_a_location_that_is_a_file(self, open_store: OpenStore, folder: Path) -> None:
        folder.write_text("a file")
        with pytest.raises(StoreUnavailable, match=r"LOCATION"):
            open_store().load(key(1))
        assert folder.read_text() == "a file"

    def test_without_the_driver_the_command_to_install_it_is_printed(
        self, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "lmdb", None)
        with pytest.raises(ImproperlyConfigured, match=r"pip install django-kvsessions\[lmdb\]"):
            open_store()

    @pytest.mark.parametrize(
        ("durability", "debug", "warned"),
        [("process", False, True), ("process", True, False), ("safe", False, False)],
    )
    def test_a_file_that_a_power_cut_can_corrupt_is_warned_of(
        self, folder: Path, durability: str, debug: bool, warned: bool
    ) -> None:
        settings = {
            "default": {
                "BACKEND": "django_kvsessions.stores.lmdb.LMDBStore",
                "LOCATION": folder,
                "OPTIONS": {"durability": durability},
            }
        }
        with override_settings(SESSION_STORES=settings, DEBUG=debug):
            messages = [message for message in run_checks() if message.id == "kvsessions.W110"]
        assert [("default" in message.msg) for message in messages] == [True] * warned
        assert not folder.exists()
