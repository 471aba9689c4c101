"""Rewriting a log without its garbage, while readers and writers go on.

The live records go to a new file, which is renamed into the log's place; the
other processes go on from where it ends, so that nobody stops for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time

from django_kvsessions.stores.process.locks import FileLock, LockTimeout, sync_folder
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.generation import (
    PLACE_MASK,
    SIZE_SHIFT,
    START_SHIFT,
    Generation,
    live_from,
)
from django_kvsessions.stores.semidbm.journal import Journal
from django_kvsessions.stores.semidbm.log import LogFile
from django_kvsessions.stores.semidbm.recovery import note_synced, set_aside
from django_kvsessions.stores.semidbm.succession import Succession, write_succession

__all__ = ["Compaction"]

logger = logging.getLogger("django_kvsessions")

#: Not a record: whoever finds it behind the last one looks for another file in the log's place.
REPLACED = b"\0"
#: Seconds between attempts, where another process is at it or one has failed.
COMPACTION_PAUSE = 5.0
#: How much may be left to copy when a compaction takes the writer's lock.
SHORT_TAIL = 64 * 1024
#: How much is copied at most between two syncs: those of the writers wait for the disk too.
SYNC_AFTER = 4 * 1024 * 1024


class Compaction:
    """At most one at a time in a folder, whatever the number of processes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._file_lock = FileLock(os.path.join(journal.path, "compaction.lock"))
        self._compacting = threading.Lock()
        self._next = 0.0

    def close(self) -> None:
        self._file_lock.close()

    def soon(self) -> None:
        """In the background, where it pays and one has not just been tried."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + COMPACTION_PAUSE
            self._journal.start("compact", self._run_in_background)

    def _run_in_background(self) -> None:
        try:
            if self._journal.current().needs_compaction():
                self.run()
            else:
                # It says itself from which size on to look again.
                self._next = 0.0
        except Exception:
            path = self._journal.data_path
            logger.exception(
                "Compacting %s failed; it will be tried again. Likely causes, in order: its disk "
                "has no room for the sessions once more, or the folder is not writable.",
                path,
            )

    def run(self) -> bool:
        """``False`` where one is under way already."""
        if not self._compacting.acquire(blocking=False):
            return False
        try:
            try:
                self._file_lock.acquire(0)
            except LockTimeout:
                return False
            try:
                self._compact()
            finally:
                self._file_lock.release()
        finally:
            self._compacting.release()
        return True

    def _compact(self) -> None:
        generation = self._journal.moved()
        path = os.path.join(self._journal.path, "data.new")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # left by a compaction that was killed
        try:
            self._compact_into(path, generation)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            raise
        self._next = 0.0
        self._journal.current()

    def _compact_into(self, path: str, generation: Generation) -> None:
        journal = self._journal
        new = LogFile(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600))
        former = os.fstat(generation.log.descriptor)
        os.fchmod(new.descriptor, former.st_mode & 0o777)
        if os.geteuid() == 0:
            os.fchown(new.descriptor, former.st_uid, former.st_gid)
        new.append(logfile.FILE_HEADER)
        position = generation.end
        self._copy_live(generation, new, position)
        copied_end = new.size()
        new.sync()
        # What was written meanwhile, until little is left to do under the lock.
        while (end := journal.current().end) - position > SHORT_TAIL:
            position = copy_tail(generation.log, new, position, end)
            new.sync()
        current = journal.begin()
        try:
            if current is not generation:
                raise OSError(f"{journal.data_path} was replaced during a compaction")
            copy_tail(generation.log, new, position, generation.end)
            new.sync()
            write_succession(
                journal.path,
                Succession(generation.log.inode, generation.end, new.inode, copied_end, new.size()),
            )
            generation.log.append(REPLACED)
            os.rename(path, journal.data_path)
            sync_folder(journal.path)
            note_synced(new, new.size(), journal.path)
        finally:
            journal.end()

    def _copy_live(self, generation: Generation, new: LogFile, stop: int) -> None:
        log, index = generation.log, generation.index
        position = len(logfile.FILE_HEADER)
        limit = live_from()
        buffer, synced = bytearray(), 0
        while position < stop:
            for key, start, end, size, _ in logfile.read_log(log, position, stop):
                position = end
                entry = index.get(key, 0)
                place = start << START_SHIFT | size << SIZE_SHIFT | generation.flag
                if entry & PLACE_MASK == place and entry >= limit:
                    buffer += log.read(end - start, start)
                    if len(buffer) > 256 * 1024:
                        new.append(bytes(buffer))
                        buffer.clear()
                        if new.size() > synced + SYNC_AFTER:
                            new.sync()
                            synced = new.size()
                        time.sleep(0.0005)  # the other threads' turn
            if position < stop:
                found = logfile.find_record(log, position + 1, stop) or stop
                set_aside(log, position, found, self._journal.path)
                position = found
        new.append(bytes(buffer))


def copy_tail(log: LogFile, new: LogFile, start: int, stop: int) -> int:
    """Copy what was appended during a compaction; returns where it ends."""
    buffer = bytearray()
    for key, position, end, size, _ in logfile.read_log(log, start, stop):
        if size < 0:
            # semidbm cannot open a log that deletes what was not there, and the
            # first pass may have found this key deleted already.
            buffer += logfile.put_nothing(key)
        buffer += log.read(end - position, position)
        start = end
    if start != stop:
        raise OSError(f"the log is damaged at {start}, where it was written a moment ago")
    new.append(bytes(buffer))
    return stop
