"""The package's middleware, and Django's own, around real requests in sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.checks import run_checks
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase
from django.test import AsyncClient, AsyncRequestFactory, Client
from django.urls import path
from django.utils import timezone
from freezegun import freeze_time

from django_kvsessions.engine import SessionStore
from django_kvsessions.middleware import SessionMiddleware
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable

OURS = "django_kvsessions.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"


#: What the view ``send`` sends.
FILES: list[BytesIO] = []


async def aread(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(await request.session.aget("count", 0)))


async def awrite(request: HttpRequest) -> HttpResponse:
    await request.session.aset("count", await request.session.aget("count", 0) + 1)
    return HttpResponse(str(await request.session.aget("count")))


async def aflush(request: HttpRequest) -> HttpResponse:
    await request.session.aflush()
    return HttpResponse()


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.session.get("count", 0)))


def write(request: HttpRequest) -> HttpResponse:
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(str(request.session["count"]))


def flush(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse()


async def acycle(request: HttpRequest) -> HttpResponse:
    await request.session.acycle_key()
    await request.session.aset("count", 99)
    return HttpResponse()


def cycle(request: HttpRequest) -> HttpResponse:
    """As a login does."""
    request.session.cycle_key()
    request.session["count"] = 99
    return HttpResponse()


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain")


def fail(request: HttpRequest) -> HttpResponse:
    request.session["count"] = 99
    return HttpResponse(status=500)


def modify(request: HttpRequest) -> HttpResponse:
    request.session.modified = True
    return HttpResponse()


def send(request: HttpRequest) -> FileResponse:
    request.session["count"] = 99
    return FileResponse(FILES[-1])


def log_out_elsewhere(request: HttpRequest) -> HttpResponse:
    """Another request ends the session while this one changes it."""
    request.session["count"] = 1000
    SessionStore(request.session.session_key).flush()
    return HttpResponse()


urlpatterns = [
    path("aread", aread),
    path("awrite", awrite),
    path("aflush", aflush),
    path("acycle", acycle),
    path("cycle", cycle),
    path("read", read),
    path("write", write),
    path("flush", flush),
    path("plain", plain),
    path("aplain", plain),
    path("fail", fail),
    path("afail", fail),
    path("modify", modify),
    path("amodify", modify),
    path("send", send),
    path("asend", send),
    path("elsewhere", log_out_elsewhere),
    path("aelsewhere", log_out_elsewhere),
]


class Visitor:
    """A browser, through WSGI or through ASGI."""

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async
        self.client: Any = AsyncClient() if is_async else Client()
        self.client.raise_request_exception = False

    def get(self, name: str) -> Any:
        if self.is_async:
            return asyncio.run(self.client.get("/a" + name))
        return self.client.get("/" + name)

    @property
    def cookie(self) -> str | None:
        morsel = self.client.cookies.get("sessionid")
        return morsel.value if morsel is not None else None


@pytest.fixture(autouse=True)
def _site(settings: LazySettings, tmp_path: Path) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [OURS]
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}


@pytest.fixture(params=["wsgi", "asgi"])
def visitor(request: pytest.FixtureRequest) -> Visitor:
    return Visitor(request.param == "asgi")


@pytest.fixture(params=[OURS, DJANGOS])
def either(request: pytest.FixtureRequest, settings: LazySettings) -> None:
    settings.MIDDLEWARE = [request.param]


@pytest.mark.usefixtures("either")
def test_a_session_is_kept_from_request_to_request(visitor: Visitor) -> None:
    assert visitor.get("read").content == b"0"
    assert visitor.cookie is None
    for count in range(1, 4):
        assert visitor.get("write").content == str(count).encode()
    assert visitor.get("read").content == b"3"
    response = visitor.get("flush")
    assert response.cookies["sessionid"]["max-age"] == 0
    assert visitor.get("read").content == b"0"


@pytest.mark.usefixtures("either")
def test_a_request_whose_session_was_ended_is_a_bad_request(visitor: Visitor) -> None:
    visitor.get("write")
    cookie = visitor.cookie
    response = visitor.get("elsewhere")
    assert response.status_code == 400
    assert not SessionStore().exists(cookie)


@pytest.mark.usefixtures("either")
def test_a_failed_request_saves_nothing(visitor: Visitor) -> None:
    visitor.get("write")
    assert visitor.get("fail").status_code == 500
    assert visitor.get("read").content == b"1"


def test_vary_and_cookie_are_sent_where_django_sends_them(visitor: Visitor) -> None:
    plain = visitor.get("plain")
    assert not plain.has_header("Vary")
    assert not plain.cookies
    assert visitor.get("read")["Vary"] == "Cookie"
    written = visitor.get("write")
    assert written["Vary"] == "Cookie"
    morsel = written.cookies["sessionid"]
    assert morsel["httponly"] is True
    assert morsel["samesite"] == "Lax"
    assert morsel["max-age"] == 14 * 24 * 3600


def test_a_cookie_of_a_session_that_is_gone_is_deleted(visitor: Visitor) -> None:
    visitor.client.cookies["sessionid"] = "a" * 32
    response = visitor.get("read")
    assert response.cookies["sessionid"]["max-age"] == 0
    assert response["Vary"] == "Cookie"


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("cookie", ["unknown", "expired", "ended"])
@pytest.mark.parametrize(("every", "name"), [(True, "plain"), (True, "read"), (False, "modify")])
def test_a_cookie_that_opens_nothing_makes_way_for_a_new_one(
    cookie: str, every: bool, name: str, visitor: Visitor, settings: LazySettings
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = every
    with freeze_time() as clock:
        if cookie == "unknown":
            visitor.client.cookies["sessionid"] = "a" * 32
        else:
            visitor.get("write")
            if cookie == "ended":
                SessionStore(visitor.cookie).flush()
            clock.tick(0 if cookie == "ended" else 15 * 24 * 3600)
        former = visitor.cookie
        response = visitor.get(name)
        assert response.status_code == 200
        assert visitor.cookie != former
        assert visitor.get("write").content == b"1"


@pytest.mark.usefixtures("either")
def test_a_worker_that_does_not_know_the_key_yet_leaves_the_cookie_alone(
    visitor: Visitor, settings: LazySettings
) -> None:
    visitor.get("write")
    cookie, known = visitor.cookie, settings.SECRET_KEY
    settings.SECRET_KEY = "a key that another worker does not know"
    for name in ("read", "plain"):
        response = visitor.get(name)
        assert response.status_code == 200
        assert not response.cookies
    settings.SECRET_KEY = known
    assert visitor.cookie == cookie
    assert visitor.get("read").content == b"1"
    # Who logs in there, or fills a cart, gets a session all the same.
    settings.SECRET_KEY = "a key that another worker does not know"
    assert visitor.get("write").status_code == 200
    assert visitor.cookie != cookie
    assert visitor.get("read").content == b"1"


class Unavailable:
    """Makes every call of a store fail, as when its server is gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, *names: str) -> None:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise StoreUnavailable("gone")

        for name in names:
            self.monkeypatch.setattr(stores["default"], name, fail)
            self.monkeypatch.setattr(stores["default"], "a" + name, fail)


