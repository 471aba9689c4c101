"""Sessions in SurrealDB: a server, or its engine in this process."""

from __future__ import annotations

import os
import random
import re
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.steps import Steps, clock
from django_kvsessions.stores.base import Record, StoreStats, StoreUnavailable, now
from django_kvsessions.stores.stepped import Page, SteppedStore

__all__ = ["SurrealDBStore"]

_SERVERS = ("ws", "wss", "http", "https")
_FILES = ("surrealkv", "file")
# Records read at once while scanning.
_ROWS = 8
# Of transactions that stand in each other's way one goes on each time.
_ATTEMPTS = 60


class SurrealDBStore(SteppedStore):
    """Keeps records in a table of SurrealDB, with indexes by expiry and by owner.

    LOCATION is the URL of a server, for many machines (``wss://``, ``https://``,
    ``ws://``, ``http://``), a file for one process alone (``surrealkv:///path``,
    ``file:///path``), or ``mem://``, which is gone with the process. The
    engine would let two processes damage each other's file without an error,
    so a second one is refused. ``manage.py setupsessions`` makes the table.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

    def __init__(
        self,
        location: str | None = None,
        *,
        namespace: str = "django",
        database: str = "sessions",
        table: str = "django_kvsessions",
        username: str | None = None,
        password: str | None = None,
        level: str = "root",
        timeout: float = 5.0,
        max_record_size: int = 1024 * 1024,
    ) -> None:
        """``level``: where ``username`` is defined, "root", "namespace" or "database".
        ``timeout``: the seconds to wait for an answer."""
        super().__init__(max_record_size=max_record_size)
        for name, value in (("namespace", namespace), ("database", database), ("table", table)):
            if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII):
                raise ImproperlyConfigured(
                    f"OPTIONS[{name!r}] must be letters, digits and underscores, not {value!r}."
                )
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
            raise ImproperlyConfigured(f"OPTIONS['timeout'] must be seconds, not {timeout!r}.")
        parts = urlsplit(location if isinstance(location, str) else "")
        is_file, is_server = parts.scheme in _FILES, parts.scheme in _SERVERS
        path = parts.netloc + parts.path
        if (
            (is_file and not path)
            or (is_server and not parts.hostname)
            or (not is_file and not is_server and location != "mem://")
        ):
            raise ImproperlyConfigured(
                "LOCATION must be wss://, https://, ws:// or http:// and a server, "
                "surrealkv:// or file:// and a path, or mem://."
            )
        if parts.username is not None or parts.query:
            raise ImproperlyConfigured(
                "LOCATION has more than a scheme, a server and a path; credentials go into "
                "OPTIONS['username'] and OPTIONS['password']."
            )
        levels = {"root": {}, "namespace": {"namespace": namespace}}
        levels["database"] = {"namespace": namespace, "database": database}
        if level not in levels:
            raise ImproperlyConfigured(
                f"OPTIONS['level'] is {level!r}; it may be 'root', 'namespace' or 'database'."
            )
        if (username is None) != (password is None):
            raise ImproperlyConfigured(
                "OPTIONS['username'] and OPTIONS['password'] need each other."
            )
        try:
            from surrealdb import RecordID

            from django_kvsessions.stores import surrealdb_client
        except ImportError as error:
            raise ImproperlyConfigured(
                "SurrealDBStore needs the package surrealdb: "
                "pip install django-kvsessions[surrealdb]"
            ) from error
        credentials: dict[str, str] | None = None
        if username is not None and password is not None:
            credentials = {"username": username, "password": password, **levels[level]}
        self._where = f"SurrealDB at {location} (LOCATION)"
        self._table = table
        self._id = lambda key: RecordID(table, key.hex())
        self._client = surrealdb_client
        self._connection = surrealdb_client.Connection(
            f"{parts.scheme}://{os.path.abspath(path)}" if is_file else str(location),
            f"{os.path.abspath(path)}.lock" if is_file else None,
            (namespace, database),
            credentials,
            timeout,
        )

    def _load(self, key: bytes) -> Steps[Record | None]:
        rows, _ = yield from self._ask("SELECT * FROM $id WHERE expires > $now", id=self._id(key))
        return _record(rows[0]) if rows else None

    def _create(self, key: bytes, record: Record) -> Steps[bool]:
        values = {"id": self._id(key), "content": _content(record)}
        try:
            yield from self._ask("CREATE $id CONTENT $content RETURN NONE", **values)
            return True
        except StoreUnavailable as error:
            if "already exists" not in str(error.__cause__):
                raise
        # It may be one that has expired, which counts as absent.
        rows, repeated = yield from self._ask(
            "UPDATE $id CONTENT $content WHERE expires <= $now RETURN VALUE expires", **values
        )
        return (yield from self._was_put(bool(rows), repeated, key, record))

    def _replace(self, key: bytes, record: Record, expected: int | None) -> Steps[bool]:
        condition = "" if expected is None else "AND revision = $expected"
        rows, repeated = yield from self._ask(
            f"UPDATE $id CONTENT $content WHERE expires > $now {condition} RETURN VALUE expires",
            id=self._id(key),
            content=_content(record),
            expected=expected,
        )
        return (yield from self._was_put(bool(rows), repeated, key, record))

    def _touch(self, key: bytes, expires: float) -> Steps[bool]:
        rows, _ = yield from self._ask(
            "UPDATE $id SET expires = $expires WHERE expires > $now RETURN VALUE expires",
            id=self._id(key),
            expires=max(0.0, expires),
        )
        return bool(rows)

    def _delete(self, key: bytes) -> Steps[bool]:
        rows, _ = yield from self._ask(
            "DELETE $id WHERE expires > $now RETURN VALUE $before.expires", id=self._id(key)
        )
        return bool(rows)

    def _delete_batch(self, moment: float, batch_size: int) -> Steps[int | None]:
        # Less than a number is also what is no number, such as what another made there.
        rows, _ = yield from self._ask(
            f"DELETE (SELECT VALUE id FROM {self._table} WHERE expires >= 0 "
            "AND expires <= $moment LIMIT $limit) RETURN VALUE $before.expires",
            moment=moment,
            limit=batch_size,
        )
        return len(rows) or None

    def _page(self, owner: bytes | None, start: Any) -> Steps[Page]:
        if owner is None:
            after = "" if start is None else f":`{start}`>.."
            rows, _ = yield from self._ask(
                f"SELECT * FROM {self._table}{after} WHERE expires > $now LIMIT {_ROWS}"
            )
            start = rows[-1]["id"].id if rows else None
        else:
            if start is None:
                # Few, and short.
                start, _ = yield from self._ask(
                    f"SELECT VALUE id FROM {self._table} WHERE owner = $owner", owner=owner
                )
            rows, _ = yield from self._ask(
                "SELECT * FROM $ids WHERE owner = $owner AND expires > $now",
                ids=start[:_ROWS],
                owner=owner,
            )
            start = start[_ROWS:] or None
        return [(bytes.fromhex(row["id"].id), _record(row)) for row in rows], start

    def _setup(self) -> Steps[None]:
        table = self._table
        yield from self._ask(f"DEFINE TABLE IF NOT EXISTS {table} SCHEMALESS")
        for field in ("expires", "owner"):
            yield from self._ask(
                f"DEFINE INDEX IF NOT EXISTS {table}_{field} ON {table} FIELDS {field}"
            )

    def _stats(self) -> Steps[StoreStats]:
        counts = []
        for condition in ("expires > $now", "expires <= $now"):
            rows, _ = yield from self._ask(
                f"SELECT count() FROM {self._table} WHERE {condition} GROUP ALL"
            )
            counts.append(rows[0]["count"] if rows else 0)
        return StoreStats(counts[0], counts[1], None)

    def close(self) -> None:
        self._connection.close()

    async def aclose(self) -> None:
        await self._connection.aclose()

    def _ask(self, sql: str, **values: Any) -> Steps[tuple[Any, bool]]:
        """The answer, and whether it was asked twice."""
        repeated = False
        for attempt in range(_ATTEMPTS):
            try:
                call = sql, {"now": now(), **values}
                return (yield self._connection, "query", call, {}), repeated
            except self._client.ERRORS as error:
                if isinstance(error, self._client.Lost):
                    if repeated or "no answer" in str(error):
                        raise StoreUnavailable(f"{self._where} does not answer: {error}") from error
                    repeated = True
                    continue
                if isinstance(error, self._client.Locked):
                    raise StoreUnavailable(
                        f"{self._where} is in use by another process, and the engine keeps a "
                        "file safe for one only: run a SurrealDB server and name it in LOCATION, "
                        "or use a store for many processes, such as SemidbmStore."
                    ) from error
                failed = any(word in str(error) for word in ("conflict", "failed transaction"))
                if not failed or attempt == _ATTEMPTS - 1:
                    raise StoreUnavailable(f"{self._where} fails: {error}") from error
            yield clock, "sleep", (random.uniform(0, min(0.001 * 2**attempt, 0.05)),), {}
        raise AssertionError("unreachable")


def _content(record: Record) -> dict[str, Any]:
    return {**record._asdict(), "expires": max(0.0, record.expires), "owner": record.owner or None}


def _record(row: dict[str, Any]) -> Record:
    return Record(row["data"], float(row["expires"]), row["revision"], row.get("owner") or b"")
