"""The automatic clean-up: in the background, once for all processes, where a site serves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, override_settings
from freezegun import freeze_time

from django_kvsessions import cleaning, conf
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store
from django_kvsessions.stores.lmdb import LMDBStore
from django_kvsessions.stores.memory import MemoryStore
from django_kvsessions.stores.semidbm import SemidbmStore
from django_kvsessions.stores.semidbm.compaction import Compaction
from tests.support.odd_stores import RecordingStore

ROOT = Path(__file__).parent.parent

#: A site on one store, whose process asks for a clean-up after each creation.
SITE = """
import io, logging, os, sys, threading, time
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s", stream=sys.stdout)
from django.conf import settings
settings.configure(
    SECRET_KEY="for this test",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="__main__",
    INSTALLED_APPS=["django_kvsessions"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER + "/db"}},
    MIDDLEWARE=["django_kvsessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django_kvsessions.engine",
    SESSION_STORES={"default": STORE},
    **SETTINGS,
)
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from django_kvsessions import cleaning
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store

def visit(request):
    request.session["visits"] = 1
    return HttpResponse("ok")

urlpatterns = [path("", visit)]
cleaning.CHANCE = 1.0
application = get_wsgi_application()
store = stores["default"]
store.setup()

def expire(count, first=0):
    for number in range(first, first + count):
        store.create(b"x%031d" % number, Record(b"", time.time() - 1, 1))

def request():
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SERVER_NAME": "x", "SERVER_PORT": "80",
               "wsgi.input": io.BytesIO(), "wsgi.url_scheme": "http"}
    statuses = []
    response = application(environ, lambda status, headers: statuses.append(status))
    b"".join(response)
    response.close()
    assert statuses == ["200 OK"], statuses

def cleaners():
    return [each for each in threading.enumerate() if "clean-up" in each.name]

def settle():
    for thread in cleaners():
        thread.join(200)

def expired():
    return store.stats().expired
"""

SEMIDBM = {"BACKEND": "django_kvsessions.stores.semidbm.SemidbmStore"}
DATABASE = {"BACKEND": "django_kvsessions.stores.database.DatabaseStore", "LOCATION": "default"}


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs code in a process of a site; the lines that it prints and logs."""

    def run(code: str, store: dict[str, Any] = SEMIDBM, **settings: Any) -> list[str]:
        if store is SEMIDBM:
            store = {**store, "LOCATION": str(tmp_path / "sessions")}
        values = f"FOLDER, STORE, SETTINGS = {str(tmp_path)!r}, {store!r}, {settings!r}\n"
        result = subprocess.run(
            [sys.executable, "-X", "dev", "-c", values + SITE + code],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )
        assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
        return result.stdout.splitlines()

    return run


Site = Callable[..., list[str]]


def test_a_store_that_nobody_cleans_is_cleaned_while_it_serves(site: Site) -> None:
    lines = site("expire(10); request(); settle(); print(expired())")
    assert lines[-1] == "0"
    assert "SESSION_STORES['default'] removed 10 expired sessions" in lines[0]


def test_a_process_that_serves_no_request_leaves_it_alone(site: Site) -> None:
    code = "expire(10)\nfor _ in range(20): SessionStore().create()\nprint(cleaners(), expired())"
    assert site(code) == ["[] 10"]


def test_tests_leave_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "CHANCE", 1.0)
    # As after a request to a live server.
    monkeypatch.setattr(cleaning._cleaner, "is_serving", True)
    with override_settings(
        SESSION_STORES={
            "default": {"BACKEND": f"{RecordingStore.__module__}.{RecordingStore.__name__}"}
        }
    ):
        SessionStore().create()
        store = stores["default"]
        assert isinstance(store, RecordingStore)
        assert store.batch_sizes == []
    assert not [each for each in threading.enumerate() if "clean-up" in each.name]


def test_a_request_of_the_test_client_is_no_service() -> None:
    assert not cleaning._cleaner.is_serving
    Client().get("/")
    assert not cleaning._cleaner.is_serving


def test_it_is_done_once_for_all_processes_together(site: Site) -> None:
    first = site("expire(10); request(); settle(); print(expired())")
    assert first[-1] == "0"
    code = "expire(5)\nfor _ in range(5): request(); settle()\nprint(expired())"
    assert site(code) == ["5"]
    # The mark expires, as after the interval.
    code = "store.touch(cleaning._MARK, time.time())\nrequest(); settle(); print(expired())"
    assert site(code)[-1] == "0"


def test_each_clean_up_is_bounded_and_the_next_creation_goes_on(site: Site) -> None:
    code = "expire(5000)\nfor _ in range(4): request(); settle(); print(expired())"
    lines = [line for line in site(code) if not line.startswith("INFO")]
    assert lines == ["3000", "1000", "0", "0"]


def test_no_request_waits_for_it(site: Site) -> None:
    code = """
from tests.support.odd_stores import RecordingStore
began, gate = threading.Event(), threading.Event()
def delete_expired(self, *, batch_size):
    began.set()
    gate.wait(200)
    yield 1
RecordingStore.delete_expired = delete_expired
request()
assert began.wait(200)
for _ in range(10): request()
print(len(cleaners()))
gate.set()
settle()
"""
    store = {"BACKEND": "tests.support.odd_stores.RecordingStore"}
    assert site(code, store)[0] == "1"


