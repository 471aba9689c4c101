"""Serialised session data <-> the sealed bytes that a store keeps.

A sealed record is ``header + card + body + tag``. In the header are a version
byte, a flags byte, the time of creation, when the user authenticated (0 for
nobody) and the idle age at the last write, in seconds. The card, where there is
one, has its size before it (see ``cards``). The body is the data, compressed
where that pays. The tag is a keyed BLAKE2b digest over the storage key, the owner
and all of these. A record that turns up under another key, or with another
owner, therefore does not open. Who knows the site's key reads header and card
with ``open_head``, and need not open the body.

Version 1, which had neither card nor what comes after the time of creation, is
still read. What wrote version 1 takes version 2 for a record that does not
verify: it leaves it alone, and its cookie too.

With SESSION_ENCRYPTION the body is neither readable nor compressed: it is sealed
with what only the session id gives (see ``sealing``), and bound to storage key,
owner, header and card. The tag is there as before.

A **notice** stands for a while in the place of a session that has got a new
id. Its body is the storage key of its successor, which opens nothing. It is of
version 1, or, where the successor stays the same user's and is encrypted, of
version 2: then what opens the successor follows, sealed with the former id.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import zlib
from functools import partial
from hmac import compare_digest
from typing import NamedTuple

from django_kvsessions import conf, sealing
from django_kvsessions.keys import keyed
from django_kvsessions.sealing import BadRecord, Opener
from django_kvsessions.stores.base import KEY_SIZE, OWNER_SIZE

__all__ = [
    "BadRecord",
    "Head",
    "OtherId",
    "new_session_key",
    "open_head",
    "open_record",
    "owner_digest",
    "owner_digests",
    "public_id",
    "seal",
    "seal_notice",
    "storage_key",
]

_FORMER_HEADER = struct.Struct(">BBd")
_HEADER = struct.Struct(">BBddd")
_HEADER_SIZE = _HEADER.size
_CARD_SIZE = struct.Struct(">H")
_FORMER_VERSION = 1
_VERSION = 2
_COMPRESSED = 1
_NOTICE = 2
_CARD = 4
#: Of a body that is encrypted, and of a notice that hands over what opens one.
_SEALED = 8
_COMPRESS_FROM = 1024
_TAG_SIZE = 16
_OWNER_SIZES = [bytes((size,)) for size in range(OWNER_SIZE + 1)]


class OtherId(BadRecord):
    """It is encrypted, and nothing is known that opens it."""


def new_session_key() -> str:
    """A session id of 32 characters with 160 bits from the system's CSPRNG."""
    return base64.b32encode(os.urandom(20)).decode("ascii").lower()


def storage_key(session_key: str) -> bytes:
    """The key a session is stored under.

    A plain hash is enough, since there is nothing to guess, and it keeps usable
    ids out of the store.
    """
    try:
        name = session_key.encode()
    except UnicodeEncodeError:
        # A cookie may hold any text, lone surrogates included.
        name = session_key.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(name, digest_size=KEY_SIZE).digest()


class Head(NamedTuple):
    """What a record says of its session, without its data."""

    created: float
    #: When its user authenticated, in Unix time; 0 for nobody.
    authenticated: float
    #: Seconds, at the last write; ``None`` where version 1 does not say.
    idle_age: float | None
    card: bytes
    #: The storage key of the successor, where it is a notice.
    successor: bytes | None
    is_encrypted: bool = False


def public_id(key: bytes) -> str:
    """What a session may be called by in public: it opens nothing, and addresses nothing."""
    return hashlib.blake2b(key, digest_size=16, person=b"kvsession.public").hexdigest()


def seal(
    key: bytes,
    owner: bytes,
    created: float,
    payload: bytes,
    authenticated: float = 0.0,
    idle_age: float = 0.0,
    card: bytes = b"",
    opener: Opener | None = None,
) -> bytes:
    """The bytes to store for serialised data, bound to its key and owner.

    Encrypted where an ``opener`` is given.
    """
    flags = 0
    if opener is not None:
        flags = _SEALED
    elif len(payload) > _COMPRESS_FROM:
        compressed = zlib.compress(payload, 1)
        if len(compressed) < len(payload):
            payload, flags = compressed, _COMPRESSED
    head = b""
    if card:
        flags |= _CARD
        head = _CARD_SIZE.pack(len(card)) + card
    head = _HEADER.pack(_VERSION, flags, created, authenticated, idle_age) + head
    if opener is not None:
        # Not compressed: the size would tell what in it is like what a visitor was made to send.
        payload = sealing.encrypt(opener, sealing.BODY, _tagged(key, owner, head), payload)
    sealed = head + payload
    return sealed + _tag(_digests()[0], _tagged(key, owner, sealed))


def seal_notice(
    key: bytes, successor: bytes, opener: Opener | None = None, handed: Opener | None = None
) -> bytes:
    """The bytes to store under ``key`` when its session has moved to another storage key.

    Who has what opens the one gets what opens the other, where both are given.
    """
    if opener is None or handed is None:
        sealed = _FORMER_HEADER.pack(_FORMER_VERSION, _NOTICE, 0.0) + successor
    else:
        sealed = _HEADER.pack(_VERSION, _NOTICE | _SEALED, 0.0, 0.0, 0.0) + successor
        associated, root = _tagged(key, b"", sealed), sealing.root(handed)
        sealed += sealing.encrypt(opener, sealing.NOTICE, associated, root)
    return sealed + _tag(_digests()[0], _tagged(key, b"", sealed))


