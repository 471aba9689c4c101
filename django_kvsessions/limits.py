"""SESSION_MAX_PER_USER: after a login, the least recently used sessions above it end."""

from __future__ import annotations

import hashlib
import logging
import time

from django_kvsessions import codec
from django_kvsessions.colours import Colour
from django_kvsessions.owned import entries
from django_kvsessions.owners import end, owner_digests
from django_kvsessions.saved import new_revision
from django_kvsessions.stores.base import KEY_SIZE, Record, Store, now
from django_kvsessions.stores.process.pauses import pause

__all__ = ["enforce"]

logger = logging.getLogger("django_kvsessions")

#: Seconds after which a turn is over, also that of a process that was killed in it.
TURN = 10.0
#: Seconds between two looks at whether it is over.
PAUSE = 0.02


async def enforce(call: Colour, store: Store, name: str, own: bytes, limit: int) -> None:
    """End all but ``limit`` sessions of the user, and never that which is stored under ``own``.

    Whoever logs in does so after its session is stored, so that the last of
    several that log in at once sees all of them. They take turns, since two that
    do not wait for each other would end each other's.
    """
    owners = owner_digests(name)
    if len(await entries(call, store, owners)) <= limit:
        return
    key = hashlib.blake2b(owners[0], digest_size=KEY_SIZE, person=b"kvsessions.limit").digest()
    turn = await _take_turn(call, store, key)
    try:
        found = await entries(call, store, owners)
        others = [entry for entry in found if entry.key != own]
        # Where this one was ended meanwhile, by who came after it, it leaves no room free.
        kept = limit - (len(others) < len(found))
        for entry in others[kept:]:
            await end(call, store, owners, entry.key, entry.revision, name, "limit")
    finally:
        if turn is not None:
            over = Record(b"", 0.0, new_revision())
            await call(store.replace, store.areplace, key, over, expected=turn)


async def _take_turn(call: Colour, store: Store, key: bytes) -> int | None:
    """The revision under which it was taken; ``None`` where it is not to be had."""
    deadline = time.monotonic() + 2 * TURN
    while time.monotonic() < deadline:
        # Whoever reads it takes it for a notice, which is no session.
        revision = new_revision()
        turn = Record(codec.seal_notice(key, key), now() + TURN, revision)
        if await call(store.create, store.acreate, key, turn):
            return revision
        await pause(call, PAUSE)
    logger.warning("SESSION_MAX_PER_USER: another login has kept this one waiting too long.")
    return None
