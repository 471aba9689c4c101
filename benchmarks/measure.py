"""What is measured on populations, in turns; each returns what goes into the JSON."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.arena import Population, WorkerProcess, progress
from benchmarks.contenders import REQUESTS

Result = dict[str, Any]


def put(result: Result, value: Any, *path: str | int) -> None:
    """Append to the list at that path, made where it is missing."""
    *parents, last = map(str, path)
    for name in parents:
        result = result.setdefault(name, {})
    result.setdefault(last, []).append(value)


def shuffled(items: Sequence[Any]) -> list[Any]:
    """All in the same minute, and no one always after the same neighbour."""
    return random.sample(items, len(items))


def operations(
    populations: Sequence[Population], names: Sequence[str], *, rounds: int, batch: int
) -> Result:
    """Microseconds of one operation: size, contender, operation, one figure per round."""
    # The requests in one go, since it is their differences that tell.
    groups = [[name] for name in names if name not in REQUESTS]
    groups.append([name for name in REQUESTS if name in names])
    tasks = [(one, group) for one in populations for group in groups]
    result: Result = {}
    for _ in progress(range(rounds), "operations"):
        for one, group in shuffled(tasks):
            for name in group:
                if name in one.contender.operations:
                    spent = one.worker.ask("batch", operation=name, count=batch)
                    put(result, spent, one.size, one.name, name)
    for rows in result.values():
        for row in rows.values():
            if "plain" in row and "read" in row:
                pairs = zip(row["read"], row["plain"], strict=True)
                row["added"] = [read - plain for read, plain in pairs]
    return result


def clear_few(
    populations: Sequence[Population], *, rounds: int, expired: int | None = None
) -> Result:
    """Seconds of clear_expired() with 1 % expired: size, contender, one figure per round."""
    result: Result = {}
    for one in progress(clearing(populations, rounds), "clear 1 %"):
        before = one.worker.ask("stored")
        one.worker.ask("fill_expired", count=expired or max(1, one.size // 100))
        put(result, clear(one.worker, before), one.size, one.name)
    return result


def clear_all(populations: Sequence[Population], folder: Path, *, rounds: int) -> Result:
    """The same with all expired, in places of their own."""
    result: Result = {}
    for number, one in enumerate(progress(clearing(populations, rounds), "clear all")):
        with closing(Population(one.contender, 0, folder / f"expired-{number}")) as other:
            other.worker.ask("fill_expired", count=one.size)
            put(result, clear(other.worker, 0), one.size, one.name)
    return result


def clearing(populations: Sequence[Population], rounds: int) -> list[Population]:
    """Who clears, in turns; over 100,000 sessions only once, as it takes minutes."""
    return shuffled(
        [
            one
            for one in populations
            if one.contender.clears and "load" in one.contender.operations
            for _ in range(rounds if one.size <= 100_000 else 1)
        ]
    )


def clear(worker: WorkerProcess, left: int) -> float:
    seconds: float = worker.ask("clear")
    if (stored := worker.ask("stored")) != left:
        raise RuntimeError(f"clear_expired() left {stored} sessions, not {left}.")
    return seconds


def footprint(populations: Sequence[Population], folder: Path, *, rounds: int) -> Result:
    """A fresh process: seconds to the first load, private bytes; and bytes on disk."""
    result: Result = {"disk": {}, "memory": {}, "open": {}, "each": {}}
    kept = [
        one
        for one in populations
        if "load" in one.contender.operations
        and not (one.contender.stateless or one.contender.server)
    ]
    empty = {one.name: Population(one.contender, 0, folder / f"empty-{one.name}") for one in kept}
    for one in empty.values():
        one.fill()
    for one in kept:
        if one.lasts:
            put(result["disk"], one.disk(), one.size, one.name)
    turns = [one for one in [*kept, *empty.values()] for _ in range(rounds)]
    for one in progress(shuffled(turns), "fresh starts"):
        with one.new_worker() as worker:
            opened = worker.ask("open", count=one.size)
        put(result, opened["bytes"], "memory", one.size, one.name)
        if not one.contender.in_process:
            put(result, opened["seconds"], "open", one.size, one.name)
        if one.size:
            put(result, opened["bytes"], "each", one.size, one.name)
    for size, rows in result["each"].items():
        for name, figures in rows.items():
            without = median(result["memory"]["0"][name])
            rows[name] = [(figure - without) / int(size) for figure in figures]
    return result


def save_waits(
    population: Population,
    folder: Path,
    action: Callable[[], object],
    *,
    rounds: int,
    alone: float = 2,
    before: Callable[[], object] = lambda: None,
) -> Result:
    """Milliseconds of one process's saves during the action, and ``alone`` seconds without."""
    result: Result = {"sessions": population.size}
    with population.new_worker() as saving:
        saving.ask("open", count=population.size)
        for _ in progress(range(rounds), "saves"):
            put(result, waits(saving, population, folder, lambda: time.sleep(alone)), "alone")
            before()
            start = time.perf_counter()
            during = waits(saving, population, folder, action)
            put(result, time.perf_counter() - start, "seconds")
            put(result, during, "during")
            put(result, during["longest"], "longest", population.size)
    return result


def waits(
    saving: WorkerProcess, population: Population, folder: Path, action: Callable[[], object]
) -> Result:
    stop = folder / "stop"
    stop.unlink(missing_ok=True)
    saving.send("save_waits", until=str(stop), count=population.size)
    try:
        action()
    finally:
        stop.touch()
        found: Result = saving.receive()
    return found
