"""The package in two commits or folders against each other."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks import measure as measuring
from benchmarks import report
from benchmarks.arena import ROOT, Population, progress
from benchmarks.command import Command, add_batches, add_list
from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.measure import Result
from benchmarks.report import Target
from testservers import Missing

PACKAGE = "django_kvsessions"
STORES = (OURS, f"{OURS}-redis")
OPERATIONS = ("load", "save", "create", "delete")
LIMIT = 1.03
SIDES = ("before", "after")


class Compare(Command):
    """The package in two commits or folders against each other, in one run.

    Each runs in processes of its own, on sessions that it has stored itself, and they take turns
    in short rounds. To read is the ratio of the medians of a pair of processes, the middle one of
    several pairs, since no two processes are equally fast; beside it, the least and the greatest.
    """

    targets = tuple(
        Target(f"{CONTENDERS[name].label}: {operation}", LIMIT, f"ratios/{name}/{operation}")
        for name in STORES
        for operation in OPERATIONS
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("before", help=f"a commit, or a folder that has {PACKAGE}/")
        parser.add_argument("after", nargs="?", default=str(ROOT), help="default: this tree")
        add_batches(parser, sizes=[2000], rounds=60, batch=100)
        parser.add_argument("--pairs", type=int, default=5, help="of processes, one by one")
        text = "compare the processor's time, on a machine that others use too; waits do not count"
        parser.add_argument("--processor", action="store_true", help=text)
        ours = [name for name in CONTENDERS if CONTENDERS[name].is_ours]
        add_list(parser, "--stores", ours, STORES)
        add_list(parser, "--operations", OPERATIONS)

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        for side in SIDES:
            results[side] = fetch(getattr(options, side), folder / side)
        results["compare"], results["ratios"] = {}, {}
        for name in options.stores:
            with ExitStack() as stack:
                sides = {}
                try:
                    for side in SIDES:
                        place = folder / f"{name}-{side}"
                        one = Population(
                            CONTENDERS[name], max(options.sizes), place, package=folder / side
                        )
                        stack.callback(one.close)
                        sides[side] = one
                except Missing as error:
                    results["notes"].append(f"{name}: {error}")
                    continue
                for one in sides.values():
                    one.worker.ask("fill", count=one.size)
                taken = results["compare"][name] = take_turns(sides, options)
            results["ratios"][name] = {each: [ratio(taken[each])[0]] for each in taken}

    def render(self, results: Result) -> Iterator[str]:
        rows = []
        for name, operations in results.get("compare", {}).items():
            for operation in OPERATIONS:
                if operation in operations:
                    found, least, most = ratio(operations[operation])
                    cells = [report.short(middle(operations[operation][side])) for side in SIDES]
                    cells += [f"{found:.3f}", f"{least:.3f}-{most:.3f}"]
                    rows.append([f"{report.label(name)}: {operation}", *cells])
        yield "\n".join(f"{side}: {results[side]}" for side in SIDES if side in results)
        yield report.table("Microseconds, medians", [*SIDES, "ratio", "of each pair"], rows)


def fetch(source: str, folder: Path) -> str:
    """Copy the package as it is in that commit or folder; what it was."""
    folder.mkdir()
    path = Path(source) / PACKAGE
    if path.is_dir():
        shutil.copytree(path, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        return str(path)
    git = ["git", "-C", str(ROOT)]
    archive = folder / "archive.tar"
    command = [*git, "archive", f"--output={archive}", source, PACKAGE]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{source!r} is neither a commit that has {PACKAGE}/ nor a folder that has it: "
            f"{done.stderr.strip()}"
        )
    shutil.unpack_archive(archive, folder, filter="data")
    command = [*git, "log", "-1", "--format=%h %s", source]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def take_turns(sides: dict[str, Population], options: argparse.Namespace) -> Result:
    """Microseconds: operation, side, pair of processes, one figure a round."""
    result: Result = {}
    for pair in progress(range(options.pairs), next(iter(sides.values())).name):
        for one in measuring.shuffled(list(sides.values())):
            imported = Path(one.worker.ask("package"))
            assert one.package is not None
            if options.processor:
                one.worker.ask("use_processor_time")
            if imported != (one.package / PACKAGE).resolve():
                raise RuntimeError(f"{imported} was measured in the place of {one.package}.")
        for turn in range(options.rounds + 1):
            for operation in measuring.shuffled(options.operations):
                for side in measuring.shuffled(SIDES):
                    spent = sides[side].worker.ask(
                        "batch", operation=operation, count=options.batch
                    )
                    # Nothing is warm in the first.
                    if turn:
                        measuring.put(result, spent, operation, side, pair)
        for one in sides.values():
            one.rest()
    return result


def ratio(figures: Result) -> tuple[float, float, float]:
    """After to before, by the medians of each pair of processes: median, least, greatest."""
    before, after = (figures[side] for side in SIDES)
    pairs = [median(after[pair]) / median(before[pair]) for pair in before]
    return median(pairs), min(pairs), max(pairs)


def middle(pairs: dict[str, list[float]]) -> float:
    return median(median(figures) for figures in pairs.values())
