"""How SurrealDBStore asks: over one connection of the process, on an event loop of its own.

The driver's sync connections to a server wait without a limit, and its sync
engine stops every thread; its async ones do neither. And a file may be opened
once in a process only, whichever threads and event loops use it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.process import forks
from django_kvsessions.stores.process.pauses import pause
from django_kvsessions.stores.surrealdb.background import Background
from django_kvsessions.stores.surrealdb.cleaning import Cleaning
from django_kvsessions.stores.surrealdb.driver import Driver, Late, Locked, Lost, Refused
from django_kvsessions.stores.surrealdb.holder import Holder, holder
from django_kvsessions.stores.surrealdb.settings import Target

__all__ = ["Answer", "Connection"]

T = TypeVar("T")

# Of transactions that stand in each other's way one goes on each time.
_ATTEMPTS = 60


class Answer(NamedTuple):
    #: ``None`` where CREATE found a record.
    result: Any
    #: An answer was lost before this one, to the same statement, which may have been carried out.
    was_lost: bool


class Opened(NamedTuple):
    background: Background
    driver: Driver
    cleaning: Cleaning | None


class Connection:
    """Opened at the first use, in each process, and again after it was closed."""

    def __init__(self, target: Target, timeout: float, expired: str, interval: float) -> None:
        """``expired``: the statement by which an engine in this process is cleaned up, at each
        ``interval``, in seconds."""
        self._target = target
        self._timeout = timeout
        self._expired = expired
        self._interval = interval
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._opened: Opened | None = None

    @property
    def name(self) -> str:
        return f"SurrealDB at {self._target.url} (LOCATION)"

    async def ask(
        self, call: Colour, sql: str, values: Mapping[str, object], *, again: bool = True
    ) -> Answer:
        """The answer to one statement, which is sent once more where an answer is lost.

        One that may not be carried out ``again`` is not; it then seems to have done nothing.
        """
        was_lost = was_tried = False
        for attempt in range(_ATTEMPTS):
            try:
                return Answer(await call(self.query, self.aquery, sql, values), was_lost)
            except Lost as error:
                was_lost = was_lost or error.was_sent
                if was_tried or isinstance(error, Late):
                    raise StoreUnavailable(f"{self.name} does not answer: {error}") from error
                if was_lost and not again:
                    return Answer([], was_lost)
                was_tried = True
                continue
            except Locked as error:
                raise StoreUnavailable(
                    f"{self.name} is in use by another process{self._who()}, and the engine "
                    "keeps a file safe for one only: run a SurrealDB server and name it in "
                    "LOCATION, or use a store for many processes, such as SemidbmStore."
                ) from error
            except Refused as error:
                if "already exists" in str(error):
                    return Answer(None, was_lost)
                conflict = "conflict" in str(error) or "failed transaction" in str(error)
                if not conflict or attempt == _ATTEMPTS - 1:
                    raise StoreUnavailable(f"{self.name} fails: {error}") from error
            await pause(call, random.uniform(0, min(0.001 * 2**attempt, 0.05)))
        raise AssertionError("unreachable")

    def query(self, sql: str, values: Mapping[str, object]) -> Any:
        return self._submit(lambda driver: driver.query(sql, values)).result()

    async def aquery(self, sql: str, values: Mapping[str, object]) -> Any:
        return await asyncio.wrap_future(self._submit(lambda driver: driver.query(sql, values)))

    def elsewhere(self) -> Holder | None:
        """The process that has the file, where this one cannot have it, as far as it says so."""
        if self._target.lock is None:
            return None
        try:
            self.query("RETURN NONE", {})
        except Locked:
            return holder(self._target.lock)
        except (Lost, Refused):
            pass
        return None

    def _who(self) -> str:
        found = None if self._target.lock is None else holder(self._target.lock)
        if found is None:
            return ""
        return f" (process {found.pid}, which last removed what had expired {found.idle:.0f} s ago)"

    def _submit(self, call: Callable[[Driver], Coroutine[object, None, T]]) -> Future[T]:
        if self._pid != os.getpid():
            if self._opened is not None:
                forks.keep_inherited(self._opened)
                self._opened.driver.forget()
            self._begin()
        with self._lock:
            opened = self._opened or self._open()
            return opened.background.submit(call(opened.driver))

    def _open(self) -> Opened:
        if _ending.is_set():
            raise StoreUnavailable(f"{self.name} is closed, since this process is ending.")
        background, driver, cleaning = Background(), Driver(self._target, self._timeout), None
        if self._target.is_embedded:
            cleaning = Cleaning(driver, self._expired, self._interval, self._target.lock)
            background.submit(cleaning.run())
        self._opened = Opened(background, driver, cleaning)
        _connections.add(self)
        return self._opened

    def close(self) -> None:
        if self._pid != os.getpid():
            return
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is not None:
                _connections.discard(self)
                _end(opened, self._timeout)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


def _end(opened: Opened, timeout: float) -> None:
    background, driver, cleaning = opened
    try:
        background.submit(_close(driver, cleaning)).result()
    except Lost as error:
        # The engine may still write: nobody else gets the file.
        raise StoreUnavailable(f"SurrealDB was not closed in good order: {error}") from error
    else:
        driver.leave()
    finally:
        background.stop(timeout)


async def _close(driver: Driver, cleaning: Cleaning | None) -> None:
    if cleaning is not None:
        await cleaning.end()
    await driver.close()


# Also those whose store is gone.
_connections: set[Connection] = set()
_ending = threading.Event()


@atexit.register
def _close_all() -> None:
    _ending.set()
    for connection in list(_connections):
        with suppress(StoreUnavailable):
            connection.close()
