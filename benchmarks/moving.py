"""Moving all sessions out of Django's engines at once."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks import report
from benchmarks.arena import ROOT, Population, progress
from benchmarks.command import Command, add_list, add_rounds, numbers
from benchmarks.contenders import CONTENDERS, DJANGO, PACKAGE, django_settings
from benchmarks.measure import Result, put
from benchmarks.site import SETTINGS
from testservers import Missing

#: Those of Django's engines that can be listed, without those on caches.
LISTED = ("db-postgres", "db-mysql", "db-sqlite-wal", "db-sqlite", "file")
COMMAND = """
import resource, sys
from benchmarks import site
site.configure()
from django.core.management import call_command
call_command("migratesessions", *sys.argv[1:])
print("kilobytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
SAID = re.compile(r"Moved: ([\d,]+);.*\(([\d,]+) a second\)\nkilobytes (\d+)")


class Moving(Command):
    """Sessions a second that migratesessions moves out of Django's engines into the default store.

    Each move is into an empty store, and leaves in the engine what it has.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--sessions", type=int, default=100_000, help="default 100,000")
        parser.add_argument(
            "--processes", type=numbers, default=[1, 2], help="that move (default 1,2)"
        )
        add_rounds(parser, 3)
        add_list(parser, "--engines", LISTED, ("db-postgres", "db-sqlite-wal", "file"))

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        results["moved"], results["megabytes"] = {}, {}
        for name in options.engines:
            contender = CONTENDERS[name]
            try:
                one = Population(contender, options.sessions, folder / name)
            except Missing as reason:
                results["notes"].append(f"{name}: {reason}")
                continue
            with closing(one):
                one.fill()
                for turn in progress(range(options.rounds), name):
                    for processes in options.processes:
                        to = folder / f"{name}-{turn}-{processes}"
                        rate, megabytes = move(one, to, processes)
                        put(results["moved"], rate, name, processes)
                        put(results["megabytes"], megabytes, name, processes)

    def render(self, results: Result) -> Iterator[str]:
        for part, what in (("moved", "Sessions a second"), ("megabytes", "MB of the process")):
            if rows := results.get(part):
                columns = sorted(next(iter(rows.values())), key=int)
                title = f"{what}, {int(results['options']['sessions']):,} sessions"
                yield report.grid(f"{title}: median (min-max), by processes", rows, columns)


def move(one: Population, to: Path, processes: int) -> tuple[float, float]:
    """Sessions a second, and the most memory that the command took, in MB."""
    found = django_settings(one.contender, one.place, middleware=f"{DJANGO}.middleware")
    found |= {
        "SESSION_ENGINE": PACKAGE,
        "INSTALLED_APPS": ["django_kvsessions", DJANGO],
        "SESSION_STORES": {"default": {"LOCATION": str(to)}},
    }
    line = [sys.executable, "-c", COMMAND, "--from", one.contender.engine]
    done = subprocess.run(
        [*line, "--processes", str(processes)],
        cwd=ROOT,
        env={**os.environ, SETTINGS: json.dumps(found)},
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = SAID.search(done.stdout)
    if done.returncode or said is None or int(said[1].replace(",", "")) != one.size:
        raise RuntimeError(f"migratesessions did not move {one.size:,} sessions:\n{done.stdout}")
    return float(said[2].replace(",", "")), int(said[3]) / 1024
