"""The typical session: a logged-in user, a CSRF token and a cart of five lines."""

from __future__ import annotations

import base64
import hashlib
from typing import Any


def session_key(number: int) -> str:
    """A key that every engine accepts, always the same for one number."""
    digest = hashlib.blake2b(b"%d" % number, digest_size=20).digest()
    return base64.b32encode(digest).decode().lower()


def session_data(number: int) -> dict[str, Any]:
    """About 600 bytes as JSON, different for every number."""
    digest = hashlib.blake2b(b"data %d" % number, digest_size=48).hexdigest()
    return {
        "_auth_user_id": str(100_000 + number % 900_000),
        "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
        "_auth_user_hash": digest[:64],
        "_csrftoken": digest[64:],
        "cart": [
            {
                "sku": f"SKU-{digest[8 * line : 8 * line + 5]}",
                "title": f"Product number {line}",
                "quantity": line + 1,
                "price": "19.90",
            }
            for line in range(5)
        ],
        "visits": 100_000 + number % 900_000,
    }
