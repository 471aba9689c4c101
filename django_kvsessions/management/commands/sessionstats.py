from __future__ import annotations

import json
import math
import threading
from datetime import datetime, timezone
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from django_kvsessions import conf
from django_kvsessions.checks.settings import attempt
from django_kvsessions.health import Limits, find_problems
from django_kvsessions.management.base import StopSignals, StoreCommand
from django_kvsessions.owned import count_encrypted
from django_kvsessions.stores.base import Store

Figures = dict[str, str | int | None]
#: For each engine, what has come from it.
Moved = dict[str, dict[str, float]]


class Command(StoreCommand):
    help = "Shows how many live and expired sessions each store holds, and their size."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--encryption",
            action="store_true",
            help="Also count which sessions are encrypted; this reads every record.",
        )
        parser.add_argument("--json", action="store_true", help="Print JSON, sizes in bytes.")
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--watch",
            type=float,
            metavar="SECONDS",
            help="Again and again, with a pause of so many seconds, until SIGINT or SIGTERM.",
        )
        what.add_argument(
            "--check",
            action="store_true",
            help=(
                "Count nothing, but say whether each store does well: it answers in time, its disk "
                "has room, it is cleaned up, nothing was set aside. Exit code 1 where one does not."
            ),
        )
        limits = Limits()
        parser.add_argument(
            "--within",
            type=float,
            default=1000 * limits.within,
            metavar="MS",
            help="For --check: the milliseconds to wait for an answer. Default: %(default)g.",
        )
        parser.add_argument(
            "--room",
            type=float,
            default=limits.room / 2**20,
            metavar="MIB",
            help="For --check: what is to be free on the disk of a folder. Default: %(default)g.",
        )

    def handle(self, *args: object, **options: Any) -> None:
        for name in ("watch", "within", "room"):
            value = options[name]
            if value is not None and not 0 < value < threading.TIMEOUT_MAX:
                raise CommandError(f"--{name} must be a number above 0.")
        if options["check"]:
            self.check_health(options)
        elif options["watch"] is None:
            self.show(options)
        else:
            self.watch(options)

    def watch(self, options: dict[str, Any]) -> None:
        stop = StopSignals()
        with stop:
            while True:
                try:
                    self.show(options)
                except CommandError as error:
                    # It may be over by the next time.
                    self.stderr.write(str(error))
                self.stdout.flush()
                if stop.wait(options["watch"]):
                    break

    def check_health(self, options: dict[str, Any]) -> None:
        limits = Limits(options["within"] / 1000, math.ceil(options["room"] * 2**20))
        problems: dict[str, list[str]] = {}

        def look(alias: str, store: Store) -> None:
            problems[alias] = list(find_problems(alias, limits))

        failure = None
        try:
            self.on_each_store(options["store"], look)
        except CommandError as error:
            failure = error
        if options["json"]:
            self.stdout.write(json.dumps(problems, indent=2))
        else:
            for alias, found in problems.items():
                self.stdout.write(f"{alias!r}: {' '.join(found) or 'ok'}")
        if failure:
            raise failure
        if any(problems.values()):
            wrong = ", ".join(repr(alias) for alias, found in problems.items() if found)
            raise CommandError(f"Not well: {wrong}.")

    def show(self, options: dict[str, Any]) -> None:
        figures: dict[str, Figures] = {}
        moved: dict[str, dict[str, Moved]] = {}

        def collect(alias: str, store: Store) -> None:
            figures[alias] = {"backend": type(store).__name__, **store.stats()._asdict()}
            if options["encryption"]:
                figures[alias] |= count_encrypted(store)._asdict()
            if alias == conf.store_alias() and (came := moved_into(store)):
                moved[alias] = {"moved_from": came}

        failure = None
        try:
            self.on_each_store(options["store"], collect)
        except CommandError as error:
            # Those that answered are worth seeing all the same.
            failure = error
        if options["json"]:
            rows = {alias: {**row, **moved.get(alias, {})} for alias, row in figures.items()}
            self.stdout.write(json.dumps(rows, indent=2))
        elif figures:
            self.print_table(figures)
            for each in moved.values():
                self.print_moved(each["moved_from"])
        if failure:
            raise failure

    def print_table(self, figures: dict[str, Figures]) -> None:
        # What no store can tell needs no column.
        columns = [
            name
            for name in dict.fromkeys(name for row in figures.values() for name in row)
            if name != "oldest" and any(row.get(name) is not None for row in figures.values())
        ]
        table = [["store", *columns]]
        for alias, row in figures.items():
            table.append([alias, *(as_text(name, row.get(name)) for name in columns)])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for cells in table:
            names, numbers = cells[:2], cells[2:]
            line = [cell.ljust(width) for cell, width in zip(names, widths[:2], strict=True)]
            line += [cell.rjust(width) for cell, width in zip(numbers, widths[2:], strict=True)]
            self.stdout.write("  ".join(line).rstrip())

    def print_moved(self, moved: Moved) -> None:
        for path, count in moved.items():
            left = f"; {count['refused']:,} could not be moved" if count["refused"] else ""
            last = datetime.fromtimestamp(count["last"]).astimezone()
            self.stdout.write(
                f"{count['moved']:,} came from {path}, the last one at {last:%Y-%m-%d %H:%M}{left}"
            )


def moved_into(store: Store) -> Moved:
    """What has come from each engine of SESSION_FALLBACK_ENGINES."""
    if not (paths := attempt(conf.fallback_engines)):
        return {}
    # Late, so that only who moves imports it.
    from django_kvsessions.moving.counts import read_count

    counts = {path: read_count(store, path) for path in paths}
    return {path: count._asdict() for path, count in counts.items() if count is not None}


def as_text(name: str, value: str | int | None) -> str:
    if value is None:
        return "-"
    if name == "last_plain":
        return datetime.fromtimestamp(float(value), timezone.utc).isoformat(" ", "seconds")
    if name == "size":
        return filesizeformat(value).replace("\xa0", " ")
    return f"{value:,}" if isinstance(value, int | float) else str(value)
