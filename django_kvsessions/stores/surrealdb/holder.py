"""What the process that has a file writes into its lock, for the others: who it is, and when it
last removed what had expired."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

__all__ = ["Holder", "holder", "sign"]


class Holder(NamedTuple):
    """The process that has the file."""

    pid: int
    #: Seconds since it last removed what had expired, or since it opened the file.
    idle: float


def sign(lock: str) -> None:
    """Write into the lock, which this process holds, that the file was cleaned up now."""
    descriptor = os.open(lock, os.O_WRONLY)
    try:
        # Of one length, so that a reader finds the former or the new one.
        os.pwrite(descriptor, b"%-20d\n" % os.getpid(), 0)
    finally:
        os.close(descriptor)


def holder(lock: str) -> Holder | None:
    """Who has signed the lock; ``None`` where nobody has."""
    try:
        with open(lock, "rb") as file:
            idle = time.time() - os.fstat(file.fileno()).st_mtime
            return Holder(int(file.read()), idle)
    except (OSError, ValueError):
        return None
