"""Sessions in Amazon DynamoDB, for many machines; its TTL does the clean-up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.base import Record, Store, StoreCorrupted, StoreStats, now

__all__ = ["DynamoDBStore"]

# DynamoDB's limit for an item, in bytes, less the attributes beside the data.
LARGEST = 400 * 1024 - 512
LIVE = "#expires > :now"
# A request that is sent again, its answer lost, knows its own write by the random bytes.
OURS = "#write = :write"


class DynamoDBStore(Store):
    """Keeps records in a table of DynamoDB, each one an item of at most 400 KB.

    LOCATION is the name of the table, which ``manage.py setupsessions`` makes,
    billed by request, with a TTL and an index by owner. DynamoDB removes what
    has expired within days; nobody sees it until then.

    Async calls go through threads, because the async client, aiobotocore, works
    with a few releases of botocore only, which would hold back a project's boto3.

    The clocks of the web servers decide what has expired, so keep them in step.
    """

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
        **options: Any,
    ) -> None:
        """``region_name`` and ``endpoint_url``: where boto3's own settings do not say.

        ``consistent=False`` halves the price of a load, which may then bring back what was
        there a moment ago, an ended session too.

        ``timeout``: seconds to wait for a connection, and for an answer. ``attempts``: how
        often a request is sent before the store is unavailable, with growing pauses between.
        ``tags``: for the table that ``setup`` makes.

        ``options``: everything else goes to boto3's client: ``aws_access_key_id``,
        ``aws_secret_access_key``, ``aws_session_token``, ``verify``, ``config`` ...
        """
        super().__init__(max_record_size=max_record_size)
        try:
            from django_kvsessions.stores import dynamodb_client, dynamodb_table
        except ImportError as error:
            raise ImproperlyConfigured(
                "DynamoDBStore needs boto3: pip install django-kvsessions[dynamodb]"
            ) from error
        if max_record_size > LARGEST:
            limit = f"at most {LARGEST}: DynamoDB takes no item over 400 KB"
            raise ImproperlyConfigured(f"OPTIONS['max_record_size'] must be {limit}.")
        options |= {"region_name": region_name, "endpoint_url": endpoint_url}
        self._table = dynamodb_client.Table(location, timeout, attempts, options)
        self._make, self._missing = dynamodb_table.make, dynamodb_table.missing
        self._tags = tags or {}
        self._consistent = consistent

    def check_record(self, key: bytes, record: Record) -> None:
        if len(record.data) > LARGEST:
            limit = f"{LARGEST} bytes, DynamoDB's 400 KB an item less the other attributes"
            raise ValueError(f"A record of {len(record.data)} bytes is over {limit}.")
        super().check_record(key, record)

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        answer = self._table.ask("get_item", Key=_key(key), ConsistentRead=self._consistent)
        return self._record(answer["Item"]) if "Item" in answer else None

    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        absent = f"attribute_not_exists(#key) OR #expires <= :now OR {OURS}"
        return self._change("put_item", absent, {}, Item=_item(key, record))

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        condition, values = LIVE, {}
        if expected is not None:
            condition += " AND #revision = :expected"
            values[":expected"] = {"N": str(expected)}
        condition = f"({condition}) OR {OURS}"
        return self._change("put_item", condition, values, Item=_item(key, record))

    def touch(self, key: bytes, expires: float) -> bool:
        self.check_touch(key, expires)
        update = "SET #expires = :expires, #ttl = :ttl"
        values = {f":{name}": value for name, value in _times(expires).items()}
        return self._change("update_item", LIVE, values, Key=_key(key), UpdateExpression=update)

    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        return self._change("delete_item", LIVE, {}, Key=_key(key))

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        """DynamoDB removes them at no cost, where reading through the table has one."""
        self._table.description()
        yield from ()

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        for items in self._table.pages("scan", ConsistentRead=self._consistent):
            yield from self._live(items)

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        """A session that has just begun may be missing: the index is a moment late."""
        self.check_owner(owner)
        pages = self._table.owned(owner, self._consistent)
        return (each for page in pages for each in self._live(page) if each[1].owner == owner)

    def setup(self) -> None:
        self._make(self._table, self._tags)

    def setup_statements(self) -> list[str]:
        return self._missing(self._table)

    def stats(self) -> StoreStats:
        """``size`` is from up to six hours ago, and only where there is one."""
        return StoreStats(None, None, self._table.description()["TableSizeBytes"] or None)

    def close(self) -> None:
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

    def _change(self, operation: str, condition: str, values: Any, **parameters: Any) -> bool:
        """Whether the condition held."""
        values = {**values, ":now": {"N": repr(now())}}
        if OURS in condition:
            values[":write"] = parameters["Item"]["write"]
        text = condition + parameters.get("UpdateExpression", "")
        return self._table.change(
            operation,
            ConditionExpression=condition,
            ExpressionAttributeNames={f"#{name}": name for name in re.findall(r"#(\w+)", text)},
            ExpressionAttributeValues=values,
            **parameters,
        )

    def _live(self, items: list[dict[str, Any]]) -> Iterator[tuple[bytes, Record]]:
        for item in items:
            if (record := self._record(item)) is not None:
                yield item["key"]["B"], record

    def _record(self, item: dict[str, Any]) -> Record | None:
        try:
            data, owner = (item[name]["B"] if name in item else b"" for name in ("data", "owner"))
            expires, revision = float(item["expires"]["N"]), int(item["revision"]["N"])
        except (KeyError, ValueError) as error:
            raise StoreCorrupted(
                f"{self._table.where} has an item that is no session: is the table shared?"
            ) from error
        return Record(data, expires, revision, owner) if expires > now() else None


def _key(key: bytes) -> dict[str, Any]:
    return {"key": {"B": key}}


def _item(key: bytes, record: Record) -> dict[str, Any]:
    data, expires, revision, owner = record
    item = {**_key(key), **_times(expires), "revision": {"N": str(revision)}}
    item["write"] = {"B": os.urandom(8)}
    # Without an owner it is not in the index; and not everywhere may bytes be empty.
    return item | {n: {"B": v} for n, v in (("data", data), ("owner", owner)) if v}


def _times(expires: float) -> dict[str, Any]:
    # DynamoDB's numbers have a smaller range than floats.
    within = float(min(max(expires, 1), 10**15))
    return {"expires": {"N": repr(within)}, "ttl": {"N": str(ceil(within))}}
