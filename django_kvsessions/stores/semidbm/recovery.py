"""What the next writer does about bytes of a log that do not verify, as after a crash."""

from __future__ import annotations

import logging
import os

from django_kvsessions.stores.process.locks import open_private
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.generation import Generation
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["repair", "set_aside"]

logger = logging.getLogger("django_kvsessions")


def repair(generation: Generation, folder: str) -> None:
    """Take in what verifies behind the damage, and cut off a torn end.

    With the writer's lock and the state held.
    """
    log, size = generation.log, generation.log.size()
    while generation.end < size:
        found = logfile.find_record(log, generation.end + 1, size)
        if found is None:
            break
        logger.error(
            "The log in %s is damaged from byte %d to %d; the records behind are kept.",
            folder,
            generation.end,
            found,
        )
        # An older record of the same key must not come back in its place.
        generation.index.pop(logfile.damaged_key(log, generation.end), None)
        generation.damaged = True
        generation.end = found
        generation.parse(size)
    if generation.end < size:
        set_aside(log, generation.end, size, folder)
        log.truncate(generation.end)


def set_aside(log: LogFile, start: int, stop: int, folder: str) -> None:
    """Copy bytes that do not verify to the quarantine file."""
    path = os.path.join(folder, "quarantine")
    with os.fdopen(open_private(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
        for position in range(start, stop, 1024 * 1024):
            file.write(log.read(min(1024 * 1024, stop - position), position))
    logger.warning(
        "%d bytes at %d of the log do not verify, as after a crash; set aside in %s.",
        stop - start,
        start,
        path,
    )
