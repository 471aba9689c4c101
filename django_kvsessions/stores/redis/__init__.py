from django_kvsessions.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
