"""A store that is checked, what it promises, and what is found where it is opened."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from django_kvsessions.stores.base import Store
from django_kvsessions.testing.crashes.history import KEYS, held, record_of
from django_kvsessions.testing.crashes.restarts import start_again
from django_kvsessions.testing.records import make_key

__all__ = ["LEAST", "SHOWN", "Report", "Subject", "in_child", "opening", "warm_up"]

#: States that are looked at whatever time that takes.
LEAST = 10
#: Findings that are told in full.
SHOWN = 5
PATIENCE = 60  # seconds that opening a store may take


class Subject(NamedTuple):
    """A store and what it promises.

    Of acknowledged writes a power cut may take those of so many seconds before it
    (``math.inf``: any), and besides so many of the last ones. ``survives``: it opens after a
    power cut in any case. ``verifies``: a record with a flipped bit reads as no session, and
    brings no older version back. ``rebuilds``: the files that may be damaged or missing, and
    nothing is lost.
    """

    make: Callable[[Path], Store]
    seconds: float = 0.0
    last: int = 0
    survives: bool = True
    verifies: bool = False
    rebuilds: frozenset[str] = frozenset()
    #: Where to leave the folders in which a promise was broken.
    kept: Path | None = None


class Report:
    """How many states there were, and what was found in them."""

    def __init__(self, title: str, kept: Path | None) -> None:
        self.title = title
        self._kept = kept
        self.counts: Counter[str] = Counter(states=0)
        self.broken: list[str] = []

    def add(self, found: str | None, about: str, *, promised: bool = True) -> None:
        self.counts["states"] += 1
        if found:
            self.counts[found.partition(":")[0]] += 1
            if promised:
                self.broken.append(f"{about}: {found}")

    def keep(self, folder: Path) -> None:
        """A copy of it, where that is asked for: of the last finding."""
        if self._kept is not None and len(self.broken) <= SHOWN:
            shutil.copytree(folder, self._kept / f"{self.title.lower()} {len(self.broken)}")

    def __str__(self) -> str:
        return f"{self.title}: " + ", ".join(f"{n} {what}" for what, n in self.counts.items())


def opening(subject: Subject, folder: Path, *, restart: bool = False) -> dict[int, int] | str:
    """What a process finds that opens the store, and one that does so after it has written."""

    def work() -> object:
        if restart:
            start_again()
        store = subject.make(folder)
        store.setup()
        found = held(store)
        expected = found | {KEYS: 1}
        if not store.create(make_key(KEYS), record_of(KEYS, 1)):
            return "wrong: a key is taken that was never written"
        for key in (key for key, version in list(found.items())[:2] if version):
            expected[key] = found[key] + 1
            if not store.replace(make_key(key), record_of(key, expected[key])):
                return f"wrong: key {key}, which was found, cannot be replaced"
        for _ in range(2):
            for key, version in held(store, KEYS + 1).items():
                if version != expected[key]:
                    return f"turns: key {key} is at {version}, after it was at {expected[key]}"
            store.close()
            store = subject.make(folder)
        store.close()
        return found

    found = in_child(work)
    if isinstance(found, str):
        return found
    assert isinstance(found, dict)
    return {int(key): version for key, version in found.items()}


def in_child(work: Callable[[], object]) -> object:
    """What it returns in a forked child; a sentence where it fails, dies or takes too long."""
    read, said = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            faulthandler.disable()
            signal.alarm(PATIENCE)
            answer = work()
        except BaseException as error:
            answer = f"does not open: {type(error).__name__}: {error}"
        finally:
            with os.fdopen(said, "wb") as pipe:
                pipe.write(json.dumps(answer).encode())
            os._exit(0)
    os.close(said)
    with os.fdopen(read, "rb") as file:
        select.select([file], [], [], PATIENCE)
        answer = file.read()
    _, status = os.waitpid(child, 0)
    if answer:
        found: object = json.loads(answer)
        return found
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        return f"hangs: for {PATIENCE} seconds"
    return f"dies: status {status}"


def warm_up(subject: Subject) -> None:
    """Import here what the store imports at its first use, so that no child has to."""

    def work() -> object:
        with tempfile.TemporaryDirectory() as folder:
            known = set(sys.modules)
            store = subject.make(Path(folder))
            store.setup()
            store.create(make_key(0), record_of(0, 1))
            held(store)
            store.close()
            return sorted(set(sys.modules) - known)

    names = in_child(work)
    if isinstance(names, str):
        raise SystemExit(f"The store {names}")
    assert isinstance(names, list)
    for name in names:
        with suppress(ImportError):
            import_module(name)
