"""How LibSQLStore runs a statement: on a local file, or on a server by Hrana over HTTP."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import libsql
from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.clients import Clients
from django_kvsessions.stores.filelock import make_folder, open_private

__all__ = ["File", "HranaError", "Server", "database"]

DURABILITY = {"safe": "NORMAL", "full": "FULL"}

Value = bytes | int | None
#: The rows that were read, and how many were changed.
Result = tuple[list[tuple[Any, ...]], int]

# Closing in a forked child what its parent has open would take the parent's locks away.
_inherited: list[Any] = []


def database(
    location: str, token: str | None, ca_certs: str | None, timeout: float, durability: str
) -> File | Server:
    """What LOCATION names, not opened yet; ``ImproperlyConfigured`` for what is wrong."""
    if durability not in DURABILITY:
        raise ImproperlyConfigured(
            f"OPTIONS['durability'] is {durability!r}; it may be 'safe' or 'full'."
        )
    if "://" in location:
        url = server_url(location)
        try:
            return Server(url, token, timeout, ca_certs)
        except OSError as error:
            raise ImproperlyConfigured(f"OPTIONS['ca_certs'], {ca_certs!r}: {error}") from error
    if token is not None or ca_certs is not None:
        raise ImproperlyConfigured(
            "OPTIONS['auth_token'] and OPTIONS['ca_certs'] are for a server, but LOCATION is a "
            "path; write libsql:// before the name of a server."
        )
    return File(os.path.abspath(location), DURABILITY[durability])


def server_url(text: str) -> str:
    """The HTTP address of a server; its query, which may hold a token, is never shown."""
    parts = urlsplit(text)
    plain = (parts.scheme, parts.query) in (("http", ""), ("libsql", "tls=0"))
    if parts.scheme not in ("libsql", "http", "https") or not parts.hostname:
        raise ImproperlyConfigured(
            "LOCATION must begin with libsql://, https:// or http:// and the name of a server, "
            f"not {parts.scheme}://{parts.hostname or ''}."
        )
    if parts.username is not None or (parts.query and not plain):
        raise ImproperlyConfigured(
            "LOCATION has more than scheme, host, port and path; a token goes into "
            "OPTIONS['auth_token']."
        )
    return f"{'http' if plain else 'https'}://{parts.netloc}{parts.path}"


class File:
    """A database in a local file; each thread has a connection of its own."""

    def __init__(self, path: str, synchronous: str) -> None:
        self.name = f"The libSQL file {path}"
        self.errors: tuple[type[Exception], ...] = (ValueError, OSError)
        self._path = path
        self._synchronous = synchronous
        self._opened = threading.local()
        self._generation = 0

    def execute(self, sql: str, values: Sequence[Value] = ()) -> Result:
        cursor = self._connection().execute(sql, tuple(values))
        rows = cursor.fetchall() if sql.startswith("SELECT") else []
        return rows, cursor.rowcount

    async def aexecute(self, sql: str, values: Sequence[Value] = ()) -> Result:
        return await asyncio.to_thread(self.execute, sql, values)

    def is_lost(self, error: Exception) -> bool:
        return False

    def _connection(self) -> Any:
        mine = self._opened.__dict__
        if mine.get("pid", os.getpid()) != os.getpid():
            _inherited.append(mine.pop("connection"))
        if "connection" not in mine or mine["generation"] != self._generation:
            mine.pop("connection", None)
            self._make()
            # The driver would wait for others' locks with the GIL held, and stop every
            # thread, the lock's holder among them: the store waits instead.
            connection = libsql.connect(self._path, timeout=0, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            mine.update(connection=connection, generation=self._generation, pid=os.getpid())
        return mine["connection"]

    def _make(self) -> None:
        """Make the file for its owner only, where there is none; its WAL gets the same mode."""
        if os.path.exists(self._path):
            return
        make_folder(os.path.dirname(self._path))
        # Under another name: to close any descriptor of a database lets go of the locks that
        # the process has on it, and the next one to leave would remove its WAL.
        temporary = f"{self._path}.{os.getpid()}-{threading.get_ident()}"
        os.close(open_private(temporary, os.O_RDWR))
        with suppress(FileExistsError):
            os.link(temporary, self._path)
        os.unlink(temporary)

    def close(self) -> None:
        # A connection is closed by its own thread, at its next use or its end.
        self._generation += 1
        if self._opened.__dict__.get("pid") == os.getpid():
            self._opened.__dict__.pop("connection", None)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


class HranaError(Exception):
    """What the server answered instead of a result."""


class Server:
    """A server at an ``http`` or ``https`` URL, by version 2 of the protocol, which has
    all that single statements need and which every server speaks."""

    def __init__(self, url: str, token: str | None, timeout: float, ca_certs: str | None) -> None:
        self.name = f"libSQL at {url}"
        self.errors: tuple[type[Exception], ...] = (httpx.HTTPError, HranaError)
        # sqld sends what it compresses in pieces of 64 bytes, which take longer to put together.
        headers = {"Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        options: dict[str, Any] = {"base_url": url, "timeout": timeout, "headers": headers}
        if url.startswith("https:"):
            options["verify"] = ssl.create_default_context(cafile=ca_certs)
        self._clients = Clients(lambda: httpx.Client(**options), lambda: _AsyncClient(options))

    def execute(self, sql: str, values: Sequence[Value] = ()) -> Result:
        return _result(self._clients.get().post("v2/pipeline", json=_request(sql, values)))

    async def aexecute(self, sql: str, values: Sequence[Value] = ()) -> Result:
        client = (await self._clients.aget()).client
        return _result(await client.post("v2/pipeline", json=_request(sql, values)))

    def is_lost(self, error: Exception) -> bool:
        """Whether the connection ended before the answer, as a restarted server's do."""
        lost = isinstance(error, httpx.TransportError)
        return lost and not isinstance(error, httpx.TimeoutException)

    def close(self) -> None:
        self._clients.close()

    async def aclose(self) -> None:
        await self._clients.aclose()


class _AsyncClient:
    def __init__(self, options: dict[str, Any]) -> None:
        self.client = httpx.AsyncClient(**options)

    async def close(self) -> None:
        await self.client.aclose()


def _request(sql: str, values: Sequence[Value]) -> dict[str, Any]:
    statement = {"sql": sql, "args": [_encode(value) for value in values]}
    return {"requests": [{"type": "execute", "stmt": statement}, {"type": "close"}]}


def _encode(value: Value) -> dict[str, str]:
    if value is None:
        return {"type": "null"}
    if isinstance(value, int):
        return {"type": "integer", "value": str(value)}
    return {"type": "blob", "base64": b64encode(value).decode()}


def _decode(value: dict[str, Any]) -> Any:
    if value["type"] == "blob":
        # It comes without padding.
        return b64decode(value["base64"] + "==")
    return int(value["value"]) if value["type"] == "integer" else value.get("value")


def _result(response: Any) -> Result:
    if response.status_code != 200:
        raise HranaError(f"HTTP status {response.status_code}: {response.text[:200]}")
    try:
        [first, *_] = response.json()["results"]
        if first["type"] == "error":
            raise HranaError(first["error"]["message"])
        result = first["response"]["result"]
        rows = [tuple(map(_decode, row)) for row in result["rows"]]
        return rows, result["affected_row_count"]
    except (ValueError, LookupError, TypeError) as error:
        raise HranaError(f"no answer of Hrana, but {response.text[:200]!r}") from error
