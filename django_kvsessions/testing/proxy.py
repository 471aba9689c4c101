"""A TCP proxy between a driver and its server, which loses answers and requests::

    with Proxy(("127.0.0.1", 6379)) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0")
        store.load(key)
        with proxy.cut_answer(after=3) as cut:
            store.delete(key)   # carried out, but only three bytes of the answer came
        assert cut.happened == 1

It knows nothing of what it passes on: a *request* is what a client sends, an
*answer* what the server sends after it, in however many round trips. It
listens on the loopback alone, and needs no pytest.
"""

from __future__ import annotations

import random
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING

from django_kvsessions.testing.cuts import Cut, RandomCut

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Proxy"]

#: Seconds that the server may take to accept a connection, and a thread to end.
PATIENCE = 10.0


class Proxy:
    """Passes on what comes to ``port`` of the loopback to the server at ``target``, and back.

    - ``cut_answer(after=n)`` lets n bytes of the answer pass and ends the
      connection when more has come: the server is alive and has carried out the
      request, its client does not get to know of it.
    - ``cut_request(after=n)`` lets n bytes of the request pass; with 0 the
      server sees nothing of it.
    - ``cut_at_random(rate)`` cuts that share of the answers.
    - ``measure()`` cuts nothing, and counts.
    - ``arm(cut)`` is what these are made of.

    Each is a context manager that gives the ``Cut``; one at a time. It is for
    what passes while it is entered, counted over all connections together.
    ``then`` is called in the middle of a cut, when the server's side is gone and
    before anything else passes: what somebody else does meanwhile, directly at
    the server. With ``reset`` the client meets a reset, or else the end of the
    stream. After ``times`` cuts all passes again.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        #: How many connections there were, and how many cuts were made.
        self.connections = 0
        self.cuts = 0
        self._armed = Cut()
        # Whoever has it decides what passes next, or keeps everything waiting.
        self._lock = threading.Lock()
        self._threads: dict[Connection, threading.Thread] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._closed = False
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def cut_answer(
        self,
        *,
        after: int = 0,
        reset: bool = True,
        times: int = 1,
        then: Callable[[], object] | None = None,
    ) -> AbstractContextManager[Cut]:
        return self.arm(Cut(answer=after, reset=reset, times=times, then=then))

    def cut_request(
        self,
        *,
        after: int = 0,
        reset: bool = True,
        times: int = 1,
        then: Callable[[], object] | None = None,
    ) -> AbstractContextManager[Cut]:
        return self.arm(Cut(request=after, reset=reset, times=times, then=then))

    def cut_at_random(self, rate: float, *, seed: int | None = None) -> AbstractContextManager[Cut]:
        return self.arm(RandomCut(rate, random.Random(seed)))

    def measure(self) -> AbstractContextManager[Cut]:
        return self.arm(Cut())

    @contextmanager
    def arm(self, cut: Cut) -> Iterator[Cut]:
        with self._lock:
            self._armed = cut
        try:
            yield cut
        finally:
            with self._lock:
                self._armed = Cut()
        if cut.error is not None:
            raise cut.error

    def close(self) -> None:
        """End every connection, and listen no more."""
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(PATIENCE)
        self._listener.close()
        for connection, thread in list(self._threads.items()):
            connection.wake()
            thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue
            with self._lock:
                self.connections += 1
            try:
                server = socket.create_connection(self.target, PATIENCE)
            except OSError:
                leave(client, reset=True)
                continue
            connection = Connection(client, server)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads[connection] = thread
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            for source, data in connection.chunks():
                with self._lock:
                    is_request = source is connection.client
                    decide = self._armed.requests if is_request else self._armed.answers
                    part = decide(connection, len(data))
                    if part is not None:
                        connection.pass_on(source, data[:part])
                        self._cut(connection)
                        return
                connection.pass_on(source, data)
        except OSError:
            # One side is gone, so the other one goes too.
            pass
        finally:
            connection.close()
            self._threads.pop(connection, None)

    def _cut(self, connection: Connection) -> None:
        self.cuts += 1
        # A transaction that is still open is undone by it, and lets go of its locks.
        leave(connection.server, reset=False)
        self._armed.carry_out(connection)
        leave(connection.client, reset=self._armed.reset)


class Connection:
    """A client's connection and the one to its server. One thread reads from both."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        for side in (client, server):
            side.settimeout(None)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def chunks(self) -> Iterator[tuple[socket.socket, bytes]]:
        """What comes, and from which side, until both have ended."""
        with selectors.DefaultSelector() as selector:
            for side in (self.client, self.server):
                selector.register(side, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    source = self.client if key.fileobj is self.client else self.server
                    data = source.recv(65536)
                    if data:
                        yield source, data
                    else:
                        selector.unregister(source)
                        self.opposite(source).shutdown(socket.SHUT_WR)

    def pass_on(self, source: socket.socket, data: bytes) -> None:
        self.opposite(source).sendall(data)

    def opposite(self, side: socket.socket) -> socket.socket:
        return self.server if side is self.client else self.client

    def wake(self) -> None:
        """From another thread: let the one that reads come to its end."""
        for side in (self.client, self.server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.client.close()
        self.server.close()


def leave(side: socket.socket, *, reset: bool) -> None:
    if reset:
        # Closed without waiting for anything: that is a reset.
        linger = struct.pack("ii", 1, 0)
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    else:
        # At once, also where a fork still has a copy.
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
    side.close()
