"""The proxy passes everything on, and cuts where it is told to."""

from __future__ import annotations

import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from django_kvsessions.testing.proxy import Proxy

if TYPE_CHECKING:
    from typing_extensions import Self

ANSWER = b"done, as you asked: "


class LineServer(socketserver.ThreadingTCPServer):
    """Takes lines, notes them, and answers each with another."""

    daemon_threads = True

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.ended = threading.Semaphore(0)
        super().__init__(("127.0.0.1", 0), LineHandler)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server_address[1]


class LineHandler(socketserver.StreamRequestHandler):
    server: LineServer

    def handle(self) -> None:
        try:
            for line in self.rfile:
                self.server.taken.append(line)
                if line.endswith(b"\n"):
                    self.wfile.write(ANSWER + line)
        except ConnectionError:
            pass
        self.server.ended.release()


@pytest.fixture
def server() -> Iterator[LineServer]:
    with LineServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: LineServer) -> Iterator[Proxy]:
    with Proxy(server.address) as proxy:
        yield proxy


class Client:
    def __init__(self, proxy: Proxy) -> None:
        self.socket = socket.create_connection(proxy.address, 10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, line: bytes) -> tuple[bytes, str]:
        """What came of the answer, and how it ended."""
        came = b""
        try:
            self.socket.sendall(line + b"\n")
            while not came.endswith(b"\n"):
                more = self.socket.recv(65536)
                if not more:
                    return came, "end"
                came += more
        except ConnectionError:
            return came, "reset"
        return came, "whole"


def test_all_passes_both_ways(proxy: Proxy, server: LineServer) -> None:
    large = os.urandom(3_000_000).replace(b"\n", b"")
    with Client(proxy) as one, Client(proxy) as other:
        assert one.ask(large) == (ANSWER + large + b"\n", "whole")
        assert other.ask(b"other") == (ANSWER + b"other\n", "whole")
        assert one.ask(b"again") == (ANSWER + b"again\n", "whole")
    assert proxy.connections == 2
    assert proxy.cuts == 0
    assert server.taken == [large + b"\n", b"other\n", b"again\n"]


def test_both_sides_learn_when_the_other_one_ends(proxy: Proxy, server: LineServer) -> None:
    with Client(proxy) as client:
        client.ask(b"one")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.socket.recv(1) == b""
    assert server.ended.acquire(timeout=10)


@pytest.mark.parametrize("after", [0, 1, 7, len(ANSWER) + 3])
@pytest.mark.parametrize("reset", [True, False])
def test_an_answer_is_cut_after_the_bytes_that_it_is_told(
    proxy: Proxy, server: LineServer, after: int, reset: bool
) -> None:
    with Client(proxy) as client, Client(proxy) as fresh:
        client.ask(b"before")
        with proxy.cut_answer(after=after, reset=reset) as cut:
            answer = client.ask(b"asked")
            assert answer == ((ANSWER + b"asked\n")[:after], "reset" if reset else "end")
            # Carried out all the same, and the next one passes.
            assert server.taken == [b"before\n", b"asked\n"]
            assert fresh.ask(b"next") == (ANSWER + b"next\n", "whole")
        assert cut.happened == proxy.cuts == 1


def test_a_cut_goes_by_the_bytes_of_several_round_trips(proxy: Proxy, server: LineServer) -> None:
    whole = len(ANSWER) + 4
    with Client(proxy) as client, proxy.cut_answer(after=whole + 5):
        assert client.ask(b"one") == (ANSWER + b"one\n", "whole")
        assert client.ask(b"two") == (ANSWER[:5], "reset")
    assert server.taken == [b"one\n", b"two\n"]


def test_what_is_shorter_than_the_cut_is_whole(proxy: Proxy) -> None:
    with Client(proxy) as client, proxy.cut_answer(after=len(ANSWER) + 4) as cut:
        assert client.ask(b"one") == (ANSWER + b"one\n", "whole")
        assert cut.happened == 0
        assert cut.requested == 4
        assert cut.answered == len(ANSWER) + 4


