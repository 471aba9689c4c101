"""This engine beside Django's own: measure, print the tables, judge what is to be reached."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import (
    auto_clean,
    compare,
    costs,
    engines,
    figures,
    http,
    lmdb,
    load_profile,
    moving,
    processes,
    report,
    served,
    shared,
    sizes,
)
from benchmarks.command import Command
from benchmarks.measure import Result

COMMANDS: dict[str, type[Command]] = {
    "engines": engines.Engines,
    "database": served.Database,
    "redis": served.Redis,
    "lmdb": lmdb.LMDB,
    "processes": processes.Processes,
    "asgi": http.ASGI,
    "races": http.Races,
    "auto-clean": auto_clean.AutoClean,
    "costs": costs.Costs,
    "load-profile": load_profile.LoadProfile,
    "moving": moving.Moving,
    "compare": compare.Compare,
    "shared": shared.Shared,
    "sizes": sizes.Sizes,
    "figures": figures.Figures,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, kind in COMMANDS.items():
        text = kind.__doc__ or ""
        one = commands.add_parser(name, help=text.splitlines()[0], description=text)
        one.add_argument("--folder", help="where to keep the sessions (default: temporary files)")
        one.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
        one.add_argument("--strict", action="store_true", help="fail where a target is missed")
        kind().add_arguments(one)
    options = parser.parse_args()
    if hasattr(options, "batch") and min(options.sizes) < 2 * options.batch:
        parser.error("A batch is of different sessions: --sizes must be at least twice --batch.")
    for skipped in getattr(options, "skip", ()):
        if skipped not in [f"{name}@{size}" for name in options.engines for size in options.sizes]:
            parser.error(f"--skip: {skipped} is not measured anyway.")
    # As an exception, so that the folder and the servers go when the run is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run(COMMANDS[options.command](), options)


def run(command: Command, options: argparse.Namespace) -> int:
    results: Result = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": report.machine(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "notes": [],
    }
    stopped = False
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="sessions-") as folder:
        try:
            command.measure(options, Path(folder), results)
        except KeyboardInterrupt:
            stopped = True
            results["notes"].append("what was to follow when the run was stopped")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print("\n\n".join(sections(command, results)))
    if stopped:
        return 130
    return int(options.strict and any(one.judge(results)[1] is False for one in command.targets))


def sections(command: Command, results: Result) -> Iterator[str]:
    yield ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    for note in results["notes"]:
        yield f"Left out: {note}"
    yield from command.render(results)
    if command.targets:
        yield report.judged(command.targets, results)


if __name__ == "__main__":
    sys.exit(main())
