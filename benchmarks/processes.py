"""Several processes on the same sessions."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks import measure as measuring
from benchmarks import report
from benchmarks.arena import Population, WorkerProcess, progress
from benchmarks.command import Command, add_list, add_rounds, numbers
from benchmarks.contenders import CONTENDERS, EMBEDDED, OURS
from benchmarks.measure import Result
from benchmarks.report import Target

RATE = "rates/10000/{}/{}"


class Processes(Command):
    """Several processes on the same sessions, and saves while another process compacts them."""

    targets = (
        *(
            Target(f"{count} processes, times diskcache", 3, RATE.format(OURS, count), other, True)
            for count, other in ((n, RATE.format("cache-diskcache", n)) for n in (2, 4))
        ),
        Target("ms of a save, 1,000,000 being compacted", 50, "compaction/longest/1000000"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--sessions", type=int, default=10_000, help="that they share")
        parser.add_argument("--records", type=int, default=100_000, help="to compact; 0: none")
        parser.add_argument(
            "--processes", type=numbers, default=[1, 2, 4], help="at once (default 1,2,4)"
        )
        parser.add_argument("--seconds", type=float, default=2, help="of each turn")
        add_rounds(parser, 3)
        add_list(parser, "--engines", EMBEDDED, (OURS, "cache-diskcache", "file"))

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        found = [
            Population(CONTENDERS[name], options.sessions, folder / name)
            for name in options.engines
        ]
        results["rates"] = {str(options.sessions): rates(found, options)}
        if options.records:
            with closing(Population(CONTENDERS[OURS], options.records, folder / "many")) as one:
                one.worker.ask("fill", count=one.size)
                results["compaction"] = measuring.save_waits(
                    one,
                    folder,
                    lambda: one.worker.ask("compact"),
                    rounds=options.rounds,
                    alone=options.seconds,
                )

    def render(self, results: Result) -> Iterator[str]:
        for size, rows in results.get("rates", {}).items():
            title = f"Loads and saves a second, half of each, on {int(size):,} sessions"
            counts = sorted(next(iter(rows.values())), key=int)
            yield report.grid(f"{title}: median (min-max), by processes", rows, counts)
        if found := results.get("compaction"):
            yield report.waits(f"another compacts {found['sessions']:,} records", found)


def rates(populations: list[Population], options: argparse.Namespace) -> Result:
    """Loads and saves a second, half of each: contender, processes, one figure a round."""
    result: Result = {}
    with ExitStack() as stack:
        workers = {
            one: [stack.enter_context(one.new_worker()) for _ in range(max(options.processes))]
            for one in populations
        }
        for one in populations:
            workers[one][0].ask("fill", count=one.size)
            # One turn that does not count, to have everything open and warm.
            together(workers[one], one.size, options.seconds / 4)
        tasks = [(one, count) for one in populations for count in options.processes]
        for _ in progress(range(options.rounds), "several processes"):
            for one, count in measuring.shuffled(tasks):
                rate = together(workers[one][:count], one.size, options.seconds)
                measuring.put(result, rate, one.name, count)
    return result


def together(workers: list[WorkerProcess], sessions: int, seconds: float) -> float:
    """Operations a second of all of them."""
    for worker in workers:
        worker.send("mix", seconds=seconds, count=sessions)
    return float(sum(worker.receive() for worker in workers) / seconds)
