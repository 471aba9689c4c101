"""A server such as a store may have, in a thread, and a store that asks it over TCP."""

from __future__ import annotations

import pickle
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedIOBase
from typing import Any

import pytest

from django_kvsessions.stores.base import Record, Store, StoreStats, StoreUnavailable
from django_kvsessions.stores.memory import MemoryStore
from django_kvsessions.stores.paged import unknown_outcome
from django_kvsessions.testing import Cutting, MakeStore, Proxy

__all__ = ["Lost", "ToyServer", "ToyStore", "conformance", "serving"]

PAGE = 10


class ToyServer(socketserver.ThreadingTCPServer):
    """Carries out what it is asked on a ``MemoryStore``, each in one step."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        self.records = MemoryStore()
        super().__init__(("127.0.0.1", 0), ToyHandler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def answer(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        there = self if hasattr(ToyServer, name) else self.records
        return getattr(there, name)(*arguments, **named)

    def page(self, owner: bytes, after: bytes) -> list[tuple[bytes, Record]]:
        records = self.records.scan_owner(owner) if owner else self.records.scan()
        return sorted(item for item in records if item[0] > after)[:PAGE]

    def delete_batch(self, batch_size: int) -> int:
        return next(self.records.delete_expired(batch_size=batch_size), 0)


class ToyHandler(socketserver.StreamRequestHandler):
    server: ToyServer

    def handle(self) -> None:
        try:
            while True:
                send(self.connection, self.server.answer(*receive(self.rfile)))
        except (ConnectionError, EOFError):
            pass


def send(connection: socket.socket, message: object) -> None:
    data = pickle.dumps(message)
    connection.sendall(len(data).to_bytes(4, "big") + data)


def receive(stream: BufferedIOBase) -> Any:
    """A whole message, or ``EOFError``."""
    size = stream.read(4)
    data = stream.read(int.from_bytes(size, "big"))
    if len(size) < 4 or len(data) < int.from_bytes(size, "big"):
        raise EOFError("The stream ended before the message.")
    return pickle.loads(data)


class Lost(Exception):
    """The connection ended before the whole answer had come."""


class ToyStore(Store):
    """Asks again where that does no harm, and else looks whose write is there."""

    def __init__(self, location: int) -> None:
        super().__init__(max_record_size=100_000)
        self.port = location
        self.lock = threading.Lock()
        self.connection: socket.socket | None = None
        self.stream: BufferedIOBase | None = None

    def ask(self, name: str, *arguments: Any, **named: Any) -> Any:
        with self.lock:
            try:
                if self.connection is None or self.stream is None:
                    self.connection = socket.create_connection(("127.0.0.1", self.port), 10)
                    self.stream = self.connection.makefile("rb")
                send(self.connection, (name, arguments, named))
                return receive(self.stream)
            except (OSError, EOFError) as error:
                self.disconnect()
                raise Lost from error

    def disconnect(self) -> None:
        if self.stream is not None:
            self.stream.close()
        if self.connection is not None:
            self.connection.close()
        self.stream = self.connection = None

    def read(self, name: str, *arguments: Any) -> Any:
        try:
            return self.ask(name, *arguments)
        except Lost:
            try:
                return self.ask(name, *arguments)
            except Lost as error:
                raise StoreUnavailable("The server does not answer.") from error

    def write(self, name: str, key: bytes, *arguments: Any, **named: Any) -> bool:
        try:
            return bool(self.ask(name, key, *arguments, **named))
        except Lost as error:
            if name in ("create", "replace") and self.load(key) == arguments[0]:
                return True
            raise unknown_outcome() from error

    def load(self, key: bytes) -> Record | None:
        self.check_key(key)
        record: Record | None = self.read("load", key)
        return record

    def create(self, key: bytes, record: Record) -> bool:
        self.check_record(key, record)
        return self.write("create", key, record)

    def replace(self, key: bytes, record: Record, *, expected: int | None = None) -> bool:
        self.check_record(key, record)
        return self.write("replace", key, record, expected=expected)

    def touch(self, key: bytes, expires: float, *, expected: int | None = None) -> bool:
        self.check_touch(key, expires)
        return self.write("touch", key, expires, expected=expected)

    def delete(self, key: bytes) -> bool:
        self.check_key(key)
        return self.write("delete", key)

    def delete_batch(self, batch_size: int) -> int:
        try:
            return int(self.ask("delete_batch", batch_size))
        except Lost as error:
            raise unknown_outcome() from error

    def delete_expired(self, *, batch_size: int = 1000) -> Iterator[int]:
        while count := self.delete_batch(batch_size):
            yield count

    def pages(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        after = b""
        while page := self.read("page", owner, after):
            yield from page
            after = page[-1][0]

    def scan(self) -> Iterator[tuple[bytes, Record]]:
        return self.pages(b"")

    def scan_owner(self, owner: bytes) -> Iterator[tuple[bytes, Record]]:
        self.check_owner(owner)
        return self.pages(owner)

    def stats(self) -> StoreStats:
        stats: StoreStats = self.read("stats")
        return stats

    def close(self) -> None:
        with self.lock:
            self.disconnect()


@contextmanager
def serving() -> Iterator[ToyServer]:
    with ToyServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def conformance(store: Callable[[int], Store]) -> dict[str, Any]:
    """What a ``StoreConformance`` has to have for a store that asks a toy server."""

    @pytest.fixture
    def server(self: object) -> Iterator[ToyServer]:
        with serving() as server:
            yield server

    @pytest.fixture
    def make_store(self: object, server: ToyServer) -> MakeStore:
        return partial(store, server.port)

    @pytest.fixture
    def cutting(self: object, server: ToyServer) -> Iterator[Cutting]:
        with Proxy(("127.0.0.1", server.port)) as proxy:
            yield partial(store, proxy.port), proxy

    return {"server": server, "make_store": make_store, "cutting": cutting}
