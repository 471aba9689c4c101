"""An event loop on a thread of its own, which ends before the interpreter does.

The engine hands its answers over in threads that Python has not started. One that
waits for its turn when the interpreter ends is killed in the middle of the driver's
code, which ends the whole process by an abort ("cannot unwind"), until Python 3.14.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from types import CodeType, FrameType
from typing import TypeVar

__all__ = ["Background"]

T = TypeVar("T")


class Background:
    """Runs coroutines for any thread, until it is stopped."""

    def __init__(self) -> None:
        # Not uvloop, whose code could not be seen in a thread.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="surrealdb", daemon=True
        )
        self._thread.start()

    def submit(self, coroutine: Coroutine[object, None, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self, timeout: float) -> None:
        """Return when no thread hands anything over any more, or after the timeout."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout)
        deadline = time.monotonic() + timeout
        while _is_entered() and time.monotonic() < deadline:
            time.sleep(0.001)
        if not self._thread.is_alive():
            self._loop.close()


def _is_entered() -> bool:
    """Whether a thread is where it will want Python's lock once more: handing something over."""
    code = asyncio.BaseEventLoop.call_soon_threadsafe.__code__
    return any(code in _codes(frame) for frame in sys._current_frames().values())


def _codes(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back
