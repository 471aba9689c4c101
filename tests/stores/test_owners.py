"""A user's sessions are listed and ended on every store, with or without an index by owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from django_kvsessions.owners import aend_session, asessions_of, end_session, end_sessions
from django_kvsessions.owners import sessions_of as listed
from django_kvsessions.stores import stores
from tests.support.databases import add_database, disconnecting, sqlite_database
from tests.support.owning import CHROME, assert_none_comes_back, logged_in
from tests.support.servers import missing
from tests.support.servers_database import databases
from testservers import Missing
from testservers.registry import STORES, running

__all__ = ["databases"]

pytestmark = pytest.mark.each_django

#: Entries of SESSION_STORES and DATABASES, and whether a cache is to be in front.
Started = tuple[dict[str, Any], dict[str, Any] | None, bool]

LAYERED = {
    "BACKEND": "django_kvsessions.stores.layered.LayeredStore",
    "OPTIONS": {"cache": "cache", "store": "store"},
}
MEMORY = {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"}
#: Each store, and those of which a cache in front is another way to all of it. The drivers of
#: libSQL and SurrealDB are where the servers are.
NAMES = [
    pytest.param(
        (name, is_layered),
        marks=[pytest.mark.servers] if entry.server or name in ("libsql", "surrealkv") else [],
    )
    for name, entry in STORES.items()
    for is_layered in (False, True)
    if not is_layered or name in ("semidbm", "redis")
]


@pytest.fixture(scope="module", params=NAMES)
def entry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    name, is_layered = request.param
    folder = tmp_path_factory.mktemp(name)
    with ExitStack() as stack:
        try:
            store, database = stack.enter_context(running(name, folder))
        except Missing as reason:
            missing(reason)
        if store["BACKEND"].endswith(".DatabaseStore"):
            store = {**store, "LOCATION": f"owners-{name}"}
            database = database or sqlite_database(folder / "db")
        yield store, database, is_layered


@pytest.fixture(autouse=True)
def _site(entry: Started, databases: None) -> Iterator[None]:
    store, database, is_layered = entry
    if database is not None:
        add_database(store["LOCATION"], database)
    configured = {"default": store}
    if is_layered:
        configured = {"default": LAYERED, "cache": MEMORY, "store": store}
    with override_settings(SESSION_STORES=configured):
        stores["default"].setup()
        yield
        for user in ("7", "8"):
            end_sessions(user)
        stores.close_all()
        connections.close_all()


def test_sessions_are_listed_by_their_owner_and_end_for_good() -> None:
    mine, other = [logged_in("7") for _ in range(3)], logged_in("8")
    mine[1].cycle_key()
    mine[1].touch()
    found = listed("7")
    assert {each.public_id for each in found} == {each.public_id for each in mine}
    assert {each.user_agent for each in found} == {CHROME}
    assert not end_session("7", str(other.public_id))
    assert end_session("7", str(mine[0].public_id))
    assert not end_session("7", str(mine[0].public_id))
    mine[1]["a"] = 1
    mine[1].save()
    assert end_sessions("7", keep=mine[1]) == 1
    assert [each.public_id for each in listed("7")] == [mine[1].public_id]
    assert [each.public_id for each in listed("8")] == [other.public_id]


def test_they_are_listed_and_ended_in_async() -> None:
    mine = [logged_in("7") for _ in range(2)]

    async def end_one() -> tuple[set[str], bool, bool]:
        found = {each.public_id for each in await asessions_of("7")}
        ended = await aend_session("7", str(mine[0].public_id))
        return found, ended, await aend_session("7", str(mine[0].public_id))

    assert asyncio.run(end_one()) == ({str(each.public_id) for each in mine}, True, False)
    assert [each.public_id for each in listed("7")] == [mine[1].public_id]


def test_a_limit_holds() -> None:
    with override_settings(SESSION_MAX_PER_USER=2):
        mine = [logged_in("7") for _ in range(4)]
        assert {each.public_id for each in listed("7")} == {each.public_id for each in mine[2:]}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_none_comes_back_while_requests_of_it_go_on(asynchronous: bool) -> None:
    assert_none_comes_back(asynchronous=asynchronous, within=in_thread)


def in_thread(function: Callable[[], object]) -> None:
    disconnecting(function)
