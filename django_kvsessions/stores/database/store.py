"""Sessions in a table of one of the site's own DATABASES, for many machines."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import (
    DEFAULT_DB_ALIAS,
    Error,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionDoesNotExist

from django_kvsessions.stores.base import Record, Store, StoreStats, StoreUnavailable, now
from django_kvsessions.stores.database.table import (
    COLUMNS,
    Table,
    is_blocked,
    is_missing_table,
    is_other_table,
)

__all__ = ["DatabaseStore"]

T = TypeVar("T")

# Of requests that stand in each other's way, the database lets one go on each time.
ATTEMPTS = 10
# Records read at once while scanning.
PAGE = 50


class DatabaseStore(Store):
    """Keeps records in a table of PostgreSQL, MySQL, MariaDB, SQLite or Oracle.

    LOCATION is an alias in DATABASES (``None``: "default"), whose connections,
    pool and timeouts are used, whatever the routers say. ``manage.py migrate``
    of that database makes the table where it is missing, and so does
    ``manage.py setupsessions``.

    As with Django's own db engine, a write made inside an atomic block is part
    of it: it is rolled back with the block, and others see it when it ends.
    One that fails leaves the block usable. An outage that a statement does not
    notice by itself, such as a server that hangs, ends by the timeouts in
    DATABASES' OPTIONS alone.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

    def __init__(
        self,
        location: str | None = None,
        *,
        table: str = "django_kvsessions",
        schema: str | None = None,
        max_record_size: int = 1024 * 1024,
    ) -> None:
        """``schema``: where the table is, in a database that has schemas; on MySQL and
        MariaDB the name of another database. It must exist."""
        super().__init__(max_record_size=max_record_size)
        self.alias = DEFAULT_DB_ALIAS if location is None else location
        #: After ``migrate`` of this database the table is made.
        self.setup_on_migrate = self.alias
        try:
            connection = self._connection
        except (ConnectionDoesNotExist, TypeError, AttributeError) as error:
            known = ", ".join(repr(alias) for alias in connections)
            raise ImproperlyConfigured(
                f"LOCATION is {location!r}, which is no alias in DATABASES; it has {known}."
            ) from error
        if connection.vendor == "unknown":
            raise ImproperlyConfigured(
                f"LOCATION is {self.alias!r}, but DATABASES[{self.alias!r}] names no database."
            )
        self._table = Table(connection, table, schema)
        _opened.add(self)

    # The contract

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        return self._run(lambda connection: self._load(connection, key))

    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        return self._run(
            lambda connection: self._create(connection, key, record),
            is_done=lambda connection: self._load(connection, key) == record,
        )

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        values = (*self._values(record), key, now())
        return self._run(
            lambda connection: (
                self._write(connection, self._table.replace, values)
                if expected is None
                else self._write(connection, self._table.swap, (*values, expected))
            ),
            is_done=lambda connection: self._load(connection, key) == record,
        )

    def touch(self, key: bytes, expires: float) -> bool:
        self.check_touch(key, expires)
        values = (expires, key, now())
        return self._run(lambda connection: self._write(connection, self._table.touch, values))

    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        values = (key, now())
        return self._run(lambda connection: self._write(connection, self._table.delete, values))

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """Each batch is a transaction of its own, unless the caller is in one; rows that
        others have locked at this moment are left for the next time, where the database can."""
        # What expires from now on is not waited for, so that it ends.
        moment = now()
        while count := self._run(
            lambda connection: self._delete_expired(connection, moment, batch_size)
        ):
            yield count

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        return self._pages(self._table.page, self._table.next_page, ())

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        self.check_owner(owner)
        return self._pages(self._table.owned, self._table.next_owned, (owner,))

    def setup(self) -> None:
        """Make the table and the indexes that are missing."""
        missing = self.setup_statements()
        while missing:
            try:
                self._run(partial(self._make, statements=missing))
                return
            except StoreUnavailable:
                before, missing = missing, self.setup_statements()
                # Unless another process was quicker.
                if missing == before:
                    raise

    def setup_statements(self) -> list[str]:
        """The SQL that ``setup`` would run now."""
        return self._run(self._setup_statements)

    def stats(self) -> StoreStats:
        """``size`` is that of the table and its indexes; ``None`` on SQLite and Oracle."""
        return self._run(self._stats)

    def close(self) -> None:
        """Nothing: the connections are Django's, which ends them with the request."""

    async def call_in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        # The thread that the request's other queries have, and with it their connection.
        return await sync_to_async(function, thread_sensitive=True)(*args, **kwargs)

    def check(self, *, alias: str) -> list[checks.CheckMessage]:
        connection = self._connection
        options = connection.settings_dict["OPTIONS"]
        mode = str(options.get("transaction_mode")).upper()
        if connection.vendor != "sqlite" or mode in ("IMMEDIATE", "EXCLUSIVE"):
            return []
        return [
            checks.Warning(
                f"SESSION_STORES[{alias!r}]['LOCATION'] is DATABASES[{self.alias!r}], an SQLite "
                "without transaction_mode: where two requests in atomic blocks change sessions "
                "at once, one fails with 'database is locked', whatever the timeout.",
                hint=f"Set DATABASES[{self.alias!r}]['OPTIONS'] = "
                '{"transaction_mode": "IMMEDIATE"}.',
                id="kvsessions.W130",
            )
        ]

    def check_server(self, *, alias: str) -> list[checks.CheckMessage]:
        where = f"SESSION_STORES[{alias!r}]: the table {self._table.quoted}"
        columns = self._run(self._columns)
        if columns is None:
            return [
                checks.Error(
                    f"{where} is missing from DATABASES[{self.alias!r}].",
                    hint=self._set_up,
                    id="kvsessions.E131",
                )
            ]
        if lacks := [column for column in COLUMNS if column not in columns]:
            return [
                checks.Error(
                    f"{where} in DATABASES[{self.alias!r}] is not one of sessions: it has no "
                    f"{', '.join(lacks)}.",
                    hint="Name another in OPTIONS['table'].",
                    id="kvsessions.E132",
                )
            ]
        return []

    # Each a step on one connection

    def _load(self, connection: BaseDatabaseWrapper, key: bytes) -> Record | None:
        with connection.cursor() as cursor:
            cursor.execute(self._table.load, (key, now()))
            row = cursor.fetchone()
        return _record(row) if row else None

    def _create(self, connection: BaseDatabaseWrapper, key: bytes, record: Record) -> bool:
        values = self._values(record)
        if self._table.has_upsert:
            return self._write(connection, self._table.upsert, (key, *values, now()))
        failure: IntegrityError | None = None
        for _ in range(ATTEMPTS):
            try:
                return self._write(connection, self._table.insert, (key, *values))
            except IntegrityError as error:
                failure = error
            if self._write(connection, self._table.take_over, (*values, key, now())):
                return True
            if self._load(connection, key) is not None:
                return False
            # A clean-up has removed the expired record in between.
        assert failure is not None
        raise failure

    def _write(self, connection: BaseDatabaseWrapper, sql: str, values: tuple[Any, ...]) -> bool:
        with _undoable(connection), connection.cursor() as cursor:
            cursor.execute(sql, values)
            return bool(cursor.rowcount)

    def _delete_expired(self, connection: BaseDatabaseWrapper, moment: float, limit: int) -> int:
        ops = connection.ops
        expired = f"{self._table.expired} {ops.limit_offset_sql(0, limit)}"
        locks = connection.features.has_select_for_update_skip_locked
        if connection.vendor == "postgresql":
            # An array is made once; a subquery after IN may be run again for each row.
            keys = f"= ANY(ARRAY({expired} {ops.for_update_sql(skip_locked=True)}))"
        elif connection.vendor != "mysql":
            keys = f"IN ({expired})"
        else:
            # It knows no LIMIT after IN, and no subquery on the same table.
            if locks:
                expired += f" {ops.for_update_sql(skip_locked=True)}"
            with transaction.atomic(using=self.alias), connection.cursor() as cursor:
                cursor.execute(expired, (moment,))
                found = [key for (key,) in cursor.fetchall()]
                if not found:
                    return 0
                blobs = ", ".join([self._table.blob] * len(found))
                cursor.execute(f"{self._table.remove} IN ({blobs})", (moment, *found))
                return int(cursor.rowcount)
        with _undoable(connection), connection.cursor() as cursor:
            cursor.execute(f"{self._table.remove} {keys}", (moment, moment))
            return int(cursor.rowcount)

    def _pages(
        self, first: str, following: str, condition: tuple[bytes, ...]
    ) -> Iterator[tuple[bytes, Record]]:
        limit = self._connection.ops.limit_offset_sql(0, PAGE)

        def read(connection: BaseDatabaseWrapper) -> list[tuple[Any, ...]]:
            with connection.cursor() as cursor:
                sql, values = (
                    (first, condition) if last is None else (following, (*condition, last))
                )
                cursor.execute(f"{sql} {limit}", (now(), *values))
                return list(cursor.fetchall())

        last: bytes | None = None
        while rows := self._run(read):
            last = bytes(rows[-1][0])
            for row in rows:
                yield bytes(row[0]), _record(row)

    def _make(self, connection: BaseDatabaseWrapper, statements: list[str]) -> None:
        together = connection.features.can_rollback_ddl
        block = transaction.atomic(using=self.alias) if together else nullcontext()
        with block, connection.cursor() as cursor:
            for sql in statements:
                cursor.execute(sql)

    def _setup_statements(self, connection: BaseDatabaseWrapper) -> list[str]:
        exists = self._columns(connection) is not None
        return self._table.statements(connection, exists=exists)

    def _columns(self, connection: BaseDatabaseWrapper) -> list[str] | None:
        """The names of the table's columns; ``None`` where there is no table."""
        try:
            with _undoable(connection), connection.cursor() as cursor:
                cursor.execute(self._table.probe)
                return [column[0].lower() for column in cursor.description]
        except Error as error:
            if is_missing_table(error):
                return None
            raise

    def _stats(self, connection: BaseDatabaseWrapper) -> StoreStats:
        moment = now()
        with connection.cursor() as cursor:

            def ask(sql: str, *values: Any) -> int | None:
                cursor.execute(sql, values)
                row = cursor.fetchone()
                return None if row is None or row[0] is None else int(row[0])

            live = ask(self._table.count_live, moment)
            expired = ask(self._table.count_expired, moment)
            size = None
            if connection.vendor == "postgresql":
                size = ask("SELECT pg_total_relation_size(%s::regclass)", self._table.quoted)
            elif connection.vendor == "mysql":
                size = ask(
                    "SELECT data_length + index_length FROM information_schema.tables "
                    "WHERE table_schema = COALESCE(%s, DATABASE()) AND table_name = %s",
                    self._table.schema,
                    self._table.name,
                )
        return StoreStats(live, expired, size)

    # Connections and failures

    @property
    def _connection(self) -> BaseDatabaseWrapper:
        """This thread's connection."""
        return connections[self.alias]

    @property
    def _set_up(self) -> str:
        database = "" if self.alias == DEFAULT_DB_ALIAS else f" --database {self.alias}"
        return f"Run manage.py migrate{database}, or manage.py setupsessions."

    def _values(self, record: Record) -> tuple[Any, ...]:
        return (
            record.data,
            record.expires,
            record.revision,
            record.owner or self._table.nobody,
        )

    def _run(
        self,
        step: Callable[[BaseDatabaseWrapper], T],
        *,
        is_done: Callable[[BaseDatabaseWrapper], T] | None = None,
    ) -> T:
        """Do it; again where the connection was lost, or the database said to try again.

        ``is_done`` says whether a write that changes nothing when repeated had
        been done the first time, its answer lost.
        """
        connection = self._connection
        # What belongs to a larger transaction is lost with it, not to be repeated alone.
        alone = not connection.in_atomic_block and (
            connection.connection is None or connection.autocommit
        )
        is_lost = False
        for attempt in range(ATTEMPTS):
            try:
                result = step(connection)
                if is_lost and not result and is_done is not None:
                    return is_done(connection)
                return result
            except Error as error:
                if not alone or attempt == ATTEMPTS - 1:
                    raise self._failure(connection, error) from error
                if not is_blocked(error):
                    if is_lost or not _has_lost_connection(connection, error):
                        raise self._failure(connection, error) from error
                    is_lost = True
                    with suppress(Error):
                        connection.close()
        raise AssertionError("unreachable")

    def _failure(self, connection: BaseDatabaseWrapper, error: Error) -> StoreUnavailable:
        where = f"DATABASES[{self.alias!r}] (LOCATION)"
        table = f"The table {self._table.quoted}"
        text = str(error).strip()
        password = connection.settings_dict["PASSWORD"]
        if password:
            text = text.replace(str(password), "********")
        if is_missing_table(error):
            return StoreUnavailable(f"{table} is missing from {where}. {self._set_up}")
        if is_other_table(error):
            return StoreUnavailable(
                f"{table} (OPTIONS['table']) in {where} is not one of sessions: {text}"
            )
        if connection.connection is None:
            return StoreUnavailable(f"{where} cannot be reached: {text}")
        return StoreUnavailable(f"{where} fails: {text}")


