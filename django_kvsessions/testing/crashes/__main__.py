"""Check what an embedded store promises of crashes: python -m django_kvsessions.testing.crashes.

Power cuts are simulated by what the system calls of a process wrote and synced; kills are real;
damage is done to the files. Linux only. Ends with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from django_kvsessions.stores.base import Store
from django_kvsessions.testing.crashes.damage import damage
from django_kvsessions.testing.crashes.kills import kills
from django_kvsessions.testing.crashes.power import power_cuts
from django_kvsessions.testing.crashes.subject import Report, Subject, warm_up

STORES = {
    "semidbm": ("semidbm.SemidbmStore", ""),
    "lmdb": ("lmdb.LMDBStore", ""),
    "libsql": ("libsql.LibSQLStore", "sessions.sqlite"),
}
#: What the table of durability says, by store and its option: seconds, the last writes, whether
#: it opens in any case.
PROMISES: dict[tuple[str, str], tuple[float, int, bool]] = {
    ("semidbm", "full"): (0, 0, True),
    ("semidbm", "interval"): (1, 0, True),
    ("semidbm", "process"): (math.inf, 0, True),
    ("lmdb", "full"): (0, 0, True),
    ("lmdb", "safe"): (0, 1, True),
    ("lmdb", "process"): (math.inf, 0, False),
    ("libsql", "full"): (0, 0, True),
    ("libsql", "safe"): (math.inf, 0, True),
}
RUNS = {"power": power_cuts, "kills": kills, "damage": damage}


def subject_of(options: argparse.Namespace) -> Subject:
    dotted, file = STORES.get(options.store, (options.store, options.file))
    kind = import_string(dotted if "." in dotted.partition(".")[2] else f"{BUILT_IN}{dotted}")
    given = dict(one.split("=", 1) for one in options.option)
    arguments: dict[str, Any] = {name: value_of(text) for name, text in given.items()}
    default = "interval" if options.store == "semidbm" else "safe"
    durability = str(arguments.get("durability", default))
    seconds, last, survives = PROMISES.get((options.store, durability), (0, 0, True))

    def make(folder: Path) -> Store:
        store: Store = kind(folder / file if file else folder, **arguments)
        return store

    return Subject(
        make,
        seconds if options.may_lose is None else options.may_lose,
        last,
        survives,
        verifies=options.store == "semidbm",
    )


BUILT_IN = "django_kvsessions.stores."


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m django_kvsessions.testing.crashes", description=__doc__
    )
    text = f"{', '.join(STORES)}, or the dotted path of a class"
    parser.add_argument("--store", required=True, help=text)
    parser.add_argument("--seconds", type=float, default=60, help="of all runs together")
    parser.add_argument("--runs", default=",".join(RUNS), help=f"some of {','.join(RUNS)}")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--file", default="", help="LOCATION is that file in a folder")
    parser.add_argument("--seed", type=int, default=None, help="to do the same again")
    shown = "seconds of writes that a power cut may take (default: what is documented)"
    parser.add_argument("--may-lose", type=float, help=shown)
    parser.add_argument("--folder", help="where to keep the files (default: temporary)")
    options = parser.parse_args()
    names = options.runs.split(",")
    if unknown := set(names) - set(RUNS):
        parser.error(f"--runs knows {', '.join(RUNS)}; not {', '.join(sorted(unknown))}.")
    if not settings.configured:
        settings.configure(SECRET_KEY="only-for-crashes-" + "x" * 40)
    logging.disable()  # What stores say of damage that is done on purpose.
    subject = subject_of(options)
    warm_up(subject)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    tell(f"seed {seed}")
    chance = random.Random(seed)
    reports: list[Report] = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="crashes-") as root:
        for name in names:
            try:
                report = RUNS[name](subject, Path(root), options.seconds / len(names), chance)
            except PermissionError as error:
                parser.exit(2, f"{error}\n")
            tell(str(report))
            for line in report.broken[:5]:
                tell(f"    {line}")
            reports.append(report)
    return int(any(report.broken for report in reports))


if __name__ == "__main__":
    sys.exit(main())
