"""The table and the plots of the documentation and the README."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.arena import ROOT
from benchmarks.command import Command
from benchmarks.contenders import CONTENDERS
from benchmarks.measure import Result

FIGURES = ROOT / "benchmarks" / "figures.json"
PLOT = ROOT / "benchmarks" / "results.png"

COLUMNS = {
    "load": "load",
    "save": "save",
    "create": "create",
    "delete": "delete",
    "clear": "1 % expired, ms",
}
PANELS = {
    "load": "load",
    "save": "save of a changed session",
    "create": "create",
    "added": "added to a request that reads",
}
OURS_COLOUR, DJANGO_COLOUR, TEXT_COLOUR, GRID_COLOUR = "#0c7c59", "#7b8794", "#27323f", "#e3e7ec"
BAR = 44  # letters of the longest bar of the README's plot
LEAST_SHOWN = 1.0  # microseconds; a difference of noisy figures may even be negative


class Figures(Command):
    """The documentation's table and plots, from the few figures that "engines --figures" kept."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--figures", type=Path, default=FIGURES, help="default: this tree's")
        parser.add_argument("--plot", type=Path, default=PLOT, help="PNG or SVG")

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        results["figures"] = json.loads(options.figures.read_text())
        results["machine"] = results["figures"]["machine"]
        drawn = draw(results["figures"])
        if drawn is None:
            results["notes"].append("the plot, which shows nothing of what was measured")
        else:
            drawn.savefig(options.plot, dpi=110, facecolor="white")

    def render(self, results: Result) -> Iterator[str]:
        yield table(results["figures"])
        yield bars(results["figures"])


def summary(results: Result) -> Result:
    """Least, median and greatest, at 100,000 sessions or the largest size below."""
    sizes = sorted(map(int, results.get("operations", {})))
    size = max([one for one in sizes if one <= 100_000] or sizes[:1], default=0)
    rows = results.get("operations", {}).get(str(size), {})
    kept: Result = {}
    for name in CONTENDERS:
        row = dict(rows.get(name, {}))
        if seconds := results.get("clear_few", {}).get(str(size), {}).get(name):
            row["clear"] = [1e3 * each for each in seconds]
        shown = [each for each in {**COLUMNS, **PANELS} if each in row]
        if shown:
            kept[name] = {
                each: [round(of(row[each]), 2) for of in (min, median, max)] for each in shown
            }
    return {
        "when": results["when"],
        "machine": results["machine"],
        "sessions": size,
        "rounds": max((len(each) for row in rows.values() for each in row.values()), default=0),
        "engines": kept,
    }


def write(figures: Result, path: Path) -> None:
    """A line for each engine."""
    lines = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in figures["engines"].items()]
    head = [
        f" {json.dumps(name)}: {json.dumps(value)},"
        for name, value in figures.items()
        if name != "engines"
    ]
    text = "\n".join(["{", *head, ' "engines": {', ",\n".join(lines), " }", "}", ""])
    path.write_text(text)


def table(figures: Result) -> str:
    """As it stands in docs/benchmarks.md; engines that only save are left to the plot."""
    rows = []
    for name, row in figures["engines"].items():
        if "load" in row:
            mark = "**" if CONTENDERS[name].is_ours else ""
            cells = [CONTENDERS[name].label]
            cells += [f"{row[each][1]:,.0f}" if each in row else "" for each in COLUMNS]
            rows.append([f"{mark}{cell}{mark}" if cell else "" for cell in cells])
    head = [f"{figures['sessions']:,} sessions, µs (median)", *COLUMNS.values()]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bars(figures: Result) -> str:
    """The plot of the README, in letters, since a picture needs an address to be shown from."""
    rows = sorted(
        (row["save"][1], CONTENDERS[name].label)
        for name, row in figures["engines"].items()
        if "load" in row and "save" in row
    )
    wide = max(len(label) for _, label in rows)
    longest = max(middle for middle, _ in rows)
    lines = [f"save of a changed session, µs (median), {figures['sessions']:,} sessions", ""]
    for middle, label in rows:
        bar = "█" * max(1, round(middle / longest * BAR))
        lines.append(f"{label:<{wide}}  {bar} {middle:,.0f}")
    return "\n".join(lines)


def draw(figures: Result) -> Any:
    """A dot and a range for each engine, on one scale in every panel; None without any."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    engines = figures["engines"]
    panels = {
        key: title for key, title in PANELS.items() if any(key in row for row in engines.values())
    }
    if not panels:
        return None
    names = [name for name, row in engines.items() if set(row) & set(panels)]
    # The fastest on top, by what every engine does.
    names.sort(key=lambda name: -engines[name].get("save", next(iter(engines[name].values())))[1])
    ends = [each for name in names for key in panels for each in engines[name].get(key, ())]
    limits = (max(min(ends), LEAST_SHOWN) / 2, max(ends) * 6)
    figure = Figure(figsize=(3.2 + 2.7 * len(panels), 1.9 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(names):
            if key in engines[name]:
                least, middle, most = (max(each, LEAST_SHOWN) for each in engines[name][key])
                colour, marker = style(name)
                axis.plot([least, most], [place, place], color=colour, linewidth=2, alpha=0.45)
                axis.plot(middle, place, marker, color=colour, markersize=7)
                text = f"  {report.short(engines[name][key][1])}"
                axis.annotate(text, (most, place), va="center", fontsize=8, color=TEXT_COLOUR)
        axis.set_title(title, fontsize=10, fontweight="bold", loc="left", color=TEXT_COLOUR)
        axis.set(xscale="log", xlim=limits)
        axis.xaxis.set_major_locator(LogLocator())
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(tick))
        axis.tick_params(length=0, colors=TEXT_COLOUR, labelsize=8)
        axis.grid(color=GRID_COLOUR, linewidth=0.8)
        axis.spines[:].set_visible(False)
    axes[0].set_yticks(range(len(names)), [CONTENDERS[name].label for name in names], fontsize=9)
    for text, name in zip(axes[0].get_yticklabels(), names, strict=True):
        text.set_color(style(name)[0])
    figure.suptitle(
        f"Microseconds for one operation, {figures['sessions']:,} sessions, ordered by save "
        "(further left is faster; one logarithmic scale for all)",
        fontsize=12,
        color=TEXT_COLOUR,
    )
    keys = {
        "this package": Line2D([], [], color=OURS_COLOUR, marker="s", linestyle=""),
        "Django's engines": Line2D([], [], color=DJANGO_COLOUR, marker="s", linestyle=""),
        "on this machine": Line2D([], [], color=TEXT_COLOUR, marker="o", linestyle=""),
        "on a server, over TCP": Line2D([], [], color=TEXT_COLOUR, marker="D", linestyle=""),
        f"marker: median of {figures['rounds']} rounds": Line2D([], [], linestyle=""),
        "line: from the fastest round to the slowest": Line2D([], [], color=TEXT_COLOUR, alpha=0.5),
    }
    figure.legend(
        keys.values(),
        keys,
        loc="outside lower center",
        ncols=len(keys),
        frameon=False,
        fontsize=8,
        labelcolor=TEXT_COLOUR,
    )
    return figure


def tick(microseconds: float, _: int) -> str:
    return f"{microseconds / 1000:g} ms" if microseconds >= 1000 else f"{microseconds:g} µs"


def style(name: str) -> tuple[str, str]:
    """Colour and marker."""
    contender = CONTENDERS[name]
    colour = OURS_COLOUR if contender.is_ours else DJANGO_COLOUR
    return colour, "D" if contender.server else "o"
