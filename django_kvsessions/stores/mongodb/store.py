"""Sessions in MongoDB, for many machines; a TTL index does the clean-up."""

from __future__ import annotations

from functools import partial
from math import floor
from typing import TYPE_CHECKING, Any

from django.core import checks

from django_kvsessions.colours import Colour, blocking, run
from django_kvsessions.stores.base import Record, StoreCorrupted, StoreStats, now
from django_kvsessions.stores.options import driver, refuse, text
from django_kvsessions.stores.paged import Page, PagedStore

if TYPE_CHECKING:
    from django_kvsessions.stores.mongodb.client import DatetimeMS, Document, Documents

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


class MongoDBStore(PagedStore[bytes]):
    """Keeps records in a collection of MongoDB, each one a document.

    LOCATION is a URL, ``mongodb://user:password@host:27017/database`` or
    ``mongodb+srv://``. ``manage.py setupsessions`` makes the indexes; by one of
    them MongoDB removes what has expired, within two minutes. Reads go to the
    primary, whatever LOCATION says, because a secondary that lags behind would
    bring an ended session back.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

    backed_up_by = "use mongodump on its collection"

    def __init__(
        self,
        location: str | None = None,
        *,
        database: str | None = None,
        collection: str = "sessions",
        max_record_size: int = 1024 * 1024,
        **options: object,
    ) -> None:
        """``database``: instead of the one in LOCATION.

        ``options``: everything else goes to pymongo's clients: ``username``, ``password``,
        ``tlsCAFile``, ``maxPoolSize``, ``timeoutMS`` (for a call with all its attempts),
        ``serverSelectionTimeoutMS`` and ``connectTimeoutMS`` (3000 milliseconds each) ...
        Writes are acknowledged by a majority, from its journal, unless LOCATION or the options
        have another write concern (``w``).
        """
        super().__init__(max_record_size=max_record_size)
        if max_record_size > LARGEST:
            refuse(
                "max_record_size",
                f"a whole number from 1 to {LARGEST} (MongoDB takes no document over 16 MiB)",
                max_record_size,
            )
        if database is not None:
            text("database", database)
        text("collection", collection)
        with driver("mongodb", "MongoDBStore needs pymongo"):
            from django_kvsessions.stores.mongodb import client
        self._collection = client.Collection(location, database, collection, options)
        self._date = client.DatetimeMS
        self._taken = client.DuplicateKeyError

    async def _load(self, call: Colour, key: bytes) -> Record | None:
        document = await self._collection.ask(call, lambda c: c.find_one({"_id": key}))
        record = None if document is None else self._record(document)
        return record if record is not None and record.expires > now() else None

    async def _create(self, call: Colour, key: bytes, record: Record) -> bool:
        # Where a live record is there, the filter finds nothing, and the insert that
        # follows fails on the key.
        expired = {"_id": key, "expires": {"$lte": self._time(now())}}
        document = self._document(record)
        try:
            await self._collection.ask(
                call, lambda c: c.replace_one(expired, document, upsert=True)
            )
        except self._taken:
            return False
        return True

    async def _replace(
        self, call: Colour, key: bytes, record: Record, expected: int | None
    ) -> bool:
        live, document = self._live(key, expected), self._document(record)
        result = await self._collection.ask(call, lambda c: c.replace_one(live, document))
        return bool(result.matched_count)

    async def _touch(self, call: Colour, key: bytes, expires: float, expected: int | None) -> bool:
        live, change = self._live(key, expected), {"$set": {"expires": self._time(expires)}}
        result = await self._collection.ask(call, lambda c: c.update_one(live, change))
        return bool(result.matched_count)

    async def _delete(self, call: Colour, key: bytes) -> bool:
        live = self._live(key)
        result = await self._collection.ask(call, lambda c: c.delete_one(live))
        return bool(result.deleted_count)

    async def _delete_batch(self, call: Colour, moment: float, batch_size: int) -> int | None:
        """The TTL index does it as well, but not at once, and not before ``setup``."""
        expired = {"expires": {"$lte": self._time(moment)}}
        found = await self._collection.ask(
            call, lambda c: c.find(expired, {"_id": True}, limit=batch_size).to_list()
        )
        if not found:
            return None
        these = {"_id": {"$in": [document["_id"] for document in found]}, **expired}
        result = await self._collection.ask(call, lambda c: c.delete_many(these))
        return int(result.deleted_count)

    async def _page(self, call: Colour, owner: bytes | None, start: bytes | None) -> Page[bytes]:
        wanted = self._live()
        if owner is not None:
            wanted["owner"] = owner
        if start is not None:
            wanted["_id"] = {"$gt": start}
        found = await self._collection.ask(
            call, lambda c: c.find(wanted, sort=[("_id", 1)], limit=PAGE).to_list()
        )
        start = found[-1]["_id"] if len(found) == PAGE else None
        return [(document["_id"], self._record(document)) for document in found], start

    async def _setup(self, call: Colour) -> None:
        for name, (fields, options) in INDEXES.items():
            await self._collection.prepare(call, partial(make_index, name, fields, options))

    async def _stats(self, call: Colour) -> StoreStats:
        live, gone = self._live(), {"expires": {"$lte": self._time(now())}}
        lives = await self._collection.ask(call, lambda c: c.count_documents(live))
        expired = await self._collection.ask(call, lambda c: c.count_documents(gone))
        sizes = await self._collection.ask(call, lambda c: c.database.command("collStats", c.name))
        return StoreStats(lives, expired, int(sizes["size"]))

    def close(self) -> None:
        self._collection.close()

    async def aclose(self) -> None:
        await self._collection.aclose()

    def setup_statements(self) -> list[str]:
        there = run(self._collection.ask(blocking, lambda c: c.index_information()))
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

    def _live(self, key: bytes | None = None, revision: int | None = None) -> Document:
        """The filter for what is live: all, or this key, or at this revision."""
        given = {"_id": key, "revision": revision, "expires": {"$gt": self._time(now())}}
        return {name: value for name, value in given.items() if value is not None}

    def _time(self, seconds: float) -> DatetimeMS:
        """Whole milliseconds, always rounded the same way, so that comparing stays exact."""
        return self._date(floor(min(max(seconds, 0), LATEST) * 1000))

    def _document(self, record: Record) -> Document:
        data, expires, revision, owner = record
        document = {"data": data, "expires": self._time(expires), "revision": revision}
        return {**document, "owner": owner} if owner else document

    def _record(self, document: Document) -> Record:
        try:
            expires = int(document["expires"]) / 1000
            owner = document.get("owner", b"")
            return Record(document["data"], expires, int(document["revision"]), owner)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorrupted(
                f"{self._collection.where} has a document that is no session: is the "
                "collection (OPTIONS['collection']) shared?"
            ) from error


def make_index(
    name: str, fields: list[tuple[str, int]], options: dict[str, Any], collection: Documents
) -> str:
    return collection.create_index(fields, name=name, **options)
