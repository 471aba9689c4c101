"""How DynamoDBStore talks to its table."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, TypeVar

import boto3.session
from botocore import exceptions

from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.dynamodb.attempts import (
    Attempts,
    is_lost,
    one_time_limit,
    refuse_cut_answers,
)
from django_kvsessions.stores.dynamodb.settings import client_options, table_name
from django_kvsessions.stores.paged import unknown_outcome
from django_kvsessions.stores.process.clients import Clients

__all__ = ["INDEX", "Client", "Item", "Table"]

T = TypeVar("T")

#: boto3 makes its clients' methods from descriptions, without types.
Client: TypeAlias = Any
#: Attributes, each as {type: value}.
Item: TypeAlias = Mapping[str, Mapping[str, Any]]

INDEX = "owner"
# Keys that BatchGetItem takes at once.
BATCH = 100
DENIED = re.compile("Signature|Token|UnrecognizedClient|Credential|AuthFailure|InvalidAccessKey")
NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
)
FAILURES = (exceptions.BotoCoreError, exceptions.ClientError, ValueError, TimeoutError)


class LostAnswer(Exception):
    """A write may have been done, or not."""


class Table:
    """One table, by a client for the threads of each process."""

    def __init__(
        self, location: object, timeout: float, attempts: int, options: Mapping[str, object]
    ) -> None:
        self.name = table_name(location)
        arguments = client_options(options, timeout / attempts)
        self.where = f"DynamoDB's table {self.name!r} (LOCATION) in {arguments['region_name']}"
        self.timeout = timeout
        self.attempts = attempts

        def make() -> Client:
            client = boto3.session.Session().client("dynamodb", **arguments)
            refuse_cut_answers(client)
            return client

        self.clients = Clients(make, make)

    def close(self) -> None:
        self.clients.close()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """The client; what it raises becomes ``StoreUnavailable``."""
        try:
            yield self.clients.get()
        except FAILURES as error:
            raise StoreUnavailable(f"{self.where}: {explanation(error)}") from error

    def ask(self, question: Callable[[Client], T]) -> T:
        """What it answers. Asked again where that may help: for what may be done twice."""
        with self.client() as client:
            attempts = Attempts(self.attempts, self.timeout)
            while True:
                try:
                    return question(client)
                except FAILURES as error:
                    attempts.next(error)

    def write(
        self,
        change: Callable[[Client], object],
        *,
        repeatable: bool,
        proof: Callable[[], bool] | None,
    ) -> bool:
        """Whether the condition held under which ``change`` is made.

        ``repeatable``: done once, its condition no longer holds. Only that is sent again
        after a lost answer. ``proof``: whether what is there now shows that it was done.
        """
        with one_time_limit():
            try:
                return self._write(change, repeatable)
            except LostAnswer as lost:
                if proof is not None and proof():
                    return True
                raise unknown_outcome() from lost.__cause__

    def _write(self, change: Callable[[Client], object], repeatable: bool) -> bool:
        lost: Exception | None = None
        with self.client() as client:
            attempts = Attempts(self.attempts, self.timeout)
            while True:
                try:
                    change(client)
                    return True
                except client.exceptions.ConditionalCheckFailedException:
                    if lost is None:
                        return False
                    # It may be true no longer because of what was done the first time.
                    raise LostAnswer from lost
                except FAILURES as error:
                    if is_lost(error):
                        lost = error
                        if not repeatable:
                            raise LostAnswer from lost
                    attempts.next(error)

    def get(self, key: Item, consistent: bool) -> Item | None:
        answer = self.ask(
            lambda client: client.get_item(TableName=self.name, Key=key, ConsistentRead=consistent)
        )
        item: Item | None = answer.get("Item")
        return item

    def scan(self, consistent: bool) -> Iterator[list[Item]]:
        return self.pages(
            lambda client, start: client.scan(
                TableName=self.name, ConsistentRead=consistent, **start
            )
        )

    def owned(self, owner: bytes, consistent: bool) -> Iterator[list[Item]]:
        """The items that the index has under an owner; it is a moment late."""
        for found in self.pages(
            lambda client, start: client.query(
                TableName=self.name,
                IndexName=INDEX,
                KeyConditionExpression="#owner = :owner",
                ExpressionAttributeNames={"#owner": "owner"},
                ExpressionAttributeValues={":owner": {"B": owner}},
                **start,
            )
        ):
            for at in range(0, len(found), BATCH):
                keys: list[Item] = [{"key": each["key"]} for each in found[at : at + BATCH]]
                yield from self.items(keys, consistent)

    def pages(self, page: Callable[..., Any]) -> Iterator[list[Item]]:
        start: dict[str, Item] = {}
        while True:
            answer = self.ask(partial(page, start=start))
            yield answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def items(self, keys: list[Item], consistent: bool) -> Iterator[list[Item]]:
        """The items of up to ``BATCH`` keys, as far as they are there."""
        wanted: object = {self.name: {"Keys": keys, "ConsistentRead": consistent}}
        without = 0
        while wanted:
            answer = self.ask(partial(get_batch, wanted=wanted))
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
        return self.ask(lambda client: client.describe_table(TableName=self.name))["Table"]


def get_batch(client: Client, *, wanted: object) -> Any:
    return client.batch_get_item(RequestItems=wanted)


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
