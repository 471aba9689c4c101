"""System checks of the SESSION_* settings, with stable ids.

They look at settings and paths, and open no store; those that ask a server
run with ``manage.py check --deploy`` alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from stat import S_IMODE
from typing import Any, TypeVar

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.core import checks
from django.core.checks import CheckMessage, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_kvsessions import conf
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import store_class, stores
from django_kvsessions.stores.base import Store, StoreError
from django_kvsessions.stores.memory import MemoryStore

__all__ = [
    "TAG",
    "check_deployed_stores",
    "check_server",
    "check_settings",
    "check_stores",
    "in_use",
    "uses_engine",
]

TAG = "sessions"
ENGINE = "django_kvsessions.engine"

T = TypeVar("T")


def in_use() -> bool:
    """Whether the project uses this package's engine, or has configured stores for it."""
    return bool(getattr(settings, "SESSION_STORES", None)) or uses_engine()


def uses_engine() -> bool:
    """Whether SESSION_ENGINE is this package's, or a module of the project that extends it."""
    engine = getattr(_attempt(import_module, settings.SESSION_ENGINE), "SessionStore", None)
    return isinstance(engine, type) and issubclass(engine, SessionStore)


def _attempt(function: Callable[..., T], *args: Any) -> T | None:
    try:
        return function(*args)
    except Exception:
        return None


@register(TAG)
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    messages = list(_check_engine())
    if not in_use():
        return messages
    for number, function in [
        ("E009", conf.serializer),
        ("E011", conf.absolute_age),
        ("E012", conf.touch_interval),
    ]:
        try:
            function()
        except Exception as error:
            messages.append(checks.Error(str(error), id=f"kvsessions.{number}"))
    messages += _check_serializer()
    return messages


def _check_engine() -> Iterator[CheckMessage]:
    path = settings.SESSION_ENGINE
    if hasattr(_attempt(import_module, path), "SessionStore"):
        return
    named = _attempt(import_string, path)
    is_class = isinstance(named, type) and issubclass(named, SessionBase)
    if is_class or str(path).startswith("django_kvsessions"):
        yield checks.Error(
            f"SESSION_ENGINE is {path!r}, which is not a module with a SessionStore.",
            hint=f"Name the module, not the class or the store: SESSION_ENGINE = {ENGINE!r}.",
            id="kvsessions.E010",
        )


def _check_serializer() -> Iterator[CheckMessage]:
    serializer = _attempt(conf.serializer)
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


@register(TAG, Tags.security)
def check_stores(**kwargs: Any) -> list[CheckMessage]:
    if not in_use():
        return []
    try:
        aliases = list(conf.stores())
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="kvsessions.E001")]
    messages = list(_check_alias())
    for alias in aliases:
        messages += _check_store(alias)
    return messages


def _check_alias() -> Iterator[CheckMessage]:
    alias = conf.store_alias()
    if alias not in conf.stores():
        known = ", ".join(repr(name) for name in conf.stores())
        yield checks.Error(
            f"SESSION_STORE_ALIAS is {alias!r}; SESSION_STORES has no such alias, it has {known}.",
            id="kvsessions.E004",
        )
        return
    backend = _attempt(store_class, alias)
    if backend and issubclass(backend, MemoryStore) and not settings.DEBUG:
        yield checks.Warning(
            f"SESSION_STORES[{alias!r}] keeps the sessions in the memory of one process: they "
            "end when it restarts, and workers do not share them.",
            hint=f"Use {conf.DEFAULT_BACKEND!r}, or this one as the cache of a layered store.",
            id="kvsessions.W002",
        )


def _check_store(alias: str) -> Iterator[CheckMessage]:
    try:
        backend = store_class(alias)
    except Exception as error:
        yield checks.Error(str(error), id="kvsessions.E002")
        return
    try:
        store = stores[alias]
    except ImproperlyConfigured as error:
        yield checks.Error(str(error), id="kvsessions.E003")
        return
    except Exception as error:
        problem = f"SESSION_STORES[{alias!r}]: {type(error).__name__}: {error}"
        yield checks.Error(problem, id="kvsessions.E003")
        return
    if backend.location_is_folder:
        try:
            yield from _check_folder(alias, conf.stores()[alias]["LOCATION"])
        except (OSError, ValueError) as error:
            where = f"SESSION_STORES[{alias!r}]['LOCATION']"
            yield checks.Error(f"{where} cannot be looked at: {error}", id="kvsessions.E005")
    yield from _ask(store.check, alias)


