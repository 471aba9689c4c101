"""``cache``: values of any cache of Django's, which may or may not tell how long they live."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from django_kvsessions.moving.formers.base import Former, Left
from django_kvsessions.saved import EXPIRY
from django_kvsessions.serializers import SessionData
from django_kvsessions.stores.base import now

__all__ = ["CacheFormer"]


class CacheFormer(Former):
    # Some caches refuse others with an error, which would look like an outage.
    ids = re.compile(r"[\w-]{1,100}", re.ASCII)

    def place(self, session_key: str) -> tuple[Any, str]:
        session: Any = self.engine(session_key)
        return session._cache, session.cache_key_prefix + session_key

    def load(self, session_key: str) -> Left | None:
        cache, key = self.place(session_key)
        # Not by the engine's own load(), to which an outage is a logout.
        data = cache.get(key)
        if not isinstance(data, dict) or not data:
            return None
        left = self.left(data, now(), data)
        if left is None or isinstance(data.get(EXPIRY), str):
            return left
        seconds = life(cache, key)
        return left if seconds is None else left._replace(expires=now() + seconds)

    def take(self, session_key: str, left: Left) -> bool:
        cache, key = self.place(session_key)
        # No cache of Django's removes a value only if it is still the same.
        return bool(cache.get(key) == left.token and cache.delete(key))

    def delete(self, session_key: str) -> None:
        cache, key = self.place(session_key)
        cache.delete(key)

    def put(self, session_key: str, data: SessionData, expires: float) -> bool:
        cache, key = self.place(session_key)
        # Whole seconds, which all caches take, and no fewer than it has.
        return bool(cache.add(key, data, max(1, -int(now() - expires))))

    def cannot_be_listed(self) -> str | None:
        cache, _ = self.place("a" * 32)
        if redis_keys(cache) is not None:
            return None
        return f"{self.path} keeps them in {type(cache).__name__}, which cannot list its keys"

    def scan(self, batch_size: int) -> Iterator[list[str]]:
        cache, prefix = self.place("")
        keys = redis_keys(cache)
        if keys is None:
            raise NotImplementedError(self.cannot_be_listed())
        batch = []
        for key in keys(prefix, batch_size):
            batch.append(key.partition(prefix)[2])
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch


def redis_keys(cache: Any) -> Callable[[str, int], Iterator[str]] | None:
    """What lists the keys with a prefix, of Django's own Redis cache and of django-redis."""
    if hasattr(cache, "iter_keys"):

        def of_django_redis(prefix: str, size: int) -> Iterator[str]:
            yield from cache.iter_keys(f"{prefix}*", itersize=size)

        return of_django_redis
    client = django_redis_client(cache)
    if client is None:
        return None

    def of_django(prefix: str, size: int) -> Iterator[str]:
        pattern = cache.make_key(prefix) + "*"
        for key in client.get_client().scan_iter(match=pattern, count=size):
            yield key.decode() if isinstance(key, bytes) else key

    return of_django


def django_redis_client(cache: Any) -> Any:
    """What talks to the server for Django's own Redis cache; ``None`` for another cache."""
    from django.core.cache.backends.redis import RedisCache

    # As a request's, by way of a proxy, it may be of any class.
    backend: Any = getattr(cache, "_cache", None)
    return backend if isinstance(cache, RedisCache) else None


def life(cache: Any, key: str) -> float | None:
    """The seconds that a value has left, where the cache tells."""
    from django.core.cache.backends.locmem import LocMemCache

    if hasattr(cache, "pttl"):
        return seconds_of(cache.pttl(key))
    if (client := django_redis_client(cache)) is not None:
        name = cache.make_and_validate_key(key)
        return seconds_of(client.get_client(name).pttl(name))
    if isinstance(cache, LocMemCache):
        info: dict[str, float | None] = cache._expire_info  # type: ignore[attr-defined]  # private
        expires = info.get(cache.make_key(key))
        return None if expires is None else expires - now()
    return None


def seconds_of(milliseconds: int | None) -> float | None:
    return None if milliseconds is None or milliseconds < 0 else milliseconds / 1000
