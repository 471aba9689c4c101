"""Records copied from one store to another as they are: sealed, with their revisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

from django_kvsessions.moving.bulk import FAILED, MOVED, TOO_LARGE
from django_kvsessions.saved import new_revision
from django_kvsessions.stores.base import Record, Store

__all__ = ["ENDED", "SAME", "Copier"]

SAME = "the same there already"
ENDED = "ended since the last copy"
CHANGED = "changed meanwhile"


class Copier:
    """Makes ``target`` say what ``source`` says, while the site is on ``source``.

    Repeated, it writes only what has changed since. Whatever ``source`` has
    not, or has no more, is removed from ``target``.
    """

    def __init__(
        self,
        source: Store,
        target: Store,
        *,
        delete: bool = False,
        verify: bool = False,
        dry_run: bool = False,
    ) -> None:
        self.source = source
        self.target = target
        self.delete = delete
        self.verify = verify
        self.dry_run = dry_run

    def batches(self, batch_size: int) -> Iterator[Counter[str]]:
        yield from self.over(self.source, self.copy, batch_size)
        if not self.delete:
            yield from self.over(self.target, self.remove, batch_size)

    def over(
        self, store: Store, act: Callable[[bytes, Record], str | None], batch_size: int
    ) -> Iterator[Counter[str]]:
        records = store.scan()
        while batch := list(islice(records, batch_size)):
            yield Counter(what for key, record in batch if (what := act(key, record)) is not None)

    def copy(self, key: bytes, record: Record) -> str:
        try:
            self.target.check_record(key, record)
        except ValueError:
            return TOO_LARGE
        there = self.target.load(key)
        if there is not None and there == record:
            what = SAME
        elif self.dry_run:
            return MOVED
        elif there is None:
            what = MOVED if self.target.create(key, record) else CHANGED
        else:
            is_done = self.target.replace(key, record, expected=there.revision)
            what = MOVED if is_done else CHANGED
        if self.verify and what == MOVED and self.target.load(key) != record:
            return FAILED
        if self.delete and what in (MOVED, SAME) and not self.dry_run:
            # If a request was faster, it is to be copied once more.
            gone = Record(b"", 0.0, new_revision())
            self.source.replace(key, gone, expected=record.revision)
        return what

    def remove(self, key: bytes, record: Record) -> str | None:
        if self.source.load(key) is not None:
            return None
        if not self.dry_run:
            self.target.delete(key)
        return ENDED
