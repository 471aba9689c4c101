"""How LibSQLStore runs a statement on a server: by Hrana over HTTP."""

from __future__ import annotations

import ssl
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

import httpx

from django_kvsessions.stores.libsql.file import Result, Value
from django_kvsessions.stores.process.clients import Clients

__all__ = ["HranaError", "Server"]


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
