"""The way back to each of Django's engines is as quiet as the way there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.models import Session
from django.core.exceptions import ImproperlyConfigured
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions import codec
from django_kvsessions.engine import SessionStore
from django_kvsessions.moving import back
from django_kvsessions.stores import stores
from tests.moving.conftest import ENGINES
from tests.moving.test_races import Killed, Steps, die
from tests.moving.test_reading_through import BACKENDS, Visitor, middleware, visitor

__all__ = ["middleware", "visitor"]

BACK = "django_kvsessions.moving.back"


@pytest.fixture
def returned(path: str, settings: DjangoSettings) -> Callable[..., Any]:
    """The SessionStore of the way back."""
    settings.SESSION_MOVE_BACK_TO = path
    engine: Callable[..., Any] = back.SessionStore
    return engine


def saved(**data: Any) -> str:
    session = SessionStore()
    session.update(data)
    session.save()
    return str(session.session_key)


def is_in_store(key: str) -> bool:
    return stores["default"].load(codec.storage_key(key)) is not None


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.usefixtures("middleware")
def test_a_visitor_notices_nothing_on_the_way_back(
    name: str, visitor: Visitor, settings: DjangoSettings
) -> None:
    visitor.restart()
    visitor.client.force_login(User.objects.create_user("ann"))
    visitor.client.handler.enforce_csrf_checks = False
    token = visitor.ask("post", "/buy", {"product": "pear"}).content.decode()
    cookie = visitor.cookie

    settings.SESSION_ENGINE = BACK
    settings.SESSION_MOVE_BACK_TO = BACKENDS + name
    visitor.restart()
    answer = visitor.ask("post", "/buy", {"product": "plum", "csrfmiddlewaretoken": token})
    assert answer.status_code == 200, answer.content
    shown = visitor.ask("get", "/").json()
    assert shown == {"user": "ann", "cart": ["pear", "plum"], "messages": ["a pear", "a plum"]}
    if name != "signed_cookies":
        assert visitor.cookie == cookie
        assert not is_in_store(cookie)

    settings.SESSION_ENGINE = BACKENDS + name
    visitor.restart()
    assert visitor.ask("get", "/").json()["cart"] == ["pear", "plum"]

    settings.SESSION_ENGINE = BACK
    visitor.restart()
    moved = visitor.cookie
    visitor.ask("get", "/leave")
    visitor.client.cookies["sessionid"] = moved
    if name != "signed_cookies":
        assert visitor.ask("get", "/").json()["cart"] == []


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "expiry",
    [None, 0, 5000, timedelta(seconds=7000), datetime(2040, 1, 1, tzinfo=timezone.utc)],
)
def test_a_session_goes_back_with_its_data_and_the_life_it_has_left(
    returned: Callable[..., Any], former: Callable[..., Any], path: str, expiry: Any, is_async: bool
) -> None:
    session = SessionStore()
    session["cart"] = ["pear"]
    session.set_expiry(expiry)
    session.save()
    key = str(session.session_key)
    record = stores["default"].load(codec.storage_key(key))
    assert record is not None
    again = returned(key)
    data = dict(async_to_sync(again.aitems)() if is_async else again.items())
    assert data == dict(session.items())
    assert not is_in_store(key)
    assert dict(former(key).items()) == data
    if path.endswith("db"):
        expires = Session.objects.get(pk=key).expire_date.timestamp()
        assert abs(expires - record.expires) < 0.01


def test_there_and_back_and_there_again(
    returned: Callable[..., Any], former: Callable[..., Any]
) -> None:
    key = saved(a=1)
    for number in range(3):
        for engine in (returned, SessionStore):
            session = engine(key)
            assert session["a"] == number * 2 + 1 + (engine is SessionStore)
            session["a"] += 1
            session.save()
            assert session.session_key == key
    SessionStore(key).flush()
    assert returned(key).get("a") is None
    assert not former().exists(key)


def test_a_save_that_a_move_overtakes_is_merged(
    returned: Callable[..., Any], former: Callable[..., Any]
) -> None:
    key = saved(a=1)
    late = returned(key)
    assert late["a"] == 1
    other = SessionStore(key)
    other["other"] = 1
    other.save()
    late["late"] = 1
    late.save()
    assert dict(SessionStore(key).items()) == {"a": 1, "other": 1, "late": 1}
    late = SessionStore(key)
    assert late["a"] == 1
    assert returned(key)["late"] == 1
    late["last"] = 1
    late.save()
    assert SessionStore(key)["last"] == 1


def test_a_logout_on_either_side_holds_on_both(
    returned: Callable[..., Any], former: Callable[..., Any]
) -> None:
    for engine in (returned, SessionStore):
        for late_engine in (returned, SessionStore):
            key = saved(a=1)
            late = late_engine(key)
            assert late["a"] == 1
            engine(key).flush()
            late["late"] = 1
            with pytest.raises(UpdateError):
                late.save()
            assert returned(key).get("a") is None
            assert SessionStore(key).get("a") is None
            assert not former().exists(key)


@pytest.mark.parametrize("killed", [False, True])
def test_whatever_happens_between_two_steps_nothing_is_lost_or_revived(
    returned: Callable[..., Any],
    former: Callable[..., Any],
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    killed: bool,
) -> None:
    """Another request moves it there again, changes it or ends it; or the process is killed."""
    from django_kvsessions.moving.formers import make_former

    def change(key: str) -> None:
        session = SessionStore(key)
        session["other"] = 1
        session.save()

    meanwhile: dict[str, Callable[[str], None]] = (
        {"die": lambda key: die()}
        if killed
        else {"change": change, "end": lambda key: SessionStore(key).flush()}
    )
    for name, happens in meanwhile.items():
        for step in range(1, 6):
            key = saved(a=1)
            session = returned(key)
            with monkeypatch.context() as patch:
                steps = Steps(step, lambda key=key, happens=happens: happens(key))  # type: ignore[misc]  # lambda
                engine, store = type(make_former(path)), type(stores["default"])
                for each in ("load", "put", "take", "delete"):
                    patch.setattr(engine, each, steps.after(getattr(engine, each)))
                for each in ("load", "replace"):
                    patch.setattr(store, each, steps.after(getattr(store, each)))
                try:
                    session.get("a")
                    session["mine"] = 1
                    session.save()
                except (Killed, UpdateError):
                    assert steps.happened
            data = dict(returned(key).items())
            if not steps.happened:
                break
            if name == "end":
                assert data == {}, step
                assert not former().exists(key)
            elif name == "change":
                assert data == {"a": 1, "other": 1, "mine": 1}, step
            else:
                assert data["a"] == 1
            assert dict(SessionStore(key).items()) == data


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_the_engine_cannot_keep_stays_in_the_store(
    returned: Callable[..., Any], path: str, caplog: pytest.LogCaptureFixture, is_async: bool
) -> None:
    if path.endswith(".cache"):
        return
    key = saved(when=datetime(2026, 1, 1))
    session = returned(key)
    data = async_to_sync(session.aitems)() if is_async else session.items()
    assert dict(data) == {}
    # Said once, by one request, whose cookie stays.
    assert caplog.text.count("left in the store") == 1
    assert not session.is_empty()
    session["a"] = 1
    with pytest.raises(UpdateError):
        async_to_sync(session.asave)() if is_async else session.save()
    assert SessionStore(key)["when"] == datetime(2026, 1, 1)


def test_an_id_that_the_engine_never_gives_out_stays_in_the_store(settings: DjangoSettings) -> None:
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "db"]
    settings.SESSION_MOVE_BACK_TO = BACKENDS + "file"
    former: Any = import_module(BACKENDS + "db").SessionStore
    key = "Long-Ago-" + "x" * 20
    Session.objects.create(
        pk=key,
        session_data=former().encode({"a": 1}),
        expire_date=datetime.now(timezone.utc) + timedelta(hours=1),
    )
    assert SessionStore(key)["a"] == 1
    assert back.SessionStore(key).get("a") is None
    assert SessionStore(key)["a"] == 1


def test_it_says_where_the_way_back_is_to_lead(settings: DjangoSettings) -> None:
    module: Any = import_module(BACK)
    with pytest.raises(ImproperlyConfigured, match="SESSION_MOVE_BACK_TO"):
        _ = module.SessionStore
