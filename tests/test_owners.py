"""The sessions of a user: listed, ended, limited, over whole sequences of requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import LazySettings
from django.contrib.auth import (
    aauthenticate,
    alogin,
    alogout,
    aupdate_session_auth_hash,
    authenticate,
    login,
    logout,
    update_session_auth_hash,
)
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.base import UpdateError
from django.db.models.signals import post_save
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from django.utils import timezone
from freezegun import freeze_time

from django_kvsessions import codec, owned, owners
from django_kvsessions.engine import SessionStore
from django_kvsessions.owners import OwnedSession, end_session, end_sessions, sessions_of
from django_kvsessions.stores.base import StoreUnavailable
from tests.support.owning import CHROME, assert_none_comes_back, logged_in
from tests.support.servers import require_driver

OURS = "django_kvsessions.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
MEMORY = {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"}
FIREFOX = "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"


# A site, in sync and in async


def view(request: HttpRequest, name: str) -> HttpResponse:
    session: Any = request.session
    user: Any = request.user
    if name == "login":
        login(request, authenticate(request, username="alice", password="first") or User())
    elif name == "logout":
        logout(request)
    elif name == "read":
        session.get("a")
    elif name == "write":
        session["a"] = session.get("a", 0) + 1
    elif name == "label":
        session.label("sid", "08a5019c")
    elif name == "password":
        user.set_password("second")
        user.save()
        update_session_auth_hash(request, user)
    elif name == "end-others":
        return HttpResponse(str(end_sessions(user, keep=request)))
    elif name == "current":
        return HttpResponse(str([each.is_current(request) for each in sessions_of(user)]))
    return HttpResponse(str(user.pk))


async def aview(request: HttpRequest, name: str) -> HttpResponse:
    session: Any = request.session
    user: Any = await request.auser()
    if name == "login":
        found = await aauthenticate(request, username="alice", password="first")
        await alogin(request, found or User())
        user = await request.auser()
    elif name == "logout":
        await alogout(request)
    elif name == "read":
        await session.aget("a")
    elif name == "write":
        await session.aset("a", await session.aget("a", 0) + 1)
    elif name == "label":
        session.label("sid", "08a5019c")
    elif name == "password":
        user.set_password("second")
        await user.asave()
        # Django 5.2 would look it up in sync.
        request.user = user
        await aupdate_session_auth_hash(request, user)
    elif name == "end-others":
        return HttpResponse(str(await owners.aend_sessions(user, keep=request)))
    elif name == "current":
        theirs = await owners.asessions_of(user)
        return HttpResponse(str([each.is_current(request) for each in theirs]))
    return HttpResponse(str(user.pk))


urlpatterns = [path("sync/<str:name>", view), path("async/<str:name>", aview)]


@pytest.fixture(params=["default", "memory"])
def alias(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _site(settings: LazySettings, tmp_path: Path, alias: str) -> None:
    settings.ROOT_URLCONF = __name__
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}, "memory": MEMORY}
    settings.SESSION_STORE_ALIAS = alias


@pytest.fixture(params=[(OURS, "wsgi"), (OURS, "asgi"), (DJANGOS, "wsgi"), (DJANGOS, "asgi")])
def browser(
    request: pytest.FixtureRequest, settings: LazySettings, transactional_db: None
) -> Callable[..., Browser]:
    """A new one at each call, of a site whose user is alice."""
    middleware, colour = request.param
    settings.MIDDLEWARE = [middleware, "django.contrib.auth.middleware.AuthenticationMiddleware"]
    User.objects.create_user("alice", password="first")
    return lambda agent=CHROME: Browser(agent, is_async=colour == "asgi")


class Browser:
    def __init__(self, agent: str, *, is_async: bool) -> None:
        self.agent = agent
        self.is_async = is_async
        self.client: Any = AsyncClient() if is_async else Client()

    def get(self, name: str, status: int = 200, **meta: str) -> str:
        if self.is_async:
            headers = {"user-agent": self.agent}
            response = asyncio.run(self.client.get(f"/async/{name}", headers=headers, **meta))
        else:
            meta["HTTP_USER_AGENT"] = self.agent
            response = self.client.get(f"/sync/{name}", **meta)
        assert response.status_code == status, response
        return str(response.content.decode())

    @property
    def is_in(self) -> bool:
        return self.get("read") != "None"


def alice() -> User:
    user: User = User.objects.get(username="alice")
    return user


class Functions:
    """Those of owners, all sync or all async."""

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async

    def __getattr__(self, name: str) -> Any:
        if not self.is_async:
            return getattr(owners, name)
        function = getattr(owners, "a" + name)
        return lambda *args, **kwargs: asyncio.run(function(*args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def each(request: pytest.FixtureRequest) -> Functions:
    return Functions(request.param == "async")


# Listed


def test_a_user_sees_where_they_are_logged_in_and_ends_all_others(
    browser: Callable[..., Browser],
) -> None:
    first, second, third = browser(), browser(FIREFOX), browser()
    for each in (first, second, third):
        each.get("login")
        assert each.is_in
    found = sessions_of(alice())
    assert [session.user_agent for session in found] == [CHROME, FIREFOX, CHROME]
    assert second.get("current") == "[False, True, False]"
    assert second.get("end-others") == "2"
    assert [each.is_in for each in (first, second, third)] == [False, True, False]
    assert second.get("current") == "[True]"
    second.get("logout")
    assert sessions_of(alice()) == []


def test_one_is_ended_by_its_public_id(browser: Callable[..., Browser]) -> None:
    here, there = browser(), browser(FIREFOX)
    for each in (here, there):
        each.get("login")
    (public_id,) = [s.public_id for s in sessions_of(alice()) if s.user_agent == FIREFOX]
    assert end_session(alice(), public_id)
    assert not end_session(alice(), public_id)
    assert (here.is_in, there.is_in) == (True, False)


def test_a_session_says_when_it_began_was_seen_and_expires(
    each: Functions, settings: LazySettings
) -> None:
    settings.SESSION_COOKIE_AGE = 1000
    with freeze_time(timezone.now().replace(microsecond=0)) as clock:
        begin = timezone.now()
        session = logged_in("7")
        (found,) = each.sessions_of(7)
        assert found.created == found.authenticated_at == found.last_seen == begin
        assert found.expires == begin + timedelta(seconds=1000)
        clock.tick(100)
        session["a"] = 1
        session.save()
        clock.tick(100)
        assert session.touch()
        (found,) = each.sessions_of(7)
        assert found.created == begin
        assert found.last_seen == begin + timedelta(seconds=200)
        assert found.expires == begin + timedelta(seconds=1200)
        assert found.public_id == session.public_id
        settings.USE_TZ = False
        (found,) = each.sessions_of(7)
        assert found.created.tzinfo is None
        assert found.created.timestamp() == begin.timestamp()
        clock.tick(1001)
        assert each.sessions_of(7) == []


def test_of_a_session_with_an_end_of_life_no_more_is_said(settings: LazySettings) -> None:
    settings.SESSION_ABSOLUTE_AGE = 500
    with freeze_time(timezone.now()) as clock:
        logged_in("7")
        (found,) = sessions_of("7")
        assert found.expires == found.created + timedelta(seconds=500)
        settings.SESSION_ABSOLUTE_AGE = 100
        (found,) = sessions_of("7")
        assert found.expires == found.created + timedelta(seconds=100)
        clock.tick(101)
        assert sessions_of("7") == []


def test_the_latest_used_comes_first(each: Functions) -> None:
    with freeze_time(timezone.now()) as clock:
        sessions = []
        for _ in range(5):
            sessions.append(logged_in("7"))
            clock.tick(10_000)
        sessions[1].touch()
        clock.tick(10_000)
        sessions[3]["a"] = 1
        sessions[3].save()
        expected = [sessions[number].public_id for number in (3, 1, 4, 2, 0)]
        assert [session.public_id for session in each.sessions_of("7")] == expected


@pytest.mark.django_db
def test_a_user_is_a_user_or_a_primary_key(each: Functions) -> None:
    user = User.objects.create_user("alice")
    logged_in(str(user.pk))
    for one in (user, user.pk, str(user.pk), f" {user.pk}"):
        assert len(each.sessions_of(one)) == 1
    user.delete()
    for nobody in (AnonymousUser(), User(), user, "nobody", 10**30, None, UUID(int=2**70), ""):
        assert each.sessions_of(nobody) == []
        assert each.end_sessions(nobody) == 0
        assert each.end_session(nobody, "x") is False


def test_a_former_secret_key_finds_them_too(each: Functions, settings: LazySettings) -> None:
    former, session = settings.SECRET_KEY, logged_in("7")
    settings.SECRET_KEY = "the next secret key"
    assert each.sessions_of("7") == []
    settings.SECRET_KEY_FALLBACKS = [former]
    new = logged_in("7")
    assert {s.public_id for s in each.sessions_of("7")} == {session.public_id, new.public_id}
    assert each.end_session("7", session.public_id)
    logged_in("7")
    assert each.end_sessions("7", keep=new) == 1
    assert [s.public_id for s in each.sessions_of("7")] == [new.public_id]


def test_neither_a_notice_nor_anything_anonymous_is_listed(each: Functions) -> None:
    session = logged_in("7")
    former = session.public_id
    anonymous = SessionStore()
    anonymous["a"] = 1
    anonymous.save()
    session.cycle_key()
    (found,) = each.sessions_of("7")
    assert found.public_id == session.public_id != former
    assert not each.end_session("7", str(former))
    assert not each.end_session("7", str(anonymous.public_id))


def test_what_does_not_verify_is_not_listed(
    each: Functions, caplog: pytest.LogCaptureFixture
) -> None:
    mine, other = logged_in("7"), logged_in("8")
    store = mine.store
    key, others = (codec.storage_key(str(s.session_key)) for s in (mine, other))
    record, stranger = store.load(key), store.load(others)
    assert record
    assert stranger
    # Somebody with access to the store gives one user's session to another.
    assert store.replace(others, stranger._replace(owner=record.owner))
    assert store.replace(key, record._replace(data=b"x" * len(record.data)))
    assert each.sessions_of("7") == []
    assert "does not verify" in caplog.text


def test_a_session_stored_before_there_were_cards_is_listed(
    each: Functions, monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    def seal(key: bytes, owner: bytes, created: float, payload: bytes, *new: object) -> bytes:
        sealed = codec._FORMER_HEADER.pack(1, 0, created) + payload
        return sealed + codec._tag(codec._digests()[0], codec._tagged(key, owner, sealed))

    settings.SESSION_COOKIE_AGE = 1000
    with freeze_time(timezone.now().replace(microsecond=0)) as clock:
        begin = timezone.now()
        with monkeypatch.context() as patch:
            patch.setattr(codec, "seal", seal)
            session = logged_in("7", a=1)
        clock.tick(100)
        assert session.touch()
        again = SessionStore(session.session_key)
        assert again["a"] == 1
        assert again.authenticated_at == begin
        (found,) = each.sessions_of("7")
        assert found.authenticated_at == found.created == begin
        assert found.last_seen == begin + timedelta(seconds=100)
        assert (found.user_agent, found.ip, found.labels) == (None, None, {})
        again["a"] = 2
        again.save()
        (found,) = each.sessions_of("7")
        assert found.authenticated_at == begin
        assert each.end_sessions("7") == 1


def test_a_store_that_fails_says_so_and_ends_nobody(
    each: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = logged_in("7")

    def fail(self: object, owner: bytes) -> Iterator[Any]:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(type(session.store), "scan_owner", fail)
        for call in (
            lambda: each.sessions_of("7"),
            lambda: each.end_sessions("7"),
            lambda: each.end_session("7", str(session.public_id)),
        ):
            with pytest.raises(StoreUnavailable):
                call()
    assert len(each.sessions_of("7")) == 1
    assert SessionStore(session.session_key)["_auth_user_id"] == "7"


# Ended


@pytest.mark.parametrize(
    "public_id", ["", "x" * 32, "\udcff", "ü" * 32, "0" * 10_000, None, 7, b"x"]
)
def test_a_public_id_that_is_none_of_the_users_ends_nothing(
    public_id: Any, each: Functions
) -> None:
    mine, theirs = logged_in("7"), logged_in("8")
    assert each.end_session("7", public_id) is False
    assert each.end_session("7", theirs.public_id) is False
    assert each.end_session("7", mine.session_key) is False
    assert len(each.sessions_of("7")) == len(each.sessions_of("8")) == 1


def test_a_public_id_opens_nothing_and_addresses_nothing() -> None:
    session = logged_in("7")
    public_id = str(session.public_id)
    assert SessionStore(public_id).get("_auth_user_id") is None
    assert session.store.load(public_id.encode()) is None
    for secret in (str(session.session_key), codec.storage_key(str(session.session_key)).hex()):
        assert secret not in public_id
        assert public_id not in secret
    assert SessionStore().public_id is None
    session.flush()
    assert session.public_id is None


@pytest.mark.parametrize("action", ["save", "mutate", "cycle_key", "touch", "unloaded"])
def test_a_request_that_had_loaded_it_cannot_bring_it_back(action: str, each: Functions) -> None:
    session = logged_in("7")
    slow = SessionStore(session.session_key)
    if action != "unloaded":
        assert slow["_auth_user_id"] == "7"
    assert each.end_session("7", session.public_id)
    if action == "touch":
        assert slow.touch() is False
    else:
        with pytest.raises(UpdateError):
            if action == "mutate":
                slow.mutate(lambda data: data.update(a=1))
            elif action == "cycle_key":
                slow.cycle_key()
            elif action == "save":
                slow["a"] = 1
                slow.save()
            else:
                slow.get("a")
                slow._session_key = session.session_key
                slow["a"] = 1
                slow.save()
    assert each.sessions_of("7") == []
    assert dict(SessionStore(session.session_key).items()) == {}


def test_one_that_has_moved_since_it_was_listed_ends_where_it_is(
    each: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = logged_in("7")
    former = session.public_id
    real = owned.entries

    async def listed(*args: Any) -> Any:
        found = await real(*args)
        SessionStore(session.session_key).cycle_key()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(owners, "entries", listed)
        assert each.end_session("7", former)
    assert sessions_of("7") == []


def test_nothing_that_a_stranger_has_become_meanwhile_is_ended(
    each: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = logged_in("7")
    real = owned.entries

    async def listed(*args: Any) -> Any:
        found = await real(*args)
        other = SessionStore(session.session_key)
        other["_auth_user_id"] = "8"
        other.save()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(owners, "entries", listed)
        assert not each.end_session("7", session.public_id)
    assert len(sessions_of("8")) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_none_comes_back_while_requests_save_touch_mutate_and_cycle(asynchronous: bool) -> None:
    for _ in range(5):
        assert_none_comes_back(asynchronous=asynchronous)
        end_sessions("8")


def test_a_session_that_is_kept_goes_on_under_new_ids(each: Functions) -> None:
    kept, other = logged_in("7"), logged_in("7")
    assert each.end_sessions("7", keep=kept) == 1
    for _ in range(3):
        kept.cycle_key()
    assert [s.public_id for s in each.sessions_of("7")] == [kept.public_id]
    assert SessionStore(other.session_key).get("_auth_user_id") is None


def test_who_logs_in_after_all_were_ended_stays_in(browser: Callable[..., Browser]) -> None:
    here = browser()
    here.get("login")
    assert end_sessions(alice()) == 1
    assert not here.is_in
    for _ in range(2):  # The second has a new id in the place of another.
        here.get("login")
        assert here.is_in
    assert len(sessions_of(alice())) == 1


# A changed password


def test_a_changed_password_ends_the_users_other_sessions_for_good(
    browser: Callable[..., Browser],
) -> None:
    here, there, elsewhere = browser(), browser(), browser()
    for each in (here, there, elsewhere):
        each.get("login")
    before = len(sessions_of(alice()))
    here.get("password")
    assert before == 3
    assert len(sessions_of(alice())) == 1  # not only useless, as the hash has changed
    assert [each.is_in for each in (here, there, elsewhere)] == [True, False, False]


def test_a_new_secret_key_ends_no_session(
    browser: Callable[..., Browser], settings: LazySettings
) -> None:
    here, there = browser(), browser()
    for each in (here, there):
        each.get("login")
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "the next secret key of this site"
    # Django gives each a new hash, as after a change of the password.
    assert here.is_in
    assert there.is_in
    assert len(sessions_of(alice())) == 2
    here.get("password")
    assert len(sessions_of(alice())) == 1


@pytest.fixture
def receiver() -> Iterator[None]:
    """That of the documentation, which is to be heard in its test alone."""
    text = (Path(__file__).parents[1] / "docs" / "owners.md").read_text()
    (block,) = [part for part in text.split("```") if "end_sessions_of_disabled_users" in part]
    names: dict[str, Any] = {}
    exec(block.removeprefix("python"), names)
    yield
    assert post_save.disconnect(names["end_sessions_of_disabled_users"], sender=User)


def test_the_documented_receiver_ends_the_sessions_of_a_disabled_account(
    receiver: None, browser: Callable[..., Browser]
) -> None:
    here = browser()
    here.get("login")
    user = alice()
    user.save()
    assert len(sessions_of(user)) == 1
    user.is_active = False
    user.save()
    assert sessions_of(user) == []
    assert not here.is_in


# Limits


def test_a_login_above_the_limit_ends_the_least_recently_used(
    browser: Callable[..., Browser], settings: LazySettings
) -> None:
    settings.SESSION_MAX_PER_USER = 2
    first, second, third = browser(), browser(), browser()
    first.get("login")
    second.get("login")
    assert len(sessions_of(alice())) == 2
    first.get("write")
    third.get("login")
    assert [each.is_in for each in (first, second, third)] == [True, False, True]
    third.get("login")  # once more, in the place of its own
    assert [each.is_in for each in (first, third)] == [True, True]
    assert len(sessions_of(alice())) == 2


@pytest.mark.parametrize("limit", [1, 3])
def test_logins_at_once_leave_as_many_as_the_limit(limit: int, settings: LazySettings) -> None:
    settings.SESSION_MAX_PER_USER = limit
    for _ in range(3):
        with ThreadPoolExecutor(8) as threads:
            start = threading.Barrier(8, timeout=30)

            def log_in(_: int, start: threading.Barrier = start) -> None:
                start.wait()
                logged_in("7")

            list(threads.map(log_in, range(8)))
        assert len(sessions_of("7")) == limit

    async def log_in_all() -> None:
        async def log_in() -> None:
            session = SessionStore()
            await session.aset("_auth_user_id", "7")
            await session.asave()

        await asyncio.gather(*(log_in() for _ in range(8)))

    asyncio.run(log_in_all())
    assert len(sessions_of("7")) == limit


def test_a_login_whose_limit_cannot_be_looked_at_is_a_login(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.SESSION_MAX_PER_USER = 1
    store = logged_in("7").store

    def fail(self: object, owner: bytes) -> Iterator[Any]:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "scan_owner", fail)
        session = logged_in("7")
    assert "could not be ended" in caplog.text
    assert SessionStore(session.session_key)["_auth_user_id"] == "7"
    logged_in("7")
    assert len(sessions_of("7")) == 1


def test_nothing_is_listed_at_a_login_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, owner: bytes) -> Iterator[Any]:
        raise AssertionError

    monkeypatch.setattr(type(SessionStore().store), "scan_owner", fail)
    logged_in("7")


# When the user authenticated


@pytest.mark.parametrize("is_async", [False, True])
def test_a_session_knows_when_its_user_authenticated(is_async: bool) -> None:
    with freeze_time(timezone.now().replace(microsecond=0)) as clock:
        anonymous = SessionStore()
        assert anonymous.authenticated_at is None
        anonymous["a"] = 1
        anonymous.save()
        assert anonymous.authenticated_at is None
        clock.tick(10)
        session = SessionStore(anonymous.session_key)
        session.cycle_key()
        session["_auth_user_id"] = "7"
        at = session.authenticated_at
        assert at == timezone.now()
        session.save()
        for _ in range(3):
            clock.tick(10)
            session["a"] += 1
            session.save()
            session.cycle_key()
            session.mutate(lambda data: data.update(b=1))
            assert session.authenticated_at == at
            assert SessionStore(session.session_key).authenticated_at == at
        session["_auth_user_id"] = "7"
        assert session.authenticated_at == timezone.now()
        session.save()
        assert SessionStore(session.session_key).authenticated_at == timezone.now()
        assert sessions_of("7")[0].authenticated_at == timezone.now()
        session.flush()
        assert session.authenticated_at is None


# Used by ``OwnedSession`` too: what a page shows of a browser


def test_a_device_is_what_ua_parser_makes_of_the_user_agent() -> None:
    require_driver("ua_parser")
    logged_in("7")
    (found,) = sessions_of("7")
    assert isinstance(found, OwnedSession)
    assert found.device == ("Chrome", "Windows", "desktop")
