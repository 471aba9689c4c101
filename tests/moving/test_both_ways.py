"""Many sessions of each of Django's engines, moved there and back: all of each is there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any, NamedTuple

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    aget_user,
    get_user,
)
from django.contrib.auth.models import User
from django.http import HttpRequest
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions import codec
from django_kvsessions.engine import SessionStore
from django_kvsessions.moving import back
from django_kvsessions.moving.formers import make_former
from django_kvsessions.stores import stores
from tests.moving.conftest import ENGINES
from tests.moving.test_reading_through import BACKENDS

pytestmark = pytest.mark.slow

#: A thousand, with the five engines. By hand: KVSESSIONS_MOVED=1000.
SESSIONS = int(os.environ.get("KVSESSIONS_MOVED", "200"))
#: Of all four kinds: of the setting, with the browser, in seconds, at a time.
EXPIRIES = [None, 0, 5000, timedelta(seconds=7000), datetime(2040, 1, 1, tzinfo=timezone.utc)]


class Left(NamedTuple):
    """A session as it was left: its id, its data, and between which times it is to end."""

    key: str
    data: dict[str, Any]
    earliest: float
    latest: float


class Found(NamedTuple):
    key: str
    data: dict[str, Any]
    user: Any


def leave(engine: Callable[..., Any], user: User) -> Iterator[Left]:
    for number in range(SESSIONS):
        session, expiry, before = engine(), EXPIRIES[number % len(EXPIRIES)], time.time()
        session.update(
            {
                SESSION_KEY: str(user.pk),
                BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend",
                HASH_SESSION_KEY: user.get_session_auth_hash(),
                "_csrftoken": f"{number:032}",
                "_messages": f'[["__json_message", 0, 25, "a pear for {number}", ""]]',
                "cart": {"pear": number, "plum": [1.5, None, "ü"]},
            }
        )
        session.set_expiry(expiry)
        session.save()
        if isinstance(expiry, datetime):
            ends = [expiry.timestamp()] * 2
        else:
            age = timedelta(seconds=expiry) if isinstance(expiry, int) else expiry
            seconds = age.total_seconds() if age else 14 * 86400
            ends = [before + seconds, time.time() + seconds]
        yield Left(str(session.session_key), dict(session.items()), *ends)


def look(engine: Callable[..., Any], key: str) -> Found:
    request = HttpRequest()
    session = request.session = engine(key)
    user = get_user(request)
    if session.modified:
        session.save()
    return Found(session.session_key, dict(session.items()), user)


async def alook(engine: Callable[..., Any], key: str) -> Found:
    request = HttpRequest()
    session = request.session = engine(key)
    user = await aget_user(request)
    if session.modified:
        await session.asave()
    return Found(session.session_key, dict(await session.aitems()), user)


async def alook_at_all(engine: Callable[..., Any], keys: list[str]) -> list[Found]:
    return [await alook(engine, key) for key in keys]


def look_at_all(engine: Callable[..., Any], keys: list[str]) -> list[Found]:
    """The first half of them in sync, the others in async."""
    half = len(keys) // 2
    found = [look(engine, key) for key in keys[:half]]
    return found + async_to_sync(alook_at_all)(engine, keys[half:])


def check(left: list[Left], found: list[Found], user: User, *, keeps_ids: bool) -> None:
    assert [each.data for each in found] == [each.data for each in left]
    assert {each.user for each in found} == {user}
    keys = [each.key for each in found]
    assert len(set(keys)) == SESSIONS
    if keeps_ids:
        assert keys == [each.key for each in left]


@pytest.mark.parametrize("name", ENGINES)
def test_many_sessions_move_there_and_back(name: str, settings: DjangoSettings) -> None:
    path = BACKENDS + name
    former, is_cookie = import_module(path).SessionStore, name == "signed_cookies"
    # All of them are to fit: Django's cache in memory holds 300 values otherwise.
    memory = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    settings.CACHES = {"default": {**memory, "OPTIONS": {"MAX_ENTRIES": 10 * SESSIONS}}}
    settings.SESSION_STORES = {"default": settings.SESSION_STORES["memory"]}
    user = User.objects.create_user("ann")
    left = list(leave(former, user))

    settings.SESSION_FALLBACK_ENGINES = [path]
    found = look_at_all(SessionStore, [each.key for each in left])
    check(left, found, user, keeps_ids=not is_cookie)
    asked = make_former(path)
    store = stores["default"]
    for before, after in zip(left, found, strict=True):
        record = store.load(codec.storage_key(after.key))
        assert record is not None
        assert before.earliest - 1 < record.expires < before.latest + 1
        assert record.owner == codec.owner_digest(str(user.pk))
        if not is_cookie:
            assert asked.load(before.key) is None

    settings.SESSION_FALLBACK_ENGINES = []
    settings.SESSION_MOVE_BACK_TO = path
    returned = look_at_all(back.SessionStore, [each.key for each in found])
    check(left, returned, user, keeps_ids=False)
    if not is_cookie:
        assert [each.key for each in returned] == [each.key for each in left]
    for before, after in zip(left, returned, strict=True):
        there = asked.load(after.key)
        assert there is not None
        assert there.data == before.data
        if not is_cookie:
            assert before.earliest - 1 < there.expires < before.latest + 1
            assert store.load(codec.storage_key(after.key)) is None
