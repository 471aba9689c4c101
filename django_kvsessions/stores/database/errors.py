"""What a database's error means: by its SQLSTATE, by MySQL's number, or by the words of others."""

from __future__ import annotations

from django.db import Error, InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["is_blocked", "is_lost", "is_missing_table", "is_other_table"]

Codes = tuple[str | int, ...]

MISSING_TABLE: Codes = ("42P01", 1146)
MISSING_TABLE_WORDS = ("no such table", "ORA-00942")
OTHER_TABLE: Codes = ("42703", "42804", "42883", 1054)
OTHER_TABLE_WORDS = ("no such column", "no column named", "ORA-00904")
# The last one: what a snapshot had read has changed (MariaDB's innodb_snapshot_isolation).
BLOCKED: Codes = ("40001", "40P01", 1213, 1020)
# The server has gone away, or went during the query. A ping would tell too, but PyMySQL's used
# to connect again by itself.
LOST: Codes = (2006, 2013, 2055)


def is_missing_table(error: Error) -> bool:
    return _has(error, MISSING_TABLE, MISSING_TABLE_WORDS)


def is_other_table(error: Error) -> bool:
    return _has(error, OTHER_TABLE, OTHER_TABLE_WORDS)


def is_blocked(error: Error) -> bool:
    """Whether the database undid the transaction for others' sake and says: try again."""
    return _has(error, BLOCKED)


def is_lost(connection: BaseDatabaseWrapper, error: Error) -> bool:
    """Whether the connection broke, so that nobody knows what became of the statement."""
    if not isinstance(error, OperationalError | InterfaceError) or connection.connection is None:
        return False
    return _has(error, LOST) or not connection.is_usable()


def _has(error: Error, codes: Codes, words: tuple[str, ...] = ()) -> bool:
    cause = error.__cause__
    # PyMySQL has both a SQLSTATE, which for MySQL says little, and the number.
    found = [getattr(cause, "sqlstate", None), getattr(cause, "pgcode", None)]
    if cause is not None and cause.args:
        found.append(cause.args[0])
    text = str(error)
    return any(code in found for code in codes) or any(word in text for word in words)
