"""The results as tables that read well on a terminal and as Markdown."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.engines import CONTENDERS, OPERATIONS, OURS
from benchmarks.targets import Target, bytes_per_session, ratios, targets

Result = dict[str, Any]

REQUESTS = {
    "plain": "request without session",
    "read": "request that reads",
    "write": "request that writes",
}


def machine() -> Result:
    """What the figures depend on."""
    packages = ("Django", "diskcache", "gunicorn", "msgpack", "semidbm", "uvicorn")
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "cpus": os.cpu_count(),
        **{name: installed(name) for name in packages},
    }


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def render(results: Result) -> str:
    """All tables of what was measured; the targets come last."""
    return "\n\n".join(sections(results)) + "\n"


def sections(results: Result) -> Iterator[str]:
    yield ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    for note in results.get("notes", ()):
        yield f"Left out: {note}"
    measured = results.get("operations", {})
    for size in sorted(measured, key=int):
        yield from operations(int(size), measured[size])
    if "clear_few" in results:
        yield clearing(results)
    if "footprint" in results:
        yield from footprint(results["footprint"])
    if "processes" in results:
        yield processes(results["processes"])
    if "compaction" in results:
        yield compaction(results["compaction"])
    if "asgi" in results:
        yield asgi(results["asgi"])
    if "races" in results:
        yield races(results["races"])
    yield judged(targets(results))


def operations(size: int, figures: Result) -> Iterator[str]:
    figures = in_order(figures)
    names = [name for name in OPERATIONS if any(name in row for row in figures.values())]
    columns = [REQUESTS.get(name, name) for name in names]
    rows = [
        [label(name), *(spread(row.get(operation)) for operation in names)]
        for name, row in figures.items()
    ]
    yield table(f"{size:,} sessions: µs, median (min-max) of the rounds", columns, rows)
    if OURS not in figures:
        return
    rows = [
        [label(name), *(times(row.get(operation), figures[OURS][operation]) for operation in names)]
        for name, row in figures.items()
        if name != OURS
    ]
    yield table(f"{size:,} sessions: times the time of {label(OURS)}", columns, rows)


def clearing(results: Result) -> str:
    parts = [("1 %", results["clear_few"]), ("all", results.get("clear_all", {}))]
    cells = [
        (f"{title} of {int(size):,}", sizes[size])
        for title, sizes in parts
        for size in sorted(sizes, key=int)
    ]
    names = dict.fromkeys(name for _, row in cells for name in row)
    rows = [
        [label(name), *(spread(row.get(name), 1000) for _, row in cells)]
        for name in in_order(names)
    ]
    columns = [title for title, _ in cells]
    return table("clear_expired: ms, median (min-max)", columns, rows)


def footprint(figures: Result) -> Iterator[str]:
    disk, memory, opened = figures["disk"], figures["memory"], figures["open"]
    sizes = sorted((size for size in memory if size != "0"), key=int)
    columns = [f"{int(size):,}" for size in sizes]
    yield table(
        "A fresh process, until its first load is done: ms, median (min-max), by sessions stored",
        columns,
        [
            [label(name), *(spread(opened.get(size, {}).get(name), 1000) for size in sizes)]
            for name in in_order(opened[sizes[0]])
        ],
    )
    yield table(
        "Private memory of a process for each session stored: bytes, and MB in all",
        columns,
        [
            [
                label(name),
                *(
                    f"{bytes_per_session(memory, int(size), name):,.0f}"
                    f" ({median(memory[size][name]) / 1e6:,.1f} MB)"
                    if name in memory[size]
                    else ""
                    for size in sizes
                ),
            ]
            for name in in_order(memory[sizes[0]])
        ],
    )
    yield table(
        "On disk: MB",
        columns,
        [
            [
                label(name),
                *(
                    f"{disk[size][name] / 1e6:,.1f}" if name in disk.get(size, {}) else ""
                    for size in sizes
                ),
            ]
            for name in in_order(disk[sizes[0]])
        ],
    )


def processes(figures: Result) -> str:
    rates = in_order(figures["rates"])
    counts = sorted(next(iter(rates.values())), key=int)
    columns = [f"{count} process{'es' if count != '1' else ''}" for count in counts]
    rows = [[label(name), *(spread(row[count]) for count in counts)] for name, row in rates.items()]
    title = (
        f"Loads and saves a second, half of each, on {figures['sessions']:,} sessions:"
        " median (min-max)"
    )
    return table(title, columns, rows)


def compaction(figures: Result) -> str:
    rows = [
        [
            title,
            f"{sum(one['count'] for one in waits):,}",
            f"{median(one['median'] for one in waits):.3f}",
            f"{median(one['p999'] for one in waits):.2f}",
            f"{max(one['longest'] for one in waits):.1f}",
        ]
        for title, waits in (
            ("during a compaction", figures["during"]),
            ("without", figures["alone"]),
        )
    ]
    seconds = spread(figures["seconds"])
    return table(
        f"Saves of one process while another compacts {figures['records']:,} records"
        f" in {seconds} s: ms",
        ["saves", "median", "99.9 %", "longest"],
        rows,
    )


def asgi(figures: Result) -> str:
    views = ("plain", "read", "write")
    rows = [
        [label(name), *(spread(row[view]) for view in views)]
        for name, row in in_order(figures).items()
    ]
    title = "ASGI, one uvicorn worker: requests a second, median (min-max)"
    return table(title, ["without session", "reads", "writes"], rows)


def races(figures: Result) -> str:
    rows = [
        [label(name), *(f"{row[key]:,}" for key in ("acknowledged", "keys", "counters", "common"))]
        for name, row in figures.items()
    ]
    sent = next(iter(figures.values()))["sent"]
    title = f"Of {sent:,} parallel changes of one session over HTTP, 2 worker processes"
    return table(title, ["acknowledged", "keys kept", "nested counters", "common counter"], rows)


def judged(found: list[Target]) -> str:
    words = {True: "yes", False: "NO", None: "not measured"}
    rows = [[one.what, one.bound, one.measured, words[one.reached]] for one in found]
    return table("Targets", ["must be", "measured", "reached"], rows)


def label(name: str) -> str:
    return CONTENDERS[name].label if name in CONTENDERS else name


def in_order(rows: Mapping[str, Any]) -> Result:
    """As the contenders are listed, since they are measured in random order."""
    order = list(CONTENDERS)
    names = sorted(rows, key=lambda name: order.index(name) if name in order else -1)
    return {name: rows[name] for name in names}


def spread(figures: Sequence[float] | None, factor: float = 1) -> str:
    if not figures:
        return ""
    scaled = [figure * factor for figure in figures]
    return f"{short(median(scaled))} ({short(min(scaled))}-{short(max(scaled))})"


def times(figures: Sequence[float] | None, ours: Sequence[float]) -> str:
    if not figures:
        return ""
    each = ratios(figures, ours)
    return f"{short(median(each))} ({short(min(each))}-{short(max(each))})"


def short(figure: float) -> str:
    """Three digits that mean something."""
    return f"{figure:,.{2 if figure < 10 else 1 if figure < 100 else 0}f}"


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
    return "\n".join([f"{title}", "", *aligned])
