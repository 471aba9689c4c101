"""Probes: sessionstats --check and --watch, and the view for a load balancer."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import path

from django_kvsessions import health
from django_kvsessions.health import Limits, find_problems, session_health
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, StoreUnavailable
from django_kvsessions.stores.semidbm import SemidbmStore
from django_kvsessions.testing import wait_until

urlpatterns = [path("healthz", session_health)]
ROOT = Path(__file__).parent.parent
PATIENCE = 240.0


@pytest.fixture(autouse=True)
def folder(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Path]:
    settings.ROOT_URLCONF = __name__
    # A busy machine may take longer than a second.
    _, *others = Limits()
    monkeypatch.setattr(Limits.__new__, "__defaults__", (PATIENCE, *others))
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}
    yield tmp_path / "sessions"
    health._asking.clear()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """The store hangs; one item for each question that was asked of it."""
    asked: list[None] = []
    gate = threading.Event()

    def hang(self: SemidbmStore, key: bytes) -> None:
        asked.append(None)
        gate.wait(PATIENCE)

    monkeypatch.setattr(SemidbmStore, "load", hang)
    yield asked
    gate.set()


def check(**options: Any) -> str:
    out = io.StringIO()
    options = {"within": PATIENCE * 1000, **options}
    call_command("sessionstats", check=True, stdout=out, **options)
    return out.getvalue()


def problems(**options: Any) -> str:
    out = io.StringIO()
    options = {"within": PATIENCE * 1000, **options}
    with pytest.raises(CommandError, match="Not well: 'default'") as raised:
        call_command("sessionstats", check=True, stdout=out, **options)
    assert raised.value.returncode == 1
    return out.getvalue()


def test_a_store_that_does_well_is_ok() -> None:
    assert check() == "'default': ok\n"
    assert json.loads(check(json=True)) == {"default": []}


def test_a_store_that_hangs_is_not_ok_within_the_time_given(hanging: list[None]) -> None:
    started = time.monotonic()
    assert problems(within=100) == "'default': it has not answered within 100 ms.\n"
    assert time.monotonic() - started < PATIENCE / 2
    wait_until(lambda: len(hanging) == 1, PATIENCE)
    # No second thread waits beside the first.
    assert problems(within=100) == "'default': it has not answered within 100 ms.\n"
    assert len(hanging) == 1


def test_a_store_that_is_away_is_not_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: SemidbmStore, key: bytes) -> None:
        raise StoreUnavailable("the server is away")

    monkeypatch.setattr(SemidbmStore, "load", fail)
    assert problems() == "'default': the server is away\n"


def test_a_disk_without_room_is_told() -> None:
    stores["default"].setup()
    room = shutil.disk_usage("/tmp").total / 2**20
    assert "MB left, less than" in problems(room=room)


def test_bytes_that_were_set_aside_are_told(folder: Path) -> None:
    stores["default"].setup()
    (folder / "quarantine").write_bytes(b"")
    assert check() == "'default': ok\n"
    (folder / "quarantine").write_bytes(b"12345")
    assert "quarantine has 5 bytes that did not verify" in problems()


@pytest.mark.parametrize("name", ["semidbm.SemidbmStore", "lmdb.LMDBStore"])
def test_a_store_that_nobody_cleans_is_told(
    name: str, settings: LazySettings, tmp_path: Path
) -> None:
    backend = f"django_kvsessions.stores.{name}"
    settings.SESSION_STORES = {"default": {"BACKEND": backend, "LOCATION": tmp_path / "others"}}
    store = stores["default"]
    limits = Limits(room=0, expired=3, expired_age=86_400)
    for number, days in enumerate((3, 2, 0.5)):
        assert list(find_problems("default", limits)) == []
        expires = time.time() - days * 86_400
        store.create(b"%032d" % number, Record(b"", expires, 1))
    (problem,) = find_problems("default", limits)
    assert problem.startswith("3 sessions have expired, the first of them 3.0 days ago")
    assert list(find_problems("default", limits._replace(expired_age=4 * 86_400))) == []


@pytest.mark.parametrize("wrong", ["--within=0", "--room=-1", "--watch=nan"])
def test_wrong_options_are_refused_by_name(wrong: str) -> None:
    with pytest.raises(CommandError, match=wrong.partition("=")[0]):
        call_command("sessionstats", wrong)


# The view


def test_the_view_says_ok_and_nothing_else() -> None:
    response = Client().get("/healthz")
    assert (response.status_code, response.content) == (200, b"ok")
    assert "no-store" in response["Cache-Control"]


def test_the_view_tells_strangers_nothing_of_what_is_wrong(
    settings: LazySettings, hanging: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health.Limits.__new__, "__defaults__", (0.1, 0, 0, 0.0))
    assert Client().get("/healthz").content == b"not ok"
    settings.SESSION_STORES = {"default": {"LOCATION": None, "BACKEND": "no.such.Store"}}
    response = Client().get("/healthz")
    assert (response.status_code, response.content) == (503, b"not ok")


# Again and again


def test_watching_goes_on_until_it_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "own_settings.py").write_text(
        "SECRET_KEY = 'a secret key for the tests'\n"
        "INSTALLED_APPS = ['django_kvsessions']\n"
        "SESSION_ENGINE = 'django_kvsessions.engine'\n"
        f"SESSION_STORES = {{'default': {{'LOCATION': {str(tmp_path / 'sessions')!r}}}}}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "django", "sessionstats", "--watch=0.05"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "DJANGO_SETTINGS_MODULE": "own_settings",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(PATIENCE, process.kill)
    limit.start()
    try:
        assert process.stdout is not None
        rows = [line for line in (process.stdout.readline() for _ in range(6)) if "Semidbm" in line]
        assert len(rows) == 3
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=240)
        assert (process.returncode, errors) == (0, "")
    finally:
        limit.cancel()
        process.kill()
        process.communicate()
