"""What only shows over HTTP: requests a second under ASGI, and lost updates."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path

from benchmarks import measure as measuring
from benchmarks import report
from benchmarks.arena import Population, environment, progress
from benchmarks.command import Command, add_list, add_rounds
from benchmarks.contenders import CONTENDERS, DJANGO, EMBEDDED, OURS, REQUESTS
from benchmarks.measure import Result
from benchmarks.report import Target
from testservers import Server

SESSIONS = 200
CLIENTS = 16
STEPS = 100
KEPT = {"keys": "keys", "counters": "nested counters", "common": "mutate"}


class ASGI(Command):
    """Requests a second of one uvicorn worker, by views that read or write the session."""

    targets = (
        Target("reads, times locmem", 1.5, f"asgi/{OURS}/read", "asgi/cache-locmem/read", True),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_rounds(parser, 3)
        parser.add_argument("--seconds", type=float, default=2, help="of each turn")
        default = (OURS, "db-sqlite", "db-sqlite-wal", "file", "cache-locmem")
        add_list(parser, "--engines", EMBEDDED, default)

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        """Contender, view, one figure a round."""
        result: Result = {}
        with ExitStack() as stack:
            ports, cookies = {}, {}
            for name in options.engines:
                ports[name] = stack.enter_context(site(name, folder, UVICORN)).port
                cookies[name] = start_sessions(ports[name])
            tasks = [(name, view) for name in options.engines for view in REQUESTS]
            for _ in progress(range(options.rounds), "ASGI"):
                for name, view in measuring.shuffled(tasks):
                    found = rate(ports[name], f"/async/{view}", cookies[name], options.seconds)
                    measuring.put(result, found, name, view)
        results["asgi"] = result

    def render(self, results: Result) -> Iterator[str]:
        if found := results.get("asgi"):
            title = "ASGI, one uvicorn worker: requests a second, median (min-max)"
            yield report.grid(title, found, REQUESTS)


class Races(Command):
    """How much of what parallel requests write into one session is there at the end."""

    targets = tuple(
        Target(f"parallel changes lost, {title}", 0, f"lost/{OURS}/{what}")
        for what, title in KEPT.items()
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--steps", type=int, default=STEPS, help="of each racing client")
        default = (OURS, "db-sqlite-wal", "file", "cache-diskcache")
        add_list(parser, "--engines", EMBEDDED, default)

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        results["races"] = races(options.engines, folder, steps=options.steps)
        results["lost"] = {
            name: {what: [row["sent"] - row[what]] for what in KEPT}
            for name, row in results["races"].items()
        }

    def render(self, results: Result) -> Iterator[str]:
        if found := results.get("races"):
            rows = [
                [report.label(name), *(f"{row[key]:,}" for key in ("acknowledged", *KEPT))]
                for name, row in found.items()
            ]
            sent = next(iter(found.values()))["sent"]
            title = f"Of {sent:,} parallel changes of one session over HTTP, 2 worker processes"
            yield report.table(title, ["acknowledged", *KEPT.values()], rows)


def races(names: Sequence[str], folder: Path, *, steps: int = STEPS) -> Result:
    """By contender: the changes that were sent, acknowledged, and kept."""
    result: Result = {}
    for name in progress(names, "lost updates"):
        with site(name, folder, GUNICORN) as server:
            result[name] = race(server.port, steps)
    return result


def race(port: int, steps: int) -> Result:
    with closing(Visitor(port)) as first:
        first.get("/race/start")

        def racer(number: int) -> int:
            """How many of its requests were answered with success."""
            with closing(Visitor(port, first.cookie)) as visitor:
                paths = [f"/race/{number}/{step}" for step in range(steps)]
                return sum(visitor.get(path)[0] == 200 for path in paths)

        with ThreadPoolExecutor(CLIENTS) as pool:
            acknowledged = sum(pool.map(racer, range(CLIENTS)))
        # The server has closed a connection that was idle for the whole race.
        first.close()
        status, body = first.get("/race/result")
    if status != 200:
        raise RuntimeError(f"/race/result answered {status}.")
    return {"sent": CLIENTS * steps, "acknowledged": acknowledged, **json.loads(body)}


def start_sessions(port: int) -> list[str]:
    """Their cookies."""
    visitors = [Visitor(port) for _ in range(SESSIONS)]
    for visitor in visitors:
        visitor.get("/async/start")
        visitor.close()
    return [visitor.cookie for visitor in visitors]


def rate(port: int, path: str, cookies: list[str], seconds: float) -> float:
    """Successful requests a second over several connections; any other answer is an error."""

    def visit(_: int) -> int:
        count = 0
        with closing(Visitor(port)) as visitor:
            while time.perf_counter() < deadline:
                visitor.cookie = random.choice(cookies)
                status, _body = visitor.get(path)
                if status != 200:
                    raise RuntimeError(f"{path} answered {status}.")
                count += 1
        return count

    start = time.perf_counter()
    deadline = start + seconds
    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(visit, range(CLIENTS))) / (time.perf_counter() - start)


# The site behind a server, and its visitors

UVICORN = "uvicorn benchmarks.site:asgi --port={port} --lifespan=off --log-level=warning"
GUNICORN = "gunicorn benchmarks.site:wsgi --bind=127.0.0.1:{port} --workers=2 --threads=16"


def site(name: str, folder: Path, program: str) -> Server:
    """A server of one contender's site, for ``with``."""
    contender = CONTENDERS[name]
    population = Population(contender, 0, folder / f"site-{name}")
    # Makes the tables, before several workers would do so at once.
    population.fill()
    middleware = "django_kvsessions" if contender.is_ours else DJANGO
    return Server(
        lambda _, port: [sys.executable, "-m", *program.format(port=port).split()],
        env=environment(contender, population.place, middleware=f"{middleware}.middleware"),
    )


class Visitor:
    """Requests over one connection that is kept alive."""

    def __init__(self, port: int, cookie: str = "") -> None:
        self.cookie = cookie
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; a cookie that is set is kept."""
        self._connection.request("GET", path, headers={"Cookie": f"sessionid={self.cookie}"})
        response = self._connection.getresponse()
        if given := SimpleCookie(response.headers["Set-Cookie"] or "").get("sessionid"):
            self.cookie = given.value
        return response.status, response.read()

    def close(self) -> None:
        self._connection.close()
