"""What stands in the store while a session is on its way, and once it has ended.

Where a session is, the store alone says. A record like any other is the session. Where there
is none, the session is in one of the fallbacks, or nowhere. In between:

- A **claim**: somebody is about to move the session in. It is still where it was.
- An **arrival**: the session, of which the former engine may still have a copy. Where it has
  one, that one counts, since nobody writes here before it is gone there.
- An **end**: the session was ended a moment ago. Who has read it before cannot bring it back.
- An **exchange**: the session of a signed cookie has got an ordinary id.
"""

from __future__ import annotations

import base64
import hashlib

from django_kvsessions import codec
from django_kvsessions.saved import NOTICE_AGE, NOWHERE, Answer, Moved, new_revision
from django_kvsessions.stores.base import Record, now

__all__ = [
    "arrival_revision",
    "exchanged_id",
    "has_arrived",
    "has_ended",
    "is_claim",
    "make_claim",
    "make_exchange",
]

#: The revisions of arrivals are below. One of all the others in 2**43 is too, and is then asked
#: for once more than it need be.
ARRIVALS = 2**20


def arrival_revision() -> int:
    return new_revision() % ARRIVALS


def has_arrived(record: Record) -> bool:
    return record.revision < ARRIVALS


def make_claim(key: bytes) -> Record:
    return Record(codec.seal_notice(key, key), now() + NOTICE_AGE, new_revision())


def is_claim(key: bytes, answer: Answer) -> bool:
    return isinstance(answer, Moved) and answer.successor.key == key


def has_ended(answer: Answer) -> bool:
    return isinstance(answer, Moved) and answer.successor.key == NOWHERE


def make_exchange(key: bytes, successor: bytes, expires: float) -> Record:
    return Record(codec.seal_notice(key, successor), expires, new_revision())


def exchanged_id(cookie: str) -> str:
    """The ordinary id for the session of a signed cookie: the same one for all its requests.

    Nobody can guess it who cannot sign, and it outlives a new SECRET_KEY.
    """
    digest = hashlib.blake2b(cookie.encode(), digest_size=20, person=b"kvsess.exchange")
    return base64.b32encode(digest.digest()).decode("ascii").lower()
