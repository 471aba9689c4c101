"""The contract between the session engine and whatever keeps its records.

A store knows nothing of sessions, signing or requests: it keeps ``Record``s
under 32-byte keys. Each method is one atomic step in the backend.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from typing import ClassVar, NamedTuple, ParamSpec, TypeVar

from django.core.checks import CheckMessage

from django_kvsessions.stores.options import whole_number

# Longer than 300 lines: it is the contract, best read in one place.

__all__ = [
    "KEY_SIZE",
    "MAX_REVISION",
    "OWNER_SIZE",
    "Provisional",
    "Record",
    "Store",
    "StoreCorrupted",
    "StoreError",
    "StoreStats",
    "StoreUnavailable",
]

KEY_SIZE = 32
OWNER_SIZE = 16
# Signed 64-bit integers are what every backend can keep.
MAX_REVISION = 2**63 - 1

P = ParamSpec("P")
T = TypeVar("T")


class StoreError(Exception):
    """Something is wrong with a store, not with the session."""


class StoreUnavailable(StoreError):
    """The store cannot answer now: unreachable, full, locked or timed out.

    It says nothing about the session, which may well exist: never treat this
    as a logout. The driver's own error is chained as ``__cause__``.
    """


class StoreCorrupted(StoreError):
    """What the store holds cannot be read and could not be repaired."""


class Record(NamedTuple):
    """One session as a store keeps it.

    ``data`` is opaque. ``expires`` is Unix time in seconds; at or past it the
    record does not exist for anyone. ``revision`` is chosen by the caller,
    from 0 to 2**63 - 1, and differs after every replace. ``owner`` is a
    16-byte digest of the user, or empty.
    """

    data: bytes
    expires: float
    revision: int
    owner: bytes = b""


class StoreStats(NamedTuple):
    """What a store holds now; ``None`` where the backend cannot tell cheaply.

    ``size`` is in bytes, on disk or in memory. ``hits`` and ``misses`` count
    the loads of this process since it started, where the store is a cache.
    ``oldest`` is the Unix time of the first expiry of what is there.
    """

    live: int | None
    expired: int | None
    size: int | None
    hits: int | None = None
    misses: int | None = None
    oldest: float | None = None


class Provisional:
    """A write in a transaction of the site's own, which may be rolled back."""

    #: Stays ``False`` after a rollback, and where nobody can tell what became of it.
    is_committed = False


