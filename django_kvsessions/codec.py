"""Serialised session data <-> the sealed bytes that a store keeps.

A sealed record is ``header + body + tag``: a version byte, a flags byte, the
time of creation, the data (compressed where that pays) and a keyed BLAKE2b
digest over the storage key, the owner, the header and the body. A record that
turns up under another key, or with another owner, therefore does not open.

A **notice** stands for a while in the place of a session that has got a new
id. Its body is the storage key of its successor, which opens nothing.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import zlib
from functools import cache
from hmac import compare_digest

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.encoding import force_bytes

from django_kvsessions.stores.base import KEY_SIZE, OWNER_SIZE

__all__ = [
    "BadRecord",
    "new_session_key",
    "open_record",
    "owner_digest",
    "seal",
    "seal_notice",
    "storage_key",
]

_HEADER = struct.Struct(">BBd")
_VERSION = 1
_COMPRESSED = 1
_NOTICE = 2
_COMPRESS_FROM = 1024
_TAG_SIZE = 16
_OWNER_SIZES = [bytes((size,)) for size in range(OWNER_SIZE + 1)]


class BadRecord(ValueError):
    """The bytes are not what this site sealed under this key."""


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


def seal(key: bytes, owner: bytes, created: float, payload: bytes) -> bytes:
    """The bytes to store for serialised data, bound to its key and owner."""
    flags = 0
    if len(payload) > _COMPRESS_FROM:
        compressed = zlib.compress(payload, 1)
        if len(compressed) < len(payload):
            payload, flags = compressed, _COMPRESSED
    sealed = _HEADER.pack(_VERSION, flags, created) + payload
    return sealed + _tag(_digests()[0], _tagged(key, owner, sealed))


def seal_notice(key: bytes, successor: bytes) -> bytes:
    """The bytes to store under ``key`` when its session has moved to another storage key."""
    sealed = _HEADER.pack(_VERSION, _NOTICE, 0.0) + successor
    return sealed + _tag(_digests()[0], _tagged(key, b"", sealed))


def open_record(
    key: bytes, owner: bytes, data: bytes, limit: int
) -> tuple[bytes, float, bool, bool]:
    """What was sealed under this key; ``BadRecord`` if it was not.

    The serialised data, or the storage key of the successor; the Unix time at
    which the session's life began; whether it was sealed under one of
    SECRET_KEY_FALLBACKS; and whether it is a notice.

    Of what is compressed, at most ``limit`` bytes are opened: a few can be made
    to hold a thousand times as many.
    """
    if len(data) < _HEADER.size + _TAG_SIZE:
        raise BadRecord("it is too short")
    tagged, tag = _tagged(key, owner, data[:-_TAG_SIZE]), data[-_TAG_SIZE:]
    is_stale = False
    for digest in _digests():
        if compare_digest(_tag(digest, tagged), tag):
            break
        is_stale = True
    else:
        raise BadRecord("its tag does not match")
    version, flags, created = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise BadRecord(f"its version, {version}, is unknown")
    payload = data[_HEADER.size : -_TAG_SIZE]
    if not flags:
        return payload, created, is_stale, False
    if flags & _COMPRESSED:
        payload = zlib.decompressobj().decompress(payload, limit + 1)
        if len(payload) > limit:
            raise BadRecord(f"it has more than {limit} bytes")
    return payload, created, is_stale, flags & _NOTICE != 0


def owner_digest(user_id: str) -> bytes:
    """What stands for a user in a record: keyed, so that a store does not name its users."""
    digest = _owner_digest().copy()
    digest.update(user_id.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _tagged(key: bytes, owner: bytes, sealed: bytes) -> bytes:
    # With the owner's size, so that no bytes can pass from it into what follows.
    return key + _OWNER_SIZES[len(owner)] + owner + sealed


def _tag(keyed: hashlib.blake2b, tagged: bytes) -> bytes:
    digest = keyed.copy()
    digest.update(tagged)
    return digest.digest()


# Setting up a keyed digest costs more than hashing a session, so it is done
# once for each key and copied.


@cache
def _digests() -> tuple[hashlib.blake2b, ...]:
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return tuple(_keyed(secret, b"kvsessions.tag", _TAG_SIZE) for secret in secrets)


@cache
def _owner_digest() -> hashlib.blake2b:
    return _keyed(settings.SECRET_KEY, b"kvsessions.owner", OWNER_SIZE)


def _keyed(secret: str | bytes, purpose: bytes, digest_size: int) -> hashlib.blake2b:
    key = hashlib.blake2b(force_bytes(secret), digest_size=32, person=purpose).digest()
    return hashlib.blake2b(key=key, digest_size=digest_size)


def _forget(*, setting: str, **kwargs: object) -> None:
    if setting in ("SECRET_KEY", "SECRET_KEY_FALLBACKS"):
        _digests.cache_clear()
        _owner_digest.cache_clear()


setting_changed.connect(_forget)
