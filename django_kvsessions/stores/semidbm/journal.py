"""A folder's log and index as the threads and processes of a machine share them.

One writer at a time holds a lock file; readers take no lock. What a writer appends it enters
in the index before it acknowledges. What it could not enter any more, the next one does; what
does not verify is set aside, and an index that cannot be believed is made anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar

from django_kvsessions.stores.base import Record, StoreCorrupted, StoreUnavailable
from django_kvsessions.stores.process import locks
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm import recovery
from django_kvsessions.stores.semidbm.generation import Damaged, Found, Generation, worth_from
from django_kvsessions.stores.semidbm.index import Index, Unsure, depth_for
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["Busy", "Journal", "no_waiting"]

security_log = logging.getLogger("django.security.SuspiciousSession")

#: Seconds until files that were swapped by hand are noticed, if not by an access before.
LOOK_INTERVAL = 1.0

# True in a call that must not wait for a lock, such as one made on an event loop.
no_waiting: ContextVar[bool] = ContextVar("no_waiting", default=False)


class Busy(Exception):
    """The writer's lock is taken, and the caller is not to wait."""


class Journal:
    """The files in one folder, for one process. What the system refuses is an ``OSError``."""

    def __init__(self, path: str, lock_timeout: float) -> None:
        self.path = path
        self.data_path = os.path.join(path, "data")
        self.index_path = os.path.join(path, "index")
        self.lock_timeout = lock_timeout
        #: What is open; ``None`` before the first use.
        self.generation: Generation | None = None
        self._file_lock = locks.FileLock(os.path.join(path, "lock"))
        self._make_locks()

    def _make_locks(self) -> None:
        self._writing = locks.FairLock()
        #: Until then readers need not ask whether the files are still in their places.
        self.next_look = 0.0

    def after_fork(self) -> None:
        """In the child: threads are gone, and the lock file belongs to the parent."""
        # What the parent has open would not tell that there are two who have it.
        self.generation = None
        self._file_lock.close()
        self._make_locks()

    def close(self) -> Generation | None:
        """Forget the files, which the next use opens again; returns what was open."""
        with self._writing:
            generation, self.generation = self.generation, None
            self._file_lock.close()
        return generation

    def start(self, purpose: str, function: Callable[..., None], *args: object) -> threading.Thread:
        """Run it in a thread that does not keep the process alive."""
        name = f"django_kvsessions {purpose} {self.path}"
        thread = threading.Thread(target=function, args=args, name=name, daemon=True)
        thread.start()
        return thread

    # Reading

    def load(self, key: bytes) -> Record | None:
        """A live record, as of now."""
        generation = self.generation
        if generation is None or time.monotonic() >= self.next_look:
            generation = self.current()
        try:
            return generation.load(key)
        except Unsure:
            # Nothing moves while the writer's lock is held.
            self.begin()
            try:
                return self.read(key)
            finally:
                self.end()

    def current(self) -> Generation:
        """What is in the folder, at most LOOK_INTERVAL seconds ago."""
        generation = self.generation
        now = time.monotonic()
        if generation is not None and (now < self.next_look or self._is_sound(generation)):
            self.next_look = max(self.next_look, now + LOOK_INTERVAL)
            return generation
        token = no_waiting.set(no_waiting.get() or generation is not None)
        try:
            self.next_look = 0.0
            generation = self.begin()
        except Busy:
            if generation is None:
                raise
            # Somebody writes, or puts right what is wrong: this will look again.
            return generation
        finally:
            no_waiting.reset(token)
        self.end()
        return generation

    def _is_sound(self, generation: Generation) -> bool:
        """Whether the files are in their places, and the index has the whole log."""
        try:
            complete = generation.index.complete()
            return (
                self.is_in_place(generation)
                and generation.index.is_as_it_was()
                and complete >= generation.noted
                and generation.log.size() in (complete, generation.end)
            )
        except Unsure:
            return False

    def is_in_place(self, generation: Generation) -> bool:
        try:
            return (
                os.stat(self.data_path).st_ino == generation.log.inode
                and os.stat(self.index_path).st_ino == generation.index.inode
            )
        except FileNotFoundError:
            return False

    def _open_log(self) -> LogFile | None:
        try:
            log = LogFile(os.open(self.data_path, os.O_RDWR | os.O_APPEND))
        except FileNotFoundError:
            return None
        header = log.read(len(logfile.FILE_HEADER), 0)
        if len(header) < len(logfile.FILE_HEADER):
            return None
        if header != logfile.FILE_HEADER:
            raise StoreCorrupted(
                f"{self.data_path} is not a session store: it does not begin as a semidbm "
                "file does. Name another folder as LOCATION, or move the file away."
            )
        return log

    # Writing

    def begin(self) -> Generation:
        """Take the writer's lock, catch up and repair. The caller must ``end``.

        ``StoreUnavailable`` where others hold it too long, ``Busy`` in a call
        that must not wait.
        """
        timeout = 0 if no_waiting.get() else self.lock_timeout
        if not self._writing.acquire(timeout):
            raise self._locked_out("a thread of this process")
        try:
            self._file_lock.acquire(timeout)
        except locks.LockTimeout:
            self._writing.release()
            raise self._locked_out("another process") from None
        except BaseException:
            self._writing.release()
            raise
        try:
            generation = self.generation
            if (
                generation is not None
                and generation.log.size() == generation.end
                and time.monotonic() < self.next_look
            ):
                return generation
            return self._catch_up()
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        try:
            self._file_lock.release()
        finally:
            self._writing.release()

    def _locked_out(self, holder: str) -> Exception:
        if no_waiting.get():
            return Busy()
        return StoreUnavailable(
            f"{self._file_lock.path} has been held by {holder} for over {self.lock_timeout:g} "
            "seconds (the option 'lock_timeout'); a stopped process may be holding it."
        )

    # Under the writer's lock, which is to say between begin and end

    def look(self, key: bytes) -> tuple[Generation, Found]:
        """Where a key is now, and in what."""
        generation = self.generation
        assert generation is not None
        try:
            return generation, generation.look(key)
        except Unsure:
            self._renew(generation)
        return self.look(key)

    def _renew(self, generation: Generation) -> None:
        """The index was replaced, or is damaged."""
        if generation.index.is_as_it_was() and self.is_in_place(generation):
            self.rebuild(generation.log)
        else:
            self._reopen()

    def room(self, key: bytes, generation: Generation, found: Found) -> tuple[Generation, Found]:
        """Where a key goes that is not there."""
        try:
            return generation, generation.room(key, found)
        except Unsure:
            # It is damaged where the key belongs, or full to the brim.
            generation = self.rebuild(generation.log)
        try:
            return generation, generation.room(key, generation.locate(key))
        except Unsure:
            raise OSError(f"{self.index_path} has no room left") from None

    def look_at_all(self) -> None:
        """That the whole index can be read."""
        generation = self.generation
        assert generation is not None
        try:
            for _ in generation.index.runs():
                pass
        except Unsure:
            self._renew(generation)

    def read(self, key: bytes) -> Record | None:
        """A live record; one that is damaged is dropped."""
        generation, found = self.look(key)
        try:
            return generation.read(key, found)
        except Damaged as damaged:
            self._drop(generation, damaged)
            return None

    def _drop(self, generation: Generation, damaged: Damaged) -> None:
        security_log.error(
            "A session record in %s is damaged and reads as no session.", self.data_path
        )
        generation.drop(damaged)

    def _catch_up(self) -> Generation:
        generation = self.generation
        if generation is None or not self.is_in_place(generation):
            return self._reopen()
        try:
            self._take_in(generation)
        except Unsure:
            return self._reopen()
        self.next_look = time.monotonic() + LOOK_INTERVAL
        return generation

    def _reopen(self) -> Generation:
        """What the folder has now; makes an index where there is none to be believed."""
        self.generation = None
        log = self._open_log()
        if log is None:
            return self.rebuild(self._create_log())
        try:
            generation = Generation(log, Index(os.open(self.index_path, os.O_RDWR)))
            if generation.index.log != log.identity:
                raise Unsure
            self._take_in(generation)
        except (FileNotFoundError, Unsure):
            return self.rebuild(log)
        return self.use(generation)

    def _take_in(self, generation: Generation) -> None:
        generation.catch_up()
        size = generation.log.size()
        if size == generation.end:
            return
        # A torn end is cut off; not of a log that was replaced, nor where records follow.
        if (
            size < generation.end
            or not self.is_in_place(generation)
            or logfile.find_record(generation.log, generation.end + 1, size) is not None
        ):
            raise Unsure
        recovery.cut_off(generation.log, generation.end, self.path)

    def rebuild(self, log: LogFile) -> Generation:
        """Make an index from the log."""
        self.generation = None
        contents = recovery.Contents(log)
        contents.recover(self.path)
        self._retire(log)
        depth = depth_for(len(contents.index))
        index = Index.write(self.new_index(), log.identity, depth, contents.by_home(depth))
        index.note_complete(contents.end)
        index.compact_from = worth_from(contents.live_bytes())
        generation = Generation(log, index)
        generation.end = generation.noted = contents.end
        generation.damaged = contents.damaged
        os.rename(self.index_path + ".new", self.index_path)
        return self.use(generation)

    def use(self, generation: Generation) -> Generation:
        self.generation = generation
        self.next_look = time.monotonic() + LOOK_INTERVAL
        return generation

    def new_index(self) -> int:
        """An empty file, to be the index when it is filled."""
        path = self.index_path + ".new"
        with suppress(FileNotFoundError):
            os.unlink(path)  # left by a process that was killed
        return locks.open_private(path, os.O_RDWR)

    def _retire(self, log: LogFile) -> None:
        """Let no process believe in the index that there is."""
        with suppress(FileNotFoundError):
            os.truncate(self.index_path, 0)
        if not log.is_alone():
            # Another one may have a file open that has no name any more: each looks for it
            # before that time is over.
            time.sleep(1.1 * LOOK_INTERVAL)

    def _create_log(self) -> LogFile:
        log = LogFile(locks.open_private(self.data_path, os.O_RDWR | os.O_APPEND))
        # A process may have died between making the file and writing its header.
        log.truncate(0)
        log.append(logfile.FILE_HEADER)
        log.sync()
        locks.sync_folder(self.path)
        return log
