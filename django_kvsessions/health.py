"""Whether the stores do well: for a probe, ``sessionstats --check``, and a load balancer's view.

A site mounts the view, which tells strangers nothing but "ok" or "not ok"::

    path("healthz", session_health)
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache

from django_kvsessions import conf
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import KEY_SIZE, Store, StoreError, now
from django_kvsessions.stores.process import forks

__all__ = ["Limits", "find_problems", "session_health"]


class Limits(NamedTuple):
    """What is still well."""

    #: Seconds in which a store answers.
    within: float = 1.0
    #: Bytes that are free on the disk of a folder.
    room: int = 100 * 1024 * 1024
    #: So many expired sessions, the oldest of which expired so many seconds ago, are cleaned up
    #: by nobody.
    expired: int = 10_000
    expired_age: float = 7 * 86_400


#: Seconds for all that is counted.
COUNTING = 30.0


def find_problems(alias: str, limits: Limits) -> Iterator[str]:
    """What is wrong with a store, a sentence each, in bounded time; nothing where it does well."""
    store = stores[alias]
    problem = _probe(alias, limits.within)
    if problem is not None:
        yield problem
        return
    if type(store).location_is_folder:
        folder = os.fspath(conf.store(alias)["LOCATION"])
        if os.path.isdir(folder) and (free := shutil.disk_usage(folder).free) < limits.room:
            yield (
                f"the disk of {folder} has {free / 1e6:,.0f} MB left, less than "
                f"{limits.room / 1e6:,.0f}: make room."
            )
    counting = _Asking(lambda: list(_counted(store, limits)))
    yield from counting.wait(COUNTING) or ()
    if counting.error is not None:
        yield f"its sessions could not be counted: {counting.error}"
    elif not counting.is_done:
        yield f"its sessions could not be counted within {COUNTING:g} s."


def _counted(store: Store, limits: Limits) -> Iterator[str]:
    yield from store.faults()
    stats = store.stats()
    if stats.oldest is not None and (stats.expired or 0) >= limits.expired:
        age = now() - stats.oldest
        if age > limits.expired_age:
            yield (
                f"{stats.expired:,} sessions have expired, the first of them "
                f"{age / 86_400:,.1f} days ago: run manage.py clearsessions from cron."
            )


@never_cache
def session_health(request: HttpRequest) -> HttpResponse:
    """200 and "ok" where the store of the engine answers within a second, else 503 and "not ok"."""
    try:
        is_well = _probe(conf.store_alias(), Limits().within) is None
    except Exception:
        # Whatever is wrong with the settings is not for strangers.
        is_well = False
    return HttpResponse(
        "ok" if is_well else "not ok",
        status=200 if is_well else 503,
        content_type="text/plain; charset=utf-8",
    )


def _probe(alias: str, within: float) -> str | None:
    """What is wrong with how the store answers; ``None`` where it does."""
    store = stores[alias]
    with _lock:
        asking = _asking.get(alias)
        # Not one more thread with each question to a store that hangs.
        if asking is None or asking.is_done:
            asking = _asking[alias] = _Asking(lambda: store.load(os.urandom(KEY_SIZE)))
    asking.wait(within)
    if not asking.is_done:
        return f"it has not answered within {within * 1000:,.0f} ms."
    if asking.error is not None:
        return str(asking.error) or type(asking.error).__name__
    return None


class _Asking:
    """A question in a thread of its own, so that nobody waits longer than they want to."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._answer: Any = None
        self.error: Exception | None = None
        self._thread = threading.Thread(
            target=self._run, name="django_kvsessions health", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except StoreError as error:
            self.error = error
        except Exception as error:
            self.error = RuntimeError(f"{type(error).__name__}: {error}")
        finally:
            # Those of this thread.
            connections.close_all()

    def wait(self, seconds: float) -> Any:
        self._thread.join(seconds)
        return self._answer

    @property
    def is_done(self) -> bool:
        # In a forked child no thread of the parent's is alive.
        return not self._thread.is_alive()


_asking: dict[str, _Asking] = {}
_lock = threading.Lock()
forks.hold(_lock)
