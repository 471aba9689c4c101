"""A pause in both colours: of the thread, or of the task."""

from __future__ import annotations

import asyncio
import time

from django_kvsessions.colours import Colour

__all__ = ["pause"]


async def pause(call: Colour, seconds: float) -> None:
    await call(time.sleep, _asleep, seconds)


async def _asleep(seconds: float) -> None:
    await asyncio.sleep(seconds)
