"""Sessions in SurrealDB: a server, or its engine in this process."""

# ruff: noqa: S608 (what is put into statements has been checked)
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.steps import Steps
from django_kvsessions.stores.base import Record, StoreStats, StoreUnavailable, now
from django_kvsessions.stores.paged import Page, PagedStore, check_timeout

__all__ = ["SurrealDBStore"]

# Records read at once while scanning.
_ROWS = 8
_ATTEMPTS = 10


class SurrealDBStore(PagedStore):
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
        check_timeout(timeout)
        for name, value in (("namespace", namespace), ("database", database), ("table", table)):
            if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII):
                raise ImproperlyConfigured(
                    f"OPTIONS[{name!r}] must be letters, digits and underscores, not {value!r}."
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
        self._table = table
        self._id: Callable[[bytes], Any] = lambda key: RecordID(table, key.hex())
        self._connection = surrealdb_client.connection(
            location, (namespace, database), level, username, password, timeout
        )

    def _load(self, key: bytes) -> Steps[Record | None]:
        rows, _ = yield from self._ask("SELECT * FROM $id WHERE expires > $now", id=self._id(key))
        return _record(rows[0]) if rows else None

    def _create(self, key: bytes, record: Record) -> Steps[bool]:
        values = {"id": self._id(key), "content": _content(record)}
        repeated = False
        for _ in range(_ATTEMPTS):
            made, twice = yield from self._ask("CREATE $id CONTENT $content RETURN id", **values)
            repeated = repeated or twice
            if made:
                return True
            # It may be one that has expired, which counts as absent.
            taken, twice = yield from self._ask(
                "UPDATE $id CONTENT $content WHERE expires <= $now RETURN VALUE expires", **values
            )
            repeated = repeated or twice
            current = yield from self._load(key)
            if taken or current is not None:
                return bool(taken) or (repeated and current == record)
            # A clean-up has removed it in between.
        raise StoreUnavailable(f"A record in {self._table} keeps coming and going.")

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
            # By the index of expiries, it would not go by the key.
            rows, _ = yield from self._ask(
                f"SELECT * FROM {self._table}{after} WITH NOINDEX "
                f"WHERE expires > $now LIMIT {_ROWS}"
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
        return self._connection.ask(sql, {"now": now(), **values})


def _content(record: Record) -> dict[str, Any]:
    return {**record._asdict(), "expires": max(0.0, record.expires), "owner": record.owner or None}


def _record(row: dict[str, Any]) -> Record:
    return Record(row["data"], float(row["expires"]), row["revision"], row.get("owner") or b"")
