"""How long Firestore is waited for, and what is said where its answer does not come."""

from __future__ import annotations

import random
import time
from typing import Any, TypeAlias

from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.process import pauses

__all__ = ["Limit", "Limits", "LostAnswer", "pause"]

#: Arguments of Google's methods.
Limits: TypeAlias = dict[str, Any]


class LostAnswer(Exception):
    """A write may have been done, or not; ``failure`` says so to the store's user."""

    def __init__(self, failure: StoreUnavailable) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Limit:
    """One time limit for all that one call of the store asks."""

    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout

    def arguments(self) -> Limits:
        """What Google's methods take: the driver would try again by itself for a minute."""
        return {"timeout": max(0.001, self._end - time.monotonic()), "retry": None}

    def is_over(self) -> bool:
        return time.monotonic() >= self._end


async def pause(call: Colour, at_most: float) -> None:
    await pauses.pause(call, random.uniform(0, at_most))
