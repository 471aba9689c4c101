"""A folder's log and index as the threads and processes of a machine share them.

One writer at a time holds a lock file; readers take no lock. What a writer appends it enters
in the index before it acknowledges. What it could not enter any more, the next one does; what
does not verify is set aside, and an index that cannot be believed is made anew.
"""

from __future__ import annotations

# Longer than 300 lines: who may read and write when is best judged in one place.
import logging
import os
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from django_kvsessions.stores.base import Record, StoreUnavailable
from django_kvsessions.stores.process import locks
from django_kvsessions.stores.semidbm import files, recovery
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.files import IndexFile, create_log, open_log
from django_kvsessions.stores.semidbm.generation import Found, Generation
from django_kvsessions.stores.semidbm.index import Unsure
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["Busy", "Journal", "no_waiting"]

T = TypeVar("T")

security_log = logging.getLogger("django.security.SuspiciousSession")

# True in a call that must not wait for a lock, such as one made on an event loop.
no_waiting: ContextVar[bool] = ContextVar("no_waiting", default=False)


class Busy(Exception):
    """The writer's lock is taken, and the caller is not to wait."""


class Journal:
    """The files in one folder, for one process. What the system refuses is an ``OSError``."""

    def __init__(self, path: str, lock_timeout: float) -> None:
        self.path = path
        self.data_path = os.path.join(path, "data")
        self.index_file = IndexFile(path)
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
            self._file_lock.close()
            generation, self.generation = self.generation, None
            return generation

    def start(self, purpose: str, function: Callable[..., None], *args: object) -> threading.Thread:
        """Run it in a thread that does not keep the process alive."""
        name = f"django_kvsessions {purpose} {self.path}"
        (thread := threading.Thread(target=function, args=args, name=name, daemon=True)).start()
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
            # Nothing moves while the writer's lock is held, and whoever has it catches up.
            self.begin()
            try:
                return self.read(key)
            finally:
                self.end()

    def current(self) -> Generation:
        """What is in the folder, or was at most LOOK_INTERVAL seconds ago."""
        generation, clock = self.generation, time.monotonic()
        if generation is not None and clock < self.next_look:
            return generation
        is_sound = generation is not None and self._is_sound(generation)
        if generation is not None and is_sound and not generation.is_behind():
            self.next_look = clock + files.LOOK_INTERVAL
            return generation
        # Not while another process puts right what is wrong, or has done so already.
        self.next_look = 0.0
        token = no_waiting.set(no_waiting.get() or is_sound)
        try:
            now = self.begin()
        except (Busy, OSError):
            if generation is None or not is_sound:
                raise
            # Whoever has the lock looks too.
            self.next_look = clock + files.LOOK_INTERVAL
            return generation
        finally:
            no_waiting.reset(token)
        self.end()
        return now

    def settled(self) -> tuple[Generation, int]:
        """What there is, and where its log ends with all in it that was acknowledged before."""
        generation = self.begin()
        try:
            return generation, generation.end
        finally:
            self.end()

    def surely(self, do: Callable[[Generation], T]) -> T:
        """Do something that takes longer with what is in the folder, from the beginning where
        that was replaced or is mended."""
        for _ in range(5):
            generation = self.current()
            try:
                return do(generation)
            except (Unsure, logfile.Damaged) as error:
                self.mend(generation, error)
        raise OSError(f"{self.data_path} does not stay as it was written")

    def mend(self, generation: Generation, error: Exception) -> None:
        """Go on with what is in the folder now, where that cannot be read or was replaced."""
        now = self.begin()
        try:
            if now is not generation:
                return
            if isinstance(error, Unsure):
                self._surely(lambda generation: all(generation.index.runs()))
            else:
                # It is the log that is damaged, where the index points to.
                self._rebuild(generation.log, sure=generation.end)
        finally:
            self.end()

    def _is_sound(self, generation: Generation) -> bool:
        """Whether the files are in their places, and are what they were."""
        try:
            index = generation.index
            return (
                generation.log.is_at(self.data_path)
                and self.index_file.inode() == index.inode
                and index.is_as_it_was()
                and index.is_about(generation.log)
                and generation.noted <= index.complete() <= generation.log.size()
            )
        except (FileNotFoundError, Unsure):
            return False

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
        except BaseException as error:
            self._writing.release()
            if isinstance(error, locks.LockTimeout):
                raise self._locked_out("another process") from None
            raise
        try:
            generation = self.generation
            # Whoever replaces the log or the index lets the log grow too.
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
        generation = self._opened()
        try:
            return generation, generation.look(key)
        except Unsure:
            return self.locate(key)

    def locate(self, key: bytes) -> tuple[Generation, Found]:
        """Likewise, with the bucket, which nothing that is kept in mind has."""
        return self._surely(lambda generation: (generation, generation.locate(key)))

    def read(self, key: bytes) -> Record | None:
        """A live record."""
        generation, found = self.look(key)
        try:
            return generation.read(key, found)
        except Unsure:
            self._renew()
        record = self._surely(lambda generation: generation.read(key, generation.locate(key)))
        if record is None:
            security_log.error(
                "A session record in %s is damaged and reads as no session. Likely causes, in "
                "order: a failing disk, or another program that wrote to the file.",
                self.data_path,
            )
        return record

    def room(self, key: bytes, found: Found) -> tuple[Generation, Found]:
        """Where a key goes that is not there."""
        generation = self._opened()
        try:
            return generation, generation.room(key, found)
        except Unsure:
            # It is damaged where the key belongs, or full to the brim.
            self._renew()
        return self._surely(
            lambda generation: (generation, generation.room(key, generation.locate(key)))
        )

    def _surely(self, ask: Callable[[Generation], T]) -> T:
        """Ask an index that can be believed, if need be one that is made for it."""
        generation = self._opened()
        for _ in range(3):
            try:
                return ask(generation)
            except Unsure:
                generation = self._renew()
        raise OSError(f"{self.data_path} does not stay as it was written")

    def _opened(self) -> Generation:
        assert self.generation is not None
        return self.generation

    def _renew(self, sure: int = 0) -> Generation:
        """Go on with the files that are there now, or mend those that are open."""
        generation = self._opened()
        if self._is_sound(generation):
            return self._rebuild(generation.log, sure=max(sure, generation.end))
        return self._reopen()

    def _catch_up(self) -> Generation:
        generation = self.generation
        is_due = time.monotonic() >= self.next_look
        if generation is None or is_due or not generation.index.is_whole():
            if generation is None or not self._is_sound(generation):
                return self._reopen()
            self.next_look = time.monotonic() + files.LOOK_INTERVAL
        sure = generation.end
        try:
            generation.catch_up(anew=is_due)
        except Unsure:
            # The end of the log may say that there is another one.
            return self._renew(sure)
        return generation

    def _reopen(self) -> Generation:
        """What the folder has now; makes an index where there is none to be believed."""
        former, sure = self.generation, 0
        if former is not None and former.log.is_at(self.data_path):
            log: LogFile | None = former.log
            sure = former.end
        else:
            log = open_log(self.data_path)
        if log is None:
            return self._rebuild(create_log(self.data_path))
        try:
            generation = Generation(log, self.index_file.open(log))
            generation.catch_up()
        except (FileNotFoundError, Unsure):
            return self._rebuild(log, sure=sure)
        return self.use(generation)

    def _rebuild(self, log: LogFile, *, sure: int = 0) -> Generation:
        """Make an index from the log. ``sure``: as of ``recovery.Contents.recover``."""
        if no_waiting.get():
            raise Busy
        return self.use(recovery.remade(log, self.index_file, self.path, sure=sure))

    def use(self, generation: Generation) -> Generation:
        self.generation = generation
        self.next_look = time.monotonic() + files.LOOK_INTERVAL
        return generation
