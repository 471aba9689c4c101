"""How MongoDBStore talks to its collection, in both colours."""

from __future__ import annotations

import re
from typing import Any

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from django.core.exceptions import ImproperlyConfigured
from pymongo import errors
from pymongo.errors import DuplicateKeyError

from django_kvsessions.steps import Steps
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.process.clients import Clients

__all__ = ["Collection", "DatetimeMS", "DuplicateKeyError"]

# Milliseconds.
TIMEOUTS = {"serverSelectionTimeoutMS": 3000, "connectTimeoutMS": 3000, "socketTimeoutMS": 3000}
# Unauthorized, AuthenticationFailed; Atlas has a code of its own.
DENIED = (13, 18, 8000)


class Collection:
    """One collection, by a client for each process and one for each event loop."""

    def __init__(
        self, location: str | None, database: str | None, collection: str, options: dict[str, Any]
    ) -> None:
        if not isinstance(location, str) or not location:
            raise ImproperlyConfigured(
                "LOCATION must be a URL, such as mongodb://127.0.0.1:27017/sessions."
            )
        given = " ".join([location, *options]).lower()
        options |= {name: TIMEOUTS[name] for name in TIMEOUTS if name.lower() not in given}
        try:
            pymongo.MongoClient(location, connect=False)
        except (errors.PyMongoError, ValueError):
            # from None: pymongo's own error may repeat parts of the password.
            raise ImproperlyConfigured(
                f"LOCATION has {hidden(location)!r}, which pymongo does not take: write "
                "mongodb://user:password@host:27017/database?option=value, and percent-encode "
                "what is special in the password."
            ) from None
        try:
            client = pymongo.MongoClient[Any](location, connect=False, **options)
        except (errors.PyMongoError, ValueError, TypeError) as error:
            raise ImproperlyConfigured(f"OPTIONS: pymongo does not take it: {error}") from error
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
            "codec_options": CodecOptions[dict[str, Any]](
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

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Steps[Any]:
        """What a method of pymongo's collection returns, or ``command`` of its database.

        A key that is taken raises ``DuplicateKeyError``.
        """
        try:
            return (yield self, "call", (method, *args), kwargs)
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

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self.target(self.clients.get(), method), method)(*args, **kwargs)
        return result.to_list() if method == "find" else result

    async def acall(self, method: str, *args: Any, **kwargs: Any) -> Any:
        client = await self.clients.aget()
        result = getattr(self.target(client, method), method)(*args, **kwargs)
        return await (result.to_list() if method == "find" else result)

    def target(self, client: Any, method: str) -> Any:
        database = client[self.database]
        if method == "command":
            return database
        return database.get_collection(self.name, **self.settings)

    def close(self) -> None:
        self.clients.close()

    async def aclose(self) -> None:
        await self.clients.aclose()


def hidden(url: str) -> str:
    """The URL without what may be secret: all before the last @, and the options."""
    return re.sub(r"//.*@", "//***@", url, flags=re.DOTALL).partition("?")[0]
