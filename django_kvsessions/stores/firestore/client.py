"""How FirestoreStore calls Google's clients, in both colours, and what their errors mean."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeAlias, TypeVar

from google.api_core import exceptions
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError
from google.cloud import firestore
from google.cloud.firestore import AsyncClient, Client, FieldFilter

from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.firestore.patience import Limit, Limits, LostAnswer, pause
from django_kvsessions.stores.process.clients import Clients

__all__ = ["CHANGED", "Documents", "FieldFilter", "Fields", "Query", "Snapshot"]

# How often it is read while Firestore does not answer at all.
ATTEMPTS = 3

T = TypeVar("T")
Snapshot: TypeAlias = "firestore.DocumentSnapshot[firestore.DocumentReference]"
#: Of a document, by their names.
Fields: TypeAlias = dict[str, Any]
#: Of either colour: an async one has the same methods.
Query: TypeAlias = Any

# A document is no longer as it was read.
CHANGED = (exceptions.FailedPrecondition, exceptions.NotFound, exceptions.Aborted)
# The answer did not come, or Firestore does not know itself whether it was done.
LOST = (exceptions.ServerError, exceptions.Cancelled)
NEVER = Retry(predicate=lambda error: False)
# All that Google's code raises: ValueError and OSError are about credentials.
FAILURES: tuple[type[Exception], ...] = (
    exceptions.GoogleAPIError,
    GoogleAuthError,
    OSError,
    ValueError,
)


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
        self.timeout = timeout
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

    async def query(self, call: Colour, query: Callable[[Query], Query]) -> list[Any]:
        """What the query finds that is made of the collection."""
        limit = Limit(self.timeout)

        def get(client: Client) -> list[Any]:
            made = query(client.collection(self._collection))
            found: list[Any] = made.get(**for_queries(client, limit.arguments()))
            return found

        return await self.ask(call, limit, get)

    async def remove(self, call: Colour, found: Sequence[Snapshot]) -> bool:
        """Delete all, if each still is as it was found, or none."""
        limit = Limit(self.timeout)

        def remove(client: Client) -> object:
            batch = client.batch()
            for each in found:
                option = client.write_option(last_update_time=each.update_time)
                batch.delete(client.collection(self._collection).document(each.id), option=option)
            return batch.commit(**limit.arguments())

        try:
            await self.once(call, remove)
        except CHANGED:
            return False
        except LostAnswer as lost:
            raise lost.failure from lost.__cause__
        return True

    async def ask(self, call: Colour, limit: Limit, question: Callable[[Client], T]) -> T:
        """What it answers. Asked again while there is time: for what only reads."""
        for attempt in count(1):
            try:
                return await self.once(call, question)
            except CHANGED as error:
                raise self.failure(error) from error
            except LostAnswer as lost:
                if attempt == ATTEMPTS or limit.is_over():
                    raise lost.failure from lost.__cause__
            await pause(call, 0.05 * 2**attempt)
        raise AssertionError("unreachable")

    async def once(self, call: Colour, question: Callable[[Client], T]) -> T:
        """What it answers when asked once; ``LostAnswer`` where it may have been carried out."""
        try:
            return await call(self._once, self._aonce, question)
        except (exceptions.AlreadyExists, *CHANGED) as error:
            if not _lacks_database(error):
                raise
            raise self.failure(error) from error
        except LOST as error:
            raise LostAnswer(self.failure(error)) from error
        except FAILURES as error:
            raise self.failure(error) from error

    def _once(self, question: Callable[[Client], T]) -> T:
        return question(self._clients.get().client)

    async def _aonce(self, question: Callable[[Client], T]) -> T:
        # It has the same methods, which are to be awaited.
        ask: Any = question
        found: T = await ask((await self._clients.aget()).client)
        return found

    def reference(self, client: Client, name: str) -> firestore.DocumentReference:
        return client.collection(self._collection).document(name)

    async def setup(self, call: Colour) -> None:
        try:
            await call(self.prepare, self.aprepare)
        except FAILURES as error:
            raise self.failure(error) from error

    def prepare(self) -> None:
        client = self._clients.get().client
        # It answers or it fails; an emulator has nothing to be prepared.
        limits = Limit(self.timeout).arguments()
        query = client.collection(self._collection).limit(1)
        query.get(**for_queries(client, limits))
        if not os.environ.get("FIRESTORE_EMULATOR_HOST"):
            from django_kvsessions.stores.firestore.fields import prepare

            where = f"projects/{client.project}/databases/{self._options['database']}"
            collection = f"{where}/collectionGroups/{self._collection}"
            prepare(collection, self._arguments().get("credentials"), limits)

    async def aprepare(self) -> None:
        await asyncio.to_thread(self.prepare)

    def close(self) -> None:
        self._clients.close()

    async def aclose(self) -> None:
        await self._clients.aclose()

    def failure(self, error: Exception) -> StoreUnavailable:
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


def for_queries(client: Client, arguments: Limits) -> Limits:
    """The sync client asks ``retry`` of a query about each error, and fails where it is None."""
    return {**arguments, "retry": NEVER} if isinstance(client, Client) else arguments


def _lacks_database(error: Exception) -> bool:
    """Whether what was not found is the whole database, not a document."""
    return isinstance(error, exceptions.NotFound) and "database" in str(error)


class _Open:
    def __init__(self, client: Client) -> None:
        self.client = client

    def close(self) -> None:
        # The public client has no way to be closed.
        self.client._firestore_api.transport.close()


class _AsyncOpen:
    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def close(self) -> None:
        await self.client._firestore_api.transport.close()
