"""A copy of the table in SQLite, as a database file of its own: one statement, so one moment."""

# Names are checked and quoted; every value is a parameter.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from django_kvsessions.stores.base import Record, StoreCorrupted
from django_kvsessions.stores.database import schema
from django_kvsessions.stores.database.rows import Rows
from django_kvsessions.stores.database.table import COLUMNS, Table

__all__ = ["COPY", "copy_table", "is_copied", "scan_copy"]

#: The file that a copy is.
COPY = "sessions.sqlite3"
#: Seconds to wait for writers, whose turn it may be for a while.
PATIENCE = 60


def is_copied(connection: BaseDatabaseWrapper) -> bool:
    """Whether the database is one whose table is copied here: an SQLite file."""
    in_memory = getattr(connection, "is_in_memory_db", None)
    return connection.vendor == "sqlite" and in_memory is not None and not in_memory()


def copy_table(connection: BaseDatabaseWrapper, *, table: Table, path: str) -> None:
    columns = ", ".join(map(connection.ops.quote_name, COLUMNS))
    with _opened(connection, path) as copy, copy.cursor() as cursor:
        for sql in schema.statements(schema.record_model(copy, table), copy):
            cursor.execute(sql)
        cursor.execute("ATTACH DATABASE %s AS origin", [str(connection.settings_dict["NAME"])])
        cursor.execute(
            f"INSERT INTO main.{table.quoted} ({columns}) "
            f"SELECT {columns} FROM origin.{table.quoted}"
        )


def scan_copy(
    connection: BaseDatabaseWrapper, name: str, path: str
) -> Iterator[tuple[bytes, Record]]:
    """Every live record of a copy of the table of that name."""
    with _opened(connection, path) as copy:
        rows = Rows(Table(copy, name, None))
        after = None
        while True:
            try:
                page = rows.page(copy, owner=None, after=after)
            except Error as error:
                raise StoreCorrupted(f"The copy {path} cannot be read: {error}") from error
            if not page:
                return
            yield from page
            after = page[-1][0]


@contextmanager
def _opened(connection: BaseDatabaseWrapper, path: str) -> Iterator[BaseDatabaseWrapper]:
    """A connection to another file, beside those that Django knows of."""
    changed = {"NAME": path, "OPTIONS": {"timeout": PATIENCE}}
    copy = type(connection)({**connection.settings_dict, **changed}, connection.alias)
    try:
        yield copy
    finally:
        copy.close()
