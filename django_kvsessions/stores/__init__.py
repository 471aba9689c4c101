"""``stores["default"]``: the stores of SESSION_STORES, by alias, made on first use."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from django_kvsessions import conf
from django_kvsessions.stores.base import Store

__all__ = ["StoreHandler", "stores"]


class StoreHandler:
    """One instance of each configured store in a process, shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stores: dict[str, Store] = {}

    def __getitem__(self, alias: str) -> Store:
        """The store of that alias. ``ImproperlyConfigured`` where settings do not give one."""
        try:
            return self._stores[alias]
        except KeyError:
            pass
        with self._lock:
            if alias not in self._stores:
                self._stores[alias] = make_store(alias)
            return self._stores[alias]

    def __iter__(self) -> Iterator[str]:
        return iter(conf.stores())

    def opened(self) -> list[Store]:
        """The stores that have been used in this process."""
        with self._lock:
            return list(self._stores.values())

    def close_all(self) -> None:
        """Close every store; the next use makes them anew from the settings."""
        with self._lock:
            while self._stores:
                self._stores.popitem()[1].close()


def make_store(alias: str) -> Store:
    backend = store_class(alias)
    config = conf.stores()[alias]
    where = f"SESSION_STORES[{alias!r}]"
    location, options = config["LOCATION"], config["OPTIONS"]
    if backend.location_is_folder and (not location or not isinstance(location, str | os.PathLike)):
        raise ImproperlyConfigured(f"{where}['LOCATION'] must name a folder, not {location!r}.")
    known = option_names(backend)
    for name in options:
        if known is not None and name not in known:
            raise ImproperlyConfigured(
                f"{where}['OPTIONS'] has {name!r}, which {backend.__name__} does not know; "
                f"it knows {', '.join(sorted(known))}."
            )
    try:
        inspect.signature(backend).bind(location, **options)
    except TypeError as error:
        raise ImproperlyConfigured(f"{where}['OPTIONS']: {error}.") from error
    make: Callable[..., Store] = backend
    try:
        return make(location, **options)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"{where}: {error}") from error


def store_class(alias: str) -> type[Store]:
    """The class that BACKEND names. ``ImproperlyConfigured`` where it is no ``Store``."""
    config = conf.stores().get(alias)
    if config is None:
        known = ", ".join(repr(name) for name in conf.stores())
        raise ImproperlyConfigured(f"SESSION_STORES has no alias {alias!r}; it has {known}.")
    where, path = f"SESSION_STORES[{alias!r}]['BACKEND']", config["BACKEND"]
    if not isinstance(path, str):
        raise ImproperlyConfigured(f"{where} must be the dotted path of a class, not {path!r}.")
    try:
        backend = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"{where} names {path!r}, which cannot be imported: {error}"
        ) from error
    if not (isinstance(backend, type) and issubclass(backend, Store)):
        raise ImproperlyConfigured(f"{where} is not a Store: {path!r}.")
    return backend


def option_names(backend: type[Store]) -> set[str] | None:
    """The options a store takes: its constructor's keyword-only arguments.

    ``None`` for a store that hands whatever it is given to its driver.
    """
    parameters = inspect.signature(backend).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


stores = StoreHandler()


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "SESSION_STORES":
        stores.close_all()


setting_changed.connect(_forget)
