"""SESSION_ENCRYPTION: what it needs, and where it would be good to have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.checks.security import base
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions import conf, sealing
from django_kvsessions.checks.settings import attempt, in_use

__all__ = ["check_deployed_encryption", "check_encryption"]

#: Schemes of LOCATIONs that are spoken to without TLS.
PLAIN = {"http", "mongodb", "redis", "redis+sentinel", "valkey", "valkey+sentinel", "ws"}
#: What says in a URL, or in the OPTIONS of a database, that TLS is asked for all the same.
TLS = ("ssl", "tls")
HERE = {"localhost", "127.0.0.1", "::1"}


def check_encryption(**kwargs: Any) -> list[CheckMessage]:
    return list(_check_encryption()) if in_use() else []


def _check_encryption() -> Iterator[CheckMessage]:
    try:
        is_on = conf.encryption()
    except ImproperlyConfigured as error:
        yield checks.Error(str(error), hint="Write it without quotes.", id="kvsessions.E017")
        return
    if not is_on:
        return
    if not sealing.is_installed():
        yield checks.Error(
            f"SESSION_ENCRYPTION is True, but {sealing.MISSING}.",
            hint="pip install django-kvsessions[encryption]",
            id="kvsessions.E018",
        )
    secrets: list[tuple[str, str | bytes]] = [("SECRET_KEY", settings.SECRET_KEY)]
    secrets += [("One of SECRET_KEY_FALLBACKS", key) for key in settings.SECRET_KEY_FALLBACKS]
    for name, secret in secrets:
        # Django's own check asks the same of a deployment; here it is what encrypts.
        if not base._check_secret_key(secret):  # type: ignore[attr-defined]  # private
            yield checks.Warning(
                f"SESSION_ENCRYPTION is True, but {name} may be guessed: it has less than "
                f"{base.SECRET_KEY_MIN_LENGTH} characters, less than "
                f"{base.SECRET_KEY_MIN_UNIQUE_CHARACTERS} different ones, or begins with "
                f"{base.SECRET_KEY_INSECURE_PREFIX!r}.",
                hint="Make one with django.core.management.utils.get_random_secret_key(), keep it "
                "out of the repository, and put the former into SECRET_KEY_FALLBACKS for a while.",
                id="kvsessions.W012",
            )


def check_deployed_encryption(**kwargs: Any) -> list[CheckMessage]:
    if not in_use() or attempt(conf.encryption) is not False:
        return []
    return [
        checks.Warning(
            f"SESSION_STORES[{alias!r}] is at {host}, and is spoken to without TLS: whoever "
            "listens on the way reads the sessions.",
            hint="Use TLS. With SESSION_ENCRYPTION = True they would not be readable there, nor in "
            "the server and its backups: pip install django-kvsessions[encryption].",
            id="kvsessions.W013",
        )
        for alias in attempt(conf.aliases) or ()
        if (host := _plain_host(attempt(conf.store, alias) or {}))
    ]


def _plain_host(config: dict[str, Any]) -> str | None:
    """The host that a store is spoken to at without TLS, if it is another machine."""
    location, options = config.get("LOCATION"), config.get("OPTIONS", {})
    if str(config.get("BACKEND")).endswith(".DatabaseStore"):
        database = settings.DATABASES.get(location or "default", {})
        host = str(database.get("HOST") or "")
        asked = any(word in str(database.get("OPTIONS", {})).lower() for word in TLS)
        return None if asked or host.startswith("/") or host in HERE else host or None
    for url in location if isinstance(location, (list, tuple)) else [location]:
        parts = attempt(urlsplit, str(url))
        if parts is None or parts.scheme not in PLAIN:
            continue
        if any(word in f"{parts.query} {options}".lower() for word in TLS):
            continue
        # Of several, the first; without what logs in.
        host = parts.netloc.rpartition("@")[2].partition(",")[0]
        if urlsplit(f"//{host}").hostname not in HERE:
            return host
    return None
