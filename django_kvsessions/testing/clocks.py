"""Clocks that let records expire: the real one, and one that stands still."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["Clock", "FrozenClock"]


class Clock:
    """The real clock: to advance is to wait."""

    def __init__(self, short_life: float) -> None:
        #: Seconds after which a record made to expire in a test does so.
        self.short_life = short_life

    def now(self) -> float:
        return time.time()

    def advance(self, seconds: float) -> None:
        time.sleep(seconds)

    def soon(self) -> float:
        return self.now() + self.short_life

    def outlive(self) -> None:
        """Let whatever was to expire ``soon`` expire."""
        # A server's clock and ours may round differently.
        self.advance(self.short_life + 0.05)


class FrozenClock(Clock):
    """A clock that stands still until it is told to advance."""

    def __init__(self, frozen: Any) -> None:
        super().__init__(short_life=10.0)
        self.frozen = frozen

    def advance(self, seconds: float) -> None:
        self.frozen.tick(seconds)

    def outlive(self) -> None:
        self.advance(self.short_life)
