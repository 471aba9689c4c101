"""Ids that nobody knows, remembered for a while, so that each is asked for once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from time import monotonic

from django_kvsessions.stores.process import forks

__all__ = ["Unknown"]


class Unknown:
    """At most ``size`` storage keys, each for ``seconds``; the latest ones are kept."""

    def __init__(self, size: int = 10_000, seconds: float = 10.0) -> None:
        self.size = size
        self.seconds = seconds
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()
        forks.hold(self._lock)

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, key: bytes) -> bool:
        until = self._until.get(key)
        return until is not None and monotonic() < until

    def add(self, key: bytes) -> None:
        with self._lock:
            self._until[key] = monotonic() + self.seconds
            self._until.move_to_end(key)
            while len(self._until) > self.size:
                self._until.popitem(last=False)

    def discard(self, key: bytes) -> None:
        with self._lock:
            self._until.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._until.clear()
