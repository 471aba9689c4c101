"""What a traced process did to a store, and what the store may hold after it."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from typing import NamedTuple

from django_kvsessions.stores.base import Record, Store
from django_kvsessions.testing.records import LONG, make_key

__all__ = ["ABSENT", "Change", "History", "held", "write"]

ABSENT = 0
KEYS = 12


class Change(NamedTuple):
    """From when to when it was made; not acknowledged where there is no end."""

    key: int
    version: int
    begun: float
    ended: float | None


def write(store: Store, seed: int, said: int, *, steps: int, pauses: bool) -> None:
    """Create, change and delete records, and say before and after each step what it is."""
    chance = random.Random(seed)
    there: set[int] = set()
    for step in range(steps):
        key, version = chance.randrange(KEYS), step + 1
        record = Record(
            b"%d/%d " % (key, version) + chance.randbytes(chance.choice((0, 100, 3000))),
            time.time() + LONG,
            version,
        )
        if key in there and chance.random() < 0.2:
            method, after = "delete", ABSENT
        else:
            method, after = ("replace" if key in there else "create"), version
        say(said, "begun", key, after)
        if method == "delete":
            done = store.delete(make_key(key))
            there.discard(key)
        else:
            done = getattr(store, method)(make_key(key), record)
            there.add(key)
        if not done:
            say(said, "wrong", key, after)
        say(said, "ended", key, after)
        compact: Callable[[], object] | None = getattr(store, "compact", None)
        if compact is not None and step % 40 == 20:
            compact()
        if pauses and chance.random() < 0.1:
            time.sleep(chance.choice((0.01, 0.1, 0.3)))


def say(said: int, what: str, key: int, version: int) -> None:
    line = json.dumps([what, key, version, time.monotonic()]) + "\n"
    os.write(said, line.encode())


class History:
    """The changes that were said, in their order."""

    def __init__(self, said: bytes) -> None:
        self.changes: list[Change] = []
        self.wrong = 0
        for line in said.decode().splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            what, key, version, moment = json.loads(line)
            if what == "begun":
                self.changes.append(Change(key, version, moment, None))
            elif what == "ended":
                self.changes[-1] = self.changes[-1]._replace(ended=moment)
            else:
                self.wrong += 1

    def may_hold(self, key: int, *, sure: Callable[[Change], bool]) -> set[int]:
        """The versions that a key may have where those changes are sure to be there."""
        possible = {ABSENT}
        for change in self.changes:
            if change.key == key:
                if change.ended is not None and sure(change):
                    possible.clear()
                possible.add(change.version)
        return possible

    def ever_held(self, key: int) -> set[int]:
        return {ABSENT, *(change.version for change in self.changes if change.key == key)}

    def last(self, key: int) -> int:
        return next((one.version for one in reversed(self.changes) if one.key == key), ABSENT)


def held(store: Store) -> dict[int, int]:
    """The version of each key; ``ValueError`` where a record is another's or garbled."""
    found = {}
    for key in range(KEYS):
        record = store.load(make_key(key))
        if record is None:
            found[key] = ABSENT
            continue
        name, _, rest = record.data.partition(b"/")
        version = rest.partition(b" ")[0]
        if name != b"%d" % key or version != b"%d" % record.revision:
            raise ValueError(f"A record under key {key} is not what was written there.")
        found[key] = record.revision
    return found
