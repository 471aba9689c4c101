"""A copy of the log while others write it: it only grows, so its beginning stays as it is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from django_kvsessions.stores.base import StoreCorrupted
from django_kvsessions.stores.process.copies import copy_in, whole_folder
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.journal import Journal
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["check_copy", "copy_log"]

_CHUNK = 1024 * 1024
#: A damaged log is copied again once a compaction has left out what does not verify.
_ATTEMPTS = 5


def copy_log(
    journal: Journal, compact: Callable[[], object], folder: str | os.PathLike[str]
) -> None:
    with whole_folder(folder, own=journal.path) as temporary:
        path = os.path.join(temporary, "data")
        for attempt in range(_ATTEMPTS):
            # The open file stays whole, also where a compaction replaces it meanwhile.
            generation, end = journal.settled()
            log = generation.log
            copy = _open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC)
            for position in range(0, end, _CHUNK):
                copy.append(log.read(min(_CHUNK, end - position), position))
            if _verified_end(copy) == end:
                return
            time.sleep(0.1 * attempt)
            compact()
    raise StoreCorrupted(f"{journal.data_path} is damaged, and compacting it did not mend it.")


def check_copy(folder: str | os.PathLike[str]) -> None:
    """``StoreCorrupted`` where a copy has bytes that do not verify."""
    path = copy_in(folder, "data")
    copy = _open(path, os.O_RDONLY)
    end = _verified_end(copy)
    if end != copy.size():
        raise StoreCorrupted(f"{path} is damaged from byte {end} on: make another copy.")


def _open(path: str, flags: int) -> LogFile:
    return LogFile(os.open(path, flags, 0o600))


def _verified_end(log: LogFile) -> int:
    verified = len(logfile.FILE_HEADER)
    if log.read(verified, 0) != logfile.FILE_HEADER:
        return 0
    for _, _, end, _, _ in logfile.read_log(log, verified, log.size()):
        verified = end
    return verified
