"""Where the microseconds of one load go."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks import filling, report, site
from benchmarks.arena import progress
from benchmarks.command import Command, add_batches
from benchmarks.contenders import CONTENDERS, DJANGO, OURS, Place, django_settings, locmem
from benchmarks.measure import Result, shuffled
from benchmarks.sample import session_key
from django_kvsessions.stores.base import Record

OPENED_SIZE = 1024 * 1024  # more than any of them has


class LoadProfile(Command):
    """Where the microseconds of one load go.

    Each part is timed on its own, in turns with the whole and with Django's cache engine on
    locmem, on sessions in random order; what is printed is the least of many rounds.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_batches(parser, sizes=[20_000], rounds=60, batch=500)

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        place = Place(folder)
        found = django_settings(CONTENDERS[OURS], place, middleware=f"{DJANGO}.middleware")
        os.environ[site.SETTINGS] = json.dumps(found | locmem(place))
        site.configure()
        functions = parts(max(options.sizes))
        least = dict.fromkeys(functions, float("inf"))
        for _ in progress(range(options.rounds), "rounds"):
            for name, function in functions.items():
                start = time.perf_counter_ns()
                for _ in range(options.batch):
                    function()
                spent = (time.perf_counter_ns() - start) / options.batch / 1000
                least[name] = min(least[name], spent)
        results["parts"] = least

    def render(self, results: Result) -> Iterator[str]:
        rows = [[name, f"{spent:.2f}"] for name, spent in results.get("parts", {}).items()]
        yield report.table("Where the time of one load goes", ["µs"], rows)


def parts(sessions: int) -> dict[str, Callable[[], Any]]:
    """What is timed; each call takes the next session."""
    from django.contrib.sessions.backends.cache import SessionStore as CacheSession

    from django_kvsessions import codec
    from django_kvsessions.engine import SessionStore
    from django_kvsessions.serializers import MessagePackSerializer

    filling.put(CONTENDERS[OURS], SessionStore, range(sessions))
    filling.put(CONTENDERS["cache-locmem"], CacheSession, range(sessions))
    order = shuffled([session_key(number) for number in range(sessions)])
    store = SessionStore().store
    keys = [codec.storage_key(key) for key in order]
    records = [(key, record) for key in keys if (record := store.load(key))]

    def opened(entry: tuple[bytes, Record]) -> bytes:
        key, record = entry
        return codec.open_record(key, record.owner, record.data, OPENED_SIZE)[0]

    loads = MessagePackSerializer().loads
    ids, keyed, sealed = cycle(order), cycle(keys), cycle(records)
    payloads = cycle([opened(entry) for entry in records])

    return {
        "cache on locmem, the whole load": lambda: CacheSession(next(ids)).load(),
        "kvsessions, the whole load": lambda: SessionStore(next(ids)).load(),
        "its id hashed": lambda: codec.storage_key(next(ids)),
        "its record read from the store": lambda: store.load(next(keyed)),
        "its tag verified": lambda: opened(next(sealed)),
        "its MessagePack decoded": lambda: loads(next(payloads)),
    }
