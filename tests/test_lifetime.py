"""How long a session lives, at the edges: what the ages say, and what the record has."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.utils import timezone
from freezegun import freeze_time

from django_kvsessions.engine import SessionStore
from tests.test_engine import Calls, record_of, saved, stored

HOUR = 3600


@pytest.fixture(autouse=True)
def _site(settings: LazySettings, tmp_path: Path) -> None:
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Calls]:
    return lambda key=None: Calls(SessionStore(key), request.param == "async")


@pytest.fixture
def clock() -> Iterator[Any]:
    with freeze_time(timezone.now().replace(microsecond=0)) as frozen:
        yield frozen


# What the ages say is the life that begins with the next save


def test_before_a_login_is_saved_the_ages_are_those_of_its_new_life(
    opened: Callable[..., Calls], settings: LazySettings, clock: Any
) -> None:
    settings.SESSION_ABSOLUTE_AGE = 8 * HOUR
    settings.SESSION_COOKIE_AGE = 8 * HOUR
    key = saved(a=1)
    clock.tick(8 * HOUR - 60)
    session = opened(key)
    assert session.get("a") == 1
    assert session.get_expiry_age() == 60
    session.cycle_key()
    assert session.get_expiry_age() == 60
    session.session["_auth_user_id"] = "1"
    assert session.get_expiry_age() == 8 * HOUR
    assert session.get_expiry_date() == timezone.now() + timedelta(hours=8)
    session.save()
    assert session.get_expiry_age() == 8 * HOUR
    assert record_of(session.session.session_key).expires == time.time() + 8 * HOUR


def test_a_flush_leaves_nothing_of_the_former_life(
    opened: Callable[..., Calls], settings: LazySettings, clock: Any
) -> None:
    settings.SESSION_ABSOLUTE_AGE = HOUR
    settings.SESSION_COOKIE_AGE = HOUR
    key = saved(a=1)
    clock.tick(HOUR - 60)
    session = opened(key)
    assert session.get("a") == 1
    session.flush()
    assert session.get_expiry_age() == HOUR
    session.session["b"] = 1
    session.save()
    assert record_of(session.session.session_key).expires == time.time() + HOUR


def test_a_clock_that_was_put_back_does_not_lengthen_the_absolute_life(
    opened: Callable[..., Calls], settings: LazySettings
) -> None:
    settings.SESSION_ABSOLUTE_AGE = 2 * HOUR
    settings.SESSION_COOKIE_AGE = HOUR
    start = timezone.now()
    with freeze_time(start + timedelta(days=1)) as clock:
        key = saved(a=1)
        clock.move_to(start)
        session = opened(key)
        session.session["a"] = 2
        session.save()
        for step in range(3, 8):
            clock.tick(HOUR / 2)
            session = opened(key)
            if session.get("a") is None:
                break
            session.session["a"] = step
            session.save()
        assert timezone.now() - start == timedelta(hours=2)
        assert not opened(key).exists(key)


# Extending a life


@pytest.mark.parametrize("visits", [20, 29, 31, 40, 59])
def test_a_session_in_use_does_not_end(
    visits: int, opened: Callable[..., Calls], settings: LazySettings, clock: Any
) -> None:
    """Of an hour, with an interval just below it, and a visit each so many minutes."""
    settings.SESSION_COOKIE_AGE = HOUR
    settings.SESSION_TOUCH_INTERVAL = HOUR - 100
    key = saved(a=1)
    for _ in range(10):
        clock.tick(visits * 60)
        session = opened(key)
        assert session.get("a") == 1
        session.save()


def test_a_session_that_expires_in_a_request_is_told_only_to_who_changed_it(
    opened: Callable[..., Calls], settings: LazySettings, clock: Any
) -> None:
    settings.SESSION_COOKIE_AGE = 60
    settings.SESSION_TOUCH_INTERVAL = 0
    key = saved(a=1)
    session = opened(key)
    assert session.get("a") == 1
    clock.tick(61)
    session.save()
    assert session.touch() is False
    assert not session.exists(key)


# Time zones


@pytest.fixture
def _berlin(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.USE_TZ = False
    settings.TIME_ZONE = "Europe/Berlin"
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    os.environ.setdefault("TZ", "UTC")
    time.tzset()


@pytest.mark.usefixtures("_berlin")
@pytest.mark.parametrize("expiry", [1800, timedelta(seconds=1800), None])
@pytest.mark.parametrize("hour", [datetime(2026, 10, 25, 0, 40), datetime(2026, 10, 25, 1, 40)])
def test_a_session_lives_through_the_hour_that_the_clocks_repeat(
    hour: datetime, expiry: Any, monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    """Half past two came twice that night, at half past midnight and at half past one UTC."""
    settings.SESSION_COOKIE_AGE = 1800
    moment = hour.replace(tzinfo=timezone.get_fixed_timezone(0)).timestamp() - 600
    # freezegun does not know of local times that come twice.
    monkeypatch.setattr("django_kvsessions.stores.base.time.time", lambda: moment)
    monkeypatch.setattr(timezone, "now", lambda: datetime.fromtimestamp(moment))
    session = SessionStore()
    session.set_expiry(expiry)
    session.save()
    record = session.store.load(session._key)
    assert record is not None
    # A date of that hour, which Django stores without its offset, may mean the later one.
    assert record.expires - moment in (
        (1800, 1800 + 3600) if isinstance(expiry, timedelta) else (1800,)
    )


# Subclasses


class ByAge(SessionStore):
    def get_expiry_age(self, **kwargs: Any) -> int:
        return 77

    async def aget_expiry_age(self, **kwargs: Any) -> int:
        return 77


class ByDate(SessionStore):
    def get_expiry_date(self, **kwargs: Any) -> datetime:
        return timezone.now() + timedelta(seconds=77)

    async def aget_expiry_date(self, **kwargs: Any) -> datetime:
        return timezone.now() + timedelta(seconds=77)


@pytest.mark.parametrize("kind", [ByAge, ByDate])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_age_that_a_subclass_says_is_the_records(
    kind: type[SessionStore], is_async: bool, clock: Any
) -> None:
    session = Calls(kind(), is_async)
    session.session["a"] = 1
    session.save()
    key = session.session.session_key
    assert record_of(key).expires == time.time() + 77
    session.mutate(lambda data: data.update(a=2))
    assert record_of(key).expires == time.time() + 77
    clock.tick(76)
    assert stored(key) == {"a": 2}
    clock.tick(1)
    assert stored(key) == {}
