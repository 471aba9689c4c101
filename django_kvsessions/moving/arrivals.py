"""Sessions that the store does not have, moved in from SESSION_FALLBACK_ENGINES on first use.

What stands in the store meanwhile is described in ``marks``. Each step may be the last one of a
process that is killed, or be overtaken by any number of others: whoever comes next goes on from
what the store says.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.contrib.auth import SESSION_KEY as USER_ID

from django_kvsessions import codec, conf
from django_kvsessions.colours import Colour
from django_kvsessions.lifetime import end_of_life
from django_kvsessions.moving import formers as engines
from django_kvsessions.moving.counts import counts
from django_kvsessions.moving.formers import Former, Left
from django_kvsessions.moving.marks import (
    arrival_revision,
    exchanged_id,
    has_arrived,
    has_ended,
    is_claim,
    make_claim,
    make_exchange,
)
from django_kvsessions.moving.unknown import Unknown
from django_kvsessions.saved import (
    EXPIRY,
    Answer,
    Moved,
    Place,
    Saved,
    Unreadable,
    make_end,
    new_revision,
)
from django_kvsessions.stores.base import Record, Store, StoreUnavailable, now

if TYPE_CHECKING:
    from django_kvsessions.state import State

__all__ = ["delete_elsewhere", "make_session", "read_through", "unknown"]

logger = logging.getLogger("django_kvsessions")

# One of those that move a session at once gets on in each round.
ROUNDS = 1000

#: What no fallback knew a moment ago, in this process.
unknown = Unknown()


async def read_through(session: State, call: Colour, place: Place, record: Record | None) -> Answer:
    """What the store says of a place, once what the fallbacks have has been moved in.

    Where its session id is not known, no fallback can be asked.
    """
    key, session_key = place
    arrival = Arrival(session, call, place)
    for _ in range(ROUNDS):
        answer = await arrival.open(record)
        if has_ended(answer):
            return None
        is_here = record is not None and not has_arrived(record) and not is_claim(key, answer)
        if not isinstance(session_key, str):
            return None if is_claim(key, answer) else answer
        if is_here or isinstance(answer, Unreadable):
            return await arrival.follow(session_key, answer)
        if record is None and key in unknown:
            return None
        found = await arrival.look(session_key)
        if found is not None:
            former, left = found
            try:
                if former.is_cookie:
                    return await arrival.exchange(session_key, former, left)
                record = await arrival.advance(session_key, record, former, left)
            except (TypeError, ValueError) as error:
                return await arrival.refuse(former, error)
        elif isinstance(answer, tuple):
            assert record is not None
            record = await arrival.settle(record, answer[0])
        else:
            before, record = record, await arrival.reload()
            if record is None:
                unknown.add(key)
                return None
            if before is None or record.revision != before.revision:
                continue  # It has come here between the two look-ups.
            if not is_claim(key, answer) or await arrival.revoke(record):
                return None
            record = await arrival.reload()
    raise StoreUnavailable(f"Other requests were faster than this one {ROUNDS} times.")


async def delete_elsewhere(call: Colour, session_key: str) -> None:
    """Remove a session that ends from all fallbacks, before the store forgets it."""
    for former in engines.formers():
        await engines.delete(call, former, session_key)


class Arrival:
    """One session on its way in."""

    def __init__(self, session: State, call: Colour, place: Place) -> None:
        self.session = session
        self.store = session.store
        self.call = call
        self.place = place
        self.key = place.key

    async def open(self, record: Record | None) -> Answer:
        return await self.session._open(self.call, self.place, record)

    async def reload(self) -> Record | None:
        return await self.call(self.store.load, self.store.aload, self.key)

    async def look(self, session_key: str) -> tuple[Former, Left] | None:
        """The first of the fallbacks that has the session, and what it has."""
        for former in engines.formers():
            if (left := await engines.load(self.call, former, session_key)) is not None:
                return former, left
        return None

    async def advance(
        self, session_key: str, record: Record | None, former: Former, left: Left
    ) -> Record | None:
        """Go one step on with what a fallback has; what is in the store then.

        ``TypeError`` or ``ValueError`` for what this store cannot keep.
        """
        revision = arrival_revision()
        _, arriving = make_session(self.session, self.store, self.place, left, revision)
        if record is None:
            claim = make_claim(self.key)
            # What was found may have been moved by another, and have ended, before the claim.
            return claim if await self.create(claim) else await self.reload()
        # Also where it says the same: whose arrival it is tells who may withdraw it.
        if not await self.replace(arriving, record):
            return await self.reload()
        if not await engines.take(self.call, former, session_key, left):
            return await self.reload()
        await counts.add(self.call, self.store, former.path, moved=1)
        return await establish(self.call, self.store, self.key, arriving)

    async def settle(self, record: Record, saved: Saved) -> Record | None:
        """Say of a session that has arrived that no fallback has it any more."""
        saved = saved._replace(revision=new_revision())
        settled = self.session._record(self.store, self.place, saved)
        return settled if await self.replace(settled, record) else await self.reload()

    async def revoke(self, claim: Record) -> bool:
        """Void the claim to a session that has ended: who made it may have read it before."""
        return await self.replace(Record(b"", 0.0, new_revision()), claim)

    async def refuse(self, former: Former, error: Exception) -> Unreadable:
        logger.error(
            "A session of %r cannot be moved into the store and is left there: %s",
            former.path,
            error,
        )
        await counts.add(self.call, self.store, former.path, refused=1)
        return Unreadable(str(error))

    async def create(self, record: Record, key: bytes | None = None) -> bool:
        return await self.call(self.store.create, self.store.acreate, key or self.key, record)

    async def replace(self, record: Record, former: Record, key: bytes | None = None) -> bool:
        return await self.call(
            self.store.replace,
            self.store.areplace,
            key or self.key,
            record,
            expected=former.revision,
        )

    # Signed cookies

    async def exchange(self, session_key: str, former: Former, left: Left) -> Answer:
        """Store the session of a signed cookie under an ordinary id, once in all its life."""
        place = exchanged(session_key)
        successor = place.key
        _, record = make_session(self.session, self.store, place, left, new_revision())
        is_new = await self.create(record, successor)
        note = make_exchange(self.key, successor, left.expires)
        is_first = await self.create(note)
        if is_new and not is_first:
            # It was exchanged before, and has ended: only the cookie is still going round.
            await self.replace(make_end(successor), record, successor)
            return None
        if is_first:
            await counts.add(self.call, self.store, former.path, moved=1)
        return await self.follow(session_key, Moved(place))

    async def follow(self, session_key: str, answer: Answer) -> Answer:
        """Where a signed cookie was exchanged, the session that came of it."""
        if not isinstance(answer, Moved):
            return answer
        place = exchanged(session_key)
        if answer.successor.key != place.key:
            return answer
        if session_key == self.session.session_key:
            self.session._exchange_id(exchanged_id(session_key), place.key)
        arrival = Arrival(self.session, self.call, place)
        found = await arrival.open(await arrival.reload())
        return None if has_ended(found) else found


async def establish(call: Colour, store: Store, key: bytes, arrival: Record) -> Record | None:
    """What is in the store after a session was taken from its fallback by this one.

    Nobody else knows that it was moved and has not ended: meanwhile a command may have put its
    own arrival there, have found the session gone, and have withdrawn it.
    """
    settled = arrival._replace(revision=new_revision())
    there: Record | None = arrival
    for _ in range(ROUNDS):
        if there is None:
            # With fallbacks a logout leaves a mark; without, it cannot be told from that.
            if not conf.fallback_engines():
                return None
            if await call(store.create, store.acreate, key, settled):
                return settled
        elif not has_arrived(there):
            return there
        elif await call(store.replace, store.areplace, key, settled, expected=there.revision):
            return settled
        there = await call(store.load, store.aload, key)
    return there


def exchanged(cookie: str) -> Place:
    session_key = exchanged_id(cookie)
    return Place(codec.storage_key(session_key), session_key)


def make_session(
    session: State, store: Store, place: Place, left: Left, revision: int
) -> tuple[Saved, Record]:
    """What a fallback has, as the store is to have it. Its life, for all that is known, begins now.

    That is no login: when its user authenticated is not known. ``TypeError`` or
    ``ValueError`` for what this store cannot keep.
    """
    payload, created, user_id = session._dumps(left.data), now(), left.data.get(USER_ID)
    user = None if user_id is None else str(user_id)
    owner = b"" if user is None else codec.owner_digest(user)
    end = end_of_life(created)
    expires = left.expires if end is None else min(left.expires, end)
    expiry = left.data.get(EXPIRY)
    saved = Saved(payload, created, expires, revision, owner, user, expiry)
    record = session._record(store, place, saved)
    store.check_record(place.key, record)
    return saved, record
