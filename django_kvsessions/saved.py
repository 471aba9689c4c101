"""A session as the store has it: what a record says, and what is to be stored."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import NamedTuple

from django.contrib.auth import SESSION_KEY as USER_ID

from django_kvsessions import codec, conf, reports
from django_kvsessions.sealing import Opener
from django_kvsessions.serializers import Serializer, SessionData
from django_kvsessions.stores.base import KEY_SIZE, Provisional, Record, now
from django_kvsessions.stores.process import forks

__all__ = [
    "EXPIRY",
    "LARGEST_RATIO",
    "NOTICE_AGE",
    "NOWHERE",
    "Answer",
    "Foreign",
    "Found",
    "Moved",
    "Place",
    "Saved",
    "Unreadable",
    "make_end",
    "make_notice",
    "make_record",
    "new_revision",
    "open_record",
    "unreadable",
]

#: Where Django keeps what ``set_expiry`` was given.
EXPIRY = "_session_expiry"
#: Seconds for which a session that has got a new id is remembered under the former one.
NOTICE_AGE = 60
#: The successor of a session that has ended.
NOWHERE = bytes(KEY_SIZE)
#: How many times ``max_record_size`` a session may have when it is opened.
LARGEST_RATIO = 16


class Place(NamedTuple):
    """Where a session is stored, and what opens it there."""

    key: bytes
    #: The session id or, where that is not known here, what a notice has handed over.
    opener: Opener | None


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
    #: When the user authenticated, in Unix time; 0 for nobody.
    authenticated: float = 0.0
    #: What a list of sessions shows of it (see ``cards``).
    card: bytes = b""
    #: Sealed under a former SECRET_KEY, or not as SESSION_ENCRYPTION has it: so to be written
    #: anew at the next save.
    is_stale: bool = False
    #: Where it was stored in a transaction of the site's: that write, and what it was before.
    provisional: Provisional | None = None
    before: Saved | None = None

    @property
    def is_final(self) -> bool:
        return self.provisional is None or self.provisional.is_committed


@dataclass(frozen=True)
class Moved:
    """The session has got a new id, and this is where it is stored."""

    successor: Place


@dataclass(frozen=True)
class Foreign:
    """A session is there that is encrypted for an id which is not known here."""

    owner: bytes
    revision: int


@dataclass(frozen=True)
class Unreadable:
    """A record is there, and this process cannot read it."""

    reason: str


#: A session that was found, and its data.
Found = tuple[Saved, SessionData]
#: ``None`` where there is no live record.
Answer = Found | Moved | Foreign | Unreadable | None


def open_record(serializer: Serializer, place: Place, record: Record | None, limit: int) -> Answer:
    """What a record says of which nothing is trusted; at most ``limit`` bytes are opened."""
    if record is None:
        return None
    key, opener = place
    sealed, expires, revision, owner = record
    try:
        payload, created, authenticated, card, is_stale, is_notice = codec.open_record(
            key, owner, sealed, limit, opener
        )
        if is_notice:
            return Moved(Place(payload[:KEY_SIZE], payload[KEY_SIZE:] or None))
        data = serializer.loads(payload)
        if not isinstance(data, dict):
            return unreadable("it holds no dict")
    except MemoryError:
        # It says nothing about the record.
        raise
    except codec.OtherId:
        return Foreign(owner, revision)
    except Exception as error:
        # Whatever a serializer may raise, the visitor gets a fresh session.
        return unreadable(str(error) or type(error).__name__, getattr(error, "cure", ""))
    age = conf.absolute_age()
    if age is not None and created + age <= now():
        return None
    user = data.get(USER_ID)
    if user is not None:
        user = str(user)
    expiry = data.get(EXPIRY)
    return (
        Saved(
            payload, created, expires, revision, owner, user, expiry, authenticated, card, is_stale
        ),
        data,
    )


def unreadable(reason: str, cure: str = "") -> Unreadable:
    """Say so in the log, with what may be done about it."""
    reports.rejected(reason, cure)
    return Unreadable(reason)


def make_record(place: Place, saved: Saved, limit: int) -> Record:
    """``ValueError`` for more than ``limit`` bytes, which could not be opened again."""
    if len(saved.payload) > limit:
        raise ValueError(
            f"A session of {len(saved.payload)} bytes is over the limit of {limit} bytes, "
            f"{LARGEST_RATIO} times OPTIONS['max_record_size'] of its store."
        )
    key, opener = place
    data = codec.seal(
        key,
        saved.owner,
        saved.created,
        saved.payload,
        saved.authenticated,
        saved.expires - time.time(),
        saved.card,
        opener if conf.encryption() else None,
    )
    return Record(data, saved.expires, saved.revision, saved.owner)


def make_notice(former: Place, successor: Place, *, hands_over: bool) -> Record:
    """What to store in the former place of a session that has moved.

    Where the session is encrypted, and ``hands_over``, it gives what opens it to
    whoever has the former id.
    """
    opener = former.opener if hands_over and conf.encryption() else None
    data = codec.seal_notice(former.key, successor.key, opener, successor.opener)
    return Record(data, now() + NOTICE_AGE, new_revision())


def make_end(key: bytes, until: float | None = None) -> Record:
    """What to store where a session has ended that is not to be moved in any more."""
    data = codec.seal_notice(key, NOWHERE)
    return Record(data, until or now() + NOTICE_AGE, new_revision())


def new_revision() -> int:
    return _dice.getrandbits(63)


# Of its own, since a project may seed Python's; no secret, so that it need not ask the system
# each time. Another process must not throw the same.
_dice = random.Random()
forks.renew(_dice.seed)
