"""``manage.py migratesessions``: all sessions at once, while the site serves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions import codec
from django_kvsessions.engine import SessionStore
from django_kvsessions.moving import arrivals
from django_kvsessions.moving.bulk import THERE, Mover
from django_kvsessions.moving.formers import Left, make_former
from django_kvsessions.moving.formers.base import GONE
from django_kvsessions.moving.formers.files import FileFormer
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record
from tests.moving.test_reading_through import BACKENDS, saved
from tests.support.servers import serve
from testservers import Server
from testservers.redis import redis_server

ROOT = Path(__file__).resolve().parents[2]
LISTED = ["db", "cached_db", "file"]


@pytest.fixture(params=LISTED)
def path(request: pytest.FixtureRequest, settings: DjangoSettings) -> str:
    name = f"{BACKENDS}{request.param}"
    settings.SESSION_FALLBACK_ENGINES = [name]
    return name


def migrate(*arguments: str) -> str:
    output = StringIO()
    call_command("migratesessions", *arguments, stdout=output)
    return output.getvalue().strip().splitlines()[-1]


def in_store(key: str) -> bool:
    return stores["default"].load(codec.storage_key(key)) is not None


@pytest.mark.parametrize("delete", [False, True])
def test_every_session_is_moved(former: Callable[..., Any], path: str, delete: bool) -> None:
    keys = [saved(former(), number=number, _auth_user_id="7") for number in range(25)]
    arguments = ["--from", path, "--batch-size", "10", "--verify"]
    line = migrate(*arguments, *["--delete"] * delete)
    assert re.match(r"Moved: 25; skipped: 0; expired: 0; failed: 0; [\d.,]+ s", line), line
    assert all(map(in_store, keys))
    assert [former().exists(key) for key in keys] == [not delete] * 25
    for number, key in enumerate(keys):
        session = SessionStore(key)
        assert dict(session.items()) == {"number": number, "_auth_user_id": "7"}
        # Whichever of the two was asked first.
        assert not former().exists(key)
    assert len(list(stores["default"].scan_owner(codec.owner_digest("7")))) == 25
    assert migrate(*arguments).startswith("Moved: 0; skipped: 0; ")


def test_a_dry_run_writes_nothing(former: Callable[..., Any], path: str) -> None:
    keys = [saved(former(), a=1) for _ in range(5)]
    line = migrate("--from", path, "--dry-run", "--delete")
    assert line.startswith("Would be moved: 5; ")
    assert not any(map(in_store, keys))
    assert all(former().exists(key) for key in keys)


def test_what_cannot_be_moved_is_counted_and_stays(
    former: Callable[..., Any], path: str, tmp_path: Path, settings: DjangoSettings
) -> None:
    settings.SESSION_STORES = {
        "default": {
            "BACKEND": "django_kvsessions.stores.memory.MemoryStore",
            "OPTIONS": {"max_record_size": 2000},
        }
    }
    stores.close_all()
    good = saved(former(), a=1)
    large = saved(former(), text=os.urandom(4000).hex())
    broken = saved(former(), a=1)
    session = former()
    session.set_expiry(datetime.now(timezone.utc) + timedelta(milliseconds=100))
    expired = saved(session, a=1)
    if path.endswith("file"):
        (tmp_path / f"sessionid{broken}").write_text("broken:broken")
    else:
        Session.objects.filter(pk=broken).update(session_data="broken:broken")
    time.sleep(0.15)
    line = migrate("--from", path, "--delete")
    assert line.startswith("Moved: 1; skipped: 2 (1 not readable by Django, 1 too large"), line
    assert "expired: 1; failed: 0;" in line
    assert in_store(good)
    assert former().exists(broken)
    assert former(large)["text"]
    assert not former().exists(expired)


def test_what_a_request_has_moved_and_changed_stays_as_it_is(
    former: Callable[..., Any], path: str
) -> None:
    key = saved(former(), a=1)
    assert migrate("--from", path).startswith("Moved: 1")
    late = former(key)
    late["late"] = 1
    late.save()
    session = SessionStore(key)
    # It was still there, so that it still counted.
    assert dict(session.items()) == {"a": 1, "late": 1}
    session["b"] = 2
    session.save()
    # A copy that a killed process has left behind.
    assert make_former(path).put(key, {"a": 5}, time.time() + 5000)
    line = migrate("--from", path, "--delete")
    assert line.startswith("Moved: 0; skipped: 1 (1 in the store already)"), line
    assert dict(SessionStore(key).items()) == {"a": 1, "late": 1, "b": 2}
    assert not former().exists(key)


@pytest.mark.parametrize(
    ("name", "why"),
    [("signed_cookies", "in the cookies"), ("cache", "LocMemCache, which cannot list")],
)
def test_who_cannot_be_listed_says_why(name: str, why: str) -> None:
    with pytest.raises(CommandError, match=why) as caught:
        migrate("--from", BACKENDS + name)
    assert "SESSION_FALLBACK_ENGINES" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "Say where from"),
        (["--from", "nowhere"], "cannot be imported"),
        (["--from", "django_kvsessions.engine"], "itself"),
        (["--from-store", "nowhere"], "no alias 'nowhere'"),
        (["--from-store", "default"], "are both"),
        (["--from", BACKENDS + "db", "--batch-size", "0"], "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], why: str) -> None:
    with pytest.raises(CommandError, match=why):
        migrate(*arguments)


COMMAND = """
import os, sys
from django.conf import settings
folder = sys.argv[1]
settings.configure(
    SECRET_KEY="k", INSTALLED_APPS=["django_kvsessions", "django.contrib.sessions"], USE_TZ=True,
    SESSION_ENGINE="django_kvsessions.engine", SESSION_FILE_PATH=folder + "/files",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder + "/db"}},
    SESSION_STORES={"default": {"LOCATION": folder + "/sessions"}},
)
import django; django.setup()
from django.core.management import call_command
call_command("migratesessions", *sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_killed_one_goes_on_where_it_was(
    tmp_path: Path, settings: DjangoSettings, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    from django.contrib.sessions.backends import file

    (tmp_path / "files").mkdir()
    settings.SECRET_KEY = "k"
    monkeypatch.setattr(file.SessionStore, "_storage_path", str(tmp_path / "files"))
    keys = [saved(file.SessionStore(), number=number) for number in range(300)]
    (tmp_path / "command.py").write_text(COMMAND)
    line = [sys.executable, str(tmp_path / "command.py"), str(tmp_path)]
    line += ["--from", BACKENDS + "file", "--delete", "--batch-size", "5"]
    line += ["--processes", processes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while len(os.listdir(tmp_path / "files")) > 250 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL)
    done = subprocess.run(
        line, check=False, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "failed: 0" in done.stdout
    assert os.listdir(tmp_path / "files") == []
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}
    stores.close_all()
    assert [SessionStore(key)["number"] for key in keys] == list(range(300))


SLOW_TO_END = """
import time
from collections import Counter
from multiprocessing.util import Finalize
from django.conf import settings
settings.configure()
from django_kvsessions.moving.parallel import in_processes

def work(part):
    # Once it has said all, as a store has that writes to a slow disk.
    Finalize(None, time.sleep, args=(0.5,), exitpriority=1)
    yield Counter(moved=1)

print(sum(in_processes(2, work), Counter()))
"""


def test_a_process_may_take_its_time_to_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW_TO_END],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "Counter({'moved': 2})\n", done.stderr


def test_it_runs_while_the_site_serves(tmp_path: Path, settings: DjangoSettings) -> None:
    former: Any = import_module(BACKENDS + "file").SessionStore
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "file"]
    keys = [saved(former(), number=number) for number in range(100)]
    errors: list[str] = []

    def visit() -> None:
        for place, key in enumerate(reversed(keys)):
            session = SessionStore(key)
            if session.get("number") != 99 - place:
                errors.append(key)
            elif place % 3 == 0:
                session.flush()
            else:
                session["seen"] = True
                session.save()

    thread = threading.Thread(target=visit)
    thread.start()
    for _ in range(3):
        migrate("--from", BACKENDS + "file", "--batch-size", "3", "--delete")
    thread.join(300)
    assert errors == []
    for place, key in enumerate(reversed(keys)):
        expected = {} if place % 3 == 0 else {"number": 99 - place, "seen": True}
        assert dict(SessionStore(key).items()) == expected