@pytest.mark.parametrize("after", [0, 3])
def test_a_request_is_cut_before_the_server_has_it(
    proxy: Proxy, server: LineServer, after: int
) -> None:
    with Client(proxy) as client, proxy.cut_request(after=after) as cut:
        assert client.ask(b"request") == (b"", "reset")
        assert cut.happened == 1
    assert server.ended.acquire(timeout=10)
    assert server.taken == ([b"request"[:after]] if after else [])


def test_somebody_else_comes_between_the_cut_and_all_that_follows(
    proxy: Proxy, server: LineServer
) -> None:
    passed: list[bytes] = []

    def other() -> None:
        # The server has been told that its client is gone.
        assert server.ended.acquire(timeout=10)
        ready.set()
        time.sleep(0.1)
        passed.extend(server.taken)

    def ask_meanwhile() -> None:
        ready.wait(10)
        with Client(proxy) as client:
            client.ask(b"waits")

    ready = threading.Event()
    thread = threading.Thread(target=ask_meanwhile)
    with Client(proxy) as client, Client(proxy) as open_before:
        open_before.ask(b"before")
        thread.start()
        with proxy.cut_answer(then=other) as cut:
            assert client.ask(b"lost") == (b"", "reset")
            assert open_before.ask(b"after") == (ANSWER + b"after\n", "whole")
        thread.join()
    assert cut.happened == 1
    assert passed == [b"before\n", b"lost\n"]
    assert set(server.taken) == {b"before\n", b"lost\n", b"waits\n", b"after\n"}


def test_what_somebody_else_raises_comes_out(proxy: Proxy) -> None:
    def fail() -> None:
        raise LookupError("the other one failed")

    with (
        Client(proxy) as client,
        pytest.raises(LookupError, match="the other one"),
        proxy.cut_answer(then=fail),
    ):
        assert client.ask(b"lost") == (b"", "reset")


def test_so_many_are_cut_as_it_is_told(proxy: Proxy) -> None:
    outcomes = []
    with proxy.cut_answer(times=2) as cut:
        for _ in range(4):
            with Client(proxy) as client:
                outcomes.append(client.ask(b"try")[1])
    assert outcomes == ["reset", "reset", "whole", "whole"]
    assert cut.happened == 2


def test_a_share_of_the_answers_is_cut_at_random(proxy: Proxy, server: LineServer) -> None:
    outcomes = []
    with proxy.cut_at_random(0.2, seed=1) as cut:
        for _ in range(200):
            with Client(proxy) as client:
                outcomes.append(client.ask(b"try")[1])
    assert len(server.taken) == 200
    assert outcomes.count("whole") == 200 - cut.happened
    assert 20 <= cut.happened <= 60
    assert {"reset", "end"} < set(outcomes)


def test_nothing_is_counted_of_what_nobody_asked_for(proxy: Proxy) -> None:
    with Client(proxy) as client:
        client.ask(b"before")
        with proxy.measure() as cut:
            pass
        assert (cut.requested, cut.answered) == (0, 0)


def test_a_server_that_is_away_is_a_reset(server: LineServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with Proxy(("127.0.0.1", port)) as proxy:
        try:
            with Client(proxy) as client:
                outcome = client.ask(b"anybody")
        except ConnectionError:
            # The reset may come before the client is through with connecting.
            outcome = (b"", "reset")
    assert outcome == (b"", "reset")


def test_a_closed_proxy_leaves_nothing_behind(server: LineServer) -> None:
    before = threading.active_count()
    with Proxy(server.address) as proxy:
        client = Client(proxy)
        client.ask(b"one")
    assert client.socket.recv(1) == b""
    client.socket.close()
    assert server.ended.acquire(timeout=10)
    with pytest.raises(ConnectionError):
        socket.create_connection(proxy.address, 1)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
