"""Lines of the log that many requests would write: one a minute, with how many there were.

Each says which store, what happened, the likely causes in order, and the cure.
"""

from __future__ import annotations

import logging
import threading
import time

from django_kvsessions import conf, counts
from django_kvsessions.stores.process import forks

__all__ = ["forget", "rejected", "unavailable", "unextended"]

logger = logging.getLogger("django_kvsessions")
security_log = logging.getLogger("django.security.SuspiciousSession")

#: Seconds between two lines on one matter of one store.
INTERVAL = 60.0

# When a line was written last, and how many were not since. A few kinds of each store.
_said: dict[tuple[str, str], tuple[float, int]] = {}
_lock = threading.Lock()
forks.hold(_lock)

_OTHER_KEY = (
    "Likely causes, in order: SECRET_KEY was changed, and the former one is not in "
    "SECRET_KEY_FALLBACKS; two sites with different keys share the store's LOCATION; the record "
    "was damaged or tampered with. To have the sessions back, put the former key into "
    "SECRET_KEY_FALLBACKS, or give each site a LOCATION of its own."
)
_OTHER_FORM = (
    "Likely causes, in order: SESSION_SERIALIZER was changed, or what it needs to know a value by; "
    "what wrote it is a bug. Set the former serializer again, or let these sessions expire."
)


def rejected(reason: str, cure: str = "") -> None:
    """A record does not verify or decode; ``cure``, where it is known."""
    counts.add("rejected")
    is_other_key = reason.startswith(("its tag", "it is too short"))
    cure = cure or (_OTHER_KEY if is_other_key else _OTHER_FORM)
    _say(
        security_log,
        logging.WARNING,
        "rejected",
        f"a session does not verify or decode: {reason}. {cure} The visitor goes on without it; "
        "the record and the cookie stay.",
    )


def unavailable(doing: str, error: Exception) -> None:
    """The store failed, and a visitor got a 503."""
    _say(
        logger,
        logging.ERROR,
        "unavailable",
        f"the store failed {doing}, and the visitor was answered 503: {error} Nobody was logged "
        "out. Likely causes, in order: its server is away or restarts, its disk is full, or its "
        "LOCATION or rights are wrong; manage.py sessionstats --check tells.",
        error,
    )


def unextended(error: Exception) -> None:
    """A session could not be touched."""
    _say(
        logger,
        logging.WARNING,
        "unextended",
        f"the life of a session could not be extended: {error} Nothing is lost by it: the next "
        "request tries again. manage.py sessionstats --check tells how the store does.",
        error,
    )


def forget() -> None:
    """Begin anew, as after a minute."""
    with _lock:
        _said.clear()


def _say(
    log: logging.Logger, level: int, matter: str, message: str, error: Exception | None = None
) -> None:
    alias, moment = conf.store_alias(), time.monotonic()
    with _lock:
        before, more = _said.get((matter, alias), (moment - INTERVAL, 0))
        if moment < before + INTERVAL:
            _said[matter, alias] = before, more + 1
            return
        _said[matter, alias] = moment, 0
    lately = f" ({more:,} more like it in the {moment - before:,.0f} s before.)" if more else ""
    log.log(level, "SESSION_STORES[%r]: %s%s", alias, message, lately, exc_info=error)
