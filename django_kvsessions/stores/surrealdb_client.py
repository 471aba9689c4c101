"""How SurrealDBStore asks: over one connection of the process, on an event loop of its own.

The driver's sync connections to a server wait without a limit, and its sync
engine stops every thread; its async ones do neither. And a file may be opened
once in a process only, whichever threads and event loops use it.

The embedded engines let two transactions both delete or both make the same
record, without a conflict, so the writes to them take turns here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import surrealdb
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.steps import Steps, clock
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.filelock import FileLock, LockTimeout

__all__ = ["connection"]

SERVERS = ("ws", "wss", "http", "https")
FILES = ("surrealkv", "file")
# Of transactions that stand in each other's way one goes on each time.
ATTEMPTS = 60


class Refused(Exception):
    """The statement failed; the database says why."""


class Lost(Exception):
    """There was no answer, or no connection."""


class Late(Lost):
    """There was none in time, which is the limit that a request waits."""


class Locked(Exception):
    """Another process has the file."""


# What a forked child must not collect.
_inherited: list[Any] = []


def connection(
    location: object,
    use: tuple[str, str],
    level: str,
    username: str | None,
    password: str | None,
    timeout: float,
) -> Connection:
    """What LOCATION names, not opened yet; ``ImproperlyConfigured`` for what is wrong."""
    parts = urlsplit(location if isinstance(location, str) else "")
    is_file, is_server = parts.scheme in FILES, parts.scheme in SERVERS
    path = parts.netloc + parts.path
    lacks = (is_file and not path) or (is_server and not parts.hostname)
    if lacks or not (is_file or is_server or location == "mem://"):
        raise ImproperlyConfigured(
            "LOCATION must be wss://, https://, ws:// or http:// and a server, "
            "surrealkv:// or file:// and a path, or mem://."
        )
    if parts.username is not None or parts.query:
        raise ImproperlyConfigured(
            "LOCATION has more than a scheme, a server and a path; credentials go into "
            "OPTIONS['username'] and OPTIONS['password']."
        )
    levels: dict[str, dict[str, str]] = {
        "root": {},
        "namespace": {"namespace": use[0]},
        "database": {"namespace": use[0], "database": use[1]},
    }
    if level not in levels:
        raise ImproperlyConfigured(
            f"OPTIONS['level'] is {level!r}; it may be 'root', 'namespace' or 'database'."
        )
    credentials = None
    if username is not None and password is not None:
        credentials = {"username": username, "password": password, **levels[level]}
    if not is_file:
        return Connection(str(location), None, use, credentials, timeout)
    path = os.path.abspath(path)
    return Connection(f"{parts.scheme}://{path}", f"{path}.lock", use, credentials, timeout)


async def _end(driver: Any) -> None:
    # The one for HTTP has no other way to be closed.
    await driver.__aexit__(None, None, None)


class Connection:
    """Opened at the first use, and again after it was lost, in each process."""

    def __init__(
        self,
        url: str,
        lock: str | None,
        use: tuple[str, str],
        credentials: dict[str, str] | None,
        timeout: float,
    ) -> None:
        """``lock``: the file that only one process at a time may hold. ``use``: namespace
        and database."""
        self._url = url
        self._is_embedded = lock is not None or url == "mem://"
        self._lock_path = lock
        self._use = use
        self._credentials = credentials
        self._timeout = timeout
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._thread_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._driver: Any = None
        self._opening: asyncio.Lock | None = None
        self._writing: asyncio.Lock | None = None
        self._file_lock = None if self._lock_path is None else FileLock(self._lock_path)

    def _submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        if self._pid != os.getpid():
            _inherited.append((self._loop, self._thread, self._driver))
            if self._file_lock is not None:
                self._file_lock.close()
            self._begin()
        with self._thread_lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._opening = self._writing = None
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="surrealdb", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def ask(self, sql: str, values: dict[str, Any]) -> Steps[tuple[Any, bool]]:
        """The answer (``None`` where CREATE found a record), and whether it was asked twice."""
        where = f"SurrealDB at {self._url} (LOCATION)"
        repeated = False
        for attempt in range(ATTEMPTS):
            try:
                return (yield self, "query", (sql, values), {}), repeated
            except Lost as error:
                if repeated or isinstance(error, Late):
                    raise StoreUnavailable(f"{where} does not answer: {error}") from error
                repeated = True
                continue
            except Locked as error:
                raise StoreUnavailable(
                    f"{where} is in use by another process, and the engine keeps a file safe "
                    "for one only: run a SurrealDB server and name it in LOCATION, or use a "
                    "store for many processes, such as SemidbmStore."
                ) from error
            except Refused as error:
                if "already exists" in str(error):
                    return None, repeated
                conflict = "conflict" in str(error) or "failed transaction" in str(error)
                if not conflict or attempt == ATTEMPTS - 1:
                    raise StoreUnavailable(f"{where} fails: {error}") from error
            yield clock, "sleep", (random.uniform(0, min(0.001 * 2**attempt, 0.05)),), {}
        raise AssertionError("unreachable")

    def query(self, sql: str, values: dict[str, Any]) -> Any:
        """The result of one statement; ``Refused``, ``Lost`` or ``Locked``."""
        return self._submit(self._within(self._query(sql, values))).result()

    async def aquery(self, sql: str, values: dict[str, Any]) -> Any:
        return await asyncio.wrap_future(self._submit(self._within(self._query(sql, values))))

    async def _within(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
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

    async def _query(self, sql: str, values: dict[str, Any]) -> Any:
        driver = None
        try:
            driver = await self._opened()
            if self._is_embedded and not sql.startswith("SELECT"):
                assert self._writing is not None
                async with self._writing:
                    answer = await driver.query_raw(sql, values)
            else:
                answer = await driver.query_raw(sql, values)
        except (Refused, Lost, Locked):
            raise
        except Exception as error:
            # Whatever the driver or its transport raises; it has no class for all.
            await self._drop(driver)
            raise Lost(f"{type(error).__name__}: {error}") from error
        if answer.get("error"):
            # A token that has run out, for one: the next connection signs in again.
            await self._drop(driver)
            raise Lost(str(answer["error"].get("message", answer["error"])))
        result = answer["result"][-1]
        if result["status"] != "OK":
            raise Refused(str(result["result"]))
        return result["result"]

    async def _opened(self) -> Any:
        if self._opening is None:
            self._opening, self._writing = asyncio.Lock(), asyncio.Lock()
        async with self._opening:
            if self._driver is None:
                if self._file_lock is not None:
                    try:
                        self._file_lock.acquire(0)
                    except LockTimeout:
                        raise Locked from None
                driver: Any = surrealdb.AsyncSurreal(self._url)
                if self._is_embedded:
                    # The others connect with the first message.
                    await driver.connect()
                if self._credentials is not None:
                    try:
                        await driver.signin(self._credentials)
                    except surrealdb.SurrealError as error:
                        await _end(driver)
                        raise Refused(
                            "sign-in failed (OPTIONS['username'], ['password'] and ['level']): "
                            f"{error}"
                        ) from error
                await driver.use(*self._use)
                self._driver = driver
        return self._driver

    async def _close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            await _end(driver)

    async def _drop(self, driver: Any) -> None:
        """Let the next question open another connection, unless it is an engine of our own."""
        if driver is not None and self._driver is driver and not self._is_embedded:
            self._driver = None
            with contextlib.suppress(Exception):
                await _end(driver)

    def close(self) -> None:
        if self._loop is None or self._pid != os.getpid():
            return
        self._submit(self._within(self._close())).result()
        with self._thread_lock:
            loop, self._loop = self._loop, None
            if loop is not None and self._thread is not None:
                loop.call_soon_threadsafe(loop.stop)
                self._thread.join()
                loop.close()
            if self._file_lock is not None:
                self._file_lock.release()
                self._file_lock.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)
