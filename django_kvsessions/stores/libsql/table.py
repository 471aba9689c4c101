"""The table of LibSQLStore: every statement on it, by name."""

# ruff: noqa: S608 (the one thing put into SQL is the table, whose name has been checked)
from __future__ import annotations

__all__ = ["statements"]


def statements(table: str) -> dict[str, str]:
    live = "key = ? AND expires > ?"
    fields = ("data", "expires", "revision", "owner")
    update = f"UPDATE {table} SET {', '.join(f'{field} = ?' for field in fields)} WHERE {live}"
    touch = f"UPDATE {table} SET expires = ? WHERE {live}"
    take_over = ", ".join(f"{field} = excluded.{field}" for field in fields)

    def page(condition: str) -> str:
        # Some of the rows, as many as fit into so many bytes, and at least one. Only of
        # these is the data read.
        return (
            f"SELECT data, expires, revision, owner, key FROM {table} WHERE key IN ("
            "SELECT key FROM (SELECT key, SUM(size) OVER (ORDER BY key) - size AS before FROM ("
            f"SELECT key, length(data) AS size FROM {table} WHERE {condition} AND key > ? "
            "ORDER BY key LIMIT ?)) WHERE before <= ?) ORDER BY key"
        )

    return {
        "load": f"SELECT data, expires, revision, owner FROM {table} WHERE {live}",
        # An expired record counts as absent: the same statement takes its place.
        "create": f"INSERT INTO {table} (key, {', '.join(fields)}) VALUES (?, ?, ?, ?, ?) "
        f"ON CONFLICT (key) DO UPDATE SET {take_over} WHERE {table}.expires <= ?",
        "replace": update,
        "swap": f"{update} AND revision = ?",
        "touch": touch,
        "touch at": f"{touch} AND revision = ?",
        "delete": f"DELETE FROM {table} WHERE {live}",
        "clean": f"DELETE FROM {table} WHERE key IN "
        f"(SELECT key FROM {table} WHERE expires <= ? ORDER BY expires LIMIT ?)",
        "page": page("expires > ?"),
        "owned": page("owner = ? AND expires > ?"),
        "stats": f"SELECT (SELECT COUNT(*) FROM {table} WHERE expires > ?), "
        f"(SELECT COUNT(*) FROM {table} WHERE expires <= ?), "
        "page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        "table": f"CREATE TABLE IF NOT EXISTS {table} (key BLOB PRIMARY KEY NOT NULL, "
        # What comes after the data could not be read without going through it.
        "expires BLOB NOT NULL, revision BLOB NOT NULL, owner BLOB, data BLOB NOT NULL)",
        "by expiry": f"CREATE INDEX IF NOT EXISTS {table}_expires ON {table} (expires)",
        # Visitors who are not logged in need no place in it.
        "by owner": f"CREATE INDEX IF NOT EXISTS {table}_owner ON {table} (owner, key) "
        "WHERE owner IS NOT NULL",
    }
