"""The embedded store: semidbm's log file, made safe for processes and threads.

One writer at a time holds a lock file; readers take no lock. Each process keeps
an index of the log in memory, and before it answers it parses what others have
appended since. A compaction writes the live records to a new file and renames
it into place; the other processes go on from where it ends and move their
index over bit by bit, so that nobody stops for it.

The files in the folder: ``data`` (the log, as semidbm writes it), ``lock``,
``compaction.lock``, ``compaction`` (how the last compaction's file follows from
its predecessor), ``data.new`` (a compaction under way) and ``quarantine``
(bytes that did not verify, set aside).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from itertools import islice
from typing import Any, Concatenate, ParamSpec, TypeVar
from zlib import crc32

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores import log as logfile
from django_kvsessions.stores.base import (
    Record,
    Store,
    StoreCorrupted,
    StoreStats,
    StoreUnavailable,
)
from django_kvsessions.stores.filelock import FairLock, FileLock, LockTimeout, fcntl, open_private
from django_kvsessions.stores.generation import (
    PLACE_MASK,
    SIZE_SHIFT,
    START_SHIFT,
    Generation,
    Unreadable,
    live_from,
)
from django_kvsessions.stores.log import LogFile

__all__ = ["SemidbmStore"]

logger = logging.getLogger("django_kvsessions")
security_log = logging.getLogger("django.security.SuspiciousSession")

P = ParamSpec("P")
T = TypeVar("T")

DURABILITIES = ("process", "interval", "full")
#: Seconds that an acknowledged write may stay unsynced with durability "interval".
SYNC_INTERVAL = 1.0
#: Not a record: whoever finds it behind the last one looks for another file in the log's place.
REPLACED = b"\0"
#: Seconds until a folder that was swapped by hand is noticed, if not by a write before.
LOOK_INTERVAL = 1.0
#: Seconds between attempts, where another process is at it or one has failed.
COMPACTION_PAUSE = 5.0
#: Seconds without a write after which the syncing thread ends.
IDLE_SYNCER = 10.0
#: How much may be left to copy when a compaction takes the writer's lock.
SHORT_TAIL = 64 * 1024
#: Records moved over at a time after a compaction.
MOVE_BATCH = 500

#: Former inode and its final size; new inode, where the live records copied at
#: first end in it, and where it continued.
_SUCCESSION = struct.Struct(">QQQQQ")
_CRC = struct.Struct(">I")

# True in a call that must not wait for a lock, such as one made on an event loop.
_no_waiting: ContextVar[bool] = ContextVar("no_waiting", default=False)


class Busy(Exception):
    """The writer's lock is taken, and the caller is not to wait."""


