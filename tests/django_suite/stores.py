"""The stores that Django's session tests run on. A new store is a new entry here."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import Any


def session_stores(stack: ExitStack) -> dict[str, dict[str, Any]]:
    """SESSION_STORES, as JSON can carry it. A server that a store needs is entered on ``stack``.

    "default" is for the tests that know nothing of stores, which run meanwhile
    in other processes; each other store has Django's session tests to itself.
    """
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    backends = "django_kvsessions.stores"
    return {
        "default": {"LOCATION": f"{folder}/default"},
        "semidbm": {"LOCATION": f"{folder}/semidbm"},
        "memory": {"BACKEND": f"{backends}.memory.MemoryStore"},
    }
