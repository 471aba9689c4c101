"""A fresh login asked for: in functions and classes, in sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views import View
from freezegun import freeze_time

from django_kvsessions.decorators import fresh_login_required

OURS = "django_kvsessions.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
MEMORY = {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"}

fresh = fresh_login_required(max_age=600)


@fresh
def function(request: HttpRequest) -> HttpResponse:
    return HttpResponse("in")


@fresh
async def afunction(request: HttpRequest) -> HttpResponse:
    return HttpResponse("in")


@method_decorator(fresh, name="dispatch")
class Page(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("in")

    post = get


@method_decorator(fresh, name="dispatch")
class AsyncPage(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("in")

    post = get


class Method(View):
    @method_decorator(fresh)
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("in")


@fresh_login_required(
    max_age=timedelta(minutes=10),
    login_url="https://login.example.org/?a=1",
    redirect_field_name="to",
)
def elsewhere(request: HttpRequest) -> HttpResponse:
    return HttpResponse("in")


urlpatterns = [
    path("function/", function),
    path("afunction/", afunction),
    path("page/", Page.as_view()),
    path("asyncpage/", AsyncPage.as_view()),
    path("method/", Method.as_view()),
    path("elsewhere/", elsewhere),
    path("login/", LoginView.as_view()),
    path("<path:rest>", function),
]
PAGES = ["function", "afunction", "page", "asyncpage", "method"]


@pytest.fixture(autouse=True, params=[OURS, DJANGOS])
def _site(request: pytest.FixtureRequest, settings: LazySettings, transactional_db: None) -> None:
    settings.ROOT_URLCONF = __name__
    settings.LOGIN_URL = "/login/"
    settings.SESSION_STORES = {"default": MEMORY}
    settings.MIDDLEWARE = [request.param, "django.contrib.auth.middleware.AuthenticationMiddleware"]
    User.objects.create_user("alice", password="first")


@pytest.fixture(params=["wsgi", "asgi"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """The response to a visitor with a cookie."""

    def ask(url: str, cookie: str = "", *, post: bool = False) -> Any:
        is_async = request.param == "asgi"
        client: Any = AsyncClient() if is_async else Client()
        client.cookies["sessionid"] = cookie
        method = client.post if post else client.get
        return asyncio.run(method(url)) if is_async else method(url)

    return ask


def log_in() -> Client:
    client = Client()
    assert client.login(username="alice", password="first")
    return client


def cookie_of(client: Client) -> str:
    return client.cookies["sessionid"].value


@pytest.mark.parametrize("name", PAGES)
def test_only_who_has_logged_in_lately_is_let_in(name: str, ask: Callable[..., Any]) -> None:
    url, back = f"/{name}/?a=1&b=2", f"/login/?next=/{name}/%3Fa%3D1%26b%3D2"
    response = ask(url)
    assert (response.status_code, response.headers["Location"]) == (302, back)
    with freeze_time(timezone.now()) as clock:
        client = log_in()
        clock.tick(599)
        assert ask(url, cookie_of(client)).content == b"in"
        clock.tick(1)
        response = ask(url, cookie_of(client))
        assert (response.status_code, response.headers["Location"]) == (302, back)
        # A new login, and back.
        answer = client.post(back, {"username": "alice", "password": "first"})
        assert answer.headers["Location"] == url
        assert ask(url, cookie_of(client)).content == b"in"


@pytest.mark.parametrize("name", PAGES)
def test_who_cannot_log_in_any_more_is_not_let_in(name: str, ask: Callable[..., Any]) -> None:
    client = log_in()
    User.objects.update(is_active=False)
    assert ask(f"/{name}/", cookie_of(client)).status_code == 302


def test_use_does_not_make_a_login_fresh(ask: Callable[..., Any]) -> None:
    with freeze_time(timezone.now()) as clock:
        client = log_in()
        session = client.session
        clock.tick(600)
        session["a"] = 1
        session.cycle_key()
        session.save()
        assert ask("/function/", str(session.session_key)).status_code == 302


def test_what_is_posted_is_asked_for_too(ask: Callable[..., Any]) -> None:
    for name in ("page", "asyncpage"):
        assert ask(f"/{name}/", post=True).headers["Location"] == f"/login/?next=/{name}/"


@pytest.mark.parametrize(
    "url",
    ["//evil.example/", "/%2Fevil.example/", "/\\evil.example", "/x?next=https://evil.example"],
)
def test_nobody_is_sent_to_another_site(url: str, ask: Callable[..., Any]) -> None:
    if url.startswith("//"):
        url = "http://testserver" + url
    location = ask(url).headers["Location"]
    assert location.startswith("/login/?next=/")
    answer = Client().post(location, {"username": "alice", "password": "first"})
    if answer.status_code == 302:
        assert answer.headers["Location"].startswith("/")
        assert not answer.headers["Location"].startswith(("//", "/\\"))


def test_the_login_page_may_be_elsewhere(ask: Callable[..., Any]) -> None:
    location = ask("/elsewhere/").headers["Location"]
    assert location == "https://login.example.org/?a=1&to=http%3A//testserver/elsewhere/"


@pytest.mark.parametrize("age", [0, -1, "600", None, True, float("nan"), timedelta(0)])
def test_an_age_that_is_none_is_refused(age: Any) -> None:
    with pytest.raises(ValueError, match="max_age is a number of seconds above 0"):
        fresh_login_required(max_age=age)


def test_another_engine_does_not_know_of_logins(settings: LazySettings) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    client = log_in()
    with pytest.raises(ImproperlyConfigured, match=r"SESSION_ENGINE = 'django_kvsessions.engine'"):
        client.get("/function/")
