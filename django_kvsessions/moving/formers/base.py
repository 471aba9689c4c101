"""What is asked of an engine that sessions are moved from, by way of Django's own methods."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, SessionBase
from django.core.exceptions import SuspiciousOperation

from django_kvsessions.moving.signatures import opener
from django_kvsessions.saved import EXPIRY
from django_kvsessions.serializers import SessionData
from django_kvsessions.stores.base import now

__all__ = ["EXPIRED", "GONE", "UNREADABLE", "Former", "Left", "Undecodable", "ends"]


#: Why there is nothing to be moved under an id that was listed.
EXPIRED = "expired"
GONE = "ended meanwhile"
UNREADABLE = "not readable by Django"


class Left(NamedTuple):
    """A live session as another engine has it.

    ``expires`` is Unix time. ``token`` says whether it has changed since.
    """

    data: SessionData
    expires: float
    token: object


class Undecodable(ValueError):
    """The engine itself cannot read what it has under an id."""


class Former:
    """A session engine that is not ours.

    Any of its own errors may come out of each method. What it cannot decode,
    what has expired and what is empty does not exist.
    """

    #: Its ids are the sessions: the visitor gets an ordinary id instead.
    is_cookie: ClassVar[bool] = False

    #: Which ids it may have given out: others are not even asked for.
    ids: ClassVar[re.Pattern[str]] = re.compile(r"[\x21-\x7e]{1,4096}")

    def __init__(self, path: str, engine: type[SessionBase]) -> None:
        self.path = path
        self.engine = engine

    def is_valid(self, session_key: str) -> bool:
        return self.ids.fullmatch(session_key) is not None

    def load(self, session_key: str) -> Left | None:
        session = self.engine(session_key)
        if not session.exists(session_key):
            return None
        data = session.load()
        if not data or session.session_key != session_key:
            return None
        return self.left(data, now(), data)

    def take(self, session_key: str, left: Left) -> bool:
        """Remove the session if it is still as it was loaded; ``False`` where it is not."""
        there = self.load(session_key)
        if there is None or there.token != left.token:
            return False
        self.engine(session_key).delete(session_key)
        return True

    def delete(self, session_key: str) -> None:
        self.engine(session_key).delete(session_key)

    def put(self, session_key: str, data: SessionData, expires: float) -> bool:
        """Create the session under that id; ``False`` where there is one.

        ``TypeError`` for what the engine cannot serialise.
        """
        session: Any = self.engine(session_key)
        session._session_cache = data
        try:
            session.save(must_create=True)
        except CreateError:
            return False
        return True

    def cannot_be_listed(self) -> str | None:
        """Why nobody can say which sessions it has; ``None`` where ``scan`` can."""
        return f"{self.path} has no way to list its sessions"

    def count(self) -> int | None:
        """How many sessions there are about, to show progress; ``None`` where that is not cheap."""
        return None

    def scan(self, batch_size: int) -> Iterator[list[str]]:
        """The ids of all sessions, in batches and in bounded memory, also while they are moved."""
        raise NotImplementedError(self.cannot_be_listed())

    def why_not(self, session_key: str) -> str:
        """Why ``load`` finds nothing under an id that was listed."""
        return UNREADABLE if self.engine(session_key).exists(session_key) else GONE

    @cached_property
    def opened(self) -> Callable[[str], Any]:
        """As the engine's ``decode``. It is asked for anew where a setting changes."""
        return opener(self.engine())

    def decode(self, text: str) -> SessionData:
        """What Django has signed; ``Undecodable`` where it is something else."""
        try:
            data = self.opened(text)
        except (SuspiciousOperation, ValueError, EOFError) as error:
            raise Undecodable(str(error)) from error
        if not isinstance(data, dict) or not data:
            # Django's own decode() says so of what it cannot decode.
            raise Undecodable("it holds no data, or Django cannot decode it")
        return data

    def left(self, data: Any, written: float, token: object) -> Left | None:
        """Unless it is no session that lives; written at a time that counts for idle ages."""
        if not isinstance(data, dict) or not data:
            return None
        try:
            expires = ends(data, written)
        except (TypeError, ValueError, OverflowError):
            return None  # Django could not say either when it ends.
        return Left(data, expires, token) if expires > now() else None


def ends(data: SessionData, written: float) -> float:
    """When a session ends that was last written at that Unix time, as Django has it."""
    expiry = data.get(EXPIRY)
    if isinstance(expiry, str):
        expiry = datetime.fromisoformat(expiry)
    if isinstance(expiry, datetime):
        return expiry.timestamp()
    return written + (expiry or settings.SESSION_COOKIE_AGE)
