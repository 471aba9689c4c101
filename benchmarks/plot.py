"""One figure for the README."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.engines import CONTENDERS, OURS
from benchmarks.report import short
from benchmarks.targets import added

Result = dict[str, Any]

OWN_COLOUR, OTHER_COLOUR, TEXT_COLOUR = "#0c7c59", "#a9b4c2", "#27323f"


def plot(results: Result, path: Path) -> None:
    """Bars of what each engine takes, at 100,000 sessions or the largest size below.

    Draws nothing where none of the operations that it shows was measured.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    sizes = sorted(map(int, results["operations"]))
    size = max([one for one in sizes if one <= 100_000] or sizes[:1])
    panels = {title: bars for title, bars in measured(results, str(size)).items() if bars}
    if not panels:
        return
    plt.rcParams.update(
        {"font.size": 10, "text.color": TEXT_COLOUR, "axes.labelcolor": TEXT_COLOUR}
    )
    rows = (len(panels) + 1) // 2
    figure, axes = plt.subplots(
        rows, 2, figsize=(11, 3.7 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(
        f"Microseconds for one operation, {size:,} sessions (shorter is better, log scale)",
        fontsize=14,
        fontweight="bold",
    )
    for axis, (title, bars) in zip(axes.flat, panels.items(), strict=False):
        names = sorted(bars, key=lambda name: -median(bars[name]))
        middles = [median(bars[name]) for name in names]
        spreads = [
            [middle - min(bars[name]) for name, middle in zip(names, middles, strict=True)],
            [max(bars[name]) - middle for name, middle in zip(names, middles, strict=True)],
        ]
        colours = [OWN_COLOUR if name.startswith(OURS) else OTHER_COLOUR for name in names]
        axis.set_xscale("log")
        axis.barh(range(len(names)), middles, color=colours, height=0.72)
        axis.errorbar(
            middles,
            range(len(names)),
            xerr=spreads,
            fmt="none",
            ecolor=TEXT_COLOUR,
            elinewidth=0.8,
            alpha=0.6,
        )
        for place, name in enumerate(names):
            weight = "bold" if name.startswith(OURS) else "normal"
            # Behind the whisker, so that neither hides the other.
            axis.annotate(
                f" {short(middles[place])}",
                (max(bars[name]), place),
                va="center",
                fontsize=9,
                fontweight=weight,
            )
        axis.set_yticks(range(len(names)), [CONTENDERS[name].label for name in names])
        axis.set_title(title, fontsize=11, fontweight="bold", loc="left", pad=8)
        lowest, highest = min(middles), max(max(bars[name]) for name in names)
        axis.set_xlim(lowest / 3, highest * 4)
        axis.xaxis.set_major_locator(LogLocator())
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g} µs"))
        axis.tick_params(length=0, colors=TEXT_COLOUR)
        axis.grid(axis="x", color="#e3e7ec", linewidth=0.8)
        axis.set_axisbelow(True)
        for side in axis.spines.values():
            side.set_visible(False)
    figure.savefig(path, dpi=130, facecolor="white")
    plt.close(figure)


def measured(results: Result, size: str) -> dict[str, dict[str, list[float]]]:
    figures = results["operations"][size]
    known = [name for name in figures if name in CONTENDERS]

    def bars(operation: str) -> dict[str, list[float]]:
        return {name: figures[name][operation] for name in known if operation in figures[name]}

    return {
        "load": bars("load"),
        "save of a changed session": bars("save"),
        "create": bars("create"),
        "added to a request that reads": {
            # Two noisy figures: their difference may fall below what an axis can show.
            name: [max(figure, 0.1) for figure in added(results, size, name)]
            for name in known
            if {"read", "plain"} <= set(figures[name])
        },
    }