class Store(ABC):
    """Keeps records under 32-byte keys, each method one atomic step.

    Everywhere: a backend that fails raises ``StoreUnavailable``, damage raises
    ``StoreCorrupted``; a key, record or owner of the wrong shape raises
    ``ValueError`` before anything is written. An unknown outcome is never a
    definite answer: where a request may have been carried out although its
    answer was lost, and what is there now does not prove it either way, that is
    ``StoreUnavailable`` too.

    A store may be used from any number of threads, and reopens by itself what
    must not cross a fork. Its constructor takes LOCATION as ``location`` and
    each key of OPTIONS as a keyword-only argument, imports its driver, and
    raises ``ImproperlyConfigured`` for a wrong value; it opens nothing before
    the first use.
    """

    #: The short methods answer in microseconds, so the async variants call
    #: them on the event loop's own thread instead of hopping to another.
    is_nonblocking: bool = False

    #: Sites need not ask for the automatic clean-up: what is kept is beside the site's processes.
    is_cleaned_by_default: bool = False

    #: LOCATION names a folder, which the system checks look at.
    location_is_folder: ClassVar[bool] = False

    #: What makes copies of the data where ``backup`` does not: the end of a sentence.
    backed_up_by: ClassVar[str] = "use the means of its backend"

    #: The alias of the database in DATABASES that this store lives on, if any: its
    #: ``setup`` is called when ``manage.py migrate`` has run there.
    setup_on_migrate: str | None = None

    def __init__(self, *, max_record_size: int = 1024 * 1024) -> None:
        """``max_record_size``: the most bytes of data that one record may have."""
        self.max_record_size = whole_number("max_record_size", max_record_size, at_least=1)

    @abstractmethod
    def load(self, key: bytes) -> Record | None:
        """The live record under ``key``; ``None`` where there is none or it has expired."""

    @abstractmethod
    def create(self, key: bytes, record: Record) -> bool:
        """Put the record there if the key is free, where expired counts as free.

        ``False``, and nothing changed, where a live record is there already.
        """

    @abstractmethod
    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        """Put the record in the place of a live one; never inserts.

        With ``expected``, only if the live record still has that revision.
        ``False``, and nothing changed, otherwise.
        """

    @abstractmethod
    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        """Move the expiry of a live record; data, revision and owner stay.

        With ``expected``, only if the live record still has that revision.
        ``False``, and nothing changed, otherwise.
        """

    @abstractmethod
    def delete(self, key: bytes) -> bool:
        """Remove the record. ``True`` if a live one was there."""

    @abstractmethod
    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """Remove what has expired; yields how many records each batch removed.

        Live records stay usable meanwhile. A backend that removes expired
        records by itself yields nothing.
        """

    def cleaned_elsewhere(self) -> str | None:
        """Who removes what expires, where this process cannot and ``delete_expired`` yields
        nothing: a sentence for the log of ``clearsessions``. ``None`` where it can."""
        return None

    @abstractmethod
    def scan(self) -> Iterator[tuple[bytes, Record]]:
        """Every live record once, in no order and in bounded memory.

        Records written or deleted meanwhile may or may not appear.
        """

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        """Every live record of one owner. ``ValueError`` for an empty owner."""
        self.check_owner(owner)
        return ((key, record) for key, record in self.scan() if record.owner == owner)

    def provisional(self) -> Provisional | None:
        """What the last write of this thread or task belongs to, where that may yet undo it;
        ``None`` where a write is final. Asks nobody."""
        return None

    def setup(self) -> None:
        """Make tables, indexes, folders or TTLs that are missing; idempotent."""

    def setup_statements(self) -> list[str] | None:
        """What ``setup`` would run now, to be shown; ``None`` where it runs no statements."""
        return None

    def check(self, *, alias: str) -> Iterable[CheckMessage]:
        """System checks of the settings of this store, which open nothing."""
        return ()

    def check_server(self, *, alias: str) -> Iterable[CheckMessage]:
        """System checks that ask the server: for ``check --deploy`` and ``setupsessions``."""
        return ()

    @abstractmethod
    def stats(self) -> StoreStats:
        """How much the store holds now."""

    def backup(self, folder: str | os.PathLike[str]) -> None:
        """Make a copy of all that was acknowledged before this call, while the store is in use.

        The folder appears when the copy is whole and on disk, never before. ``ValueError`` where
        it is there and not empty, or is part of the store; ``NotImplementedError`` where the
        backend has its own means, which the message names.
        """
        raise NotImplementedError(self._makes_no_copies())

    def scan_backup(self, folder: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record]]:
        """Every live record of a copy that ``backup`` has made in the folder.

        ``ValueError`` where there is none, ``StoreCorrupted`` where it does not verify.
        """
        raise NotImplementedError(self._makes_no_copies())

    def _makes_no_copies(self) -> str:
        return f"{type(self).__name__} makes no copies: {self.backed_up_by}."

    def faults(self) -> Iterable[str]:
        """What an operator should look into although the store answers, a sentence each."""
        return ()

    def close(self) -> None:
        """Flush and let go of files and connections; the next use reopens them."""

    # The async variants. A store with an async driver overrides them; every
    # other one gets them from its sync methods.

    async def aload(self, key: bytes) -> Record | None:
        return await self.call_async(self.load, key)

    async def acreate(self, key: bytes, record: Record) -> bool:
        return await self.call_async(self.create, key, record)

    async def areplace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        return await self.call_async(self.replace, key, record, expected=expected)

    async def atouch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        return await self.call_async(self.touch, key, expires, expected=expected)

    async def adelete(self, key: bytes) -> bool:
        return await self.call_async(self.delete, key)

    async def adelete_expired(self, *, batch_size: int = 1000) -> AsyncIterator[int]:
        async for count in self.iterate_in_thread(self.delete_expired(batch_size=batch_size), 1):
            yield count

    async def ascan(self) -> AsyncIterator[tuple[bytes, Record]]:
        async for item in self.iterate_in_thread(self.scan(), 100):
            yield item

    async def ascan_owner(self, owner: bytes) -> AsyncIterator[tuple[bytes, Record]]:
        async for item in self.iterate_in_thread(self.scan_owner(owner), 100):
            yield item

    async def asetup(self) -> None:
        await self.call_in_thread(self.setup)

    async def astats(self) -> StoreStats:
        return await self.call_in_thread(self.stats)

    async def abackup(self, folder: str | os.PathLike[str]) -> None:
        # For a while: not on the threads that a store may keep for short calls.
        await asyncio.to_thread(self.backup, folder)

    async def aclose(self) -> None:
        await self.call_in_thread(self.close)

    # For implementors.

    async def call_async(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a short method: inline where it cannot block, else in a thread."""
        if self.is_nonblocking:
            return function(*args, **kwargs)
        return await self.call_in_thread(function, *args, **kwargs)

    async def call_in_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a method that may wait for a disk or a network."""
        return await asyncio.to_thread(function, *args, **kwargs)

    async def iterate_in_thread(self, iterator: Iterator[T], at_once: int) -> AsyncIterator[T]:
        """Drive an iterator in a thread, ``at_once`` items a hop."""
        while items := await self.call_in_thread(lambda: list(islice(iterator, at_once))):
            for item in items:
                yield item

    def check_key(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"A key has {KEY_SIZE} bytes, not {len(key)}.")

    def check_touch(self, key: bytes, expires: float) -> None:
        self.check_key(key)
        if not math.isfinite(expires):
            raise ValueError(f"The expiry must be a finite Unix time, not {expires}.")

    def check_record(self, key: bytes, record: Record) -> None:
        data, expires, revision, owner = record
        self.check_touch(key, expires)
        if len(data) > self.max_record_size:
            raise ValueError(
                f"A record of {len(data)} bytes is over the limit of "
                f"{self.max_record_size} bytes (OPTIONS['max_record_size'])."
            )
        if not 0 <= revision <= MAX_REVISION:
            raise ValueError(f"A revision is from 0 to 2**63 - 1, not {revision}.")
        if owner and len(owner) != OWNER_SIZE:
            raise ValueError(f"An owner has {OWNER_SIZE} bytes or none, not {len(owner)}.")

    def check_owner(self, owner: bytes) -> None:
        if len(owner) != OWNER_SIZE:
            raise ValueError(f"An owner has {OWNER_SIZE} bytes, not {len(owner)}.")


def now() -> float:
    """Unix time. Looked up at each call, so that tests can freeze it."""
    return time.time()
