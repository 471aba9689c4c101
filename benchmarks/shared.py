"""One log and one index for all processes: another commit, this tree and LMDB in one run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks import measure as measuring
from benchmarks import report
from benchmarks.arena import ROOT, Population, progress
from benchmarks.command import Command, add_list, add_rounds, numbers
from benchmarks.compare import PACKAGE, fetch
from benchmarks.contenders import CONTENDERS, LMDB, OURS
from benchmarks.measure import Result
from benchmarks.processes import together

PARTS = ("operations", "processes", "open", "clear", "compaction", "rebuild")
SIDES = ("before", "after", "lmdb", "lmdb-process")


class Shared(Command):
    """One log and one index for all processes: another commit, this tree and LMDB in one run.

    They take turns in short rounds, each on sessions of its own; to read are the ratios.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("before", help=f"a commit, or a folder that has {PACKAGE}/")
        parser.add_argument("--sessions", type=int, default=100_000, help="used at a time")
        parser.add_argument("--many", type=int, default=1_000_000, help="opened and cleaned up")
        parser.add_argument("--processes", type=numbers, default=[1, 2, 4, 8])
        parser.add_argument("--seconds", type=float, default=1, help="of each turn")
        add_rounds(parser, 5)
        add_list(parser, "--parts", PARTS)
        add_list(parser, "--sides", SIDES)

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        packages = {"before": folder / "before", "after": folder / "after"}
        results["before"] = fetch(options.before, packages["before"])
        fetch(str(ROOT), packages["after"])
        kinds = dict(zip(SIDES, (OURS, OURS, LMDB, f"{LMDB}-process"), strict=True))
        with ExitStack() as stack:

            def filled(size: int) -> dict[str, Population]:
                found = {}
                for side in options.sides:
                    one = Population(
                        CONTENDERS[kinds[side]],
                        size,
                        folder / f"{side}-{size}",
                        package=packages.get(side, packages["after"]),
                    )
                    stack.callback(one.close)
                    one.fill()
                    found[side] = one
                return found

            if {"operations", "processes"} & set(options.parts):
                some = filled(options.sessions)
                if "operations" in options.parts:
                    operations(some, options.rounds, results)
                if "processes" in options.parts:
                    rates(some, options, results)
            if set(options.parts) - {"operations", "processes"}:
                self._many(filled(options.many), filled(0), options, folder, results)

    def _many(
        self,
        many: dict[str, Population],
        empty: dict[str, Population],
        options: argparse.Namespace,
        folder: Path,
        results: Result,
    ) -> None:
        if "open" in options.parts:
            for _ in progress(range(options.rounds), "open"):
                for side in measuring.shuffled(list(many)):
                    for where, name in ((empty, "empty"), (many, "many")):
                        with where[side].new_worker() as worker:
                            found = worker.ask("open", count=where[side].size)
                        measuring.put(results, found["seconds"] * 1000, "open_ms", name, side)
                        measuring.put(results, found["bytes"] / 1e6, "open_mb", name, side)
            index = many["after"].place.folder / "store" / "index"
            if index.exists():
                results["index_bytes"] = [index.stat().st_size / options.many]
        if "rebuild" in options.parts:
            for side in ("after",):
                for _ in range(min(3, options.rounds)):
                    many[side].rest()
                    (many[side].place.folder / "store" / "index").unlink(missing_ok=True)
                    with many[side].new_worker() as worker:
                        found = worker.ask("open", count=options.many)
                    measuring.put(results, found["seconds"] * 1000, "rebuild_ms", "many", side)
        if "clear" in options.parts:
            for side, one in many.items():
                one.worker.ask("fill_expired", count=options.many // 100)
                measuring.put(results, 1000 * one.worker.ask("clear"), "clear_ms", "1 %", side)
        if "compaction" in options.parts:
            for side in ("before", "after"):
                if side in many:
                    one = many[side]
                    found = measuring.save_waits(
                        one,
                        folder,
                        lambda one=one: one.worker.ask("compact"),  # type: ignore[misc]
                        rounds=1,
                        alone=5,
                    )
                    for name in ("alone", "during"):
                        for each in found[name]:
                            measuring.put(results, each["longest"], "longest_ms", name, side)
                            measuring.put(results, each["p999"], "p999_ms", name, side)

    def render(self, results: Result) -> Iterator[str]:
        yield f"before: {results['before']}"
        for title, name in (
            ("Microseconds of one operation", "operations"),
            ("Operations a second, half loads and half saves, by processes", "rates"),
            ("Milliseconds to the first load in a new process", "open_ms"),
            ("Megabytes that this and 200 loads add", "open_mb"),
            ("Milliseconds to the first load where the index has to be made", "rebuild_ms"),
            ("Milliseconds of a clean-up of 1 %", "clear_ms"),
            ("Longest save during a compaction, ms", "longest_ms"),
            ("The slowest of a thousand saves then, ms", "p999_ms"),
        ):
            if name in results:
                rows = [
                    [str(what), *(cell(row.get(side)) for side in SIDES)]
                    for what, row in results[name].items()
                ]
                yield report.table(title, [*SIDES], rows)
        if "index_bytes" in results:
            yield f"Bytes of the index a session: {results['index_bytes'][0]:.0f}"


def cell(figures: list[float] | None) -> str:
    return report.short(median(figures)) if figures else ""


def operations(some: dict[str, Population], rounds: int, results: Result) -> None:
    for turn in progress(range(20 * rounds), "operations"):
        for what in ("load", "save", "create", "delete"):
            for side in measuring.shuffled(list(some)):
                if what not in some[side].contender.operations:
                    continue
                if "processor" in results:
                    some[side].worker.ask("use_processor_time")
                spent = some[side].worker.ask("batch", operation=what, count=100)
                if turn:
                    measuring.put(results, spent, "operations", what, side)
    for one in some.values():
        one.rest()


def rates(some: dict[str, Population], options: argparse.Namespace, results: Result) -> None:
    with ExitStack() as stack:
        workers = {
            side: [stack.enter_context(one.new_worker()) for _ in range(max(options.processes))]
            for side, one in some.items()
        }
        for side, one in some.items():
            together(workers[side], one.size, options.seconds / 4)
            time.sleep(0.2)
        for _ in progress(range(options.rounds), "processes"):
            for count in options.processes:
                for side in measuring.shuffled(list(some)):
                    rate = together(workers[side][:count], some[side].size, options.seconds)
                    measuring.put(results, rate, "rates", count, side)
