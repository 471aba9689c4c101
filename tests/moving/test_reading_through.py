"""Sessions of each of Django's engines are moved in on first use, and nobody notices."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib import messages
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore as DatabaseSessions
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.test import AsyncClient, Client
from django.urls import path as route
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions import codec
from django_kvsessions.engine import SessionStore
from django_kvsessions.moving.arrivals import unknown
from django_kvsessions.moving.formers.database import DatabaseFormer
from django_kvsessions.moving.unknown import Unknown
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable
from tests.moving.conftest import ENGINES

OURS = "django_kvsessions.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
BACKENDS = "django.contrib.sessions.backends."


def show(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {
            "user": request.user.get_username(),
            "cart": request.session.get("cart", []),
            "messages": [str(message) for message in messages.get_messages(request)],
        }
    )


def buy(request: HttpRequest) -> HttpResponse:
    request.session["cart"] = [*request.session.get("cart", []), request.POST["product"]]
    messages.success(request, f"a {request.POST['product']}")
    return HttpResponse(get_token(request))


def fail(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.session.get("cart", []), status=500)


def leave(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse("bye")


urlpatterns = [route("", show), route("buy", buy), route("leave", leave), route("fail", fail)]


@pytest.fixture(params=[OURS, DJANGOS], ids=["ours", "djangos"])
def middleware(request: pytest.FixtureRequest, settings: DjangoSettings) -> None:
    settings.ROOT_URLCONF = __name__
    settings.CSRF_USE_SESSIONS = True
    settings.MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
    settings.MIDDLEWARE = [
        request.param,
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]


class Visitor:
    """A browser, whose requests are answered in sync or in async."""

    def __init__(self, is_async: bool) -> None:
        self.client: Any = AsyncClient() if is_async else Client()

    def restart(self) -> None:
        """The site comes back with other settings; the visitor keeps the cookies."""
        cookies = self.client.cookies
        self.client = type(self.client)(enforce_csrf_checks=True)
        self.client.cookies = cookies

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        function = getattr(self.client, method)
        if isinstance(self.client, AsyncClient):
            return async_to_sync(function)(*args, **kwargs)
        return function(*args, **kwargs)

    @property
    def cookie(self) -> str:
        return str(self.client.cookies["sessionid"].value)


@pytest.fixture(params=["sync", "async"])
def visitor(request: pytest.FixtureRequest) -> Visitor:
    return Visitor(request.param == "async")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.usefixtures("middleware")
def test_a_visitor_notices_nothing(name: str, visitor: Visitor, settings: DjangoSettings) -> None:
    settings.SESSION_ENGINE = BACKENDS + name
    former: Any = import_module(BACKENDS + name).SessionStore
    visitor.restart()
    visitor.client.force_login(User.objects.create_user("ann"))
    visitor.client.handler.enforce_csrf_checks = False
    token = visitor.ask("post", "/buy", {"product": "pear"}).content.decode()
    cookie = visitor.cookie

    settings.SESSION_ENGINE = "django_kvsessions.engine"
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + name]
    visitor.restart()
    answer = visitor.ask("post", "/buy", {"product": "plum", "csrfmiddlewaretoken": token})
    assert answer.status_code == 200, answer.content
    shown = visitor.ask("get", "/").json()
    assert shown == {"user": "ann", "cart": ["pear", "plum"], "messages": ["a pear", "a plum"]}
    if name == "signed_cookies":
        assert len(visitor.cookie) == 32
    else:
        assert visitor.cookie == cookie
        assert not former().exists(cookie)

    moved = visitor.cookie
    visitor.ask("get", "/leave")
    for ended in (cookie, moved):
        visitor.client.cookies["sessionid"] = ended
        assert visitor.ask("get", "/").json() == {"user": "", "cart": [], "messages": []}


def saved(session: Any, **data: Any) -> str:
    session.update(data)
    session.save()
    key: str = session.session_key
    return key


def items(key: str, *, is_async: bool = False) -> dict[str, Any]:
    session = SessionStore(key)
    return dict(async_to_sync(session.aitems)() if is_async else session.items())


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("expiry", "seconds"),
    [
        (None, 1209600),
        (0, 1209600),
        (5000, 5000),
        (timedelta(seconds=7000), 7000),
        (datetime(2040, 1, 1, tzinfo=timezone.utc), None),
    ],
)
def test_a_session_keeps_its_id_and_data_and_the_life_it_has_left(
    former: Callable[..., Any], expiry: Any, seconds: float | None, is_async: bool
) -> None:
    session = former()
    session.set_expiry(expiry)
    if isinstance(expiry, timedelta):
        session.set_expiry(expiry)
    before = time.time()
    key = saved(session, cart=["pear"], _auth_user_id="7")
    after = time.time()
    ends = [expiry.timestamp()] * 2 if seconds is None else [before + seconds, after + seconds]
    data = dict(session.items())
    assert items(key, is_async=is_async) == data
    assert not former().exists(key)
    record = stores["default"].load(codec.storage_key(key))
    assert record is not None
    assert ends[0] - 1 < record.expires < ends[1] + 1
    assert record.owner == codec.owner_digest("7")
    assert SessionStore(key).get_expire_at_browser_close() == (expiry == 0)


@pytest.mark.parametrize("name", ["db", "cached_db", "file"])
def test_a_session_that_was_written_long_ago_has_no_more_life_than_before(
    name: str, settings: DjangoSettings
) -> None:
    from freezegun import freeze_time

    former: Any = import_module(BACKENDS + name).SessionStore
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + name]
    key = saved(former(), a=1)
    written = time.time()
    for days, expected in ((13, {"a": 1}), (15, {})):
        with freeze_time(datetime.fromtimestamp(written + days * 86400, timezone.utc)):
            assert items(key) == expected
        if expected:
            record = stores["default"].load(codec.storage_key(key))
            assert record is not None
            assert abs(record.expires - written - 14 * 86400) < 1
            assert stores["default"].delete(codec.storage_key(key))
            key = saved(former(), a=1)


def test_a_signed_cookie_is_exchanged_once(settings: DjangoSettings) -> None:
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "signed_cookies"]
    former: Any = import_module(BACKENDS + "signed_cookies").SessionStore
    cookie = saved(former(), cart=["pear"], _auth_user_id="7")
    one, other = SessionStore(cookie), SessionStore(cookie)
    # As the requests of one page, which come at once and with the same cookie.
    assert one["cart"] == other["cart"] == ["pear"]
    assert one.session_key == other.session_key != cookie
    assert one.cookie_is_due
    assert other.cookie_is_due
    one["one"] = 1
    one.save()
    other["other"] = 1
    other.save()
    key = str(one.session_key)
    assert items(key) == {"cart": ["pear"], "_auth_user_id": "7", "one": 1, "other": 1}
    assert SessionStore().exists(cookie)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another one"
    one = SessionStore(cookie)
    assert one["one"] == 1
    one.flush()
    assert items(cookie) == items(key) == {}
    assert not SessionStore().exists(cookie)


@pytest.mark.parametrize("change", [lambda cookie: cookie[:-1] + "x", lambda cookie: "x" + cookie])
def test_a_cookie_that_somebody_made_up_is_nothing(
    settings: DjangoSettings, change: Callable[[str], str]
) -> None:
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "signed_cookies"]
    former: Any = import_module(BACKENDS + "signed_cookies").SessionStore
    assert items(change(saved(former(), a=1))) == {}
    assert list(stores["default"].scan()) == []


# What nobody has


@pytest.mark.parametrize(
    "key",
    [
        "short",
        "x" * 32,
        "../../etc/passwd",
        "\x00" * 40,
        "\ud800" * 10,
        "ключ-сессии",
        "x" * 5000,
        "%" * 32,
    ],
)
def test_an_id_that_only_a_client_knows_is_not_adopted(
    former: Callable[..., Any], key: str
) -> None:
    session = SessionStore(key)
    assert session.get("a") is None
    assert session.session_key is None
    session["a"] = 1
    session.save()
    assert session.session_key != key
    assert items(key) == {}
    assert not SessionStore().exists(key)


def test_an_id_in_capitals_is_not_adopted(
    settings: DjangoSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some databases find a row by it, whose collation takes them for the same."""

    class Rows(QuerySet[Session]):
        def filter(self, *args: Any, pk: str, **kwargs: Any) -> Any:
            return super().filter(pk__iexact=pk)

    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "db"]
    key = saved(DatabaseSessions(), a=1)
    with monkeypatch.context() as patch:
        patch.setattr(DatabaseFormer, "rows", property(lambda self: Rows(Session)))
        assert items(key.upper()) == {}
        assert not SessionStore().exists(key.upper())
    assert items(key) == {"a": 1}


