"""How FirestoreStore calls Google's clients, in both colours, and what their errors mean."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore import AsyncClient, Client, FieldFilter

from django_kvsessions.steps import Steps, clock
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.process.clients import Clients

__all__ = ["Documents", "FieldFilter"]

# How often a call is made while Firestore does not answer at all.
ATTEMPTS = 3

# A document is no longer as it was read.
CHANGED = (exceptions.FailedPrecondition, exceptions.NotFound, exceptions.Aborted)
# All that Google's code raises: ValueError and OSError are about credentials.
FAILURES = (exceptions.GoogleAPIError, GoogleAuthError, OSError, ValueError)


class Documents:
    """The documents of a collection, each under a key in hexadecimal."""

    def __init__(
        self,
        collection: str,
        project: str | None,
        database: str,
        credentials: str | os.PathLike[str] | None,
        timeout: float,
    ) -> None:
        self._collection = collection
        self._options: dict[str, Any] = {"project": project, "database": database}
        self._key_file = credentials
        # Left alone, the driver would try again by itself for a minute.
        self._limits: dict[str, Any] = {"timeout": timeout, "retry": None}
        self._clients = Clients(
            lambda: _Open(Client(**self._arguments())),
            lambda: _AsyncOpen(AsyncClient(**self._arguments())),
        )

    def _arguments(self) -> dict[str, Any]:
        if self._key_file is None:
            return self._options
        from google.oauth2 import service_account

        path = os.fspath(self._key_file)
        read: Any = service_account.Credentials.from_service_account_file
        credentials = read(path)
        project = self._options["project"] or credentials.project_id
        return {**self._options, "credentials": credentials, "project": project}

    def get(self, key: bytes) -> Steps[Any]:
        return self.ask("call", lambda c: self._document(c, key).get(**self._limits))

    def create(self, key: bytes, fields: dict[str, Any]) -> Steps[bool]:
        """``False`` where there is one already."""
        try:
            yield from self.ask(
                "call", lambda c: self._document(c, key).create(fields, **self._limits)
            )
        except exceptions.AlreadyExists:
            return False
        return True

    def change(self, key: bytes, found: Any, fields: dict[str, Any] | None) -> Steps[bool]:
        """Update the document, or delete it (``None``), if it still is as it was found."""

        def change(client: Any) -> Any:
            document = self._document(client, key)
            option = client.write_option(last_update_time=found.update_time)
            if fields is None:
                return document.delete(option=option, **self._limits)
            return document.update(fields, option=option, **self._limits)

        try:
            yield from self.ask("call", change)
        except CHANGED:
            yield clock, "sleep", (random.uniform(0, 0.01),), {}
            return False
        return True

    def remove(self, found: Sequence[Any]) -> Steps[bool]:
        """Delete all, if each still is as it was found, or none."""

        def remove(client: Any) -> Any:
            batch = client.batch()
            for each in found:
                option = client.write_option(last_update_time=each.update_time)
                batch.delete(client.collection(self._collection).document(each.id), option=option)
            return batch.commit(**self._limits)

        try:
            yield from self.ask("call", remove)
        except CHANGED:
            return False
        return True

    def query(self, query: Callable[[Any], Any]) -> Steps[list[Any]]:
        """What the query finds that is made of the collection."""
        return self.ask("call", lambda c: query(c.collection(self._collection)).get(**self._limits))

    def _document(self, client: Any, key: bytes) -> Any:
        return client.collection(self._collection).document(key.hex())

    def ask(self, method: str, *arguments: Any) -> Steps[Any]:
        for attempt in range(ATTEMPTS):
            try:
                return (yield self, method, arguments, {})
            except (exceptions.AlreadyExists, *CHANGED) as error:
                if method == "call" and not _lacks_database(error):
                    raise
                raise self._failure(error) from error
            except FAILURES as error:
                lost = isinstance(error, exceptions.ServiceUnavailable)
                if not lost or attempt == ATTEMPTS - 1:
                    raise self._failure(error) from error
            yield clock, "sleep", (random.uniform(0.05, 0.1) * 2**attempt,), {}
        raise AssertionError("unreachable")

    def call(self, function: Callable[[Any], Any]) -> Any:
        return function(self._clients.get().client)

    async def acall(self, function: Callable[[Any], Any]) -> Any:
        return await function((await self._clients.aget()).client)

    def prepare(self) -> None:
        client = self._clients.get().client
        # It answers or it fails; an emulator has nothing to be prepared.
        client.collection(self._collection).limit(1).get(**self._limits)
        if not os.environ.get("FIRESTORE_EMULATOR_HOST"):
            from django_kvsessions.stores.firestore.fields import prepare

            where = f"projects/{client.project}/databases/{self._options['database']}"
            collection = f"{where}/collectionGroups/{self._collection}"
            prepare(collection, self._arguments().get("credentials"), self._limits)

    async def aprepare(self) -> None:
        await asyncio.to_thread(self.prepare)

    def close(self) -> None:
        self._clients.close()

    async def aclose(self) -> None:
        await self._clients.aclose()

    def _failure(self, error: Exception) -> StoreUnavailable:
        database, project = self._options["database"], self._options["project"]
        where = (
            f"Firestore's collection {self._collection!r} (LOCATION), in the database "
            f"{database!r} of project {project or 'by default'!r},"
        )
        text = str(error) or type(error).__name__
        if isinstance(error, exceptions.NotFound):
            return StoreUnavailable(
                f"{where} has no such database (OPTIONS['project'] and OPTIONS['database']): {text}"
            )
        denied = (GoogleAuthError, exceptions.Forbidden, exceptions.Unauthorized)
        if isinstance(error, (*denied, OSError, ValueError)):
            return StoreUnavailable(
                f"{where} cannot be used with these credentials (OPTIONS['credentials'] or the "
                f"environment's GOOGLE_APPLICATION_CREDENTIALS): {text}"
            )
        return StoreUnavailable(f"{where} does not answer: {text}")


def _lacks_database(error: Exception) -> bool:
    """Whether what was not found is the whole database, not a document."""
    return isinstance(error, exceptions.NotFound) and "database" in str(error)


class _Open:
    def __init__(self, client: Any) -> None:
        self.client = client

    def close(self) -> None:
        # The public client has no way to be closed.
        self.client._firestore_api.transport.close()


class _AsyncOpen(_Open):
    async def close(self) -> None:  # type: ignore[override]
        await self.client._firestore_api.transport.close()
