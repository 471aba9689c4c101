"""How LibSQLStore runs a statement on a server: by Hrana over HTTP."""

from __future__ import annotations

import ssl
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx

from django_kvsessions.stores.libsql.database import Failed, Lost, Result, Value
from django_kvsessions.stores.process.clients import Clients

__all__ = ["Server"]


class Server:
    """A server at an ``http`` or ``https`` URL, by version 2 of the protocol, which has
    all that single statements need and which every server speaks."""

    def __init__(self, url: str, token: str | None, timeout: float, ca_certs: str | None) -> None:
        self.name = f"libSQL at {url}"
        self.path: str | None = None
        # sqld sends what it compresses in pieces of 64 bytes, which take longer to put together.
        headers = {"Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        verify = ssl.create_default_context(cafile=ca_certs) if url.startswith("https:") else True

        def make() -> httpx.Client:
            return httpx.Client(base_url=url, timeout=timeout, headers=headers, verify=verify)

        def make_async() -> _AsyncClient:
            client = httpx.AsyncClient(
                base_url=url, timeout=timeout, headers=headers, verify=verify
            )
            return _AsyncClient(client)

        self._clients = Clients(make, make_async)

    def execute(self, sql: str, values: Sequence[Value]) -> Result:
        with _failures():
            client: httpx.Client = self._clients.get()
            return _result(client.post("v2/pipeline", json=_request(sql, values)))

    async def aexecute(self, sql: str, values: Sequence[Value]) -> Result:
        with _failures():
            client: httpx.AsyncClient = (await self._clients.aget()).client
            return _result(await client.post("v2/pipeline", json=_request(sql, values)))

    def close(self) -> None:
        self._clients.close()

    async def aclose(self) -> None:
        await self._clients.aclose()


class _AsyncClient:
    """With the name that ``Clients`` calls."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def close(self) -> None:
        await self.client.aclose()


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        message = str(error) or type(error).__name__
        # Who has waited for the whole time does not wait for it again.
        if isinstance(error, httpx.TransportError) and not isinstance(
            error, httpx.TimeoutException
        ):
            sent = not isinstance(error, httpx.ConnectError)
            raise Lost(message, was_sent=sent) from error
        raise Failed(message) from error


def _request(sql: str, values: Sequence[Value]) -> dict[str, object]:
    statement = {"sql": sql, "args": [_encode(value) for value in values]}
    return {"requests": [{"type": "execute", "stmt": statement}, {"type": "close"}]}


def _encode(value: Value) -> dict[str, str]:
    if value is None:
        return {"type": "null"}
    if isinstance(value, int):
        return {"type": "integer", "value": str(value)}
    return {"type": "blob", "base64": b64encode(value).decode()}


def _decode(value: dict[str, str]) -> Value:
    if value["type"] == "blob":
        # It comes without padding.
        return b64decode(value["base64"] + "==")
    return int(value["value"]) if value["type"] == "integer" else None


def _result(response: httpx.Response) -> Result:
    if response.status_code != 200:
        raise Failed(f"HTTP status {response.status_code}: {response.text[:200]}")
    try:
        [first, *_] = response.json()["results"]
        if first["type"] == "error":
            raise Failed(first["error"]["message"])
        result = first["response"]["result"]
        rows = [tuple(map(_decode, row)) for row in result["rows"]]
        return Result(rows, result["affected_row_count"])
    except (ValueError, LookupError, TypeError) as error:
        raise Failed(f"no answer of Hrana, but {response.text[:200]!r}") from error
