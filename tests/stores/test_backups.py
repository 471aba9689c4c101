"""Backups of running stores open, hold what was acknowledged, and are put back.

``KVSESSIONS_BACKUPS=50 KVSESSIONS_RESTORES=20 pytest tests/stores/test_backups.py`` makes so many
of each store.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store, StoreCorrupted, StoreUnavailable
from django_kvsessions.stores.libsql import LibSQLStore
from django_kvsessions.stores.lmdb import LMDBStore
from django_kvsessions.stores.process import copies
from django_kvsessions.stores.semidbm import SemidbmStore
from django_kvsessions.stores.surrealdb import SurrealDBStore
from django_kvsessions.testing import MakeStore, wait_until
from django_kvsessions.testing.workers import Process
from tests.support.databases import open_store, sqlite_database
from tests.support.servers import missing
from tests.support.servers_database import databases

pytestmark = pytest.mark.each_django

__all__ = ["databases"]

BACKUPS = int(os.environ.get("KVSESSIONS_BACKUPS", "2"))
RESTORES = int(os.environ.get("KVSESSIONS_RESTORES", "2"))
PATIENCE = 240.0
KEYS = 300
LATER = 4e9
NUMBER = struct.Struct(">q")


def key(number: int) -> bytes:
    return b"%032d" % (number % KEYS)


def record(number: int) -> Record:
    return Record(NUMBER.pack(number) + bytes(1000), LATER, number)


def sqlite_store(folder: Path) -> Store:
    database = sqlite_database(folder / "db", init_command="PRAGMA journal_mode=WAL")
    return open_store(f"backed-up-{folder}", database)


def makers(folder: Path) -> dict[str, MakeStore]:
    return {
        "semidbm": partial(SemidbmStore, folder / "sessions"),
        "lmdb": partial(LMDBStore, folder / "sessions", durability="process"),
        "sqlite": partial(sqlite_store, folder),
        "libsql": partial(LibSQLStore, folder / "sessions.db", timeout=30),
        "surrealdb": partial(SurrealDBStore, f"surrealkv://{folder}/sessions", timeout=30),
    }


@pytest.fixture(
    params=[
        "semidbm",
        "lmdb",
        "sqlite",
        pytest.param("libsql", marks=pytest.mark.servers),
        pytest.param("surrealdb", marks=pytest.mark.servers),
    ]
)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    if request.param in ("libsql", "surrealdb") and find_spec(request.param) is None:
        missing(f"{request.param} is not installed: pip install django-kvsessions[{request.param}]")
    return makers(tmp_path)[request.param]


#: An engine that may write no more ends its process.
survive_a_full_disk = pytest.mark.parametrize(
    "name", ["semidbm", "lmdb", "sqlite", pytest.param("libsql", marks=pytest.mark.servers)]
)


@pytest.fixture
def store(make_store: MakeStore) -> Iterator[Store]:
    store = make_store()
    store.setup()
    yield store
    store.close()


class Journal:
    """How many writes were acknowledged, across processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def __len__(self) -> int:
        return self.path.stat().st_size


def write(store: Store, journal: Path, ending: Callable[[], bool]) -> None:
    """Each key in turns, as fast as it goes; a byte for each write that was acknowledged."""
    with open(journal, "ab", buffering=0) as file:
        number = journal.stat().st_size
        while not ending():
            assert store.create(key(number), record(number)) or store.replace(
                key(number), record(number)
            )
            file.write(b".")
            number += 1


def compact(store: Store, ending: Callable[[], bool]) -> None:
    while not ending():
        if isinstance(store, SemidbmStore):
            store.compact()
        time.sleep(0.05)


def write_from_a_process(make_store: MakeStore, journal: Path, end: Path) -> None:
    store = make_store()
    compacting = threading.Thread(target=compact, args=(store, end.exists))
    compacting.start()
    try:
        write(store, journal, end.exists)
    finally:
        end.touch()
        compacting.join()
        store.close()


@contextmanager
def writing(store: Store, make_store: MakeStore, folder: Path) -> Iterator[Journal]:
    journal, end = Journal(folder / "journal"), folder / "end"
    if isinstance(store, SurrealDBStore):
        # No other process may have its file.
        errors: list[BaseException] = []

        def run() -> None:
            try:
                write(store, journal.path, end.exists)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield journal
        finally:
            end.touch()
            thread.join(PATIENCE)
        assert not errors, errors
        return
    process = Process(folder / "writer", write_from_a_process, make_store, journal.path, end)
    try:
        yield journal
        end.touch()
        process.result(PATIENCE)
    finally:
        end.touch()
        process.kill()