def open_record(
    key: bytes, owner: bytes, data: bytes, limit: int, opener: Opener | None = None
) -> tuple[bytes, float, float, bytes, bool, bool]:
    """What was sealed under this key; ``BadRecord`` if it was not.

    The serialised data, or the storage key of the successor, and behind it what
    opens that, if it is handed over; the Unix time at which the session's life
    began; when its user authenticated; its card; whether it is to be written
    anew, since it was sealed under one of SECRET_KEY_FALLBACKS or not as
    SESSION_ENCRYPTION has it; and whether it is a notice.

    ``OtherId`` for what is encrypted, where no ``opener`` is given. Of what is
    compressed, at most ``limit`` bytes are opened: a few can be made to hold a
    thousand times as many.
    """
    secret = _verify(key, owner, data)
    is_stale, card = secret > 0, b""
    if data[0] == _VERSION:
        _, flags, created, authenticated, _ = _HEADER.unpack_from(data)
        start = _HEADER_SIZE
        if flags & _CARD:
            card = _card(data)
            start += _CARD_SIZE.size + len(card)
        payload = data[start:-_TAG_SIZE]
    else:
        flags, created = _former_header(data)
        # A login began a life, and nothing else did that of a user's session.
        authenticated = created if owner else 0.0
        payload = data[_FORMER_HEADER.size : -_TAG_SIZE]
    if flags & _SEALED:
        if flags & _NOTICE:
            return _handed(key, data, secret, opener), created, 0.0, b"", is_stale, True
        if opener is None:
            raise OtherId("it is encrypted, and the id that opens it is not known")
        associated = _tagged(key, owner, data[:start])
        payload = sealing.decrypt(opener, sealing.BODY, secret, associated, payload)
        is_stale = is_stale or not conf.encryption()
        return payload, created, authenticated, card, is_stale, False
    is_stale = is_stale or (conf.encryption() and opener is not None)
    if not flags & ~_CARD:
        return payload, created, authenticated, card, is_stale, False
    if flags & _COMPRESSED:
        payload = zlib.decompressobj().decompress(payload, limit + 1)
        if len(payload) > limit:
            raise BadRecord(f"it has more than {limit} bytes")
    return payload, created, authenticated, card, is_stale, flags & _NOTICE != 0


def open_head(key: bytes, owner: bytes, data: bytes) -> Head:
    """What was sealed under this key, but for the data; ``BadRecord`` if it was not."""
    _verify(key, owner, data)
    if data[0] == _VERSION:
        _, flags, created, authenticated, idle_age = _HEADER.unpack_from(data)
        if flags & _NOTICE:
            return Head(0.0, 0.0, None, b"", _successor(data))
        card = _card(data) if flags & _CARD else b""
        return Head(created, authenticated, idle_age, card, None, flags & _SEALED != 0)
    flags, created = _former_header(data)
    successor = data[_FORMER_HEADER.size : -_TAG_SIZE] if flags & _NOTICE else None
    return Head(created, created if owner else 0.0, None, b"", successor)


def _successor(data: bytes) -> bytes:
    return data[_HEADER_SIZE : _HEADER_SIZE + KEY_SIZE]


def _handed(key: bytes, data: bytes, secret: int, opener: Opener | None) -> bytes:
    """The storage key of the successor, and what opens it, where it is for this opener."""
    successor = _successor(data)
    if opener is None:
        return successor
    start = _HEADER_SIZE + KEY_SIZE
    associated, sealed = _tagged(key, b"", data[:start]), data[start:-_TAG_SIZE]
    return successor + sealing.decrypt(opener, sealing.NOTICE, secret, associated, sealed)


def _verify(key: bytes, owner: bytes, data: bytes) -> int:
    """Which it was sealed under: 0 for SECRET_KEY, from 1 on one of SECRET_KEY_FALLBACKS."""
    if len(data) < _FORMER_HEADER.size + _TAG_SIZE:
        raise BadRecord("it is too short")
    tagged, tag = _tagged(key, owner, data[:-_TAG_SIZE]), data[-_TAG_SIZE:]
    for secret, digest in enumerate(_digests()):
        if compare_digest(_tag(digest, tagged), tag):
            return secret
    raise BadRecord("its tag does not match")


def _former_header(data: bytes) -> tuple[int, float]:
    version, flags, created = _FORMER_HEADER.unpack_from(data)
    if version != _FORMER_VERSION:
        raise BadRecord(
            f"its version, {version}, is unknown",
            "It is from a newer django-kvsessions: install that everywhere.",
        )
    return flags, created


def _card(data: bytes) -> bytes:
    start = _HEADER_SIZE + _CARD_SIZE.size
    (size,) = _CARD_SIZE.unpack_from(data, _HEADER_SIZE)
    return data[start : start + size]


def owner_digest(user_id: str) -> bytes:
    """What stands for a user in a record: keyed, so that a store does not name its users."""
    return owner_digests(user_id)[0]


def owner_digests(user_id: str) -> list[bytes]:
    """As ``owner_digest``; then what stands there under each of SECRET_KEY_FALLBACKS."""
    name = user_id.encode("utf-8", "surrogatepass")
    return [_tag(digest, name) for digest in keyed(b"kvsessions.owner", OWNER_SIZE)]


def _tagged(key: bytes, owner: bytes, sealed: bytes) -> bytes:
    # With the owner's size, so that no bytes can pass from it into what follows.
    return key + _OWNER_SIZES[len(owner)] + owner + sealed


def _tag(digest: hashlib.blake2b, tagged: bytes) -> bytes:
    digest = digest.copy()
    digest.update(tagged)
    return digest.digest()


# Not a function of its own, which each load and save would call.
_digests = partial(keyed, b"kvsessions.tag", _TAG_SIZE)
