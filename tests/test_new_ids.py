"""A login, and whatever else gives a session a new id, while its other requests go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth import aget_user, get_user
from django.contrib.auth.models import User
from django.contrib.sessions.backends.base import UpdateError
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from django.utils import timezone
from freezegun import freeze_time

from django_kvsessions import codec
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import stores
from tests.test_engine import Calls, key_of, record_of, saved, stored

OURS = "django_kvsessions.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"

#: What requests do while another one is at work: name -> function of the session's id.
ELSEWHERE: dict[str, Callable[[str | None], object]] = {}


def log_in(session: Any, user_id: str = "1") -> None:
    """As Django's login does."""
    session.cycle_key()
    session["_auth_user_id"] = user_id


def logged_in_elsewhere(key: str | None) -> SessionStore:
    session = SessionStore(key)
    session.get("a")
    log_in(session)
    session.save()
    return session


@pytest.fixture(autouse=True)
def _site(settings: LazySettings, tmp_path: Path) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [OURS]
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Calls]:
    return lambda key=None: Calls(SessionStore(key), request.param == "async")


# A change made while another request logs in sticks


def test_a_change_that_came_before_the_former_id_was_retired_is_carried_over(
    opened: Callable[..., Calls],
) -> None:
    key = saved(a=1)
    login, other = opened(key), SessionStore(key)
    assert login.get("a") == other.get("a") == 1
    other["cart"] = "pear"
    other.save()
    login.cycle_key()
    login.session["_auth_user_id"] = "1"
    login.save()
    found = stored(login.session.session_key)
    assert found == {"a": 1, "cart": "pear", "_auth_user_id": "1"}
    assert login.get("cart") == "pear"


def test_no_change_is_lost_while_threads_log_in() -> None:
    for number in range(50):
        key = saved(a=1)
        login, other = SessionStore(key), SessionStore(key)
        assert login.get("a") == other.get("a") == 1
        start = threading.Barrier(2)
        outcome: list[str] = []

        def change(session: SessionStore = other, start: Any = start, seen: Any = outcome) -> None:
            session["cart"] = "pear"
            start.wait(10)
            try:
                session.save()
            except UpdateError:
                seen.append("told")

        thread = threading.Thread(target=change)
        thread.start()
        start.wait(10)
        log_in(login)
        login.save()
        thread.join(10)
        kept = stored(login.session_key).get("cart") == "pear"
        # Either it is there, or the one who made it was told that it is not.
        assert kept != bool(outcome), number


def test_a_request_that_loaded_the_session_before_it_moved_merges_where_it_is_now(
    opened: Callable[..., Calls],
) -> None:
    key = saved(a=1, _auth_user_id="1")
    one, other = opened(key), opened(key)
    assert one.get("a") == other.get("a") == 1
    one.cycle_key()  # as after a change of the password
    one.session["one"] = 1
    one.save()
    other.session["other"] = 1
    other.save()
    assert stored(one.session.session_key) == {"a": 1, "_auth_user_id": "1", "one": 1, "other": 1}
    other.mutate(lambda data: data.update(third=1))
    assert stored(one.session.session_key)["third"] == 1
    assert other.session.leaves_cookie
    assert not one.session.leaves_cookie


def test_nothing_is_written_into_a_login_by_who_was_not_logged_in(
    opened: Callable[..., Calls],
) -> None:
    key = saved(a=1)
    stranger = opened(key)
    assert stranger.get("a") == 1
    login = logged_in_elsewhere(key)
    stranger.session["planted"] = 1
    with pytest.raises(UpdateError):
        stranger.save()
    with pytest.raises(UpdateError):
        stranger.mutate(lambda data: data.update(planted=1))
    assert "planted" not in stored(login.session_key)


# A login survives requests in flight


def test_the_former_id_is_an_empty_session_whose_cookie_stays(
    opened: Callable[..., Calls],
) -> None:
    key = saved(a=1)
    login = logged_in_elsewhere(key)
    late = opened(key)
    assert late.get("a") is None
    assert dict(late.session.items()) == {}
    assert not late.exists(key)
    assert not late.session.is_empty()
    late.session.modified = True
    late.save()  # nothing of it, so nothing is lost
    assert late.touch() is False
    late.session["a"] = 2
    with pytest.raises(UpdateError):
        late.save()
    with pytest.raises(UpdateError):
        late.mutate(lambda data: data.update(a=2))
    late.delete()
    late.flush()
    assert late.session.leaves_cookie
    assert stored(login.session_key) == {"a": 1, "_auth_user_id": "1"}
    assert dict(opened(key).session.items()) == {}


