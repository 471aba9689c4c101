"""What a traced process did to a store, and what the store may hold after it."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from django_kvsessions.stores.base import Record, Store
from django_kvsessions.testing.records import LONG, make_key

__all__ = ["ABSENT", "EMPTY", "KEYS", "Change", "History", "Versions", "held", "judge", "write"]

ABSENT = 0
KEYS = 12
#: Seconds between two looks at whether the machine is too busy.
BEAT = 0.02
#: How often there is a pause between two steps.
OFTEN = 0.3
#: The versions that each key may have.
Versions = Mapping[int, set[int]]
EMPTY: Versions = {key: {ABSENT} for key in range(KEYS)}


class Change(NamedTuple):
    """From when to when it was made; not acknowledged where there is no end."""

    key: int
    version: int
    begun: float
    ended: float | None


class Writer:
    """Creates, changes, moves on and deletes records, and says what it does, before and after.

    Several in one process share the keys: each has its own.
    """

    def __init__(self, store: Store, chance: random.Random, said: int, keys: range) -> None:
        self._store = store
        self._chance = chance
        self._said = said
        self._there = {key: store.load(make_key(key)) is not None for key in keys}

    def step(self, version: int) -> None:
        chance, store = self._chance, self._store
        key = chance.choice(list(self._there))
        record = record_of(key, version, chance.randbytes(chance.choice((0, 100, 3000))))
        is_there, luck = self._there[key], chance.random()
        if is_there and luck < 0.1:
            # The version that is there goes on, whether this comes to the disk or not.
            self._expect(store.touch(make_key(key), time.time() + 2 * LONG), key)
            return
        goes = is_there and luck < 0.3
        after = ABSENT if goes else version
        say(self._said, "begun", key, after)
        if goes:
            done = store.delete(make_key(key))
        elif is_there:
            done = store.replace(make_key(key), record)
        else:
            done = store.create(make_key(key), record)
        self._expect(done, key)
        say(self._said, "ended", key, after)
        self._there[key] = not goes

    def _expect(self, done: bool, key: int) -> None:
        if not done:
            say(self._said, "wrong", key, 0)


def write(
    store: Store, seed: int, said: int, *, steps: int, first: int, threads: int, lasts: float = 0.0
) -> None:
    """So many steps in each thread, in some ``lasts`` seconds with what lies between them.

    The versions are numbered from ``first`` on.
    """

    def work(number: int) -> None:
        chance = random.Random(seed + number)
        writer = Writer(store, chance, said, range(number, KEYS, threads))
        compact: Callable[[], object] | None = getattr(store, "compact", None)
        compact_at = chance.randrange(max(steps, 10))
        for step in range(steps):
            writer.step(first + step * threads + number)
            if compact is not None and number == 0 and step == compact_at:
                compact()
            if chance.random() < OFTEN:
                time.sleep(chance.random() * 2 * lasts / OFTEN / steps)

    if lasts:
        threading.Thread(target=beat, args=(said,), daemon=True).start()
    others = [threading.Thread(target=work, args=(number,)) for number in range(1, threads)]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()


def beat(said: int) -> None:
    """Say when the machine was too busy to let this thread go on."""
    while True:
        begun = time.monotonic()
        time.sleep(BEAT)
        if time.monotonic() > begun + 2 * BEAT:
            say(said, "stalled", begun)


def record_of(key: int, version: int, more: bytes = b"") -> Record:
    return Record(b"%d/%d " % (key, version) + more, time.time() + LONG, version)


def say(said: int, what: str, *values: object) -> None:
    os.write(said, (json.dumps([what, time.monotonic(), *values]) + "\n").encode())


class History:
    """What was said, in its order; ``before``: what each key could have at first."""

    def __init__(self, said: bytes, before: Versions) -> None:
        self.before = before
        self.changes: list[Change] = []
        #: What a process found as it opened the store.
        self.found: dict[int, int] | None = None
        self.failed: str | None = None
        #: From when to when the machine was too busy for the process.
        self.stalls: list[tuple[float, float]] = []
        open_changes: dict[int, int] = {}
        for line in said.decode().splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            what, moment, *values = json.loads(line)
            if what == "begun":
                key, version = values
                open_changes[key] = len(self.changes)
                self.changes.append(Change(key, version, moment, None))
            elif what == "ended":
                place = open_changes.pop(values[0])
                self.changes[place] = self.changes[place]._replace(ended=moment)
            elif what == "stalled":
                self.stalls.append((values[0], moment))
            elif what == "found":
                self.found = {int(key): version for key, version in values[0].items()}
            elif what == "wrong":
                self.failed = f"answers wrong: key {values[0]} is not as it was left"
            elif what == "failed":
                self.failed = str(values[0])

    def may_hold(self, sure: Callable[[Change], bool]) -> dict[int, set[int]]:
        """The versions that each key may have where those changes are sure to be there."""
        possible = {key: set(versions) for key, versions in self.before.items()}
        for change in self.changes:
            if change.ended is not None and sure(change):
                possible[change.key] = set()
            possible[change.key].add(change.version)
        return possible

    def is_followed(self, change: Change, times: int) -> bool:
        """Whether so many acknowledged changes were begun after this one was acknowledged."""
        assert change.ended is not None
        later = (one for one in self.changes if one.ended and one.begun >= change.ended)
        return sum(1 for _ in later) >= times


def held(store: Store, keys: int = KEYS) -> dict[int, int]:
    """The version of each key; ``ValueError`` where a record is another's or garbled."""
    found = {}
    for key in range(keys):
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


def judge(found: Mapping[int, int] | str, allowed: Versions) -> str | None:
    """What is wrong with what a process has found, which may be why it has found nothing."""
    if isinstance(found, str):
        return found
    for key, version in found.items():
        if version not in allowed[key]:
            if version == ABSENT:
                return f"lost: key {key}, which is at {sorted(allowed[key])}"
            return f"stale: key {key} is at {version}, not at {sorted(allowed[key])}"
    return None
