from __future__ import annotations

from functools import partial

import pytest

from django_kvsessions.stores.memory import MemoryStore
from django_kvsessions.testing import MakeStore, StoreConformance


class TestMemoryStore(StoreConformance):
    shared_between_processes = False
    persistent = False

    @pytest.fixture
    def make_store(self) -> MakeStore:
        return partial(MemoryStore)
