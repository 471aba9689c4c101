"""A folder's log as the threads and processes of a machine share it.

One writer at a time holds a lock file; readers take no lock. Each process
keeps an index of the log in memory, and before it answers it parses what
others have appended since. What does not verify is set aside by the next
writer.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

from django_kvsessions.stores.base import Record, StoreCorrupted, StoreUnavailable
from django_kvsessions.stores.process import forks, locks
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.generation import Generation, Unreadable
from django_kvsessions.stores.semidbm.log import LogFile
from django_kvsessions.stores.semidbm.recovery import is_at_the_end, repair
from django_kvsessions.stores.semidbm.succession import move, succeed

__all__ = ["Busy", "Journal", "no_waiting"]

logger = logging.getLogger("django_kvsessions")
security_log = logging.getLogger("django.security.SuspiciousSession")

#: Seconds until a folder that was swapped by hand is noticed, if not by a write before.
LOOK_INTERVAL = 1.0

# True in a call that must not wait for a lock, such as one made on an event loop.
no_waiting: ContextVar[bool] = ContextVar("no_waiting", default=False)


class Busy(Exception):
    """The writer's lock is taken, and the caller is not to wait."""


class Journal:
    """The log in one folder, for one process. What the system refuses is an ``OSError``."""

    def __init__(self, path: str, lock_timeout: float) -> None:
        self.path = path
        self.data_path = os.path.join(path, "data")
        self.lock_timeout = lock_timeout
        #: What is known of the log; ``None`` before the first use.
        self.generation: Generation | None = None
        self._file_lock = locks.FileLock(os.path.join(path, "lock"))
        # Taken after the writer's lock. Appending and parsing hold the state, so that
        # no thread parses what another is appending.
        self.state = threading.Lock()
        # A child must not inherit an index that a thread was just changing.
        forks.hold(self.state)
        self._make_locks()

    def _make_locks(self) -> None:
        self._writing = locks.FairLock()
        self._next_look = 0.0
        self._mover: threading.Thread | None = None

    def after_fork(self) -> None:
        """In the child: threads are gone, and the lock file belongs to the parent."""
        if self.generation is not None and self.generation.is_moving:
            self.generation = None
        self._file_lock.close()
        self._make_locks()

    def close(self) -> Generation | None:
        """Forget the log, which the next use opens again; returns what was known of it."""
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

    def current(self) -> Generation:
        """The generation, with everything in it that was acknowledged before this call."""
        generation = self.generation
        if generation is not None and self._is_current(generation):
            return generation
        return self._catch_up()

    def _is_current(self, generation: Generation) -> bool:
        """Whether the log is parsed to its end and still in its place."""
        if generation.log.size() != generation.end:
            return False
        # A compaction marks the log that it replaces, which shows in its size. Only
        # a folder that was swapped by hand has to be looked for, now and then.
        clock = time.monotonic()
        if clock < self._next_look:
            return True
        if not generation.log.is_at(self.data_path):
            return False
        self._next_look = clock + LOOK_INTERVAL
        return True

    def _catch_up(self) -> Generation:
        with self.state:
            generation = self.generation
            if generation is not None and self._keeps_up(generation):
                return generation
            generation = self._follow()
            if generation is not None and generation.log.size() <= generation.end:
                return generation
        # Nothing there yet, or bytes that do not verify: a writer is in the middle of a
        # record, or died in it, or they are damaged. Under its lock one can tell.
        is_whole = is_at_the_end(generation)
        token = no_waiting.set(no_waiting.get() or is_whole)
        try:
            generation = self.begin()
        except Busy:
            if not is_whole:
                raise
        else:
            self.end()
        finally:
            no_waiting.reset(token)
        assert generation is not None
        return generation

    def _keeps_up(self, generation: Generation) -> bool:
        """Whether it was enough to parse what others have appended. With the state held."""
        if time.monotonic() >= self._next_look:
            return False
        size = generation.log.size()
        # The mark of a file that was replaced stays behind unparsed.
        generation.parse(size)
        return generation.end == size

    def _follow(self) -> Generation | None:
        """Catch up with the file at the path; ``None`` if there is none. With the state held."""
        generation = self.generation
        self._next_look = time.monotonic() + LOOK_INTERVAL
        while True:
            try:
                inode = os.stat(self.data_path).st_ino
            except FileNotFoundError:
                self.generation = None
                return None
            if generation is None or inode != generation.log.inode:
                log = self._open_log()
                if log is None:
                    return None
                generation = self.generation = succeed(generation, log, self.path)
                if generation.is_moving:
                    self._mover = self.start("move", self._move, generation)
            size = generation.log.size()
            if size >= generation.end:
                generation.parse(size)
                return generation
            # Cut off behind our back, by a restored copy for instance.
            generation = self.generation = None

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

    def _move(self, generation: Generation) -> None:
        try:
            move(generation, self.state, lambda: self.generation is generation)
        except Exception:
            logger.exception("Following a compaction of %s failed; reloading.", self.data_path)
            self.generation = None

    def moved(self) -> Generation:
        """As ``current``, when the index has followed the last compaction."""
        if self.current().is_moving:
            # The thread that moves is started with the state held.
            with self.state:
                mover = self._mover
            if mover is not None:
                mover.join()
        generation = self.current()
        if generation.is_moving:
            raise OSError(f"{self.data_path} is still following the last compaction")
        return generation

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
            if generation is not None and self._is_current(generation):
                return generation
            with self.state:
                if generation is None or not self._keeps_up(generation):
                    generation = self._follow() or self._create_log()
                    if generation.log.size() > generation.end:
                        repair(generation, self.path)
            return generation
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

    def _create_log(self) -> Generation:
        log = LogFile(locks.open_private(self.data_path, os.O_RDWR | os.O_APPEND))
        # A process may have died between making the file and writing its header.
        log.truncate(0)
        log.append(logfile.FILE_HEADER)
        log.sync()
        locks.sync_folder(self.path)
        self.generation = Generation(log)
        return self.generation

    # Under the writer's lock, which is to say between begin and end

    def read(self, generation: Generation, key: bytes) -> Record | None:
        """A live record; one that is damaged is dropped."""
        with self.state:
            try:
                return generation.load(key)
            except Unreadable:
                security_log.error(
                    "A session record in %s is damaged and reads as no session. Likely causes, in "
                    "order: a failing disk, or another program that wrote to the file.",
                    self.data_path,
                )
                generation.index.pop(key)
                generation.damaged = True
                return None

    def put(self, generation: Generation, key: bytes, record: Record) -> None:
        data = logfile.put(key, record)
        with self.state:
            start = generation.end
            generation.log.append(data)
            size = len(data) - logfile.OVERHEAD
            generation.index[key] = generation.entry(record.expires, start, size)
            generation.end += len(data)

    def remove(self, generation: Generation, keys: list[bytes]) -> int:
        """Remove those of the keys that are there, in one write."""
        # semidbm cannot open a log that deletes a key twice.
        keys = [key for key in keys if key in generation.index]
        data = b"".join(map(logfile.deletion, keys))
        if keys:
            with self.state:
                generation.log.append(data)
                for key in keys:
                    del generation.index[key]
                generation.end += len(data)
        return len(keys)
