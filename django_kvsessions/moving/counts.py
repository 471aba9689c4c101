"""How many sessions came from each fallback: figures in the store, written now and then."""

from __future__ import annotations

import hashlib
import logging
import struct
import threading
import time
from typing import NamedTuple

from django_kvsessions import codec
from django_kvsessions.colours import Colour, blocking, run
from django_kvsessions.saved import new_revision
from django_kvsessions.stores.base import KEY_SIZE, Record, Store, StoreError, now
from django_kvsessions.stores.process import forks

__all__ = ["Count", "Counts", "counts", "read_count"]

logger = logging.getLogger("django_kvsessions")

#: Seconds between two times that a process writes down what it has counted.
INTERVAL = 1.0
#: For which the figures outlive the last session that was moved.
AGE = 2 * 365 * 24 * 3600
ATTEMPTS = 10

_FIGURES = struct.Struct(">QQdd")


class Count(NamedTuple):
    """Sessions that were moved out of an engine, and that had to be left there.

    ``since`` and ``last`` are Unix times: of the first of them, and of the latest.
    """

    moved: int
    refused: int
    since: float
    last: float


class Counts:
    """What this process has moved. A killed one forgets what it has not written down yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[int, int]] = {}
        self._written: dict[str, float] = {}
        forks.hold(self._lock)
        # What the parent has counted is for the parent to write down.
        forks.renew(self.forget)

    def forget(self) -> None:
        self._waiting.clear()
        self._written.clear()

    async def add(
        self, call: Colour, store: Store, path: str, *, moved: int = 0, refused: int = 0
    ) -> None:
        with self._lock:
            before = self._waiting.get(path, (0, 0))
            self._waiting[path] = before[0] + moved, before[1] + refused
            written = self._written.get(path)
            if written is not None and time.monotonic() < written + INTERVAL:
                return
            self._written[path] = time.monotonic()
        await self.write(call, store, path)

    def add_all(self, store: Store, path: str, moved: int) -> None:
        """Write down at once what a command has moved."""
        with self._lock:
            before = self._waiting.get(path, (0, 0))
            self._waiting[path] = before[0] + moved, before[1]
        run(self.write(blocking, store, path))

    async def write(self, call: Colour, store: Store, path: str) -> None:
        with self._lock:
            moved, refused = self._waiting.pop(path, (0, 0))
        if not moved and not refused:
            return
        key = key_of(path)
        try:
            for _ in range(ATTEMPTS):
                record = await call(store.load, store.aload, key)
                was = opened(key, record) or Count(0, 0, now(), now())
                figures = (was.moved + moved, was.refused + refused, was.since, now())
                # A notice leads nowhere and is nobody's session, so whoever scans passes over it.
                sealed = codec.seal_notice(key, _FIGURES.pack(*figures))
                written = Record(sealed, now() + AGE, new_revision())
                if record is None:
                    is_done = await call(store.create, store.acreate, key, written)
                else:
                    is_done = await call(
                        store.replace, store.areplace, key, written, expected=record.revision
                    )
                if is_done:
                    return
        except StoreError:
            logger.warning("Sessions that were moved could not be counted.", exc_info=True)


def read_count(store: Store, path: str) -> Count | None:
    """``None`` where no session has come from that engine."""
    key = key_of(path)
    return opened(key, store.load(key))


def key_of(path: str) -> bytes:
    name = path.encode()
    return hashlib.blake2b(name, digest_size=KEY_SIZE, person=b"kvsess.moved").digest()


def opened(key: bytes, record: Record | None) -> Count | None:
    if record is None:
        return None
    try:
        figures, *_ = codec.open_record(key, record.owner, record.data, 1000)
        return Count(*_FIGURES.unpack(figures))
    except (codec.BadRecord, struct.error):
        return None


counts = Counts()
