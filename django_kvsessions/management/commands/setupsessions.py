from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from django_kvsessions.checks import check_server
from django_kvsessions.management.base import StoreCommand
from django_kvsessions.stores.base import Store


class Command(StoreCommand):
    help = (
        "Makes the tables, indexes, folders or TTLs that the session stores lack. It may be run "
        "at every deployment: what is there already stays as it is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Change nothing; print the statements that would be run, where a store has any.",
        )

    def handle(self, *args: object, **options: Any) -> None:
        self.on_each_store(options["store"], self.show if options["dry_run"] else self.set_up)

    def show(self, alias: str, store: Store) -> None:
        statements = store.setup_statements()
        if statements is None:
            self.stdout.write(f"-- {alias!r}: {type(store).__name__} has no statements to show.")
            return
        self.stdout.write(f"-- {alias!r}" + ("" if statements else ": nothing is missing."))
        for statement in statements:
            self.stdout.write(statement.rstrip().removesuffix(";") + ";")

    def set_up(self, alias: str, store: Store) -> None:
        store.setup()
        self.stdout.write(f"Set up {alias!r} ({type(store).__name__}).")
        for message in check_server(store, alias):
            self.stderr.write(str(message), self.style.WARNING)
