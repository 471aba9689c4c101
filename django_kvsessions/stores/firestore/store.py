"""Sessions in Google's Firestore, for many machines; its TTL policy does the clean-up."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import Record, StoreStats, StoreUnavailable, now
from django_kvsessions.stores.options import driver, refuse, seconds, text
from django_kvsessions.stores.paged import Page, PagedStore

if TYPE_CHECKING:
    from google.cloud.firestore import DocumentReference

    from django_kvsessions.stores.firestore.client import FieldFilter, Fields, Query, Snapshot

__all__ = ["FirestoreStore"]

# A document has 1 MiB; the other fields and its name take some hundred bytes.
_LARGEST_RECORD = 1024 * 1024 - 1024
# The most writes that one commit may have.
_LARGEST_BATCH = 500
# Records read at once while scanning.
_ROWS = 16
# How often a change is tried that others were quicker with.
CHANGES = 100
CONTENDED = f"Others changed the session in Firestore {CHANGES} times meanwhile."
# Unix time of the year 9999, the last that Firestore knows.
_LATEST = 253_370_764_800.0


class FirestoreStore(PagedStore["DocumentReference"]):
    """Keeps records as the documents of a collection, which LOCATION names.

    A change is made on the condition that the document has not changed since it
    was read. ``manage.py setupsessions`` turns on a TTL policy, by which
    Firestore removes what has expired, within a day or so, and takes the
    records' data out of the indexes. FIRESTORE_EMULATOR_HOST is followed.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

    backed_up_by = "use `gcloud firestore export` or the service's scheduled backups"

    def __init__(
        self,
        location: str = "django_kvsessions",
        *,
        project: str | None = None,
        database: str = "(default)",
        credentials: str | os.PathLike[str] | None = None,
        timeout: float = 5.0,
        max_record_size: int = 1_000_000,
    ) -> None:
        """``project`` and ``credentials``, the path of a service account's key: where Google's
        environment does not say. ``timeout``: seconds for a call, with all that it asks."""
        super().__init__(max_record_size=max_record_size)
        if not isinstance(location, str) or not re.fullmatch(r"(?!__)[^/.]{1,200}", location):
            raise ImproperlyConfigured(
                "LOCATION must be the name of a collection, without slashes and dots, not "
                f"{location!r}."
            )
        if max_record_size > _LARGEST_RECORD:
            refuse(
                "max_record_size",
                f"a whole number from 1 to {_LARGEST_RECORD} (a document of Firestore may have "
                "1 MiB)",
                max_record_size,
            )
        if project is not None:
            text("project", project)
        if credentials is not None and not isinstance(credentials, os.PathLike):
            text("credentials", credentials)
        with driver("firestore", "FirestoreStore needs google-cloud-firestore"):
            from django_kvsessions.stores.firestore import client, document
        self._filter, self._document = client.FieldFilter, document.Document
        self._documents = client.Documents(
            location, project, text("database", database), credentials, seconds("timeout", timeout)
        )

    async def _load(self, call: Colour, key: bytes) -> Record | None:
        return _record(await self._document(self._documents, call, key).get())

    async def _create(self, call: Colour, key: bytes, record: Record) -> bool:
        document, fields = self._document(self._documents, call, key), _fields(record)
        is_done = partial(_has, {"write": fields["write"]})
        for _ in range(CHANGES):
            if await document.create(fields, is_done):
                return True
            found = await document.get()
            if not found.exists:
                continue
            if _record(found) is not None:
                return False
            if await document.change(found, fields, is_done):
                return True
        raise StoreUnavailable(CONTENDED)

    async def _replace(
        self, call: Colour, key: bytes, record: Record, expected: int | None
    ) -> bool:
        fields = _fields(record)
        return await self._change_live(
            call, key, fields, expected, partial(_has, {"write": fields["write"]})
        )

    async def _touch(self, call: Colour, key: bytes, expires: float, expected: int | None) -> bool:
        fields = {"expires": _time(expires)}
        result = fields if expected is None else {**fields, "revision": expected}
        return await self._change_live(call, key, fields, expected, partial(_has, result))

    async def _delete(self, call: Colour, key: bytes) -> bool:
        return await self._change_live(call, key, None, None, lambda there: False)

    async def _change_live(
        self,
        call: Colour,
        key: bytes,
        fields: Fields | None,
        expected: int | None,
        is_done: Callable[[Snapshot], bool],
    ) -> bool:
        document = self._document(self._documents, call, key)
        for _ in range(CHANGES):
            found = await document.get()
            current = _record(found)
            if current is None or expected not in (None, current.revision):
                return False
            if await document.change(found, fields, is_done):
                return True
        raise StoreUnavailable(CONTENDED)

    async def _delete_batch(self, call: Colour, moment: float, batch_size: int) -> int | None:
        expired = self._filter("expires", "<=", _time(moment))
        size = min(batch_size, _LARGEST_BATCH)
        found = await self._documents.query(
            call, lambda query: query.where(filter=expired).select(["expires"]).limit(size)
        )
        if not found:
            return None
        if await self._documents.remove(call, found):
            return len(found)
        # All or none: one has been renewed or removed meanwhile.
        count = 0
        for each in found:
            document = self._document(self._documents, call, bytes.fromhex(each.id))
            count += await document.change(each, None)
        return count

    async def _page(
        self, call: Colour, owner: bytes | None, start: DocumentReference | None
    ) -> Page[DocumentReference]:
        def page(query: Query) -> Query:
            if owner is not None:
                query = query.where(filter=self._filter("owner", "==", owner))
            query = query.order_by("__name__").limit(_ROWS)
            return query if start is None else query.start_after({"__name__": start})

        found = await self._documents.query(call, page)
        items = [(bytes.fromhex(each.id), _record(each)) for each in found]
        live = [(key, record) for key, record in items if record is not None]
        return live, found[-1].reference if found else None

    async def _setup(self, call: Colour) -> None:
        await self._documents.setup(call)

    async def _stats(self, call: Colour) -> StoreStats:
        moment = _time(now())
        counts = []
        for operator in (">", "<="):
            condition = self._filter("expires", operator, moment)

            def count(query: Query, condition: FieldFilter = condition) -> Query:
                return query.where(filter=condition).count()

            [[result]] = await self._documents.query(call, count)
            counts.append(int(result.value))
        return StoreStats(counts[0], counts[1], None)

    def close(self) -> None:
        self._documents.close()

    async def aclose(self) -> None:
        await self._documents.aclose()


def _time(moment: float) -> datetime:
    return datetime.fromtimestamp(min(max(0.0, moment), _LATEST), timezone.utc)


def _fields(record: Record) -> Fields:
    # By the random bytes a write that is sent again knows that it was done.
    fields = {**record._asdict(), "expires": _time(record.expires), "write": os.urandom(8)}
    return {**fields, "owner": record.owner or None}


def _has(fields: Fields, there: Snapshot) -> bool:
    """Whether a document has these among its fields."""
    found = there.to_dict() or {}
    return all(found.get(name) == value for name, value in fields.items())


def _record(found: Snapshot) -> Record | None:
    """The record in a document, if it is live."""
    fields = found.to_dict()
    if fields is None or (expires := fields["expires"].timestamp()) <= now():
        return None
    return Record(fields["data"], expires, fields["revision"], fields["owner"] or b"")
