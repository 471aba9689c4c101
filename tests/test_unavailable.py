"""The page of an outage: at the end of a request, and in the middle of a view where a site asks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable

SESSION = "django_kvsessions.middleware.SessionMiddleware"
UNAVAILABLE = "django_kvsessions.middleware.SessionUnavailableMiddleware"


def visit(request: HttpRequest) -> HttpResponse:
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(str(request.session["count"]))


async def avisit(request: HttpRequest) -> HttpResponse:
    count = await request.session.aget("count", 0) + 1
    await request.session.aset("count", count)
    return HttpResponse(str(count))


def fail(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


urlpatterns = [path("visit", visit), path("avisit", avisit), path("fail", fail)]


@pytest.fixture(autouse=True)
def templates(settings: LazySettings, tmp_path: Path) -> Path:
    folder = tmp_path / "templates"
    folder.mkdir()
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [SESSION, UNAVAILABLE]
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}
    settings.TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "DIRS": [folder],
            "OPTIONS": {"context_processors": ["django.contrib.auth.context_processors.auth"]},
        }
    ]
    return folder


@pytest.fixture(params=["wsgi", "asgi"])
def get(request: pytest.FixtureRequest) -> Any:
    if request.param == "wsgi":
        client = Client(raise_request_exception=False)
        return lambda: client.get("/visit")
    async_client = AsyncClient(raise_request_exception=False)
    return lambda: asyncio.run(async_client.get("/avisit"))


def fail_at(monkeypatch: pytest.MonkeyPatch, *methods: str) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise StoreUnavailable("the server is away")

    for name in methods:
        monkeypatch.setattr(type(stores["default"]), name, refuse)
        monkeypatch.setattr(type(stores["default"]), f"a{name}", refuse)


@pytest.mark.parametrize("methods", [("load",), ("create", "replace")])
def test_an_outage_is_told_in_the_sites_own_words_and_when_to_come_again(
    get: Any, methods: tuple[str, ...], templates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (templates / "session_unavailable.html").write_text("<h1>Back soon</h1>{{ user }}")
    assert get().content == b"1"
    fail_at(monkeypatch, *methods)
    response = get()
    assert response.status_code == 503
    assert response.content == b"<h1>Back soon</h1>"
    assert response["Retry-After"] == "5"
    assert "Cookie" in response["Vary"]
    assert not response.cookies
    monkeypatch.undo()
    assert get().content == b"2"


@pytest.mark.parametrize(
    ("template", "is_logged"),
    [(None, False), ("{% if %}", True), ('{% include "missing.html" %}', True)],
)
def test_without_a_template_that_renders_the_page_is_plain(
    get: Any,
    template: str | None,
    is_logged: bool,
    templates: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if template is not None:
        (templates / "session_unavailable.html").write_text(template)
    fail_at(monkeypatch, "create")
    response = get()
    assert (response.status_code, response.content) == (503, b"The session store is unavailable.")
    assert response["Retry-After"] == "5"
    assert ("session_unavailable.html could not be rendered" in caplog.text) == is_logged


def test_without_templates_at_all_the_page_is_plain(
    get: Any, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TEMPLATES = []
    fail_at(monkeypatch, "create")
    assert get().content == b"The session store is unavailable."


def test_an_outage_in_a_view_is_the_sites_to_handle_where_it_does_not_ask(
    get: Any, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MIDDLEWARE = [SESSION]
    get()
    fail_at(monkeypatch, "load")
    assert get().status_code == 500


def test_an_outage_in_a_view_is_logged_with_its_cause(
    get: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    get()
    fail_at(monkeypatch, "load")
    get()
    (logged,) = [each for each in caplog.records if each.name == "django_kvsessions"]
    assert "visit, and the visitor was answered 503: the server is away" in logged.getMessage()
    assert logged.exc_info is not None


def test_no_other_error_of_a_view_is_taken_for_an_outage() -> None:
    assert Client(raise_request_exception=False).get("/fail").status_code == 500
