"""A little clean-up now and then, so that a store that nobody cleans does not grow without end.

After one creation in a thousand a thread removes some of what has expired, if no process has done
so lately: a record that expires is the mark by which all of them know, on every store. Only in a
process that serves requests; cron, or a worker's task, stays the way to clean up on schedule.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import random
import sys
import threading
import time
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_started
from django.db import connections

from django_kvsessions import codec, conf, counts
from django_kvsessions.stores.base import KEY_SIZE, Record, Store, now
from django_kvsessions.stores.process import forks

__all__ = ["clean_up", "created"]

logger = logging.getLogger("django_kvsessions")

#: How often a creation asks for a clean-up.
CHANCE = 1 / 1000
#: Seconds between two of them, for all processes together; a tenth of a session's age where that
#: is less. The next creation that asks may go on where one has not removed everything.
INTERVAL = 600.0
#: How many records one of them removes at most, which is twice what was created meanwhile.
AT_MOST = 2000
#: How many at a time: requests that write wait for them.
BATCH = 100
#: Seconds that a process which is ending waits for the batch under way.
PATIENCE = 5.0

_MARK = hashlib.blake2b(b"django_kvsessions: cleaned up", digest_size=KEY_SIZE).digest()
# Of its own, since a project may seed Python's.
_dice = random.Random()
forks.renew(_dice.seed)
_draw = _dice.random


def created(store: Store) -> None:
    """To be called after each creation of a session; raises nothing, and waits for nothing."""
    if _draw() < CHANCE:
        _cleaner.start(store)


def clean_up(store: Store, at_most: int, *, is_over: threading.Event | None = None) -> int:
    """Remove up to so many of the records that have expired; how many that was."""
    removed, started = 0, time.monotonic()
    batches = store.delete_expired(batch_size=min(BATCH, at_most))
    for count in batches:
        removed += count
        if removed + BATCH > at_most or (is_over is not None and is_over.is_set()):
            break
        # The requests' turn, for as long as this one's was.
        time.sleep(time.monotonic() - started)
        started = time.monotonic()
    return removed


class Cleaner:
    """The one thread of a process that cleans up, where it serves requests and is not ending."""

    def __init__(self) -> None:
        self.is_serving = False
        self._ending = threading.Event()
        self._begin()
        forks.renew(self._begin)

    def _begin(self) -> None:
        # In a forked child too, where the parent's thread is not.
        self._running = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next = 0.0

    def start(self, store: Store) -> None:
        if not self.is_serving or self._ending.is_set() or time.monotonic() < self._next:
            return
        wanted = conf.auto_clean()
        if not (store.is_cleaned_by_default if wanted is None else wanted) or _is_testing():
            return
        running = self._running
        if not running.acquire(blocking=False):
            return
        name = "django_kvsessions clean-up"
        self._thread = threading.Thread(
            target=self._run, args=(store, running), name=name, daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:
            # The interpreter is ending, or the system gives no more threads.
            running.release()

    def _run(self, store: Store, running: threading.Lock) -> None:
        alias = conf.store_alias()
        interval = _interval()
        self._next = time.monotonic() + interval
        try:
            mark = Record(codec.seal_notice(_MARK, _MARK), now() + interval, 0)
            if not store.create(_MARK, mark):
                return  # Another process has done it.
            started = time.monotonic()
            removed = clean_up(store, AT_MOST, is_over=self._ending)
            if removed + BATCH > AT_MOST:
                # There may be more.
                store.delete(_MARK)
                self._next = 0.0
            counts.add("cleanups")
            counts.add("cleaned", removed)
            counts.add("cleaning", time.monotonic() - started)
            if removed:
                logger.info(
                    "The automatic clean-up of SESSION_STORES[%r] removed %d expired sessions in "
                    "%.2f s.",
                    alias,
                    removed,
                    time.monotonic() - started,
                )
        except Exception:
            logger.warning(
                "The automatic clean-up of SESSION_STORES[%r] failed, and will be tried again in "
                "%d s. No request waits for it; manage.py clearsessions does the same.",
                alias,
                interval,
                exc_info=True,
            )
        finally:
            # Those of this thread.
            connections.close_all()
            running.release()

    def end(self) -> None:
        self._ending.set()
        thread = self._thread
        if thread is not None and thread.is_alive():
            thread.join(PATIENCE)


def _interval() -> float:
    age = settings.SESSION_COOKIE_AGE
    return min(INTERVAL, age / 10) if age > 0 else INTERVAL


def _is_testing() -> bool:
    # Django makes it for tests alone.
    return hasattr(sys.modules.get("django.core.mail"), "outbox")


def _serve(sender: Any, **kwargs: Any) -> None:
    # The test client's handler is neither.
    if isinstance(sender, type) and issubclass(sender, WSGIHandler | ASGIHandler):
        _cleaner.is_serving = True
        # Once is enough: no later request is to pay for it.
        request_started.disconnect(_serve)


_cleaner = Cleaner()
request_started.connect(_serve)
atexit.register(_cleaner.end)
