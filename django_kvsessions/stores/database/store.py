"""Sessions in a table of one of the site's own DATABASES, for many machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import ParamSpec, TypeVar

from django.core import checks
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_kvsessions.stores.base import (
    Provisional,
    Record,
    Store,
    StoreStats,
    StoreUnavailable,
    now,
)
from django_kvsessions.stores.database import backups, upkeep
from django_kvsessions.stores.database import schema as tables
from django_kvsessions.stores.database.client import Client
from django_kvsessions.stores.database.rows import Rows
from django_kvsessions.stores.database.table import DEFAULT_TABLE, Table
from django_kvsessions.stores.process.copies import copy_in, whole_folder

__all__ = ["DatabaseStore"]

P = ParamSpec("P")
T = TypeVar("T")

#: So many expired rows are what nobody removes.
MANY_EXPIRED = 100_000


class DatabaseStore(Store):
    """Keeps records in a table of PostgreSQL, MySQL, MariaDB, SQLite or Oracle.

    LOCATION is an alias in DATABASES (``None``: "default"), whose connections,
    pool and timeouts are used, whatever the routers say. ``manage.py migrate``
    of that database makes the table where it is missing, and so does
    ``manage.py setupsessions``.

    As with Django's own db engine, a write made inside an atomic block, or with
    AUTOCOMMIT off, is part of that transaction: it is rolled back with it, and
    others see it when it ends. One that fails leaves the block usable. A
    deadlock or a serialization failure in there comes out as the database's own
    error, for whoever began the transaction to begin it again.

    A write whose answer was lost is looked for; where what is there does not
    prove it, that is ``StoreUnavailable``. An outage that a statement does not
    notice by itself, such as a server that hangs, ends by the timeouts in
    DATABASES' OPTIONS alone.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

    backed_up_by = "use the database's own means, such as pg_dump --table or mysqldump"

    def __init__(
        self,
        location: str | None = None,
        *,
        table: str = DEFAULT_TABLE,
        schema: str | None = None,
        max_record_size: int = 1024 * 1024,
    ) -> None:
        """``schema``: where the table is, in a database that has schemas; on MySQL and
        MariaDB the name of another database. It must exist."""
        super().__init__(max_record_size=max_record_size)
        self.alias = DEFAULT_DB_ALIAS if location is None else location
        #: After ``migrate`` of this database the table is made.
        self.setup_on_migrate = self.alias
        self._client = Client(self.alias, lambda: self._table.quoted)
        self._table = Table(self._client.connection, table, schema)
        self._rows = Rows(self._table)

    @property
    def is_modelled(self) -> bool:
        """Whether the table is that of the model ``StoredSession``."""
        return self._table.name == DEFAULT_TABLE and self._table.schema is None

    def provisional(self) -> Provisional | None:
        return self._client.provisional

    # The contract

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        return self._client.read(lambda connection: self._rows.load(connection, key))

    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        return self._client.write(
            lambda connection: self._rows.create(connection, key, record),
            lambda connection: self._rows.was_put(connection, key, record),
        )

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        return self._client.write(
            lambda connection: self._rows.replace(connection, key, record, expected),
            lambda connection: self._rows.was_put(connection, key, record),
        )

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        self.check_touch(key, expires)
        return self._client.write(
            lambda connection: self._rows.touch(connection, key, expires, expected),
            lambda connection: self._rows.was_touched(connection, key, expires, expected),
        )

    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        # Where it is gone afterwards, nobody can say by whom: there is no proof.
        return self._client.write(lambda connection: self._rows.delete(connection, key))

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """Each batch is a transaction of its own, unless the caller is in one; rows that
        others have locked at this moment are left for the next time, where the database can."""
        # What expires from now on is not waited for, so that it ends.
        moment = now()
        remove = partial(upkeep.delete_expired, table=self._table, moment=moment, limit=batch_size)
        while count := self._client.write(remove):
            yield count

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        return self._pages(None)

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        self.check_owner(owner)
        return self._pages(owner)

    def _pages(self, owner: bytes | None) -> Iterator[tuple[bytes, Record]]:
        page = self._client.read(partial(self._rows.page, owner=owner, after=None))
        while page:
            yield from page
            page = self._client.read(partial(self._rows.page, owner=owner, after=page[-1][0]))

    def setup(self) -> None:
        """Make the table and the indexes that are missing.

        ``ImproperlyConfigured`` where there is a table of that name that holds something else.
        """
        missing = self.setup_statements()
        while missing:
            try:
                self._client.write(partial(self._make, statements=missing))
                return
            except StoreUnavailable:
                before, missing = missing, self.setup_statements()
                # Unless another process was quicker.
                if missing == before:
                    raise

    def _make(self, connection: BaseDatabaseWrapper, statements: list[str]) -> None:
        together = connection.features.can_rollback_ddl
        block = transaction.atomic(using=self.alias) if together else nullcontext()
        with block, connection.cursor() as cursor:
            for sql in statements:
                cursor.execute(sql)

    def setup_statements(self) -> list[str]:
        """The SQL that ``setup`` would run now."""
        return self._client.read(
            lambda connection: tables.statements(
                tables.record_model(connection, self._table), connection
            )
        )

    def stats(self) -> StoreStats:
        """``size`` is that of the table and its indexes; ``None`` on SQLite and Oracle."""
        return self._client.read(partial(upkeep.stats, table=self._table))

    def backup(self, folder: str | os.PathLike[str]) -> None:
        """Of the table in an SQLite file. Without WAL mode, writers wait meanwhile."""
        if not backups.is_copied(self._client.connection):
            super().backup(folder)
        with whole_folder(folder) as temporary:
            path = os.path.join(temporary, backups.COPY)
            self._client.read(partial(backups.copy_table, table=self._table, path=path))

    def scan_backup(self, folder: str | os.PathLike[str]) -> Iterator[tuple[bytes, Record]]:
        if not backups.is_copied(self._client.connection):
            super().scan_backup(folder)
        path = copy_in(folder, backups.COPY)
        return backups.scan_copy(self._client.connection, self._table.name, path)

    def close(self) -> None:
        """Nothing: the connections are Django's, which ends them with the request."""

    async def call_in_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._client.in_thread(function, *args, **kwargs)

    def check(self, *, alias: str) -> list[checks.CheckMessage]:
        connection = self._client.connection
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
        columns = self._client.read(
            lambda connection: tables.columns_of(connection, self._table.quoted)
        )
        if columns is None:
            return [
                checks.Error(
                    f"{where} is missing from DATABASES[{self.alias!r}].",
                    hint=self._client.set_up,
                    id="kvsessions.E131",
                )
            ]
        if lacks := tables.missing_columns(columns):
            return [
                checks.Error(
                    f"{where} in DATABASES[{self.alias!r}] is not one of sessions: it has no "
                    f"{', '.join(lacks)}.",
                    hint="Name another in OPTIONS['table'].",
                    id="kvsessions.E132",
                )
            ]
        count = MANY_EXPIRED
        if self._client.read(partial(upkeep.has_expired, table=self._table, count=count)):
            return [
                checks.Warning(
                    f"{where} in DATABASES[{self.alias!r}] has {count:,} expired rows or more: "
                    "nobody cleans it up.",
                    hint="Run manage.py clearsessions from cron, or set SESSION_AUTO_CLEAN = True.",
                    id="kvsessions.W133",
                )
            ]
        return []