def reports_os_errors(
    method: Callable[Concatenate[SemidbmStore, P], T],
) -> Callable[Concatenate[SemidbmStore, P], T]:
    """What the operating system refuses is an outage of the store."""

    @wraps(method)
    def reporting(self: SemidbmStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            raise self._unavailable(error) from error

    return reporting


class SemidbmStore(Store):
    """Sessions in a folder, for any number of processes and threads of one machine.

    ``location``: the folder; made when it is missing.

    ``durability``: what an acknowledged write survives. ``"process"``: a killed
    process. ``"interval"`` (the default): a power cut too, but for the last
    second at most. ``"full"``: a power cut.

    ``lock_timeout``: seconds to wait for another writer, then ``StoreUnavailable``.

    ``max_record_size``: bytes, up to 16 MiB.
    """

    location_is_folder = True

    def __init__(
        self,
        location: str | os.PathLike[str],
        *,
        durability: str = "interval",
        lock_timeout: float = 10.0,
        max_record_size: int = 1024 * 1024,
    ) -> None:
        super().__init__(max_record_size=max_record_size)
        if fcntl is None:
            raise ImproperlyConfigured(
                "SemidbmStore needs file locks, which this platform lacks: use another BACKEND, "
                "such as django_kvsessions.stores.database.DatabaseStore."
            )
        if not location:
            raise ImproperlyConfigured("SemidbmStore needs a LOCATION: a folder for the sessions.")
        if durability not in DURABILITIES:
            raise ImproperlyConfigured(
                f"The option 'durability' is one of {', '.join(DURABILITIES)}, not {durability!r}."
            )
        if not lock_timeout > 0:
            raise ImproperlyConfigured("The option 'lock_timeout' is a number of seconds above 0.")
        largest = logfile.MAX_VALUE_SIZE - logfile.VALUE_OVERHEAD
        if not 0 < max_record_size <= largest:
            raise ImproperlyConfigured(
                f"The option 'max_record_size' is a number of bytes from 1 to {largest}."
            )
        self.path = os.path.abspath(location)
        self.durability = durability
        self.lock_timeout = lock_timeout
        # With "full" a write waits for the disk.
        self.is_nonblocking = durability != "full"
        self._file_lock = FileLock(os.path.join(self.path, "lock"))
        self._compaction_lock = FileLock(os.path.join(self.path, "compaction.lock"))
        self._data_path = os.path.join(self.path, "data")
        self._generation: Generation | None = None
        self._make_locks()
        _instances.add(self)

    def _make_locks(self) -> None:
        # In this order: writing, then state. Appending and parsing hold the
        # state, so that no thread parses what another is appending.
        self._writing = FairLock()
        self._state = threading.Lock()
        self._syncing = threading.Lock()
        self._compacting = threading.Lock()
        self._next_compaction = 0.0
        self._next_look = 0.0
        self._synced: tuple[LogFile | None, int] = (None, 0)
        self._unsynced = threading.Event()
        self._syncer: threading.Thread | None = None
        self._mover: threading.Thread | None = None

    # The contract

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        try:
            return self._current().load(key)
        except Unreadable:
            return self._read_again(key)
        except OSError as error:
            # The decorator of the other methods would be felt here.
            raise self._unavailable(error) from error

    @reports_os_errors
    def _read_again(self, key: bytes) -> Record | None:
        # A compaction has moved the record, or it is damaged: nothing moves
        # while the writer's lock is held.
        generation = self._begin()
        try:
            return self._read(generation, key)
        finally:
            self._end()

    @reports_os_errors
    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        generation = self._begin()
        try:
            if generation.live(key) is not None:
                return False
            self._put(generation, key, record)
        finally:
            self._end()
        self._acknowledge(generation)
        return True

    @reports_os_errors
    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        generation = self._begin()
        try:
            if expected is None:
                if generation.live(key) is None:
                    return False
            elif generation.revision(key) != expected:
                return False
            self._put(generation, key, record)
        finally:
            self._end()
        self._acknowledge(generation)
        return True

    @reports_os_errors
    def touch(self, key: bytes, expires: float) -> bool:
        self.check_key(key)
        generation = self._begin()
        try:
            record = self._read(generation, key)
            if record is None:
                return False
            # The log only grows, so moving the expiry means writing the record again.
            record = record._replace(expires=expires)
            self.check_record(key, record)
            self._put(generation, key, record)
        finally:
            self._end()
        self._acknowledge(generation)
        return True

    @reports_os_errors
    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        generation = self._begin()
        try:
            was_live = generation.live(key) is not None
            removed = self._remove(generation, [key])
        finally:
            self._end()
        if removed:
            self._acknowledge(generation)
        return was_live

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """Looks at every entry of the index, and compacts the log where that pays."""
        for keys in batches(self._expired_keys(), batch_size):
            yield self._delete_still_expired(keys)
        if self._current_generation().needs_compaction():
            self.compact()

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        for key in list(self._current_generation().index):
            record = self.load(key)
            if record is not None:
                yield key, record

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        """Reads the head of every record, and the data of the owner's."""
        self.check_owner(owner)
        return self._scan_owner(owner)

    def _scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        for key in list(self._current_generation().index):
            if self._owner(key) == owner:
                record = self.load(key)
                if record is not None and record.owner == owner:
                    yield key, record

    @reports_os_errors
    def setup(self) -> None:
        self._current()

    def stats(self) -> StoreStats:
        generation = self._current_generation()
        limit = live_from()
        entries = list(generation.index.values())
        live = sum(entry >= limit for entry in entries)
        return StoreStats(live=live, expired=len(entries) - live, size=generation.end)

    @reports_os_errors
    def close(self) -> None:
        with self._writing:
            generation, self._generation = self._generation, None
            self._file_lock.close()
            if generation is not None and self._unsynced.is_set():
                generation.log.sync()

    async def aload(self, key: bytes) -> Record | None:
        # The first use in a process parses the whole log.
        if self._generation is None:
            return await self.call_in_thread(self.load, key)
        return self.load(key)

    async def call_async(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if self.is_nonblocking and self._generation is not None:
            token = _no_waiting.set(True)
            try:
                return function(*args, **kwargs)
            except Busy:
                pass
            finally:
                _no_waiting.reset(token)
        return await self.call_in_thread(function, *args, **kwargs)

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"The session store in {self.path}: {error}")

    # Reading

    def _current(self) -> Generation:
        """The generation, with everything in it that was acknowledged before this call."""
        generation = self._generation
        if generation is not None and self._is_current(generation):
            return generation
        return self._catch_up()

    def _catch_up(self) -> Generation:
        with self._state:
            generation = self._follow()
            if generation is not None and generation.log.size() <= generation.end:
                return generation
        # Nothing there yet, or bytes that do not verify: a writer is in the
        # middle of a record, or died in it. Under its lock one can tell.
        token = _no_waiting.set(_no_waiting.get() or generation is not None)
        try:
            generation = self._begin()
        except Busy:
            if generation is None:
                raise
        else:
            self._end()
        finally:
            _no_waiting.reset(token)
        return generation

    _current_generation = reports_os_errors(_current)

    def _is_current(self, generation: Generation) -> bool:
        """Whether the log is parsed to its end and still in its place."""
        if generation.log.size() != generation.end:
            return False
        # A compaction marks the log that it replaces, which shows in its size. Only
        # a folder that was swapped by hand has to be looked for, now and then.
        clock = time.monotonic()
        if clock < self._next_look:
            return True
        self._next_look = clock + LOOK_INTERVAL
        return self._is_in_place(generation)

    def _is_in_place(self, generation: Generation) -> bool:
        try:
            return os.stat(self._data_path).st_ino == generation.log.inode
        except FileNotFoundError:
            return False

    def _follow(self) -> Generation | None:
        """Catch up with the file at the path; ``None`` if there is none. With the state held."""
        generation = self._generation
        while True:
            try:
                inode = os.stat(self._data_path).st_ino
            except FileNotFoundError:
                self._generation = None
                return None
            if generation is None or inode != generation.log.inode:
                log = self._open_log()
                if log is None:
                    return None
                generation = self._generation = self._succeed(generation, log)
                if generation.is_moving:
                    self._mover = self._start("move", self._move, generation)
            size = generation.log.size()
            if size >= generation.end:
                generation.parse(size)
                return generation
            # Cut off behind our back, by a restored copy for instance.
            generation = self._generation = None

    def _open_log(self) -> LogFile | None:
        try:
            log = LogFile(os.open(self._data_path, os.O_RDWR | os.O_APPEND))
        except FileNotFoundError:
            return None
        header = log.read(len(logfile.FILE_HEADER), 0)
        if len(header) < len(logfile.FILE_HEADER):
            return None
        if header != logfile.FILE_HEADER:
            raise StoreCorrupted(
                f"{self._data_path} is not a session store: it does not begin as a semidbm "
                "file does. Name another folder as LOCATION, or move the file away."
            )
        return log

    def _succeed(self, former: Generation | None, log: LogFile) -> Generation:
        """The generation of a file that has taken the place of the former one."""
        succession = self._read_succession()
        if former is not None and not former.is_moving and succession is not None:
            former_inode, former_end, inode, copied_end, end = succession
            if (former_inode, inode) == (former.log.inode, log.inode):
                former.parse(former_end)
                if former.end == former_end:
                    return former.successor(log, copied_end, end)
        return Generation(log)

    @reports_os_errors
    def _owner(self, key: bytes) -> bytes:
        return self._current().owner(key)

    def _read(self, generation: Generation, key: bytes) -> Record | None:
        """A live record, with the writer's lock held; one that is damaged is dropped."""
        with self._state:
            try:
                return generation.load(key)
            except Unreadable:
                security_log.error(
                    "A session record in %s is damaged and reads as no session.", self._data_path
                )
                generation.index.pop(key)
                generation.damaged = True
                return None

    # Writing

    def _begin(self) -> Generation:
        """Take the writer's lock, catch up and repair. The caller must ``_end``."""
        timeout = 0 if _no_waiting.get() else self.lock_timeout
        if not self._writing.acquire(timeout):
            raise self._locked_out("a thread of this process")
        try:
            self._file_lock.acquire(timeout)
        except LockTimeout:
            self._writing.release()
            raise self._locked_out("another process") from None
        except BaseException:
            self._writing.release()
            raise
        try:
            generation = self._generation
            if generation is not None and self._is_current(generation):
                return generation
            with self._state:
                generation = self._follow() or self._create_log()
                if generation.log.size() > generation.end:
                    self._repair(generation)
            return generation
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        self._file_lock.release()
        self._writing.release()

    def _locked_out(self, holder: str) -> Exception:
        if _no_waiting.get():
            return Busy()
        return StoreUnavailable(
            f"{self._file_lock.path} has been held by {holder} for over {self.lock_timeout:g} "
            "seconds (the option 'lock_timeout'); a stopped process may be holding it."
        )

    def _create_log(self) -> Generation:
        log = LogFile(open_private(self._data_path, os.O_RDWR | os.O_APPEND))
        # A process may have died between making the file and writing its header.
        log.truncate(0)
        log.append(logfile.FILE_HEADER)
        log.sync()
        self._sync_folder()
        self._generation = Generation(log)
        return self._generation

    def _put(self, generation: Generation, key: bytes, record: Record) -> None:
        data = logfile.put(key, record)
        with self._state:
            start = generation.end
            generation.log.append(data)
            size = len(data) - logfile.OVERHEAD
            generation.index[key] = generation.entry(record.expires, start, size)
            generation.end += len(data)

    def _remove(self, generation: Generation, keys: list[bytes]) -> int:
        """Remove those of the keys that are there, in one write."""
        # semidbm cannot open a log that deletes a key twice.
        keys = [key for key in keys if key in generation.index]
        data = b"".join(map(logfile.deletion, keys))
        if keys:
            with self._state:
                generation.log.append(data)
                for key in keys:
                    del generation.index[key]
                generation.end += len(data)
        return len(keys)

    def _expired_keys(self) -> Iterator[bytes]:
        index = self._current_generation().index
        limit = live_from()
        return (key for key in list(index) if index.get(key, limit) < limit)

    @reports_os_errors
    def _delete_still_expired(self, keys: list[bytes]) -> int:
        generation = self._begin()
        try:
            limit = live_from()
            index = generation.index
            removed = self._remove(generation, [k for k in keys if index.get(k, limit) < limit])
        finally:
            self._end()
        self._acknowledge(generation)
        return removed

    def _acknowledge(self, generation: Generation) -> None:
        """What a write owes before it returns, with the lock given back."""
        if self.durability == "full":
            self._sync(generation)
        elif self.durability == "interval" and not self._unsynced.is_set():
            self._sync_soon()
        if generation.may_need_compaction and time.monotonic() >= self._next_compaction:
            self._next_compaction = time.monotonic() + COMPACTION_PAUSE
            self._start("compact", self._compact_in_background)

    def _start(self, purpose: str, function: Callable[..., None], *args: Any) -> threading.Thread:
        name = f"django_kvsessions {purpose} {self.path}"
        thread = threading.Thread(target=function, args=args, name=name, daemon=True)
        thread.start()
        return thread

    # Syncing

    def _sync(self, generation: Generation) -> None:
        """Return when all that was written so far is on disk; waiting writers share one sync."""
        log, end = generation.log, generation.end
        with self._syncing:
            if self._synced[0] is log and self._synced[1] >= end:
                return
            end = generation.end
            log.sync()
            self._synced = (log, end)

    def _sync_soon(self) -> None:
        with self._syncing:
            self._unsynced.set()
            if self._syncer is None:
                self._syncer = self._start("sync", self._sync_in_background)

    def _sync_in_background(self) -> None:
        while True:
            if self._unsynced.wait(IDLE_SYNCER):
                time.sleep(SYNC_INTERVAL * 0.9)
                self._unsynced.clear()
                self._sync_now()
            else:
                with self._syncing:
                    if not self._unsynced.is_set():
                        self._syncer = None
                        return

    def _sync_now(self) -> None:
        generation = self._generation
        if generation is not None:
            try:
                generation.log.sync()
            except OSError:
                logger.exception("Syncing %s failed.", self._data_path)

    def _sync_folder(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # Repair

    def _repair(self, generation: Generation) -> None:
        """Deal with bytes that do not verify. With the writer's lock and the state held."""
        log, size = generation.log, generation.log.size()
        while generation.end < size:
            found = logfile.find_record(log, generation.end + 1, size)
            if found is None:
                break
            logger.error(
                "%s is damaged from byte %d to %d; the records behind are kept.",
                self._data_path,
                generation.end,
                found,
            )
            # An older record of the same key must not come back in its place.
            generation.index.pop(logfile.damaged_key(log, generation.end), None)
            generation.damaged = True
            generation.end = found
            generation.parse(size)
        if generation.end < size:
            self._set_aside(log, generation.end, size)
            log.truncate(generation.end)

    def _set_aside(self, log: LogFile, start: int, stop: int) -> None:
        """Copy bytes that do not verify to the quarantine file."""
        path = os.path.join(self.path, "quarantine")
        descriptor = open_private(path, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(descriptor, "wb") as file:
            for position in range(start, stop, 1024 * 1024):
                file.write(log.read(min(1024 * 1024, stop - position), position))
        logger.warning(
            "%d bytes at %d of %s do not verify, as after a crash; set aside in %s.",
            stop - start,
            start,
            self._data_path,
            path,
        )

    # Compaction

    @reports_os_errors
    def compact(self) -> bool:
        """Rewrite the log without its garbage; ``False`` where that is under way already.

        Readers and writers go on meanwhile.
        """
        if not self._compacting.acquire(blocking=False):
            return False
        try:
            try:
                self._compaction_lock.acquire(0)
            except LockTimeout:
                return False
            try:
                self._compact()
            finally:
                self._compaction_lock.release()
        finally:
            self._compacting.release()
        return True

    def _compact_in_background(self) -> None:
        try:
            if self._current_generation().needs_compaction():
                self.compact()
        except Exception:
            logger.exception("Compacting %s failed; it will be tried again.", self._data_path)

    def _compact(self) -> None:
        generation = self._current()
        if generation.is_moving:
            # The thread that moves is started with the state held.
            with self._state:
                mover = self._mover
            if mover is not None:
                mover.join()
            generation = self._current()
        if generation.is_moving:
            raise OSError(f"{self._data_path} is still following the last compaction")
        path = os.path.join(self.path, "data.new")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # left by a compaction that was killed
        try:
            self._compact_into(path, generation)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            raise
        self._next_compaction = 0.0
        self._current()

    def _compact_into(self, path: str, generation: Generation) -> None:
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
        while (end := self._current().end) - position > SHORT_TAIL:
            position = copy_tail(generation.log, new, position, end)
            new.sync()
        current = self._begin()
        try:
            if current is not generation:
                raise OSError(f"{self._data_path} was replaced during a compaction")
            copy_tail(generation.log, new, position, generation.end)
            new.sync()
            self._write_succession(
                generation.log.inode, generation.end, new.inode, copied_end, new.size()
            )
            generation.log.append(REPLACED)
            os.rename(path, self._data_path)
            self._sync_folder()
        finally:
            self._end()

    def _copy_live(self, generation: Generation, new: LogFile, stop: int) -> None:
        log, index = generation.log, generation.index
        position = len(logfile.FILE_HEADER)
        limit = live_from()
        buffer = bytearray()
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
                        time.sleep(0.0005)  # the other threads' turn
            if position < stop:
                found = logfile.find_record(log, position + 1, stop) or stop
                self._set_aside(log, position, found)
                position = found
        new.append(bytes(buffer))

    def _write_succession(self, *numbers: int) -> None:
        data = _SUCCESSION.pack(*numbers)
        path = os.path.join(self.path, "compaction")
        descriptor = open_private(path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, data + _CRC.pack(crc32(data)), 0)
        finally:
            os.close(descriptor)

    def _read_succession(self) -> tuple[int, ...] | None:
        try:
            with open(os.path.join(self.path, "compaction"), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        numbers = data[: _SUCCESSION.size]
        if data[_SUCCESSION.size :] != _CRC.pack(crc32(numbers)):
            return None
        return _SUCCESSION.unpack(numbers)

    def _move(self, generation: Generation) -> None:
        """Point the index at the compacted file, a little at a time."""
        copied_end, end = generation.moved
        try:
            # A key may repeat in what was copied from the tail: the last one counts.
            tail: dict[bytes, int] = {}
            for key, start, _, size, expires in logfile.read_log(generation.log, copied_end, end):
                if size > 0:
                    tail[key] = generation.entry(expires, start, size)
                else:
                    tail.pop(key, None)
            self._place(generation, tail)
            batch: dict[bytes, int] = {}
            first = len(logfile.FILE_HEADER)
            for key, start, _, size, expires in logfile.read_log(generation.log, first, copied_end):
                batch[key] = generation.entry(expires, start, size)
                if len(batch) == MOVE_BATCH:
                    self._place(generation, batch)
                    batch.clear()
                    time.sleep(0.001)  # the other threads' turn
                    if self._generation is not generation:
                        return
            self._place(generation, batch)
            self._finish_move(generation)
        except Exception:
            logger.exception("Following a compaction of %s failed; reloading.", self._data_path)
            self._generation = None

    def _place(self, generation: Generation, entries: dict[bytes, int]) -> None:
        with self._state:
            index, flag = generation.index, generation.flag
            for key, entry in entries.items():
                # Gone, or written again since: then the index knows better.
                if index.get(key, flag) & 1 != flag:
                    index[key] = entry

    def _finish_move(self, generation: Generation) -> None:
        index, flag = generation.index, generation.flag
        for keys in batches(iter(list(index)), MOVE_BATCH):
            with self._state:
                for key in keys:
                    # It had expired and was left out.
                    if index.get(key, flag) & 1 != flag:
                        del index[key]
        generation.logs[1 - flag] = None

    # Forks

    def _after_fork(self) -> None:
        """In the child: threads are gone, and the lock files belong to the parent."""
        if self._generation is not None and self._generation.is_moving:
            self._generation = None
        self._file_lock.close()
        self._compaction_lock.close()
        self._make_locks()


def copy_tail(log: LogFile, new: LogFile, start: int, stop: int) -> int:
    """Copy what was appended during a compaction; returns where it ends."""
    buffer = bytearray()
    for key, position, end, size, _ in logfile.read_log(log, start, stop):
        if size < 0:
            # semidbm cannot open a log that deletes what was not there, and the
            # first pass may have found this key deleted already.
            buffer += logfile.put_nothing(key)
        buffer += log.read(end - position, position)
    new.append(bytes(buffer))
    return stop


def batches(keys: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(islice(keys, size)):
        yield batch


_instances: weakref.WeakSet[SemidbmStore] = weakref.WeakSet()


_forking: list[SemidbmStore] = []


def _before_fork() -> None:
    # The child must not inherit an index that a thread was just changing.
    _forking.extend(_instances)
    for store in _forking:
        store._state.acquire()


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop()._state.release()


def _after_fork_in_child() -> None:
    while _forking:
        _forking.pop()._after_fork()


def _at_exit() -> None:
    for store in list(_instances):
        with contextlib.suppress(Exception):
            store.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
atexit.register(_at_exit)
