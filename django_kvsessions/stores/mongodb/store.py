"""Sessions in MongoDB, for many machines; a TTL index does the clean-up."""

from __future__ import annotations

from math import floor
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.steps import Steps, run
from django_kvsessions.stores.base import (
    Record,
    StoreCorrupted,
    StoreStats,
    now,
)
from django_kvsessions.stores.paged import Page, PagedStore

__all__ = ["MongoDBStore"]

# What MongoDB takes in a document, less the fields beside the data.
LARGEST = 16 * 1024 * 1024 - 1024
# The year 9999, in seconds: other programs may read the collection, and fail on later dates.
LATEST = 253_402_300_799
# What the server's clock may be ahead of ours, in seconds, before it ends live sessions.
GRACE = 60
# Records read at once while scanning: 32 of the largest are 32 MiB.
PAGE = 32

INDEXES: dict[str, tuple[list[tuple[str, int]], dict[str, Any]]] = {
    "expires": ([("expires", 1)], {"expireAfterSeconds": GRACE}),
    "owner": (
        [("owner", 1), ("_id", 1)],
        {"partialFilterExpression": {"owner": {"$exists": True}}},
    ),
}


class MongoDBStore(PagedStore):
    """Keeps records in a collection of MongoDB, each one a document.

    LOCATION is a URL, ``mongodb://user:password@host:27017/database`` or
    ``mongodb+srv://``. ``manage.py setupsessions`` makes the indexes; by one of
    them MongoDB removes what has expired, within two minutes. Reads go to the
    primary, whatever LOCATION says, because a secondary that lags behind would
    bring an ended session back.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

    def __init__(
        self,
        location: str | None = None,
        *,
        database: str | None = None,
        collection: str = "sessions",
        max_record_size: int = 1024 * 1024,
        **options: Any,
    ) -> None:
        """``database``: instead of the one in LOCATION.

        ``options``: everything else goes to pymongo's clients: ``username``, ``password``,
        ``tlsCAFile``, ``maxPoolSize``, ``serverSelectionTimeoutMS``, ``connectTimeoutMS`` and
        ``socketTimeoutMS`` (3000 milliseconds each) ... Writes are acknowledged by a majority,
        from its journal, unless LOCATION or the options have another write concern (``w``).
        """
        super().__init__(max_record_size=max_record_size)
        try:
            from django_kvsessions.stores import mongodb_client
        except ImportError as error:
            raise ImproperlyConfigured(
                "MongoDBStore needs pymongo: pip install django-kvsessions[mongodb]"
            ) from error
        if max_record_size > LARGEST:
            raise ImproperlyConfigured(
                f"OPTIONS['max_record_size'] must be at most {LARGEST}: MongoDB takes no "
                "document over 16 MiB."
            )
        self._collection = mongodb_client.Collection(location, database, collection, options)
        self._date = mongodb_client.DatetimeMS
        self._taken = mongodb_client.DuplicateKeyError

    def _load(self, key: bytes) -> Steps[Record | None]:
        document = yield from self._collection.ask("find_one", {"_id": key})
        record = None if document is None else self._record(document)
        return record if record is not None and record.expires > now() else None

    def _create(self, key: bytes, record: Record) -> Steps[bool]:
        # Where a live record is there, the filter finds nothing, and the insert that
        # follows fails on the key.
        expired = {"_id": key, "expires": {"$lte": self._time(now())}}
        try:
            yield from self._collection.ask(
                "replace_one", expired, self._document(record), upsert=True
            )
        except self._taken:
            return False
        return True

    def _replace(self, key: bytes, record: Record, expected: int | None) -> Steps[bool]:
        live = self._live(_id=key)
        if expected is not None:
            live["revision"] = expected
        result = yield from self._collection.ask("replace_one", live, self._document(record))
        return bool(result.matched_count)

    def _touch(self, key: bytes, expires: float) -> Steps[bool]:
        change = {"$set": {"expires": self._time(expires)}}
        result = yield from self._collection.ask("update_one", self._live(_id=key), change)
        return bool(result.matched_count)

    def _delete(self, key: bytes) -> Steps[bool]:
        result = yield from self._collection.ask("delete_one", self._live(_id=key))
        return bool(result.deleted_count)

    def _delete_batch(self, moment: float, batch_size: int) -> Steps[int | None]:
        """The TTL index does it as well, but not at once, and not before ``setup``."""
        expired = {"expires": {"$lte": self._time(moment)}}
        found = yield from self._collection.ask("find", expired, {"_id": True}, limit=batch_size)
        if not found:
            return None
        keys = {"_id": {"$in": [document["_id"] for document in found]}}
        result = yield from self._collection.ask("delete_many", {**keys, **expired})
        return int(result.deleted_count)

    def _page(self, owner: bytes | None, start: Any) -> Steps[Page]:
        wanted = self._live() if owner is None else self._live(owner=owner)
        if start is not None:
            wanted["_id"] = {"$gt": start}
        found = yield from self._collection.ask("find", wanted, sort=[("_id", 1)], limit=PAGE)
        start = found[-1]["_id"] if len(found) == PAGE else None
        return [(document["_id"], self._record(document)) for document in found], start

    def _setup(self) -> Steps[None]:
        for name, (fields, options) in INDEXES.items():
            yield from self._collection.ask("create_index", fields, name=name, **options)

    def _stats(self) -> Steps[StoreStats]:
        live = yield from self._collection.ask("count_documents", self._live())
        expired = {"expires": {"$lte": self._time(now())}}
        gone = yield from self._collection.ask("count_documents", expired)
        sizes = yield from self._collection.ask("command", "collStats", self._collection.name)
        return StoreStats(live, gone, int(sizes["size"]))

    def close(self) -> None:
        self._collection.close()

    async def aclose(self) -> None:
        await self._collection.aclose()

    def setup_statements(self) -> list[str]:
        there = run(self._collection.ask("index_information"))
        return [f"create the index {name}" for name in INDEXES if name not in there]

    def check_server(self, *, alias: str) -> list[checks.CheckMessage]:
        """Says which indexes are missing, without which expired sessions stay."""
        return [
            checks.Warning(
                f"SESSION_STORES[{alias!r}]: MongoDB still has to {missing}.",
                hint="Run manage.py setupsessions.",
                id="kvsessions.W150",
            )
            for missing in self.setup_statements()
        ]

    # Documents

    def _live(self, **others: Any) -> dict[str, Any]:
        return {**others, "expires": {"$gt": self._time(now())}}

    def _time(self, seconds: float) -> Any:
        """Whole milliseconds, always rounded the same way, so that comparing stays exact."""
        return self._date(floor(min(max(seconds, 0), LATEST) * 1000))

    def _document(self, record: Record) -> dict[str, Any]:
        data, expires, revision, owner = record
        document = {"data": data, "expires": self._time(expires), "revision": revision}
        return {**document, "owner": owner} if owner else document

    def _record(self, document: dict[str, Any]) -> Record:
        try:
            expires = int(document["expires"]) / 1000
            owner = document.get("owner", b"")
            return Record(document["data"], expires, int(document["revision"]), owner)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorrupted(
                f"{self._collection.where} has a document that is no session: is the "
                "collection (OPTIONS['collection']) shared?"
            ) from error
