"""What the automatic clean-up keeps a store at, and what requests notice of it."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

from django_kvsessions import cleaning, conf
from django_kvsessions.stores.base import Record, Store

__all__ = ["AutoClean", "Most", "simulate"]

#: Seconds that a session lives, and bytes that it has.
LIFE = 60.0
SIZE = 600


class Most(NamedTuple):
    """The most that a store held at any moment: records, and bytes."""

    records: int
    size: int
    #: Bytes of what is live, with what the store itself needs for it.
    live_size: int


def simulate(store: Store, *, living: int, lives: int) -> Most:
    """Constant traffic on a clock of its own, ``living`` sessions a minute, for so many minutes.

    The clean-up is asked for and done as in a site, but at once, and not beside.
    """
    start = time.time()
    clock = start
    cleaner, due = cleaning.Cleaner(), random.Random(1)
    cleaner.is_serving = True
    records = size = live_size = 0
    timing = SimpleNamespace(monotonic=lambda: clock, sleep=lambda seconds: None)
    with (
        patch("time.time", lambda: clock),
        patch.object(cleaning, "time", timing),
        patch.object(cleaning, "_is_testing", return_value=False),
        patch.object(cleaning, "_interval", lambda: LIFE / 10),
        patch.object(conf, "auto_clean", return_value=True),
    ):
        for number in range(living * lives):
            clock = start + number * LIFE / living
            store.create(b"%032d" % number, Record(bytes(SIZE), clock + LIFE, 1))
            if due.random() < cleaning.CHANCE:
                cleaner.start(store)
                if cleaner._thread is not None:
                    cleaner._thread.join()
            if number % (living // 10) == 0:
                stats = store.stats()
                if number == living:
                    live_size = stats.size or 0
                records = max(records, (stats.live or 0) + (stats.expired or 0))
                size = max(size, stats.size or 0)
    return Most(records, size, live_size)
