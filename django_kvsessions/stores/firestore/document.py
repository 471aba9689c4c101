"""One document, and changes of it that are done once or not at all."""

from __future__ import annotations

from collections.abc import Callable

from google.api_core import exceptions
from google.cloud.firestore import Client, DocumentReference

from django_kvsessions.colours import Colour
from django_kvsessions.stores.firestore.client import CHANGED, Documents, Fields, Snapshot
from django_kvsessions.stores.firestore.patience import Limit, LostAnswer, pause
from django_kvsessions.stores.paged import unknown_outcome

__all__ = ["Document"]


class Document:
    """One document, for one call of the store."""

    def __init__(self, documents: Documents, call: Colour, key: bytes) -> None:
        self._documents = documents
        self._call = call
        self._name = key.hex()
        self._limit = Limit(documents.timeout)

    async def get(self) -> Snapshot:
        found: Snapshot = await self._documents.ask(
            self._call,
            self._limit,
            lambda client: self._reference(client).get(**self._limit.arguments()),
        )
        return found

    async def create(self, fields: Fields, is_done: Callable[[Snapshot], bool]) -> bool:
        """``False`` where there is one already."""
        try:
            await self._documents.once(
                self._call,
                lambda client: self._reference(client).create(fields, **self._limit.arguments()),
            )
        except exceptions.AlreadyExists:
            return False
        except LostAnswer as lost:
            # Sent again, it would bring back what another request has ended meanwhile.
            if not is_done(await self.get()):
                raise unknown_outcome() from lost.__cause__
        return True

    async def change(
        self,
        found: Snapshot,
        fields: Fields | None,
        is_done: Callable[[Snapshot], bool] = lambda there: False,
    ) -> bool:
        """Update the document, or delete it (``None``); ``False`` where it has changed since found.

        No two states of a document have one ``update_time``, so it is done once however
        often it is sent. ``is_done``: whether what is there now shows that it was.
        """

        def change(client: Client) -> object:
            option = client.write_option(last_update_time=found.update_time)
            arguments = {"option": option, **self._limit.arguments()}
            if fields is None:
                return self._reference(client).delete(**arguments)
            return self._reference(client).update(fields, **arguments)

        lost: LostAnswer | None = None
        while True:
            try:
                await self._documents.once(self._call, change)
                return True
            except CHANGED:
                if lost is None:
                    await pause(self._call, 0.01)
                    return False
            except LostAnswer as error:
                lost = error
                await pause(self._call, 0.05)
            there = await self.get()
            if is_done(there):
                return True
            if there.exists and there.update_time == found.update_time:
                continue
            if fields is None and there.exists and there.create_time == found.create_time:
                # It was never deleted.
                return False
            raise unknown_outcome() from lost.__cause__

    def _reference(self, client: Client) -> DocumentReference:
        return self._documents.reference(client, self._name)
