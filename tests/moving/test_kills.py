"""Processes move sessions, change them, end them and are killed; nothing is lost or revived."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions.engine import SessionStore
from django_kvsessions.moving.arrivals import unknown
from django_kvsessions.stores import stores

pytestmark = pytest.mark.slow

#: By hand: KVSESSIONS_MOVED=1000.
SESSIONS = int(os.environ.get("KVSESSIONS_MOVED", "60"))
PROCESSES = 4
ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import json, os, random, sys
import django
from django.conf import settings
folder, number, keys = sys.argv[1], int(sys.argv[2]), json.load(open(sys.argv[3]))
settings.configure(
    SECRET_KEY="k", INSTALLED_APPS=["django.contrib.sessions"], USE_TZ=True,
    SESSION_FILE_PATH=folder + "/files",
    SESSION_STORES={"default": {"LOCATION": folder + "/sessions"}},
    SESSION_FALLBACK_ENGINES=["django.contrib.sessions.backends.file"],
)
django.setup()
from django.contrib.sessions.backends.base import UpdateError
from django_kvsessions.engine import SessionStore
log = os.open(f"{folder}/log{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def say(*words):
    os.write(log, (" ".join(map(str, words)) + "\\n").encode())
random.shuffle(keys)
for place, key in enumerate(keys):
    session = SessionStore(key)
    if place % 5 == 4:
        say("ending", key)
        session.flush()
        say("ended", key)
        continue
    if session.get("cart") != ["pear"]:
        say("nothing", key)
        continue
    stamp = f"{os.getpid()}-{place}"
    session[stamp] = 1
    try:
        session.save()
    except UpdateError:
        say("told", key)
    else:
        say("changed", key, stamp)
say("done", number)
"""


#: A number that a worker writes its log under, and its process.
Worker = tuple[int, "subprocess.Popen[bytes]"]


@pytest.fixture
def running() -> Iterator[list[Worker]]:
    """Those that nobody has waited for yet are ended with the test."""
    running: list[Worker] = []
    yield running
    for _, process in running:
        process.kill()
        process.wait()


def test_processes_that_are_killed_while_they_move_lose_nothing(
    tmp_path: Path,
    settings: DjangoSettings,
    monkeypatch: pytest.MonkeyPatch,
    running: list[Worker],
) -> None:
    from django.contrib.sessions.backends import file

    (tmp_path / "files").mkdir()
    settings.SECRET_KEY = "k"
    settings.SESSION_FILE_PATH = str(tmp_path / "files")
    monkeypatch.setattr(file.SessionStore, "_storage_path", str(tmp_path / "files"))
    keys = []
    for number in range(SESSIONS):
        session = file.SessionStore()
        session.update({"cart": ["pear"], "number": number})
        session.save()
        keys.append(str(session.session_key))
    (tmp_path / "keys").write_text(json.dumps(keys))
    (tmp_path / "worker.py").write_text(WORKER)
    kills = 0
    waiting = list(range(PROCESSES)) * 2
    until = time.monotonic() + 500
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    dice = random.Random(1)
    while (waiting or running) and time.monotonic() < until:
        while waiting and len(running) < PROCESSES:
            number = waiting.pop()
            line = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path), str(number)]
            process = subprocess.Popen([*line, str(tmp_path / "keys")], env=environment)
            running.append((number, process))
        time.sleep(0.05)
        for number, process in list(running):
            busy = (tmp_path / f"log{number}").exists()
            if process.poll() is not None:
                assert process.returncode in (0, -signal.SIGKILL)
                running.remove((number, process))
            elif busy and kills < PROCESSES and dice.random() < 0.3:
                process.kill()
                process.wait()
                kills += 1
                running.remove((number, process))
                waiting.append(number)
    assert not running, "too slow"
    assert kills

    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}
    settings.SESSION_FALLBACK_ENGINES = ["django.contrib.sessions.backends.file"]
    stores.close_all()
    unknown.clear()
    words = [
        line.split()
        for number in range(PROCESSES)
        for line in (tmp_path / f"log{number}").read_text().splitlines()
    ]
    ended = {key for what, key, *_ in words if what == "ended"}
    ending = {key for what, key, *_ in words if what == "ending"}
    assert ended
    assert any(what == "changed" for what, *_ in words)
    for number, key in enumerate(keys):
        data = dict(SessionStore(key).items())
        if key in ended:
            assert data == {}, "a session that was ended is back"
        elif key not in ending:
            # No session is gone that nobody has ended.
            assert data["number"] == number
            stamps = {rest[0] for what, each, *rest in words if what == "changed" and each == key}
            assert stamps <= data.keys(), "a change is lost"
        assert not file.SessionStore().exists(key)
