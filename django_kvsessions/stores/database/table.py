"""The table of DatabaseStore: every statement on it."""

# Names are checked and quoted; every value is a parameter.
# ruff: noqa: S608

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper

from django_kvsessions.stores import options

__all__ = ["COLUMNS", "DEFAULT_TABLE", "Row", "Table"]

#: Values of columns: what they are is for the driver.
Row = tuple[Any, ...]

DEFAULT_TABLE = "django_kvsessions"
COLUMNS = ("key", "data", "expires", "revision", "owner")

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Table:
    """A name, checked and quoted, and every statement on it; opens nothing."""

    def __init__(self, connection: BaseDatabaseWrapper, name: str, schema: str | None) -> None:
        quote = connection.ops.quote_name
        vendor = connection.vendor
        longest = connection.ops.max_name_length() or 63
        for option, value in (("table", name), ("schema", schema)):
            if value is None and option == "schema":
                continue
            if not isinstance(value, str) or not IDENTIFIER.match(value) or len(value) > longest:
                options.refuse(
                    option,
                    f"letters, digits and underscores, at most {longest} and no digit first",
                    value,
                )
        if schema is not None and vendor == "sqlite":
            raise ImproperlyConfigured("OPTIONS['schema']: SQLite has no schemas; leave it out.")
        self.name = name
        self.schema = schema
        self.quoted = quote(name) if schema is None else f"{quote(schema)}.{quote(name)}"
        columns = ", ".join(map(quote, COLUMNS))
        # Qualified: SQLite takes a quoted name of no column for a text.
        key, expires, revision, owner = (
            f"{quote(name)}.{quote(column)}" for column in ("key", "expires", "revision", "owner")
        )
        mysql = vendor == "mysql"
        blob = "_binary %s" if mysql else "%s"
        # MySQL knows no _binary NULL.
        self.nobody = b"" if mysql else None
        values = [blob, blob, "%s", "%s", "NULLIF(_binary %s, '')" if mysql else "%s"]
        settings = ", ".join(
            f"{quote(column)} = {value}"
            for column, value in zip(COLUMNS[1:], values[1:], strict=True)
        )
        read = ", ".join(f"{quote(name)}.{quote(column)}" for column in COLUMNS)
        # Not by the index of expiries, which MySQL would take where there are few rows: an
        # expiry that another request moves meanwhile is not found there.
        when = f"{key} = {blob} AND {expires} + 0"
        live = f"{when} > %s"

        self.load = f"SELECT {read} FROM {self.quoted} WHERE {live}"
        self.load_locked = f"{self.load} {connection.ops.for_update_sql()}"
        self.insert = f"INSERT INTO {self.quoted} ({columns}) VALUES ({', '.join(values)})"
        self.replace = f"UPDATE {self.quoted} SET {settings} WHERE {live}"
        self.swap = f"{self.replace} AND {revision} = %s"
        self.take_over = f"UPDATE {self.quoted} SET {settings} WHERE {when} <= %s"
        self.touch = f"UPDATE {self.quoted} SET {quote('expires')} = %s WHERE {live}"
        self.touch_at = f"{self.touch} AND {revision} = %s"
        self.delete = f"DELETE FROM {self.quoted} WHERE {live}"
        # An expired record counts as absent: the same statement takes its place.
        excluded = ", ".join(
            f"{quote(column)} = excluded.{quote(column)}" for column in COLUMNS[1:]
        )
        self.upsert = (
            f"{self.insert} ON CONFLICT ({quote('key')}) DO UPDATE SET {excluded} "
            f"WHERE {expires} <= %s"
        )
        self.has_upsert = connection.features.supports_update_conflicts_with_target

        first = f"SELECT {read} FROM {self.quoted} WHERE {expires} > %s"
        self.page = f"{first} ORDER BY {key}"
        self.next_page = f"{first} AND {key} > {blob} ORDER BY {key}"
        self.owned = f"{first} AND {owner} = {blob} ORDER BY {key}"
        self.next_owned = f"{first} AND {owner} = {blob} AND {key} > {blob} ORDER BY {key}"

        count = f"SELECT COUNT(*) FROM {self.quoted} WHERE {expires}"
        self.count_live, self.count_expired = f"{count} > %s", f"{count} <= %s"

        self.first_expiry = f"SELECT MIN({expires}) FROM {self.quoted}"

        self.expired = f"SELECT {key} FROM {self.quoted} WHERE {expires} <= %s ORDER BY {expires}"
        self.remove = f"DELETE FROM {self.quoted} WHERE {expires} <= %s AND {key}"
        self.blob = blob
