"""The embedded store: semidbm's log file, made safe for processes and threads.

One writer at a time holds a lock file; readers take no lock. An index on disk, which all
processes of the machine share, says where in the log each session is. A compaction writes the
live records to a new log with a new index and renames both into place.

The files in the folder: ``data`` (the log, as semidbm writes it), ``index`` (believed within
one start of the machine), ``index.new`` (while it is made anew from the log), ``index.copy``
(while it grows, or a compaction is under way), ``data.new`` (a compaction under way), ``lock``,
``compaction.lock``, ``synced`` (how much of the log was on disk for sure) and ``quarantine``
(bytes that did not verify, set aside).
"""

from __future__ import annotations

# Longer than 300 lines: each method of the contract is a few of them, and none is about files.
import atexit
import contextlib
import os
import time
import weakref
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores import options
from django_kvsessions.stores.base import Record, Store, StoreStats
from django_kvsessions.stores.process import forks
from django_kvsessions.stores.process.locks import fcntl
from django_kvsessions.stores.semidbm import backups, survey
from django_kvsessions.stores.semidbm import log as logfile
from django_kvsessions.stores.semidbm.compaction import Compaction
from django_kvsessions.stores.semidbm.errors import reports_os_errors, unavailable
from django_kvsessions.stores.semidbm.generation import Generation
from django_kvsessions.stores.semidbm.journal import Busy, Journal, no_waiting
from django_kvsessions.stores.semidbm.owners import Owners
from django_kvsessions.stores.semidbm.recovery import quarantined
from django_kvsessions.stores.semidbm.syncing import Syncer
from django_kvsessions.stores.semidbm.walking import walk

__all__ = ["SemidbmStore"]

P = ParamSpec("P")
T = TypeVar("T")

DURABILITIES = ("process", "interval", "full")


