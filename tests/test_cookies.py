"""What a browser asks of the session's cookie: ``Partitioned``, ``__Host-``, and the checks."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.checks import run_checks
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from django_kvsessions import sealing

OURS = "django_kvsessions.middleware.SessionMiddleware"
STRONG = "0123456789 abcdefghijklmnopqrstuvwxyz, fifty and more characters"


def write(request: HttpRequest) -> HttpResponse:
    request.session["a"] = 1
    return HttpResponse()


def leave(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse()


urlpatterns = [path("write", write), path("leave", leave)]


@pytest.fixture(autouse=True)
def _site(settings: LazySettings) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [OURS]
    settings.SECRET_KEY = STRONG
    settings.SESSION_STORES = {"default": {"LOCATION": settings.BASE_DIR / "sessions"}}


def found(*, deploy: bool = False) -> set[str]:
    messages = run_checks(tags=["sessions"], include_deployment_checks=deploy)
    return {str(message.id).removeprefix("kvsessions.") for message in messages}


def test_a_partitioned_cookie_is_set_and_deleted_as_one(settings: LazySettings) -> None:
    settings.SESSION_COOKIE_PARTITIONED = settings.SESSION_COOKIE_SECURE = True
    settings.SESSION_COOKIE_SAMESITE = "None"
    client = Client()
    for url in ("/write", "/leave"):
        response = client.get(url)
        line = response.cookies["sessionid"].OutputString()
        assert "Partitioned" in line.split("; ")
        assert "Secure" in line.split("; ")
        assert "HttpOnly" in line or url == "/leave"
        # As a cache of responses does.
        copied = pickle.loads(pickle.dumps(response.cookies))
        assert copied["sessionid"].OutputString() == line


def test_a_cookie_is_not_partitioned_unless_asked_for() -> None:
    assert "Partitioned" not in Client().get("/write").cookies["sessionid"].OutputString()


@pytest.mark.parametrize(
    ("wrong", "number"),
    [
        ({"SESSION_COOKIE_NAME": "__Host-s"}, "E019"),
        ({"SESSION_COOKIE_NAME": "__Secure-s"}, "E019"),
        (
            {
                "SESSION_COOKIE_NAME": "__Host-s",
                "SESSION_COOKIE_SECURE": True,
                "SESSION_COOKIE_DOMAIN": "example.com",
            },
            "E019",
        ),
        (
            {
                "SESSION_COOKIE_NAME": "__Host-s",
                "SESSION_COOKIE_SECURE": True,
                "SESSION_COOKIE_PATH": "/app",
            },
            "E019",
        ),
        ({"SESSION_COOKIE_SAMESITE": "None"}, "E019"),
        ({"SESSION_COOKIE_PARTITIONED": True}, "E019"),
        ({"SESSION_COOKIE_PARTITIONED": "yes"}, "E020"),
        (
            {
                "SESSION_COOKIE_PARTITIONED": True,
                "SESSION_COOKIE_SECURE": True,
                "MIDDLEWARE": ["django.contrib.sessions.middleware.SessionMiddleware"],
            },
            "W014",
        ),
        ({"SESSION_ENCRYPTION": "True"}, "E017"),
        ({"SESSION_ENCRYPTION": 1}, "E017"),
        ({"SESSION_ENCRYPTION": True, "SECRET_KEY": "short"}, "W012"),
        ({"SESSION_ENCRYPTION": True, "SECRET_KEY": f"django-insecure-{STRONG}"}, "W012"),
        ({"SESSION_ENCRYPTION": True, "SECRET_KEY_FALLBACKS": ["short"]}, "W012"),
    ],
)
def test_what_cannot_work_is_said(
    wrong: dict[str, Any], number: str, settings: LazySettings
) -> None:
    assert number not in found()
    for name, value in wrong.items():
        setattr(settings, name, value)
    assert number in found()


def test_what_is_in_order_is_silent(settings: LazySettings) -> None:
    settings.SESSION_ENCRYPTION = settings.SESSION_COOKIE_SECURE = True
    settings.SESSION_COOKIE_PARTITIONED = True
    settings.SESSION_COOKIE_NAME = "__Host-sessionid"
    assert not found() & {"E017", "E018", "E019", "E020", "W007", "W012", "W014"}


def test_a_missing_extra_is_said(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SESSION_ENCRYPTION = True
    monkeypatch.setattr(sealing, "is_installed", lambda: False)
    assert "E018" in found()


@pytest.mark.parametrize(
    ("location", "is_plain"),
    [
        ("redis://10.0.0.1:6379/0", True),
        (["redis://user:word@cache.example.com/0"], True),
        ("rediss://10.0.0.1:6379/0", False),
        ("redis://127.0.0.1:6379/0", False),
        ("unix:///run/redis.sock", False),
    ],
)
def test_encryption_is_recommended_where_a_remote_store_has_no_tls(
    location: object, is_plain: bool, settings: LazySettings
) -> None:
    from django_kvsessions.checks import check_deployed_encryption

    settings.SESSION_STORES = {
        "default": {
            "BACKEND": "django_kvsessions.stores.redis.RedisStore",
            "LOCATION": location,
        }
    }
    messages = check_deployed_encryption()
    assert [message.id for message in messages] == ["kvsessions.W013"] * is_plain
    assert all("word" not in message.msg for message in messages)
    settings.SESSION_ENCRYPTION = True
    assert check_deployed_encryption() == []
