"""Sessions in libSQL: a local file, or a server such as sqld or Turso."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.colours import Colour, blocking, run
from django_kvsessions.stores import options
from django_kvsessions.stores.base import (
    Record,
    StoreCorrupted,
    StoreError,
    StoreStats,
    StoreUnavailable,
    now,
)
from django_kvsessions.stores.libsql.database import Failed, Lost, Row, Value
from django_kvsessions.stores.libsql.rows import from_row, revision_value, time_value, to_values
from django_kvsessions.stores.libsql.table import statements
from django_kvsessions.stores.paged import Page, PagedStore, unknown_outcome
from django_kvsessions.stores.process.copies import copy_in, whole_folder
from django_kvsessions.stores.process.pauses import pause

__all__ = ["LibSQLStore"]

# What a scan reads at once, at least one record: servers refuse answers over 10 MB, and
# JSON takes several times that in memory.
_ROWS = 200
_BYTES = 64 * 1024
#: The file that a copy is.
_COPY = "sessions.db"


class Answer(NamedTuple):
    rows: list[Row]
    #: How many rows were changed.
    changed: int
    #: An answer was lost before this one, to the same statement, which may have been carried out.
    was_lost: bool


class LibSQLStore(PagedStore[bytes]):
    """Keeps records in a table of libSQL, with indexes by expiry and by owner.

    LOCATION is the path of a file, for any number of processes on one machine,
    or the URL of a server, for many machines: ``libsql://`` (with TLS),
    ``https://`` or ``http://``. ``manage.py setupsessions`` makes the table.

    While a statement runs on a file, the driver stops the other threads of the
    process; on a server it does not. The clocks of the web servers decide what
    has expired, so keep them in step.
    """

    backed_up_by = "have the server's own backups, such as sqld's snapshots or Turso's branches"

    def __init__(
        self,
        location: str | os.PathLike[str] | None = None,
        *,
        table: str = "django_kvsessions",
        auth_token: str | None = None,
        ca_certs: str | None = None,
        timeout: float = 3.0,
        durability: str = "safe",
        max_record_size: int = 1024 * 1024,
    ) -> None:
        """``auth_token`` and ``ca_certs``, the path of certificates to trust instead of the
        system's, are for servers. ``timeout``: the seconds to wait for an answer, or for the
        lock of a file. ``durability`` of a file: after a power cut, "safe" may have lost the
        last commits, "full" none; neither corrupts.
        """
        super().__init__(max_record_size=max_record_size)
        if not location or not isinstance(location, str | os.PathLike):
            raise ImproperlyConfigured(
                f"LOCATION must be the path of a file or the URL of a server, not {location!r}."
            )
        if not isinstance(table, str) or not re.fullmatch(r"[A-Za-z_]\w{0,62}", table, re.ASCII):
            options.refuse("table", "up to 63 letters, digits and underscores", table)
        self._timeout = options.seconds("timeout", timeout)
        with options.driver("libsql", "LibSQLStore needs libsql and httpx"):
            from django_kvsessions.stores.libsql import client
        self._database = client.database(
            os.fspath(location), auth_token, ca_certs, timeout, durability
        )
        self.is_cleaned_by_default = self._database.path is not None
        self.has_server = "://" in os.fspath(location)
        self._table = table
        self._sql = statements(table)

    async def _load(self, call: Colour, key: bytes) -> Record | None:
        answer = await self._execute(call, "load", key, time_value(now()))
        return from_row(answer.rows[0]) if answer.rows else None

    async def _create(self, call: Colour, key: bytes, record: Record) -> bool:
        values = key, *to_values(record), time_value(now())
        # Twice, it could bring back what another has ended since the first time.
        answer = await self._execute(call, "create", *values, again=False)
        return await self._was_done(call, key, record, answer)

    async def _replace(
        self, call: Colour, key: bytes, record: Record, expected: int | None
    ) -> bool:
        values = *to_values(record), key, time_value(now())
        if expected is None:
            answer = await self._execute(call, "replace", *values, again=False)
        else:
            answer = await self._execute(call, "swap", *values, revision_value(expected))
        return await self._was_done(call, key, record, answer)

    async def _was_done(self, call: Colour, key: bytes, record: Record, answer: Answer) -> bool:
        return await self._was_put(
            call, key, record, changed=answer.changed > 0, repeated=answer.was_lost
        )

    async def _touch(self, call: Colour, key: bytes, expires: float, expected: int | None) -> bool:
        values: tuple[Value, ...] = time_value(expires), key, time_value(now())
        name = "touch"
        if expected is not None:
            name, values = "touch at", (*values, revision_value(expected))
        answer = await self._execute(call, name, *values, again=False)
        if not answer.was_lost:
            return answer.changed > 0
        there = await self._load(call, key)
        if there is None or there.expires != expires or expected not in (None, there.revision):
            raise unknown_outcome()
        return True

    async def _delete(self, call: Colour, key: bytes) -> bool:
        answer = await self._execute(call, "delete", key, time_value(now()), again=False)
        if answer.was_lost:
            raise unknown_outcome()
        return answer.changed > 0

    async def _delete_batch(self, call: Colour, moment: float, batch_size: int) -> int | None:
        answer = await self._execute(call, "clean", time_value(moment), batch_size, again=False)
        if answer.was_lost:
            raise unknown_outcome()
        return answer.changed or None

    async def _page(self, call: Colour, owner: bytes | None, start: bytes | None) -> Page[bytes]:
        values: tuple[Value, ...] = time_value(now()), start or b"", _ROWS, _BYTES
        if owner is None:
            answer = await self._execute(call, "page", *values)
        else:
            answer = await self._execute(call, "owned", owner, *values)
        items = [(row[-1], from_row(row)) for row in answer.rows]
        return items, items[-1][0] if items else None

    async def _setup(self, call: Colour) -> None:
        for name in ("table", "by expiry", "by owner"):
            await self._execute(call, name)

    async def _stats(self, call: Colour) -> StoreStats:
        """``size`` is that of the whole database."""
        answer = await self._execute(call, "stats", time_value(now()), time_value(now()))
        return StoreStats(*answer.rows[0])

    def backup(self, folder: str | os.PathLike[str]) -> None:
        """Of a file, as one statement of the engine's: the driver stops the other threads of
        this process meanwhile, so leave it to one of its own, such as the command."""
        if self._database.path is None:
            super().backup(folder)
        with whole_folder(folder) as temporary:
            path = os.path.join(temporary, _COPY)
            # The driver takes no text as a value.
            quoted = path.replace("'", "''")
            run(self._run(blocking, f"VACUUM INTO '{quoted}'", (), again=False))

    def scan_backup(self, folder: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record]]:
        if self._database.path is None:
            super().scan_backup(folder)
        with closing(LibSQLStore(copy_in(folder, _COPY), table=self._table)) as copy:
            yield from copy.scan()

    def close(self) -> None:
        self._database.close()

    async def aclose(self) -> None:
        await self._database.aclose()

    async def _execute(self, call: Colour, name: str, *values: Value, again: bool = True) -> Answer:
        """As ``_run``, of a statement on the table."""
        return await self._run(call, self._sql[name], values, again=again)

    async def _run(
        self, call: Colour, sql: str, values: tuple[Value, ...], *, again: bool
    ) -> Answer:
        """The answer to a statement, which waits for locks and is sent once more where one is lost.

        One that may not be carried out ``again`` is not; it then seems to have done nothing.
        """
        waited, step = 0.0, 0.0005
        was_lost = was_tried = False
        while True:
            try:
                rows, changed = await call(
                    self._database.execute, self._database.aexecute, sql, values
                )
                return Answer(rows, changed, was_lost)
            except Lost as error:
                was_lost = was_lost or error.was_sent
                if was_lost and not again:
                    return Answer([], 0, was_lost)
                if was_tried:
                    raise self._failure(error) from error
                was_tried = True
                continue
            except Failed as error:
                if "database is locked" not in str(error) or waited >= self._timeout:
                    raise self._failure(error) from error
            waited, step = waited + step, min(step * 1.5, 0.05)
            await pause(call, step * random.uniform(0.5, 1))

    def _failure(self, error: Failed) -> StoreError:
        where = f"{self._database.name} (LOCATION)"
        text = str(error)
        if "no such table" in text:
            return StoreUnavailable(
                f"{where} has no table {self._table} (OPTIONS['table']): run manage.py "
                "setupsessions."
            )
        if "no such column" in text or "has no column" in text:
            return StoreUnavailable(
                f"The table {self._table} (OPTIONS['table']) at {where} is not one of "
                f"sessions: {text}"
            )
        if "not a database" in text or "malformed" in text:
            return StoreCorrupted(f"{where} is damaged or no database: {text}")
        if "status 401" in text or "status 403" in text:
            return StoreUnavailable(f"{where} refuses OPTIONS['auth_token']: {text}")
        if "database is locked" in text:
            return StoreUnavailable(
                f"{where} was locked by others for OPTIONS['timeout'], {self._timeout} seconds."
            )
        return StoreUnavailable(f"{where} fails: {text}")
