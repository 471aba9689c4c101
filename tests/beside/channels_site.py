"""A site with Channels: ``channels_site.py FOLDER``."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from django.conf import settings
from django.test import override_settings

from tests.beside.site import configure, examples, migrate


def log_in() -> str:
    """A new session's id."""
    from django.test import Client

    client = Client()
    assert client.login(username="alice", password="open sesame")
    return client.cookies["sessionid"].value


def engine() -> Any:
    return import_module(settings.SESSION_ENGINE).SessionStore


class Sockets:
    def __init__(self) -> None:
        self.application = examples("Channels").websockets
        self.communicator = import_module("channels.testing").WebsocketCommunicator

    async def open(self, key: str) -> Any:
        headers = [(b"cookie", f"sessionid={key}".encode())]
        socket = self.communicator(self.application, "/cart/", headers=headers)
        accepted, _ = await socket.connect()
        return socket if accepted else None


async def visit(sockets: Sockets, key: str) -> None:
    assert await sockets.open("") is None
    first, second = await sockets.open(key), await sockets.open(key)
    # A page of the same session, which loaded it before.
    page = engine()(key)
    await page.aget("theme")
    await asyncio.gather(
        *(socket.send_json_to({"article": "tea"}) for socket in (first, second) * 10)
    )
    for socket in (first, second) * 10:
        await socket.receive_json_from()
    page["theme"] = "dark"
    await page.asave()
    stored = engine()(key)
    assert await stored.aget("cart") == ["tea"] * 20
    assert await stored.aget("theme") == "dark"

    await stored.aflush()
    assert not await engine()().aexists(key)
    await first.send_json_to({"article": "tea"})
    assert await first.receive_output() == {"type": "websocket.close", "code": 4401}
    assert not await engine()().aexists(key)
    await second.disconnect()


async def is_let_in(sockets: Sockets, key: str) -> bool:
    socket = await sockets.open(key)
    if socket is not None:
        await socket.disconnect()
    return socket is not None


def under_a_new_key(sockets: Sockets, key: str) -> bool:
    """Whether a socket may be opened there, without a page first."""
    with override_settings(SECRET_KEY="the next", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        return asyncio.run(is_let_in(sockets, key))


def main() -> None:
    sockets = Sockets()
    asyncio.run(visit(sockets, log_in()))
    key = log_in()
    assert asyncio.run(is_let_in(sockets, key))
    assert not under_a_new_key(sockets, key)
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db"):
        key = log_in()
        assert asyncio.run(is_let_in(sockets, key))
        assert not under_a_new_key(sockets, key)


if __name__ == "__main__":
    configure(apps=["channels"], ROOT_URLCONF=())
    migrate()
    main()
