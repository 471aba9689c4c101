"""The table of DatabaseStore: its statements, and how Django makes it."""

# Names are checked and quoted; every value is a parameter.
# ruff: noqa: S608

from __future__ import annotations

import re

from django.apps.registry import Apps
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import names_digest
from django.db.models import Q

from django_kvsessions.stores.base import KEY_SIZE, OWNER_SIZE

__all__ = ["COLUMNS", "Table", "is_blocked", "is_missing_table", "is_other_table"]

COLUMNS = ("key", "data", "expires", "revision", "owner")

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# By PostgreSQL's SQLSTATE, MySQL's number, or the words of SQLite and Oracle.
MISSING_TABLE = ("42P01", 1146, "no such table", "ORA-00942")
OTHER_TABLE = ("42703", "42804", "42883", 1054, "no such column", "no column named", "ORA-00904")
BLOCKED = ("40001", "40P01", 1213)


class BytesField(models.BinaryField):  # type: ignore[type-arg]
    """Few bytes, of a type that each database can index."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        forms = {"mysql": f"varbinary({self.max_length})", "oracle": f"RAW({self.max_length})"}
        return forms.get(connection.vendor) or super().db_type(connection)


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
                raise ImproperlyConfigured(
                    f"OPTIONS[{option!r}] must be letters, digits and underscores, at most "
                    f"{longest} of them and no digit first; not {value!r}."
                )
        if schema is not None and vendor == "sqlite":
            raise ImproperlyConfigured("OPTIONS['schema']: SQLite has no schemas; leave it out.")
        self.name = name
        self.schema = schema
        # Django leaves alone what is quoted already, so this serves as db_table too.
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
        self.insert = f"INSERT INTO {self.quoted} ({columns}) VALUES ({', '.join(values)})"
        self.replace = f"UPDATE {self.quoted} SET {settings} WHERE {live}"
        self.swap = f"{self.replace} AND {revision} = %s"
        self.take_over = f"UPDATE {self.quoted} SET {settings} WHERE {when} <= %s"
        self.touch = f"UPDATE {self.quoted} SET {quote('expires')} = %s WHERE {live}"
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
        self.probe = f"SELECT * FROM {self.quoted} WHERE 1 = 0"

        self.expired = f"SELECT {key} FROM {self.quoted} WHERE {expires} <= %s ORDER BY {expires}"
        self.remove = f"DELETE FROM {self.quoted} WHERE {expires} <= %s AND {key}"
        self.blob = blob

    def model(self, connection: BaseDatabaseWrapper) -> type[models.Model]:
        """The table as a model, in an app registry of its own."""
        # Visitors who are not logged in need no place in the index of owners.
        partial = connection.features.supports_partial_indexes
        condition = Q(owner__isnull=False) if partial else None
        meta = {
            "app_label": "django_kvsessions",
            "apps": Apps(),
            "db_table": self.name if self.schema is None else self.quoted,
            "indexes": [
                models.Index(fields=["owner"], condition=condition, name=self.index_name("owner")),
                models.Index(fields=["expires"], name=self.index_name("expires")),
            ],
        }
        fields = {
            "key": BytesField(primary_key=True, max_length=KEY_SIZE),
            "data": models.BinaryField(),
            "expires": models.FloatField(),
            "revision": models.BigIntegerField(),
            "owner": BytesField(null=True, max_length=OWNER_SIZE),
        }
        attributes = {"__module__": __name__, "Meta": type("Meta", (), meta), **fields}
        return type("Record", (models.Model,), attributes)

    def index_name(self, column: str) -> str:
        # Unique in its schema, and at most 30 characters, as Django wants it.
        return f"{self.name[:14]}_{column}_{names_digest(self.name, length=6)}"

    def statements(self, connection: BaseDatabaseWrapper, *, exists: bool) -> list[str]:
        """What makes the table, or the indexes that it lacks."""
        model = self.model(connection)
        with connection.schema_editor(collect_sql=True, atomic=False) as editor:
            if not exists:
                editor.create_model(model)
            # Introspection sees only what is on the search path.
            elif self.schema is None:
                with connection.cursor() as cursor:
                    found = connection.introspection.get_constraints(cursor, self.name)
                names = {name.lower() for name in found}
                for index in model._meta.indexes:
                    if index.name.lower() not in names:
                        editor.add_index(model, index)
        return [sql for sql in editor.collected_sql if not sql.startswith("--")]


def is_missing_table(error: Error) -> bool:
    return _is(error, MISSING_TABLE)


def is_other_table(error: Error) -> bool:
    return _is(error, OTHER_TABLE)


def is_blocked(error: Error) -> bool:
    """Whether the database gave up for others' locks and says: try again."""
    return _is(error, BLOCKED)


def _is(error: Error, signs: tuple[str | int, ...]) -> bool:
    cause = error.__cause__
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if code is None and cause is not None and cause.args:
        code = cause.args[0]
    text = str(error)
    return any(code == sign or (isinstance(sign, str) and sign in text) for sign in signs)
