"""One LMDB environment for each folder in a process, shared, growing, safe across forks."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.base import StoreCorrupted, StoreError, StoreUnavailable
from django_kvsessions.stores.lmdb.gate import Gate
from django_kvsessions.stores.process import forks

if TYPE_CHECKING:
    import lmdb

    Transaction = lmdb.Transaction[bytes]

__all__ = ["DURABILITY", "Databases", "Options", "check_contents", "shared_folder"]

T = TypeVar("T")

# What each durability asks of LMDB. Never writemap or map_async: a full disk
# kills the process by SIGBUS, and a power cut corrupts the file.
DURABILITY: dict[str, dict[str, bool]] = {
    "safe": {"metasync": False},
    "full": {},
    "process": {"sync": False},
}
MARKER, LAYOUT = b"django_kvsessions", b"1"
FILES = {"data.mdb", "lock.mdb"}

_NO_SPACE = {errno.EDQUOT, errno.EFBIG, errno.EIO}


class Options(NamedTuple):
    """What holds for a whole environment, and so for every store on it."""

    durability: str
    map_size: int
    max_map_size: int
    max_readers: int


class Databases(NamedTuple):
    records: lmdb._Database
    expiry: lmdb._Database
    owners: lmdb._Database


def check_contents(path: str) -> None:
    """Refuse a folder that is somebody else's, before anything is written there."""
    try:
        names = set(os.listdir(path))
    except OSError:
        # Missing, a file or not readable: opening says so, and so do the system checks.
        return
    foreign = sorted(name for name in names - FILES if not name.startswith("."))
    if foreign and "data.mdb" not in names:
        raise ImproperlyConfigured(
            f"LOCATION {path} holds {foreign[0]!r} and no sessions: "
            "name a folder that is empty or does not exist yet."
        )


