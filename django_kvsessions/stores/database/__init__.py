from django_kvsessions.stores.database.store import DatabaseStore

__all__ = ["DatabaseStore"]
