"""One piece of logic for both colours.

What to ask of a store, and what to do with the answer, is written once, as a
generator that yields calls and is sent their results. ``run`` makes the calls,
``arun`` awaits their async variants.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any, TypeVar

__all__ = ["Call", "Steps", "arun", "clock", "run"]

T = TypeVar("T")

#: target, method name, positional and keyword arguments. The async variant of
#: a method has the same name with an "a" before it.
Call = tuple[Any, str, tuple[Any, ...], dict[str, Any]]
Steps = Generator[Call, Any, T]


def run(steps: Steps[T]) -> T:
    """Make the calls one after the other; what a call raises is raised at its ``yield``."""
    try:
        target, method, args, kwargs = next(steps)
        while True:
            try:
                result = getattr(target, method)(*args, **kwargs)
            except Exception as error:
                target, method, args, kwargs = steps.throw(error)
            else:
                target, method, args, kwargs = steps.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def arun(steps: Steps[T]) -> T:
    """As ``run``, awaiting the async variant of each method."""
    try:
        target, method, args, kwargs = next(steps)
        while True:
            try:
                result = await getattr(target, "a" + method)(*args, **kwargs)
            except Exception as error:
                target, method, args, kwargs = steps.throw(error)
            else:
                target, method, args, kwargs = steps.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


class Clock:
    """Lets steps wait: ``yield clock, "sleep", (seconds,), {}``."""

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


clock = Clock()
