"""SESSION_STORES and SESSION_STORE_ALIAS, and what each store says itself."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.core import checks, mail
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions import conf
from django_kvsessions.checks.folders import check_folder
from django_kvsessions.checks.settings import attempt, in_use
from django_kvsessions.stores import store_class, stores
from django_kvsessions.stores.base import Store, StoreError
from django_kvsessions.stores.layered import LayeredStore
from django_kvsessions.stores.memory import MemoryStore

__all__ = ["check_deployed_stores", "check_server", "check_store", "check_stores"]


def check_stores(**kwargs: object) -> list[CheckMessage]:
    if not in_use():
        return []
    try:
        aliases = conf.aliases()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="kvsessions.E001")]
    messages = list(_check_alias(conf.store_alias(), aliases))
    for alias in aliases:
        messages += check_store(alias)
    return messages


def _check_alias(alias: str, aliases: list[str]) -> Iterator[CheckMessage]:
    if alias not in aliases:
        yield checks.Error(
            f"SESSION_STORE_ALIAS is {alias!r}; SESSION_STORES has no such alias, it has "
            f"{', '.join(map(repr, aliases))}.",
            id="kvsessions.E004",
        )
    elif isinstance(attempt(_keeper, alias), MemoryStore) and not (settings.DEBUG or _in_tests()):
        yield checks.Warning(
            f"SESSION_STORES[{alias!r}] keeps the sessions in the memory of one process: they "
            "end when it restarts, and workers do not share them.",
            hint=f"Use {conf.DEFAULT_BACKEND!r}, or this one as the cache of a layered store.",
            id="kvsessions.W002",
        )


def _in_tests() -> bool:
    """Whether Django's test environment is set up, in which sessions are to be forgotten."""
    return hasattr(mail, "outbox")


def _keeper(alias: str) -> Store:
    """The store that keeps the sessions, below all caches."""
    store = stores[alias]
    while isinstance(store, LayeredStore):
        store = store.store
    return store


def check_store(alias: str) -> list[CheckMessage]:
    """What is wrong with one alias of SESSION_STORES, whatever is wrong with others."""
    return list(_check_store(alias))


def _check_store(alias: str) -> Iterator[CheckMessage]:
    try:
        location = conf.store(alias)["LOCATION"]
    except ImproperlyConfigured as error:
        yield checks.Error(str(error), id="kvsessions.E001")
        return
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
            yield from check_folder(alias, location)
        except (OSError, ValueError) as error:
            where = f"SESSION_STORES[{alias!r}]['LOCATION']"
            yield checks.Error(f"{where} cannot be looked at: {error}", id="kvsessions.E005")
    try:
        yield from list(store.check(alias=alias))
    except Exception as error:
        yield _failed(alias, error)


def check_deployed_stores(**kwargs: object) -> list[CheckMessage]:
    if not in_use():
        return []
    messages: list[CheckMessage] = []
    for alias in attempt(conf.aliases) or ():
        store = attempt(stores.__getitem__, alias)
        if store:
            messages += _check_default_location(alias)
            messages += check_server(store, alias)
    return messages


def _check_default_location(alias: str) -> Iterator[CheckMessage]:
    if not conf.has_location(alias):
        yield checks.Warning(
            f"SESSION_STORES[{alias!r}]['LOCATION'] is not set, so the sessions are in "
            f"{conf.store(alias)['LOCATION']}: a release that is a new folder would log everybody "
            "out, and an image or container takes them along or loses them.",
            hint="Name a folder outside of the code, such as /var/lib/mysite/sessions.",
            id="kvsessions.W009",
        )


def check_server(store: Store, alias: str) -> list[CheckMessage]:
    """What the store finds out by asking its server."""
    try:
        return list(store.check_server(alias=alias))
    except StoreError as error:
        return [
            checks.Error(
                f"SESSION_STORES[{alias!r}] does not answer: {error}",
                hint="Start its server, or say in LOCATION and OPTIONS where it is and who asks.",
                id="kvsessions.E025",
            )
        ]
    except Exception as error:
        return [_failed(alias, error)]


def _failed(alias: str, error: Exception) -> CheckMessage:
    """A check that fails must not stop the others."""
    message = f"SESSION_STORES[{alias!r}]: its check failed: {type(error).__name__}: {error}"
    return checks.Warning(message, id="kvsessions.W004")
