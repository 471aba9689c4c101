"""The stores that ``manage.py demo --store NAME`` can run on.

Each is a context manager that gets the demo's folder and gives SESSION_STORES. One that needs
a server starts it meanwhile, with the help of ``testservers``, on a free port; add it to STORES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

SessionStores = dict[str, dict[str, Any]]


def only(backend: str, location: str, **options: Any) -> SessionStores:
    """SESSION_STORES with one store; it has to survive a trip through JSON."""
    backend = f"django_kvsessions.stores.{backend}"
    return {"default": {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}}


@contextmanager
def semidbm(folder: Path) -> Iterator[SessionStores]:
    yield only("semidbm.SemidbmStore", str(folder / "sessions"))


STORES: dict[str, Callable[[Path], AbstractContextManager[SessionStores]]] = {
    "semidbm": semidbm,
}
