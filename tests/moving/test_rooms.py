"""A session that is moved in is like any other in the rest of the house."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions import codec
from django_kvsessions.engine import SessionStore
from django_kvsessions.owners import end_session, end_sessions, sessions_of
from django_kvsessions.signals import session_ended, session_started
from django_kvsessions.stores import stores

DATA = {"cart": ["pear"], "_auth_user_id": "7"}


@pytest.fixture(params=["db", "cache"])
def path(request: pytest.FixtureRequest, settings: DjangoSettings) -> str:
    settings.SESSION_STORES = {"default": settings.SESSION_STORES["memory"]}
    name = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FALLBACK_ENGINES = [name]
    return name


@pytest.fixture
def told() -> Iterator[list[tuple[str, str | None]]]:
    found: list[tuple[str, str | None]] = []

    def start(**named: Any) -> None:
        found.append(("started", named["user_id"]))

    def end(**named: Any) -> None:
        found.append((named["reason"], named["user_id"]))

    session_started.connect(start)
    session_ended.connect(end)
    yield found
    session_started.disconnect(start)
    session_ended.disconnect(end)


def there(former: Callable[..., Any]) -> str:
    session = former()
    session.update(DATA)
    session.save()
    key: str = session.session_key
    return key


def head(key: str) -> codec.Head:
    record = stores["default"].load(codec.storage_key(key))
    assert record is not None
    return codec.open_head(codec.storage_key(key), record.owner, record.data)


def test_it_is_encrypted_on_its_way_in(
    settings: DjangoSettings, former: Callable[..., Any]
) -> None:
    settings.SESSION_ENCRYPTION = True
    key = there(former)
    assert dict(SessionStore(key).items()) == DATA
    assert head(key).is_encrypted
    assert dict(SessionStore(key).items()) == DATA


def test_the_command_encrypts_too(settings: DjangoSettings, former: Callable[..., Any]) -> None:
    settings.SESSION_ENCRYPTION = True
    settings.SESSION_FALLBACK_ENGINES = ["django.contrib.sessions.backends.db"]
    from django.contrib.sessions.backends.db import SessionStore as Former

    key = there(Former)
    call_command("migratesessions", "--from", settings.SESSION_FALLBACK_ENGINES[0], verbosity=0)
    assert head(key).is_encrypted
    assert dict(SessionStore(key).items()) == DATA


def test_to_be_moved_is_no_login(
    settings: DjangoSettings, former: Callable[..., Any], told: list[tuple[str, str | None]]
) -> None:
    settings.SESSION_MAX_PER_USER = 1
    keys = [there(former), there(former)]
    for key in keys:
        session = SessionStore(key)
        session["seen"] = True
        session.save()
        assert session.authenticated_at is None
    assert len(sessions_of("7")) == 2
    assert told == []


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_an_end_is_told_once(
    settings: DjangoSettings,
    former: Callable[..., Any],
    told: list[tuple[str, str | None]],
    is_encrypted: bool,
) -> None:
    settings.SESSION_ENCRYPTION = is_encrypted
    key = there(former)
    sessions = [SessionStore(key), SessionStore(key)]
    for session in sessions:
        assert session["cart"] == ["pear"]
    for session in sessions:
        session.flush()
    assert told == [("logout", "7")]
    assert dict(SessionStore(key).items()) == {}


@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.parametrize("is_every", [False, True])
def test_a_copy_that_the_former_engine_has_does_not_bring_back_what_its_user_ended(
    settings: DjangoSettings, path: str, is_encrypted: bool, is_every: bool
) -> None:
    """The command without --delete leaves one, and lists know no id to remove it by."""
    from django.contrib.sessions.backends.db import SessionStore as Former

    settings.SESSION_ENCRYPTION = is_encrypted
    settings.SESSION_FALLBACK_ENGINES = ["django.contrib.sessions.backends.db"]
    key = there(Former)
    call_command("migratesessions", "--from", settings.SESSION_FALLBACK_ENGINES[0], verbosity=0)
    (session,) = sessions_of("7")
    if is_every:
        assert end_sessions("7") == 1
    else:
        assert end_session("7", session.public_id)
    assert Former(key).exists(key)
    assert dict(SessionStore(key).items()) == {}
    assert sessions_of("7") == []