def test_a_notice_opens_nothing_and_is_gone_after_a_minute() -> None:
    with freeze_time() as clock:
        key = saved(secret="in the session")
        login = logged_in_elsewhere(key)
        notice = record_of(key)
        assert str(login.session_key).encode() not in notice.data
        assert b"in the session" not in notice.data
        assert notice.owner == b""
        # It stands under its own key alone.
        other = saved(a=1)
        assert stores["default"].replace(key_of(other), notice)
        assert not SessionStore(other).leaves_cookie
        clock.tick(60)
        assert stores["default"].load(key_of(key)) is None
        late = SessionStore(key)
        assert late.get("a") is None
        assert late.session_key is None


def test_a_second_login_with_the_former_id_is_a_login(opened: Callable[..., Calls]) -> None:
    """As of somebody who clicked twice."""
    key = saved(a=1)
    first = logged_in_elsewhere(key)
    late = opened(key)
    assert late.get("_auth_user_id") is None
    late.cycle_key()
    late.session["_auth_user_id"] = "1"
    late.save()
    assert late.session.session_key not in (None, key, first.session_key)
    assert stored(late.session.session_key) == {"_auth_user_id": "1"}
    assert not late.session.leaves_cookie


def test_a_logout_ends_a_session_that_was_moved_meanwhile(opened: Callable[..., Calls]) -> None:
    key = saved(_auth_user_id="1")
    leaving = opened(key)
    assert leaving.get("_auth_user_id") == "1"
    other = SessionStore(key)
    other.cycle_key()
    leaving.flush()
    assert not other.exists(other.session_key)
    assert list(stores["default"].scan_owner(codec.owner_digest("1"))) == []
    other["a"] = 1
    with pytest.raises(UpdateError):
        other.save()


def test_logouts_and_new_ids_at_once_leave_nobody_logged_in() -> None:
    for _ in range(100):
        key = saved(_auth_user_id="1")
        leaving, moving = SessionStore(key), SessionStore(key)
        assert leaving.get("_auth_user_id") == moving.get("_auth_user_id") == "1"
        start = threading.Barrier(2)

        def move(session: SessionStore = moving, start: Any = start) -> None:
            start.wait(10)
            try:
                session.cycle_key()
                session["_auth_user_hash"] = "new"
                session.save()
            except UpdateError:
                pass

        thread = threading.Thread(target=move)
        thread.start()
        start.wait(10)
        leaving.flush()
        thread.join(10)
        assert list(stores["default"].scan_owner(codec.owner_digest("1"))) == []


# A login, also a repeated one, starts a new id and a new life


def test_a_repeated_login_starts_a_new_id_and_a_new_life(
    opened: Callable[..., Calls], settings: LazySettings
) -> None:
    settings.SESSION_ABSOLUTE_AGE = timedelta(hours=8)
    with freeze_time(timezone.now().replace(microsecond=0)) as clock:
        key = saved(_auth_user_id="1", a=1)
        clock.tick(7 * 3600)
        session = opened(key)
        assert session.get("a") == 1
        session.session["_auth_user_id"] = "1"
        session.save()
        again = session.session.session_key
        assert again != key
        assert stored(again) == {"_auth_user_id": "1", "a": 1}
        assert not session.exists(key)
        clock.tick(7 * 3600)
        assert session.exists(again)
        # And no other save does.
        session.session["a"] = 2
        session.save()
        assert session.session.session_key == again


def test_a_repeated_login_that_another_request_overtakes_loses_no_change(
    opened: Callable[..., Calls],
) -> None:
    key = saved(_auth_user_id="1", a=1)
    login, other = opened(key), SessionStore(key)
    assert login.get("a") == other.get("a") == 1
    other.cycle_key()
    login.session["_auth_user_id"] = "1"
    login.session["mine"] = 1
    login.save()
    assert stored(other.session_key) == {"_auth_user_id": "1", "a": 1, "mine": 1}
    assert login.session.leaves_cookie
    assert stores["default"].stats().live == 2  # it and the notice


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("middleware", [OURS, DJANGOS])
def test_a_login_after_a_change_of_the_password_starts_a_new_id_too(
    middleware: str, settings: LazySettings
) -> None:
    settings.MIDDLEWARE = [middleware]
    user, client = User.objects.create_user("alice", password="first"), Client()
    keys = set()
    for password in ("first", "first", "second"):
        user.set_password(password)
        user.save()
        assert client.login(username="alice", password=password)
        keys.add(client.session.session_key)
    assert len(keys) == 3
    # And only the last of them opens anything.
    assert [bool(stored(key)) for key in keys].count(True) == 1


def test_an_ended_session_is_not_carried_on_though_its_user_was_removed_too(
    opened: Callable[..., Calls],
) -> None:
    key = saved(_auth_user_id="1", secret="theirs")
    slow = opened(key)
    assert slow.get("secret") == "theirs"
    SessionStore(key).flush()
    del slow.session["_auth_user_id"]
    with pytest.raises(UpdateError):
        slow.cycle_key()
    assert stores["default"].stats().live == 0


# Over HTTP


