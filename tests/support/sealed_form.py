"""The form of encrypted records as the documentation has it, read and written by other means.

What is here knows nothing of the package: it is what somebody would write who has the
description alone, or an attacker who has SECRET_KEY.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Parts", "split", "storage_key"]

HEADER = struct.Struct(">BBddd")
NOTICE, CARD, SEALED = 2, 4, 8


def blake2b(data: bytes, size: int, person: bytes = b"", key: bytes = b"") -> bytes:
    return hashlib.blake2b(data, digest_size=size, person=person, key=key).digest()


def storage_key(session_id: str) -> bytes:
    return blake2b(session_id.encode(), 32)


def cipher(opener: str | bytes, secret: str, purpose: bytes) -> AESGCM:
    root = opener
    if isinstance(root, str):
        root = blake2b(root.encode(), 32, b"kvsessions.root")
    return AESGCM(blake2b(root, 32, key=blake2b(secret.encode(), 32, purpose)))


@dataclass(frozen=True)
class Parts:
    """A record of version 2, taken apart."""

    header: bytes
    card: bytes  # with its size before it
    successor: bytes
    sealed: bytes  # nonce, ciphertext, tag; or the plain body

    def bound(self, key: bytes, owner: bytes) -> bytes:
        return key + bytes([len(owner)]) + owner + self.header + self.card + self.successor

    def joined(self, secret: str, key: bytes, owner: bytes) -> bytes:
        """With the tag that who has SECRET_KEY can make."""
        data = self.header + self.card + self.successor + self.sealed
        purpose = blake2b(secret.encode(), 32, b"kvsessions.tag")
        bound = key + bytes([len(owner)]) + owner + data
        return data + blake2b(bound, 16, key=purpose)

    def opened(self, opener: str | bytes, secret: str, key: bytes, owner: bytes) -> bytes:
        purpose = b"kvsessions.moved" if self.successor else b"kvsessions.body"
        nonce, text = self.sealed[:12], self.sealed[12:]
        return cipher(opener, secret, purpose).decrypt(nonce, text, self.bound(key, owner))

    def holding(
        self, plain: bytes, opener: str | bytes, secret: str, key: bytes, owner: bytes
    ) -> Parts:
        nonce = os.urandom(12)
        text = cipher(opener, secret, b"kvsessions.body").encrypt(
            nonce, plain, self.bound(key, owner)
        )
        return replace(self, sealed=nonce + text)


def split(data: bytes) -> Parts:
    assert data[0] == 2
    start = HEADER.size
    card = b""
    if data[1] & CARD:
        (size,) = struct.unpack_from(">H", data, start)
        card = data[start : start + 2 + size]
    start += len(card)
    successor = data[start : start + 32] if data[1] & NOTICE else b""
    return Parts(data[: HEADER.size], card, successor, data[start + len(successor) : -16])
