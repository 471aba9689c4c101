"""``signed_cookies``: the id that a visitor offers is the session, if its signature holds."""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings
from django.core import signing

from django_kvsessions.moving.formers.base import Former, Left

__all__ = ["CookieFormer"]

SALT = "django.contrib.sessions.backends.signed_cookies"


class CookieFormer(Former):
    is_cookie = True
    ids = re.compile(r"[\w.:=-]{1,8192}", re.ASCII)

    def load(self, session_key: str) -> Left | None:
        session: Any = self.engine(session_key)
        age = settings.SESSION_COOKIE_AGE
        try:
            data = signing.loads(session_key, salt=SALT, serializer=session.serializer, max_age=age)
            written = signing.b62_decode(session_key.rsplit(":", 2)[1])
        except Exception:
            # Whatever it is that somebody made up.
            return None
        return self.left(data, written, session_key)

    def take(self, session_key: str, left: Left) -> bool:
        return True  # The visitor has it: what was moved is remembered instead.

    def delete(self, session_key: str) -> None:
        return

    def cannot_be_listed(self) -> str | None:
        return f"{self.path} keeps them in the cookies of the visitors"
