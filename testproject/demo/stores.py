"""The stores that ``manage.py demo --store NAME`` can run on: those of the registry."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from testservers.registry import STORES, running

__all__ = ["NAMES", "session_stores"]

#: The site has several processes.
NAMES = [name for name, entry in STORES.items() if entry.shared]


@contextmanager
def session_stores(name: str, folder: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """SESSION_STORES with one store; the whole site is on its database, if it has one."""
    with running(name, folder) as (store, database):
        environ = {"KVSESSIONS_DATABASE": json.dumps(database)} if database else {}
        with patch.dict(os.environ, environ):
            yield {"default": store}
