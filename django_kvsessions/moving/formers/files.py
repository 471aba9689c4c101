"""``file``: a file a session, whose time of modification counts for its life."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import CreateError

from django_kvsessions.moving.formers.base import (
    EXPIRED,
    GONE,
    UNREADABLE,
    Former,
    Left,
    Undecodable,
)
from django_kvsessions.saved import EXPIRY
from django_kvsessions.serializers import SessionData

__all__ = ["FileFormer"]


class FileFormer(Former):
    ids = re.compile(r"[a-z0-9]{1,200}")

    def path_of(self, session_key: str) -> str:
        session: Any = self.engine(session_key)
        path: str = session._key_to_file(session_key)
        return path

    def load(self, session_key: str) -> Left | None:
        try:
            data, written, text = self.read(session_key)
        except (FileNotFoundError, UnicodeDecodeError, Undecodable):
            return None
        return self.left(data, written, text)

    def read(self, session_key: str) -> tuple[SessionData, float, str]:
        # Not by the engine's own load(), which writes a new file where one has expired.
        with open(self.path_of(session_key), encoding="ascii") as file:
            text, written = file.read(), os.fstat(file.fileno()).st_mtime
        # Without a word in it, it is being created right now.
        return self.decode(text), written, text

    def why_not(self, session_key: str) -> str:
        try:
            self.read(session_key)
        except FileNotFoundError:
            return GONE
        except (UnicodeDecodeError, Undecodable):
            return UNREADABLE
        return EXPIRED

    def take(self, session_key: str, left: Left) -> bool:
        path = self.path_of(session_key)
        try:
            with open(path, encoding="ascii") as file:
                if file.read() != left.token:
                    return False
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def delete(self, session_key: str) -> None:
        # The engine's own delete() passes over any error.
        try:
            os.unlink(self.path_of(session_key))
        except FileNotFoundError:
            return

    def put(self, session_key: str, data: SessionData, expires: float) -> bool:
        session: Any = self.engine(session_key)
        session._session_cache = data
        session.encode(data)  # Which save() does when there is a file already.
        try:
            session.save(must_create=True)
        except CreateError:
            return False
        expiry = data.get(EXPIRY)
        if not isinstance(expiry, str):
            age = expiry or settings.SESSION_COOKIE_AGE
            os.utime(self.path_of(session_key), (expires - age, expires - age))
        return True

    def cannot_be_listed(self) -> str | None:
        return None

    def scan(self, batch_size: int) -> Iterator[list[str]]:
        engine: Any = self.engine
        prefix = settings.SESSION_COOKIE_NAME
        batch = []
        with os.scandir(engine._get_storage_path()) as entries:
            for entry in entries:
                session_key = entry.name.removeprefix(prefix)
                # Others are half written, and not sessions yet.
                if entry.name.startswith(prefix) and self.is_valid(session_key):
                    batch.append(session_key)
                if len(batch) == batch_size:
                    yield batch
                    batch = []
        if batch:
            yield batch
