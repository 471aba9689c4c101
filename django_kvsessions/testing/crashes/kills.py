"""Kills: a process that ends before one of its system calls, each in turn; the next one goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

from django_kvsessions.testing.crashes.history import (
    EMPTY,
    History,
    Versions,
    held,
    judge,
    say,
    write,
)
from django_kvsessions.testing.crashes.subject import LEAST, PATIENCE, Report, Subject, opening
from django_kvsessions.testing.crashes.tracing import Call, trace

__all__ = ["kills"]

STEPS = 5


def kills(subject: Subject, root: Path, seconds: float, chance: random.Random) -> Report:
    """Each process opens what the former has left, looks at it, writes, compacts and is killed.

    The first of a round comes to its end and is counted by; the others take the same steps, and
    are killed before each of its calls, in any order. Then other steps are taken.
    """
    report = Report("Kills", subject.kept)
    deadline = time.monotonic() + seconds
    folder = root / "kills"
    folder.mkdir()
    before, version, seed = EMPTY, 1, 0
    waiting: list[int] = []
    while time.monotonic() < deadline or report.counts["states"] < LEAST:
        if not waiting:
            seed = chance.randrange(2**32)
            report.counts["rounds"] += 1
        at = waiting.pop() if waiting else 0
        count, history = until_killed(subject, folder, seed, at, version, before)
        wrong = history.failed
        if history.found is not None and not wrong:
            wrong = judge(history.found, before)
        elif not wrong and not 0 < at <= count:
            wrong = "dies: without a kill"
        report.add(wrong, f"run {seed}, call {at}")
        before = EMPTY if wrong else left(history)
        if wrong:
            shutil.rmtree(folder)
            folder.mkdir()
        if not at:
            waiting = chance.sample(range(1, count + 1), count)
        version += STEPS
    found = opening(subject, folder)
    report.add(judge(found, before), f"run {seed}, at last")
    return report


def until_killed(
    subject: Subject, folder: Path, seed: int, at: int, first: int, before: Versions
) -> tuple[int, History]:
    """How many calls it came to, and what it said until then."""
    count = 0
    read, said = os.pipe()

    def seen(call: Call) -> bool:
        nonlocal count
        count += 1
        return count == at

    def work() -> None:
        signal.alarm(PATIENCE)
        try:
            store = subject.make(folder)
            store.setup()
            say(said, "found", held(store))
            write(store, seed, said, steps=STEPS, first=first, threads=1)
            store.close()
        except BaseException as error:
            say(said, "failed", f"does not open: {type(error).__name__}: {error}")

    status = trace(work, seen, folder, ends=False)
    os.close(said)
    with os.fdopen(read, "rb") as file:
        history = History(file.read(), before)
    if status == signal.SIGALRM:
        history.failed = f"hangs: for {PATIENCE} seconds"
    return count, history


def left(history: History) -> Versions:
    """What each key may have now. What a process has found stays, unless it was changed."""
    if history.found is not None:
        history.before = {key: {version} for key, version in history.found.items()}
    return history.may_hold(lambda change: True)
