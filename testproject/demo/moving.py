"""The site moves to another session engine and back, while its visitors are there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from demo.residents import MoveTally, Resident
from demo.traffic import Traffic
from demo.visitors import Browser, CutOff, EndOfVisit
from testservers import Server

BACK = "django_kvsessions.moving.back"
#: Seconds that it may take until another worker has taken the place of one, on any machine.
PATIENCE = 300
BOOTED = re.compile(r"Booting worker with pid: (\d+)")
MOVED = re.compile(r"^Moved: ([\d,]+);.* failed: 0;", re.MULTILINE)


class Move(Traffic):
    """The switches of docs/moving.md, worker by worker, so that old and new ones overlap."""

    tally: MoveTally

    def __init__(
        self,
        server: Server,
        tally: MoveTally,
        manage: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        workers: int,
    ) -> None:
        """``log`` is gunicorn's, which says what workers there are."""
        super().__init__(server, tally, [*manage, "clearsessions"], environment)
        self.manage = manage
        self.log = log
        self.size = workers
        self.is_over = False
        self.browsers: list[Browser] = []
        self.door = self.browser()

    async def move(
        self, former: str, engine: str, requests: int, clients: int, seconds: float
    ) -> None:
        """There and back, with so many requests in all between the steps, unless it takes long."""
        self.share, self.until = requests / 6, time.monotonic() + seconds
        # Of those who are away meanwhile, some come back in the new house, and some after it.
        busy, early, late = (self.residents(clients) for _ in range(3))
        everybody = [*busy, *early, *late]
        try:
            await asyncio.gather(*(each.settle() for each in everybody))
            self.tally.settled = sum(not each.has_left for each in everybody)
            life = asyncio.gather(*map(self.stay, busy), *(self.host() for _ in busy))
            try:
                await self.there(former, engine, early)
                await self.and_back(former)
            finally:
                self.is_over = True
                await life
            await asyncio.gather(*(each.come_back() for each in everybody))
            await self.switch(SESSION_ENGINE=former)
            await asyncio.gather(*(each.come_back() for each in everybody))
            self.tally.stayed = sum(not each.has_left for each in everybody)
            await asyncio.gather(*(each.leave() for each in everybody))
            await self.replay_all(self.tally.ended, self.browsers)
        finally:
            for browser in self.browsers:
                await browser.client.aclose()

    async def there(self, former: str, engine: str, early: Sequence[Resident]) -> None:
        await self.let_pass()
        await self.switch(SESSION_ENGINE=BACK, SESSION_MOVE_BACK_TO=former)
        await self.let_pass()
        await self.switch(SESSION_ENGINE=engine, SESSION_FALLBACK_ENGINES=[former])
        # Some end their sessions with the first request to them in the new house.
        await asyncio.gather(*(each.leave(is_held=True) for each in early[::4]))
        await self.let_pass()
        self.kill_worker()
        await self.migrate(former)
        await asyncio.gather(*(each.come_back() for each in early))
        await asyncio.gather(*(each.leave(is_held=True) for each in early[1::4]))
        await self.let_pass()

    async def and_back(self, former: str) -> None:
        await self.switch(SESSION_ENGINE=BACK, SESSION_MOVE_BACK_TO=former)
        await self.let_pass()

    # The visitors

    def browser(self) -> Browser:
        self.browsers.append(Browser(self.url, self.tally))
        return self.browsers[-1]

    def resident(self, browser: Browser, tab: Browser) -> Resident:
        return Resident(next(self.numbers), browser, tab, self.tally)

    def residents(self, number: int) -> list[Resident]:
        return [self.resident(self.browser(), self.browser()) for _ in range(number)]

    async def stay(self, resident: Resident) -> None:
        while not (self.is_over or resident.has_left):
            await resident.come_back()

    async def host(self) -> None:
        """Guests, one after the other, who log in, do some shopping, and log out."""
        browser, tab = self.browser(), self.browser()
        while not self.is_over:
            guest = self.resident(browser, tab)
            await guest.settle()
            await guest.come_back()
            await guest.leave()

    async def let_pass(self) -> None:
        target = self.tally.requests + self.share
        # A look costs little.
        while self.tally.requests < target and time.monotonic() < self.until:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    # The site

    def workers(self) -> list[int]:
        """Those that run, also before they have answered anything."""
        return [
            int(each) for each in BOOTED.findall(self.log.read_text()) if self.is_ours(int(each))
        ]

    async def switch(self, **setting: Any) -> None:
        """Give the site other settings, and each worker the time to be replaced."""
        draft = self.keys.with_name("engine.json.new")
        draft.write_text(json.dumps(setting))
        draft.replace(draft.with_suffix(""))
        until = time.monotonic() + PATIENCE
        while len(self.workers()) < self.size:
            await pause(until)
        for worker in self.workers():
            until = time.monotonic() + PATIENCE
            known = {*self.workers(), *self.tally.workers}
            while self.end(worker):
                await pause(until)
            while self.tally.workers <= known:
                await self.knock()
                await pause(until)
        self.tally.switches += 1

    def end(self, worker: int) -> bool:
        """Ask a worker to end in good order, if it runs."""
        # What it was doing when it ended may be cut off.
        self.tally.killed_at = time.monotonic()
        if not self.is_ours(worker):
            return False
        # More than once, as one that starts up hears nothing yet.
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)
        return True

    async def knock(self) -> None:
        """Let any worker answer, without a session."""
        with suppress(CutOff, EndOfVisit):
            await self.door.send("GET", "/nowhere/", None)

    async def migrate(self, former: str) -> None:
        line = [*self.manage, "migratesessions", "--from", former, "--delete"]
        process = await asyncio.create_subprocess_exec(
            *line, env={**os.environ, **self.environment}, stdout=PIPE, stderr=PIPE
        )
        output, complaint = await process.communicate()
        if found := MOVED.search(output.decode()):
            self.tally.moved_in_bulk = int(found[1].replace(",", ""))
        if process.returncode or not found:
            said = (output + complaint).decode().strip()
            self.tally.errors.append(f"migratesessions failed: {said}")


async def pause(until: float) -> None:
    if time.monotonic() > until:
        raise RuntimeError(f"gunicorn did not replace a worker within {PATIENCE} seconds.")
    await asyncio.sleep(0.05)
