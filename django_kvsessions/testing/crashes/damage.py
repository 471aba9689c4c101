"""Damage: files with bytes that changed while nobody used them."""

from __future__ import annotations

import math
import os
import random
import time
from pathlib import Path

from django_kvsessions.testing.crashes.history import ABSENT, EMPTY, History, judge, write
from django_kvsessions.testing.crashes.kept import Kept
from django_kvsessions.testing.crashes.subject import LEAST, Report, Subject, in_child, opening

__all__ = ["damage"]


def damage(subject: Subject, root: Path, seconds: float, chance: random.Random) -> Report:
    report = Report("Damage", subject.kept)
    deadline = time.monotonic() + seconds
    folder = root / "damage"
    folder.mkdir()
    history = written(subject, folder, chance)
    if history.failed:
        report.add(history.failed, "before any damage")
        return report
    last = history.may_hold(lambda change: True)
    ever = history.may_hold(lambda change: False)
    kept = Kept(folder)
    names = kept.names()
    whole = {inode: kept.read(inode) for inode in names.values()}
    damaged = sorted(name for name, inode in names.items() if whole[inode])
    while time.monotonic() < deadline or report.counts["states"] < LEAST:
        name = chance.choice(damaged)
        content = bytearray(whole[names[name]])
        kind = chance.choice(("bit", "bytes", "block", "end", "all", "file"))
        at = chance.randrange(len(content))
        spoil(content, kind, at, chance)
        there = {one: inode for one, inode in names.items() if kind != "file" or one != name}
        spoiled = whole | {names[name]: bytes(content)}
        kept.restore(there, spoiled)
        found = opening(subject, folder)
        allowed = last
        if name not in subject.rebuilds:
            # Where more is missing than a bit, nobody can know what there was.
            allowed = {key: {ABSENT, *(last if kind == "bit" else ever)[key]} for key in last}
        wrong = judge(found, allowed)
        if name not in subject.rebuilds and isinstance(found, str) and "StoreCorrupted" in found:
            report.counts["refused"] += 1
            wrong = None  # It says so, and leaves the file alone.
        promised = subject.verifies or name in subject.rebuilds
        report.add(wrong, f"{kind} at {at} of {name}", promised=promised)
        if wrong and promised:
            kept.restore(there, spoiled)
            report.keep(folder)
    return report


def written(subject: Subject, folder: Path, chance: random.Random) -> History:
    read, said = os.pipe()
    seed = chance.randrange(2**32)

    def work() -> object:
        store = subject.make(folder)
        store.setup()
        write(store, seed, said, steps=40, first=1, threads=1)
        if math.isfinite(subject.seconds):
            # What was never on the disk is not what a failing disk changes.
            time.sleep(1.5 * subject.seconds)
        store.close()
        return 0

    failed = in_child(work)
    os.close(said)
    with os.fdopen(read, "rb") as file:
        history = History(file.read(), EMPTY)
    if isinstance(failed, str):
        history.failed = failed
    return history


def spoil(content: bytearray, kind: str, at: int, chance: random.Random) -> None:
    if kind == "bit":
        content[at] ^= 1 << chance.randrange(8)
    elif kind == "bytes":
        content[at : at + 8] = chance.randbytes(len(content[at : at + 8]))
    elif kind == "block":
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    elif kind == "end":
        del content[at:]
    elif kind == "all":
        content[:] = chance.randbytes(len(content))
