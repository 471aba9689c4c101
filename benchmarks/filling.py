"""Sessions put into an engine before anything is measured, live or long expired."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

from benchmarks.contenders import Contender
from benchmarks.sample import session_data, session_key

LONG_AGO = timedelta(days=100)
AT_ONCE = 1000  # rows in a transaction

#: An engine's SessionStore, Django's or ours; their attributes differ.
Engine = Any


def put(contender: Contender, engine: Engine, numbers: Sequence[int]) -> None:
    """Store the sessions of these numbers."""
    if contender.is_ours:
        engine().store.setup()
    if contender.rows:
        put_rows(engine, numbers)
    else:
        for number in numbers:
            new(engine, number).save(must_create=True)


def put_rows(engine: Engine, numbers: Sequence[int]) -> None:
    """What save() would write, many in one transaction."""
    from django.core.management import call_command
    from django.db import transaction

    call_command("migrate", verbosity=0)
    for first in range(0, len(numbers), AT_ONCE):
        sessions = [new(engine, number) for number in numbers[first : first + AT_ONCE]]
        if hasattr(engine, "get_model_class"):
            rows = [session.create_model_instance(session._session_cache) for session in sessions]
            engine.get_model_class().objects.bulk_create(rows, batch_size=300)
        else:
            with transaction.atomic():
                for session in sessions:
                    session.save(must_create=True)


def put_in_process(contender: Contender, engine: Engine, numbers: Sequence[int]) -> None:
    """What save() or load() would leave in a cache that each process has for itself."""
    if contender.is_ours:
        for number in numbers:
            engine(session_key(number)).load()
        return
    if not contender.rows:
        put(contender, engine, numbers)
        return
    for number in numbers:
        session = new(engine, number)
        session._cache.set(session.cache_key, session._session_cache, session.get_expiry_age())


def put_expired(contender: Contender, engine: Engine, numbers: Sequence[int]) -> None:
    """Store them as if they had last been saved a hundred days ago."""
    with long_ago():
        put(contender, engine, numbers)
    if contender.name == "file":
        stamp = time.time() - LONG_AGO.total_seconds()
        for number in numbers:
            os.utime(engine(session_key(number))._key_to_file(), (stamp, stamp))


def new(engine: Engine, number: int) -> Any:
    session = engine(session_key(number))
    # Assigned, because update() would look the session up first.
    session._session_cache = session_data(number)
    return session


def stored(contender: Contender, engine: Engine) -> int:
    """How many sessions there are, expired ones included."""
    if contender.name == "file":
        return len(os.listdir(engine._get_storage_path()))
    if contender.is_ours:
        stats = engine().store.stats()
        return int(stats.live + stats.expired)
    return int(engine.get_model_class().objects.count())


@contextmanager
def long_ago() -> Iterator[None]:
    """What is written meanwhile is written as if it were a hundred days ago."""
    from django.utils import timezone

    clock, now = time.time, timezone.now

    def old_clock() -> float:
        return clock() - LONG_AGO.total_seconds()

    def old_now() -> datetime:
        return now() - LONG_AGO

    with mock.patch("time.time", old_clock), mock.patch.object(timezone, "now", old_now):
        yield
