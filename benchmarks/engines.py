"""Every engine on one machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks import figures, report
from benchmarks import measure as measuring
from benchmarks.arena import arena
from benchmarks.command import Command, add_batches, add_list
from benchmarks.contenders import ASYNC, CONTENDERS, LMDB, OPERATIONS, OURS
from benchmarks.measure import Result
from benchmarks.report import Target

PARTS = ("operations", "clear", "footprint")
DEFAULT = (
    *(OURS, f"{OURS}-process", f"{OURS}-full", LMDB, f"{LMDB}-process", f"{OURS}-redis"),
    *("cache-locmem", "cache-diskcache", "cache-redis", "django-redis", "cached_db"),
    *("db-sqlite", "db-sqlite-wal", "file", "signed_cookies"),
)

FASTER = {
    ("load", "file"): 4,
    ("load", "db-sqlite"): 20,
    ("save", "file"): 8,
    ("save", "db-sqlite-wal"): 10,
    ("save", "cache-diskcache"): 4,
    ("create", "cache-locmem"): 2,
}
AT_MOST = {
    ("load", "cache-locmem"): 1.2,
    ("save", "cache-locmem"): 1.5,
    ("read", "cache-locmem"): 1.1,
    ("added", "file"): 0.5,
    ("added", "db-sqlite"): 0.5,
    ("added", "cached_db"): 0.5,
}


def at(name: str, what: str, size: int = 100_000) -> str:
    return f"operations/{size}/{name}/{what}"


class Engines(Command):
    """Every engine on one machine: operations, requests, cleaning up, memory and disk.

    All take turns in one run, so what to read are the ratios.
    """

    targets = (
        *(
            Target(f"{what}, times faster than {than}", bound, at(than, what), at(OURS, what), True)
            for (what, than), bound in FASTER.items()
        ),
        *(
            Target(f"{what}, times that of {than}", bound, at(OURS, what), at(than, what))
            for (what, than), bound in AT_MOST.items()
        ),
        Target("load, 1,000,000 to 1,000", 1.5, at(OURS, "load", 10**6), at(OURS, "load", 1000)),
        Target(
            "clear_expired of 1 %, times faster than file",
            100,
            "clear_few/100000/file",
            f"clear_few/100000/{OURS}",
            True,
        ),
        Target("bytes a process and session", 200, f"footprint/each/100000/{OURS}"),
        Target("seconds to open 1,000,000", 2, f"footprint/open/1000000/{OURS}"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_batches(parser, sizes=[1_000, 100_000], rounds=20, batch=200)
        parser.add_argument("--clear-rounds", type=int, default=3, help="of everything else")
        add_list(parser, "--engines", CONTENDERS, DEFAULT)
        add_list(parser, "--parts", PARTS)
        sync = [name for name in OPERATIONS if name not in ASYNC]
        add_list(parser, "--operations", OPERATIONS, sync)
        parser.add_argument(
            "--skip",
            action="append",
            default=[],
            metavar="ENGINE@SIZE",
            help="leave one engine out at one size; the output says so",
        )
        short = "write there, in short, what the documentation's table and plots need"
        parser.add_argument("--figures", type=Path, metavar="FILE", help=short)

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        rounds, parts, sizes = options.clear_rounds, options.parts, options.sizes
        with arena(options.engines, sizes, folder, skip=options.skip) as (found, left_out):
            results["notes"] += left_out
            if "operations" in parts:
                results["operations"] = measuring.operations(
                    found, options.operations, rounds=options.rounds, batch=options.batch
                )
            if "clear" in parts:
                results["clear_few"] = measuring.clear_few(found, rounds=rounds)
            if "footprint" in parts:
                results["footprint"] = measuring.footprint(found, folder, rounds=rounds)
            if "clear" in parts:
                results["clear_all"] = measuring.clear_all(found, folder, rounds=rounds)
        if options.figures:
            figures.write(figures.summary(results), options.figures)

    def render(self, results: Result) -> Iterator[str]:
        yield from report.operations(results)
        for part, title in (("clear_few", "1 % expired"), ("clear_all", "all expired")):
            if part in results:
                title = f"clear_expired, {title}: ms, median (min-max), by sessions stored"
                yield report.by_size(title, results[part], 1e3)
        yield from report.footprint(results)
