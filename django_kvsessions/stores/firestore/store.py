"""Sessions in Google's Firestore, for many machines; its TTL policy does the clean-up."""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.steps import Steps
from django_kvsessions.stores.base import Record, StoreStats, StoreUnavailable, now
from django_kvsessions.stores.paged import Page, PagedStore, check_timeout

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


class FirestoreStore(PagedStore):
    """Keeps records as the documents of a collection, which LOCATION names.

    A change is made on the condition that the document has not changed since it
    was read. ``manage.py setupsessions`` turns on a TTL policy, by which
    Firestore removes what has expired, within a day or so, and takes the
    records' data out of the indexes. FIRESTORE_EMULATOR_HOST is followed.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

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
        environment does not say. ``timeout``: the seconds to wait for an answer."""
        super().__init__(max_record_size=max_record_size)
        if not isinstance(location, str) or not re.fullmatch(r"(?!__)[^/.]{1,200}", location):
            raise ImproperlyConfigured(
                "LOCATION must be the name of a collection, without slashes and dots, not "
                f"{location!r}."
            )
        check_timeout(timeout)
        if not isinstance(max_record_size, int) or not 0 < max_record_size <= _LARGEST_RECORD:
            raise ImproperlyConfigured(
                f"OPTIONS['max_record_size'] may be {_LARGEST_RECORD} bytes at most, because a "
                f"document of Firestore may have 1 MiB; it is {max_record_size!r}."
            )
        try:
            from django_kvsessions.stores import firestore_client
        except ImportError as error:
            raise ImproperlyConfigured(
                "FirestoreStore needs google-cloud-firestore: "
                "pip install django-kvsessions[firestore]"
            ) from error
        self._filter = firestore_client.FieldFilter
        self._documents = firestore_client.Documents(
            location, project, database, credentials, timeout
        )

    def _load(self, key: bytes) -> Steps[Record | None]:
        return _record((yield from self._documents.get(key)))

    def _create(self, key: bytes, record: Record) -> Steps[bool]:
        fields = _fields(record)
        for _ in range(CHANGES):
            if (yield from self._documents.create(key, fields)):
                return True
            found = yield from self._documents.get(key)
            if not found.exists:
                continue
            if found.get("write") == fields["write"]:
                # It was done, and its answer lost.
                return True
            if _record(found) is not None:
                return False
            if (yield from self._documents.change(key, found, fields)):
                return True
        raise StoreUnavailable(CONTENDED)

    def _replace(self, key: bytes, record: Record, expected: int | None) -> Steps[bool]:
        fields = _fields(record)
        for _ in range(CHANGES):
            found = yield from self._documents.get(key)
            if found.exists and found.get("write") == fields["write"]:
                return True
            current = _record(found)
            if current is None or expected not in (None, current.revision):
                return False
            if (yield from self._documents.change(key, found, fields)):
                return True
        raise StoreUnavailable(CONTENDED)

    def _touch(self, key: bytes, expires: float) -> Steps[bool]:
        return (yield from self._change_live(key, {"expires": _time(expires)}))

    def _delete(self, key: bytes) -> Steps[bool]:
        return (yield from self._change_live(key, None))

    def _change_live(self, key: bytes, fields: dict[str, Any] | None) -> Steps[bool]:
        for _ in range(CHANGES):
            found = yield from self._documents.get(key)
            if _record(found) is None:
                return False
            if (yield from self._documents.change(key, found, fields)):
                return True
        raise StoreUnavailable(CONTENDED)

    def _delete_batch(self, moment: float, batch_size: int) -> Steps[int | None]:
        expired = self._filter("expires", "<=", _time(moment))
        size = min(batch_size, _LARGEST_BATCH)
        found = yield from self._documents.query(
            lambda query: query.where(filter=expired).select(["expires"]).limit(size)
        )
        if not found:
            return None
        if (yield from self._documents.remove(found)):
            return len(found)
        # All or none: one has been renewed or removed meanwhile.
        count = 0
        for each in found:
            count += yield from self._documents.change(bytes.fromhex(each.id), each, None)
        return count

    def _page(self, owner: bytes | None, start: Any) -> Steps[Page]:
        def page(query: Any) -> Any:
            if owner is not None:
                query = query.where(filter=self._filter("owner", "==", owner))
            query = query.order_by("__name__").limit(_ROWS)
            return query if start is None else query.start_after({"__name__": start})

        found = yield from self._documents.query(page)
        items = [(bytes.fromhex(each.id), _record(each)) for each in found]
        live = [(key, record) for key, record in items if record is not None]
        return live, found[-1].reference if found else None

    def _setup(self) -> Steps[None]:
        yield from self._documents.ask("prepare")

    def _stats(self) -> Steps[StoreStats]:
        moment = _time(now())
        counts = []
        for operator in (">", "<="):
            condition = self._filter("expires", operator, moment)

            def count(query: Any, condition: Any = condition) -> Any:
                return query.where(filter=condition).count()

            [[result]] = yield from self._documents.query(count)
            counts.append(int(result.value))
        return StoreStats(counts[0], counts[1], None)

    def close(self) -> None:
        self._documents.close()

    async def aclose(self) -> None:
        await self._documents.aclose()


def _time(moment: float) -> datetime:
    return datetime.fromtimestamp(min(max(0.0, moment), _LATEST), timezone.utc)


def _fields(record: Record) -> dict[str, Any]:
    # By the random bytes a write that is sent again knows that it was done.
    fields = {**record._asdict(), "expires": _time(record.expires), "write": os.urandom(8)}
    return {**fields, "owner": record.owner or None}


def _record(found: Any) -> Record | None:
    """The record in a document, if it is live."""
    fields = found.to_dict()
    if fields is None or (expires := fields["expires"].timestamp()) <= now():
        return None
    return Record(fields["data"], expires, fields["revision"], fields["owner"] or b"")
