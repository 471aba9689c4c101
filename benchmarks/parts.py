"""What is measured, part by part; each returns what goes into the JSON."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.engines import CONTENDERS, OURS
from benchmarks.processes import Arena, Population, WorkerProcess, progress

Result = dict[str, Any]

SHARED_SESSIONS = 10_000
# The requests in one go, since it is their differences that tell.
TURNS = [("load",), ("save",), ("create",), ("delete",), ("plain", "read", "write")]


def put(result: Result, value: Any, *path: str | int) -> None:
    """Append to the list at that path, made where it is missing."""
    *parents, last = map(str, path)
    for name in parents:
        result = result.setdefault(name, {})
    result.setdefault(last, []).append(value)


def operations(arena: Arena, *, names: list[str], rounds: int, batch: int) -> Result:
    """Microseconds of one operation: size, contender, operation, one figure per round."""
    tasks = [
        (one, [name for name in group if name in names and name in one.contender.operations])
        for one in arena.populations
        for group in TURNS
    ]
    result: Result = {}
    for _ in progress(range(rounds), "operations"):
        # All in the same minute, and no one always after the same neighbour.
        random.shuffle(tasks)
        for one, group in tasks:
            for name in group:
                spent = one.worker.ask("batch", operation=name, count=batch)
                put(result, spent, one.size, one.contender.name, name)
    return result


def clear_few(arena: Arena, *, rounds: int) -> Result:
    """Seconds of clear_expired() with 1 % expired: size, contender, one figure per round."""
    tasks = clearing(arena.populations, rounds)
    result: Result = {}
    for one in progress(tasks, "clear 1 %"):
        before = one.worker.ask("stored")
        one.worker.ask("fill_expired", count=max(1, one.size // 100))
        put(result, clear(one.worker, before), one.size, one.contender.name)
    return result


def clear_all(arena: Arena, folder: Path, *, rounds: int) -> Result:
    """The same with all expired, in folders of their own."""
    populations = [
        replace(one, folder=folder / f"expired-{one.folder.name}") for one in arena.populations
    ]
    result: Result = {}
    for one in progress(clearing(populations, rounds), "clear all"):
        with one.new_worker() as worker:
            worker.ask("fill_expired", count=one.size)
            put(result, clear(worker, 0), one.size, one.contender.name)
        shutil.rmtree(one.folder)
    return result


def clearing(populations: list[Population], rounds: int) -> list[Population]:
    """Who clears, in turns; over 100,000 sessions only once, as it takes minutes."""
    turns = [
        one
        for one in populations
        if one.contender.clears and "load" in one.contender.operations
        for _ in range(rounds if one.size <= 100_000 else 1)
    ]
    random.shuffle(turns)
    return turns


def clear(worker: WorkerProcess, left: int) -> float:
    seconds: float = worker.ask("clear")
    if (stored := worker.ask("stored")) != left:
        raise RuntimeError(f"clear_expired() left {stored} sessions, not {left}.")
    return seconds


def footprint(arena: Arena, folder: Path, *, rounds: int) -> Result:
    """A fresh process: seconds to the first load, private bytes; and bytes on disk."""
    result: Result = {"disk": {}}
    measured = [one for one in arena.populations if "load" in one.contender.operations]
    kept = [one for one in measured if not one.contender.stateless]
    for one in kept:
        result["disk"].setdefault(str(one.size), {})[one.contender.name] = one.disk
    smallest = min(one.size for one in kept)
    empty = [
        Population(one.contender, 0, folder / f"empty-{one.contender.name}", one.package)
        for one in kept
        if one.size == smallest
    ]
    for one in empty:
        one.fill()
    turns = [one for one in kept + empty for _ in range(rounds)]
    random.shuffle(turns)
    for one in progress(turns, "fresh starts"):
        with one.new_worker() as worker:
            opened = worker.ask("open", count=one.size)
        put(result, opened["bytes"], "memory", one.size, one.contender.name)
        if not one.contender.in_process:
            put(result, opened["seconds"], "open", one.size, one.contender.name)
    return result


def processes(
    names: list[str],
    folder: Path,
    *,
    counts: list[int],
    sessions: int,
    rounds: int,
    seconds: float,
) -> Result:
    """Loads and saves a second, half of each, by several processes on the same sessions."""
    rates: Result = {}
    with ExitStack() as stack:
        workers: dict[str, list[WorkerProcess]] = {}
        for name in names:
            shared = Population(CONTENDERS[name], sessions, folder / f"shared-{name}")
            shared.fill()
            workers[name] = [stack.enter_context(shared.new_worker()) for _ in range(max(counts))]
            # One turn that does not count, to have everything open and warm.
            together(workers[name], sessions, seconds / 4)
        tasks = [(name, count) for name in names for count in counts]
        for _ in progress(range(rounds), "several processes"):
            random.shuffle(tasks)
            for name, count in tasks:
                put(rates, together(workers[name][:count], sessions, seconds), name, count)
    return {"sessions": sessions, "rates": rates}


def together(workers: list[WorkerProcess], sessions: int, seconds: float) -> float:
    """Operations a second of all of them."""
    for worker in workers:
        worker.send("mix", seconds=seconds, count=sessions)
    return float(sum(worker.receive() for worker in workers) / seconds)


def compaction(folder: Path, *, records: int, rounds: int) -> Result:
    """Milliseconds that saves of one process take while another compacts, and while none does."""
    result: Result = {"records": records}
    one = Population(CONTENDERS[OURS], records, folder / "compaction")
    one.fill()
    with one.new_worker() as compacting, one.new_worker() as saving:
        for worker in (compacting, saving):
            worker.ask("open", count=records)
        for _ in progress(range(rounds), "compaction"):
            put(result, saves_during(saving, records, folder, lambda: time.sleep(2)), "alone")
            start = time.perf_counter()
            during = saves_during(saving, records, folder, lambda: compacting.ask("compact"))
            put(result, time.perf_counter() - start, "seconds")
            put(result, during, "during")
    return result


def saves_during(
    saving: WorkerProcess, records: int, folder: Path, action: Callable[[], object]
) -> Result:
    stop = folder / "stop"
    stop.unlink(missing_ok=True)
    saving.send("save_waits", until=str(stop), count=records)
    try:
        action()
    finally:
        stop.touch()
        waits: Result = saving.receive()
    return waits
