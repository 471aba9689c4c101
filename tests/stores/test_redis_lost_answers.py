"""RedisStore where connections are lost: in the middle of an answer, or while they are idle."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis as driver
from django.contrib.auth import SESSION_KEY as USER_ID
from django.test import override_settings

from django_kvsessions.engine import SessionStore
from django_kvsessions.stores.base import Record, StoreUnavailable
from django_kvsessions.stores.redis import RedisStore
from django_kvsessions.testing import Proxy
from tests.support.servers import serve
from testservers import Server
from testservers.redis import command, redis_server, valkey_server

pytestmark = pytest.mark.servers

KEY = b"k" * 32
OTHER = b"o" * 32
ALICE = b"a" * 16


def record(data: bytes = b"data", owner: bytes = b"") -> Record:
    return Record(data, time.time() + 600, int.from_bytes(os.urandom(8), "big") >> 1, owner)


@pytest.fixture(params=[redis_server, valkey_server], ids=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    yield from serve(partial(request.param, durable=True))


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", server.port)) as proxy:
        yield proxy


@pytest.fixture
def aside(server: Server) -> Iterator[RedisStore]:
    """Somebody else, whose answers are not lost."""
    store = RedisStore(f"redis://127.0.0.1:{server.port}/0")
    yield store
    store.close()


@pytest.fixture
def lossy(proxy: Proxy) -> Iterator[RedisStore]:
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0")
    yield store
    store.close()


class TestLostAnswers:
    def test_a_delete_whose_answer_is_lost_does_not_say_that_nothing_was_there(
        self, proxy: Proxy, lossy: RedisStore, aside: RedisStore
    ) -> None:
        aside.create(KEY, record(owner=ALICE))
        lossy.load(KEY)
        with proxy.cut_answer(), pytest.raises(StoreUnavailable) as raised:
            lossy.delete(KEY)
        assert raised.value.__cause__ is not None
        assert aside.load(KEY) is None

    @pytest.mark.parametrize("conditional", [True, False])
    def test_a_change_that_somebody_has_built_upon_is_not_called_refused_nor_made_again(
        self, proxy: Proxy, lossy: RedisStore, aside: RedisStore, conditional: bool
    ) -> None:
        first, mine, theirs = record(b"first"), record(b"mine"), record(b"theirs")
        aside.create(KEY, first)
        lossy.load(KEY)

        def build_upon() -> None:
            assert aside.load(KEY) == mine
            assert aside.replace(KEY, theirs, expected=mine.revision) is True

        expected = first.revision if conditional else None
        with proxy.cut_answer(then=build_upon), pytest.raises(StoreUnavailable, match="not say"):
            lossy.replace(KEY, mine, expected=expected)
        assert aside.load(KEY) == theirs

    def test_a_touch_is_not_made_again_over_a_later_one(
        self, proxy: Proxy, lossy: RedisStore, aside: RedisStore
    ) -> None:
        aside.create(KEY, record())
        lossy.load(KEY)
        soon, late = time.time() + 100, time.time() + 5000
        with (
            proxy.cut_answer(then=lambda: aside.touch(KEY, soon)),
            pytest.raises(StoreUnavailable, match="not say"),
        ):
            lossy.touch(KEY, late)
        there = aside.load(KEY)
        assert there is not None
        assert there.expires == soon
        with proxy.cut_answer():
            assert lossy.touch(KEY, late) is True

    def test_two_percent_of_the_answers_log_nobody_out_and_repeat_nothing(
        self, server: Server, proxy: Proxy
    ) -> None:
        settings = {
            "default": {
                "BACKEND": "django_kvsessions.stores.redis.RedisStore",
                "LOCATION": f"redis://127.0.0.1:{proxy.port}/0",
            }
        }
        wrong: list[object] = []
        unknown: list[object] = []
        acknowledged: dict[str, list[tuple[int, int]]] = {}

        def note(mark: tuple[int, int], data: dict[str, Any]) -> None:
            data["made"].append(mark)

        def visit(key: str, tab: int) -> None:
            for number in range(60):
                mark = (tab, number)
                session = SessionStore(key)
                try:
                    if USER_ID not in session:
                        wrong.append(f"{mark} is logged out")
                    session.mutate(partial(note, mark))
                    acknowledged[key].append(mark)
                except StoreUnavailable:
                    unknown.append(mark)
                except Exception as error:
                    wrong.append(error)

        with override_settings(SESSION_STORES=settings):
            for number in range(3):
                session = SessionStore()
                session.update({USER_ID: str(number), "made": []})
                session.create()
                assert session.session_key is not None
                acknowledged[session.session_key] = []
            threads = [
                threading.Thread(target=visit, args=(key, tab))
                for key in acknowledged
                for tab in range(3)
            ]
            with proxy.cut_at_random(0.02):
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(120)
            for key, marks in acknowledged.items():
                made = [tuple(mark) for mark in SessionStore(key)["made"]]
                if len(set(made)) != len(made):
                    wrong.append(f"made twice: {[mark for mark in made if made.count(mark) > 1]}")
                if lost := set(marks) - set(made):
                    wrong.append(f"lost: {lost}")
        assert wrong == []
        assert unknown
        assert proxy.cuts > 10


class TestStaleConnections:
    """A connection that the server closed while it was idle is no outage."""

    @pytest.fixture(params=["LOCATION", "client"])
    def store(self, request: pytest.FixtureRequest, server: Server) -> Iterator[RedisStore]:
        if request.param == "LOCATION":
            store = RedisStore(f"redis://127.0.0.1:{server.port}/0")
        else:
            client = driver.Redis(port=server.port)
            store = RedisStore(
                client=lambda: client, async_client=lambda: driver.asyncio.Redis(port=server.port)
            )
        yield store
        store.close()

    def test_every_write_survives_it(self, server: Server, store: RedisStore) -> None:
        kept = record()
        writes: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
            (lambda: store.create(KEY, kept), lambda: store.acreate(OTHER, kept)),
            (lambda: store.replace(KEY, kept), lambda: store.areplace(OTHER, kept)),
            (
                lambda: store.touch(KEY, kept.expires + 9),
                lambda: store.atouch(OTHER, kept.expires + 9),
            ),
            (lambda: store.delete(KEY), lambda: store.adelete(OTHER)),
        ]

        async def asynchronously() -> None:
            for _, write in writes:
                await asyncio.gather(*(store.aload(KEY) for _ in range(3)))
                close_all(server)
                assert await write() is True

        for write, _ in writes:
            store.load(KEY)
            close_all(server)
            assert write() is True
        asyncio.run(asynchronously())


def close_all(server: Server) -> None:
    command(server.port, "CLIENT KILL TYPE normal SKIPME yes")
    # The end of a connection is sent when the server comes round to it.
    time.sleep(0.1)
