"""Removing what expired, and counting: what touches many rows of the table at once."""

from __future__ import annotations

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_kvsessions.stores.base import StoreStats, now
from django_kvsessions.stores.database.client import undoable
from django_kvsessions.stores.database.table import Table

__all__ = ["delete_expired", "has_expired", "stats"]


def delete_expired(
    connection: BaseDatabaseWrapper, *, table: Table, moment: float, limit: int
) -> int:
    """How many were removed, of those that had expired at ``moment`` and at most ``limit``."""
    ops = connection.ops
    expired = f"{table.expired} {ops.limit_offset_sql(0, limit)}"
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
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute(expired, (moment,))
            found = [key for (key,) in cursor.fetchall()]
            if not found:
                return 0
            blobs = ", ".join([table.blob] * len(found))
            cursor.execute(f"{table.remove} IN ({blobs})", (moment, *found))
            return int(cursor.rowcount)
    with undoable(connection), connection.cursor() as cursor:
        cursor.execute(f"{table.remove} {keys}", (moment, moment))
        return int(cursor.rowcount)


def has_expired(connection: BaseDatabaseWrapper, *, table: Table, count: int) -> bool:
    """Whether so many rows have expired; looks at no more of them."""
    limit = connection.ops.limit_offset_sql(count - 1, count)
    with connection.cursor() as cursor:
        cursor.execute(f"{table.expired} {limit}", (now(),))
        return cursor.fetchone() is not None


def stats(connection: BaseDatabaseWrapper, *, table: Table) -> StoreStats:
    moment = now()
    with connection.cursor() as cursor:

        def ask(sql: str, *values: object) -> int | None:
            cursor.execute(sql, values)
            row = cursor.fetchone()
            return None if row is None or row[0] is None else int(row[0])

        live = ask(table.count_live, moment)
        expired = ask(table.count_expired, moment)
        size = None
        if connection.vendor == "postgresql":
            size = ask("SELECT pg_total_relation_size(%s::regclass)", table.quoted)
        elif connection.vendor == "mysql":
            size = ask(
                "SELECT data_length + index_length FROM information_schema.tables "
                "WHERE table_schema = COALESCE(%s, DATABASE()) AND table_name = %s",
                table.schema,
                table.name,
            )
        cursor.execute(table.first_expiry)
        (oldest,) = cursor.fetchone()
    return StoreStats(live, expired, size, oldest=oldest)
