"""Power cuts: states that one may leave, at any moment of some runs, each opened by a process."""

from __future__ import annotations

import itertools
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from django_kvsessions.testing.crashes.disk import Disk
from django_kvsessions.testing.crashes.history import (
    EMPTY,
    Change,
    History,
    Versions,
    judge,
    say,
    write,
)
from django_kvsessions.testing.crashes.restarts import start_again
from django_kvsessions.testing.crashes.subject import LEAST, PATIENCE, Report, Subject, opening
from django_kvsessions.testing.crashes.tracing import trace

__all__ = ["power_cuts"]

STEPS = 30
THREADS = 2
#: Seconds that a run lasts at least.
SHORT = 0.5
#: Where versions of a run begin, by the run's number.
VERSIONS = 1_000_000


class Run:
    """What a process did in a folder, and what a power cut may have left of it at each moment."""

    def __init__(self, subject: Subject, folder: Path, seed: int, turn: int, before: Versions):
        self.subject = subject
        self.folder = folder
        self.before = before
        read, said = os.pipe()
        os.set_blocking(read, False)
        self.disk = Disk(folder, read)

        # What grows old enough to be sure is to be seen.
        lasts = max(SHORT, 3 * subject.seconds if math.isfinite(subject.seconds) else 0.0)

        def work() -> None:
            signal.alarm(2 * PATIENCE)
            try:
                start_again()
                store = subject.make(folder)
                store.setup()
                say(said, "ready")
                write(store, seed, said, steps=STEPS, first=turn * VERSIONS + 1, threads=THREADS,
                      lasts=lasts)  # fmt: skip
            except BaseException as error:
                say(said, "failed", f"does not go on: {type(error).__name__}: {error}")
            os.kill(os.getpid(), signal.SIGKILL)

        status = trace(work, self.disk.seen, folder)
        self.disk.listen()
        os.close(said)
        os.close(read)
        self.ended = time.monotonic()
        # Cuts are behind the end of ``setup``, or anywhere where there was a store before.
        self.first = self.disk.said[0][0] if before is EMPTY and self.disk.said else 0
        whole = self.history(self.disk.last)
        self.failed, self.stalls = whole.failed, whole.stalls
        if status == signal.SIGALRM:
            self.failed = f"hangs: for {2 * PATIENCE} seconds"

    def history(self, stop: int) -> History:
        said = b"".join(data for number, data in self.disk.said if number <= stop)
        return History(said, self.before)

    def possible(self, stop: int, moment: float) -> dict[int, set[int]]:
        """What is promised after a power cut at that moment, behind what has that number.

        No store is to blame for a disk that takes long, or for a machine that is too busy.
        """
        subject, history = self.subject, self.history(stop)
        spans = [*self.disk.waits, *self.stalls]

        def sure(change: Change) -> bool:
            assert change.ended is not None
            if not history.is_followed(change, subject.last):
                return False
            age = moment - change.ended
            return (
                not subject.seconds or age - within(spans, change.ended, moment) > subject.seconds
            )

        return history.may_hold(sure)

    def cut(self, seed: int) -> tuple[int, dict[int, set[int]]]:
        """Make the folder what a power cut may leave; where that is, and what is promised."""
        chance = random.Random(seed)
        moments = self.disk.moments
        stop = chance.randint(self.first, self.disk.last)
        until = moments[stop + 1] if stop < self.disk.last else self.ended
        # Nothing reaches the disk in between, but an acknowledgement grows old.
        moment = chance.choice((moments[stop], until))
        self.disk.cut(stop, chance)
        return stop, self.possible(stop, moment)


def within(spans: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """How much of the time from start to end lies in some of the spans."""
    total = 0.0
    for begun, ended in sorted(spans):
        total += max(0.0, min(ended, end) - max(begun, start))
        start = max(start, ended)
    return total


def power_cuts(subject: Subject, root: Path, seconds: float, chance: random.Random) -> Report:
    report = Report("Power cuts", subject.kept)
    deadline = time.monotonic() + seconds
    folder = root / "power"
    before = EMPTY
    for turn in itertools.count():
        if turn and time.monotonic() > deadline and report.counts["states"] >= LEAST:
            return report
        if before is EMPTY:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        seed = chance.randrange(2**32)
        begun = time.monotonic()
        run = Run(subject, folder, seed, turn, before)
        report.counts["runs"] += 1
        about = f"run {seed} ({turn})"
        if run.failed:
            report.add(run.failed, about, promised=subject.survives)
            before = EMPTY
            continue
        # As long as the run took, and longer where there is much time.
        now = time.monotonic()
        until = min(deadline, now + max(now - begun, seconds / 10))
        before = look(run, report, about, until, chance)
        run.disk.kept.let_go()
    raise AssertionError


def look(run: Run, report: Report, about: str, until: float, chance: random.Random) -> Versions:
    """Look at states of a run; what the folder may hold if the next goes on in it."""
    for number in itertools.count():
        if time.monotonic() > until and number >= LEAST:
            break
        seed = chance.randrange(2**32)
        stop, possible = run.cut(seed)
        found = opening(run.subject, run.folder, restart=True)
        wrong = judge(found, possible)
        report.add(wrong, f"{about}, cut {seed} at {stop}", promised=run.subject.survives)
        if wrong and run.subject.survives:
            # As it was before it was opened.
            run.cut(seed)
            report.keep(run.folder)
    if wrong or chance.random() < 0.4:
        return EMPTY
    # What repairs a store may be cut short too.
    return run.cut(seed)[1]
