"""How LibSQLStore runs a statement on a local file."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import libsql

from django_kvsessions.stores.libsql.database import Failed, Result, Value
from django_kvsessions.stores.process import forks
from django_kvsessions.stores.process.locks import make_folder, open_private

__all__ = ["File"]


class File:
    """A database in a local file; each thread has a connection of its own."""

    def __init__(self, path: str, synchronous: str) -> None:
        self.name = f"The libSQL file {path}"
        self.path: str | None = path
        self._path = path
        self._synchronous = synchronous
        self._opened = threading.local()
        self._generation = 0

    def execute(self, sql: str, values: Sequence[Value]) -> Result:
        try:
            cursor = self._connection().execute(sql, tuple(values))
            rows = cursor.fetchall() if sql.startswith("SELECT") else []
        # The driver has no error of its own.
        except (ValueError, OSError) as error:
            raise Failed(str(error) or type(error).__name__) from error
        return Result(rows, cursor.rowcount)

    async def aexecute(self, sql: str, values: Sequence[Value]) -> Result:
        return await asyncio.to_thread(self.execute, sql, values)

    def _connection(self) -> Any:
        mine = self._opened.__dict__
        if mine.get("pid", os.getpid()) != os.getpid():
            # To close it here would take the parent's locks away.
            forks.keep_inherited(mine.pop("connection"))
        if "connection" not in mine or mine["generation"] != self._generation:
            mine.pop("connection", None)
            self._make()
            # The driver would wait for others' locks with the GIL held, and stop every
            # thread, the lock's holder among them: the store waits instead.
            connection = libsql.connect(self._path, timeout=0, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            mine.update(connection=connection, generation=self._generation, pid=os.getpid())
        return mine["connection"]

    def _make(self) -> None:
        """Make the file for its owner only, where there is none; its WAL gets the same mode."""
        if os.path.exists(self._path):
            return
        make_folder(os.path.dirname(self._path))
        # Under another name: to close any descriptor of a database lets go of the locks that
        # the process has on it, and the next one to leave would remove its WAL.
        temporary = f"{self._path}.{os.getpid()}-{threading.get_ident()}"
        os.close(open_private(temporary, os.O_RDWR))
        with suppress(FileExistsError):
            os.link(temporary, self._path)
        os.unlink(temporary)

    def close(self) -> None:
        # A connection is closed by its own thread, at its next use or its end.
        self._generation += 1
        if self._opened.__dict__.get("pid") == os.getpid():
            self._opened.__dict__.pop("connection", None)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)
