"""The results as tables that read well on a terminal and as Markdown."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.contenders import CONTENDERS, OPERATIONS, OURS
from benchmarks.measure import Result

#: Figures by row and column; a cell may be missing.
Rows = Mapping[str, Mapping[str, Sequence[float]]]

HEADINGS = {
    "plain": "request without session",
    "added": "added to a request that reads",
    "read": "request that reads",
    "write": "request that writes",
}
PACKAGES = ("Django", "diskcache", "django-redis", "gunicorn", "msgpack", "semidbm", "uvicorn")


class Target(NamedTuple):
    """What is to be reached, judged by figures of one run."""

    what: str
    bound: float
    #: Where the figures are in the results, one a round.
    path: str
    #: Those that they are divided by, round by round, as a noisy minute slows both.
    by: str | None = None
    at_least: bool = False

    def judge(self, results: Result) -> tuple[str, bool | None]:
        """The median, and whether it reaches the bound; None: not measured in this run."""
        try:
            figures = at(results, self.path)
            if self.by is not None:
                figures = ratios(figures, at(results, self.by))
        except (KeyError, ZeroDivisionError):
            return "", None
        value = median(figures)
        return short(value), value >= self.bound if self.at_least else value <= self.bound


def at(results: Result, path: str) -> list[float]:
    found: Any = results
    for name in path.split("/"):
        found = found[name]
    return [float(figure) for figure in found]


def machine() -> Result:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    cpus = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    installed = {one.name: one.version for one in distributions() if one.name in PACKAGES}
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpus[0] if cpus else platform.processor(),
        "cpus": os.cpu_count(),
        **{name: installed.get(name, "not installed") for name in PACKAGES},
    }


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Round by round, as a noisy minute slows both."""
    return [a / b for a, b in zip(one, other, strict=True)]


def operations(results: Result) -> Iterator[str]:
    """Every size: the microseconds, and how many times those of our first contender."""
    for size, rows in sorted(results.get("operations", {}).items(), key=lambda item: int(item[0])):
        columns = [name for name in OPERATIONS if any(name in row for row in rows.values())]
        title = f"{int(size):,} sessions"
        yield grid(f"{title}: µs, median (min-max) of the rounds", rows, columns)
        against = next((name for name in CONTENDERS if name in rows), "")
        if against.startswith(OURS) and len(rows) > 1:
            base = rows[against]
            times = {
                name: {each: ratios(row[each], base[each]) for each in row if each in base}
                for name, row in rows.items()
                if name != against
            }
            yield grid(f"{title}: times the time of {label(against)}", times, columns)


def by_size(title: str, sizes: Mapping[str, Mapping[str, Sequence[float]]], factor: float) -> str:
    """Figures that are by size and contender."""
    columns = sorted(sizes, key=int)
    names = dict.fromkeys(name for size in columns for name in sizes[size])
    rows = {
        name: {size: sizes[size][name] for size in columns if name in sizes[size]} for name in names
    }
    return grid(title, rows, columns, factor)


def footprint(results: Result) -> Iterator[str]:
    for part, title, factor in (
        ("open", "A fresh process, until its first load is done: ms", 1e3),
        ("memory", "Private memory that this adds to a process: MB", 1e-6),
        ("each", "Private memory of a process for each session stored: bytes", 1),
        ("disk", "On disk: MB", 1e-6),
    ):
        if found := results.get("footprint", {}).get(part):
            yield by_size(f"{title}, by sessions stored", found, factor)


def waits(title: str, figures: Result) -> str:
    """Saves of one process during something, and without."""
    rows = [
        [
            name,
            f"{sum(one['count'] for one in found):,}",
            f"{median(one['median'] for one in found):.3f}",
            f"{median(one['p999'] for one in found):.2f}",
            f"{max(one['longest'] for one in found):.1f}",
        ]
        for name, found in (("meanwhile", figures["during"]), ("without", figures["alone"]))
    ]
    title = f"Saves of one process while {title} in {spread(figures['seconds'])} s: ms"
    return table(title, ["saves", "median", "99.9 %", "longest"], rows)


def judged(targets: Sequence[Target], results: Result) -> str:
    words = {True: "yes", False: "NO", None: "not measured"}
    rows = []
    for target in targets:
        value, reached = target.judge(results)
        bound = f"at {'least' if target.at_least else 'most'} {short(target.bound)}"
        rows.append([target.what, bound, value, words[reached]])
    return table("Targets", ["must be", "measured", "reached"], rows)


def grid(title: str, rows: Rows, columns: Sequence[str], factor: float = 1) -> str:
    """A table of medians and ranges, its rows as the contenders are listed."""
    order = list(CONTENDERS)
    names = sorted(rows, key=lambda name: order.index(name) if name in order else -1)
    lines = [
        [label(name), *(spread(rows[name].get(column, ()), factor) for column in columns)]
        for name in names
    ]
    headings = [
        f"{int(name):,}" if name.isdigit() else HEADINGS.get(name, name) for name in columns
    ]
    return table(title, headings, lines)


def label(name: str) -> str:
    return CONTENDERS[name].label if name in CONTENDERS else name


def spread(figures: Sequence[float], factor: float = 1) -> str:
    if not figures:
        return ""
    least, middle, most = (short(factor * of(figures)) for of in (min, median, max))
    return f"{middle} ({least}-{most})"


def short(figure: float) -> str:
    """Three digits that mean something."""
    return f"{figure:,.{2 if abs(figure) < 10 else 1 if abs(figure) < 100 else 0}f}"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [["", *columns], *(list(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns) + 1)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        "| "
        + " | ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join([title, "", *aligned])
