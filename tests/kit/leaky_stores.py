"""Stores that break what they promise of crashes, each in one way."""

from __future__ import annotations

import os
from pathlib import Path

from django_kvsessions.stores.base import Record, StoreCorrupted
from django_kvsessions.stores.semidbm import SemidbmStore


class Unsynced(SemidbmStore):
    """Acknowledges what is not on the disk, and is to say that it is."""

    def __init__(self, location: str | os.PathLike[str]) -> None:
        super().__init__(location, durability="process")


class Late(SemidbmStore):
    """Acknowledges a record before it is written."""

    late: tuple[bytes, Record] | None = None

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        former, self.late = self.late, (key, record)
        if former is not None:
            super().replace(*former)
        return self.load(key) is not None


class Fragile(SemidbmStore):
    """Opens nothing that a crash has left."""

    def __init__(self, location: str | os.PathLike[str]) -> None:
        super().__init__(location)
        if (Path(location) / "data").exists():
            raise StoreCorrupted("It was not closed.")
