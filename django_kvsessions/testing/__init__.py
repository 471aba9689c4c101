"""``StoreConformance``: the whole contract of ``stores.base.Store`` as a pytest class.

A store's author subclasses it and says how the store is opened::

    from functools import partial

    from django_kvsessions.testing import StoreConformance

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def make_store(self, tmp_path):
            return partial(MyStore, tmp_path / "sessions")

``make_store`` returns a picklable callable without arguments. Whatever it
opens is empty at the start of each test, and every call opens the same data,
in this process or in another one.

A store with a server gives two fixtures more, ``outage`` and ``cutting``; the
second opens the store through a proxy that loses answers and requests::

        @pytest.fixture
        def cutting(self, server):
            with Proxy(("127.0.0.1", server.port)) as proxy:
                yield partial(MyStore, f"redis://127.0.0.1:{proxy.port}/0"), proxy

The class attributes are of two kinds. The flags say what kind of store this
is; a test that cannot apply is not collected (it is never passed silently).
The sizes say how much the tests do: lower them for a slow server, raise them
to put a store under stress. Both are in ``kit.Kit``.

``pip install django-kvsessions[testing]`` brings what the kit needs. For
readable failures, put ``pytest.register_assert_rewrite("django_kvsessions.testing")``
into conftest.py, before anything imports this package.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django_kvsessions.testing.clocks import Clock, FrozenClock
    from django_kvsessions.testing.conformance import StoreConformance
    from django_kvsessions.testing.kit import Kit
    from django_kvsessions.testing.lost_answers import Cutting
    from django_kvsessions.testing.processes import Processes
    from django_kvsessions.testing.proxy import Proxy
    from django_kvsessions.testing.records import MakeStore
    from django_kvsessions.testing.workers import wait_until

__all__ = [
    "Clock",
    "Cutting",
    "FrozenClock",
    "Kit",
    "MakeStore",
    "Processes",
    "Proxy",
    "StoreConformance",
    "wait_until",
]

ROOMS = {
    "Clock": "clocks",
    "Cutting": "lost_answers",
    "FrozenClock": "clocks",
    "Kit": "kit",
    "MakeStore": "records",
    "Processes": "processes",
    "Proxy": "proxy",
    "StoreConformance": "conformance",
    "wait_until": "workers",
}

for needed in ("pytest", "freezegun"):
    if find_spec(needed) is None:
        raise ImportError(
            f"The test kit needs {needed}: pip install django-kvsessions[testing]",
            name=needed,
        )

if not TYPE_CHECKING:
    # At the first use of a name: the processes that tests start come through here for
    # what they run, and have no need to load pytest.
    def __getattr__(name: str) -> object:
        if name not in ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
