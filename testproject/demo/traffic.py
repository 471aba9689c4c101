"""The concurrent visitors, and what happens to the site meanwhile."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import time
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from django.conf import settings
from tqdm import tqdm

from demo.tally import Tally
from demo.visitors import Browser, EndOfVisit, Visitor, replay
from testservers import Server

CLEARED = re.compile(r"^Removed ([\d,]+) expired session", re.MULTILINE)


class Traffic:
    def __init__(
        self,
        server: Server,
        tally: Tally,
        clearsessions: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        """``clearsessions`` is the command line that runs it."""
        self.keys = Path(environment["KVSESSIONS_VAR"]) / "secret_keys.json"
        self.server = server
        self.tally = tally
        self.clearsessions = clearsessions
        self.environment = environment
        self.url = f"http://127.0.0.1:{server.port}"
        self.numbers = count(1)

    async def run(self, requests: int, clients: int, seconds: float) -> None:
        """Make so many requests, at least, unless the time is up."""
        browsers = [Browser(self.url, self.tally) for _ in range(2 * clients)]
        try:
            # So that the start of the workers is not measured.
            await Browser(self.url, Tally()).open("/login/")
            self.target, self.seconds, self.started = requests, seconds, time.monotonic()
            await asyncio.gather(self.visit(browsers), self.disturb(), self.show_progress())
            await self.come_again(browsers)
        finally:
            for browser in browsers:
                await browser.client.aclose()

    @property
    def progress(self) -> float:
        """The share of the requests that was made, or of the time that has passed."""
        elapsed = time.monotonic() - self.started
        return max(self.tally.requests / self.target, elapsed / self.seconds)

    async def visit(self, browsers: Sequence[Browser]) -> None:
        await asyncio.gather(*map(self.client, browsers[::2], browsers[1::2]))
        self.tally.busy = (self.tally.requests, time.monotonic() - self.started)

    async def client(self, browser: Browser, tab: Browser) -> None:
        while self.progress < 1:
            await Visitor(next(self.numbers), browser, tab, self.tally).visit()

    async def disturb(self) -> None:
        """Rotate SECRET_KEY, kill a worker after a third of the requests, and clear sessions."""
        await self.wait_for(1 / 8)
        await self.rotate_secret_key()
        await self.wait_for(1 / 3)
        # Those that came with the new key may be answering their first requests only now.
        while not self.kill_worker() and self.progress < 1:  # noqa: ASYNC110 (a look costs little)
            await asyncio.sleep(0.01)
        await self.wait_for(2 / 3)
        await self.clear()

    async def wait_for(self, share: float) -> None:
        # A look now and then costs less than waking a waiter after each request.
        while self.progress < share:  # noqa: ASYNC110 (as said)
            await asyncio.sleep(0.005)

    async def show_progress(self) -> None:
        # disable=None: on a terminal only.
        with tqdm(total=self.target, unit=" requests", leave=False, disable=None) as bar:
            while self.progress < 1:
                bar.update(min(self.tally.requests, self.target) - bar.n)
                await asyncio.sleep(0.1)

    async def rotate_secret_key(self) -> None:
        """As Django's documentation has it, for workers of which some are older than others:
        first all of them learn the new key, then it is used."""
        former, new = settings.SECRET_KEY, "the next one, and as public as the first"
        self.keys.write_text(json.dumps([former, new]))
        await self.replace_workers()
        self.tally.key_since = math.inf
        self.keys.write_text(json.dumps([new, former]))
        await self.replace_workers()
        self.tally.key_since = time.monotonic()
        self.tally.rotated += 1

    async def replace_workers(self) -> None:
        """Let gunicorn start new workers, and wait until those from before have ended."""
        assert self.server.process is not None
        former = self.tally.workers.copy()
        self.server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while any(map(self.is_ours, former)) and time.monotonic() < deadline:
            # What they were doing when they ended may be cut off.
            self.tally.killed_at = time.monotonic()
            await asyncio.sleep(0.05)

    def kill_worker(self) -> bool:
        """Whether there was one."""
        for worker in (self.tally.last_worker, *self.tally.workers):
            if self.is_ours(worker):
                self.tally.killed += 1
                self.tally.killed_at = time.monotonic()
                os.kill(worker, signal.SIGKILL)
                return True
        return False

    def is_ours(self, worker: int) -> bool:
        """Whether the number out of a response is a process of the site's that runs."""
        assert self.server.process is not None
        try:
            return worker > 0 and os.getpgid(worker) == self.server.process.pid
        except ProcessLookupError:
            return False

    async def clear(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *self.clearsessions, env={**os.environ, **self.environment}, stdout=PIPE, stderr=PIPE
        )
        output, complaint = await process.communicate()
        if process.returncode:
            self.tally.errors.append(f"clearsessions failed: {complaint.decode().strip()}")
        elif found := CLEARED.search(output.decode()):
            self.tally.cleared = (self.tally.cleared or 0) + int(found[1].replace(",", ""))

    async def come_again(self, browsers: Sequence[Browser]) -> None:
        """With each cookie that is over: once it has expired, and when all was cleared."""
        await asyncio.sleep(max(0.0, self.tally.all_expired + 0.1 - time.time()))
        await self.replay_all(self.tally.expiring, browsers)
        await self.clear()
        await self.replay_all({**self.tally.expiring, **self.tally.ended}, browsers)

    async def replay_all(self, cookies: Mapping[str, str], browsers: Sequence[Browser]) -> None:
        left = list(cookies.items())

        async def take_turns(browser: Browser) -> None:
            while left:
                with suppress(EndOfVisit):
                    await replay(*left.pop(), browser, self.tally)

        await asyncio.gather(*map(take_turns, browsers))
