"""SESSION_ENGINE, SESSION_SERIALIZER, the ages, and names that are misspelt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import import_module
from typing import TypeVar

from django.conf import global_settings, settings
from django.contrib.sessions.backends.base import SessionBase
from django.core import checks
from django.core.checks import CheckMessage
from django.utils.module_loading import import_string

from django_kvsessions import conf
from django_kvsessions.engine import SessionStore

__all__ = ["attempt", "check_settings", "in_use", "uses_engine"]

ENGINE = "django_kvsessions.engine"
PACKAGE = "django_kvsessions"

#: What this package reads.
SETTINGS = {
    "SESSION_ENGINE",
    "SESSION_STORES",
    "SESSION_STORE_ALIAS",
    "SESSION_ABSOLUTE_AGE",
    "SESSION_TOUCH_INTERVAL",
    "SESSION_RECORD_DEVICE",
    "SESSION_RECORD_IP",
    "SESSION_MAX_PER_USER",
    "SESSION_ENCRYPTION",
    "SESSION_COOKIE_PARTITIONED",
    "SESSION_AUTO_CLEAN",
    "SESSION_SERIALIZER",
    "SESSION_FALLBACK_ENGINES",
    "SESSION_MOVE_BACK_TO",
}

T = TypeVar("T")


def in_use() -> bool:
    """Whether the project uses this package's engine, or has configured stores for it."""
    return (
        bool(getattr(settings, "SESSION_STORES", None))
        or str(settings.SESSION_ENGINE).startswith(f"{PACKAGE}.")
        or uses_engine()
    )


def uses_engine() -> bool:
    """Whether SESSION_ENGINE is this package's, or a module of the project that extends it."""
    engine = getattr(attempt(import_module, settings.SESSION_ENGINE), "SessionStore", None)
    return isinstance(engine, type) and issubclass(engine, SessionStore)


def attempt(function: Callable[..., T], *args: object) -> T | None:
    try:
        return function(*args)
    except Exception:
        return None


def check_settings(**kwargs: object) -> list[CheckMessage]:
    messages = [*_check_engine(), *_check_names()]
    if not in_use():
        return messages
    for number, function in [
        ("E009", conf.serializer),
        ("E011", conf.absolute_age),
        ("E012", conf.touch_interval),
        ("E014", conf.record_device),
        ("E015", conf.record_ip),
        ("E016", conf.max_per_user),
        ("E021", conf.auto_clean),
    ]:
        try:
            function()
        except Exception as error:
            messages.append(checks.Error(str(error), id=f"kvsessions.{number}"))
    return [*messages, *_check_serializer(), *_check_cookie_age()]


def _check_engine() -> Iterator[CheckMessage]:
    path = settings.SESSION_ENGINE
    try:
        engine = import_module(path)
    except Exception as error:
        problem = f"which cannot be imported: {type(error).__name__}: {error}"
    else:
        if hasattr(engine, "SessionStore"):
            return
        problem = "which is a module without a SessionStore"
    named = attempt(import_string, path)
    if isinstance(named, type) and issubclass(named, SessionBase):
        problem = "which is a class"
    yield checks.Error(
        f"SESSION_ENGINE is {path!r}, {problem}.",
        hint="Name the module of an engine, not its class, its store or what pip installs: "
        f"SESSION_ENGINE = {ENGINE!r}.",
        id="kvsessions.E010",
    )


def _check_names() -> Iterator[CheckMessage]:
    # Django ignores a setting that nobody reads, and so the default would silently hold.
    known = {name.removeprefix("SESSION_"): name for name in SETTINGS}
    ours = in_use()
    for name in dir(settings):
        prefix, _, rest = name.partition("_")
        is_known = name in SETTINGS or hasattr(global_settings, name)
        if is_known or prefix not in ("SESSION", "SESSIONS"):
            continue
        # Another engine may have settings of such names.
        if not ours and not str(getattr(settings, name)).startswith(PACKAGE):
            continue
        # The higher, the fewer false alarms: SESSION_STORE is .91 of SESSION_STORES.
        if close := get_close_matches(rest, known, n=1, cutoff=0.85):
            yield checks.Warning(
                f"{name} is no setting of Django or django-kvsessions: neither reads it.",
                hint=f"Did you mean {known[close[0]]}?",
                id="kvsessions.W007",
            )


def _check_serializer() -> Iterator[CheckMessage]:
    serializer = attempt(conf.serializer)
    if serializer is None:
        return
    if not all(hasattr(serializer, name) for name in ("dumps", "loads")):
        yield checks.Error(
            f"SESSION_SERIALIZER is {settings.SESSION_SERIALIZER!r}, "
            "which has no methods dumps and loads.",
            id="kvsessions.E009",
        )
    elif any("pickle" in name.__qualname__.lower() for name in getattr(serializer, "__mro__", ())):
        yield checks.Warning(
            f"SESSION_SERIALIZER is {settings.SESSION_SERIALIZER!r}: unpickling runs whatever "
            "code the data names, so whoever learns SECRET_KEY and can write to the store "
            "runs code on the server.",
            hint="Leave SESSION_SERIALIZER out: the engine's own keeps the usual Python types.",
            id="kvsessions.W003",
        )


def _check_cookie_age() -> Iterator[CheckMessage]:
    age = settings.SESSION_COOKIE_AGE
    if type(age) not in (int, float) or not 0 < age <= conf.LONGEST_AGE:
        yield checks.Error(
            f"SESSION_COOKIE_AGE must be a number of seconds above 0 and up to "
            f"{conf.LONGEST_AGE}; not {age!r}.",
            hint="Write it without quotes, as SESSION_COOKIE_AGE = 60 * 60 * 24 * 14. For cookies "
            "that end with the browser set SESSION_EXPIRE_AT_BROWSER_CLOSE.",
            id="kvsessions.E013",
        )
