"""Cookies that a browser would refuse, or another site might set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions import conf
from django_kvsessions.checks.settings import attempt, in_use

__all__ = ["check_cookies", "check_deployed_cookies"]


def check_cookies(**kwargs: Any) -> list[CheckMessage]:
    return list(_check_cookies()) if in_use() else []


def _check_cookies() -> Iterator[CheckMessage]:
    name, is_secure = settings.SESSION_COOKIE_NAME, settings.SESSION_COOKIE_SECURE
    reasons = []
    if name.startswith(("__Host-", "__Secure-")) and not is_secure:
        reasons.append(f"SESSION_COOKIE_NAME = {name!r} asks for SESSION_COOKIE_SECURE = True")
    if name.startswith("__Host-"):
        if settings.SESSION_COOKIE_DOMAIN:
            reasons.append(f"SESSION_COOKIE_NAME = {name!r} asks for no SESSION_COOKIE_DOMAIN")
        if settings.SESSION_COOKIE_PATH != "/":
            reasons.append(f"SESSION_COOKIE_NAME = {name!r} asks for SESSION_COOKIE_PATH = '/'")
    if str(settings.SESSION_COOKIE_SAMESITE).lower() == "none" and not is_secure:
        reasons.append("SESSION_COOKIE_SAMESITE = 'None' asks for SESSION_COOKIE_SECURE = True")
    try:
        is_partitioned = conf.cookie_partitioned()
    except ImproperlyConfigured as error:
        yield checks.Error(str(error), id="kvsessions.E020")
        is_partitioned = False
    if is_partitioned and not is_secure:
        reasons.append("SESSION_COOKIE_PARTITIONED = True asks for SESSION_COOKIE_SECURE = True")
    for reason in reasons:
        yield checks.Error(
            f"{reason}: otherwise browsers refuse the cookie, and nobody can log in.",
            hint="RFC 6265bis says what a browser takes. Where developers have no https, set these "
            "in the settings of production alone.",
            id="kvsessions.E019",
        )
    if is_partitioned and not attempt(conf.middleware_is_ours):
        yield checks.Warning(
            "SESSION_COOKIE_PARTITIONED is True, but Django's session middleware does not read it.",
            hint="Put django_kvsessions.middleware.SessionMiddleware in its place in MIDDLEWARE.",
            id="kvsessions.W014",
        )


def check_deployed_cookies(**kwargs: Any) -> list[CheckMessage]:
    is_apt = settings.SESSION_COOKIE_SECURE and not settings.SESSION_COOKIE_DOMAIN
    named = settings.SESSION_COOKIE_NAME.startswith("__Host-")
    if not in_use() or named or not is_apt or settings.SESSION_COOKIE_PATH != "/":
        return []
    return [
        checks.Info(
            f"SESSION_COOKIE_NAME is {settings.SESSION_COOKIE_NAME!r}: another host of the same "
            "domain, or one that is spoken to without TLS, can set a cookie of that name.",
            hint="A name that begins with __Host- rules that out, as "
            "SESSION_COOKIE_NAME = '__Host-sessionid'. Everybody then logs in once more.",
            id="kvsessions.I001",
        )
    ]
