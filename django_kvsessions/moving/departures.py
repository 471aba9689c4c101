"""Sessions that leave the store for another engine, under the same id, on first use.

Where a session is, the store says here too: what it has counts, and what the other engine has of
the same session is a copy until the store has let it go.
"""

from __future__ import annotations

import logging

from django_kvsessions import codec, conf
from django_kvsessions.colours import Colour
from django_kvsessions.moving import formers as engines
from django_kvsessions.moving.formers import Former
from django_kvsessions.moving.marks import has_arrived, has_ended
from django_kvsessions.saved import (
    LARGEST_RATIO,
    Answer,
    Place,
    make_end,
    new_revision,
    open_record,
)
from django_kvsessions.serializers import SessionData
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store, StoreUnavailable, now

__all__ = ["ROUNDS", "Unkeepable", "end", "is_there", "lend", "take_over"]

logger = logging.getLogger("django_kvsessions")

ROUNDS = 1000
#: Seconds for which requests with the id of a session that became a cookie still see it.
LENT = 60


class Unkeepable(Exception):
    """The session is in the store, and the other engine has no way to keep it."""


class Departure:
    """One session on its way out."""

    def __init__(self, call: Colour, session_key: str) -> None:
        self.call = call
        self.store: Store = stores[conf.store_alias()]
        self.key = codec.storage_key(session_key)
        self.place = Place(self.key, session_key)

    async def look(self) -> tuple[Record | None, Answer]:
        record = await self.call(self.store.load, self.store.aload, self.key)
        limit = LARGEST_RATIO * self.store.max_record_size
        return record, open_record(conf.serializer()(), self.place, record, limit)

    async def replace(self, record: Record, former: Record | None = None) -> bool:
        expected = None if former is None else former.revision
        return await self.call(
            self.store.replace, self.store.areplace, self.key, record, expected=expected
        )


async def take_over(call: Colour, former: Former, session_key: str) -> bool:
    """Move the session to that engine if the store has it; whether it did.

    ``Unkeepable`` where it stays in the store for good.
    """
    departure = Departure(call, session_key)
    for _ in range(ROUNDS):
        record, answer = await departure.look()
        if has_ended(answer):
            await engines.delete(call, former, session_key)
            return False
        if record is None or not isinstance(answer, tuple):
            return False
        if not former.is_valid(session_key):
            raise left_in_the_store(former, "it never gives out such an id.")
        saved, data = answer
        if has_arrived(record) and await engines.load(call, former, session_key) is not None:
            return False  # It is still there, and that counts.
        try:
            is_new = await engines.put(call, former, session_key, data, saved.expires)
        except TypeError as error:
            raise left_in_the_store(former, error) from error
        if not is_new:
            await remove_copy(departure, former, session_key, record)
        elif await departure.replace(Record(b"", 0.0, new_revision()), record):
            # Not deleted after that: it may already be on its way in again.
            return True
        elif not isinstance((await departure.look())[1], tuple):
            # It has ended meanwhile, so what was put there is nothing.
            await engines.delete(call, former, session_key)
            return False
    raise StoreUnavailable(f"Other requests were faster than this one {ROUNDS} times.")


def left_in_the_store(former: Former, why: object) -> Unkeepable:
    logger.error(
        "A session cannot be moved back to %r and is left in the store: %s", former.path, why
    )
    return Unkeepable(str(why))


async def remove_copy(
    departure: Departure, former: Former, session_key: str, record: Record
) -> None:
    """Make room for a session that the store has at that revision: the copy is older."""
    left = await engines.load(departure.call, former, session_key)
    there, _ = await departure.look()
    if there is None or there.revision != record.revision:
        return
    if left is None:
        await engines.delete(departure.call, former, session_key)
    else:
        await engines.take(departure.call, former, session_key, left)


async def lend(call: Colour, session_key: str) -> SessionData | None:
    """What the store has, which a cookie is to hold from now on; ``None`` where it has nothing.

    The answer with the cookie may be lost, and other requests may be under way, so it stays for a
    while.
    """
    departure = Departure(call, session_key)
    record, answer = await departure.look()
    if record is None or not isinstance(answer, tuple):
        return None
    until = min(record.expires, now() + LENT)
    await call(
        departure.store.touch,
        departure.store.atouch,
        departure.key,
        until,
        expected=record.revision,
    )
    return answer[1]


async def is_there(call: Colour, session_key: str | None) -> bool:
    if not session_key:
        return False
    return isinstance((await Departure(call, session_key).look())[1], tuple)


async def end(call: Colour, session_key: str) -> None:
    """End what the store has of a session that the other engine has ended."""
    departure = Departure(call, session_key)
    await departure.replace(make_end(departure.key))