def view(request: HttpRequest, name: str) -> HttpResponse:
    session = request.session
    if name == "read":
        return HttpResponse(str(session.get("_auth_user_id")))
    if name == "slow":  # reads, and then another request of the visitor logs in
        session.get("a")
        ELSEWHERE["login"](session.session_key)
    if name == "write":
        session["a"] = 2
    if name == "flush":
        session.flush()
    if name == "me":
        return HttpResponse(str(get_user(request).pk))
    return HttpResponse()


async def aview(request: HttpRequest, name: str) -> HttpResponse:
    session = request.session
    if name == "read":
        return HttpResponse(str(await session.aget("_auth_user_id")))
    if name == "slow":
        await session.aget("a")
        ELSEWHERE["login"](session.session_key)
    if name == "write":
        await session.aset("a", 2)
    if name == "flush":
        await session.aflush()
    if name == "me":
        return HttpResponse(str((await aget_user(request)).pk))
    return HttpResponse()


urlpatterns = [path("sync/<str:name>", view), path("async/<str:name>", aview)]


@pytest.fixture(params=["wsgi", "asgi"])
def get(request: pytest.FixtureRequest) -> Callable[[str, str], Any]:
    def get(name: str, cookie: str) -> Any:
        client: Any = AsyncClient() if request.param == "asgi" else Client()
        client.raise_request_exception = False
        client.cookies["sessionid"] = cookie
        if request.param == "asgi":
            return asyncio.run(client.get(f"/async/{name}"))
        return client.get(f"/sync/{name}")

    return get


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("name", ["read", "plain", "flush", "me", "write"])
def test_a_request_with_the_id_from_before_a_login_leaves_the_cookie_alone(
    name: str, every: bool, get: Callable[[str, str], Any], settings: LazySettings
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = every
    settings.SESSION_TOUCH_INTERVAL = 0
    key = saved(a=1)
    login = logged_in_elsewhere(key)
    response = get(name, key)
    assert response.status_code == (400 if name == "write" else 200)
    assert "sessionid" not in response.cookies
    assert get("read", str(login.session_key)).content == b"1"


@pytest.mark.parametrize("every", [False, True])
def test_a_request_in_whose_middle_the_visitor_logs_in_leaves_the_cookie_alone(
    every: bool, get: Callable[[str, str], Any], settings: LazySettings
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = every
    settings.SESSION_TOUCH_INTERVAL = 0
    ELSEWHERE["login"] = logged_in_elsewhere
    response = get("slow", saved(a=1))
    assert response.status_code == 200
    assert "sessionid" not in response.cookies


def test_under_djangos_middleware_a_read_leaves_the_cookie_alone_too(
    get: Callable[[str, str], Any], settings: LazySettings
) -> None:
    settings.MIDDLEWARE = [DJANGOS]
    key = saved(a=1)
    logged_in_elsewhere(key)
    for name, status in [("read", 200), ("plain", 200), ("write", 400)]:
        response = get(name, key)
        assert response.status_code == status
        assert "sessionid" not in response.cookies


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("middleware", [OURS, DJANGOS])
def test_parallel_requests_under_a_rotated_secret_key_all_go_on_as_the_user(
    middleware: str, get: Callable[[str, str], Any], settings: LazySettings
) -> None:
    """Django's get_user() gives the session a new id under a fallback."""
    settings.MIDDLEWARE = [middleware]
    former = settings.SECRET_KEY
    user = User.objects.create_user("alice")
    keys = []
    for _ in range(5):
        session = SessionStore()
        session["_auth_user_id"] = str(user.pk)
        session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
        session["_auth_user_hash"] = user.get_session_auth_hash()
        session.save()
        keys.append(str(session.session_key))
    settings.SECRET_KEY = "the next secret key of this site"
    settings.SECRET_KEY_FALLBACKS = [former]
    for key in keys:
        loaded = threading.Barrier(6, timeout=30)
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(6) as threads:
            patch.setattr(SessionStore, "_loaded", waiting(loaded))
            responses = list(threads.map(lambda _, key=key: get("me", key), range(6)))
        assert {response.status_code for response in responses} == {200}
        assert {response.content for response in responses} == {str(user.pk).encode()}
        new = [r.cookies["sessionid"].value for r in responses if "sessionid" in r.cookies]
        # With the package's middleware one of them sends the new id, and no other any.
        assert len(new) == (1 if middleware == OURS else 6)
        for session_key in new:
            assert get("me", session_key).content == str(user.pk).encode()


def waiting(barrier: threading.Barrier) -> Callable[..., Any]:
    """Let each thread's first session be loaded before any of them goes on."""
    real, here = SessionStore._loaded, threading.local()

    def loaded(self: SessionStore, answer: Any) -> Any:
        data = real(self, answer)
        if not hasattr(here, "has_waited"):
            here.has_waited = True
            barrier.wait()
        return data

    return loaded
