from django_kvsessions.stores.firestore.store import FirestoreStore

__all__ = ["FirestoreStore"]
