"""A project's own engine, which extends Django's."""

from __future__ import annotations

from django.contrib.sessions.backends import db

__all__ = ["SessionStore"]


class SessionStore(db.SessionStore):
    @property
    def key_salt(self) -> str:
        return "a salt of its own"