def _check_folder(alias: str, location: str | os.PathLike[str]) -> Iterator[CheckMessage]:
    where = f"SESSION_STORES[{alias!r}]['LOCATION'] ({os.fspath(location)})"
    if not os.path.isabs(location):
        yield checks.Warning(
            f"{where} is relative: a cron job or a server started elsewhere would use "
            "another folder.",
            hint="Write BASE_DIR / ..., or an absolute path.",
            id="kvsessions.W005",
        )
    folder = Path(os.path.realpath(location))
    for setting, served in _served_folders():
        if folder.is_relative_to(served):
            yield checks.Error(
                f"{where} is inside {setting} ({served}): the web server may hand the "
                "sessions to anyone who asks.",
                hint="Choose a folder that nothing serves.",
                id="kvsessions.E007",
            )
    yield from _check_permissions(where, folder)


def _served_folders() -> Iterator[tuple[str, Path]]:
    # An entry of STATICFILES_DIRS may be a pair of a prefix and a folder.
    static = [
        path[1] if isinstance(path, tuple | list) else path for path in settings.STATICFILES_DIRS
    ]
    candidates = [
        ("MEDIA_ROOT", settings.MEDIA_ROOT),
        ("STATIC_ROOT", settings.STATIC_ROOT),
        *(("STATICFILES_DIRS", path) for path in static),
    ]
    for setting, path in candidates:
        if path:
            yield setting, Path(os.path.realpath(path))


def _check_permissions(where: str, folder: Path) -> Iterator[CheckMessage]:
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not os.path.isdir(there):
        yield checks.Error(
            f"{where} is a file." if there == folder else f"{where}: {there} is a file.",
            hint="Name a folder that exists or can be made.",
            id="kvsessions.E005",
        )
        return
    if not hasattr(os, "geteuid"):  # Windows has other permissions.
        return
    status = there.stat()
    if not _is_writable(there):
        problem = (
            "is not writable" if there == folder else f"cannot be made: {there} is not writable"
        )
        # A check run by another user than the site's, as on deployment, proves nothing.
        is_foreign = there == folder and status.st_uid not in (0, os.geteuid())
        yield (checks.Warning if is_foreign else checks.Error)(
            f"{where} {problem} for {_user_name(os.geteuid())}; it belongs to "
            f"{_user_name(status.st_uid)}.",
            hint="Run the site, its commands and cron jobs as one user, who owns the folder.",
            id="kvsessions.W006" if is_foreign else "kvsessions.E006",
        )
    if there == folder and S_IMODE(status.st_mode) & 0o077:
        yield checks.Warning(
            f"{where} has mode {S_IMODE(status.st_mode):04o}: others on this machine may read "
            "or change the sessions.",
            hint=f"chmod 700 {folder}",
            id="kvsessions.W001",
        )


def _is_writable(folder: Path) -> bool:
    return os.access(
        folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    )


def _user_name(user_id: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(user_id).pw_name
    except (ImportError, KeyError):
        return f"user {user_id}"


@register(TAG, Tags.security, deploy=True)
def check_deployed_stores(**kwargs: Any) -> list[CheckMessage]:
    if not in_use():
        return []
    messages: list[CheckMessage] = []
    for alias in _attempt(conf.stores) or ():
        store = _attempt(stores.__getitem__, alias)
        if store:
            messages += check_server(store, alias)
    return messages


def check_server(store: Store, alias: str) -> list[CheckMessage]:
    """What the store finds out by asking its server."""
    return _ask(store.check_server, alias)


def _ask(ask: Callable[..., Iterable[CheckMessage]], alias: str) -> list[CheckMessage]:
    """What the store itself has to say; a check that fails must not stop the others."""
    try:
        return list(ask(alias=alias))
    except StoreError as error:
        message = f"SESSION_STORES[{alias!r}] could not be checked: {error}"
    except Exception as error:
        message = f"SESSION_STORES[{alias!r}]: its check failed: {type(error).__name__}: {error}"
    return [checks.Warning(message, id="kvsessions.W004")]
