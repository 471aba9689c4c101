"""What only the cookie opens: AES-256-GCM under a key made of the session id and SECRET_KEY.

The id is hashed to a **root**, and that, by BLAKE2b keyed with a key made of
SECRET_KEY, to a key of the session's own, one for each purpose. So who has the
store and SECRET_KEY still lacks the 160 random bits of the id. The root gives
neither the id nor the storage key, and so it may be handed over where the id
must not be.

Nonces are random. Of a key that is one session's own, n writes repeat one with
a chance below n² / 2⁹⁷: 2⁻⁵⁷ after a million, and 2⁻³³ after the 2³² that NIST
SP 800-38D allows, which are 49 days of a thousand writes a second.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.keys import keyed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = [
    "BODY",
    "MISSING",
    "NOTICE",
    "BadRecord",
    "Opener",
    "decrypt",
    "encrypt",
    "is_installed",
    "root",
]

#: The session id, or its root where no more of it is known.
Opener = str | bytes

BODY = b"kvsessions.body"
NOTICE = b"kvsessions.moved"
NONCE_SIZE = 12
KEY_SIZE = 32

# To be copied: setting one up takes twice as long.
_ROOT = hashlib.blake2b(digest_size=KEY_SIZE, person=b"kvsessions.root")

MISSING = "the package cryptography is not installed"
INSTALL = "Run: pip install django-kvsessions[encryption]."


class BadRecord(ValueError):
    """The bytes are not what this site sealed under this key, or it cannot open them now."""

    #: What the site may do about it; empty where it is what it mostly is.
    cure = ""

    def __init__(self, reason: str, cure: str = "") -> None:
        super().__init__(reason)
        self.cure = cure


def root(opener: Opener) -> bytes:
    """32 bytes that open what the session id opens, and do not tell it."""
    if isinstance(opener, bytes):
        return opener
    digest = _ROOT.copy()
    digest.update(opener.encode("utf-8", "surrogatepass"))
    return digest.digest()


def encrypt(opener: Opener, purpose: bytes, associated: bytes, plain: bytes) -> bytes:
    """Nonce, what is encrypted, and its tag; always under SECRET_KEY itself."""
    nonce = os.urandom(NONCE_SIZE)
    try:
        return nonce + _cipher(opener, purpose, 0).encrypt(nonce, plain, associated)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"SESSION_ENCRYPTION is True, but {MISSING}. {INSTALL}"
        ) from error


def decrypt(opener: Opener, purpose: bytes, secret: int, associated: bytes, sealed: bytes) -> bytes:
    """``BadRecord`` if it was not encrypted for all of these.

    ``secret`` is 0 for SECRET_KEY, and from 1 on for one of the fallbacks.
    """
    try:
        cipher = _cipher(opener, purpose, secret)
    except ImportError:
        raise BadRecord(f"it is encrypted, and {MISSING}", INSTALL) from None
    nonce, body = sealed[:NONCE_SIZE], sealed[NONCE_SIZE:]
    try:
        return cipher.decrypt(nonce, body, associated)
    except MemoryError:
        # It says nothing about the record.
        raise
    except Exception:
        raise BadRecord(
            "it is encrypted, and does not open with the visitor's id",
            "Whoever changed it, or put it in the place of another, has SECRET_KEY and writes to "
            "the store: renew SECRET_KEY without a fallback.",
        ) from None


def is_installed() -> bool:
    try:
        _aesgcm()
    except ImportError:
        return False
    return True


def _cipher(opener: Opener, purpose: bytes, secret: int) -> AESGCM:
    digest = keyed(purpose, KEY_SIZE)[secret].copy()
    digest.update(root(opener))
    return _aesgcm()(digest.digest())


@cache
def _aesgcm() -> type[AESGCM]:
    # An extra, and loading it takes a tenth of a second.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM
