"""When a log goes to the disk: with each write, shared by those that wait, or once a second."""

from __future__ import annotations

import logging
import threading
import time

from django_kvsessions.stores.semidbm.generation import Generation
from django_kvsessions.stores.semidbm.journal import Journal
from django_kvsessions.stores.semidbm.log import LogFile
from django_kvsessions.stores.semidbm.recovery import note_synced

__all__ = ["Syncer"]

logger = logging.getLogger("django_kvsessions")

#: Seconds that an acknowledged write waits for its sync with durability "interval". What is
#: left of a second is for the sync itself.
SYNC_INTERVAL = 0.5
#: Seconds without a write after which the syncing thread ends.
IDLE_SYNCER = 10.0


class Syncer:
    """Brings a journal's log to the disk."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        #: Whether something written waits for the thread that syncs.
        self.unsynced = threading.Event()
        self._syncing = threading.Lock()
        #: Held by the thread that syncs, while it does.
        self._under_way = threading.Lock()
        self._synced: tuple[LogFile | None, int] = (None, 0)
        self._since = 0.0
        self._thread: threading.Thread | None = None

    def sync(self, generation: Generation) -> None:
        """Return when all that was written so far is on disk; waiting writers share one sync."""
        log, end = generation.log, generation.end
        with self._syncing:
            if self._synced[0] is log and self._synced[1] >= end:
                return
            self._synced = log, self._sync_log(generation)

    def sync_soon(self) -> None:
        """SYNC_INTERVAL seconds later, by a thread."""
        with self._syncing:
            self._since = time.monotonic()
            self.unsynced.set()
            if self._thread is None:
                self._thread = self._journal.start("sync", self._run)

    def _run(self) -> None:
        while True:
            if self.unsynced.wait(IDLE_SYNCER):
                # Not since the last sync has ended, which may have taken long.
                time.sleep(max(0.0, self._since + SYNC_INTERVAL - time.monotonic()))
                with self._under_way:
                    self.unsynced.clear()
                    self._sync_now()
            else:
                with self._syncing:
                    if not self.unsynced.is_set():
                        self._thread = None
                        return

    def sync_at_close(self, generation: Generation) -> None:
        with self._under_way:
            if self.unsynced.is_set():
                self._sync_log(generation)

    def _sync_log(self, generation: Generation) -> int:
        # All that is parsed is whole in the log.
        end = generation.end
        generation.log.sync()
        # Not of a log that another process has replaced a moment ago.
        if generation.log.is_at(self._journal.data_path):
            note_synced(generation.log, end, self._journal.path)
        return end

    def _sync_now(self) -> None:
        generation = self._journal.generation
        if generation is not None:
            try:
                self._sync_log(generation)
            except OSError:
                logger.exception(
                    "Syncing %s failed: what was written lately would be lost with a power cut. "
                    "Likely causes, in order: its disk is full, or fails. Look at both.",
                    self._journal.data_path,
                )
