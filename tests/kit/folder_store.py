"""A store such as a third party might write: one file for each record, in a folder."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path

import pytest

from django_kvsessions.stores.base import Record, Store, StoreStats, StoreUnavailable, now
from django_kvsessions.stores.process.copies import whole_folder


class FolderStore(Store):
    """Slow and plain, and keeps the whole contract."""

    def __init__(self, location: Path, *, max_record_size: int = 100_000) -> None:
        super().__init__(max_record_size=max_record_size)
        self.folder = location

    @contextmanager
    def locked(self) -> Iterator[None]:
        try:
            # Opened anew each time, so that neither threads nor forks share it.
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                # Not only closed: a child forked meanwhile would go on holding the lock.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)
        except OSError as error:
            raise StoreUnavailable(f"The folder {self.folder} cannot be used: {error}") from error

    def path(self, key: bytes) -> Path:
        return self.folder / key.hex()

    def read(self, path: Path) -> Record | None:
        try:
            return Record(*pickle.loads(path.read_bytes()))
        except FileNotFoundError:
            return None

    def live(self, key: bytes) -> Record | None:
        record = self.read(self.path(key))
        return record if record is not None and record.expires > now() else None

    def write(self, key: bytes, record: Record) -> None:
        part = self.folder / "part"
        part.write_bytes(pickle.dumps(tuple(record)))
        part.rename(self.path(key))

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        with self.locked():
            return self.live(key)

    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        with self.locked():
            if self.live(key) is not None:
                return False
            self.write(key, record)
            return True

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        with self.locked():
            current = self.live(key)
            if current is None or expected not in (None, current.revision):
                return False
            self.write(key, record)
            return True

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        self.check_touch(key, expires)
        with self.locked():
            current = self.live(key)
            if current is None or expected not in (None, current.revision):
                return False
            self.write(key, current._replace(expires=expires))
            return True

    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        with self.locked():
            if self.live(key) is None:
                return False
            self.path(key).unlink()
            return True

    def keys(self) -> list[bytes]:
        with self.locked():
            return [bytes.fromhex(name) for name in os.listdir(self.folder) if name != "part"]

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        keys = iter(self.keys())
        while batch := list(islice(keys, batch_size)):
            removed = 0
            with self.locked():
                for key in batch:
                    if self.live(key) is None and self.path(key).exists():
                        self.path(key).unlink()
                        removed += 1
            yield removed

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        for key in self.keys():
            record = self.load(key)
            if record is not None:
                yield key, record

    def backup(self, folder: str | os.PathLike[str]) -> None:
        with whole_folder(folder, own=str(self.folder)) as temporary, self.locked():
            shutil.copytree(self.folder, temporary, dirs_exist_ok=True)

    def scan_backup(self, folder: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record]]:
        if not os.path.isdir(folder) or not os.listdir(folder):
            raise ValueError(f"{folder} holds no copy.")
        return FolderStore(Path(folder)).scan()

    def setup(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def stats(self) -> StoreStats:
        keys = self.keys()
        live = sum(self.load(key) is not None for key in keys)
        return StoreStats(live=live, expired=len(keys) - live, size=None)


@pytest.fixture
def outage(self: object, tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
    """Takes away the folder "records" for a while."""

    @contextmanager
    def take_away() -> Iterator[None]:
        (tmp_path / "records").rename(tmp_path / "away")
        yield
        (tmp_path / "away").rename(tmp_path / "records")

    return take_away