class Environment:
    """The LMDB environment of one process on one folder, opened on first use.

    Changing the size of the map pulls it from under the transactions of this
    process, so it is done when there are none. Readers of this process never
    wait for a writer of its own or of another.
    """

    def __init__(self, driver: Any, path: str, options: Options) -> None:
        self.driver = driver
        self.path = path
        self.options = options
        self._opened: tuple[lmdb.Environment, Databases] | None = None
        # Alone in it, the environment changes.
        self._gate = Gate()

    def read(self, work: Callable[..., T], *args: Any) -> T:
        """``work(transaction, databases, *args)`` in a read transaction."""
        result: T = self._repeat(self._read, work, args)
        return result

    def write(self, work: Callable[..., T], *args: Any) -> T:
        """The same in a write transaction, once more from the start if the map had to grow."""
        with self._gate.writing:
            result: T = self._repeat(self._write, work, args)
            return result

    def clear_dead_readers(self) -> None:
        """Give back the slots, and the pages, that killed processes held."""
        with self._gate.writing:
            self._repeat(self._clear_dead_readers)

    def close(self) -> None:
        with self._gate:
            if self._opened is None:
                return
            try:
                self._opened[0].sync(True)
            except self.driver.Error as error:
                raise self._explained(error) from error
            finally:
                self._let_go()

    def close_inherited(self) -> None:
        """In a forked child, where nobody waits for this one's locks."""
        self._let_go()

    def _repeat(self, once: Callable[..., Any], *args: Any) -> Any:
        driver, slots_cleared = self.driver, False
        try:
            while True:
                try:
                    return once(*args)
                except driver.MapFullError:
                    self._grow()
                except driver.MapResizedError:
                    # Another process grew the map: take over its size.
                    self._resize(0)
                except driver.ReadersFullError:
                    if slots_cleared:
                        raise
                    slots_cleared = True
                    self.clear_dead_readers()
        except driver.Error as error:
            raise self._explained(error) from error

    def _read(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        while True:
            self._gate.enter()
            try:
                if self._opened is not None:
                    environment, databases = self._opened
                    with environment.begin() as txn:
                        return work(txn, databases, *args)
            finally:
                self._gate.leave()
            self._open()

    def _write(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        environment, databases = self._open()
        with environment.begin(write=True) as txn:
            return work(txn, databases, *args)

    def _clear_dead_readers(self) -> None:
        self._open()[0].reader_check()

    def _grow(self) -> None:
        size, largest = self._open()[0].info()["map_size"], self.options.max_map_size
        if size >= largest:
            raise self.driver.MapFullError("the map has its largest size")
        self._resize(min(2 * size, largest))

    def _resize(self, size: int) -> None:
        with self._gate.writing:
            environment, _ = self._open()
            with self._gate:
                try:
                    environment.set_mapsize(size)
                except self.driver.Error:
                    # The handle is of no use any more: the next use opens another.
                    self._let_go()
                    raise

    def _let_go(self) -> None:
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None

    def _open(self) -> tuple[lmdb.Environment, Databases]:
        """The open environment. To be used with the right to write, so that it stays open."""
        with self._gate.writing:
            if self._opened is None:
                check_contents(self.path)
                self._make_folder()
                environment = self.driver.open(
                    self.path,
                    mode=0o600,
                    map_size=self.options.map_size,
                    max_readers=self.options.max_readers,
                    max_dbs=len(Databases._fields),
                    **DURABILITY[self.options.durability],
                )
                try:
                    environment.reader_check()
                    self._opened = environment, self._databases(environment)
                except BaseException:
                    environment.close()
                    raise
            return self._opened

    def _make_folder(self) -> None:
        try:
            # LMDB would give the folder the mode of its files.
            os.makedirs(self.path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(
                f"The folder {self.path} cannot be made: {error.strerror}. "
                "Correct LOCATION, or make it for the user the site runs as."
            ) from error

    def _databases(self, environment: lmdb.Environment) -> Databases:
        while True:
            try:
                return self._open_databases(environment)
            except self.driver.MapResizedError:
                # LMDB opens a file with a map just as large as its contents are then.
                environment.set_mapsize(0)

    def _open_databases(self, environment: lmdb.Environment) -> Databases:
        # py-lmdb keeps handles to named databases only from a write transaction.
        with environment.begin(write=True) as txn:
            layout = txn.get(MARKER)
            if layout is None and txn.stat()["entries"]:
                raise ImproperlyConfigured(
                    f"LOCATION {self.path} holds an LMDB file of something else: "
                    "name a folder that is empty or does not exist yet."
                )
            if layout not in (None, LAYOUT):
                raise ImproperlyConfigured(
                    f"LOCATION {self.path} was written by a later django-kvsessions: update it."
                )
            databases = Databases(
                *(environment.open_db(name.encode(), txn=txn) for name in Databases._fields)
            )
            if layout is None:
                txn.put(MARKER, LAYOUT)
            return databases

    def _explained(self, error: Any) -> StoreError:
        """The error of the driver, as one that says what to do."""
        driver, path = self.driver, self.path
        if isinstance(error, driver.MapFullError):
            return StoreUnavailable(
                f"LMDB's map in {path} is full at {self.options.max_map_size} bytes: "
                "run clearsessions, or raise OPTIONS['max_map_size']."
            )
        if isinstance(error, driver.ReadersFullError):
            return StoreUnavailable(
                f"All reader slots of LMDB in {path} are taken: raise OPTIONS['max_readers'] "
                "above the number of threads of all processes, and restart them all together, "
                "for the first one that opens the folder decides."
            )
        # LMDB says EIO where only a part of a page fitted on the disk.
        if isinstance(error, driver.DiskError) or error.code in _NO_SPACE:
            return StoreUnavailable(
                f"LMDB could not write to {path}: no space is left on its disk, or the disk "
                "fails. Make room; nothing was changed."
            )
        if isinstance(error, driver.ReadonlyError) or error.code in (errno.EPERM, errno.EROFS):
            return StoreUnavailable(
                f"LMDB may not read and write data.mdb and lock.mdb in {path}: give the folder "
                "and both files to the user the site runs as."
            )
        if isinstance(error, driver.VersionMismatchError) or "format v" in str(error):
            return StoreUnavailable(
                f"{path}/data.mdb was written by a version of LMDB whose format this one does not "
                "read: install the lmdb package that wrote it, or copy the data over with "
                "mdb_dump and mdb_load."
            )
        if isinstance(error, driver.InvalidError):
            return StoreCorrupted(
                f"{path}/data.mdb is not a file of LMDB: name another folder as LOCATION, or "
                "put a backup in its place."
            )
        if isinstance(error, (driver.CorruptedError, driver.PageNotFoundError)):
            return StoreCorrupted(
                f"{path}/data.mdb is damaged ({error}): stop every process that has it open, "
                "and put a backup in its place or remove it."
            )
        if isinstance(error, driver.PanicError):
            # A failed write made the handle useless: the next use opens another.
            with self._gate:
                self._let_go()
        return StoreUnavailable(f"LMDB in {path} failed: {error}")


class Folder:
    """What the stores of a process on one folder share: LMDB must not open it twice.

    Each process has an environment of its own, also one that a server forked
    without Python's knowledge.
    """

    def __init__(self, driver: Any, path: str, options: Options) -> None:
        self.driver = driver
        self.path = path
        self.options = options
        self._environments: dict[int, Environment] = {}
        forks.renew(self.close_inherited)

    @property
    def environment(self) -> Environment:
        process = os.getpid()
        environment = self._environments.get(process)
        return environment if environment is not None else self._new_environment(process)

    def _new_environment(self, process: int) -> Environment:
        with _folders_lock:
            self.close_inherited()
            if process not in self._environments:
                self._environments[process] = Environment(self.driver, self.path, self.options)
            return self._environments[process]

    def close_inherited(self) -> None:
        """In a forked child: LMDB opens the folder again only once the parent's handle is gone."""
        for process in set(self._environments) - {os.getpid()}:
            self._environments.pop(process).close_inherited()


_folders: WeakValueDictionary[str, Folder] = WeakValueDictionary()
_folders_lock = threading.RLock()
forks.hold(_folders_lock)


def shared_folder(driver: Any, path: str, options: Options) -> Folder:
    with _folders_lock:
        folder = _folders.get(path)
        if folder is None:
            folder = _folders[path] = Folder(driver, path, options)
        elif folder.options != options:
            raise ImproperlyConfigured(
                f"LOCATION {path} is used by another store of this process with other options: "
                f"{folder.options}, here {options}. Give both the same, or a folder each."
            )
        return folder
