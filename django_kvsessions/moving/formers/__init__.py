"""The engines of SESSION_FALLBACK_ENGINES, each as a ``Former`` that sessions are moved from."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from django_kvsessions import conf
from django_kvsessions.colours import Colour
from django_kvsessions.lifetime import Lifetime
from django_kvsessions.moving.formers.base import Former, Left
from django_kvsessions.serializers import SessionData
from django_kvsessions.stores.base import StoreError, StoreUnavailable

__all__ = ["Former", "Left", "delete", "formers", "load", "make_former", "put", "take"]


@cache
def formers() -> tuple[Former, ...]:
    return tuple(map(make_former, conf.fallback_engines()))


def make_former(path: str, setting: str = "SESSION_FALLBACK_ENGINES") -> Former:
    """``ImproperlyConfigured`` for what is no module of another session engine."""
    try:
        engine = getattr(import_module(path), "SessionStore", None)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"{setting} names {path!r}, which cannot be imported: {error}"
        ) from error
    if not (isinstance(engine, type) and issubclass(engine, SessionBase)):
        raise ImproperlyConfigured(
            f"{setting} names {path!r}, which is a module without a SessionStore: name the "
            "module of an engine, such as 'django.contrib.sessions.backends.db'."
        )
    if issubclass(engine, Lifetime) or getattr(engine, "takes_back", False):
        raise ImproperlyConfigured(
            f"{setting} names {path!r}, which is django_kvsessions itself: name the engine that "
            "the site had before, such as 'django.contrib.sessions.backends.db'."
        )
    return former_class(engine)(path, engine)


def former_class(engine: type[SessionBase]) -> type[Former]:
    # Late, so that no engine is imported that the site does not use.
    from django.contrib.sessions.backends import cache, cached_db, db, file, signed_cookies

    if issubclass(engine, cached_db.SessionStore):
        from django_kvsessions.moving.formers.database import CachedDatabaseFormer

        return CachedDatabaseFormer
    if issubclass(engine, db.SessionStore):
        from django_kvsessions.moving.formers.database import DatabaseFormer

        return DatabaseFormer
    if issubclass(engine, cache.SessionStore):
        from django_kvsessions.moving.formers.cache import CacheFormer

        return CacheFormer
    if issubclass(engine, file.SessionStore):
        from django_kvsessions.moving.formers.files import FileFormer

        return FileFormer
    if issubclass(engine, signed_cookies.SessionStore):
        from django_kvsessions.moving.formers.cookies import CookieFormer

        return CookieFormer
    return Former


# What is asked of them, in either colour. Django's engines are sync inside, whatever their
# methods are called, and a session is moved once.


async def load(call: Colour, former: Former, session_key: str) -> Left | None:
    if not former.is_valid(session_key):
        return None
    try:
        return await call(former.load, sync_to_async(former.load), session_key)
    except Exception as error:
        raise failed(former, error) from error


async def take(call: Colour, former: Former, session_key: str, left: Left) -> bool:
    try:
        return await call(former.take, sync_to_async(former.take), session_key, left)
    except Exception as error:
        raise failed(former, error) from error


async def delete(call: Colour, former: Former, session_key: str) -> None:
    if not former.is_valid(session_key):
        return
    try:
        await call(former.delete, sync_to_async(former.delete), session_key)
    except Exception as error:
        raise failed(former, error) from error


async def put(
    call: Colour, former: Former, session_key: str, data: SessionData, expires: float
) -> bool:
    try:
        return await call(former.put, sync_to_async(former.put), session_key, data, expires)
    except TypeError:
        raise  # It has no way to say this data.
    except Exception as error:
        raise failed(former, error) from error


def failed(former: Former, error: Exception) -> Exception:
    """What to raise in the place of what an engine, its database or its cache has raised."""
    if isinstance(error, (StoreError, ImproperlyConfigured)):
        return error
    return StoreUnavailable(
        f"The session engine {former.path!r}, from which sessions are moved, cannot answer: "
        f"{type(error).__name__}: {error}"
    )


def _forget(*, setting: str, **kwargs: Any) -> None:
    formers.cache_clear()


setting_changed.connect(_forget)