@pytest.fixture
def file_mover(settings: DjangoSettings) -> Mover:
    """Its steps for a session are several, between which others come."""
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "file"]
    return Mover(make_former(BACKENDS + "file"), stores["default"], delete=True, verify=True)


def test_a_request_that_has_just_taken_a_session_over_keeps_it(
    file_mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = saved(import_module(BACKENDS + "file").SessionStore(), a=1)
    take = FileFormer.take
    taken, is_over = threading.Event(), threading.Event()
    seen: list[dict[str, Any]] = []
    request = threading.Thread(target=lambda: seen.append(dict(SessionStore(key).items())))

    def held(self: FileFormer, session_key: str, left: Left) -> bool:
        if threading.current_thread() is not request:
            request.start()
            assert taken.wait(60)
            return take(self, session_key, left)
        is_mine = take(self, session_key, left)
        taken.set()
        assert is_over.wait(60)
        return is_mine

    monkeypatch.setattr(FileFormer, "take", held)
    file_mover.move([key])
    is_over.set()
    request.join(60)
    assert seen == [{"a": 1}]
    assert dict(SessionStore(key).items()) == {"a": 1}


@pytest.mark.parametrize("by", ["a request", "another command"])
def test_what_was_taken_since_it_was_looked_at_is_not_taken_for_ended(
    file_mover: Mover, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    key = saved(import_module(BACKENDS + "file").SessionStore(), a=1)
    load = FileFormer.load

    def late(self: FileFormer, session_key: str) -> Left | None:
        """Between its look and its next step another one takes the session."""
        left = load(self, session_key)
        monkeypatch.setattr(FileFormer, "load", load)
        if by == "a request":
            monkeypatch.setattr(arrivals, "establish", establish)
            return left
        other = Mover(self, stores["default"], delete=True)
        assert other.move([key]) == {"moved": 1}
        return left

    established = arrivals.establish

    async def establish(*args: Any) -> Record | None:
        going_on.set()
        assert is_over.wait(60)
        return await established(*args)

    going_on, is_over = threading.Event(), threading.Event()
    seen: list[dict[str, Any]] = []
    request = threading.Thread(target=lambda: seen.append(dict(SessionStore(key).items())))

    def put(self: Mover, *args: Any) -> Any:
        monkeypatch.setattr(Mover, "put", putting)
        if by == "a request":
            request.start()
            assert going_on.wait(60)
        return putting(self, *args)

    putting = Mover.put
    monkeypatch.setattr(FileFormer, "load", late)
    if by == "a request":
        monkeypatch.setattr(Mover, "put", put)
    assert file_mover.move([key]) == {GONE if by == "a request" else THERE: 1}
    if by == "a request":
        is_over.set()
        request.join(60)
        assert seen == [{"a": 1}]
    assert dict(SessionStore(key).items()) == {"a": 1}


def test_two_commands_at_once_lose_nothing(
    file_mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = saved(import_module(BACKENDS + "file").SessionStore(), a=1)
    take = FileFormer.take

    def overtaken(self: FileFormer, session_key: str, left: Left) -> bool:
        monkeypatch.setattr(FileFormer, "take", take)
        file_mover.move([key])
        return take(self, session_key, left)

    monkeypatch.setattr(FileFormer, "take", overtaken)
    file_mover.move([key])
    assert dict(SessionStore(key).items()) == {"a": 1}


def test_a_logout_by_the_former_engine_meanwhile_holds(
    file_mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = saved(import_module(BACKENDS + "file").SessionStore(), a=1)
    take = FileFormer.take

    def ended(self: FileFormer, session_key: str, left: Left) -> bool:
        self.engine(session_key).delete(session_key)
        return take(self, session_key, left)

    # Twice, as after a run that was killed with the session in both houses.
    Mover(file_mover.former, file_mover.store).move([key])
    monkeypatch.setattr(FileFormer, "take", ended)
    assert file_mover.move([key]) == {GONE: 1}
    assert dict(SessionStore(key).items()) == {}


def test_a_logout_holds_where_nothing_is_read_through(
    file_mover: Mover, settings: DjangoSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SESSION_FALLBACK_ENGINES = []
    key = saved(import_module(BACKENDS + "file").SessionStore(), a=1)
    take = FileFormer.take

    def ended(self: FileFormer, session_key: str, left: Left) -> bool:
        is_mine = take(self, session_key, left)
        session = SessionStore(key)
        assert session["a"] == 1
        session.flush()
        return is_mine

    monkeypatch.setattr(FileFormer, "take", ended)
    assert file_mover.move([key]) == {"moved": 1}
    assert dict(SessionStore(key).items()) == {}


# Between stores


@pytest.fixture
def two_stores(settings: DjangoSettings, tmp_path: Path) -> None:
    settings.SESSION_FALLBACK_ENGINES = []
    settings.SESSION_STORES = {
        "default": {"LOCATION": tmp_path / "one"},
        "other": {"LOCATION": tmp_path / "other"},
    }


COPY = ["--from-store", "default", "--to-store", "other", "--verify"]


@pytest.mark.usefixtures("two_stores")
def test_records_are_copied_as_they_are(settings: DjangoSettings) -> None:
    keys = [saved(SessionStore(), number=number, _auth_user_id="7") for number in range(25)]
    assert migrate(*COPY, "--dry-run").startswith("Would be moved: 25; ")
    assert list(stores["other"].scan()) == []
    assert migrate(*COPY, "--batch-size", "10").startswith("Moved: 25; skipped: 0; ")
    assert dict(stores["other"].scan()) == dict(stores["default"].scan())
    assert migrate(*COPY).startswith("Moved: 0; skipped: 25 (25 the same there already); ")
    settings.SESSION_STORE_ALIAS = "other"
    assert [SessionStore(key)["number"] for key in keys] == list(range(25))


@pytest.mark.usefixtures("two_stores")
def test_a_second_pass_brings_what_changed_under_traffic(settings: DjangoSettings) -> None:
    """The steps of the documentation: copy, stop the site, copy once more, start on the other."""
    keys = [saved(SessionStore(), number=number) for number in range(60)]
    is_over = threading.Event()
    counted = dict.fromkeys(keys, 0)

    def visit() -> None:
        while not is_over.is_set():
            for place, key in enumerate(keys[:40]):
                session = SessionStore(key)
                if place >= 20 or session.get("count", 0) < 3:
                    session["count"] = session.get("count", 0) + 1
                    session.save()
                    counted[key] += 1
                elif session.session_key:
                    session.flush()
                    counted[key] = -1000

    thread = threading.Thread(target=visit)
    thread.start()
    for _ in range(2):
        migrate(*COPY, "--batch-size", "7")
    is_over.set()
    thread.join(300)
    migrate(*COPY)
    settings.SESSION_STORE_ALIAS = "other"
    for key in keys:
        assert SessionStore(key).get("count", 0) == max(0, counted[key])
    assert dict(stores["other"].scan()) == dict(stores["default"].scan())


@pytest.mark.usefixtures("two_stores")
def test_a_store_can_be_emptied_into_another() -> None:
    for number in range(5):
        saved(SessionStore(), number=number)
    assert migrate(*COPY, "--delete").startswith("Moved: 5; ")
    assert list(stores["default"].scan()) == []
    assert len(list(stores["other"].scan())) == 5


# Caches that can be listed


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    yield from serve(redis_server)


@pytest.mark.servers
@pytest.mark.parametrize(
    "backend", ["django.core.cache.backends.redis.RedisCache", "django_redis.cache.RedisCache"]
)
def test_what_is_in_redis_is_moved_by_its_prefix(
    redis: Server, settings: DjangoSettings, backend: str
) -> None:
    location = f"redis://127.0.0.1:{redis.port}/0"
    settings.CACHES = {
        "default": {"BACKEND": backend, "LOCATION": location, "KEY_PREFIX": "shop"},
    }
    former: Any = import_module(BACKENDS + "cache").SessionStore
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "cache"]
    caches["default"].set("another", 1)
    session = former()
    session.set_expiry(5000)
    keys = [saved(session, a=1), *(saved(former(), a=1) for _ in range(24))]
    read = keys.pop()
    assert SessionStore(read)["a"] == 1
    line = migrate("--from", BACKENDS + "cache", "--delete", "--batch-size", "10")
    assert line.startswith("Moved: 24; skipped: 0; expired: 0; failed: 0;"), line
    assert all(map(in_store, keys))
    assert caches["default"].get("another") == 1
    record = stores["default"].load(codec.storage_key(keys[0]))
    assert record is not None
    assert 4900 < record.expires - time.time() < 5001
    caches["default"].clear()
    caches["default"].close()
