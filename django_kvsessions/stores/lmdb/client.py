"""An LMDB environment that grows while the threads of a process use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.base import StoreError, StoreUnavailable
from django_kvsessions.stores.lmdb.errors import explained
from django_kvsessions.stores.lmdb.gate import Gate
from django_kvsessions.stores.lmdb.table import Databases, open_databases
from django_kvsessions.stores.process.locks import FileLock, fcntl, keep_out_of_git

if TYPE_CHECKING:
    import lmdb

    from django_kvsessions.stores.lmdb.table import Transaction

__all__ = ["DURABILITY", "Environment", "Options", "check_contents"]

T = TypeVar("T")

# What each durability asks of LMDB. Never writemap or map_async: a full disk
# kills the process by SIGBUS, and a power cut corrupts the file.
DURABILITY: dict[str, dict[str, bool]] = {
    "safe": {"metasync": False},
    "full": {},
    "process": {"sync": False},
}
FILES = {"data.mdb", "lock.mdb", "writers.lock"}


class Options(NamedTuple):
    """What holds for a whole environment, and so for every store on it."""

    durability: str
    map_size: int
    max_map_size: int
    max_readers: int


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

    def __init__(self, driver: ModuleType, path: str, options: Options) -> None:
        self.driver = driver
        self.path = path
        self.options = options
        self._opened: tuple[lmdb.Environment, Databases] | None = None
        # Alone in it, the environment changes.
        self._gate = Gate()
        # LMDB has a lock for writers. But a process that is killed when it has just been told
        # that it is free takes the word along, and others that wait sleep on. With this one
        # taken first, which the system hands on, nobody waits for that.
        self._writers = FileLock(os.path.join(path, "writers.lock"))

    def read(self, work: Callable[..., T], *args: object) -> T:
        """``work(transaction, databases, *args)`` in a read transaction."""
        result: T = self._repeat(self._read, work, args)
        return result

    def write(self, work: Callable[..., T], *args: object) -> T:
        """The same in a write transaction, once more from the start if the map had to grow."""
        with self._gate.writing:
            result: T = self._repeat(self._write, work, args)
            return result

    def copy(self, path: str) -> None:
        """LMDB's own copy, into a new file: one long read, whose pages are not reused meanwhile.

        ``OSError`` where it cannot be written.
        """

        def copy(txn: Transaction, databases: Databases) -> None:
            assert self._opened is not None
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                self._opened[0].copyfd(descriptor, compact=True)
            except self.driver.MapResizedError:
                raise
            except self.driver.Error as error:
                raise OSError(str(error)) from error
            finally:
                os.close(descriptor)

        self.read(copy)

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

    def _repeat(self, once: Callable[..., T], *args: object) -> T:
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
            if isinstance(error, driver.PanicError):
                # A failed write made the handle useless: the next use opens another.
                with self._gate:
                    self._let_go()
            raise self._explained(error) from error

    def _explained(self, error: lmdb.Error) -> StoreError:
        return explained(error, self.driver, self.path, self.options.max_map_size)

    def _read(self, work: Callable[..., T], args: tuple[object, ...]) -> T:
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

    def _write(self, work: Callable[..., T], args: tuple[object, ...]) -> T:
        environment, databases = self._open()
        with self._turn(), environment.begin(write=True) as txn:
            return work(txn, databases, *args)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Be the one process that writes. With the right to write."""
        # Windows has no flock, and no such lock of LMDB's.
        if fcntl is None:
            yield
            return
        try:
            self._writers.acquire()
        except OSError as error:
            raise StoreUnavailable(
                f"{self._writers.path} cannot be locked: {error.strerror}. "
                "Give the folder and its files to the user the site runs as."
            ) from error
        try:
            yield
        finally:
            self._writers.release()

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
        self._writers.close()
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None

    def _open(self) -> tuple[lmdb.Environment, Databases]:
        """The open environment. To be used with the right to write, so that it stays open."""
        with self._gate.writing:
            if self._opened is None:
                check_contents(self.path)
                self._make_folder()
                with self._turn():
                    environment = self._environment()
                    try:
                        environment.reader_check()
                        self._opened = environment, self._databases(environment)
                    except BaseException:
                        environment.close()
                        raise
            return self._opened

    def _environment(self) -> lmdb.Environment:
        while True:
            # The driver begins a transaction too, and another process may have grown the map
            # since the file was opened.
            with suppress(self.driver.MapResizedError):
                environment: lmdb.Environment = self.driver.open(
                    self.path,
                    mode=0o600,
                    map_size=self.options.map_size,
                    max_readers=self.options.max_readers,
                    max_dbs=len(Databases._fields),
                    **DURABILITY[self.options.durability],
                )
                return environment

    def _make_folder(self) -> None:
        try:
            # LMDB would give the folder the mode of its files.
            if not os.path.isdir(self.path):
                os.makedirs(self.path, mode=0o700, exist_ok=True)
                keep_out_of_git(self.path)
        except OSError as error:
            raise StoreUnavailable(
                f"The folder {self.path} cannot be made: {error.strerror}. "
                "Correct LOCATION, or make it for the user the site runs as."
            ) from error

    def _databases(self, environment: lmdb.Environment) -> Databases:
        while True:
            try:
                return open_databases(environment, self.path)
            except self.driver.MapResizedError:
                # LMDB opens a file with a map just as large as its contents are then.
                environment.set_mapsize(0)
