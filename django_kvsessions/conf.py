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


def has_location(alias: str) -> bool:
    """Whether the project itself says where a store is, which may need no place."""
    config = _configured()[alias]
    is_named = isinstance(config, Mapping) and config.get("LOCATION") is not None
    return is_named or store(alias)["LOCATION"] is None


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
def record_device() -> bool:
    """SESSION_RECORD_DEVICE: whether a user's session keeps the browser's user agent."""
    value = getattr(settings, "SESSION_RECORD_DEVICE", True)
    if not isinstance(value, bool):
        raise ImproperlyConfigured(f"SESSION_RECORD_DEVICE must be True or False, not {value!r}.")
    return value


@cache
def record_ip() -> str | None:
    """SESSION_RECORD_IP: ``"network"`` or ``"full"``, or ``None`` to keep no address."""
    value = getattr(settings, "SESSION_RECORD_IP", None)
    if value not in (None, "network", "full"):
        raise ImproperlyConfigured(
            f'SESSION_RECORD_IP must be None, "network" (the first 24 bits of an IPv4 address, '
            f'48 of an IPv6 address) or "full"; not {value!r}.'
        )
    return value if value is None else str(value)


@cache
def encryption() -> bool:
    """SESSION_ENCRYPTION: whether sessions are encrypted so that only their cookie opens them."""
    value = getattr(settings, "SESSION_ENCRYPTION", False)
    if not isinstance(value, bool):
        raise ImproperlyConfigured(f"SESSION_ENCRYPTION must be True or False, not {value!r}.")
    return value


@cache
def max_per_user() -> int | None:
    """SESSION_MAX_PER_USER: how many sessions a login leaves a user; ``None`` for any number."""
    value = getattr(settings, "SESSION_MAX_PER_USER", None)
    if value is not None and (type(value) is not int or value < 1):
        raise ImproperlyConfigured(
            f"SESSION_MAX_PER_USER must be None or a whole number from 1, not {value!r}."
        )
    return value


@cache
def auto_clean() -> bool | None:
    """SESSION_AUTO_CLEAN; ``None`` where it is left to the store."""
    value = getattr(settings, "SESSION_AUTO_CLEAN", None)
    if value is not None and not isinstance(value, bool):
        raise ImproperlyConfigured(
            f"SESSION_AUTO_CLEAN must be True or False, not {value!r}: leave it out for True on "
            "embedded stores and False on others."
        )
    return value


@cache
def fallback_engines() -> tuple[str, ...]:
    """SESSION_FALLBACK_ENGINES: the engines from which sessions are moved on their first use."""
    engines = getattr(settings, "SESSION_FALLBACK_ENGINES", None) or ()
    if not isinstance(engines, list | tuple) or not all(type(path) is str for path in engines):
        raise ImproperlyConfigured(
            "SESSION_FALLBACK_ENGINES must be a list of engines, such as "
            f"['django.contrib.sessions.backends.db']; not {engines!r}."
        )
    return tuple(engines)


@cache
def move_back_to() -> str:
    """SESSION_MOVE_BACK_TO: the engine that ``django_kvsessions.moving.back`` moves to."""
    engine = getattr(settings, "SESSION_MOVE_BACK_TO", None)
    if not isinstance(engine, str):
        raise ImproperlyConfigured(
            "SESSION_ENGINE is django_kvsessions.moving.back, so SESSION_MOVE_BACK_TO must name "
            f"the engine to go back to, such as 'django.contrib.sessions.backends.db'; not "
            f"{engine!r}."
        )
    return engine


@cache
def middleware_leaves_cookies() -> bool:
    """Whether the session middleware can leave alone the cookie of a session that has moved.

    Django's own, after a save, always sends the id that the request came with.
    """
    return middleware_is_ours() is not False


@cache
def middleware_is_ours() -> bool | None:
    """Whether the session middleware is this package's; ``None`` where there is none."""
    for path in settings.MIDDLEWARE:
        try:
            middleware = import_string(path)
        except ImportError:
            continue  # For Django to report.
        if isinstance(middleware, type) and issubclass(middleware, SessionMiddleware):
            return bool(getattr(middleware, "leaves_cookies", False))
    return None


@cache
def cookie_partitioned() -> bool:
    """SESSION_COOKIE_PARTITIONED: whether each site that embeds this one has its own cookie."""
    value = getattr(settings, "SESSION_COOKIE_PARTITIONED", False)
    if not isinstance(value, bool):
        raise ImproperlyConfigured(
            f"SESSION_COOKIE_PARTITIONED must be True or False, not {value!r}."
        )
    return value


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
        record_device,
        record_ip,
        max_per_user,
        encryption,
        cookie_partitioned,
        middleware_is_ours,
        auto_clean,
        fallback_engines,
        move_back_to,
        middleware_leaves_cookies,
    ):
        function.cache_clear()


setting_changed.connect(_forget)
