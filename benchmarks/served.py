"""This engine beside Django's on a database or Redis server."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks import measure as measuring
from benchmarks import report
from benchmarks.arena import Population, arena
from benchmarks.command import Command, add_batches
from benchmarks.contenders import ASYNC, CONTENDERS, OURS
from benchmarks.measure import Result

OPERATIONS = ("create", "load", "save", "delete")


def side_by_side(
    names: Sequence[str], operations: Sequence[str], options: argparse.Namespace, folder: Path
) -> Result:
    with arena(names, options.sizes, folder) as (found, left_out):
        taken = measuring.operations(found, operations, rounds=options.rounds, batch=options.batch)
    return {"operations": taken, "notes": left_out}


class Redis(Command):
    """This engine on Redis or Valkey, also with a cache before it, and Django's cache engine.

    All take turns, each on a server of its own, so what to read are the ratios.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--server", choices=("redis", "valkey"), default="redis")
        add_batches(parser, sizes=[2000], rounds=9, batch=300)

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        engines = (OURS, f"{OURS}-layered", "cache", "django")
        names = [f"{engine}-{options.server}" for engine in engines]
        results |= side_by_side(names, (*OPERATIONS, *ASYNC), options, folder)


class Database(Command):
    """This engine in a table of a database, and Django's db engine.

    Both take turns, so what to read are the ratios. --clean-up measures instead how long the
    saves of another process take while two remove a tenth of so many rows.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        kinds = ("postgres", "mysql", "sqlite", "sqlite-wal")
        parser.add_argument("--database", choices=kinds, default="postgres")
        add_batches(parser, sizes=[2000], rounds=9, batch=300)
        parser.add_argument("--clean-up", type=int, metavar="ROWS")

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        ours, django = f"{OURS}-{options.database}", f"db-{options.database}"
        if options.clean_up:
            results["clean_up"] = clean_up(ours, options.clean_up, folder, options.rounds)
        else:
            results |= side_by_side([ours, django], OPERATIONS, options, folder)

    def render(self, results: Result) -> Iterator[str]:
        yield from report.operations(results)
        if found := results.get("clean_up"):
            rows = found["sessions"] + found["expired"]
            yield report.waits(f"two others remove {found['expired']:,} of {rows:,} rows", found)


def clean_up(name: str, rows: int, folder: Path, rounds: int) -> Result:
    """A tenth has expired: two clean-ups at once, and another process that saves."""
    expired = rows // 10
    with ExitStack() as stack:
        one = stack.enter_context(closing(Population(CONTENDERS[name], rows - expired, folder)))
        cleaners = [stack.enter_context(one.new_worker()) for _ in range(2)]
        cleaners[0].ask("fill", count=one.size)

        def expire() -> None:
            cleaners[0].ask("fill_expired", count=expired)

        def clean() -> None:
            for worker in cleaners:
                worker.send("clear")
            for worker in cleaners:
                worker.receive()

        found = measuring.save_waits(one, folder, clean, rounds=rounds, before=expire)
        if (left := cleaners[0].ask("stored")) != one.size:
            raise RuntimeError(f"The clean-ups left {left} rows, not {one.size}.")
    return found | {"expired": expired}
