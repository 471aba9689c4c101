"""What DynamoDBStore's table has to have, and how it is made."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.dynamodb.client import INDEX, Table

__all__ = ["make", "missing"]

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
    with table.client() as client:
        found = describe(client, table.name)
        if found is None:
            return [f"create the table {table.name}", f"create its index {INDEX}", "enable its TTL"]
        wanted = [] if has_index(found) else [f"create its index {INDEX}"]
        return wanted if has_ttl(client, table.name) else [*wanted, "enable its TTL"]


def make(table: Table, tags: Mapping[str, str]) -> None:
    """Make the table, its index and its TTL, as far as they are missing; wait until it is there."""
    name = table.name
    with table.client() as client:
        found = describe(client, name)
        if found is None:
            create(client, name, tags)
        elif found["KeySchema"] != DEFINITION["KeySchema"]:
            raise ImproperlyConfigured(
                f"{table.where} is there already with another key: name another table."
            )
        wait(client, name)
        if not has_index(describe(client, name)):
            client.update_table(
                TableName=name,
                AttributeDefinitions=DEFINITION["AttributeDefinitions"],
                GlobalSecondaryIndexUpdates=[{"Create": BY_OWNER}],
            )
            wait(client, name)
        if not has_ttl(client, name):
            enable_ttl(client, name)


def create(client: Any, name: str, tags: Mapping[str, str]) -> None:
    options = {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
    # Where another process was faster, its table will do.
    with suppress(client.exceptions.ResourceInUseException):
        client.create_table(
            TableName=name,
            GlobalSecondaryIndexes=[BY_OWNER],
            **DEFINITION,
            **(options if tags else {}),
        )


def wait(client: Any, name: str) -> None:
    waiter = client.get_waiter("table_exists")
    waiter.wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})


def enable_ttl(client: Any, name: str) -> None:
    specification = {"AttributeName": "ttl", "Enabled": True}
    try:
        client.update_time_to_live(TableName=name, TimeToLiveSpecification=specification)
    except ClientError as error:
        # Not everything that speaks DynamoDB's protocol has it; the checks say so.
        if error.response["Error"]["Code"] != "UnknownOperationException":
            raise


def describe(client: Any, name: str) -> Any:
    """``None`` where there is no such table."""
    try:
        return client.describe_table(TableName=name)["Table"]
    except client.exceptions.ResourceNotFoundException:
        return None


def has_index(description: Any) -> bool:
    indexes = description.get("GlobalSecondaryIndexes", ())
    return any(index["IndexName"] == INDEX for index in indexes)


def has_ttl(client: Any, name: str) -> bool:
    description = client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    return description["TimeToLiveStatus"] in ("ENABLED", "ENABLING")
