"""``stores["default"]``: the stores of SESSION_STORES, by alias, made on first use."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator
from difflib import get_close_matches
from functools import cache

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from django_kvsessions import conf
from django_kvsessions.stores.base import Store

__all__ = ["StoreHandler", "stores"]

logger = logging.getLogger("django_kvsessions")


class StoreHandler:
    """One instance of each configured store in a process, shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stores: dict[str, Store] = {}
        #: Called with each store before it is used, and its alias.
        self.on_open: list[Callable[[str, Store], None]] = []

    def __getitem__(self, alias: str) -> Store:
        """The store of that alias. ``ImproperlyConfigured`` where settings do not give one."""
        try:
            return self._stores[alias]
        except KeyError:
            pass
        with self._lock:
            if alias not in self._stores:
                store = make_store(alias)
                for opened in self.on_open:
                    opened(alias, store)
                self._stores[alias] = store
                tell_of_missing_app()
            return self._stores[alias]

    def __iter__(self) -> Iterator[str]:
        return iter(conf.aliases())

    def opened(self) -> list[Store]:
        """The stores that have been used in this process."""
        with self._lock:
            return list(self._stores.values())

    def opened_by_alias(self) -> dict[str, Store]:
        with self._lock:
            return dict(self._stores)

    def close_all(self) -> None:
        """Close every store; the next use makes them anew from the settings."""
        with self._lock:
            while self._stores:
                self._stores.popitem()[1].close()


@cache
def tell_of_missing_app() -> None:
    """Once in a process, since nothing checks the settings of a project without the app."""
    if apps.ready and not apps.is_installed("django_kvsessions"):
        logger.warning(
            "'django_kvsessions' is not in INSTALLED_APPS: nothing checks the settings of the "
            "session stores, and manage.py has neither setupsessions nor sessionstats, nor a "
            "clearsessions for every store. Put it before 'django.contrib.sessions'."
        )


def make_store(alias: str) -> Store:
    backend = store_class(alias)
    config = conf.store(alias)
    where = f"SESSION_STORES[{alias!r}]"
    location, options = config["LOCATION"], config["OPTIONS"]
    if backend.location_is_folder:
        if not location or not isinstance(location, str | os.PathLike):
            raise ImproperlyConfigured(f"{where}['LOCATION'] must name a folder, not {location!r}.")
        _refuse_folder_of_another(backend, location, where)
    known, takes_others = option_names(backend)
    others = [name for name in options if name not in known]
    if others and not (takes_others and all(isinstance(name, str) for name in others)):
        raise ImproperlyConfigured(
            f"{where}['OPTIONS'] has {others[0]!r}, which {backend.__name__} does not know; "
            f"it knows {', '.join(sorted(known))}.{_did_you_mean(others[0], known)}"
        )
    try:
        inspect.signature(backend).bind(location, **options)
    except TypeError as error:
        raise ImproperlyConfigured(f"{where}['OPTIONS']: {error}.") from error
    make: Callable[..., Store] = backend
    try:
        return make(location, **options)
    except (ImproperlyConfigured, TypeError) as error:
        # An option of the driver may be refused for its value, and then needs no list of names.
        is_unknown = isinstance(error, TypeError) or isinstance(error.__cause__, TypeError)
        for name in (name for name in others if name in str(error)):
            meant = _did_you_mean(name, known)
            if is_unknown or meant:
                raise ImproperlyConfigured(
                    f"{where}: {str(error).rstrip('.')}. {backend.__name__} itself knows "
                    f"{', '.join(sorted(known))}; anything else in OPTIONS goes to its driver."
                    f"{meant}"
                ) from error
        if isinstance(error, TypeError):
            raise
        raise ImproperlyConfigured(f"{where}: {error}") from error


def _did_you_mean(name: object, known: Collection[str]) -> str:
    close = get_close_matches(str(name), known, n=1, cutoff=0.7)
    return f" Did you mean {close[0]!r}?" if close else ""


#: The file by which the folder of a store is known.
_MARKS = {"SemidbmStore": "data", "LMDBStore": "data.mdb"}


def _refuse_folder_of_another(
    backend: type[Store], folder: str | os.PathLike[str], where: str
) -> None:
    """Neither store could tell the other's files from damage."""
    own = {_MARKS[each.__name__] for each in backend.__mro__ if each.__name__ in _MARKS}
    try:
        there = set(os.listdir(folder))
    except (OSError, ValueError):
        # Missing, a file or not readable: the system checks and the first use say so.
        return
    code = sorted(name for name in there if name.endswith((".py", ".pyc")) or name == "__pycache__")
    if code:
        raise ImproperlyConfigured(
            f"{where}['LOCATION'] ({os.fspath(folder)}) holds Python files ({code[0]!r}), as an "
            "app does: name a folder that is for the sessions alone."
        )
    for name, mark in _MARKS.items():
        if own and mark in there and not own & there:
            raise ImproperlyConfigured(
                f"{where}['LOCATION'] ({os.fspath(folder)}) looks like the folder of a {name}: "
                f"{mark!r} is in it. Give {backend.__name__} a folder of its own."
            )


def store_class(alias: str) -> type[Store]:
    """The class that BACKEND names. ``ImproperlyConfigured`` where it is no ``Store``."""
    where, path = f"SESSION_STORES[{alias!r}]['BACKEND']", conf.store(alias)["BACKEND"]
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


def option_names(backend: type[Store]) -> tuple[set[str], bool]:
    """The options a store takes: its constructor's keyword-only arguments.

    With them, whether it hands whatever else it is given to its driver.
    """
    parameters = inspect.signature(backend).parameters.values()
    known = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    return known, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


stores = StoreHandler()


def _forget(*, setting: str, **kwargs: object) -> None:
    if setting == "SESSION_STORES":
        stores.close_all()


setting_changed.connect(_forget)
