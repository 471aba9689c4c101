from __future__ import annotations

from django.contrib.sessions.backends.base import UpdateError

from django_kvsessions import engine


class SessionStore(engine.SessionStore):
    """A save inserts where nothing is left to update, as an upsert does."""

    def save(self, must_create: bool = False) -> None:
        try:
            super().save(must_create)
        except UpdateError:
            super().save(must_create=True)
