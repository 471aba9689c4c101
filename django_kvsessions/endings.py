"""How a stored session ends, and word that all sessions of a user do.

A session that gets a new id while they are listed may be in neither place when
it is looked for. So whoever ends them says so first, in a record under a key of
the user's own, for a few seconds; and whoever has given a session a new id looks
there afterwards, and takes it back.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

from django.conf import settings

from django_kvsessions import codec, conf
from django_kvsessions.colours import Colour
from django_kvsessions.saved import NOWHERE, make_end, new_revision
from django_kvsessions.stores.base import KEY_SIZE, Record, Store, now

__all__ = ["announce", "is_over", "retire"]

#: Seconds for which it holds; who takes longer for a new id cannot tell, and gets none.
ENDING_AGE = 10.0


async def retire(call: Colour, store: Store, key: bytes, revision: int) -> bool:
    """End the session that is stored at that revision; ``False`` where it is not."""
    if conf.fallback_engines():
        record = await call(store.load, store.aload, key)
        if record is None or record.revision != revision:
            return False
        # A fallback that still has a copy knows it by its id, which may not be known here.
        until = max(record.expires, now() + settings.SESSION_COOKIE_AGE)
        ended = make_end(key, until)
        return await call(store.replace, store.areplace, key, ended, expected=revision)
    # Not deleted at once: another request may be moving it right now.
    ended = Record(b"", 0.0, new_revision())
    if not await call(store.replace, store.areplace, key, ended, expected=revision):
        return False
    await call(store.delete, store.adelete, key)
    return True


async def announce(
    call: Colour, store: Store, owners: Iterable[bytes], kept: bytes | None = None
) -> None:
    """Say that the sessions of these owners end now, but for that under the key ``kept``."""
    for owner in owners:
        key = _key(owner)
        word = Record(_data(key, kept), now() + ENDING_AGE, new_revision())
        while not (
            await call(store.replace, store.areplace, key, word)
            or await call(store.create, store.acreate, key, word)
        ):
            pass  # Another one came or went in between.


async def is_over(
    call: Colour, store: Store, user: str, login: float, former: bytes, new: bytes, since: float
) -> bool:
    """Whether a session is to end that was moved from the key ``former`` to ``new``.

    ``login``: when its user authenticated; ``since``: ``time.monotonic()`` of before.
    """
    key = _key(codec.owner_digest(user))
    word = await call(store.load, store.aload, key)
    if word is None:
        return time.monotonic() - since > ENDING_AGE
    if login > word.expires - ENDING_AGE:
        return False
    if codec.open_head(key, word.owner, word.data).successor != former:
        return True
    # It is the one that is kept, and stays so.
    following = word._replace(data=_data(key, new), revision=new_revision())
    await call(store.replace, store.areplace, key, following, expected=word.revision)
    return False


def _key(owner: bytes) -> bytes:
    return hashlib.blake2b(owner, digest_size=KEY_SIZE, person=b"kvsession.ending").digest()


def _data(key: bytes, kept: bytes | None) -> bytes:
    # Whoever comes upon it takes it for a notice, which is no session.
    return codec.seal_notice(key, NOWHERE if kept is None else kept)