def _record(row: tuple[Any, ...]) -> Record:
    _, data, expires, revision, owner = row
    # Oracle gives a BLOB as something to read from.
    data = data.read() if hasattr(data, "read") else bytes(data)
    return Record(data, float(expires), int(revision), bytes(owner) if owner else b"")


def _undoable(connection: BaseDatabaseWrapper) -> AbstractContextManager[Any]:
    """A savepoint inside an atomic block; outside, a statement is undone alone anyway."""
    if connection.in_atomic_block:
        return transaction.atomic(using=connection.alias)
    return nullcontext()


def _has_lost_connection(connection: BaseDatabaseWrapper, error: Error) -> bool:
    return (
        isinstance(error, OperationalError | InterfaceError)
        and connection.connection is not None
        and not connection.is_usable()
    )


# Forks

_opened: weakref.WeakSet[DatabaseStore] = weakref.WeakSet()
_inherited: list[Any] = []


def _forget_inherited() -> None:
    """In a forked child: leave the parent's connections to the parent.

    Closing one, or letting it be collected, would say goodbye in the parent's name.
    """
    # A store may outlive its alias, as where tests change the settings.
    for alias in {store.alias for store in _opened}.intersection(connections):
        connection = connections[alias]
        if connection.connection is None:
            continue
        if getattr(connection, "is_in_memory_db", bool)():
            continue
        _inherited.append(connection.connection)
        connection.connection = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
