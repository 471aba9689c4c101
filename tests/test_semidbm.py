from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from django_kvsessions.stores.semidbm import SemidbmStore
from django_kvsessions.testing import MakeStore, StoreConformance


class TestSemidbmStore(StoreConformance):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return partial(SemidbmStore, tmp_path / "sessions")


class TestSemidbmStoreWithFullDurability(TestSemidbmStore):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return partial(SemidbmStore, tmp_path / "sessions", durability="full")
