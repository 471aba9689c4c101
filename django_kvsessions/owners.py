"""The sessions of a user: to list them, and to end them, wherever they are.

``user`` is a user object or a primary key, also one whose user is gone. Each
function has an async variant of the same name with an "a" before it. They raise
``StoreUnavailable`` where the store cannot answer: some sessions may have ended
by then, and to call again is safe.
"""

from __future__ import annotations

from collections.abc import Collection
from hmac import compare_digest
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db.models import Model

from django_kvsessions import codec, conf
from django_kvsessions.colours import Colour, run
from django_kvsessions.endings import announce, retire
from django_kvsessions.owned import OwnedSession, entries
from django_kvsessions.signals import awaiting, blocking, session_ended, tell
from django_kvsessions.state import MOVES, State
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store, StoreUnavailable

__all__ = [
    "OwnedSession",
    "aend_session",
    "aend_sessions",
    "asessions_of",
    "end_session",
    "end_sessions",
    "sessions_of",
]

#: How often one session is tried that others change meanwhile.
ATTEMPTS = 1000


def sessions_of(user: Any) -> list[OwnedSession]:
    """The user's sessions, the latest used first; opens none of their data."""
    return run(_sessions_of(blocking, user))


async def asessions_of(user: Any) -> list[OwnedSession]:
    return await _sessions_of(awaiting, user)


def end_session(user: Any, public_id: str) -> bool:
    """End that session of the user; ``False`` where the user has none of that public id.

    No request that is under way brings it back.
    """
    return run(_end_session(blocking, user, public_id))


async def aend_session(user: Any, public_id: str) -> bool:
    return await _end_session(awaiting, user, public_id)


def end_sessions(user: Any, *, keep: Any = None) -> int:
    """End all sessions of the user, and say how many; ``keep``, a request, is to keep its own.

    No request that is under way brings one back. One that is getting a new id just
    then ends too, and may be left out of the number, or be in it twice.
    """
    return run(end_all(blocking, _store(), user_id(user), keep, "elsewhere"))


async def aend_sessions(user: Any, *, keep: Any = None) -> int:
    return await end_all(awaiting, _store(), user_id(user), keep, "elsewhere")


async def _sessions_of(call: Colour, user: Any) -> list[OwnedSession]:
    found = await entries(call, _store(), owner_digests(user_id(user)))
    return [entry.session for entry in found]


async def _end_session(call: Colour, user: Any, public_id: str) -> bool:
    store, name, wanted = _store(), user_id(user), str(public_id).encode(errors="replace")
    owners = owner_digests(name)
    chosen = None
    # Each is compared, so that the time tells nothing of any.
    for entry in await entries(call, store, owners):
        if compare_digest(entry.session.public_id.encode(), wanted):
            chosen = entry
    return chosen is not None and await end(
        call, store, owners, chosen.key, chosen.revision, name, "elsewhere"
    )


# For the rest of the package


def user_id(user: Any) -> str | None:
    """As Django's login writes it into the session; ``None`` for who has none."""
    if isinstance(user, Model):
        return None if user.pk is None else str(_primary_key(user).value_to_string(user))
    if user is None or getattr(user, "is_anonymous", False):
        return None
    try:
        return str(_primary_key(get_user_model()).to_python(user))
    except ValidationError:
        # It may be that of a backend whose users are no model.
        return str(user)


def _primary_key(model: Any) -> Any:
    return model._meta.pk


def owner_digests(name: str | None) -> list[bytes]:
    return [] if name is None else codec.owner_digests(name)


async def end_all(call: Colour, store: Store, name: str | None, keep: Any, reason: str) -> int:
    owners = owner_digests(name)
    kept = await _whereabouts(call, store, keep)
    await announce(call, store, owners, kept)
    found = await entries(call, store, owners)
    if kept is not None:
        # It may have moved on before that was said.
        kept = await _whereabouts(call, store, keep)
    ending = [entry for entry in found if entry.key != kept]
    return sum(
        [
            await end(call, store, owners, entry.key, entry.revision, name, reason)
            for entry in ending
        ]
    )


async def _whereabouts(call: Colour, store: Store, keep: Any) -> bytes | None:
    """The storage key of a request's session, also where another request has moved it."""
    session = getattr(keep, "session", keep)
    if not isinstance(session, State) or session.public_id is None:
        return None
    found = await _follow(call, store, session._key)
    return None if found is None else found[0]


async def _follow(call: Colour, store: Store, key: bytes) -> tuple[bytes, Record] | None:
    """The session that is stored under a key, or has moved from there."""
    for _ in range(MOVES):
        record = await call(store.load, store.aload, key)
        if record is None or (successor := _successor(key, record)) is None:
            return record and (key, record)
        key = successor
    return None


async def end(
    call: Colour,
    store: Store,
    owners: Collection[bytes],
    key: bytes,
    revision: int,
    name: str | None,
    reason: str,
) -> bool:
    """End one session, wherever requests in flight move it to; ``False`` if it was over."""
    for _ in range(ATTEMPTS):
        if await retire(call, store, key, revision):
            await tell(call, session_ended, store, reason=reason, user_id=name)
            return True
        found = await _follow(call, store, key)
        if found is None or found[1].owner not in owners:
            return False
        key, revision = found[0], found[1].revision
    raise StoreUnavailable(f"Other requests were faster than this one {ATTEMPTS} times.")


def _successor(key: bytes, record: Record) -> bytes | None:
    if record.owner:
        return None
    try:
        return codec.open_head(key, record.owner, record.data).successor
    except codec.BadRecord:
        return None


def _store() -> Store:
    return stores[conf.store_alias()]
