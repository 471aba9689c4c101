"""Keys made of SECRET_KEY and of each of SECRET_KEY_FALLBACKS, one for each purpose."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.encoding import force_bytes

__all__ = ["keyed"]


# Setting up a keyed digest costs more than hashing a session, so it is done
# once for each key and copied.


@cache
def keyed(purpose: bytes, digest_size: int) -> tuple[hashlib.blake2b, ...]:
    """A keyed BLAKE2b digest to be copied: of SECRET_KEY, then of each of the fallbacks."""
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return tuple(_keyed(secret, purpose, digest_size) for secret in secrets)


def _keyed(secret: str | bytes, purpose: bytes, digest_size: int) -> hashlib.blake2b:
    key = hashlib.blake2b(force_bytes(secret), digest_size=32, person=purpose).digest()
    return hashlib.blake2b(key=key, digest_size=digest_size)


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("SECRET_KEY", "SECRET_KEY_FALLBACKS"):
        keyed.cache_clear()


setting_changed.connect(_forget)
