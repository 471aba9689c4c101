"""In a forked child, the parent's connections stay the parent's."""

from __future__ import annotations

import os

from django.db import connections

__all__ = ["leave_to_the_parent"]

_aliases: set[str] = set()
# Closing a connection, or letting it be collected, would say goodbye in the parent's name.
_inherited: list[object] = []


def leave_to_the_parent(alias: str) -> None:
    """From now on a child opens connections, and a pool, of its own to that database."""
    _aliases.add(alias)


def _forget_inherited() -> None:
    # A store may outlive its alias, as where tests change the settings.
    for alias in _aliases.intersection(connections):
        connection = connections[alias]
        # Its threads have stayed behind, and its connections are the parent's.
        pool = getattr(connection, "_connection_pools", {}).pop(alias, None)
        if pool is not None:
            # Or it waits for its lock, which another thread may have held, when it is collected.
            pool._closed = True
            _inherited.append(pool)
        if connection.connection is None or getattr(connection, "is_in_memory_db", bool)():
            continue
        _inherited.append(connection.connection)
        connection.connection = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
