"""What DatabaseStore does to rows: each a step on one connection, that Client runs."""

from __future__ import annotations

import threading

from django.db import IntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper

from django_kvsessions.stores.base import Record, now
from django_kvsessions.stores.database.client import ATTEMPTS, in_transaction, undoable
from django_kvsessions.stores.database.table import Row, Table

__all__ = ["Rows"]

# Records read at once while scanning.
PAGE = 50


class Rows:
    """The rows of one table."""

    def __init__(self, table: Table) -> None:
        self.table = table
        # The key that this thread's transaction is known to show out of date.
        self._outdated = threading.local()

    def load(self, connection: BaseDatabaseWrapper, key: bytes) -> Record | None:
        locked = in_transaction(connection) and getattr(self._outdated, "key", None) == key
        return self._load(connection, key, locked=locked)

    def _load(self, connection: BaseDatabaseWrapper, key: bytes, *, locked: bool) -> Record | None:
        with connection.cursor() as cursor:
            cursor.execute(self.table.load_locked if locked else self.table.load, (key, now()))
            row = cursor.fetchone()
        return _record(row) if row else None

    def create(self, connection: BaseDatabaseWrapper, key: bytes, record: Record) -> bool:
        values = self._values(record)
        if self.table.has_upsert:
            return _execute(connection, self.table.upsert, (key, *values, now()))
        # A snapshot may not show what is in the way.
        locked = connection.vendor == "mysql" and in_transaction(connection)
        failure: IntegrityError | None = None
        for _ in range(ATTEMPTS):
            try:
                return _execute(connection, self.table.insert, (key, *values))
            except IntegrityError as error:
                failure = error
            if _execute(connection, self.table.take_over, (*values, key, now())):
                return True
            if self._load(connection, key, locked=locked) is not None:
                return False
            # A clean-up has removed the expired record in between.
        assert failure is not None
        raise failure

    def replace(
        self, connection: BaseDatabaseWrapper, key: bytes, record: Record, expected: int | None
    ) -> bool:
        values = (*self._values(record), key, now())
        if expected is None:
            return _execute(connection, self.table.replace, values)
        return self._swap(connection, key, self.table.swap, (*values, expected))

    def touch(
        self, connection: BaseDatabaseWrapper, key: bytes, expires: float, expected: int | None
    ) -> bool:
        values = (expires, key, now())
        if expected is None:
            return _execute(connection, self.table.touch, values)
        return self._swap(connection, key, self.table.touch_at, (*values, expected))

    def _swap(self, connection: BaseDatabaseWrapper, key: bytes, sql: str, values: Row) -> bool:
        done = _execute(connection, sql, values)
        # At REPEATABLE READ, MySQL compares with what is there now, and goes on showing what was
        # there when the transaction began; reading with a lock shows it too. No other waits
        # the longer for it: a write that found the row has locked it already.
        if connection.vendor == "mysql" and in_transaction(connection):
            self._outdated.key = None if done else key
        return done

    def delete(self, connection: BaseDatabaseWrapper, key: bytes) -> bool:
        return _execute(connection, self.table.delete, (key, now()))

    def was_put(self, connection: BaseDatabaseWrapper, key: bytes, record: Record) -> bool | None:
        """``True`` if the record is there; ``None``, which may mean anything, if it is not."""
        there = self.load(connection, key)
        # Another request may have touched it since.
        is_mine = there is not None and there._replace(expires=record.expires) == record
        return True if is_mine else None

    def was_touched(
        self, connection: BaseDatabaseWrapper, key: bytes, expires: float, expected: int | None
    ) -> bool | None:
        """As ``was_put``, of a touch."""
        there = self.load(connection, key)
        if there is None or expected not in (None, there.revision):
            return None
        return True if there.expires == expires else None

    def page(
        self, connection: BaseDatabaseWrapper, *, owner: bytes | None, after: bytes | None
    ) -> list[tuple[bytes, Record]]:
        """Some records by their keys, of one owner or of all."""
        table = self.table
        first, following = (
            (table.page, table.next_page) if owner is None else (table.owned, table.next_owned)
        )
        condition = tuple(value for value in (owner, after) if value is not None)
        sql = first if after is None else following
        with connection.cursor() as cursor:
            limit = connection.ops.limit_offset_sql(0, PAGE)
            cursor.execute(f"{sql} {limit}", (now(), *condition))
            return [(bytes(row[0]), _record(row)) for row in cursor.fetchall()]

    def _values(self, record: Record) -> Row:
        return record.data, record.expires, record.revision, record.owner or self.table.nobody


def _execute(connection: BaseDatabaseWrapper, sql: str, values: Row) -> bool:
    """Whether it found a row to write."""
    with undoable(connection), connection.cursor() as cursor:
        cursor.execute(sql, values)
        return bool(cursor.rowcount)


def _record(row: Row) -> Record:
    _, data, expires, revision, owner = row
    # Oracle gives a BLOB as something to read from.
    data = data.read() if hasattr(data, "read") else bytes(data)
    return Record(data, float(expires), int(revision), bytes(owner) if owner else b"")
