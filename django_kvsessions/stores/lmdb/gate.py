"""Which threads of a process may be at an LMDB environment, and when one must be alone."""

from __future__ import annotations

import threading

from django_kvsessions.stores.process import forks

__all__ = ["Gate"]


class Gate:
    """Readers pass side by side, one writer beside them; as a lock, it keeps all others out.

    A process forks while nobody is inside.
    """

    def __init__(self) -> None:
        #: Held by the one thread that writes, and by whoever is alone.
        self.writing = threading.RLock()
        self._readers = 0
        self._closed = False
        # Guards these two. Entered by itself, for a condition is slower to enter.
        self._counting = threading.Lock()
        self._changed = threading.Condition(self._counting)
        forks.hold(self)
        # In the child no thread is left to release it.
        forks.hold(self._counting)

    def enter(self) -> None:
        """Begin to read, when nobody is alone. The caller must ``leave``."""
        with self._counting:
            while self._closed:
                self._changed.wait()
            self._readers += 1

    def leave(self) -> None:
        with self._counting:
            self._readers -= 1
            if not self._readers:
                self._changed.notify_all()

    def __enter__(self) -> None:
        self.writing.acquire()
        with self._counting:
            self._closed = True
            self._changed.wait_for(lambda: not self._readers)

    def __exit__(self, *exception: object) -> None:
        with self._counting:
            self._closed = False
            self._changed.notify_all()
        self.writing.release()
