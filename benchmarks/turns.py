"""Session engines on one server, measured in turns: what to read are the ratios."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.engines import OURS
from benchmarks.sample import session_data, session_key

#: Microseconds of each operation and engine, one figure a round.
Times = dict[tuple[str, str], list[float]]


def fill(engines: Mapping[str, Any], sessions: int) -> None:
    """Store the same sessions in each."""
    for engine in engines.values():
        for number in range(sessions):
            create(engine, number)


def take_turns(
    engines: Mapping[str, Any],
    operations: Sequence[str],
    *,
    sessions: int,
    rounds: int,
    batch: int,
) -> Times:
    """Each operation on each engine, in random order, on ``batch`` of the sessions a round."""
    times: Times = {}
    for turn in range(rounds):
        numbers = random.choices(range(sessions), k=batch)
        new = range(sessions + turn * batch, sessions + (turn + 1) * batch)
        order = list(engines)
        random.shuffle(order)
        for operation in operations:
            for name in order:
                chosen = new if operation in ("create", "delete") else numbers
                taken = timed(engines[name], operation, chosen) / batch
                times.setdefault((operation, name), []).append(taken * 1e6)
    return times


def create(engine: Any, number: int) -> None:
    session = engine(session_key(number))
    session._session_cache = session_data(number)
    session.save(must_create=True)


def timed(engine: Any, operation: str, numbers: Sequence[int]) -> float:
    """Seconds for the operation on all these sessions."""
    prepared = []
    for number in numbers:
        session = engine(session_key(number))
        if operation in ("save", "asave"):
            session["visits"] = session.get("visits", 0) + 1
        prepared.append(session)
    if operation.startswith("a"):
        return asyncio.run(timed_async(engine, operation, prepared))
    calls: dict[str, Callable[[Any, int], Any]] = {
        "create": lambda session, number: create(engine, number),
        "load": lambda session, number: session.load(),
        "save": lambda session, number: session.save(),
        "delete": lambda session, number: session.delete(),
    }
    call = calls[operation]
    started = time.perf_counter()
    for session, number in zip(prepared, numbers, strict=True):
        call(session, number)
    return time.perf_counter() - started


async def timed_async(engine: Any, operation: str, prepared: list[Any]) -> float:
    # The connection of this event loop.
    await engine(session_key(0)).aload()
    started = time.perf_counter()
    for session in prepared:
        await getattr(session, operation)()
    return time.perf_counter() - started


def report(times: Times) -> None:
    """A line for each operation; this package's is compared with each of the others."""
    operations = list(dict.fromkeys(operation for operation, _ in times))
    names = sorted({name for _, name in times}, key=lambda name: name != OURS)
    print("us, median (least), and how many times ours is faster by medians (by least)")
    for operation in operations:
        cells = []
        ours = times[operation, OURS]
        for name in names:
            theirs = times[operation, name]
            cell = f"{name} {median(theirs):.0f} ({min(theirs):.0f})"
            if name != OURS:
                cell += f" {median(theirs) / median(ours):.2f}x ({min(theirs) / min(ours):.2f}x)"
            cells.append(cell)
        print(f"{operation:7}", " | ".join(cells))
