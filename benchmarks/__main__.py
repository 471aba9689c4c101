"""``python -m benchmarks``: measure, print the tables, write the JSON and the plot."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import parts, servers
from benchmarks.engines import CONTENDERS, OPERATIONS, OURS, Contender
from benchmarks.parts import Result
from benchmarks.processes import BEFORE, Arena
from benchmarks.report import machine, render

PARTS = ("operations", "clear", "footprint", "processes", "compaction", "asgi", "races")
SHARED = (OURS, "cache-diskcache", "file")


def main() -> None:
    options = arguments()
    # As an exception, so that the folder and the servers go when the run is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    contenders = [CONTENDERS[name] for name in options.engines]
    if options.before:
        contenders.append(replace(CONTENDERS[OURS], name=BEFORE, label="before"))
    results: Result = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "options": {
            name: getattr(options, name) for name in ("sizes", "rounds", "batch", "seconds")
        },
        "notes": [f"{skipped} (--skip)" for skipped in options.skip],
    }
    stopped = False
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="sessions-") as folder:
        try:
            measure(options, contenders, Path(folder), results)
        except KeyboardInterrupt:
            stopped = True
            results["notes"].append("what was to follow when the run was stopped")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(render(results), end="")
    if options.plot and "operations" in results:
        from benchmarks.plot import plot

        plot(results, options.plot)
    if stopped:
        sys.exit(130)


def measure(
    options: argparse.Namespace, contenders: list[Contender], folder: Path, results: Result
) -> None:
    chosen = set(options.parts)
    if chosen & {"operations", "clear", "footprint"}:
        arena = Arena(contenders, options.sizes, folder, skip=options.skip, before=options.before)
        try:
            arena.start()
            if "operations" in chosen:
                results["operations"] = parts.operations(
                    arena, names=options.operations, rounds=options.rounds, batch=options.batch
                )
            if "clear" in chosen:
                results["clear_few"] = parts.clear_few(arena, rounds=options.clear_rounds)
            if "footprint" in chosen:
                results["footprint"] = parts.footprint(arena, folder, rounds=options.clear_rounds)
        finally:
            arena.close()
        if "clear" in chosen:
            results["clear_all"] = parts.clear_all(arena, folder, rounds=options.clear_rounds)
    names = [contender.name for contender in contenders]
    if "processes" in chosen:
        shared = [name for name in SHARED if name in names]
        results["processes"] = parts.processes(
            shared,
            folder,
            counts=options.processes,
            sessions=min(parts.SHARED_SESSIONS, max(options.sizes)),
            rounds=options.clear_rounds,
            seconds=options.seconds,
        )
    if "compaction" in chosen and OURS in names:
        results["compaction"] = parts.compaction(
            folder, records=max(options.sizes), rounds=options.clear_rounds
        )
    if "asgi" in chosen:
        results["asgi"] = servers.asgi(
            names, folder, rounds=options.clear_rounds, seconds=options.seconds
        )
    if "races" in chosen:
        results["races"] = servers.races(names, folder, steps=options.steps)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--sizes",
        type=numbers,
        default=[1_000, 100_000],
        help="sessions stored, comma-separated (default 1000,100000; in full also 1000000)",
    )
    parser.add_argument("--rounds", type=int, default=20, help="of the operations")
    parser.add_argument("--clear-rounds", type=int, default=3, help="of everything else")
    parser.add_argument("--batch", type=int, default=200, help="operations timed in a row")
    parser.add_argument(
        "--seconds", type=float, default=2, help="of each turn of several processes and ASGI"
    )
    parser.add_argument(
        "--processes",
        type=numbers,
        default=[1, 2, 4],
        help="that load and save at once (default 1,2,4)",
    )
    parser.add_argument("--steps", type=int, default=servers.STEPS, help="of each racing client")
    parser.add_argument("--engines", type=names, default=list(CONTENDERS))
    parser.add_argument("--parts", type=names, default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument(
        "--operations", type=names, default=list(OPERATIONS), help=", ".join(OPERATIONS)
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="ENGINE@SIZE",
        help="leave one engine out at one size; the output says so",
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="FOLDER",
        help="another checkout of this package, measured in the same run as the row 'before'",
    )
    parser.add_argument("--folder", help="where to store the sessions (default: temporary files)")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--plot", type=Path, help="write the figure there (PNG or SVG)")
    options = parser.parse_args()
    if unknown := set(options.engines) - set(CONTENDERS):
        parser.error(f"--engines knows {', '.join(CONTENDERS)}, not {', '.join(unknown)}.")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"--parts knows {', '.join(PARTS)}, not {', '.join(unknown)}.")
    if unknown := set(options.operations) - set(OPERATIONS):
        parser.error(f"--operations knows {', '.join(OPERATIONS)}, not {', '.join(unknown)}.")
    known = [f"{name}@{size}" for name in options.engines for size in options.sizes]
    if unknown := set(options.skip) - set(known):
        parser.error(f"--skip: {', '.join(unknown)} is not measured anyway.")
    if min(options.sizes) < 2 * options.batch:
        parser.error("A batch is of different sessions: --sizes must be at least twice --batch.")
    return options


def numbers(text: str) -> list[int]:
    return sorted(int(part.replace("_", "")) for part in text.split(","))


def names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
