"""Reading and validating the SESSION_* settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Any

from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from django_kvsessions.serializers import MessagePackSerializer, Serializer

DEFAULT_ALIAS = "default"
DEFAULT_BACKEND = "django_kvsessions.stores.semidbm.SemidbmStore"
#: Seconds, some 7,600 years: counted from now, the year 9999 ends what datetime can hold.
LONGEST_AGE = 240_000_000_000


# Looking up a setting that the project leaves out costs a microsecond each
# time, so what a request needs is read once and forgotten when a test changes it.


@cache
def store_alias() -> str:
    """SESSION_STORE_ALIAS: which store the engine uses."""
    return str(getattr(settings, "SESSION_STORE_ALIAS", DEFAULT_ALIAS))


@cache
def _configured() -> Mapping[str, object]:
    configured = getattr(settings, "SESSION_STORES", None) or {DEFAULT_ALIAS: {}}
    if not isinstance(configured, Mapping):
        raise ImproperlyConfigured("SESSION_STORES must be a dict of aliases, as CACHES is.")
    return configured


def aliases() -> list[str]:
    """The aliases of SESSION_STORES, whatever stands under them."""
    return list(_configured())


@cache
def store(alias: str) -> dict[str, Any]:
    """One alias of SESSION_STORES with the defaults filled in, whatever is wrong with others."""
    if alias not in _configured():
        there = ", ".join(map(repr, _configured()))
        raise ImproperlyConfigured(f"SESSION_STORES has no alias {alias!r}; it has {there}.")
    where, config = f"SESSION_STORES[{alias!r}]", _configured()[alias]
    if not isinstance(config, Mapping):
        raise ImproperlyConfigured(f"{where} must be a dict, not {type(config).__name__}.")
    known: dict[str, object] = {"BACKEND": DEFAULT_BACKEND, "LOCATION": None, "OPTIONS": {}}
    for name in config:
        if name not in known:
            raise ImproperlyConfigured(
                f"{where} has {name!r}, which is not known; it takes {', '.join(known)}."
            )
    filled = {**known, **config}
    if not isinstance(filled["OPTIONS"], Mapping):
        raise ImproperlyConfigured(f"{where}['OPTIONS'] must be a dict.")
    if filled["BACKEND"] == DEFAULT_BACKEND and filled["LOCATION"] is None:
        base_dir = getattr(settings, "BASE_DIR", None)
        if base_dir is None:
            raise ImproperlyConfigured(
                f"{where}['LOCATION'] is missing, and there is no BASE_DIR to put the folder "
                '"sessions" in: name a folder for the sessions.'
            )
        filled["LOCATION"] = f"{base_dir}/sessions"
    return filled


@cache
def serializer() -> type[Serializer]:
    """The class of SESSION_SERIALIZER where the project sets it, otherwise MessagePack."""
    # Django's own default does not count: only a choice made by the project does.
    if not settings.is_overridden("SESSION_SERIALIZER"):  # type: ignore[misc]  # not in the stubs
        return MessagePackSerializer
    path = settings.SESSION_SERIALIZER
    try:
        found: type[Serializer] = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"SESSION_SERIALIZER names {path!r}, which cannot be imported: {error}"
        ) from error
    return found


@cache
def absolute_age() -> float | None:
    """SESSION_ABSOLUTE_AGE in seconds: the whole life of a session; ``None`` for no limit."""
    return _seconds("SESSION_ABSOLUTE_AGE", at_least=1)


@cache
def touch_interval() -> float | None:
    """SESSION_TOUCH_INTERVAL in seconds; ``None`` for one hundredth of a session's idle age."""
    return _seconds("SESSION_TOUCH_INTERVAL", at_least=0)


@cache
def middleware_leaves_cookies() -> bool:
    """Whether the session middleware can leave alone the cookie of a session that has moved.

    Django's own, after a save, always sends the id that the request came with.
    """
    for path in settings.MIDDLEWARE:
        try:
            middleware = import_string(path)
        except ImportError:
            continue  # For Django to report.
        if isinstance(middleware, type) and issubclass(middleware, SessionMiddleware):
            return bool(getattr(middleware, "leaves_cookies", False))
    return True


def _seconds(name: str, *, at_least: int) -> float | None:
    value = getattr(settings, name, None)
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    # Neither True nor NaN is a number of seconds.
    if type(seconds) not in (int, float) or not at_least <= seconds <= LONGEST_AGE:
        raise ImproperlyConfigured(
            f"{name} must be None, a number of seconds from {at_least} to {LONGEST_AGE}, or a "
            f"timedelta of as much; not {value!r}."
        )
    return float(seconds)


def _forget(*, setting: str, **kwargs: object) -> None:
    for function in (
        store_alias,
        _configured,
        store,
        serializer,
        absolute_age,
        touch_interval,
        middleware_leaves_cookies,
    ):
        function.cache_clear()


setting_changed.connect(_forget)
