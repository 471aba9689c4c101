"""Stores for the tests of commands and checks, which other processes import by their path."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.base import StoreStats, StoreUnavailable
from django_kvsessions.stores.memory import MemoryStore


class DownStore(MemoryStore):
    """A store whose server is away."""

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        raise StoreUnavailable("the server is away")

    def setup(self) -> None:
        raise StoreUnavailable("the server is away")

    def stats(self) -> StoreStats:
        raise StoreUnavailable("the server is away")


class BuggyStore(MemoryStore):
    """A store whose author forgot an error of its driver."""

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        raise ConnectionResetError("the driver's own error")


class FlakyStore(MemoryStore):
    """Fails in its first clean-up, half-way, and then works."""

    cleaned = 0

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        self.cleaned += 1
        yield 3
        if self.cleaned == 1:
            raise StoreUnavailable("the server restarts")


class DriverStore(MemoryStore):
    """Hands what it does not know to its driver, as the stores on servers do."""

    def __init__(self, location: None = None, *, prefix: str = "sessions", **options: Any) -> None:
        super().__init__()
        try:
            connect(**options)
        except TypeError as error:
            if "raw" in options:
                raise
            raise ImproperlyConfigured(
                f"OPTIONS has what the driver does not take: {error}"
            ) from error


def connect(*, timeout: float = 1.0, raw: bool = False) -> None:
    if timeout <= 0:
        raise ImproperlyConfigured("OPTIONS['timeout'] must be a number of seconds above 0.")


class EndlessStore(MemoryStore):
    """Has something to remove for ever; a batch takes a moment."""

    def __init__(self, location: None = None, *, marks: str = os.devnull) -> None:
        super().__init__()
        self.marks = marks

    def mark(self, word: str) -> None:
        with open(self.marks, "a") as file:
            file.write(f"{word}\n")

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        while True:
            self.mark("begun")
            time.sleep(0.2)
            self.mark("done")
            yield 1


class RecordingStore(MemoryStore):
    """Remembers what it was asked."""

    def __init__(self, location: str | None = None) -> None:
        super().__init__()
        self.setup_on_migrate = location or "default"
        self.batch_sizes: list[int] = []
        self.setups = 0

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        self.batch_sizes.append(batch_size)
        return iter([])

    def setup(self) -> None:
        self.setups += 1

    def setup_statements(self) -> list[str]:
        return [] if self.setups else ["CREATE TABLE sessions (key)", "CREATE INDEX i;"]

    def check_server(self, *, alias: str, **kwargs: Any) -> list[CheckMessage]:
        return [CheckWarning(f"The server of {alias} may evict.", id="kvsessions.W999")]

    def stats(self) -> StoreStats:
        return StoreStats(live=None, expired=None, size=2_500_000)
