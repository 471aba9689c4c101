"""One client for each process and each event loop, closed by whoever it belongs to."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable

import pytest

from django_kvsessions.stores.process.clients import Clients


class Opened:
    def __init__(self, log: list[str], name: str) -> None:
        self.log = log
        self.name = name
        self.pid = os.getpid()
        log.append(f"open {name}")


class Client(Opened):
    def close(self) -> None:
        self.log.append(f"close {self.name}")


class AsyncClient(Opened):
    async def close(self) -> None:
        await asyncio.sleep(0)
        self.log.append(f"close {self.name}")


OurClients = Clients[Client, AsyncClient]


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def clients(log: list[str]) -> OurClients:
    def names(kind: str) -> Callable[[], str]:
        return lambda: f"{kind} {sum(line.startswith(f'open {kind}') for line in log) + 1}"

    sync, loop = names("sync"), names("loop")

    def make() -> Client:
        # Time for other threads to come as well.
        name = sync()
        time.sleep(0.01)
        return Client(log, name)

    return Clients(make, lambda: AsyncClient(log, loop()))


def test_nothing_is_opened_before_the_first_use(clients: OurClients, log: list[str]) -> None:
    assert clients.opened() is None
    clients.drop()
    clients.close()
    assert log == []


def test_all_threads_share_one_client(clients: OurClients, log: list[str]) -> None:
    found: list[Client] = []
    threads = [threading.Thread(target=lambda: found.append(clients.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8
    assert {id(client) for client in found} == {id(clients.opened())}
    assert log == ["open sync 1"]


def test_after_a_drop_or_a_close_the_next_use_makes_another(
    clients: OurClients, log: list[str]
) -> None:
    first = clients.get()
    clients.drop()
    assert clients.opened() is None
    assert clients.get() is not first
    clients.close()
    clients.close()
    assert log == ["open sync 1", "close sync 1", "open sync 2", "close sync 2"]


def test_each_event_loop_has_one_and_closes_it_at_its_end(
    clients: OurClients, log: list[str]
) -> None:
    async def use() -> tuple[AsyncClient, AsyncClient]:
        assert clients.opened_in_loop() is None
        one, other = await asyncio.gather(clients.aget(), clients.aget())
        assert clients.opened_in_loop() is one
        return one, other

    for _ in range(2):
        one, other = asyncio.run(use())
        assert one is other
    assert log == ["open loop 1", "close loop 1", "open loop 2", "close loop 2"]


def test_an_event_loop_drops_its_own_and_no_other(clients: OurClients, log: list[str]) -> None:
    async def use() -> None:
        clients.get()
        await clients.aget()
        await clients.adrop()
        assert clients.opened_in_loop() is None
        assert clients.opened() is not None
        await clients.aget()
        await clients.adrop()
        await clients.adrop()

    asyncio.run(use())
    assert log == ["open sync 1", "open loop 1", "close loop 1", "open loop 2", "close loop 2"]


def test_aclose_closes_the_loops_and_the_process_s_client(
    clients: OurClients, log: list[str]
) -> None:
    async def use() -> None:
        await clients.aget()
        clients.get()
        await clients.aclose()
        assert clients.opened_in_loop() is None

    asyncio.run(use())
    assert sorted(log) == ["close loop 1", "close sync 1", "open loop 1", "open sync 1"]


def test_a_close_from_another_thread_lets_a_running_loop_close_its_own(
    clients: OurClients, log: list[str]
) -> None:
    async def use() -> None:
        await clients.aget()
        await asyncio.to_thread(clients.close)
        for _ in range(1000):
            if len(log) < 2:
                await asyncio.sleep(0.01)
        # Before the loop ends, which would close it anyhow.
        assert log == ["open loop 1", "close loop 1"]

    asyncio.run(use())
    assert log == ["open loop 1", "close loop 1"]


def test_a_loop_that_was_closed_without_its_end_is_forgotten(
    clients: OurClients, log: list[str]
) -> None:
    loop = asyncio.new_event_loop()
    kept = loop.run_until_complete(clients.aget())
    loop.close()
    # Python may give the next loop the address of the last one.
    again = asyncio.run(clients.aget())
    assert again is not kept
    assert log == ["open loop 1", "open loop 2", "close loop 2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_opens_its_own_and_leaves_its_parents_alone(
    clients: OurClients, log: list[str]
) -> None:
    inherited = clients.get()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            own = clients.get()
            facts = [own is not inherited, own.pid == os.getpid(), "close sync 1" not in log]
            clients.close()
            facts.append("close sync 1" not in log)
            os.write(writing, repr(facts).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    assert os.waitpid(child, 0)[1] == 0
    assert said == b"[True, True, True, True]"
    assert clients.get() is inherited
    assert log == ["open sync 1"]
