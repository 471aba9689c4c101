"""The demo's site and visitors while the server of its sessions is stopped, killed, paused and
made read-only: errors meanwhile, and afterwards everybody is there with all that was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from demo.tally import Tally
from demo.visitors import Browser, EndOfVisit, Visitor
from tests.support.servers import serve
from testservers import Server
from testservers.mysql import django_database as mysql_database
from testservers.mysql import mariadb_server
from testservers.postgres import django_database as postgres_database
from testservers.postgres import postgres_server
from testservers.redis import command, redis_server, valkey_server

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]
MANAGE = [sys.executable, str(ROOT / "testproject/manage.py")]
GUNICORN = [
    *("gunicorn", "website.wsgi", "--config", "python:demo.gunicorn_config"),
    *("--workers", "2", "--threads", "4", "--log-level", "critical"),
]
UVICORN = ["uvicorn", "website.asgi:application", "--workers", "2", "--log-level", "critical"]
VISITORS = 6

#: Seconds that a fault lasts, and until what waits in a server that runs again is done.
FAULT, SETTLE = 0.6, 0.4
#: Seconds that the site waits for Redis, and those for which that is paused, so that it gives up.
PATIENCE, LONG_PAUSE = 0.8, 1.4
#: Seconds that a request may take: the timeouts of a load and a save, twice, on a busy machine.
LONGEST = 15


class Fault(NamedTuple):
    name: str
    begin: Callable[[], object]
    end: Callable[[], object]
    seconds: float = FAULT


class Case(NamedTuple):
    """A server, and the site that keeps its sessions there."""

    server: Server
    #: SESSION_STORES["default"].
    store: dict[str, Any]
    #: Where the site is not on SQLite.
    database: dict[str, Any] | None
    make_read_only: Callable[[bool], object]
    #: Seconds for which the site waits for it.
    patience: float
    #: Seconds that it is paused.
    pause: float = FAULT
    #: Whether a request gives up on it meanwhile, instead of waiting.
    gives_up: bool = True

    def faults(self) -> Iterator[Fault]:
        server = self.server
        yield Fault("stopped", server.stop, server.start)
        yield Fault("killed", server.kill, server.start)
        yield Fault("paused", server.pause, server.resume, self.pause)
        make_read_only, make_writable = (partial(self.make_read_only, it) for it in (True, False))
        yield Fault("read-only", make_read_only, make_writable)


def redis_store(server: Server) -> dict[str, Any]:
    return {
        "BACKEND": "django_kvsessions.stores.redis.RedisStore",
        "LOCATION": f"redis://127.0.0.1:{server.port}/0",
        "OPTIONS": {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE},
    }


DATABASE_STORE = {
    "BACKEND": "django_kvsessions.stores.database.DatabaseStore",
    "LOCATION": "default",
}


@pytest.fixture
def redis() -> Iterator[Case]:
    for server in serve(partial(redis_server, durable=True)):

        def make_read_only(is_it: bool, port: int = server.port) -> None:
            answer = command(port, f"CONFIG SET min-replicas-to-write {int(is_it)}")
            assert answer.startswith(b"+OK")

        yield Case(server, redis_store(server), None, make_read_only, PATIENCE, pause=LONG_PAUSE)


@pytest.fixture
def valkey() -> Iterator[Case]:
    for server in serve(partial(valkey_server, durable=True)):

        def make_read_only(is_it: bool, port: int = server.port) -> None:
            primary = "127.0.0.1 1" if is_it else "NO ONE"
            assert command(port, f"REPLICAOF {primary}").startswith(b"+OK")

        yield Case(server, redis_store(server), None, make_read_only, PATIENCE, pause=LONG_PAUSE)


@pytest.fixture
def postgres() -> Iterator[Case]:
    import psycopg

    for server in serve(partial(postgres_server, durable=True)):

        def make_read_only(is_it: bool, port: int = server.port) -> None:
            where = f"host=127.0.0.1 port={port} user=test dbname=test"
            with closing(psycopg.connect(where, autocommit=True)) as connection:
                setting = f"default_transaction_read_only = {'on' if is_it else 'off'}"
                connection.execute(f"ALTER SYSTEM SET {setting}")
                connection.execute("SELECT pg_reload_conf()")

        # Its driver waits for an answer for as long as the connection stands.
        database = postgres_database(server, connect_timeout=2)
        yield Case(server, DATABASE_STORE, database, make_read_only, 2, gives_up=False)


@pytest.fixture
def mariadb() -> Iterator[Case]:
    import MySQLdb

    for server in serve(partial(mariadb_server, durable=True)):

        def execute(sql: str, port: int = server.port) -> None:
            with closing(MySQLdb.connect(host="127.0.0.1", port=port, user="root")) as connection:
                connection.query(sql)

        def make_read_only(is_it: bool) -> None:
            execute(f"SET GLOBAL read_only = {int(is_it)}")

        # A superuser writes all the same.
        execute("CREATE USER site")
        execute("GRANT ALL ON test.* TO site")
        timeouts = {"connect_timeout": 1, "read_timeout": 1, "write_timeout": 1}
        database = {**mysql_database(server, **timeouts), "USER": "site"}
        # Those requests are asked again on new connections, and find out what was done.
        yield Case(server, DATABASE_STORE, database, make_read_only, 1, pause=1.2, gives_up=False)


class Shopper(Visitor):
    """Comes by and fills a cart for as long as the shop is open."""

    steps = 0

    async def arrive(self) -> None:
        self.browser.start()
        await self.introduce()
        await self.log_in()
        self.cookie = self.browser.cookie

    async def shop(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.add_or_remove()
            await self.come_by()
            self.steps += 1
            await asyncio.sleep(0.02)

    async def leave(self) -> None:
        await self.come_by()
        assert self.browser.cookie == self.cookie
        await self.log_out()
        await self.replay(self.cookie)


async def visit(url: str, tally: Tally, case: Case) -> None:
    shoppers = [
        Shopper(number, Browser(url, tally), Browser(url, tally), tally)
        for number in range(VISITORS)
    ]
    stop = asyncio.Event()
    try:
        await asyncio.gather(*(shopper.arrive() for shopper in shoppers))
        shopping = [asyncio.ensure_future(shopper.shop(stop)) for shopper in shoppers]
        try:
            for fault in case.faults():
                await all_get_on(shoppers, shopping)
                tally.refused.clear()
                tally.waited.clear()
                is_noticed = fault.name != "paused" or case.gives_up
                await disturb(fault, tally, until_noticed=is_noticed)
                assert tally.refused or not is_noticed
                # There every load succeeds, and no save.
                assert fault.name != "read-only" or set(tally.refused - tally.waited) <= {503}
            await all_get_on(shoppers, shopping)
        finally:
            stop.set()
            await asyncio.wait(shopping)
        await asyncio.gather(*shopping, *(shopper.leave() for shopper in shoppers))
    finally:
        for shopper in shoppers:
            await shopper.browser.client.aclose()
            await shopper.tab.client.aclose()


async def disturb(fault: Fault, tally: Tally, *, until_noticed: bool) -> None:
    tally.disturbed = True
    await asyncio.to_thread(fault.begin)
    await asyncio.sleep(fault.seconds)
    # On a busy machine nobody may have come by yet.
    for _ in range(1500):
        if tally.refused or not until_noticed:
            break
        await asyncio.sleep(0.02)
    await asyncio.to_thread(fault.end)
    await asyncio.sleep(SETTLE)
    tally.disturbed = False


async def all_get_on(shoppers: Sequence[Shopper], shopping: Sequence[asyncio.Future[None]]) -> None:
    """Each of them does something, now that the server is well."""
    before = [shopper.steps for shopper in shoppers]
    deadline = time.monotonic() + 30
    while any(shopper.steps < steps + 2 for shopper, steps in zip(shoppers, before, strict=True)):
        for future in shopping:
            if future.done():
                # It ended too early: say why.
                await future
                raise AssertionError("a visitor went away")
        assert time.monotonic() < deadline, "the visitors do not get on"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "command"),
    [("redis", GUNICORN), ("valkey", UVICORN), ("postgres", GUNICORN), ("mariadb", GUNICORN)],
)
def test_faults_of_the_server_are_errors_and_neither_logouts_nor_losses(
    name: str, command: list[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    case: Case = request.getfixturevalue(name)
    environment = {
        "DJANGO_SETTINGS_MODULE": "website.settings",
        "KVSESSIONS_DEMO": "1",
        "KVSESSIONS_STORES": json.dumps({"default": case.store}),
        "KVSESSIONS_DATABASE": json.dumps(case.database or {}),
        "KVSESSIONS_VAR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "testproject"), str(ROOT)]),
        # Python's dev mode is for the tests, and slow.
        "PYTHONDEVMODE": "",
    }
    # Which may take longer than the site has patience for.
    patient = {**case.database, "OPTIONS": {}} if case.database else {}
    subprocess.run(
        [*MANAGE, "migrate", "--verbosity", "0"],
        env={**os.environ, **environment, "KVSESSIONS_DATABASE": json.dumps(patient)},
        check=True,
    )

    def line(_: Path, port: int) -> list[str]:
        where = (
            ["--bind", f"127.0.0.1:{port}"]
            if command[0] == "gunicorn"
            else ["--host", "127.0.0.1", "--port", str(port)]
        )
        return [sys.executable, "-m", *command, *where]

    tally = Tally(patience=case.patience)
    with Server(line, env=environment) as site:
        try:
            with suppress(EndOfVisit):
                asyncio.run(visit(f"http://127.0.0.1:{site.port}", tally, case))
            assert tally.findings() == []
            assert tally.ended
            assert max(tally.latencies) < LONGEST
        except AssertionError:
            print(site.log.read_text()[-20_000:])
            raise
