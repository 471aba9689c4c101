"""What a list shows of a session, read from its record without its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hmac import compare_digest
from types import MappingProxyType
from typing import Any, NamedTuple

from django.conf import settings

from django_kvsessions import cards, codec
from django_kvsessions.colours import Colour
from django_kvsessions.lifetime import end_of_life, moment
from django_kvsessions.saved import unreadable
from django_kvsessions.stores.base import Record, Store, now
from django_kvsessions.useragents import Device, describe

__all__ = ["Encrypted", "Entry", "OwnedSession", "count_encrypted", "entries", "opened"]


@dataclass(frozen=True)
class OwnedSession:
    """A session of a user. All moments are aware where USE_TZ is set, and naive otherwise."""

    #: What ``end_session`` takes. It opens nothing, and addresses nothing.
    public_id: str
    #: When its life began: at its login.
    created: datetime
    #: When its user authenticated; ``None`` where that is not known.
    authenticated_at: datetime | None
    #: When it was written or touched last: to within a touch interval, its last use.
    last_seen: datetime
    expires: datetime
    #: As the browser sent it, up to 255 bytes; ``None`` where it is not known or recorded.
    user_agent: str | None
    #: An address or, where the setting says so, a network, as "192.0.2.0/24".
    ip: str | None
    labels: Mapping[str, str]

    @property
    def device(self) -> Device | None:
        """What the user agent says; ``None`` without one, or without ua-parser (``[devices]``)."""
        return describe(self.user_agent)

    def is_current(self, request: Any) -> bool:
        """Whether it is the session of this request."""
        public_id = getattr(request.session, "public_id", None)
        return public_id is not None and compare_digest(public_id, self.public_id)


class Entry(NamedTuple):
    """A session that is listed, and where it is."""

    key: bytes
    owner: bytes
    revision: int
    session: OwnedSession


async def entries(call: Colour, store: Store, owners: Iterable[bytes]) -> list[Entry]:
    """The live sessions of these owners, the latest used first."""
    found: dict[bytes, Entry] = {}
    for owner in owners:
        found |= await call(_entries, _aentries, store, owner)
    return sorted(found.values(), key=_use, reverse=True)


def _use(entry: Entry) -> tuple[datetime, datetime, bytes]:
    return entry.session.last_seen, entry.session.created, entry.key


def _entries(store: Store, owner: bytes) -> dict[bytes, Entry]:
    return {key: entry for key, record in store.scan_owner(owner) if (entry := opened(key, record))}


async def _aentries(store: Store, owner: bytes) -> dict[bytes, Entry]:
    return {
        key: entry
        async for key, record in store.ascan_owner(owner)
        if (entry := opened(key, record))
    }


class Encrypted(NamedTuple):
    """How many of a store's sessions are encrypted."""

    encrypted: int
    plain: int
    #: Of another SECRET_KEY, or changed by others.
    unreadable: int
    #: Unix time by which the last plain one has expired if nobody uses it; ``None`` without one.
    last_plain: float | None


def count_encrypted(store: Store) -> Encrypted:
    """Reads every record of the store, and opens no data."""
    encrypted = plain = unreadable = 0
    last = None
    for key, record in store.scan():
        try:
            head = codec.open_head(key, record.owner, record.data)
        except codec.BadRecord:
            unreadable += 1
            continue
        end = end_of_life(head.created)
        expires = record.expires if end is None else min(record.expires, end)
        if head.successor is not None or expires <= now():
            continue
        if head.is_encrypted:
            encrypted += 1
        else:
            plain += 1
            last = expires if last is None else max(last, expires)
    return Encrypted(encrypted, plain, unreadable, last)


def opened(key: bytes, record: Record) -> Entry | None:
    """``None`` for what is over, does not verify, or is no session."""
    data, expires, revision, owner = record
    try:
        head = codec.open_head(key, owner, data)
        card = cards.unpack(head.card)
    except Exception as error:
        unreadable(str(error) or type(error).__name__, getattr(error, "cure", ""))
        return None
    end, present = end_of_life(head.created), now()
    if head.successor is not None or (end is not None and end <= present):
        return None
    idle_age = settings.SESSION_COOKIE_AGE if head.idle_age is None else head.idle_age
    session = OwnedSession(
        public_id=codec.public_id(key),
        created=moment(head.created),
        authenticated_at=moment(head.authenticated) if head.authenticated else None,
        # Of a site that has changed its ages, the sum may be off.
        last_seen=moment(max(head.created, min(expires - idle_age, present))),
        expires=moment(expires if end is None else min(expires, end)),
        user_agent=card.user_agent,
        ip=card.ip,
        labels=MappingProxyType(card.labels),
    )
    return Entry(key, owner, revision, session)