def test_an_expired_session_is_none(former: Callable[..., Any]) -> None:
    session = former()
    session.set_expiry(datetime.now(timezone.utc) + timedelta(milliseconds=100))
    key = saved(session, a=1)
    time.sleep(0.15)
    assert items(key) == {}
    assert list(stores["default"].scan()) == []


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, settings: DjangoSettings) -> list[str]:
    """The ids that a database is asked for."""
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "db"]
    asked: list[str] = []
    load = DatabaseFormer.load

    def counted(self: DatabaseFormer, session_key: str) -> Any:
        asked.append(session_key)
        return load(self, session_key)

    monkeypatch.setattr(DatabaseFormer, "load", counted)
    return asked


def test_an_unknown_id_is_asked_for_once(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_kvsessions.moving.unknown.monotonic", lambda: 1000.0)
    for _ in range(10):
        assert items("x" * 32) == {}
    assert loads == ["x" * 32]
    key = saved(DatabaseSessions(), a=1)
    assert items(key) == {"a": 1}


def test_a_session_that_was_moved_asks_no_fallback(loads: list[str]) -> None:
    key = saved(DatabaseSessions(), a=1)
    assert items(key) == {"a": 1}
    loads.clear()
    session = SessionStore(key)
    session["b"] = 2
    session.save()
    assert items(key) == {"a": 1, "b": 2}
    assert SessionStore().get("a") is None
    assert loads == []


def test_what_is_remembered_of_unknown_ids_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr("django_kvsessions.moving.unknown.monotonic", lambda: clock)
    known_to_nobody = Unknown(size=100, seconds=10)
    for number in range(1000):
        known_to_nobody.add(str(number).encode())
    assert len(known_to_nobody) == 100
    assert b"999" in known_to_nobody
    assert b"1" not in known_to_nobody
    clock += 10
    assert b"999" not in known_to_nobody
    for number in range(20):
        SessionStore(f"{number:032}").get("a")
    assert len(unknown) <= unknown.size


# What cannot be moved


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_fallback_that_fails_is_no_logout_and_is_named(
    former: Callable[..., Any], path: str, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    from django_kvsessions.moving.formers import make_former

    key = saved(former(), a=1)

    def fail(*args: Any) -> None:
        raise OSError("the disk is gone")

    for method in ("load", "take", "delete"):
        with monkeypatch.context() as patch:
            patch.setattr(type(make_former(path)), method, fail)
            session = SessionStore(key)
            with pytest.raises(StoreUnavailable, match=path):
                if method == "delete":
                    session.flush()
                else:
                    items(key, is_async=is_async)
            if method != "delete":
                assert session.session_key == key
    assert items(key) == {"a": 1}
    assert not former().exists(key)


def test_a_session_over_the_limit_is_left_there_and_logged(
    former: Callable[..., Any], settings: DjangoSettings, caplog: pytest.LogCaptureFixture
) -> None:
    memory = "django_kvsessions.stores.memory.MemoryStore"
    settings.SESSION_STORES = {
        "default": {"BACKEND": memory, "OPTIONS": {"max_record_size": 2000}},
    }
    stores.close_all()
    text = os.urandom(4000).hex()
    key = saved(former(), text=text)
    with caplog.at_level(logging.ERROR, "django_kvsessions"):
        session = SessionStore(key)
        assert session.get("text") is None
    assert "left there" in caplog.text
    assert key not in caplog.text
    assert session.leaves_cookie
    assert former(key)["text"] == text


def test_what_django_cannot_decode_is_no_session_and_stays(
    settings: DjangoSettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "db", BACKENDS + "cache"]
    key = saved(DatabaseSessions(), a=1)
    Session.objects.filter(pk=key).update(session_data="broken:broken")
    assert items(key) == {}
    assert Session.objects.filter(pk=key).exists()
    cache.set("django.contrib.sessions.cache" + "c" * 32, "no session")
    assert items("c" * 32) == {}


def test_values_that_only_a_pickle_can_hold_are_left_there(settings: DjangoSettings) -> None:
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "cache"]
    former: Any = import_module(BACKENDS + "cache").SessionStore
    key = saved(former(), odd=Visitor)
    assert SessionStore(key).get("odd") is None
    assert former(key)["odd"] is Visitor


# Other engines


def test_an_engine_of_the_projects_own_is_read_as_it_reads(settings: DjangoSettings) -> None:
    settings.SESSION_FALLBACK_ENGINES = ["tests.support.own_sessions"]
    former: Any = import_module("tests.support.own_sessions").SessionStore
    key = saved(former(), a=1)
    assert items(key) == {"a": 1}
    assert not former().exists(key)


def test_an_engine_that_nobody_knows_is_asked_by_djangos_methods(settings: DjangoSettings) -> None:
    settings.SESSION_FALLBACK_ENGINES = ["tests.support.dict_sessions"]
    former: Any = import_module("tests.support.dict_sessions").SessionStore
    session = former()
    session.set_expiry(5000)
    key = saved(session, a=1)
    assert items(key) == {"a": 1, "_session_expiry": 5000}
    assert not former().exists(key)
    key = saved(former(), a=1)
    SessionStore(key).flush()
    assert items(key) == {}


def test_the_first_fallback_that_has_it_counts(settings: DjangoSettings) -> None:
    settings.SESSION_FALLBACK_ENGINES = [BACKENDS + "cache", BACKENDS + "db"]
    key = saved(DatabaseSessions(), a=1)
    assert items(key) == {"a": 1}
    key = saved(DatabaseSessions(), a=1)
    SessionStore(key).flush()
    assert items(key) == {}
    assert not Session.objects.filter(pk=key).exists()
