"""An engine that extends none of Django's: sessions in a dict."""

from __future__ import annotations

import secrets
from typing import Any

from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError

__all__ = ["SessionStore"]

KEPT: dict[str, dict[str, Any]] = {}


class SessionStore(SessionBase):
    def exists(self, session_key: str) -> bool:
        return session_key in KEPT

    def load(self) -> dict[str, Any]:
        return dict(KEPT.get(self.session_key or "", {}))

    def create(self) -> None:
        self._session_key = secrets.token_hex(16)
        self.save(must_create=True)
        self.modified = True

    def save(self, must_create: bool = False) -> None:
        if self.session_key is None:
            return self.create()
        if must_create and self.session_key in KEPT:
            raise CreateError
        if not must_create and self.session_key not in KEPT:
            raise UpdateError
        KEPT[self.session_key] = {} if must_create and not self.modified else dict(self.items())
        return None

    def delete(self, session_key: str | None = None) -> None:
        KEPT.pop(session_key or self.session_key or "", None)
