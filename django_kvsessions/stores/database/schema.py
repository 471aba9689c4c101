"""How Django makes the table of DatabaseStore, or completes it."""

from __future__ import annotations

from collections.abc import Collection

from django.apps.registry import Apps
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.utils import names_digest
from django.db.models import Q

from django_kvsessions.stores.base import KEY_SIZE, OWNER_SIZE
from django_kvsessions.stores.database.client import undoable
from django_kvsessions.stores.database.errors import is_missing_table
from django_kvsessions.stores.database.table import COLUMNS, Table

__all__ = ["BytesField", "columns_of", "make", "missing_columns", "record_model", "statements"]


# Generic to the type checker alone.
class BytesField(models.BinaryField):  # type: ignore[type-arg]  # not at runtime
    """Few bytes, of a type that each database can index."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        forms = {"mysql": f"varbinary({self.max_length})", "oracle": f"RAW({self.max_length})"}
        return forms.get(connection.vendor) or super().db_type(connection)


def record_model(connection: BaseDatabaseWrapper, table: Table) -> type[models.Model]:
    """A table of any name as a model, in an app registry of its own.

    That of the default name is ``StoredSession`` besides.
    """
    # Visitors who are not logged in need no place in the index of owners.
    partial = connection.features.supports_partial_indexes
    condition = Q(owner__isnull=False) if partial else None
    name = table.name
    meta = {
        "app_label": "django_kvsessions",
        "apps": Apps(),
        # Django leaves alone what is quoted already.
        "db_table": name if table.schema is None else table.quoted,
        "indexes": [
            models.Index(fields=["owner"], condition=condition, name=index_name(name, "owner")),
            models.Index(fields=["expires"], name=index_name(name, "expires")),
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


def index_name(table: str, column: str) -> str:
    # Unique in its schema, and at most 30 characters, as Django wants it.
    return f"{table[:14]}_{column}_{names_digest(table, length=6)}"


def columns_of(connection: BaseDatabaseWrapper, quoted: str) -> list[str] | None:
    """The names of a table's columns; ``None`` where there is no table."""
    try:
        with undoable(connection), connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {quoted} WHERE 1 = 0")  # noqa: S608 (quoted)
            return [column[0].lower() for column in cursor.description]
    except Error as error:
        if is_missing_table(error):
            return None
        raise


def missing_columns(columns: Collection[str]) -> list[str]:
    """What a table needs to be one of sessions."""
    return [column for column in COLUMNS if column not in columns]


def make(editor: BaseDatabaseSchemaEditor, model: type[models.Model]) -> None:
    """Make the table and the indexes that are missing; what is there stays as it is.

    ``ImproperlyConfigured`` where a table of that name holds something else.
    """
    connection, name = editor.connection, model._meta.db_table
    quoted = connection.ops.quote_name(name)
    columns = columns_of(connection, quoted)
    if columns is None:
        editor.create_model(model)
        return
    if lacks := missing_columns(columns):
        raise ImproperlyConfigured(
            f"The table {quoted} (OPTIONS['table']) in DATABASES[{connection.alias!r}] (LOCATION) "
            f"is not one of sessions: it has no {', '.join(lacks)}. Name another in "
            "OPTIONS['table'], or rename that one."
        )
    # Introspection sees only what is on the search path.
    if name == quoted:
        return
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, name)
    names = {name.lower() for name in found}
    for index in model._meta.indexes:
        if index.name.lower() not in names:
            editor.add_index(model, index)


def statements(model: type[models.Model], connection: BaseDatabaseWrapper) -> list[str]:
    """The SQL that ``make`` would run now."""
    with connection.schema_editor(collect_sql=True, atomic=False) as editor:
        make(editor, model)
    return [sql for sql in editor.collected_sql if not sql.startswith("--")]
