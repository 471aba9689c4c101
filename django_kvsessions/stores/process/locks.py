"""Locks between processes and between threads that may be waited for, but not for ever."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from contextlib import suppress
from itertools import count

try:
    import fcntl
except ImportError:  # Windows has no flock; a store that needs it says so.
    fcntl = None  # type: ignore[assignment]  # Windows

__all__ = [
    "FairLock",
    "FileLock",
    "LockTimeout",
    "fcntl",
    "keep_out_of_git",
    "make_folder",
    "open_private",
    "sync_folder",
]

#: How often to ask without a pause, about two microseconds each.
SPINS = 20


class LockTimeout(Exception):
    """Somebody else held the lock for the whole time."""


def make_folder(path: str) -> None:
    """Make a folder for its owner only, if it is not there."""
    try:
        os.stat(path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            return
        # Files that root makes for a web server would be closed to it.
        _give_to_owner_of(os.path.dirname(path), path)
        keep_out_of_git(path)


def keep_out_of_git(path: str) -> None:
    """Let no commit take along what is in a folder that was made for sessions."""
    # It is a courtesy, without which the store works as well.
    with suppress(OSError):
        descriptor = open_private(os.path.join(path, ".gitignore"), os.O_WRONLY)
        try:
            os.write(descriptor, b"*\n")
        finally:
            os.close(descriptor)


def open_private(path: str, flags: int) -> int:
    """Open a file, made with mode 0600 and for the folder's owner where it is new."""
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o600)
        try:
            _give_to_owner_of(os.path.dirname(path), path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def sync_folder(path: str) -> None:
    """Return when the names of what is in the folder are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_to_owner_of(folder: str, path: str) -> None:
    if os.geteuid() == 0:
        owner = os.stat(folder)
        os.chown(path, owner.st_uid, owner.st_gid)


class FairLock:
    """A lock between threads that goes to whoever has waited longest.

    Of many threads that write all the time, a plain lock lets some starve.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Lock] = deque()

    def acquire(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; whether the lock is held now."""
        with self._mutex:
            if not self._held:
                self._held = True
                return True
            if not timeout:
                return False
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=timeout):
            return True
        with self._mutex:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return False
        return True

    def release(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False

    def __enter__(self) -> None:
        self.acquire(threading.TIMEOUT_MAX)

    def __exit__(self, *exception: object) -> None:
        self.release()


class FileLock:
    """Held by one process at a time. Not for two threads at once: put a thread lock before it.

    The system frees it when its holder dies.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, timeout: float | None = None) -> None:
        """Wait for the lock, up to ``timeout`` seconds where given: then ``LockTimeout``.

        What else is raised leaves it free.
        """
        try:
            self._acquire(timeout)
        except LockTimeout:
            raise
        except BaseException:
            # The lock may be taken already.
            self.close()
            raise

    def _acquire(self, timeout: float | None) -> None:
        how = fcntl.LOCK_EX if timeout is None else fcntl.LOCK_EX | fcntl.LOCK_NB
        deadline = None
        pause = 0.00005
        for attempt in count():
            if self._descriptor is None:
                self._open()
            assert self._descriptor is not None
            try:
                fcntl.flock(self._descriptor, how)
            except BlockingIOError:
                assert timeout is not None
                if self._is_removed():
                    self.close()
                    continue
                # flock cannot wait for a limited time, so this asks again and again: at
                # first at once, as the lock is mostly held for less than a sleep takes.
                if attempt < SPINS and timeout:
                    continue
                clock = time.monotonic()
                deadline = deadline or clock + timeout
                if clock >= deadline:
                    raise LockTimeout(self.path) from None
                time.sleep(pause * random.uniform(0.5, 1))
                pause = min(pause * 1.5, 0.0005)
            else:
                if not self._is_removed():
                    return
                # Somebody removed the file: the others lock the one that is there now.
                self.close()

    def release(self) -> None:
        """Let the next one have it; raises nothing, since what it guarded is done."""
        if self._descriptor is not None:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            except OSError:
                self.close()

    def close(self) -> None:
        """Let go of the file, without unlocking what a parent process may hold."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # It is closed, whatever close says.
            with suppress(OSError):
                os.close(descriptor)

    def _open(self) -> None:
        make_folder(os.path.dirname(self.path))
        self._descriptor = open_private(self.path, os.O_RDWR)

    def _is_removed(self) -> bool:
        # Half of what looking at the path takes.
        assert self._descriptor is not None
        return os.fstat(self._descriptor).st_nlink == 0
