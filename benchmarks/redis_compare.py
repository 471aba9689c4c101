"""``python -m benchmarks.redis_compare``: this engine on Redis beside Django's cache engine.

All contenders take turns on one server, so what to read are the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings

from benchmarks.sample import session_data, session_key
from testservers import Server
from testservers.redis import redis_server, valkey_server

OURS = "kvsessions"
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
        times = measure(server, options.sessions, options.rounds, options.batch)
    report(times)


def measure(
    server: Server, sessions: int, rounds: int, batch: int
) -> dict[tuple[str, str], list[float]]:
    engines = configure(f"redis://127.0.0.1:{server.port}")
    for engine in engines.values():
        for number in range(sessions):
            store(engine, number)
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds):
        numbers = random.choices(range(sessions), k=batch)
        new = range(sessions + turn * batch, sessions + (turn + 1) * batch)
        order = list(engines)
        random.shuffle(order)
        for operation in OPERATIONS:
            for name in order:
                chosen = new if operation in ("create", "delete") else numbers
                taken = timed(engines[name], operation, chosen) / batch
                times.setdefault((operation, name), []).append(taken * 1e6)
    return times


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


def store(engine: Any, number: int) -> None:
    session = engine(session_key(number))
    session._session_cache = session_data(number)
    session.save(must_create=True)


def timed(engine: Any, operation: str, numbers: Any) -> float:
    """Seconds for the operation on all these sessions."""
    prepared = []
    for number in numbers:
        session = engine(session_key(number))
        if operation in ("save", "asave"):
            session["visits"] = session.get("visits", 0) + 1
        prepared.append(session)
    if operation.startswith("a"):
        return asyncio.run(timed_async(engine, operation, prepared))
    calls: dict[str, Callable[[Any, int], Any]] = {
        "create": lambda session, number: store(engine, number),
        "load": lambda session, number: session.load(),
        "save": lambda session, number: session.save(),
        "delete": lambda session, number: session.delete(),
    }
    call = calls[operation]
    started = time.perf_counter()
    for session, number in zip(prepared, numbers, strict=True):
        call(session, number)
    return time.perf_counter() - started


async def timed_async(engine: Any, operation: str, prepared: list[Any]) -> float:
    # The connection of this event loop.
    await engine(session_key(0)).aload()
    started = time.perf_counter()
    for session in prepared:
        await getattr(session, operation)()
    return time.perf_counter() - started


def report(times: dict[tuple[str, str], list[float]]) -> None:
    names = (OURS, DJANGO, DJANGO_REDIS)
    print("us, median (least), and how many times ours is faster by medians (by least)")
    for operation in OPERATIONS:
        cells = []
        ours = times[operation, OURS]
        for name in names:
            theirs = times[operation, name]
            cell = f"{name} {statistics.median(theirs):.0f} ({min(theirs):.0f})"
            if name != OURS:
                ratio = statistics.median(theirs) / statistics.median(ours)
                cell += f" {ratio:.2f}x ({min(theirs) / min(ours):.2f}x)"
            cells.append(cell)
        print(f"{operation:7}", " | ".join(cells))


if __name__ == "__main__":
    main()
