"""How DynamoDBStore talks to its table."""

from __future__ import annotations

import inspect
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3.session
from botocore import exceptions
from botocore.config import Config
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.process.clients import Clients

__all__ = ["Table"]

INDEX = "owner"
# Keys that BatchGetItem takes at once.
BATCH = 100
DENIED = re.compile("Signature|Token|UnrecognizedClient|Credential|AuthFailure|InvalidAccessKey")
NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
)


class Table:
    """One table, by a client for the threads of each process."""

    def __init__(
        self,
        name: str | None,
        timeout: float,
        attempts: int,
        options: dict[str, Any],
    ) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{3,255}", name, re.ASCII):
            raise ImproperlyConfigured(
                "LOCATION must be the name of a table: 3 to 255 letters, digits, '_', '-' or "
                f"'.', not {name!r}."
            )
        for option, value in (("timeout", timeout), ("attempts", attempts)):
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ImproperlyConfigured(f"OPTIONS[{option!r}] must be over 0, not {value!r}.")
        known = inspect.signature(boto3.session.Session.client).parameters
        unknown = ", ".join(sorted(option for option in options if option not in known))
        if unknown:
            raise ImproperlyConfigured(f"OPTIONS has what boto3's client does not take: {unknown}.")
        region = options["region_name"] or boto3.session.Session().region_name
        if not region:
            raise ImproperlyConfigured("OPTIONS['region_name'] is missing, such as eu-west-1.")
        config = Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"mode": "standard", "total_max_attempts": int(attempts)},
            max_pool_connections=100,
        ).merge(options.pop("config", None) or Config())

        def make() -> Any:
            session = boto3.session.Session()
            return session.client("dynamodb", **{**options, "region_name": region}, config=config)

        self.name = name
        self.where = f"DynamoDB's table {name!r} (LOCATION) in {region}"
        self.attempts = attempts
        self.clients = Clients(make, make)

    @contextmanager
    def client(self) -> Iterator[Any]:
        """The client; what it raises becomes ``StoreUnavailable``."""
        try:
            yield self.clients.get()
        except (exceptions.BotoCoreError, exceptions.ClientError, ValueError) as error:
            raise StoreUnavailable(f"{self.where}: {explanation(error)}") from error

    def close(self) -> None:
        self.clients.close()

    def ask(self, operation: str, **parameters: Any) -> Any:
        with self.client() as client:
            return getattr(client, operation)(TableName=self.name, **parameters)

    def change(self, operation: str, **parameters: Any) -> bool:
        """Whether the condition held."""
        with self.client() as client:
            try:
                getattr(client, operation)(TableName=self.name, **parameters)
            except client.exceptions.ConditionalCheckFailedException:
                return False
            return True

    def pages(self, operation: str, **parameters: Any) -> Iterator[list[dict[str, Any]]]:
        with self.client() as client:
            paginator = client.get_paginator(operation)
            for page in paginator.paginate(TableName=self.name, **parameters):
                yield page["Items"]

    def owned(self, owner: bytes, consistent: bool) -> Iterator[list[dict[str, Any]]]:
        """The items that the index has under an owner; it is a moment late."""
        for keys in self.pages(
            "query",
            IndexName=INDEX,
            KeyConditionExpression="#owner = :owner",
            ExpressionAttributeNames={"#owner": "owner"},
            ExpressionAttributeValues={":owner": {"B": owner}},
        ):
            for at in range(0, len(keys), BATCH):
                batch = [{"key": each["key"]} for each in keys[at : at + BATCH]]
                yield from self.items(batch, consistent)

    def items(self, keys: list[Any], consistent: bool) -> Iterator[list[dict[str, Any]]]:
        """The items of up to ``BATCH`` keys, as far as they are there."""
        wanted = {self.name: {"Keys": keys, "ConsistentRead": consistent}}
        without = 0
        while wanted:
            with self.client() as client:
                answer = client.batch_get_item(RequestItems=wanted)
            items, wanted = answer["Responses"].get(self.name, []), answer["UnprocessedKeys"]
            yield items
            # Some of an answer's items come later where they are large, all where it is busy.
            without = 0 if items else without + 1
            if wanted and without:
                if without >= self.attempts:
                    raise StoreUnavailable(
                        f"{self.where} left keys unprocessed, {without} times one after the other."
                    )
                time.sleep(random.uniform(0, 0.1 * 2**without))

    def description(self) -> Any:
        return self.ask("describe_table")["Table"]


def explanation(error: Exception) -> str:
    if isinstance(error, NO_CREDENTIALS):
        return (
            "there are no credentials: set OPTIONS['aws_access_key_id'] and "
            "['aws_secret_access_key'], or whatever else boto3 takes them from."
        )
    if not isinstance(error, exceptions.ClientError):
        return re.sub(r"//[^/\s]*@", "//***@", str(error))
    code = error.response.get("Error", {}).get("Code", "")
    if DENIED.search(code):
        # Its text may repeat the request, with a token in its headers.
        return f"the credentials are refused ({code})."
    if code == "ResourceNotFoundException":
        return (
            "it, or its index, is not there: run manage.py setupsessions, or check LOCATION and "
            "OPTIONS['region_name']."
        )
    return str(error)
