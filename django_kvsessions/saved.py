"""A session as the store has it: what a record says, and what is to be stored."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import NamedTuple

from django.contrib.auth import SESSION_KEY as USER_ID

from django_kvsessions import codec, conf
from django_kvsessions.serializers import Serializer, SessionData
from django_kvsessions.stores.base import Provisional, Record, now
from django_kvsessions.stores.process import forks

__all__ = [
    "EXPIRY",
    "LARGEST_RATIO",
    "Answer",
    "Found",
    "Moved",
    "Saved",
    "Unreadable",
    "make_notice",
    "make_record",
    "new_revision",
    "open_record",
]

security_log = logging.getLogger("django.security.SuspiciousSession")

#: Where Django keeps what ``set_expiry`` was given.
EXPIRY = "_session_expiry"
#: Seconds for which a session that has got a new id is remembered under the former one.
NOTICE_AGE = 60
#: How many times ``max_record_size`` a session may have when it is opened.
LARGEST_RATIO = 16


class Saved(NamedTuple):
    """What a session was when it was loaded or stored: later changes are compared with it."""

    payload: bytes
    created: float
    expires: float
    revision: int
    owner: bytes
    #: The user id, as text; ``None`` for an anonymous session.
    user: str | None
    #: What ``set_expiry`` was given.
    expiry: object
    #: Sealed under a former SECRET_KEY, so to be written anew at the next save.
    is_stale: bool = False
    #: Where it was stored in a transaction of the site's: that write, and what it was before.
    provisional: Provisional | None = None
    before: Saved | None = None

    @property
    def is_final(self) -> bool:
        return self.provisional is None or self.provisional.is_committed


@dataclass(frozen=True)
class Moved:
    """The session has got a new id, and this is the storage key that goes with it."""

    successor: bytes


@dataclass(frozen=True)
class Unreadable:
    """A record is there, and this process cannot read it."""

    reason: str


#: A session that was found, and its data.
Found = tuple[Saved, SessionData]
#: ``None`` where there is no live record.
Answer = Found | Moved | Unreadable | None


def open_record(serializer: Serializer, key: bytes, record: Record | None, limit: int) -> Answer:
    """What a record says of which nothing is trusted; at most ``limit`` bytes are opened."""
    if record is None:
        return None
    sealed, expires, revision, owner = record
    try:
        payload, created, is_stale, is_notice = codec.open_record(key, owner, sealed, limit)
        if is_notice:
            return Moved(payload)
        data = serializer.loads(payload)
        if not isinstance(data, dict):
            return _unreadable("it holds no dict")
    except MemoryError:
        # It says nothing about the record.
        raise
    except Exception as error:
        # Whatever a serializer may raise, the visitor gets a fresh session.
        return _unreadable(str(error) or type(error).__name__)
    age = conf.absolute_age()
    if age is not None and created + age <= now():
        return None
    user = data.get(USER_ID)
    if user is not None:
        user = str(user)
    expiry = data.get(EXPIRY)
    return Saved(payload, created, expires, revision, owner, user, expiry, is_stale), data


def _unreadable(reason: str) -> Unreadable:
    security_log.warning(
        "A session in SESSION_STORES[%r] does not verify or decode: %s. Is SECRET_KEY, or one of "
        "SECRET_KEY_FALLBACKS, missing that it was stored under, or do two sites share the store? "
        "The visitor goes on without it; the record and the cookie stay.",
        conf.store_alias(),
        reason,
    )
    return Unreadable(reason)


def make_record(key: bytes, saved: Saved, limit: int) -> Record:
    """``ValueError`` for more than ``limit`` bytes, which could not be opened again."""
    if len(saved.payload) > limit:
        raise ValueError(
            f"A session of {len(saved.payload)} bytes is over the limit of {limit} bytes, "
            f"{LARGEST_RATIO} times OPTIONS['max_record_size'] of its store."
        )
    data = codec.seal(key, saved.owner, saved.created, saved.payload)
    return Record(data, saved.expires, saved.revision, saved.owner)


def make_notice(key: bytes, successor: bytes) -> Record:
    """What to store under the former key of a session that has moved."""
    return Record(codec.seal_notice(key, successor), now() + NOTICE_AGE, new_revision())


def new_revision() -> int:
    return _dice.getrandbits(63)


# Of its own, since a project may seed Python's; no secret, so that it need not ask the system
# each time. Another process must not throw the same.
_dice = random.Random()
forks.renew(_dice.seed)
