from django_kvsessions.stores.mongodb.store import MongoDBStore

__all__ = ["MongoDBStore"]
