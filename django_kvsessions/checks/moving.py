"""SESSION_FALLBACK_ENGINES and SESSION_MOVE_BACK_TO: the engines that sessions move from and to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.db import connections, router

from django_kvsessions import conf
from django_kvsessions.checks.settings import attempt, in_use
from django_kvsessions.moving.counts import read_count
from django_kvsessions.moving.formers import Former, make_former
from django_kvsessions.stores import stores

__all__ = ["check_deployed_moving", "check_moving"]

BACK = "django_kvsessions.moving.back"


def check_moving(**kwargs: Any) -> list[CheckMessage]:
    if not in_use():
        return []
    messages: list[CheckMessage] = []
    try:
        paths = conf.fallback_engines()
    except Exception as error:
        return [checks.Error(str(error), id="kvsessions.E022")]
    for path in paths:
        messages += _check_former(path, "SESSION_FALLBACK_ENGINES", "kvsessions.E022")
    if settings.SESSION_ENGINE == BACK:
        try:
            messages += _check_former(
                conf.move_back_to(), "SESSION_MOVE_BACK_TO", "kvsessions.E024"
            )
        except Exception as error:
            messages.append(checks.Error(str(error), id="kvsessions.E024"))
    return messages


def _check_former(path: str, setting: str, number: str) -> Iterator[CheckMessage]:
    try:
        former = make_former(path, setting)
    except Exception as error:
        yield checks.Error(str(error), id=number)
        return
    try:
        _table_of(former)
    except Exception as error:
        # As Django says it of a model whose app is not installed.
        yield checks.Error(
            f"{setting} names {path!r}, which has no table here: {error}",
            hint="Leave 'django.contrib.sessions' in INSTALLED_APPS for as long as it is named.",
            id="kvsessions.E023",
        )
        return
    serializer = getattr(attempt(former.engine), "serializer", None)
    if (
        serializer is not None
        and _unpickles(serializer)
        and not _unpickles(attempt(conf.serializer))
    ):
        yield checks.Warning(
            f"{setting} names {path!r}, whose serializer is pickle, and the engine's own takes "
            "plain Python values alone: a session with any other one cannot be moved.",
            hint="Such a session is left where it is, and is logged; remove what it holds of "
            "other classes first.",
            id="kvsessions.W015",
        )


def check_deployed_moving(**kwargs: Any) -> list[CheckMessage]:
    if not in_use():
        return []
    messages: list[CheckMessage] = []
    for path in attempt(conf.fallback_engines) or ():
        former = attempt(make_former, path)
        if former is not None:
            messages += _check_deployed(former)
    return messages


def _check_deployed(former: Former) -> Iterator[CheckMessage]:
    table = attempt(_table_of, former)
    if table is not None:
        alias, name = table
        try:
            is_missing = name not in connections[alias].introspection.table_names()
        except Exception as error:
            yield checks.Warning(
                f"SESSION_FALLBACK_ENGINES: {former.path!r} could not be checked: {error}",
                id="kvsessions.W004",
            )
            return
        if is_missing:
            yield checks.Error(
                f"SESSION_FALLBACK_ENGINES names {former.path!r}, and DATABASES[{alias!r}] has "
                f"no table {name!r}: every visitor without a session here gets an error.",
                hint="Remove the engine from SESSION_FALLBACK_ENGINES, or run manage.py migrate.",
                id="kvsessions.E023",
            )
    count = attempt(lambda: read_count(stores[conf.store_alias()], former.path))
    if count is not None and count.last + settings.SESSION_COOKIE_AGE < time.time():
        days = (time.time() - count.last) / 86400
        yield checks.Warning(
            f"No session has come from {former.path!r} for {days:,.0f} days, longer than one lives "
            "unused (SESSION_COOKIE_AGE).",
            hint="Remove it from SESSION_FALLBACK_ENGINES: unknown ids then cost one look-up less.",
            id="kvsessions.W016",
        )


def _table_of(former: Former) -> tuple[str, str] | None:
    """Its database and table, where it has one."""
    from django.contrib.sessions.backends.db import SessionStore

    if not issubclass(former.engine, SessionStore):
        return None
    model = former.engine.get_model_class()
    return router.db_for_write(model), model._meta.db_table


def _unpickles(serializer: Any) -> bool:
    return any("pickle" in each.__qualname__.lower() for each in getattr(serializer, "__mro__", ()))
