"""How long Firestore is waited for, and what is said where its answer does not come."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import StoreUnavailable

__all__ = ["Limit", "LostAnswer", "pause"]


class LostAnswer(Exception):
    """A write may have been done, or not; ``failure`` says so to the store's user."""

    def __init__(self, failure: StoreUnavailable) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Limit:
    """One time limit for all that one call of the store asks."""

    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout

    def arguments(self) -> dict[str, Any]:
        """What Google's methods take: the driver would try again by itself for a minute."""
        return {"timeout": max(0.001, self._end - time.monotonic()), "retry": None}

    def is_over(self) -> bool:
        return time.monotonic() >= self._end


async def pause(call: Colour, at_most: float) -> None:
    await call(_sleep, _asleep, random.uniform(0, at_most))


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


async def _asleep(seconds: float) -> None:
    await asyncio.sleep(seconds)
