"""What only shows over HTTP: requests a second under ASGI, and lost updates."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path

from benchmarks.engines import CONTENDERS, DJANGO, OURS
from benchmarks.parts import Result, put
from benchmarks.processes import ROOT, Population, progress

ASGI_CONTENDERS = (OURS, "db", "db-wal", "file", "cache-locmem")
RACE_CONTENDERS = (OURS, "db-wal", "file", "cache-diskcache")
SESSIONS = 200
CONNECTIONS = 16
CLIENTS = 16
STEPS = 100
START_LIMIT = 30  # seconds


def middleware(name: str) -> str:
    """The package's own for its engine, Django's for Django's."""
    ours = "django_kvsessions.middleware"
    return ours if name == OURS and find_spec(ours) else f"{DJANGO}.middleware"


def asgi(names: list[str], folder: Path, *, rounds: int, seconds: float) -> Result:
    """Requests a second of one uvicorn worker: contender, view, one figure per round."""
    names = [name for name in ASGI_CONTENDERS if name in names]
    result: Result = {}
    with ExitStack() as stack:
        ports, cookies = {}, {}
        for name in names:
            command = ["uvicorn", "benchmarks.site:asgi", "--workers=1", "--log-level=warning"]
            port = free_port()
            command += ["--host=127.0.0.1", f"--port={port}", "--lifespan=off"]
            stack.enter_context(server(command, name, folder, port))
            ports[name] = port
            cookies[name] = asyncio.run(start_sessions(port, "/async/start", SESSIONS))
        tasks = [(name, view) for name in names for view in ("plain", "read", "write")]
        for _ in progress(range(rounds), "ASGI"):
            random.shuffle(tasks)
            for name, view in tasks:
                rate = asyncio.run(
                    request_rate(ports[name], f"/async/{view}", cookies[name], seconds)
                )
                put(result, rate, name, view)
    return result


def races(names: list[str], folder: Path, *, clients: int = CLIENTS, steps: int = STEPS) -> Result:
    """How much of what parallel requests write into one session is there at the end."""
    result: Result = {}
    names = [name for name in RACE_CONTENDERS if name in names]
    for name in progress(names, "lost updates"):
        port = free_port()
        command = ["gunicorn", "benchmarks.site:wsgi", "--workers=2", "--threads=16"]
        command += [f"--bind=127.0.0.1:{port}", "--log-level=warning"]
        with server(command, name, folder, port):
            result[name] = asyncio.run(race(port, clients, steps))
    return result


async def race(port: int, clients: int, steps: int) -> Result:
    (cookie,) = await start_sessions(port, "/race/start", 1)

    async def racer(number: int) -> int:
        """How many of its requests were answered with success."""
        done = 0
        async with Client.connected(port) as client:
            for step in range(steps):
                status, _, _ = await client.get(f"/race/{number}/{step}", cookie)
                done += status == 200
        return done

    acknowledged = sum(await asyncio.gather(*(racer(number) for number in range(clients))))
    async with Client.connected(port) as client:
        status, _, body = await client.get("/race/result", cookie)
    if status != 200:
        raise RuntimeError(f"/race/result answered {status}.")
    kept = json.loads(body)
    return {
        "sent": clients * steps,
        "acknowledged": acknowledged,
        "keys": len(kept["keys"]),
        "counters": sum(kept["counters"].values()),
        "common": kept["common"],
    }


@contextmanager
def server(command: list[str], name: str, folder: Path, port: int) -> Iterator[None]:
    folder = folder / f"{command[0]}-{name}"
    # Makes the tables, before several workers would do so at once.
    Population(CONTENDERS[name], 0, folder).fill()
    environment = {
        **os.environ,
        "BENCHMARK_CONTENDER": name,
        "BENCHMARK_FOLDER": str(folder),
        "BENCHMARK_MIDDLEWARE": middleware(name),
    }
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment)
    try:
        deadline = time.monotonic() + START_LIMIT
        while not is_listening(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not start for {name}.")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Client:
    """Requests over one kept-alive connection, in few lines so that it costs little itself."""

    def __init__(self, port: int) -> None:
        self._port = port

    @classmethod
    @asynccontextmanager
    async def connected(cls, port: int) -> AsyncIterator[Client]:
        client = cls(port)
        await client._open()
        try:
            yield client
        finally:
            client._writer.close()
            await client._writer.wait_closed()

    async def _open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def get(self, path: str, cookie: str = "") -> tuple[int, str, bytes]:
        """Status, session cookie that was set (or empty), body."""
        request = f"GET {path} HTTP/1.1\r\nHost: testserver\r\nCookie: sessionid={cookie}\r\n\r\n"
        self._writer.write(request.encode())
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        pairs = (line.partition(": ") for line in lines if line)
        headers = {name.lower(): value for name, _, value in pairs}
        if headers.get("transfer-encoding") == "chunked":
            body = await self._chunks()
        else:
            body = await self._reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self._writer.close()
            await self._open()
        given = headers.get("set-cookie", "").partition("sessionid=")[2].partition(";")[0]
        return int(status.split()[1]), given, body

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self._reader.readline(), 16):
            body += await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()
        return body


async def start_sessions(port: int, path: str, count: int) -> list[str]:
    async with Client.connected(port) as client:
        return [(await client.get(path))[1] for _ in range(count)]


async def request_rate(port: int, path: str, cookies: list[str], seconds: float) -> float:
    """Successful requests a second over several connections; any other answer is an error."""

    async def visitor() -> int:
        count = 0
        async with Client.connected(port) as client:
            while time.perf_counter() < deadline:
                status, _, _ = await client.get(path, random.choice(cookies))
                if status != 200:
                    raise RuntimeError(f"{path} answered {status}.")
                count += 1
        return count

    start = time.perf_counter()
    deadline = start + seconds
    counts = await asyncio.gather(*(visitor() for _ in range(CONNECTIONS)))
    return float(sum(counts) / (time.perf_counter() - start))
