"""manage.py endsessions, for the day of an incident."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django.utils import timezone
from freezegun import freeze_time

from django_kvsessions.engine import SessionStore
from django_kvsessions.owners import sessions_of
from django_kvsessions.signals import session_ended
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.memory import MemoryStore
from tests.support.owning import logged_in

MEMORY = {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"}

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _site(settings: LazySettings) -> None:
    settings.SESSION_STORES = {"default": MEMORY, "other": MEMORY}


def end(*options: Any) -> str:
    out = io.StringIO()
    call_command("endsessions", *options, stdout=out)
    return out.getvalue()


def visitors() -> None:
    """Two sessions of 7, one of 8, and one of nobody's."""
    logged_in("7")
    session = logged_in("7")
    session.label("sid", "08a5019c")
    session.cycle_key()
    logged_in("8")
    anonymous = SessionStore()
    anonymous["a"] = 1
    anonymous.save()


def left() -> tuple[int, int, int]:
    """Of 7, of 8, and in the store, with a notice."""
    live = stores["default"].stats().live
    assert live is not None
    return len(sessions_of("7")), len(sessions_of("8")), live


def test_those_of_a_user_end() -> None:
    visitors()
    assert end("--user", "7") == "Ended 2 sessions in 'default'.\n"
    assert left()[:2] == (0, 1)
    assert end("--user", "7") == "Ended 0 sessions in 'default'.\n"


def test_those_with_a_label_end() -> None:
    visitors()
    logged_in("8").label("sid", "another")
    assert end("--label", "sid=08a5019c") == "Ended 1 session in 'default'.\n"
    assert left()[:2] == (1, 1 + 1)
    assert end("--label", "sid=08a5019c", "--user", "8") == "Ended 0 sessions in 'default'.\n"


def test_all_end_and_those_of_nobody_too() -> None:
    visitors()
    assert end("--all") == "Ended 4 sessions in 'default'.\n"
    assert left() == (0, 0, 1)  # the notice of the one that was moved


def test_the_older_ones_alone_end() -> None:
    with freeze_time(timezone.now()) as clock:
        visitors()
        clock.tick(100)
        logged_in("7")
        clock.tick(100)
        assert end("--user", "7", "--older-than", "100") == "Ended 2 sessions in 'default'.\n"
        assert end("--all", "--older-than", "150") == "Ended 2 sessions in 'default'.\n"
        assert left()[:2] == (1, 0)


def test_a_dry_run_ends_nothing() -> None:
    visitors()
    before = left()
    assert end("--all", "--dry-run") == "Would end 4 sessions in 'default'.\n"
    assert end("--user", "7", "--dry-run") == "Would end 2 sessions in 'default'.\n"
    assert left() == before


def test_a_store_can_be_named() -> None:
    visitors()
    assert end("--all", "--store", "other") == "Ended 0 sessions in 'other'.\n"
    assert left()[:2] == (2, 1)
    assert end("--all", "--verbosity", "0") == ""
    assert left()[:2] == (0, 0)


def test_the_command_is_told_of_as_the_reason() -> None:
    heard = []

    def hear(reason: str, **kwargs: Any) -> None:
        heard.append(reason)

    session_ended.connect(hear)
    try:
        logged_in("7")
        end("--user", "7")
        logged_in("7")
        end("--all")
    finally:
        session_ended.disconnect(hear)
    assert heard == ["command", "command"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Say whose"),
        (["--older-than", "60"], "Say whose"),
        (["--all", "--user", "7"], "Say whose"),
        (["--all", "--label", "a=b"], "Say whose"),
        (["--label", "sid"], "NAME=VALUE"),
        (["--label", "=x"], "NAME=VALUE"),
        (["--label", "sid="], "NAME=VALUE"),
        (["--all", "--older-than", "-1"], "from 0"),
        (["--all", "--older-than", "nan"], "from 0"),
        (["--all", "--store", "nowhere"], "nowhere"),
    ],
)
def test_what_is_asked_wrongly_ends_nothing(options: list[str], said: str) -> None:
    visitors()
    before = left()
    with pytest.raises(CommandError, match=said):
        end(*options)
    assert left() == before


def test_a_store_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    visitors()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(MemoryStore, "replace", fail)
    with pytest.raises(CommandError, match="'default': away"):
        end("--user", "7")