def test_a_process_that_ends_ends_it_after_the_batch_under_way(site: Site, tmp_path: Path) -> None:
    store = {
        "BACKEND": "tests.support.odd_stores.EndlessStore",
        "OPTIONS": {"marks": str(tmp_path / "marks")},
    }
    site("request()\nwhile not os.path.exists(FOLDER + '/marks'): time.sleep(0.01)", store)
    # In order: what was begun was done.
    words = (tmp_path / "marks").read_text().split()
    assert words == ["begun", "done"] * (len(words) // 2)
    assert len(words) < 20


def test_a_forked_child_has_a_clean_up_of_its_own(site: Site) -> None:
    code = """
import warnings
# Python warns of a fork under threads, which is what is tested.
warnings.simplefilter("ignore", DeprecationWarning)
began, gate = threading.Event(), threading.Event()
real = type(store).delete_expired
def delete_expired(self, *, batch_size):
    began.set()
    gate.wait(200)
    return iter(())
type(store).delete_expired = delete_expired
request()
assert began.wait(200)
child = os.fork()
if child == 0:
    type(store).delete_expired = real
    expire(10)
    store.delete(cleaning._MARK)
    request()
    settle()
    os._exit(0 if expired() == 0 else 1)
status = os.waitpid(child, 0)[1]
gate.set()
settle()
print(status)
"""
    assert site(code)[-1] == "0"


def test_a_failure_is_a_line_in_the_log_and_nothing_to_a_request(site: Site) -> None:
    code = "request(); settle(); request(); settle()"
    lines = site(code, {"BACKEND": "tests.support.odd_stores.BuggyStore"})
    assert lines[0].startswith("WARNING The automatic clean-up of SESSION_STORES['default'] failed")
    assert sum(line.startswith("WARNING") for line in lines) == 1
    assert "ConnectionResetError: the driver's own error" in lines[-1]


@pytest.mark.parametrize(
    ("setting", "store", "left"),
    [
        ({}, SEMIDBM, "0"),
        ({"SESSION_AUTO_CLEAN": False}, SEMIDBM, "10"),
        ({}, DATABASE, "10"),
        ({"SESSION_AUTO_CLEAN": True}, DATABASE, "0"),
    ],
)
def test_the_setting_decides_and_by_default_the_kind_of_store(
    site: Site, setting: dict[str, bool], store: dict[str, Any], left: str
) -> None:
    assert site("expire(10); request(); settle(); print(expired())", store, **setting)[-1] == left


@pytest.mark.parametrize("wrong", [1, "yes", 600])
def test_a_setting_of_another_kind_is_named(wrong: object) -> None:
    with (
        override_settings(SESSION_AUTO_CLEAN=wrong),
        pytest.raises(ImproperlyConfigured, match="SESSION_AUTO_CLEAN must be True or False"),
    ):
        conf.auto_clean()


def test_what_lives_for_a_minute_is_cleaned_up_several_times_a_minute() -> None:
    with override_settings(SESSION_COOKIE_AGE=60):
        assert cleaning._interval() == 6.0
    assert cleaning._interval() == 600.0


def test_a_task_removes_what_has_expired_up_to_a_limit() -> None:
    if django.VERSION < (6, 0):
        with pytest.raises(ImportError, match="needs Django 6.0"):
            from django_kvsessions import tasks
        return
    from django_kvsessions import tasks

    for number in range(2500):
        stores["default"].create(b"%032d" % number, Record(b"", time.time() - 1, 1))
    assert tasks.clean_sessions.call(at_most=1000) == 1000
    result = tasks.clean_sessions.enqueue()
    assert result.return_value == 1500
    assert tasks.clean_sessions.enqueue(alias="memory").return_value == 0


@pytest.mark.parametrize("kind", [SemidbmStore, LMDBStore, MemoryStore])
def test_a_month_of_short_sessions_without_cron_stays_within_twice_the_living(
    kind: type[Store], tmp_path: Path
) -> None:
    """Short here; ``python -m benchmarks auto-clean`` for the whole of it."""
    from benchmarks.auto_clean import simulate

    if kind is LMDBStore:
        # What is measured is its size, not the disk.
        store: Store = LMDBStore(tmp_path / "sessions", durability="process")
    else:
        store = SemidbmStore(tmp_path / "sessions") if kind is SemidbmStore else MemoryStore()
    most = simulate(store, living=4000, lives=5)
    assert most.records < 2 * 4000
    if kind is not MemoryStore:
        assert 0 < most.live_size <= most.size < 2 * most.live_size
    store.close()


def test_a_clean_up_after_a_rush_gives_the_room_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by chance before it.
    monkeypatch.setattr(Compaction, "soon", lambda *_: None)
    with freeze_time() as clock:
        store = SemidbmStore(tmp_path / "sessions")
        for number in range(12_000):
            store.create(b"%032d" % number, Record(bytes(600), time.time() + 60, 1))
        size = store.stats().size or 0
        clock.tick(61)
        for number in range(100):
            store.create(b"n%031d" % number, Record(bytes(600), time.time() + 60, 1))
        assert sum(store.delete_expired()) == 12_000
        assert (store.stats().size or 0) < size / 50
        assert len(list(store.scan())) == 100
        store.close()
