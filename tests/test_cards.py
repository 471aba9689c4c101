"""The card of a session: what is in it, what it costs, and when it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth import alogin, login
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from django_kvsessions import cards, codec
from django_kvsessions.engine import SessionStore
from django_kvsessions.owners import OwnedSession, sessions_of
from tests.support.owning import CHROME, logged_in

OURS = "django_kvsessions.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
MEMORY = {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"}
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)


def view(request: HttpRequest, name: str) -> HttpResponse:
    if name == "login":
        login(request, User.objects.get(), backend="django.contrib.auth.backends.ModelBackend")
    elif name == "write":
        request.session["a"] = request.session.get("a", 0) + 1
    else:
        request.session.get("a")
    return HttpResponse()


async def aview(request: HttpRequest, name: str) -> HttpResponse:
    if name == "login":
        user = await User.objects.aget()
        await alogin(request, user, backend="django.contrib.auth.backends.ModelBackend")
    elif name == "write":
        await request.session.aset("a", await request.session.aget("a", 0) + 1)
    else:
        await request.session.aget("a")
    return HttpResponse()


urlpatterns = [path("sync/<str:name>", view), path("async/<str:name>", aview)]


@pytest.fixture(autouse=True)
def _site(settings: LazySettings) -> None:
    settings.ROOT_URLCONF = __name__
    settings.SESSION_STORES = {"default": MEMORY}


@pytest.fixture(params=["wsgi", "asgi"])
def get(request: pytest.FixtureRequest, transactional_db: None) -> Callable[..., int]:
    """Of one visitor, and a site whose user is alice."""
    User.objects.create_user("alice")
    client: Any = AsyncClient() if request.param == "asgi" else Client()

    def get(name: str, agent: str | None = CHROME, **meta: str) -> int:
        if request.param == "asgi":
            headers = {} if agent is None else {"user-agent": agent}
            return int(asyncio.run(client.get(f"/async/{name}", headers=headers)).status_code)
        if agent is not None:
            meta["HTTP_USER_AGENT"] = agent
        return int(client.get(f"/sync/{name}", **meta).status_code)

    return get


def only(user: Any = None) -> OwnedSession:
    (found,) = sessions_of(User.objects.get() if user is None else user)
    return found


def size(session: SessionStore) -> int:
    record = session.store.load(codec.storage_key(str(session.session_key)))
    assert record
    return len(record.data)


def recorded(**meta: str) -> OwnedSession:
    session = SessionStore()
    session["_auth_user_id"] = "7"
    session.record_visitor(meta)
    session.save()
    (found,) = [each for each in sessions_of("7") if each.public_id == session.public_id]
    return found


# When it is written


@pytest.mark.parametrize("middleware", [OURS, DJANGOS])
def test_a_login_records_the_browser_and_no_address(
    middleware: str, get: Callable[..., int], settings: LazySettings
) -> None:
    settings.MIDDLEWARE = [middleware]
    get("write")
    get("login")
    found = only()
    assert (found.user_agent, found.ip, found.labels) == (CHROME, None, {})
    settings.SESSION_RECORD_IP = "full"
    settings.SESSION_RECORD_DEVICE = False
    get("login")
    found = only()
    assert (found.user_agent, found.ip) == (None, "127.0.0.1")


def test_a_browser_that_was_updated_is_recorded_when_something_is_written_anyway(
    get: Callable[..., int], settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MIDDLEWARE = [OURS]
    settings.SESSION_TOUCH_INTERVAL = 3600
    get("login", "an older one")
    writes = []
    for name in ("replace", "touch", "create"):
        real = getattr(type(SessionStore().store), name)

        def counted(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            writes.append(args)
            return real(*args, **kwargs)

        monkeypatch.setattr(type(SessionStore().store), name, counted)
    get("read", "a newer one")
    assert (only().user_agent, writes) == ("an older one", [])
    get("write", "a newer one")
    assert (only().user_agent, len(writes)) == ("a newer one", 1)


def test_under_djangos_middleware_a_login_alone_records_it(
    get: Callable[..., int], settings: LazySettings
) -> None:
    settings.MIDDLEWARE = [DJANGOS]
    get("login", "an older one")
    get("write", "a newer one")
    assert only().user_agent == "an older one"
    get("login", "a newer one")
    assert only().user_agent == "a newer one"


def test_of_a_visitor_unknown_nothing_is_recorded(
    get: Callable[..., int], settings: LazySettings
) -> None:
    settings.MIDDLEWARE = [OURS]
    settings.SESSION_RECORD_IP = "full"
    get("write")
    ((key, record),) = SessionStore().store.scan()
    assert codec.open_head(key, b"", record.data).card == b""
    get("login", None)
    assert only().user_agent is None


def test_outside_of_a_request_nothing_is_known() -> None:
    session = SessionStore()
    session["_auth_user_id"] = "7"
    session.save()
    found = only("7")
    assert (found.user_agent, found.ip, found.labels, found.device) == (None, None, {}, None)


def test_the_card_goes_on_with_the_session_and_ends_with_it() -> None:
    session = logged_in("7")
    session.label("sid", "x")
    session.save()
    for change in (session.cycle_key, lambda: session.mutate(lambda data: data.update(a=1))):
        change()
        found = only("7")
        assert (found.user_agent, found.labels) == (CHROME, {"sid": "x"})
    other = SessionStore(session.session_key)
    other["b"] = 1
    other.save()
    assert only("7").labels == {"sid": "x"}
    session.flush()
    session["_auth_user_id"] = "7"
    session.record_visitor({})
    session.save()
    found = only("7")
    assert (found.user_agent, found.labels) == (None, {})


# Labels


def test_a_label_is_stored_with_the_session_and_needs_no_other_change() -> None:
    session = logged_in("7")
    same = SessionStore(session.session_key)
    same.label("sid", "08a5019c")
    same.label("app", "ünter")
    assert same.modified
    same.save()
    assert only("7").labels == {"sid": "08a5019c", "app": "ünter"}
    same.label("app", None)
    same.label("never", None)
    same.save()
    assert only("7").labels == {"sid": "08a5019c"}
    assert only("7").user_agent == CHROME
    with pytest.raises(TypeError):
        only("7").labels["sid"] = "x"  # type: ignore[index]  # is refused


def test_a_label_from_before_the_login_is_there_after_it() -> None:
    session = SessionStore()
    session.label("sid", "x")
    session.save()
    session.cycle_key()
    session["_auth_user_id"] = "7"
    session.save()
    assert only("7").labels == {"sid": "x"}


def test_labels_that_two_requests_set_both_stick() -> None:
    key = logged_in("7").session_key
    one, other = SessionStore(key), SessionStore(key)
    for session, name in ((one, "one"), (other, "other")):
        session.get("a")
        session.label(name, "x")
    one.save()
    other.save()
    assert only("7").labels == {"one": "x", "other": "x"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("", "x", "name"),
        ("n" * 33, "x", "32 bytes"),
        ("ü" * 17, "x", "32 bytes"),
        (7, "x", "not 7"),
        (None, "x", "name"),
        ("sid", "", "value"),
        ("sid", "x" * 256, "255 bytes"),
        ("sid", 7, "not 7"),
        ("sid", b"x", "text"),
        ("sid", "\ud800", "surrogates"),
    ],
)
def test_what_is_no_label_is_refused(name: Any, value: Any, said: str) -> None:
    session = logged_in("7")
    with pytest.raises(ValueError, match=said):
        session.label(name, value)
    assert not session._labels


def test_a_ninth_label_is_refused_before_anything_is_written() -> None:
    session = logged_in("7")
    for number in range(8):
        session.label(f"n{number}", "x" * 255)
    session.save()
    session.label("n0", None)
    session.label("n8", "x")
    session.save()
    assert len(only("7").labels) == 8
    with pytest.raises(ValueError, match="8 labels"):
        session.label("n9", "x")
    unloaded = SessionStore(session.session_key)
    unloaded.label("n9", "x")
    with pytest.raises(ValueError, match="8 labels"):
        unloaded.save()
    assert len(only("7").labels) == 8


# Bad input


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("", None),
        (" \t\r\n", None),
        ("\x00\x1b[31m\x7fred\r\n", "[31mred"),
        ("x" * 100_000, "x" * 255),
        ("é" * 200, "é" * 127),
        ("\xe2\x82\xac" * 3, "â¬" * 3),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("\ud800lone", "lone"),
    ],
)
def test_any_user_agent_is_stored_bounded(sent: str, kept: str | None) -> None:
    assert recorded(HTTP_USER_AGENT=sent).user_agent == kept


@pytest.mark.parametrize(
    ("address", "network", "full"),
    [
        ("192.0.2.77", "192.0.2.0/24", "192.0.2.77"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48", "2001:db8:1:2:3::4"),
        ("::ffff:192.0.2.77", "192.0.2.0/24", "192.0.2.77"),
        ("fe80::1%eth0", "fe80::/48", "fe80::1"),
        ("", None, None),
        ("unknown", None, None),
        ("192.0.2.77, 10.0.0.1", None, None),
        ("x" * 100_000, None, None),
    ],
)
def test_an_address_is_kept_as_the_setting_has_it(
    address: str, network: str | None, full: str | None, settings: LazySettings
) -> None:
    for setting, kept in ((None, None), ("network", network), ("full", full)):
        settings.SESSION_RECORD_IP = setting
        assert recorded(REMOTE_ADDR=address).ip == kept
    # What a proxy says, anybody can say: how to trust one is the site's to know.
    forged = recorded(REMOTE_ADDR=address, HTTP_X_FORWARDED_FOR="203.0.113.1")
    assert forged.ip == full


# What it costs


@pytest.mark.parametrize("agent", [CHROME, IPHONE])
def test_a_typical_card_has_150_bytes_at_most(agent: str) -> None:
    session = SessionStore()
    session["_auth_user_id"] = "7"
    session.save()
    before = size(session)
    session.record_visitor({"HTTP_USER_AGENT": agent, "REMOTE_ADDR": "192.0.2.77"})
    session["_auth_user_id"] = "7"
    session.save()
    assert only("7").user_agent == agent
    assert 0 < size(session) - before <= 150


def test_with_the_settings_off_there_is_no_card(settings: LazySettings) -> None:
    settings.SESSION_RECORD_DEVICE = False
    session = logged_in("7")
    ((key, record),) = session.store.scan()
    assert codec.open_head(key, record.owner, record.data).card == b""
    assert CHROME[:20].encode() not in record.data


def test_nothing_of_a_visitor_is_looked_at_where_nothing_is_written(
    get: Callable[..., int], settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MIDDLEWARE = [OURS]
    get("login")

    def fail(*args: object) -> None:
        raise AssertionError

    for name in ("visitor", "pack", "unpack"):
        monkeypatch.setattr(cards, name, fail)
    assert get("read") == 200


def test_nothing_of_a_visitor_is_parsed_at_a_write_that_is_no_login(
    get: Callable[..., int], settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MIDDLEWARE = [OURS]
    settings.SESSION_RECORD_IP = "network"
    get("login")

    def fail(*args: object) -> None:
        raise AssertionError

    for name in ("_user_agent", "ip_address", "pack", "unpack"):
        monkeypatch.setattr(cards, name, fail)
    assert get("write") == 200
    monkeypatch.undo()
    assert (only().user_agent, only().ip) == (CHROME, "127.0.0.0/24")


def test_a_card_cannot_be_changed_by_who_has_the_store(caplog: pytest.LogCaptureFixture) -> None:
    session = logged_in("7")
    key = codec.storage_key(str(session.session_key))
    record = session.store.load(key)
    assert record
    changed = record.data.replace(b"Windows", b"Plan 9x")
    assert changed != record.data
    assert session.store.replace(key, record._replace(data=changed))
    assert sessions_of("7") == []
    assert SessionStore(session.session_key).get("_auth_user_id") is None
    assert "does not verify" in caplog.text
