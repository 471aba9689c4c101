"""``python -m benchmarks.load_profile``: where the microseconds of one load go.

Each part is timed on its own, in turns with the whole and with Django's cache
engine on locmem, on 20,000 sessions in random order; what is printed is the
least of many rounds.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import django
from django.conf import settings

from benchmarks.sample import session_data

SESSIONS = 20_000
ROUNDS = 60
BATCH = 500


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings.configure(
            SECRET_KEY="a key for the benchmark",
            SESSION_STORES={"default": {"LOCATION": f"{folder}/sessions"}},
            CACHES={
                "default": {
                    "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
                    "OPTIONS": {"MAX_ENTRIES": 10 * SESSIONS},
                }
            },
        )
        django.setup()
        least = measure(parts())
    for name, microseconds in least.items():
        print(f"{name:<40}{microseconds:6.2f} µs")


def parts() -> dict[str, Callable[[], Any]]:
    """What is timed; each call takes the next session."""
    from django.contrib.sessions.backends.cache import SessionStore as CacheSession

    from django_kvsessions import codec
    from django_kvsessions.engine import SessionStore
    from django_kvsessions.serializers import MessagePackSerializer

    ours = shuffled(fill(SessionStore))
    locmem = shuffled(fill(CacheSession))
    store = SessionStore().store
    keys = [codec.storage_key(key) for key in ours]
    records = [(key, store.load(key)) for key in keys]
    opened = [
        codec.open_record(key, record.owner, record.data)[0]
        for key, record in records
        if record is not None
    ]
    loads = MessagePackSerializer().loads
    ids, others, keyed = cycle(ours), cycle(locmem), cycle(keys)
    sealed, payloads = cycle(records), cycle(opened)

    def unseal() -> None:
        key, record = next(sealed)
        assert record is not None
        codec.open_record(key, record.owner, record.data)

    return {
        "cache on locmem, the whole load": lambda: CacheSession(next(others)).load(),
        "django_kvsessions, the whole load": lambda: SessionStore(next(ids)).load(),
        "  the id hashed": lambda: codec.storage_key(next(ids)),
        "  the record read from the store": lambda: store.load(next(keyed)),
        "  its tag verified": unseal,
        "  MessagePack decoded": lambda: loads(next(payloads)),
    }


def fill(session_class: type[Any]) -> list[str]:
    keys = []
    for number in range(SESSIONS):
        session = session_class()
        session.update(session_data(number))
        session.save()
        keys.append(session.session_key)
    return keys


def shuffled(keys: list[str]) -> list[str]:
    random.shuffle(keys)
    return keys


def measure(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    least = dict.fromkeys(functions, float("inf"))
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter_ns()
            for _ in range(BATCH):
                function()
            least[name] = min(least[name], (time.perf_counter_ns() - start) / BATCH / 1000)
    return least


if __name__ == "__main__":
    main()
