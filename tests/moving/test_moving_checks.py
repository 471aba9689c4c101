"""What the system checks say of the engines that sessions are moved from, and sessionstats."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from io import StringIO
from typing import Any

import pytest
from django.contrib.sessions.backends import db
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connection
from freezegun import freeze_time
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions.engine import SessionStore

DB = "django.contrib.sessions.backends.db"


def said(*, deploy: bool = False) -> list[tuple[str, str]]:
    messages = run_checks(tags=["sessions"], include_deployment_checks=deploy)
    return [(str(each.id).removeprefix("kvsessions."), each.msg) for each in messages]


class PickleSerializer:
    def dumps(self, value: object) -> bytes:
        raise NotImplementedError

    def loads(self, data: bytes) -> object:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("engines", "number", "part"),
    [
        (DB, "E022", "must be a list"),
        ([7], "E022", "must be a list"),
        (["django.contrib.sessions.backends.dbb"], "E022", "cannot be imported"),
        (["json"], "E022", "without a SessionStore"),
        (["django_kvsessions.engine"], "E022", "itself"),
        (["django_kvsessions.moving.back"], "E022", "itself"),
    ],
)
def test_a_fallback_that_is_none_is_named(
    settings: DjangoSettings, engines: Any, number: str, part: str
) -> None:
    settings.SESSION_MOVE_BACK_TO = DB
    settings.SESSION_FALLBACK_ENGINES = engines
    [(found, message)] = said()
    assert found == number
    assert "SESSION_FALLBACK_ENGINES" in message
    assert part in message


def test_good_fallbacks_are_nothing_to_speak_of(path: str) -> None:
    assert said() == []
    assert said(deploy=True) == []


def test_a_fallback_without_its_app_or_its_table_is_named(settings: DjangoSettings) -> None:
    settings.SESSION_FALLBACK_ENGINES = [DB]
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE django_session")
    [(number, message)] = said(deploy=True)
    assert number == "E023"
    assert "django_session" in message


def test_a_fallback_that_pickles_is_warned_of(
    settings: DjangoSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SESSION_FALLBACK_ENGINES = [DB]
    monkeypatch.setattr(db.SessionStore, "serializer", PickleSerializer, raising=False)
    monkeypatch.setattr(db.SessionStore, "__init__", lambda self, session_key=None: None)
    [(number, message)] = said()
    assert number == "W015"
    assert "pickle" in message


def test_the_way_back_needs_to_know_where_to(settings: DjangoSettings) -> None:
    settings.SESSION_ENGINE = "django_kvsessions.moving.back"
    assert "E024" in [number for number, _ in said()]
    settings.SESSION_MOVE_BACK_TO = DB
    assert said() == []


def test_a_fallback_that_nothing_comes_from_any_more_can_be_removed(
    settings: DjangoSettings,
) -> None:
    settings.SESSION_FALLBACK_ENGINES = [DB]
    session = db.SessionStore()
    session["a"] = 1
    session.save()
    assert SessionStore(session.session_key)["a"] == 1
    assert said(deploy=True) == []
    later = datetime.fromtimestamp(time.time() + 30 * 86400, timezone.utc)
    with freeze_time(later):
        [(number, message)] = said(deploy=True)
    assert number == "W016"
    assert "30 days" in message


def test_sessionstats_says_how_many_came_from_each(settings: DjangoSettings) -> None:
    settings.SESSION_FALLBACK_ENGINES = [DB, "django.contrib.sessions.backends.file"]
    session = db.SessionStore()
    session["a"] = 1
    session.save()
    assert SessionStore(session.session_key)["a"] == 1
    output = StringIO()
    call_command("sessionstats", "--json", stdout=output)
    moved = json.loads(output.getvalue())["default"]["moved_from"]
    assert list(moved) == [DB]
    assert moved[DB]["moved"] == 1
    output = StringIO()
    call_command("sessionstats", stdout=output)
    assert f"1 came from {DB}" in output.getvalue()