@pytest.fixture
def unavailable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Unavailable]:
    yield Unavailable(monkeypatch)
    monkeypatch.undo()


def test_an_outage_at_the_save_is_a_503_and_the_cookie_stays(
    visitor: Visitor, unavailable: Unavailable, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor.get("write")
    unavailable("create", "replace", "touch")
    response = visitor.get("write")
    assert response.status_code == 503
    assert not response.cookies
    monkeypatch.undo()
    assert visitor.get("read").content == b"1"


@pytest.mark.parametrize(("writes", "status"), [(0, 500), (1, 503)])
def test_an_outage_after_the_id_was_replaced_leaves_no_cookie_that_opens_nothing(
    writes: int, status: int, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of cycle_key(), where the view fails, and at the save after it."""
    visitor.get("write")
    former, store, left = visitor.cookie, stores["default"], [writes]
    real = store.replace

    def replace(*args: Any, **kwargs: Any) -> bool:
        if not left[0]:
            raise StoreUnavailable("gone")
        left[0] -= 1
        return real(*args, **kwargs)

    monkeypatch.setattr(store, "replace", replace)
    assert visitor.get("cycle").status_code == status
    monkeypatch.undo()
    assert SessionStore().exists(former) == (not writes)
    assert visitor.cookie != former
    assert visitor.get("read").content == b"1"


def test_a_new_session_that_could_not_be_stored_gets_no_cookie(
    visitor: Visitor, unavailable: Unavailable
) -> None:
    unavailable("create", "replace", "touch")
    response = visitor.get("write")
    assert response.status_code == 503
    assert not response.cookies


@pytest.mark.parametrize("every", [False, True])
def test_a_life_that_could_not_be_extended_fails_no_page(
    every: bool, visitor: Visitor, unavailable: Unavailable, settings: LazySettings
) -> None:
    visitor.get("write")
    settings.SESSION_SAVE_EVERY_REQUEST = every
    settings.SESSION_TOUCH_INTERVAL = 0
    unavailable("touch")
    response = visitor.get("read")
    assert (response.status_code, response.content) == (200, b"1")
    unavailable("load")
    assert visitor.get("plain").status_code == 200
    assert visitor.cookie


def test_a_response_that_a_503_replaces_is_closed(
    visitor: Visitor, unavailable: Unavailable
) -> None:
    visitor.get("write")
    FILES[:] = [BytesIO(b"file")]
    unavailable("replace")
    response = visitor.get("send")
    assert response.status_code == 503
    assert b"".join(response) == b"The session store is unavailable."
    response.close()
    assert FILES[0].closed


def test_an_outage_at_the_load_is_the_sites_to_handle_and_the_cookie_stays(
    visitor: Visitor, unavailable: Unavailable, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor.get("write")
    unavailable("load")
    response = visitor.get("read")
    assert response.status_code == 500
    assert not response.cookies
    assert response.exc_info[0] is StoreUnavailable
    monkeypatch.undo()
    assert visitor.get("read").content == b"1"


def test_reading_extends_a_session_where_a_touch_interval_is_set(
    visitor: Visitor, settings: LazySettings
) -> None:
    settings.SESSION_COOKIE_AGE = 1000
    settings.SESSION_TOUCH_INTERVAL = 100
    with freeze_time(timezone.now().replace(microsecond=0)) as clock:
        visitor.get("write")
        clock.tick(99)
        assert not visitor.get("read").cookies
        clock.tick(1)
        response = visitor.get("read")
        assert response.cookies["sessionid"]["max-age"] == 1000
        for _ in range(5):
            clock.tick(900)
            assert visitor.get("read").content == b"1"
        clock.tick(1000)
        assert visitor.get("read").content == b"0"


def test_reading_extends_nothing_where_no_touch_interval_is_set(
    visitor: Visitor, settings: LazySettings
) -> None:
    settings.SESSION_COOKIE_AGE = 1000
    with freeze_time() as clock:
        visitor.get("write")
        clock.tick(999)
        assert visitor.get("read").content == b"1"
        clock.tick(2)
        assert visitor.get("read").content == b"0"


def test_saving_every_request_slides_a_session_under_both_middlewares(
    visitor: Visitor, settings: LazySettings, either: None
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = True
    settings.SESSION_COOKIE_AGE = 1000
    with freeze_time() as clock:
        visitor.get("write")
        for _ in range(5):
            clock.tick(900)
            assert visitor.get("read").content == b"1"


@pytest.mark.usefixtures("either")
def test_a_thousand_unchanged_requests_write_nothing(
    visitor: Visitor, settings: LazySettings, tmp_path: Path
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = True
    visitor.get("write")
    log = tmp_path / "sessions" / "data"
    size = log.stat().st_size
    for _ in range(100 if visitor.is_async else 1000):
        assert visitor.get("read").content == b"1"
    assert log.stat().st_size == size


def test_the_cookie_goes_along_with_the_record_only(
    visitor: Visitor, settings: LazySettings
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = True
    settings.SESSION_TOUCH_INTERVAL = 60
    with freeze_time() as clock:
        visitor.get("write")
        assert not visitor.get("read").cookies
        clock.tick(61)
        assert visitor.get("read").cookies["sessionid"].value == visitor.cookie


def test_the_absolute_age_caps_the_cookie_too(visitor: Visitor, settings: LazySettings) -> None:
    settings.SESSION_COOKIE_AGE = 1000
    settings.SESSION_ABSOLUTE_AGE = timedelta(seconds=1500)
    with freeze_time(timezone.now().replace(microsecond=0)) as clock:
        assert visitor.get("write").cookies["sessionid"]["max-age"] == 1000
        clock.tick(900)
        assert visitor.get("write").cookies["sessionid"]["max-age"] == 600
        clock.tick(599)
        assert visitor.get("read").content == b"2"
        clock.tick(1)
        assert visitor.get("read").content == b"0"


def test_a_session_for_the_browsers_life_gets_a_cookie_without_an_age(
    visitor: Visitor, settings: LazySettings
) -> None:
    settings.SESSION_EXPIRE_AT_BROWSER_CLOSE = True
    morsel = visitor.get("write").cookies["sessionid"]
    assert morsel["max-age"] == ""
    assert morsel["expires"] == ""


def test_async_requests_stay_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = Visitor(is_async=False)
    visitor.get("write")  # opens the store, which an async request leaves to a thread
    cookie = visitor.cookie

    def no_thread(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("this hops to a thread")

    async def main() -> None:
        # Without Django's handler, which hops to a thread for its signals.
        assert await cookie_of(awrite) == cookie
        assert await cookie_of(aread) == cookie
        assert await cookie_of(awrite) == cookie
        assert await cookie_of(aflush) is None

    async def cookie_of(view: Any) -> str | None:
        factory = AsyncRequestFactory()
        factory.cookies["sessionid"] = str(cookie)
        request = factory.get("/")
        await SessionMiddleware(view).__acall__(request)
        return request.session.session_key

    monkeypatch.setattr("asgiref.sync.SyncToAsync.__call__", no_thread)
    monkeypatch.setattr(asyncio, "to_thread", no_thread)
    asyncio.run(main())


def test_django_and_the_admin_accept_the_middleware(settings: LazySettings) -> None:
    settings.MIDDLEWARE = [
        OURS,
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]
    assert "admin.E410" not in [message.id for message in run_checks()]
    settings.MIDDLEWARE = settings.MIDDLEWARE[1:]
    assert "admin.E410" in [message.id for message in run_checks()]


@pytest.mark.parametrize("engine", ["signed_cookies", "cache", "file"])
def test_other_engines_work_under_it(
    engine: str, visitor: Visitor, settings: LazySettings, tmp_path: Path
) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.SESSION_TOUCH_INTERVAL = 0
    for count in range(1, 4):
        assert visitor.get("write").content == str(count).encode()
    assert visitor.get("read").content == b"3"


class Marking(SessionMiddleware):
    def process_request(self, request: HttpRequest) -> None:
        super().process_request(request)
        request.META["SEEN"] = "request"

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> Any:
        response = super().process_response(request, response)
        response["X-Marked"] = request.META["SEEN"] + " and response"
        return response


def test_what_a_subclass_does_to_a_response_is_done_in_async_too(
    visitor: Visitor, settings: LazySettings
) -> None:
    settings.MIDDLEWARE = [f"{__name__}.Marking"]
    for count in range(1, 3):
        response = visitor.get("write")
        assert response["X-Marked"] == "request and response"
        assert response.content == str(count).encode()