def assert_holds(copied: dict[bytes, Record], before: int) -> None:
    """The last write to each key of those that were acknowledged, or a later one."""
    assert len(copied) == KEYS
    for number in range(before - KEYS, before):
        (found,) = NUMBER.unpack_from(copied[key(number)].data)
        assert found >= number
        assert copied[key(number)] == record(found), "it is not whole"


def test_copies_made_under_a_writer_at_full_speed_hold_what_was_acknowledged_before(
    store: Store, make_store: MakeStore, tmp_path: Path
) -> None:
    with writing(store, make_store, tmp_path) as journal:
        for turn in range(BACKUPS):
            enough = KEYS + 100 * turn
            wait_until(lambda: len(journal) > enough, PATIENCE)  # noqa: B023 (waited for here)
            before = len(journal)
            store.backup(tmp_path / f"copy-{turn}")
            assert_holds(dict(store.scan_backup(tmp_path / f"copy-{turn}")), before)
            shutil.rmtree(tmp_path / f"copy-{turn}")


def test_what_was_lost_is_put_back_while_others_write(
    store: Store, make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores._stores, "default", store)
    lost = [b"l" * 31 + bytes([number]) for number in range(20)]
    for each in lost:
        store.create(each, record(1))
    call_command("backupsessions", tmp_path / "copy", store="default", stdout=io.StringIO())
    with writing(store, make_store, tmp_path) as journal:
        for _ in range(RESTORES):
            for each in lost:
                store.delete(each)
            before = len(journal)
            out = io.StringIO()
            call_command(
                "backupsessions", tmp_path / "copy", restore=True, store="default", stdout=out
            )
            assert out.getvalue() == (
                "Put 20 sessions back into 'default'; 0 of the copy were there.\n"
            )
            for each in lost:
                assert store.load(each) == record(1)
            wait_until(lambda: len(journal) > before, PATIENCE)  # noqa: B023 (waited for here)


def test_a_folder_of_semidbms_is_put_in_its_place_under_a_running_process(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    store = SemidbmStore(folder)
    store.create(key(1), record(1))
    store.backup(tmp_path / "copy")
    store.delete(key(1))
    store.create(key(2), record(2))
    folder.rename(tmp_path / "former")
    shutil.copytree(tmp_path / "copy", folder)
    wait_until(lambda: store.load(key(1)) is not None, PATIENCE)
    assert dict(store.scan()) == {key(1): record(1)}
    assert store.create(key(3), record(3))
    store.close()
    assert set(dict(SemidbmStore(folder).scan())) == {key(1), key(3)}


def test_a_copy_of_a_damaged_log_has_what_verifies_and_no_older_version(tmp_path: Path) -> None:
    store = SemidbmStore(tmp_path / "sessions", durability="full")
    for number in (1, KEYS + 1, 2):
        store.create(key(number), record(number)) or store.replace(key(number), record(number))
    store.close()
    path = tmp_path / "sessions" / "data"
    data = bytearray(path.read_bytes())
    data[data.index(NUMBER.pack(KEYS + 1) + bytes(1000)) + 50] ^= 1
    path.write_bytes(data)
    store.backup(tmp_path / "copy")
    assert dict(store.scan_backup(tmp_path / "copy")) == {key(2): record(2)}
    store.close()


def test_a_damaged_copy_does_not_verify(tmp_path: Path) -> None:
    store = SemidbmStore(tmp_path / "sessions")
    store.create(key(1), record(1))
    store.backup(tmp_path / "copy")
    path = tmp_path / "copy" / "data"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupted, match="is damaged from byte 8"):
        list(store.scan_backup(tmp_path / "copy"))
    store.close()


@pytest.mark.parametrize("name", ["semidbm", "lmdb"])
def test_no_copy_is_made_inside_of_the_store(name: str, tmp_path: Path) -> None:
    store = makers(tmp_path)[name]()
    store.setup()
    before = os.listdir(tmp_path / "sessions")
    for place in (tmp_path / "sessions", tmp_path / "sessions" / "copy"):
        with pytest.raises(ValueError, match="inside the store's own folder"):
            store.backup(place)
    assert os.listdir(tmp_path / "sessions") == before
    store.close()


