from django_kvsessions.stores.surrealdb.store import SurrealDBStore

__all__ = ["SurrealDBStore"]
