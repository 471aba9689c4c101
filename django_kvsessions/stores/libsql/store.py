"""Sessions in libSQL: a local file, or a server such as sqld or Turso."""

from __future__ import annotations

import os
import random
import re
import struct
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.steps import Steps, clock
from django_kvsessions.stores.base import (
    Record,
    StoreCorrupted,
    StoreError,
    StoreStats,
    StoreUnavailable,
    now,
)
from django_kvsessions.stores.libsql.table import statements
from django_kvsessions.stores.paged import Page, PagedStore, check_timeout

__all__ = ["LibSQLStore"]

# The driver turns integers from 2**31 on into floats, so both are blobs. Big-endian ones
# sort as what they stand for.
_TIME = struct.Struct(">d")
_REVISION = struct.Struct(">Q")

# What a scan reads at once, at least one record: servers refuse answers over 10 MB, and
# JSON takes several times that in memory.
_ROWS = 200
_BYTES = 64 * 1024


class LibSQLStore(PagedStore):
    """Keeps records in a table of libSQL, with indexes by expiry and by owner.

    LOCATION is the path of a file, for any number of processes on one machine,
    or the URL of a server, for many machines: ``libsql://`` (with TLS),
    ``https://`` or ``http://``. ``manage.py setupsessions`` makes the table.

    While a statement runs on a file, the driver stops the other threads of the
    process; on a server it does not. The clocks of the web servers decide what
    has expired, so keep them in step.
    """

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
            raise ImproperlyConfigured(
                f"OPTIONS['table'] must be letters, digits and underscores, not {table!r}."
            )
        check_timeout(timeout)
        try:
            from django_kvsessions.stores import libsql_client
        except ImportError as error:
            raise ImproperlyConfigured(
                "LibSQLStore needs libsql and httpx: pip install django-kvsessions[libsql]"
            ) from error
        self._database = libsql_client.database(
            os.fspath(location), auth_token, ca_certs, timeout, durability
        )
        self._table = table
        self._timeout = timeout
        self._sql = statements(table)

    def _load(self, key: bytes) -> Steps[Record | None]:
        rows, _, _ = yield from self._execute("load", key, _time(now()))
        return _record(rows[0]) if rows else None

    def _create(self, key: bytes, record: Record) -> Steps[bool]:
        values = key, *_values(record), _time(now())
        return (yield from self._put("create", values, key, record))

    def _replace(self, key: bytes, record: Record, expected: int | None) -> Steps[bool]:
        values = *_values(record), key, _time(now())
        if expected is None:
            return (yield from self._put("replace", values, key, record))
        values = *values, _REVISION.pack(expected)
        return (yield from self._put("swap", values, key, record))

    def _touch(self, key: bytes, expires: float) -> Steps[bool]:
        _, count, _ = yield from self._execute("touch", _time(expires), key, _time(now()))
        return count > 0

    def _delete(self, key: bytes) -> Steps[bool]:
        _, count, _ = yield from self._execute("delete", key, _time(now()))
        return count > 0

    def _delete_batch(self, moment: float, batch_size: int) -> Steps[int | None]:
        _, count, _ = yield from self._execute("clean", _time(moment), batch_size)
        return count or None

    def _page(self, owner: bytes | None, start: Any) -> Steps[Page]:
        values = [_time(now()), start or b"", _ROWS, _BYTES]
        name = "page"
        if owner is not None:
            name = "owned"
            values.insert(0, owner)
        rows, _, _ = yield from self._execute(name, *values)
        return [(row[-1], _record(row)) for row in rows], rows[-1][-1] if rows else None

    def _setup(self) -> Steps[None]:
        for name in ("table", "by expiry", "by owner"):
            yield from self._execute(name)

    def _stats(self) -> Steps[StoreStats]:
        """``size`` is that of the whole database."""
        [counts], _, _ = yield from self._execute("stats", _time(now()), _time(now()))
        return StoreStats(*counts)

    def close(self) -> None:
        self._database.close()

    async def aclose(self) -> None:
        await self._database.aclose()

    def _put(self, name: str, values: tuple[Any, ...], key: bytes, record: Record) -> Steps[bool]:
        _, count, repeated = yield from self._execute(name, *values)
        return (yield from self._was_put(count > 0, repeated, key, record))

    def _execute(self, name: str, *values: Any) -> Steps[tuple[list[Any], int, bool]]:
        """Rows, how many were changed, and whether it was sent twice."""
        waited, pause = 0.0, 0.0005
        repeated = False
        while True:
            try:
                call = self._sql[name], values
                rows, count = yield self._database, "execute", call, {}
                return rows, count, repeated
            except self._database.errors as error:
                if "database is locked" in str(error) and waited < self._timeout:
                    waited, pause = waited + pause, min(pause * 1.5, 0.05)
                elif self._database.is_lost(error) and not repeated:
                    repeated = True
                    continue
                else:
                    raise self._failure(error) from error
            yield clock, "sleep", (pause * random.uniform(0.5, 1),), {}

    def _failure(self, error: Exception) -> StoreError:
        where = f"{self._database.name} (LOCATION)"
        text = str(error) or type(error).__name__
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


def _time(moment: float) -> bytes:
    # Before 1970 is as expired as 1970.
    return _TIME.pack(max(0.0, moment))


def _values(record: Record) -> tuple[bytes | None, ...]:
    data, expires, revision, owner = record
    return data, _time(expires), _REVISION.pack(revision), owner or None


def _record(row: tuple[Any, ...]) -> Record:
    data, expires, revision, owner = row[:4]
    return Record(data, _TIME.unpack(expires)[0], _REVISION.unpack(revision)[0], owner or b"")
