"""``db`` and ``cached_db``: rows, of which each has its expiry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.sessions.backends.cached_db import SessionStore as CachedSessionStore
from django.contrib.sessions.backends.db import SessionStore
from django.db import IntegrityError, models, router, transaction

from django_kvsessions.moving.formers.base import (
    EXPIRED,
    GONE,
    UNREADABLE,
    Former,
    Left,
    Undecodable,
)
from django_kvsessions.serializers import SessionData
from django_kvsessions.stores.base import now

__all__ = ["CachedDatabaseFormer", "DatabaseFormer"]


class DatabaseFormer(Former):
    # No longer than the column, and nothing that a database refuses to compare.
    ids = re.compile(r"[\w-]{1,40}", re.ASCII)
    stock_load: ClassVar[object] = staticmethod(SessionStore.load)

    @property
    def model(self) -> Any:
        engine: Any = self.engine
        return engine.get_model_class()

    @property
    def database(self) -> str:
        return router.db_for_write(self.model)

    @property
    def rows(self) -> models.QuerySet[Any]:
        # Not from a replica, which may be behind.
        rows: models.QuerySet[Any] = self.model._base_manager.using(self.database)
        return rows

    def load(self, session_key: str) -> Left | None:
        rows = self.rows.filter(pk=session_key).values_list("pk", "session_data", "expire_date")
        found = rows.first()
        # MySQL takes upper and lower case for the same, and would give one session many ids.
        if found is None or found[0] != session_key or (expires := found[2].timestamp()) <= now():
            return None
        text = found[1]
        try:
            return Left(self.read(session_key, text), expires, text)
        except Undecodable:
            return None

    def read(self, session_key: str, text: str) -> SessionData:
        if self.is_stock:
            return self.decode(text)
        # Of a project's own, which may keep it in another shape.
        data: SessionData = self.engine(session_key).load()
        if not data:
            raise Undecodable("it holds no data, or its engine cannot decode it")
        return data

    @property
    def is_stock(self) -> bool:
        """Whether a row says all that there is to know of a session."""
        engine: Any = self.engine
        return engine.load is self.stock_load

    def why_not(self, session_key: str) -> str:
        expires = self.rows.filter(pk=session_key).values_list("expire_date", flat=True).first()
        if expires is None:
            return GONE
        return EXPIRED if expires.timestamp() <= now() else UNREADABLE

    def remove(self, session_keys: list[str]) -> None:
        self.rows.filter(pk__in=session_keys)._raw_delete(self.database)

    def take(self, session_key: str, left: Left) -> bool:
        rows = self.rows.filter(pk=session_key, session_data=left.token)
        return bool(rows._raw_delete(self.database))

    def delete(self, session_key: str) -> None:
        self.rows.filter(pk=session_key)._raw_delete(self.database)

    def put(self, session_key: str, data: SessionData, expires: float) -> bool:
        session: Any = self.engine(session_key)
        session._session_cache = data
        row = session.create_model_instance(data)
        row.expire_date = date(expires)
        try:
            with transaction.atomic(using=self.database):
                row.save(force_insert=True, using=self.database)
        except IntegrityError:
            return False
        return True

    def cannot_be_listed(self) -> str | None:
        return None

    def count(self) -> int | None:
        return self.rows.count()

    def scan(self, batch_size: int) -> Iterator[list[str]]:
        # By the primary key, since a cursor would hold a transaction open for all that time.
        last = ""
        while True:
            rows = self.rows.filter(pk__gt=last).order_by("pk")
            if not (keys := list(rows.values_list("pk", flat=True)[:batch_size])):
                return
            yield keys
            last = keys[-1]


class CachedDatabaseFormer(DatabaseFormer):
    """The row is the session: a cache may have one that was ended."""

    stock_load = staticmethod(CachedSessionStore.load)

    def take(self, session_key: str, left: Left) -> bool:
        taken = super().take(session_key, left)
        if taken:
            self.forget(session_key)
        return taken

    def remove(self, session_keys: list[str]) -> None:
        super().remove(session_keys)
        for session_key in session_keys:
            self.forget(session_key)

    def delete(self, session_key: str) -> None:
        super().delete(session_key)
        self.forget(session_key)

    def forget(self, session_key: str) -> None:
        session: Any = self.engine(session_key)
        session._cache.delete(session.cache_key_prefix + session_key)

    def put(self, session_key: str, data: SessionData, expires: float) -> bool:
        is_new = super().put(session_key, data, expires)
        if is_new:
            self.forget(session_key)
        return is_new


def date(expires: float) -> datetime:
    moment = datetime.fromtimestamp(expires, timezone.utc)
    return moment if settings.USE_TZ else moment.astimezone().replace(tzinfo=None)
