from __future__ import annotations

from contextlib import suppress

from django.contrib.sessions.backends.base import CreateError, UpdateError

from django_kvsessions import engine


class SessionStore(engine.SessionStore):
    """A save inserts where nothing is left to update, as an upsert does."""

    def save(self, must_create: bool = False) -> None:
        try:
            super().save(must_create)
        except UpdateError:
            # Where the session has moved, its former id is taken.
            with suppress(CreateError):
                super().save(must_create=True)