FULL = """
import resource, signal, sys
from pathlib import Path
from tests.stores.test_backups import makers
from django_kvsessions.stores.base import StoreUnavailable
store = makers(Path(sys.argv[1]))[sys.argv[2]]()
store.load(b"k" * 32)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    store.backup(sys.argv[1] + "/copy")
except StoreUnavailable as error:
    print(error)
"""


def run(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        **options,
    )


@survive_a_full_disk
def test_a_full_disk_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    store = makers(tmp_path)[name]()
    store.setup()
    for number in range(KEYS):
        store.create(key(number), record(number))
    store.close()
    before = set(os.listdir(tmp_path))
    result = run(FULL, tmp_path, name)
    assert f"The copy in {tmp_path}/copy could not be made, and nothing of it is left" in (
        result.stdout
    ), result
    assert not {name for name in set(os.listdir(tmp_path)) - before if "copy" in name}


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from django_kvsessions.stores.process import copies
from tests.stores.test_backups import makers
store = makers(Path(sys.argv[1]))["semidbm"]()
copies._sync = lambda folder: os.kill(os.getpid(), getattr(signal, sys.argv[2]))
store.backup(sys.argv[1] + "/copy")
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
def test_nothing_half_made_has_the_final_name(number: str, tmp_path: Path) -> None:
    store = SemidbmStore(tmp_path / "sessions")
    store.create(key(1), record(1))
    result = run(INTERRUPTED, tmp_path, number)
    assert result.returncode != 0
    assert not (tmp_path / "copy").exists()
    # What a killed process could not remove says what it is, and is in nobody's way.
    left = [name for name in os.listdir(tmp_path) if "copy" in name]
    assert all(name.endswith(".unfinished") for name in left)
    assert bool(left) == (number == "SIGKILL")
    store.backup(tmp_path / "copy")
    assert len(list(store.scan_backup(tmp_path / "copy"))) == 1
    store.close()


def test_what_the_disk_refuses_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(copies, "_sync", full)
    store = SemidbmStore(tmp_path / "sessions")
    with pytest.raises(StoreUnavailable, match="No space left on device"):
        store.backup(tmp_path / "copy")
    assert os.listdir(tmp_path) == ["sessions"]
    store.close()


def test_a_copy_is_for_its_owner_alone(store: Store, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store.backup(tmp_path / "copy")
    finally:
        os.umask(before)
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "copy").rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o777 == 0o600, path


# The command


def test_the_command_copies_each_store_and_verifies(
    settings: DjangoSettings, tmp_path: Path
) -> None:
    semidbm = {"LOCATION": tmp_path / "sessions"}
    memory = {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"}
    settings.SESSION_STORES = {"default": semidbm, "cache": memory}
    stores["default"].create(key(1), record(1))
    out = io.StringIO()
    call_command("backupsessions", tmp_path / "backup", verify=True, stdout=out)
    copied, verified, left_out = out.getvalue().splitlines()
    assert copied.startswith(f"Copied 'default' to {tmp_path}/backup/default in ")
    assert verified == "Verified: 1 session in the copy of 'default'."
    assert left_out == "'cache' (MemoryStore) keeps nothing to be copied."
    assert os.listdir(tmp_path / "backup") == ["default"]
    with pytest.raises(CommandError, match="not an empty folder"):
        call_command("backupsessions", tmp_path / "backup", stdout=out)
    assert os.listdir(tmp_path / "backup") == ["default"]


def test_the_command_says_what_makes_the_copies_of_a_store_that_makes_none(
    settings: DjangoSettings, tmp_path: Path
) -> None:
    redis = {
        "BACKEND": "django_kvsessions.stores.redis.RedisStore",
        "LOCATION": "redis://127.0.0.1:1/0",
    }
    settings.SESSION_STORES = {"default": redis}
    with pytest.raises(CommandError, match="'default': RedisStore makes no copies: .*BGSAVE"):
        call_command("backupsessions", tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
    with pytest.raises(CommandError, match="'default': RedisStore makes no copies"):
        call_command("backupsessions", tmp_path / "backup", restore=True)


def test_the_command_puts_nothing_back_where_no_copy_is(
    settings: DjangoSettings, tmp_path: Path
) -> None:
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}
    with pytest.raises(CommandError, match="'default': .*/backup/default holds no copy"):
        call_command("backupsessions", tmp_path / "backup", restore=True)
