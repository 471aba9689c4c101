"""The clean-up of an engine in this process, which no other process can do."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from django_kvsessions.stores.base import now
from django_kvsessions.stores.surrealdb.driver import Driver, Locked, Lost, Refused
from django_kvsessions.stores.surrealdb.holder import sign

__all__ = ["Cleaning"]

# Writes take turns: so many take about 20 ms.
_BATCH = 100

logger = logging.getLogger("django_kvsessions")


class Cleaning:
    """Removes all that has expired, every so many seconds, in small batches with pauses."""

    def __init__(self, driver: Driver, sql: str, interval: float, lock: str | None) -> None:
        """``sql``: removes those expired at ``$moment``, at most ``$limit``, and returns a row
        for each."""
        self._driver = driver
        self._sql = sql
        self._interval = interval
        self._lock = lock
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        self._task = asyncio.current_task()
        while not await self._is_over(self._interval):
            # Only requests may take the file: another process may be meant to have it.
            if not self._driver.is_open:
                continue
            try:
                await self._round()
            except (Refused, Lost, Locked) as error:
                logger.warning(
                    "SurrealDB: expired sessions were not removed, and will be next time: %s", error
                )

    async def end(self) -> None:
        """Return after the batch under way."""
        self._ending.set()
        if self._task is not None:
            await self._task

    async def _round(self) -> None:
        moment, count = now(), _BATCH
        while count == _BATCH:
            started = time.monotonic()
            values = {"moment": moment, "limit": _BATCH}
            count = len(await self._driver.query(self._sql, values))
            # The requests' turn, for as long as this one's was.
            if await self._is_over(time.monotonic() - started):
                return
        if self._lock is not None:
            sign(self._lock)

    async def _is_over(self, seconds: float) -> bool:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)
        return self._ending.is_set()
