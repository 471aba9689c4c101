"""Visitors with counters, while some of the store's answers are lost on their way.

By hand, for as long as you like: ``python -m tests.support.visits redis --seconds 600``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.test import override_settings

from django_kvsessions.colours import Colour, awaiting, blocking, run
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.testing import Proxy
from testservers.registry import STORES, running

__all__ = ["Visits", "assert_lost_answers_log_nobody_out"]

#: How long they come.
SECONDS = 2.0


@dataclass
class Counter:
    """What two visitors of one session know of the number in it."""

    key: str
    done: int = 0
    #: Increments of which nobody knows whether they were made.
    unknown: int = 0


@dataclass
class Visits:
    """What came of it; ``str`` is one line of figures."""

    cuts: int = 0
    done: int = 0
    moves: int = 0
    unavailable: int = 0
    logged_out: int = 0
    counted_twice: int = 0
    lost: int = 0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.done} increments and {self.moves} new ids with {self.cuts} answers cut: "
            f"{self.logged_out} logged out, {self.counted_twice} counted twice, {self.lost} lost, "
            f"{self.unavailable} unavailable, {len(self.errors)} errors {self.errors[:3]}"
        )


def assert_lost_answers_log_nobody_out(
    proxy: Proxy,
    store: dict[str, Any],
    *,
    asynchronous: bool = False,
    seconds: float = SECONDS,
    rate: float = 0.02,
    visitors: int = 4,
) -> Visits:
    """Let visitors count through ``store``, an entry of SESSION_STORES that leads to the proxy.

    Two share each session, as two tabs do; half as many again only change their
    ids, as at logins.
    """
    visits = Visits()
    with override_settings(SESSION_STORES={"default": store}):
        counters = [new_counter() for _ in range(visitors // 2)]
        until = time.monotonic() + seconds
        call = awaiting if asynchronous else blocking
        coroutines = [count_up(call, each, visits, until) for each in counters * 2]
        coroutines += [move(call, new_counter().key, visits, until) for _ in counters]
        with proxy.cut_at_random(rate) as cut:
            carry_out(coroutines, asynchronous=asynchronous)
        visits.cuts = cut.happened
        for counter in counters:
            found = SessionStore(counter.key).get("count")
            if found is None:
                visits.logged_out += 1
                continue
            visits.done += counter.done
            visits.lost += max(0, counter.done - found)
            visits.counted_twice += max(0, found - counter.done - counter.unknown)
    wrong = (visits.logged_out, visits.counted_twice, visits.lost, len(visits.errors))
    assert wrong == (0, 0, 0, 0), str(visits)
    assert visits.cuts > 0, "no answer was cut"
    assert visits.done > 0, str(visits)
    assert visits.moves > 0, str(visits)
    return visits


def carry_out(coroutines: list[Coroutine[Any, Any, None]], *, asynchronous: bool) -> None:
    async def gather() -> None:
        await asyncio.gather(*coroutines)

    if asynchronous:
        asyncio.run(gather())
    else:
        with ThreadPoolExecutor(len(coroutines)) as threads:
            list(threads.map(run, coroutines))


def new_counter() -> Counter:
    session = SessionStore()
    session["count"] = 0
    session["_auth_user_id"] = "7"
    session.create()
    assert session.session_key is not None
    return Counter(session.session_key)


def add_one(data: dict[str, Any]) -> None:
    data["count"] += 1


async def count_up(call: Colour, counter: Counter, visits: Visits, until: float) -> None:
    while time.monotonic() < until:
        session = SessionStore(counter.key)
        try:
            if await call(session.get, session.aget, "count") is None:
                visits.logged_out += 1
                return
        except StoreUnavailable:
            visits.unavailable += 1
            continue
        except Exception as error:
            visits.errors.append(repr(error))
            return
        try:
            await call(session.mutate, session.amutate, add_one)
        except StoreUnavailable:
            counter.unknown += 1
            visits.unavailable += 1
        except Exception as error:
            visits.errors.append(repr(error))
            return
        else:
            counter.done += 1


async def move(call: Colour, key: str, visits: Visits, until: float) -> None:
    while time.monotonic() < until:
        session = SessionStore(key)
        try:
            if await call(session.get, session.aget, "count") is None:
                visits.logged_out += 1
                return
            await call(session.cycle_key, session.acycle_key)
        except StoreUnavailable:
            visits.unavailable += 1
        except Exception as error:
            visits.errors.append(repr(error))
            return
        else:
            visits.moves += 1
        # Which of the two ids it has is for the engine to say.
        key = session.session_key or key


def visit_by_hand(name: str, seconds: float) -> None:
    """Print what came of it, for a store of the registry that has a server."""
    proxies: list[Proxy] = []

    @contextmanager
    def through(port: int) -> Iterator[int]:
        with Proxy(("127.0.0.1", port)) as proxy:
            proxies.append(proxy)
            yield proxy.port

    with (
        tempfile.TemporaryDirectory() as folder,
        running(name, Path(folder), through) as (store, database),
    ):
        if database is not None:
            settings.DATABASES = {"default": database}
        django.setup()
        with override_settings(SESSION_STORES={"default": store}):
            stores["default"].setup()
        visits = assert_lost_answers_log_nobody_out(proxies[0], store, seconds=seconds)
        with override_settings(SESSION_STORES={"default": store}):
            stores.close_all()
    print(name, visits)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    parser = argparse.ArgumentParser(description="Count through a store that loses answers.")
    parser.add_argument("store", choices=[name for name in STORES if STORES[name].server])
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    visit_by_hand(arguments.store, arguments.seconds)
