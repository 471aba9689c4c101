"""What DynamoDBStore's table has to have, and how it is made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from botocore.exceptions import ClientError
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.dynamodb.client import INDEX, Client, Table

__all__ = ["make", "missing"]

#: What DynamoDB says of a table.
Description: TypeAlias = Mapping[str, Any]

# Seconds that DynamoDB may take to make a table.
CREATION = 120

DEFINITION: dict[str, Any] = {
    "AttributeDefinitions": [
        {"AttributeName": "key", "AttributeType": "B"},
        {"AttributeName": "owner", "AttributeType": "B"},
    ],
    "KeySchema": [{"AttributeName": "key", "KeyType": "HASH"}],
    "BillingMode": "PAY_PER_REQUEST",
}
BY_OWNER = {
    "IndexName": INDEX,
    "KeySchema": [{"AttributeName": "owner", "KeyType": "HASH"}],
    "Projection": {"ProjectionType": "KEYS_ONLY"},
}


def missing(table: Table) -> list[str]:
    """What ``make`` would do."""
    name = table.name
    found = table.ask(partial(describe, name=name))
    if found is None:
        return [f"create the table {name}", f"create its index {INDEX}", "enable its TTL"]
    wanted = [] if has_index(found) else [f"create its index {INDEX}"]
    return wanted if table.ask(partial(has_ttl, name=name)) else [*wanted, "enable its TTL"]


def make(table: Table, tags: Mapping[str, str]) -> None:
    """Make the table, its index and its TTL, as far as they are missing; wait until it is there."""
    name = table.name
    found = table.ask(partial(describe, name=name))
    if found is None:
        table.ask(partial(create, name=name, tags=tags))
    elif found["KeySchema"] != DEFINITION["KeySchema"]:
        raise ImproperlyConfigured(
            f"{table.where} is there already with another key: name another table."
        )
    if not has_index(wait(table)):
        table.ask(partial(add_index, name=name))
        wait(table)
    if not table.ask(partial(has_ttl, name=name)):
        table.ask(partial(enable_ttl, name=name))


def wait(table: Table) -> Description:
    """The description of the table, once it may be used."""
    until = time.monotonic() + CREATION
    while True:
        found = table.ask(partial(describe, name=table.name))
        if found is not None and found["TableStatus"] == "ACTIVE":
            return found
        if time.monotonic() > until:
            raise StoreUnavailable(f"{table.where} could not be used after {CREATION} seconds.")
        time.sleep(1)


def create(client: Client, *, name: str, tags: Mapping[str, str]) -> None:
    options = {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
    # Where another process was faster, its table will do.
    with suppress(client.exceptions.ResourceInUseException):
        client.create_table(
            TableName=name,
            GlobalSecondaryIndexes=[BY_OWNER],
            **DEFINITION,
            **(options if tags else {}),
        )


def add_index(client: Client, *, name: str) -> None:
    client.update_table(
        TableName=name,
        AttributeDefinitions=DEFINITION["AttributeDefinitions"],
        GlobalSecondaryIndexUpdates=[{"Create": BY_OWNER}],
    )


def enable_ttl(client: Client, *, name: str) -> None:
    specification = {"AttributeName": "ttl", "Enabled": True}
    try:
        client.update_time_to_live(TableName=name, TimeToLiveSpecification=specification)
    except ClientError as error:
        # Not everything that speaks DynamoDB's protocol has it; the checks say so.
        if error.response["Error"]["Code"] != "UnknownOperationException":
            raise


def describe(client: Client, *, name: str) -> Description | None:
    """``None`` where there is no such table."""
    try:
        description: Description = client.describe_table(TableName=name)["Table"]
    except client.exceptions.ResourceNotFoundException:
        return None
    return description


def has_index(description: Description) -> bool:
    indexes = description.get("GlobalSecondaryIndexes", ())
    return any(index["IndexName"] == INDEX for index in indexes)


def has_ttl(client: Client, *, name: str) -> bool:
    description = client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    return description["TimeToLiveStatus"] in ("ENABLED", "ENABLING")
