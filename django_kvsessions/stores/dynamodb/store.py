"""Sessions in Amazon DynamoDB, for many machines; its TTL does the clean-up."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from django.core import checks

from django_kvsessions.stores.base import Record, Store, StoreCorrupted, StoreStats, now
from django_kvsessions.stores.dynamodb.threads import Threads
from django_kvsessions.stores.options import boolean, driver, refuse, seconds, whole_number

if TYPE_CHECKING:
    from django_kvsessions.stores.dynamodb.client import Item

__all__ = ["DynamoDBStore"]

# DynamoDB's limit for an item, in bytes, less the attributes beside the data.
LARGEST = 400 * 1024 - 512
# What waits for DynamoDB at once in the async methods of a process.
THREADS = 50
ABSENT = "attribute_not_exists(#key) OR #expires <= :now"

P = ParamSpec("P")
T = TypeVar("T")


class DynamoDBStore(Store):
    """Keeps records in a table of DynamoDB, each one an item of at most 400 KB.

    LOCATION is the name of the table, which ``manage.py setupsessions`` makes,
    billed by request, with a TTL and an index by owner. DynamoDB removes what
    has expired within days; nobody sees it until then.

    Async calls go through threads, because the async client, aiobotocore, works
    with a few releases of botocore only, which would hold back a project's boto3.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

    backed_up_by = "use the service's backups or point-in-time recovery"

    def __init__(
        self,
        location: str | None = None,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        consistent: bool = True,
        timeout: float = 3.0,
        attempts: int = 3,
        tags: Mapping[str, str] | None = None,
        max_record_size: int = LARGEST,
        **options: object,
    ) -> None:
        """``region_name`` and ``endpoint_url``: where boto3's own settings do not say.

        ``consistent=False`` halves the price of a load, which may then bring back what was
        there a moment ago, an ended session too.

        ``timeout``: seconds after which the store is unavailable. ``attempts``: among how many
        requests they are divided, where one fails, with growing pauses between; a write that
        may have been done is sent again only where that cannot do it twice.
        ``tags``: for the table that ``setup`` makes.

        ``options``: everything else goes to boto3's client: ``aws_access_key_id``,
        ``aws_secret_access_key``, ``aws_session_token``, ``verify``, ``config`` ...
        """
        super().__init__(max_record_size=max_record_size)
        if max_record_size > LARGEST:
            refuse(
                "max_record_size",
                f"a whole number from 1 to {LARGEST} (DynamoDB takes no item over 400 KB)",
                max_record_size,
            )
        with driver("dynamodb", "DynamoDBStore needs boto3"):
            from django_kvsessions.stores.dynamodb import attempts as trying
            from django_kvsessions.stores.dynamodb import client, settings, table
        timeout = seconds("timeout", timeout)
        attempts = whole_number("attempts", attempts, at_least=1)
        options |= {"region_name": region_name, "endpoint_url": endpoint_url}
        self._table = client.Table(location, timeout, attempts, options)
        self._make, self._missing = table.make, table.missing
        self._one_time_limit = trying.one_time_limit
        self._tags = settings.tags(tags)
        self._consistent = boolean("consistent", consistent)
        self._threads = Threads(THREADS)

    def check_record(self, key: bytes, record: Record) -> None:
        if len(record.data) > LARGEST:
            limit = f"{LARGEST} bytes, DynamoDB's 400 KB an item less the other attributes"
            raise ValueError(f"A record of {len(record.data)} bytes is over {limit}.")
        super().check_record(key, record)

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        item = self._table.get(_key(key), self._consistent)
        return None if item is None else self._record(item)

    def create(self, key: bytes, record: Record) -> bool:
        # Sent again, it would bring back what another request has ended meanwhile.
        return self._put(key, record, ABSENT, {}, repeatable=False)

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        return self._put(key, record, *_live(expected), repeatable=expected is not None)

    def _put(
        self, key: bytes, record: Record, condition: str, values: Item, *, repeatable: bool
    ) -> bool:
        self.check_record(key, record)
        item = _item(key, record)

        def is_ours() -> bool:
            # A touch by another request keeps the random bytes.
            there = self._table.get(_key(key), consistent=True)
            return there is not None and there.get("write") == item["write"]

        arguments = {"Item": item, **self._condition(condition, values)}
        return self._table.write(
            lambda client: client.put_item(**arguments), repeatable=repeatable, proof=is_ours
        )

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        self.check_touch(key, expires)
        condition, values = _live(expected)
        update = "SET #expires = :expires, #ttl = :ttl"
        times = _times(expires)
        values = {**values, **{f":{name}": value for name, value in times.items()}}

        def is_so() -> bool:
            item = self._table.get(_key(key), consistent=True)
            there = None if item is None else self._record(item)
            # As numbers: DynamoDB writes them in its own way.
            return (
                there is not None
                and there.expires == float(times["expires"]["N"])
                and expected in (None, there.revision)
            )

        arguments = {"Key": _key(key), **self._condition(condition, values, update)}
        return self._table.write(
            lambda client: client.update_item(**arguments), repeatable=False, proof=is_so
        )

    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        arguments = {"Key": _key(key), **self._condition(*_live(None))}
        # Of a record that is not there nothing says who removed it.
        return self._table.write(
            lambda client: client.delete_item(**arguments), repeatable=False, proof=None
        )

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """DynamoDB removes them at no cost, where reading through the table has one."""
        self._table.description()
        yield from ()

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        for items in self._table.scan(self._consistent):
            yield from self._records(items)

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        """A session that has just begun may be missing: the index is a moment late."""
        self.check_owner(owner)
        pages = self._table.owned(owner, self._consistent)
        return (each for page in pages for each in self._records(page) if each[1].owner == owner)

    def setup(self) -> None:
        self._make(self._table, self._tags)

    def setup_statements(self) -> list[str]:
        return self._missing(self._table)

    def stats(self) -> StoreStats:
        """``size`` is from up to six hours ago, and only where there is one."""
        return StoreStats(None, None, self._table.description()["TableSizeBytes"] or None)

    def close(self) -> None:
        self._threads.close()
        self._table.close()

    def check_server(self, *, alias: str) -> list[checks.CheckMessage]:
        """Says what is missing of the table, its index by owner and its TTL."""
        return [
            checks.Warning(
                f"SESSION_STORES[{alias!r}]: DynamoDB still has to {missing}.",
                hint="Run manage.py setupsessions. Without a TTL, expired sessions stay.",
                id="kvsessions.W160",
            )
            for missing in self._missing(self._table)
        ]

    async def call_async(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._one_time_limit():
            return await self.call_in_thread(function, *args, **kwargs)

    async def call_in_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._threads.call(partial(function, *args, **kwargs))

    def _condition(self, condition: str, values: Item, update: str = "") -> dict[str, object]:
        """The arguments of a write that is made under a condition."""
        names = re.findall(r"#(\w+)", condition + update)
        return {
            "TableName": self._table.name,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": {f"#{name}": name for name in names},
            "ExpressionAttributeValues": {**values, ":now": {"N": repr(now())}},
            **({"UpdateExpression": update} if update else {}),
        }

    def _records(self, items: list[Item]) -> Iterator[tuple[bytes, Record]]:
        for item in items:
            if (record := self._record(item)) is not None:
                yield item["key"]["B"], record

    def _record(self, item: Item) -> Record | None:
        try:
            data, owner = (item[name]["B"] if name in item else b"" for name in ("data", "owner"))
            expires, revision = float(item["expires"]["N"]), int(item["revision"]["N"])
        except (KeyError, ValueError) as error:
            raise StoreCorrupted(
                f"{self._table.where} has an item that is no session: is the table shared?"
            ) from error
        return Record(data, expires, revision, owner) if expires > now() else None


def _key(key: bytes) -> Item:
    return {"key": {"B": key}}


def _live(revision: int | None) -> tuple[str, Item]:
    """The condition that a live record is there, and at that revision where there is one."""
    if revision is None:
        return "#expires > :now", {}
    return "#expires > :now AND #revision = :expected", {":expected": {"N": str(revision)}}


def _item(key: bytes, record: Record) -> Item:
    data, expires, revision, owner = record
    item = {**_key(key), **_times(expires)}
    item["revision"] = {"N": str(revision)}
    # By the random bytes a write whose answer was lost knows that it was done.
    item["write"] = {"B": os.urandom(8)}
    # Without an owner it is not in the index; and not everywhere may bytes be empty.
    return item | {n: {"B": v} for n, v in (("data", data), ("owner", owner)) if v}


def _times(expires: float) -> Item:
    # DynamoDB's numbers have a smaller range than floats.
    within = float(min(max(expires, 1), 10**15))
    return {"expires": {"N": repr(within)}, "ttl": {"N": str(ceil(within))}}
