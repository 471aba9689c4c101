"""The log and the index by their names in the folder: opened, made, and put in each other's place.

Who makes or replaces one has the writer's lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from django_kvsessions.stores.base import StoreCorrupted
from django_kvsessions.stores.process import locks
from django_kvsessions.stores.process.boot import NO_BOOT
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.index import Index, Unsure
from django_kvsessions.stores.semidbm.layout import names_itself
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["LOOK_INTERVAL", "IndexFile", "create_log", "open_log"]

#: Seconds until files that were swapped by hand are noticed, if not by an access before.
LOOK_INTERVAL = 1.0


def open_log(path: str) -> LogFile | None:
    """``None`` where there is none, or one whose maker was interrupted."""
    try:
        log = LogFile(os.open(path, os.O_RDWR | os.O_APPEND))
    except FileNotFoundError:
        return None
    header = log.read(len(logfile.FILE_HEADER), 0)
    if len(header) < len(logfile.FILE_HEADER):
        return None
    if header == bytes(len(header)) and logfile.find_record(log, 0, log.size()) is None:
        return None  # After a power cut: a file that was just made, and had nothing yet.
    if header != logfile.FILE_HEADER:
        raise StoreCorrupted(
            f"{path} is not a session store: it does not begin as a semidbm file does. Name "
            "another folder as LOCATION, or move the file away."
        )
    return log


def create_log(path: str) -> LogFile:
    log = LogFile(locks.open_private(path, os.O_RDWR | os.O_APPEND))
    log.truncate(0)
    log.append(logfile.FILE_HEADER)
    log.sync()
    locks.sync_folder(os.path.dirname(path))
    return log


class IndexFile:
    """The file of a folder that all processes take for the index of its log."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = os.path.join(folder, "index")

    def inode(self) -> int:
        return os.stat(self._path).st_ino

    def open(self, log: LogFile) -> Index:
        """``Unsure`` or ``FileNotFoundError`` where there is none of that log to be believed."""
        index = Index(os.open(self._path, os.O_RDWR))
        # Where nobody tells one boot from another: since then somebody has the log open.
        if not index.is_about(log) or (index.boot == NO_BOOT and log.is_alone()):
            raise Unsure
        return index

    def write(self, name: str, fill: Callable[[int], Index]) -> Index:
        """Fill an empty file of that name, which is to be the index."""
        path = os.path.join(self._folder, name)
        with suppress(FileNotFoundError):
            os.unlink(path)  # left by a process that was killed
        try:
            return fill(locks.open_private(path, os.O_RDWR))
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(path)
            raise

    def publish(self, name: str) -> None:
        """Let it be the index, when the one before is retired."""
        os.rename(os.path.join(self._folder, name), self._path)

    def retire(self, log: LogFile) -> None:
        """Let no process believe in the index that there was."""
        is_theirs = False
        with suppress(FileNotFoundError):
            descriptor = os.open(self._path, os.O_RDWR)
            try:
                is_theirs = names_itself(descriptor)
                os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)
        if not is_theirs and not log.is_alone():
            # What others have open was removed or replaced by hand. Each looks for it before
            # that time is over.
            time.sleep(1.1 * LOOK_INTERVAL)