class SemidbmStore(Store):
    """Sessions in a folder, for any number of processes and threads of one machine.

    ``location``: the folder; made when it is missing.

    ``durability``: what an acknowledged write survives. ``"process"``: a killed
    process. ``"interval"`` (the default): a power cut too, but for the last
    second at most. ``"full"``: a power cut.

    ``lock_timeout``: seconds to wait for another writer, then ``StoreUnavailable``.

    ``max_record_size``: bytes, up to 16 MiB.
    """

    is_cleaned_by_default = True
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
        self.path = os.path.abspath(options.folder(location))
        self.durability = options.choice("durability", durability, DURABILITIES)
        # A wait of days would overflow the clocks that time it.
        options.seconds("lock_timeout", lock_timeout, at_most=86_400)
        largest = logfile.MAX_VALUE_SIZE - logfile.VALUE_OVERHEAD
        options.whole_number("max_record_size", max_record_size, at_least=1, at_most=largest)
        # With "full" a write waits for the disk.
        self.is_nonblocking = durability != "full"
        self._journal = Journal(self.path, lock_timeout)
        self._begin()
        forks.renew(self._after_fork)
        _instances.add(self)

    def _begin(self) -> None:
        self._syncer = Syncer(self._journal)
        self._compaction = Compaction(self._journal)
        self._owners = Owners()

    # The contract

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        try:
            return self._journal.load(key)
        except OSError as error:
            # The decorator of the other methods would be felt here.
            raise unavailable(self.path, error) from error

    @reports_os_errors
    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        journal = self._journal
        journal.begin()
        try:
            generation, found = journal.look(key)
            if found.expires > time.time():
                return False
            if not found.place:
                generation, found = journal.room(key, found)
            generation.put(key, record, found)
        finally:
            journal.end()
        self._acknowledge(generation)
        return True

    @reports_os_errors
    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        journal = self._journal
        journal.begin()
        try:
            generation, found = journal.look(key)
            if found.expires <= time.time() or expected not in (None, found.revision):
                return False
            generation.put(key, record, found)
        finally:
            journal.end()
        self._acknowledge(generation)
        return True

    @reports_os_errors
    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        self.check_touch(key, expires)
        journal = self._journal
        journal.begin()
        try:
            record = journal.read(key)
            if record is None or expected not in (None, record.revision):
                return False
            # The log only grows, so moving the expiry means writing the record again.
            generation, found = journal.look(key)
            generation.put(key, record._replace(expires=expires), found)
        finally:
            journal.end()
        self._acknowledge(generation)
        return True

    @reports_os_errors
    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        journal = self._journal
        journal.begin()
        try:
            generation, found = journal.locate(key)
            if not found.place:
                return False
            generation.remove({key: found})
        finally:
            journal.end()
        self._acknowledge(generation)
        return found.expires > time.time()

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """Looks at every entry of the index, and compacts the log where that pays."""
        keys: list[bytes] = []
        for more in walk(self._journal, survey.expired):
            keys += more
            while len(keys) >= batch_size:
                yield self._delete_still_expired(keys[:batch_size])
                del keys[:batch_size]
        if keys:
            yield self._delete_still_expired(keys)
        # What has expired since may be most of the log.
        if self._surely(lambda generation: generation.needs_compaction(anew=True)):
            self.compact()

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        for keys in walk(self._journal, survey.keys):
            for key in keys:
                if (record := self.load(key)) is not None:
                    yield key, record

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        """The first call in a process reads the log, later ones what was appended since.

        From then on the process keeps about 40 bytes in memory for each record.
        """
        self.check_owner(owner)
        return self._scan_owner(owner)

    def _scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        try:
            keys = self._keys_of(owner)
        except logfile.Damaged:
            # Each record is looked at until a compaction leaves out what is damaged.
            yield from super().scan_owner(owner)
            return
        for key in keys:
            if (record := self.load(key)) is not None and record.owner == owner:
                yield key, record

    @reports_os_errors
    def setup(self) -> None:
        self._journal.current()

    def stats(self) -> StoreStats:
        return self._surely(lambda generation: survey.stats(generation.log, generation.index))

    def faults(self) -> Iterator[str]:
        return quarantined(self.path)

    def backup(self, folder: str | os.PathLike[str]) -> None:
        """Waits for a write that is under way. A plain copy of the folder opens too."""
        backups.copy_log(self._journal, self.compact, folder)

    def scan_backup(self, folder: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record]]:
        backups.check_copy(folder)
        with contextlib.closing(SemidbmStore(folder)) as copy:
            yield from copy.scan()

    @reports_os_errors
    def compact(self) -> bool:
        """Rewrite the log without its garbage, beside others; ``False`` where it is under way."""
        return self._compaction.run()

    @reports_os_errors
    def close(self) -> None:
        generation = self._journal.close()
        if generation is not None:
            self._syncer.sync_at_close(generation)

    async def call_async(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self.is_nonblocking and self._journal.generation is not None:
            token = no_waiting.set(True)
            try:
                return function(*args, **kwargs)
            except Busy:
                pass
            finally:
                no_waiting.reset(token)
        return await self.call_in_thread(function, *args, **kwargs)

    @reports_os_errors
    def _surely(self, do: Callable[[Generation], T]) -> T:
        return self._journal.surely(do)

    @reports_os_errors
    def _keys_of(self, owner: bytes) -> list[bytes]:
        generation, end = self._journal.settled()
        return self._owners.keys(generation.log, end, owner)

    @reports_os_errors
    def _delete_still_expired(self, keys: list[bytes]) -> int:
        journal = self._journal
        journal.begin()
        try:
            limit = time.time()
            looked = [journal.locate(key) for key in keys]
            while any(generation is not looked[-1][0] for generation, _ in looked):
                # The index was made anew meanwhile: what was found before is not there.
                looked = [journal.locate(key) for key in keys]
            found = dict(zip(keys, (one for _, one in looked), strict=True))
            expired = {k: one for k, one in found.items() if one.place and one.expires <= limit}
            generation = looked[-1][0]
            if expired:
                generation.remove(expired)
        finally:
            journal.end()
        self._acknowledge(generation)
        return len(expired)

    def _acknowledge(self, generation: Generation) -> None:
        """What a write owes before it returns, with the lock given back."""
        if self.durability == "full":
            self._syncer.sync(generation)
        elif self.durability == "interval" and not self._syncer.unsynced.is_set():
            self._syncer.sync_soon()
        if generation.needs_care:
            self._compaction.soon(generation)

    def _after_fork(self) -> None:
        """In the child."""
        self._journal.after_fork()
        self._compaction.close()
        self._begin()


_instances: weakref.WeakSet[SemidbmStore] = weakref.WeakSet()


def _at_exit() -> None:
    for store in list(_instances):
        with contextlib.suppress(Exception):
            store.close()


atexit.register(_at_exit)
