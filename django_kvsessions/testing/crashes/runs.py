"""The runs: power cuts, kills and damage, each of states until its time is up."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import select
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from django_kvsessions.stores.base import Record, Store
from django_kvsessions.testing.crashes.disk import Disk
from django_kvsessions.testing.crashes.history import ABSENT, Change, History, held, write
from django_kvsessions.testing.crashes.tracing import Call, trace
from django_kvsessions.testing.records import LONG, make_key

__all__ = ["Report", "Subject", "damage", "kills", "power_cuts"]

#: States that are looked at whatever time that takes.
LEAST = 10
PATIENCE = 60.0  # seconds that opening a store may take
STEPS = 60


class Subject(NamedTuple):
    """A store and what it promises.

    Of acknowledged writes a power cut may take those of so many seconds before it
    (``math.inf``: any), and besides so many of the last ones. ``survives``: it opens after a
    power cut in any case. ``verifies``: what is damaged reads as no session, and brings no older
    version back.
    """

    make: Callable[[Path], Store]
    seconds: float = 0.0
    last: int = 0
    survives: bool = True
    verifies: bool = False
    #: For files that are believed only until the machine starts again.
    restart: Callable[[], None] = lambda: None


class Report:
    """How many states there were, and what was found in them."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []

    def add(self, found: str | None, about: str, *, promised: bool = True) -> None:
        self.counts["states"] += 1
        if found:
            self.counts[found.partition(":")[0]] += 1
            if promised:
                self.broken.append(f"{self.title}, {about}: {found}")

    def __str__(self) -> str:
        return f"{self.title}: " + ", ".join(f"{n} {what}" for what, n in self.counts.items())


def open_in_child(subject: Subject, folder: Path) -> dict[int, int] | str:
    """What a process finds that opens the store, and one that does so after it has written."""
    read, said = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(int(PATIENCE))
            subject.restart()
            store = subject.make(folder)
            found = held(store)
            probe = Record(b"99/1 ", time.time() + LONG, 1)
            fresh = make_key(os.urandom(8))
            if not store.create(fresh, probe) or store.load(fresh) != probe:
                raise ValueError("A new record was not kept.")
            store.close()
            store = subject.make(folder)
            if held(store) != found or store.load(fresh) != probe:
                raise ValueError("What was found is another thing when the store is opened again.")
            store.close()
            os.write(said, json.dumps(found).encode())
        except BaseException as error:
            os.write(said, json.dumps(f"{type(error).__name__}: {error}").encode())
        finally:
            os._exit(0)
    os.close(said)
    try:
        select.select([read], [], [], PATIENCE)
        answer = os.read(read, 65536)
    finally:
        os.close(read)
        _, status = os.waitpid(child, 0)
    if not answer:
        return f"died: status {status}"
    found = json.loads(answer)
    return found if isinstance(found, str) else {int(key): n for key, n in found.items()}


def judge(
    found: dict[int, int] | str, history: History, may_hold: Callable[[int], set[int]]
) -> str | None:
    if isinstance(found, str):
        return found if found.startswith("died") else f"does not open: {found}"
    for key, version in found.items():
        allowed = may_hold(key)
        if version not in allowed:
            if version == ABSENT:
                return f"lost: key {key}, which is at {sorted(allowed)}"
            return f"stale: key {key} is at {version}, not at {sorted(allowed)}"
    return None


def traced(subject: Subject, folder: Path, seed: int, seen: Callable[[Call], bool], said: int,
           *, steps: int, pauses: bool) -> None:  # fmt: skip
    def work() -> None:
        store = subject.make(folder)
        store.setup()
        write(store, seed, said, steps=steps, pauses=pauses)
        os.kill(os.getpid(), signal.SIGKILL)

    trace(work, seen)


