"""The driver of SurrealDBStore, on one event loop: connecting, asking, and what went wrong.

The embedded engines let two transactions both delete or both make the same
record, without a conflict, so the writes to them take turns here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar

import surrealdb

from django_kvsessions.stores.process.locks import FileLock, LockTimeout
from django_kvsessions.stores.surrealdb.holder import sign
from django_kvsessions.stores.surrealdb.settings import Target

__all__ = ["Driver", "Late", "Locked", "Lost", "Refused"]


T = TypeVar("T")
#: Of one of the driver's three classes: their types leave out that an engine needs no URL.
Connection: TypeAlias = Any


class Refused(Exception):
    """The statement failed; the database says why."""


class Lost(Exception):
    """There was no answer, or no connection."""

    #: The statement may have been carried out.
    was_sent = True


class Unsent(Lost):
    """There was no connection to send the statement over."""

    was_sent = False


class Late(Lost):
    """There was none in time, which is the limit that a request waits."""


class Locked(Exception):
    """Another process has the file."""


class Driver:
    """A connection, made at the first question, and again after it was lost."""

    def __init__(self, target: Target, timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        self._file_lock = None if target.lock is None else FileLock(target.lock)
        self._driver: Connection = None
        self._opening = asyncio.Lock()
        self._writing = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._driver is not None

    async def query(self, sql: str, values: Mapping[str, object]) -> Any:
        """The result of one statement; ``Refused``, ``Lost`` or ``Locked``."""
        return await self._within(self._query(sql, values))

    async def close(self) -> None:
        await self._within(self._close())

    def leave(self) -> None:
        """Let others have the file, once closed."""
        if self._file_lock is not None:
            self._file_lock.release()
            self._file_lock.close()

    def forget(self) -> None:
        """What a forked child does with its parent's, whose lock stays."""
        if self._file_lock is not None:
            self._file_lock.close()

    async def _within(self, coroutine: Coroutine[object, None, T]) -> T:
        task = asyncio.ensure_future(coroutine)
        done, _ = await asyncio.wait({task}, timeout=self._timeout)
        if not done:
            task.cancel()
            raise Late(f"no answer within OPTIONS['timeout'], {self._timeout} seconds")
        if task.cancelled():
            # So the driver tells of a connection that has ended.
            await self._drop(self._driver)
            raise Lost("the connection was lost")
        return task.result()

    async def _query(self, sql: str, values: Mapping[str, object]) -> Any:
        driver = None
        try:
            driver = await self._opened()
            if self._target.is_embedded and not sql.startswith("SELECT"):
                async with self._writing:
                    answer = await driver.query_raw(sql, values)
            else:
                answer = await driver.query_raw(sql, values)
        except (Refused, Lost, Locked):
            raise
        except Exception as error:
            # Whatever the driver or its transport raises; it has no class for all.
            await self._drop(driver)
            refused = getattr(error, "errno", None) == errno.ECONNREFUSED
            lost = Unsent if driver is None or refused else Lost
            raise lost(f"{type(error).__name__}: {error}") from error
        if answer.get("error"):
            # A token that has run out, for one: the next connection signs in again.
            await self._drop(driver)
            raise Lost(str(answer["error"].get("message", answer["error"])))
        result = answer["result"][-1]
        if result["status"] != "OK":
            raise Refused(str(result["result"]))
        return result["result"]

    async def _opened(self) -> Connection:
        async with self._opening:
            if self._driver is None:
                self._take_file()
                self._driver = await self._connect()
        return self._driver

    def _take_file(self) -> None:
        if self._file_lock is not None:
            try:
                self._file_lock.acquire(0)
            except LockTimeout:
                raise Locked from None
            sign(self._file_lock.path)

    async def _connect(self) -> Connection:
        driver: Connection = surrealdb.AsyncSurreal(self._target.url)
        if self._target.is_embedded:
            # The others connect with the first message.
            await driver.connect()
        if self._target.credentials is not None:
            try:
                await driver.signin(self._target.credentials)
            except surrealdb.SurrealError as error:
                await _end(driver)
                raise Refused(
                    f"sign-in failed (OPTIONS['username'], ['password'] and ['level']): {error}"
                ) from error
        await driver.use(self._target.namespace, self._target.database)
        return driver

    async def _close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            await _end(driver)

    async def _drop(self, driver: Connection) -> None:
        """Let the next question open another connection, unless it is an engine of our own."""
        if driver is not None and self._driver is driver and not self._target.is_embedded:
            self._driver = None
            with contextlib.suppress(Exception):
                await _end(driver)


async def _end(driver: Connection) -> None:
    # The one for HTTP has no other way to be closed.
    await driver.__aexit__(None, None, None)
