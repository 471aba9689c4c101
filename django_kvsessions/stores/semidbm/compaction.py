"""Rewriting a log without its garbage, or its index larger, while readers and writers go on.

What is live goes to new files, then what was written meanwhile until little of that is left;
under the writer's lock the last of it, and the new files take the places of the former ones.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable

from django_kvsessions.stores.process.locks import FileLock, LockTimeout, sync_folder
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm import survey
from django_kvsessions.stores.semidbm.generation import Generation, worth_from
from django_kvsessions.stores.semidbm.index import Index, Unsure, depth_for
from django_kvsessions.stores.semidbm.journal import Journal
from django_kvsessions.stores.semidbm.layout import slot_of, unpack_slot
from django_kvsessions.stores.semidbm.log import LogFile
from django_kvsessions.stores.semidbm.recovery import note_synced

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
#: How much is written at a time.
BUFFER = 256 * 1024
#: The index that it makes, while it makes it. One that is made anew has another name.
COPY = "index.copy"
#: Slots after which the other threads have their turn.
TURN = 1000


class Compaction:
    """At most one at a time in a folder, whatever the number of processes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._file_lock = FileLock(os.path.join(journal.path, "compaction.lock"))
        self._compacting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next = 0.0
        #: Not before, since one has failed.
        self._after = 0.0

    def close(self) -> None:
        self._file_lock.close()

    def soon(self, generation: Generation) -> None:
        """In the background, where it pays and one has not just been tried."""
        clock = time.monotonic()
        if clock < self._after or (self._thread is not None and self._thread.is_alive()):
            return
        due = clock >= self._next
        if due or generation.crowded:
            if due:
                self._next = clock + COMPACTION_PAUSE
            self._thread = self._journal.start("compact", self._run_in_background, due)

    def _run_in_background(self, due: bool) -> None:
        try:
            generation = self._journal.current()
            is_crowded, generation.crowded = generation.crowded, False
            if is_crowded and self._journal.surely(Generation.is_crowded):
                self._alone(self._grow_if_crowded)
            if due and self._journal.surely(Generation.needs_compaction):
                self.run()
            elif due:
                # It says itself from which size on to look again.
                self._next = 0.0
        except Exception:
            self._after = time.monotonic() + COMPACTION_PAUSE
            path = self._journal.data_path
            logger.exception(
                "Compacting %s failed; it will be tried again. Likely causes, in order: its disk "
                "has no room for the sessions once more, or the folder is not writable.",
                path,
            )

    def run(self) -> bool:
        """``False`` where one is under way already."""
        return self._alone(self._compact)

    def _alone(self, function: Callable[[Generation], None]) -> bool:
        if not self._compacting.acquire(blocking=False):
            return False
        try:
            try:
                self._file_lock.acquire(0)
            except LockTimeout:
                return False
            try:
                self._journal.surely(function)
            finally:
                self._file_lock.release()
        finally:
            self._compacting.release()
        return True

    def _follow(self, former: Generation, end: int, copy: Callable[[int], None]) -> None:
        """Copy what is written meanwhile. Returns with the writer's lock held."""
        journal = self._journal
        now, stop = journal.settled()
        while now is former and stop - end > SHORT_TAIL:
            copy(stop)
            end = stop
            now, stop = journal.settled()
        # What is left out now is gone, so the files are looked at once more.
        journal.next_look = 0.0
        now = journal.begin()
        try:
            if now is not former:
                raise Unsure
            copy(former.end)
        except BaseException:
            journal.end()
            raise

    def _publish(self, former: Generation, new: Generation) -> None:
        """With the writer's lock, and all in the new index."""
        # Whoever reads the former one from now on waits until the new one is there.
        former.index.retire()
        self._journal.index_file.publish(COPY)
        self._journal.use(new)

    def _grow_if_crowded(self, former: Generation) -> None:
        # Another process may have been faster.
        if former.is_crowded():
            self._grow(former)

    def _grow(self, former: Generation) -> None:
        journal = self._journal
        _, end = journal.settled()
        index, depth = former.index, former.index.depth + 1
        new = Generation(
            former.log,
            journal.index_file.write(
                COPY, lambda file: Index.write(file, index.log, depth, index.by_home(depth, Pace()))
            ),
        )
        new.compact_from = new.index.compact_from = former.compact_from
        new.end = end
        self._follow(former, end, new.take_in)
        try:
            new.mark()
            self._publish(former, new)
        finally:
            journal.end()

    def _compact(self, former: Generation) -> None:
        path = os.path.join(self._journal.path, "data.new")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # left by a compaction that was killed
        try:
            self._compact_into(path, former)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            raise
        self._next = 0.0

    def _compact_into(self, path: str, former: Generation) -> None:
        journal = self._journal
        _, end = journal.settled()
        log = LogFile(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600))
        status = os.fstat(former.log.descriptor)
        os.fchmod(log.descriptor, status.st_mode & 0o777)
        if os.geteuid() == 0:
            os.fchown(log.descriptor, status.st_uid, status.st_gid)
        # So that it begins as no other log does: see ``Index.is_about``.
        log.append(logfile.FILE_HEADER + logfile.nothing())
        copy = Copy(former.log, end, log)
        depth = depth_for(survey.live(former.index)[0])
        homes = former.index.by_home(depth, copy)
        index = journal.index_file.write(
            COPY, lambda file: Index.write(file, log.identity, depth, homes)
        )
        copy.flush()
        log.sync()
        new = Generation(log, index)
        new.end = log.size()
        new.compact_from = index.compact_from = worth_from(new.end)
        position = end

        def follow(stop: int) -> None:
            nonlocal position
            position = copy_tail(former.log, log, position, stop)
            new.take_in(log.size())
            log.sync()

        self._follow(former, end, follow)
        try:
            former.log.append(REPLACED)
            os.rename(path, journal.data_path)
            sync_folder(journal.path)
            self._publish(former, new)
            note_synced(log, new.end, journal.path)
        finally:
            journal.end()


class Pace:
    """What a slot becomes in a new index, giving other threads their turn now and then."""

    def __init__(self) -> None:
        self._turns = 0

    def __call__(self, content: bytes) -> bytes | None:
        self._turns += 1
        if self._turns % TURN == 0:
            time.sleep(0.0005)
        return content


class Copy(Pace):
    """Likewise, with its record copied to another log."""

    def __init__(self, log: LogFile, end: int, new: LogFile) -> None:
        super().__init__()
        self._log, self._end, self._new = log, end, new
        self._buffer = bytearray()
        self._written = self._synced = new.size()
        self._second = int(time.time())

    def __call__(self, content: bytes) -> bytes | None:
        super().__call__(content)
        ending, place, expires = unpack_slot(content)
        start = place >> 24
        # What comes later is copied with what is written meanwhile.
        if expires < self._second or start >= self._end:
            return None
        data = self._log.read(logfile.record_bytes(place), start)
        if not logfile.verifies(data, ending):
            raise logfile.Damaged
        start = self._written + len(self._buffer)
        self._buffer += data
        if len(self._buffer) > BUFFER:
            self.flush()
        return slot_of(ending, logfile.place_of(start, place & logfile.MAX_VALUE_SIZE), expires)

    def flush(self) -> None:
        self._new.append(bytes(self._buffer))
        self._written += len(self._buffer)
        self._buffer.clear()
        if self._written > self._synced + SYNC_AFTER:
            self._new.sync()
            self._synced = self._written


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
