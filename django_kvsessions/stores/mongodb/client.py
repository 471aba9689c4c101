"""How MongoDBStore talks to its collection, in both colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import pymongo
import pymongo.collection
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from django.core.exceptions import ImproperlyConfigured
from pymongo import errors
from pymongo.errors import DuplicateKeyError

from django_kvsessions.colours import Colour
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.process.clients import Clients

__all__ = ["Collection", "DatetimeMS", "DuplicateKeyError"]

T = TypeVar("T")
Document: TypeAlias = dict[str, Any]
Documents: TypeAlias = pymongo.collection.Collection[Document]

# Milliseconds; the first is the limit for a whole call, with what pymongo sends again.
TIMEOUTS = {"timeoutMS": 3000, "serverSelectionTimeoutMS": 3000, "connectTimeoutMS": 3000}
# Unauthorized, AuthenticationFailed; Atlas has a code of its own.
DENIED = (13, 18, 8000)
# Seconds that the server may take to make an index: it would stop with a shorter limit.
SETUP = 600


class Collection:
    """One collection, by a client for each process and one for each event loop."""

    def __init__(
        self, location: str | None, database: str | None, collection: str, options: dict[str, Any]
    ) -> None:
        if not isinstance(location, str) or not location:
            raise ImproperlyConfigured(
                "LOCATION must be a URL, such as mongodb://127.0.0.1:27017/sessions."
            )
        options = with_timeouts(location, options)
        try:
            pymongo.MongoClient[Document](location, connect=False)
        except (errors.PyMongoError, ValueError):
            # from None: pymongo's own error may repeat parts of the password.
            raise ImproperlyConfigured(
                f"LOCATION has {hidden(location)!r}, which pymongo does not take: write "
                "mongodb://user:password@host:27017/database?option=value, and percent-encode "
                "what is special in the password."
            ) from None
        try:
            client = pymongo.MongoClient[Document](location, connect=False, **options)
        except (errors.PyMongoError, ValueError, TypeError) as error:
            raise ImproperlyConfigured(f"OPTIONS: pymongo does not take it: {error}") from error
        if not client.write_concern.acknowledged:
            raise ImproperlyConfigured(
                "LOCATION or OPTIONS['w'] asks for writes that nobody acknowledges (w=0): the "
                "store has to know their outcome."
            )
        try:
            named = client.get_default_database() if database is None else client[database]
            named.get_collection(collection)
        except (errors.PyMongoError, TypeError) as error:
            raise ImproperlyConfigured(
                "Name the database at the end of LOCATION or as OPTIONS['database'], and the "
                f"collection as OPTIONS['collection']: {error}."
            ) from error
        self.database, self.name = named.name, collection
        hosts = re.sub(r"^.*//(\*\*\*@)?|[/?].*$", "", hidden(location))
        self.where = f"MongoDB's collection {collection!r} at {hosts} (LOCATION)"
        self.settings: dict[str, Any] = {
            "codec_options": CodecOptions[Document](
                datetime_conversion=DatetimeConversion.DATETIME_MS
            ),
            "read_preference": pymongo.ReadPreference.PRIMARY,
        }
        if not client.write_concern.document:
            self.settings["write_concern"] = pymongo.WriteConcern(w="majority", j=True)
        self.clients = Clients(
            lambda: pymongo.MongoClient(location, **options),
            lambda: pymongo.AsyncMongoClient(location, **options),
        )

    async def ask(self, call: Colour, question: Callable[[Documents], T]) -> T:
        """What the collection answers. A key that is taken raises ``DuplicateKeyError``.

        pymongo sends a write again by itself where the server knows it by its number and
        carries it out once; elsewhere a lost answer is ``StoreUnavailable``.
        """
        try:
            return await call(self._ask, self._aask, question)
        except DuplicateKeyError:
            raise
        except errors.PyMongoError as error:
            # Further on it lists every server, or repeats the answer.
            text = re.split(r", Timeout:|, full error:| \(configured", str(error))[0]
            if getattr(error, "code", None) in DENIED:
                text = f"refuses the username or password (in LOCATION or OPTIONS): {text}"
            else:
                text = f"does not answer or fails: {text}"
            raise StoreUnavailable(f"{self.where} {text}") from error

    async def prepare(self, call: Colour, question: Callable[[Documents], T]) -> T:
        """As ``ask``, of what may take minutes."""
        with pymongo.timeout(SETUP):
            return await self.ask(call, question)

    def _ask(self, question: Callable[[Documents], T]) -> T:
        database = self.clients.get()[self.database]
        return question(database.get_collection(self.name, **self.settings))

    async def _aask(self, question: Callable[[Documents], T]) -> T:
        database = (await self.clients.aget())[self.database]
        # It has the same methods, which are to be awaited.
        ask: Any = question
        found: T = await ask(database.get_collection(self.name, **self.settings))
        return found

    def close(self) -> None:
        self.clients.close()

    async def aclose(self) -> None:
        await self.clients.aclose()


def with_timeouts(location: str, options: dict[str, Any]) -> dict[str, Any]:
    named = {name.lower() for name in [*re.findall(r"[?&]([^=&]+)=", location), *options]}
    timeouts = {name: value for name, value in TIMEOUTS.items() if name.lower() not in named}
    if "sockettimeoutms" in named:
        # pymongo would not look at it beside the other.
        timeouts.pop("timeoutMS", None)
    return {**timeouts, **options}


def hidden(url: str) -> str:
    """The URL without what may be secret: all before the last @, and the options."""
    return re.sub(r"//.*@", "//***@", url, flags=re.DOTALL).partition("?")[0]
