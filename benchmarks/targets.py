"""What the engine must reach, judged by ratios within one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.engines import OURS

Result = dict[str, Any]


class Target(NamedTuple):
    what: str
    bound: str
    measured: str
    reached: bool | None  # None: not measured in this run


def targets(results: Result) -> list[Target]:
    """Every target; those that this run has no figures for are not measured."""
    judged = []
    for what, bound, unit, limit, at_least, measure in TARGETS:
        text = f"at {'least' if at_least else 'most'} {bound}"
        try:
            value = measure(results)
        except (KeyError, ValueError):
            judged.append(Target(what, text, "", None))
            continue
        reached = value >= limit if at_least else value <= limit
        judged.append(Target(what, text, f"{value:,.{2 if value < 100 else 0}f}{unit}", reached))
    return judged


def median(figures: Sequence[float]) -> float:
    return float(statistics.median(figures))


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Round by round, as a noisy minute slows both."""
    return [a / b for a, b in zip(one, other, strict=True)]


def faster(than: str, operation: str) -> Callable[[Result], float]:
    """How many times faster than that engine, at 100,000 sessions."""

    def measure(results: Result) -> float:
        size = results["operations"]["100000"]
        return median(ratios(size[than][operation], size[OURS][operation]))

    return measure


def slower(than: str, operation: str) -> Callable[[Result], float]:
    """How many times the time of that engine, at 100,000 sessions."""

    def measure(results: Result) -> float:
        size = results["operations"]["100000"]
        return median(ratios(size[OURS][operation], size[than][operation]))

    return measure


def growth(results: Result) -> float:
    sizes = results["operations"]
    return median(ratios(sizes["1000000"][OURS]["load"], sizes["1000"][OURS]["load"]))


def added(results: Result, size: str, name: str) -> list[float]:
    """What reading the session adds to a request, in microseconds, round by round."""
    figures = results["operations"][size][name]
    return [read - plain for read, plain in zip(figures["read"], figures["plain"], strict=True)]


def adds(than: str) -> Callable[[Result], float]:
    def measure(results: Result) -> float:
        # Differences of noisy figures: of two rounds' ratio little would be left.
        other = median(added(results, "100000", than))
        if other <= 0:
            raise ValueError("Lost in the noise.")
        return median(added(results, "100000", OURS)) / other

    return measure


def clears(results: Result) -> float:
    seconds = results["clear_few"]["100000"]
    return median(seconds["file"]) / median(seconds[OURS])


def memory(results: Result) -> float:
    """Bytes a session, at the largest size that was measured."""
    figures = results["footprint"]["memory"]
    size = max(map(int, figures))
    if size < 100_000:
        raise ValueError("Too few to tell sessions from noise.")
    return bytes_per_session(figures, size, OURS)


def bytes_per_session(figures: Result, size: int, name: str) -> float:
    """What a process holds for each session, beyond what it needs for none."""
    return (median(figures[str(size)][name]) - median(figures["0"][name])) / size


def opens(results: Result) -> float:
    return median(results["footprint"]["open"]["1000000"][OURS])


def together(count: int) -> Callable[[Result], float]:
    def measure(results: Result) -> float:
        if results["processes"]["sessions"] < 10_000:
            raise ValueError("Too few sessions.")
        rates = results["processes"]["rates"]
        return median(ratios(rates[OURS][str(count)], rates["cache-diskcache"][str(count)]))

    return measure


def longest_wait(results: Result) -> float:
    compaction = results["compaction"]
    if compaction["records"] < 1_000_000:
        raise ValueError("Too few records.")
    return float(max(during["longest"] for during in compaction["during"]))


def asgi(results: Result) -> float:
    rates = results["asgi"]
    others = [rates[name]["read"] for name in rates if name != OURS]
    return median(
        ratios(rates[OURS]["read"], [max(figures) for figures in zip(*others, strict=True)])
    )


def lost(what: str) -> Callable[[Result], float]:
    def measure(results: Result) -> float:
        race = results["races"][OURS]
        return float(race["sent"] - race[what])

    return measure


def since_before(results: Result) -> float:
    size = results["operations"]["100000"]
    return median(ratios(size[OURS]["save"], size["before"]["save"]))


def _targets() -> Iterator[tuple[str, str, str, float, bool, Callable[[Result], float]]]:
    limit: float
    for operation, name, limit in (
        ("load", "file", 4),
        ("load", "db", 20),
        ("save", "file", 8),
        ("save", "db-wal", 10),
        ("save", "cache-diskcache", 4),
        ("create", "cache-locmem", 2),
    ):
        what = f"{operation}, times faster than {name}, 100,000 sessions"
        yield what, f"{limit}", "", limit, True, faster(name, operation)
    for operation, label, limit in (
        ("load", "load", 1.2),
        ("save", "save", 1.5),
        ("read", "request that reads", 1.1),
    ):
        what = f"{label}, times that on cache-locmem, 100,000 sessions"
        yield what, f"{limit}", "", limit, False, slower("cache-locmem", operation)
    for name in ("file", "db", "cached_db"):
        what = f"request that reads, share of what {name} adds to it"
        yield what, "0.5", "", 0.5, False, adds(name)
    yield "load at 1,000,000, times that at 1,000", "1.5", "", 1.5, False, growth
    what = "clear_expired, 1 % of 100,000, times faster than file"
    yield what, "100", "", 100, True, clears
    yield "memory per process and session", "200 bytes", " bytes", 200, False, memory
    yield "opening 1,000,000 sessions", "2 s", " s", 2, False, opens
    for count in (2, 4):
        what = f"loads and saves by {count} processes, times those of cache-diskcache"
        yield what, "3", "", 3, True, together(count)
    what = "longest save of another process in a compaction of 1,000,000"
    yield what, "50 ms", " ms", 50, False, longest_wait
    what = "ASGI, view that reads, requests a second, times the best of Django's"
    yield what, "1.5", "", 1.5, True, asgi
    for name, label in (("keys", "keys"), ("counters", "nested counters"), ("common", "mutate")):
        yield f"parallel changes lost, {label}", "0", "", 0, False, lost(name)
    yield "save, times that before", "1.1", "", 1.1, False, since_before


TARGETS = list(_targets())
