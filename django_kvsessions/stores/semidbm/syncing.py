"""When a log goes to the disk: with each write, shared by those that wait, or once a second."""

from __future__ import annotations

import logging
import threading
import time

from django_kvsessions.stores.semidbm.generation import Generation
from django_kvsessions.stores.semidbm.journal import Journal
from django_kvsessions.stores.semidbm.log import LogFile

__all__ = ["Syncer"]

logger = logging.getLogger("django_kvsessions")

#: Seconds that an acknowledged write may stay unsynced with durability "interval".
SYNC_INTERVAL = 1.0
#: Seconds without a write after which the syncing thread ends.
IDLE_SYNCER = 10.0


class Syncer:
    """Brings a journal's log to the disk."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        #: Whether something written waits for the thread that syncs.
        self.unsynced = threading.Event()
        self._syncing = threading.Lock()
        self._synced: tuple[LogFile | None, int] = (None, 0)
        self._thread: threading.Thread | None = None

    def sync(self, generation: Generation) -> None:
        """Return when all that was written so far is on disk; waiting writers share one sync."""
        log, end = generation.log, generation.end
        with self._syncing:
            if self._synced[0] is log and self._synced[1] >= end:
                return
            end = generation.end
            log.sync()
            self._synced = (log, end)

    def sync_soon(self) -> None:
        """Within SYNC_INTERVAL seconds, by a thread."""
        with self._syncing:
            self.unsynced.set()
            if self._thread is None:
                self._thread = self._journal.start("sync", self._run)

    def _run(self) -> None:
        while True:
            if self.unsynced.wait(IDLE_SYNCER):
                time.sleep(SYNC_INTERVAL * 0.9)
                self.unsynced.clear()
                self._sync_now()
            else:
                with self._syncing:
                    if not self.unsynced.is_set():
                        self._thread = None
                        return

    def _sync_now(self) -> None:
        generation = self._journal.generation
        if generation is not None:
            try:
                generation.log.sync()
            except OSError:
                logger.exception("Syncing %s failed.", self._journal.data_path)
