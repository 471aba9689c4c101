"""Check what an embedded store promises of crashes: python -m django_kvsessions.testing.crashes.

Power cuts are simulated by what the system calls of a process wrote and synced; kills are real;
damage is done to the files. Linux only. Ends with 1 where a promise is broken, and with 2 where
nothing could be looked at.
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
from typing import Any, NamedTuple

from django.conf import settings
from django.utils.module_loading import import_string

from django_kvsessions.stores.base import Store
from django_kvsessions.testing.crashes.damage import damage
from django_kvsessions.testing.crashes.kills import kills
from django_kvsessions.testing.crashes.power import power_cuts
from django_kvsessions.testing.crashes.subject import SHOWN, Subject, warm_up


class Promise(NamedTuple):
    """What the table of durability says; each is explained in ``Subject``."""

    seconds: float = 0.0
    last: int = 0
    survives: bool = True
    verifies: bool = False


class Known(NamedTuple):
    """A store of this package; its promises by the option."""

    dotted: str
    default: str
    promises: dict[str, Promise]
    file: str = ""
    rebuilds: frozenset[str] = frozenset()


STORES = {
    "semidbm": Known(
        "django_kvsessions.stores.semidbm.SemidbmStore",
        "interval",
        {
            "full": Promise(verifies=True),
            "interval": Promise(seconds=1, verifies=True),
            # What may not be on the disk yet may give an older version back.
            "process": Promise(seconds=math.inf),
        },
        rebuilds=frozenset({"index"}),
    ),
    "lmdb": Known(
        "django_kvsessions.stores.lmdb.LMDBStore",
        "safe",
        {
            "full": Promise(),
            "safe": Promise(last=1),
            "process": Promise(seconds=math.inf, survives=False),
        },
    ),
    "libsql": Known(
        "django_kvsessions.stores.libsql.LibSQLStore",
        "safe",
        {"full": Promise(), "safe": Promise(seconds=math.inf)},
        file="sessions.sqlite",
    ),
}
RUNS = {"power": power_cuts, "kills": kills, "damage": damage}


def subject_of(given: argparse.Namespace) -> Subject:
    """What is asked for: a store of this package, or one that is to lose nothing."""
    known = STORES.get(given.store, Known(given.store, "", {}, given.file))
    kind = import_string(known.dotted)
    arguments = {name: value_of(text) for name, _, text in map(partition, given.option)}
    durability = arguments.get("durability", known.default)
    promise = known.promises.get(durability, Promise())
    if given.may_lose is not None:
        promise = promise._replace(seconds=given.may_lose)

    def make(folder: Path) -> Store:
        store: Store = kind(folder / known.file if known.file else folder, **arguments)
        return store

    rebuilds = known.rebuilds | set(given.rebuilds)
    return Subject(make, *promise, rebuilds=rebuilds, kept=given.keep)


def partition(option: str) -> tuple[str, str, str]:
    return option.partition("=")


def value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m django_kvsessions.testing.crashes", description=__doc__
    )
    add = parser.add_argument
    add("--store", required=True, help=f"{', '.join(STORES)}, or the dotted path of a class")
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="as in OPTIONS")
    add("--seconds", type=float, default=60, help="of all runs together (60)")
    add("--runs", default=",".join(RUNS), help=f"some of {','.join(RUNS)}")
    add("--seed", type=int, help="to do the same again, as far as threads do")
    add("--folder", help="where to keep the files (default: where temporary ones are)")
    add("--keep", type=Path, help="a new folder, for what was found broken, as it was")
    add("--file", default="", help="of a class: LOCATION is that file in a folder")
    shown = "seconds of writes that a power cut may take (default: as documented, or none)"
    add("--may-lose", type=float, metavar="SECONDS", help=shown)
    shown = "of a class: a file that may be damaged or missing, and nothing is lost"
    add("--rebuilds", action="append", default=[], metavar="FILE", help=shown)
    return parser


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    given = parser().parse_args()
    names = given.runs.split(",")
    if unknown := set(names) - set(RUNS):
        parser().error(f"--runs knows {', '.join(RUNS)}; not {', '.join(sorted(unknown))}.")
    if given.keep is not None:
        given.keep.mkdir()
    if not settings.configured:
        settings.configure(SECRET_KEY="only-for-crashes-" + "x" * 40)
    logging.disable()  # What stores say of damage that is done on purpose.
    subject = subject_of(given)
    warm_up(subject)
    seed = random.randrange(2**32) if given.seed is None else given.seed
    tell(f"seed {seed}")
    chance = random.Random(seed)
    is_broken = False
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="crashes-") as root:
        for name in names:
            try:
                report = RUNS[name](subject, Path(root), given.seconds / len(names), chance)
            except PermissionError as error:
                parser().exit(2, f"{error}\n")
            tell(str(report))
            for line in report.broken[:SHOWN]:
                tell(f"    {line}")
            is_broken = is_broken or bool(report.broken)
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
