"""How SurrealDBStore asks: over one connection of the process, on an event loop of its own.

The driver's sync connections to a server wait without a limit, and its sync
engine stops every thread; its async ones do neither. And a file may be opened
once in a process only, whichever threads and event loops use it.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.steps import Steps, clock
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.surrealdb.driver import Driver, Late, Locked, Lost, Refused

__all__ = ["connection"]

SERVERS = ("ws", "wss", "http", "https")
FILES = ("surrealkv", "file")
# Of transactions that stand in each other's way one goes on each time.
ATTEMPTS = 60

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
    url, lock = str(location), None
    if is_file:
        path = os.path.abspath(path)
        url, lock = f"{parts.scheme}://{path}", f"{path}.lock"
    return Connection(url, lambda: Driver(url, lock, use, credentials, timeout))


class Connection:
    """Opened at the first use, in each process, and again after it was closed."""

    def __init__(self, url: str, make: Callable[[], Driver]) -> None:
        self._url = url
        self._make = make
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._thread_lock = threading.Lock()
        self._opened: tuple[asyncio.AbstractEventLoop, threading.Thread, Driver] | None = None

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
        return self._submit(lambda driver: driver.query(sql, values)).result()

    async def aquery(self, sql: str, values: dict[str, Any]) -> Any:
        future = self._submit(lambda driver: driver.query(sql, values))
        return await asyncio.wrap_future(future)

    def _submit(self, call: Callable[[Driver], Coroutine[Any, Any, Any]]) -> Future[Any]:
        if self._pid != os.getpid():
            if self._opened is not None:
                _inherited.append(self._opened)
                self._opened[2].forget()
            self._begin()
        with self._thread_lock:
            if self._opened is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=loop.run_forever, name="surrealdb", daemon=True)
                self._opened = loop, thread, self._make()
                thread.start()
            loop, _, driver = self._opened
            return asyncio.run_coroutine_threadsafe(call(driver), loop)

    def close(self) -> None:
        if self._opened is None or self._pid != os.getpid():
            return
        self._submit(lambda driver: driver.close()).result()
        with self._thread_lock:
            opened, self._opened = self._opened, None
            if opened is not None:
                loop, thread, driver = opened
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.close()
                driver.leave()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)
