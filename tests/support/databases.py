"""Databases that come and go while the tests run; imported by spawned processes too."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import django
from django.conf import settings
from django.db import connections

from django_kvsessions.stores.database import DatabaseStore

__all__ = ["add_database", "open_store", "remove_databases"]

_added: set[str] = set()


def add_database(alias: str, database: dict[str, Any]) -> None:
    """As if DATABASES had it."""
    if not settings.configured:
        # A spawned process: it needs no other settings.
        settings.configure(DATABASES={"default": {}})
        django.setup()
    if alias not in connections.settings:
        configured = connections.configure_settings({"default": {}, alias: dict(database)})
        connections.settings[alias] = configured[alias]
        _added.add(alias)


def remove_databases() -> None:
    """Those that were added: Django's checks would ask them, with their servers gone."""
    while _added:
        alias = _added.pop()
        del connections.settings[alias]
        with suppress(AttributeError):
            del connections[alias]


def open_store(alias: str, database: dict[str, Any], **options: Any) -> DatabaseStore:
    add_database(alias, database)
    return DatabaseStore(alias, **options)
