from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from django_kvsessions.management.base import StoreCommand
from django_kvsessions.stores.base import Store

Figures = dict[str, str | int | None]


class Command(StoreCommand):
    help = "Shows how many live and expired sessions each store holds, and their size."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--json", action="store_true", help="Print JSON, sizes in bytes.")

    def handle(self, *args: object, **options: Any) -> None:
        figures: dict[str, Figures] = {}

        def collect(alias: str, store: Store) -> None:
            figures[alias] = {"backend": type(store).__name__, **store.stats()._asdict()}

        failure = None
        try:
            self.on_each_store(options["store"], collect)
        except CommandError as error:
            # Those that answered are worth seeing all the same.
            failure = error
        if options["json"]:
            self.stdout.write(json.dumps(figures, indent=2))
        elif figures:
            self.print_table(figures)
        if failure:
            raise failure

    def print_table(self, figures: dict[str, Figures]) -> None:
        # What no store can tell needs no column.
        columns = [
            name
            for name in dict.fromkeys(name for row in figures.values() for name in row)
            if any(row.get(name) is not None for row in figures.values())
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


def as_text(name: str, value: str | int | None) -> str:
    if value is None:
        return "-"
    if name == "size":
        return filesizeformat(value).replace("\xa0", " ")
    return f"{value:,}" if isinstance(value, int | float) else str(value)
