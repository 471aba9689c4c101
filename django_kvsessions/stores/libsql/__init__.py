from django_kvsessions.stores.libsql.store import LibSQLStore

__all__ = ["LibSQLStore"]
