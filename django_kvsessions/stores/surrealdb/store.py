"""Sessions in SurrealDB: a server, or its engine in this process."""

# ruff: noqa: S608 (what is put into statements has been checked)
from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

from django_kvsessions.colours import Colour
from django_kvsessions.stores import options
from django_kvsessions.stores.base import Record, StoreStats, StoreUnavailable, now
from django_kvsessions.stores.paged import Page, PagedStore, unknown_outcome
from django_kvsessions.stores.process.copies import copy_in, whole_folder
from django_kvsessions.stores.surrealdb import settings

__all__ = ["SurrealDBStore"]

# Records read at once while scanning.
_ROWS = 8
_ATTEMPTS = 10
#: The file that a copy is.
_COPY = "sessions"
#: The last key, of all records; the keys that are left, of an owner's.
Start = str | list[object]


class SurrealDBStore(PagedStore[Start]):
    """Keeps records in a table of SurrealDB, with indexes by expiry and by owner.

    LOCATION is the URL of a server, for many machines (``wss://``, ``https://``,
    ``ws://``, ``http://``), a file for one process alone (``surrealkv:///path``,
    ``file:///path``), or ``mem://``, which is gone with the process. The
    engine would let two processes damage each other's file without an error,
    so a second one is refused. ``manage.py setupsessions`` makes the table.

    What expires in a file or in memory is removed by the process that has it
    open, in the background, as no other one can do it.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

    backed_up_by = "run `surreal export` on a server; what is in memory is not to be kept"

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
        clean_interval: float = 60.0,
        max_record_size: int = 1024 * 1024,
    ) -> None:
        """``level``: where ``username`` is defined, "root", "namespace" or "database".
        ``timeout``: the seconds to wait for an answer. ``clean_interval``: the seconds
        between two removals of what has expired in a file or in memory."""
        super().__init__(max_record_size=max_record_size)
        target = settings.target(
            location,
            namespace=namespace,
            database=database,
            level=level,
            username=username,
            password=password,
        )
        self.has_server = not target.is_embedded
        self._table = settings.identifier("table", table)
        self._clean_interval = options.seconds("clean_interval", clean_interval, at_most=86400)
        timeout = options.seconds("timeout", timeout)
        with options.driver("surrealdb", "SurrealDBStore needs the package surrealdb"):
            from surrealdb import RecordID

            from django_kvsessions.stores.surrealdb import client
        self._id: Callable[[bytes], object] = lambda key: RecordID(table, key.hex())
        # Less than a number is also what is no number, such as what another made there.
        self._expired = (
            f"DELETE (SELECT VALUE id FROM {table} WHERE expires >= 0 "
            "AND expires <= $moment LIMIT $limit) RETURN VALUE $before.expires"
        )
        self._target = target
        self._connection = client.Connection(target, timeout, self._expired, self._clean_interval)

    async def _load(self, call: Colour, key: bytes) -> Record | None:
        rows, _ = await self._ask(call, "SELECT * FROM $id WHERE expires > $now", id=self._id(key))
        return _record(rows[0]) if rows else None

    async def _create(self, call: Colour, key: bytes, record: Record) -> bool:
        values = {"id": self._id(key), "content": _content(record)}
        # An expired record counts as absent.
        puts = (
            "CREATE $id CONTENT $content RETURN id",
            "UPDATE $id CONTENT $content WHERE expires <= $now RETURN VALUE expires",
        )
        for _ in range(_ATTEMPTS):
            for sql in puts:
                # Twice, it could bring back what another has ended since the first time.
                put, was_lost = await self._ask(call, sql, again=False, **values)
                if put or was_lost:
                    return await self._was_put(
                        call, key, record, changed=bool(put), repeated=was_lost
                    )
            if await self._load(call, key) is not None:
                return False
            # A clean-up has removed it in between.
        raise StoreUnavailable(f"A record in {self._table} keeps coming and going.")

    async def _replace(
        self, call: Colour, key: bytes, record: Record, expected: int | None
    ) -> bool:
        rows, was_lost = await self._ask(
            call,
            f"UPDATE $id CONTENT $content WHERE {_live(expected)} RETURN VALUE expires",
            # Twice, it would be over what another has written since the first time.
            again=expected is not None,
            id=self._id(key),
            content=_content(record),
            expected=expected,
        )
        return await self._was_put(call, key, record, changed=bool(rows), repeated=was_lost)

    async def _touch(self, call: Colour, key: bytes, expires: float, expected: int | None) -> bool:
        expires = max(0.0, expires)
        rows, was_lost = await self._ask(
            call,
            f"UPDATE $id SET expires = $expires WHERE {_live(expected)} RETURN VALUE expires",
            again=False,
            id=self._id(key),
            expires=expires,
            expected=expected,
        )
        if not was_lost:
            return bool(rows)
        there = await self._load(call, key)
        if there is None or there.expires != expires or expected not in (None, there.revision):
            raise unknown_outcome()
        return True

    async def _delete(self, call: Colour, key: bytes) -> bool:
        rows, was_lost = await self._ask(
            call,
            "DELETE $id WHERE expires > $now RETURN VALUE $before.expires",
            again=False,
            id=self._id(key),
        )
        if was_lost:
            raise unknown_outcome()
        return bool(rows)

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """Yields nothing where the process that has the file does it."""
        if self.cleaned_elsewhere() is None:
            yield from super().delete_expired(batch_size=batch_size)

    async def adelete_expired(self, *, batch_size: int = 1000) -> AsyncIterator[int]:
        if await self.call_in_thread(self.cleaned_elsewhere) is None:
            async for count in super().adelete_expired(batch_size=batch_size):
                yield count

    def cleaned_elsewhere(self) -> str | None:
        holder = self._connection.elsewhere()
        # Two rounds, and a minute more, for a machine that has much to do.
        if holder is None or holder.idle > 2 * self._clean_interval + 60:
            return None
        return (
            f"process {holder.pid} has the file and removes what expires by itself, every "
            f"{self._clean_interval:g} seconds (OPTIONS['clean_interval'])."
        )

    async def _delete_batch(self, call: Colour, moment: float, batch_size: int) -> int | None:
        rows, was_lost = await self._ask(
            call, self._expired, again=False, moment=moment, limit=batch_size
        )
        if was_lost:
            raise unknown_outcome()
        return len(rows) or None

    async def _page(self, call: Colour, owner: bytes | None, start: Start | None) -> Page[Start]:
        if owner is None:
            after = "" if start is None else f":`{start}`>.."
            # By the index of expiries, it would not go by the key.
            rows, _ = await self._ask(
                call,
                f"SELECT * FROM {self._table}{after} WITH NOINDEX "
                f"WHERE expires > $now LIMIT {_ROWS}",
            )
            start = rows[-1]["id"].id if rows else None
        else:
            if start is None:
                # Few, and short.
                start, _ = await self._ask(
                    call,
                    f"SELECT VALUE id FROM {self._table} WHERE owner = $owner",
                    owner=owner,
                )
            rows, _ = await self._ask(
                call,
                "SELECT * FROM $ids WHERE owner = $owner AND expires > $now",
                ids=start[:_ROWS],
                owner=owner,
            )
            start = start[_ROWS:] or None
        return [(bytes.fromhex(row["id"].id), _record(row)) for row in rows], start

    async def _setup(self, call: Colour) -> None:
        table = self._table
        await self._ask(call, f"DEFINE TABLE IF NOT EXISTS {table} SCHEMALESS")
        for field in ("expires", "owner"):
            await self._ask(
                call, f"DEFINE INDEX IF NOT EXISTS {table}_{field} ON {table} FIELDS {field}"
            )

    async def _stats(self, call: Colour) -> StoreStats:
        counts = []
        for condition in ("expires > $now", "expires <= $now"):
            rows, _ = await self._ask(
                call, f"SELECT count() FROM {self._table} WHERE {condition} GROUP ALL"
            )
            counts.append(rows[0]["count"] if rows else 0)
        return StoreStats(counts[0], counts[1], None)

    def backup(self, folder: str | os.PathLike[str]) -> None:
        """Of a file, by the process that has it, session by session into another file."""
        if self._target.path is None:
            super().backup(folder)
        with (
            whole_folder(folder, own=self._target.path) as temporary,
            closing(self._copy(os.path.join(temporary, _COPY))) as copy,
        ):
            copy.setup()
            # What got a new id behind the first scan's back is found by the second.
            for _ in range(2):
                for key, record in self.scan():
                    copy.create(key, record)

    def scan_backup(self, folder: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record]]:
        if self._target.path is None:
            super().scan_backup(folder)
        with closing(self._copy(copy_in(folder, _COPY))) as copy:
            yield from copy.scan()

    def _copy(self, path: str) -> SurrealDBStore:
        target = self._target
        scheme = target.url.partition("://")[0]
        return SurrealDBStore(
            f"{scheme}://{path}",
            namespace=target.namespace,
            database=target.database,
            table=self._table,
            max_record_size=self.max_record_size,
        )

    def close(self) -> None:
        self._connection.close()

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def _ask(
        self, call: Colour, sql: str, *, again: bool = True, **values: object
    ) -> tuple[Any, bool]:
        """The answer, and whether one was lost before it."""
        return await self._connection.ask(call, sql, {"now": now(), **values}, again=again)


def _live(expected: int | None) -> str:
    return "expires > $now" + ("" if expected is None else " AND revision = $expected")


def _content(record: Record) -> dict[str, object]:
    # The driver takes no other type that has bytes.
    return {
        "data": bytes(record.data),
        "expires": max(0.0, record.expires),
        "revision": record.revision,
        "owner": bytes(record.owner) or None,
    }


def _record(row: dict[str, Any]) -> Record:
    return Record(row["data"], float(row["expires"]), row["revision"], row.get("owner") or b"")