def power_cuts(subject: Subject, root: Path, seconds: float, chance: random.Random) -> Report:
    """States that a power cut may leave, at any moment of some runs."""
    report = Report("Power cuts")
    deadline = time.monotonic() + seconds
    for turn in itertools.count():
        if time.monotonic() > deadline and turn:
            return report
        folder = root / f"power-{turn}"
        folder.mkdir()
        read, said = os.pipe()
        os.set_blocking(read, False)
        disk = Disk(folder, read)

        def seen(call: Call, disk: Disk = disk) -> bool:
            disk.seen(call)
            return False

        seed = chance.randrange(2**32)
        traced(subject, folder, seed, seen, said, steps=STEPS, pauses=True)
        os.close(said)
        os.close(read)
        # Not before there was anything that could have been synced.
        first = next(n for n, event in enumerate(disk.events) if event.kind == "said")
        until = time.monotonic() + seconds / 4
        while time.monotonic() < until or report.counts["states"] < LEAST:
            stop = chance.randint(first, len(disk.events))
            history = History(b"".join(e.data for e in disk.events[:stop] if e.kind == "said"))
            moment = disk.events[stop - 1].moment
            cut_seed = chance.randrange(2**32)
            disk.cut(stop, random.Random(cut_seed))
            found = open_in_child(subject, folder)
            ended = [one for one in history.changes if one.ended is not None]
            at_risk = ended[len(ended) - subject.last :]

            def sure(change: Change, moment: float = moment,
                     at_risk: list[Change] = at_risk) -> bool:  # fmt: skip
                assert change.ended is not None
                return change.ended <= moment - subject.seconds and change not in at_risk

            wrong = judge(found, history, lambda key: history.may_hold(key, sure=sure))  # noqa: B023
            report.add(wrong, f"run {seed}, cut {stop} {cut_seed}", promised=subject.survives)
        shutil.rmtree(folder)
        shutil.rmtree(folder.with_name(folder.name + "-inodes"))
    return report


def kills(subject: Subject, root: Path, seconds: float, chance: random.Random) -> Report:
    """A process that is killed before each of its system calls in turn."""
    report = Report("Kills")
    deadline = time.monotonic() + seconds
    seed = chance.randrange(2**32)
    total, order = 0, iter([math.inf])
    while True:
        at = next(order, None)
        if at is None or (time.monotonic() > deadline and report.counts["states"] >= LEAST):
            return report
        folder = root / f"kill-{at}"
        folder.mkdir()
        read, said = os.pipe()
        count = 0

        def seen(call: Call) -> bool:
            nonlocal count
            count += call.result is None
            return count > at  # noqa: B023

        traced(subject, folder, seed, seen, said, steps=50, pauses=False)
        os.close(said)
        with os.fdopen(read, "rb") as file:
            history = History(file.read())
        if not total:
            # The first run counts; the others are spread over all of it, then in between.
            total = count
            order = iter(chance.sample(range(1, total), total - 1))
            report.counts["calls"] = total
        found = open_in_child(subject, folder)

        def everything(change: Change) -> bool:
            return True

        wrong = judge(found, history, lambda key: history.may_hold(key, sure=everything))  # noqa: B023
        report.add(wrong, f"run {seed}, call {at}")
        shutil.rmtree(folder)


def damage(subject: Subject, root: Path, seconds: float, chance: random.Random) -> Report:
    """Files with bytes that changed while nobody used them."""
    report = Report("Damage")
    deadline = time.monotonic() + seconds
    folder = root / "damage"
    folder.mkdir()
    read, said = os.pipe()

    def seen(call: Call) -> bool:
        return False

    def work() -> None:
        store = subject.make(folder)
        store.setup()
        write(store, 1, said, steps=50, pauses=False)
        store.close()

    trace(work, seen)
    os.close(said)
    with os.fdopen(read, "rb") as file:
        history = History(file.read())
    whole = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    names = [name for name, content in whole.items() if content]
    while time.monotonic() < deadline or report.counts["states"] < LEAST:
        for path in folder.iterdir():
            if path.name not in whole:
                path.unlink()
        for name, content in whole.items():
            # In place: a copy is another file than the one that was synced.
            (folder / name).write_bytes(content)
        name = chance.choice(names)
        content = bytearray(whole[name])
        kind = chance.choice(("bit", "bytes", "block", "end"))
        at = chance.randrange(len(content))
        if kind == "bit":
            content[at] ^= 1 << chance.randrange(8)
        elif kind == "bytes":
            content[at : at + 8] = chance.randbytes(len(content[at : at + 8]))
        elif kind == "block":
            content[at : at + 512] = bytes(len(content[at : at + 512]))
        else:
            del content[at:]
        (folder / name).write_bytes(content)
        found = open_in_child(subject, folder)
        wrong = judge(
            found,
            history,
            # Where the end is missing, nobody can know that there was more.
            history.ever_held if kind == "end" else lambda key: {ABSENT, history.last(key)},
        )
        if wrong and "is not a session store" in wrong:
            wrong = None  # The first bytes of the file: it says so, and leaves it alone.
        report.add(wrong, f"{kind} at {at} of {name}", promised=subject.verifies)
    return report
