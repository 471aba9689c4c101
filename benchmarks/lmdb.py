"""LMDB among many sessions."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure as measuring
from benchmarks import report
from benchmarks.arena import Population, arena, progress
from benchmarks.command import Command, add_rounds
from benchmarks.contenders import LMDB as NAME
from benchmarks.measure import Result
from benchmarks.report import Target

GENERATIONS = 7
SETTLED = 2  # the generation from which on space is used again
MOST = 1_000_000
LOAD, CLEAN_UP = "operations/{}/" + NAME + "/load", "clear_few/{}/" + NAME


class LMDB(Command):
    """LMDB among many sessions: opening, loading, cleaning up, and whether its file grows."""

    targets = (
        Target("seconds to open 1,000,000", 0.05, f"footprint/open/{MOST}/{NAME}"),
        Target("bytes that this and loading add", 20e6, f"footprint/memory/{MOST}/{NAME}"),
        Target("µs of a load among 1,000,000", 100, LOAD.format(MOST)),
        Target("times that among a tenth", 1.5, LOAD.format(MOST), LOAD.format(MOST // 10)),
        Target("seconds to remove 10,000 more", 1, CLEAN_UP.format(MOST)),
        Target("times among a tenth", 1.3, CLEAN_UP.format(MOST), CLEAN_UP.format(MOST // 10)),
        Target("times the file, once its space is used again", 1.1, "growth"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--sessions", type=int, default=MOST)
        add_rounds(parser, 7)

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        # The same number expires among many live ones and ten times as many.
        most, rounds, expired = options.sessions, options.rounds, options.sessions // 100
        with arena([NAME], [most // 10, most], folder) as (both, _):
            fewer, many = both
            results["footprint"] = measuring.footprint([many], folder, rounds=rounds)
            results["operations"] = measuring.operations(
                both, ["load"], rounds=20 * rounds, batch=min(100, fewer.size // 2)
            )
            results["clear_few"] = measuring.clear_few(both, rounds=rounds, expired=expired)
            results["growth"] = [growth(fewer, expired)]

    def render(self, results: Result) -> Iterator[str]:
        yield from report.operations(results)
        yield from report.footprint(results)
        if "clear_few" in results:
            title = "clear_expired of as many in each: ms, by sessions live"
            yield report.by_size(title, results["clear_few"], 1e3)


def growth(population: Population, expired: int) -> float:
    """How much larger the file is after more generations of expired sessions."""
    file = population.place.folder / "store" / "data.mdb"
    sizes = []
    for _ in progress(range(GENERATIONS), "generations"):
        population.worker.ask("fill_expired", count=expired)
        population.worker.ask("clear")
        sizes.append(file.stat().st_size)
    return sizes[-1] / sizes[SETTLED]
