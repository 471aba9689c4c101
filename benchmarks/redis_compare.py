"""``python -m benchmarks.redis_compare``: this engine on Redis beside Django's cache engine.

All contenders take turns on one server, so what to read are the ratios.
"""

from __future__ import annotations

import argparse
from typing import Any

import django
from django.conf import settings

from benchmarks.engines import OURS
from benchmarks.turns import fill, report, take_turns
from testservers.redis import redis_server, valkey_server

DJANGO = "cache on RedisCache"
DJANGO_REDIS = "cache on django-redis"
SERVERS = {"redis": redis_server, "valkey": valkey_server}
OPERATIONS = ("create", "load", "save", "delete", "aload", "asave")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=SERVERS, default="redis")
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=500)
    options = parser.parse_args()
    with SERVERS[options.server]() as server:
        engines = configure(f"redis://127.0.0.1:{server.port}")
        fill(engines, options.sessions)
        times = take_turns(
            engines,
            OPERATIONS,
            sessions=options.sessions,
            rounds=options.rounds,
            batch=options.batch,
        )
    report(times)


def configure(location: str) -> dict[str, Any]:
    """The session engines, by name."""
    settings.configure(
        SECRET_KEY="benchmark",
        SESSION_STORES={
            "default": {
                "BACKEND": "django_kvsessions.stores.redis.RedisStore",
                "LOCATION": f"{location}/0",
            }
        },
        CACHES={
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": f"{location}/1",
            },
            "django-redis": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": f"{location}/2",
            },
        },
    )
    django.setup()
    from django.contrib.sessions.backends.cache import SessionStore as CacheSession
    from django.core.cache import caches

    from django_kvsessions.engine import SessionStore

    class DjangoRedisSession(CacheSession):
        def __init__(self, session_key: str | None = None) -> None:
            super().__init__(session_key)
            self._cache = caches["django-redis"]

    return {OURS: SessionStore, DJANGO: CacheSession, DJANGO_REDIS: DjangoRedisSession}


if __name__ == "__main__":
    main()
