"""What the tests of several stores do to their servers, and expect."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django_kvsessions.engine import SessionStore
from django_kvsessions.stores.base import Record, Store, StoreUnavailable
from testservers import Server

__all__ = ["Outage", "assert_restarts_are_not_noticed", "killing", "visiting"]

Outage = Callable[[], AbstractContextManager[None]]


def killing(server: Server) -> Outage:
    """For the kit's fixture ``outage``."""

    @contextmanager
    def killed() -> Iterator[None]:
        server.kill()
        try:
            yield
        finally:
            server.start()

    return killed


def assert_restarts_are_not_noticed(server: Server, store: Store) -> None:
    key, record = b"k" * 32, Record(b"data", time.time() + 600, 1)

    async def over_a_restart() -> None:
        assert await store.aload(key)
        server.restart()
        assert await store.areplace(key, record._replace(data=b"async"))

    store.create(key, record)
    server.restart()
    assert store.replace(key, record._replace(data=b"sync"))
    asyncio.run(over_a_restart())
    loaded = store.load(key)
    assert loaded is not None
    assert loaded.data == b"async"


@contextmanager
def visiting(
    number: int, within: Callable[[Callable[[], None]], Any] = lambda visit: visit()
) -> Iterator[list[int]]:
    """Some visitors count up in sessions of theirs, in threads, until the context ends.

    None may be logged out, nor find less than what was acknowledged. Afterwards
    the list says how often the store was unavailable to each. ``within`` calls
    what a thread does.
    """
    stop = threading.Event()
    wrong: list[object] = []
    failures: list[int] = []
    counts: dict[str, int] = {}

    def visit() -> None:
        session = SessionStore()
        session["count"] = 0
        session.create()
        key = session.session_key
        assert key is not None
        acknowledged = failed = 0
        while not stop.is_set():
            session = SessionStore(key)
            try:
                found = session.get("count")
                # What failed may have been written all the same.
                if found is None or found < acknowledged:
                    wrong.append((found, acknowledged))
                session["count"] = (found or 0) + 1
                session.save()
                acknowledged = (found or 0) + 1
            except StoreUnavailable:
                failed += 1
                time.sleep(0.01)
            except Exception as error:
                wrong.append(error)
        counts[key] = acknowledged
        failures.append(failed)

    visitors = [threading.Thread(target=within, args=(visit,)) for _ in range(number)]
    for visitor in visitors:
        visitor.start()
    try:
        yield failures
    finally:
        stop.set()
        for visitor in visitors:
            visitor.join(60)
    assert wrong == []
    assert len(counts) == number
    for key, acknowledged in counts.items():
        assert acknowledged > 5
        assert SessionStore(key)["count"] >= acknowledged
