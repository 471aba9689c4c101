"""All sessions of an engine moved into the store, in batches, while the site serves.

Each is an arrival first (see ``marks``): as long as the engine still has it too, that one counts,
and the first request moves it in for good. So a batch may be cut short anywhere and be repeated.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from django.db import connections, models, transaction

from django_kvsessions import codec
from django_kvsessions.colours import blocking, run
from django_kvsessions.engine import SessionStore
from django_kvsessions.moving.arrivals import establish, make_session
from django_kvsessions.moving.formers import Former, Left
from django_kvsessions.moving.formers.base import EXPIRED, GONE, UNREADABLE, Undecodable
from django_kvsessions.moving.marks import arrival_revision, has_arrived, is_claim
from django_kvsessions.saved import Place, new_revision
from django_kvsessions.stores.base import Record, Store, StoreError, now

__all__ = ["EXPIRED", "FAILED", "MOVED", "THERE", "TOO_LARGE", "Mover"]

logger = logging.getLogger("django_kvsessions")

MOVED = "moved"
FAILED = "failed"
#: Why a session is skipped.
THERE = "in the store already"
TOO_LARGE = "too large, or of types that SESSION_SERIALIZER does not take"

ATTEMPTS = 100


class Mover:
    """Moves batches of sessions, and counts what became of them."""

    def __init__(
        self,
        former: Former,
        store: Store,
        *,
        delete: bool = False,
        verify: bool = False,
        dry_run: bool = False,
    ) -> None:
        self.former = former
        self.store = store
        self.delete = delete
        self.verify = verify
        self.dry_run = dry_run

    def batches(self, batch_size: int, part: int = 0, parts: int = 1) -> Iterator[Counter[str]]:
        """Move all, or that part of all; what became of the sessions of each batch."""
        for keys in self.former.scan(batch_size):
            if own := [key for key in keys if part_of(key, parts) == part]:
                yield self.move(own)

    def move(self, keys: list[str]) -> Counter[str]:
        from django_kvsessions.moving.formers.database import DatabaseFormer

        if isinstance(self.former, DatabaseFormer) and self.former.is_stock:
            return self.move_rows(self.former, keys)
        return Counter(map(self.move_one, keys))

    # Rows, which can be locked meanwhile

    def move_rows(self, former: Any, keys: list[str]) -> Counter[str]:
        tally: Counter[str] = Counter()
        done: list[str] = []
        with transaction.atomic(using=former.database):
            for key, text, expires in self.lock(former, keys):
                seconds = expires.timestamp()
                outcome = EXPIRED
                if seconds > now():
                    try:
                        outcome, _ = self.put(key, Left(former.decode(text), seconds, text))
                    except Undecodable:
                        outcome = UNREADABLE
                tally[outcome] += 1
                if outcome in (MOVED, THERE, EXPIRED):
                    done.append(key)
            if self.delete and done and not self.dry_run:
                former.remove(done)
        return tally

    def lock(self, former: Any, keys: list[str]) -> Iterable[tuple[str, str, Any]]:
        rows = former.rows.filter(pk__in=keys).order_by("pk")
        if not self.dry_run:
            if connections[former.database].features.has_select_for_update:
                rows = rows.select_for_update()
            else:
                # On SQLite it is the first write that locks, and a read before it would not wait.
                rows.order_by().update(expire_date=models.F("expire_date"))
        found: Iterable[tuple[str, str, Any]] = rows.values_list(
            "pk", "session_data", "expire_date"
        )
        return found

    # Anything else, one by one

    def move_one(self, session_key: str) -> str:
        try:
            for _ in range(ATTEMPTS):
                left = self.former.load(session_key)
                if left is None:
                    why = self.former.why_not(session_key)
                    if why == EXPIRED and self.delete and not self.dry_run:
                        self.former.delete(session_key)
                    return why
                outcome, record = self.put(session_key, left)
                if self.dry_run or outcome not in (MOVED, THERE):
                    return outcome
                if self.delete and self.former.take(session_key, left):
                    if record is not None:
                        key = codec.storage_key(session_key)
                        run(establish(blocking, self.store, key, record))
                    return outcome
                again = self.former.load(session_key)
                if again is None and outcome == MOVED:
                    assert record is not None
                    # It was ended there, unless another has made the arrival its own: that wins.
                    return GONE if self.withdraw(session_key, record) else outcome
                if again is None or (not self.delete and again.token == left.token):
                    return outcome
            return FAILED
        except StoreError:
            raise
        except Exception:
            logger.exception("A session of %r could not be moved", self.former.path)
            return FAILED

    def withdraw(self, session_key: str, record: Record) -> bool:
        """Whether the arrival was still as this one has put it, and is no more."""
        ended = Record(b"", 0.0, new_revision())
        key = codec.storage_key(session_key)
        return self.store.replace(key, ended, expected=record.revision)

    # Into the store

    def put(self, session_key: str, left: Left) -> tuple[str, Record | None]:
        """What became of it, and what was written."""
        place = Place(codec.storage_key(session_key), session_key)
        session, key = SessionStore(), place.key
        try:
            _, record = make_session(session, self.store, place, left, arrival_revision())
        except (TypeError, ValueError) as error:
            logger.error("A session of %r is left there: %s", self.former.path, error)
            return TOO_LARGE, None
        if self.dry_run:
            return MOVED, None
        for _ in range(ATTEMPTS):
            if self.store.create(key, record):
                return self.verified(key, record), record
            there = self.store.load(key)
            if there is None:
                continue
            if not has_arrived(there) and not is_claim(
                key, session._opened(self.store, place, there)
            ):
                return THERE, None
            # Also where it says the same: whose arrival it is tells who may withdraw it.
            if self.store.replace(key, record, expected=there.revision):
                return self.verified(key, record), record
        return FAILED, None

    def verified(self, key: bytes, record: Record) -> str:
        if not self.verify:
            return MOVED
        there = self.store.load(key)
        # A request may have taken it over by now.
        is_good = there is None or there.revision != record.revision or there == record
        return MOVED if is_good else FAILED


def part_of(session_key: str, parts: int) -> int:
    return codec.storage_key(session_key)[0] % parts if parts > 1 else 0
