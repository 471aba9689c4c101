from django_kvsessions.stores.lmdb.store import LMDBStore

__all__ = ["LMDBStore"]
