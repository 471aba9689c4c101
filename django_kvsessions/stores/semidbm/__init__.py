from django_kvsessions.stores.semidbm.store import SemidbmStore

__all__ = ["SemidbmStore"]
