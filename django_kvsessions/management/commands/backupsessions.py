from __future__ import annotations

import os
import time
from contextlib import suppress
from itertools import chain, islice
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_kvsessions.management.base import StoreCommand
from django_kvsessions.stores.base import Store
from django_kvsessions.stores.layered import LayeredStore
from django_kvsessions.stores.memory import MemoryStore


class Command(StoreCommand):
    help = (
        "Copies the sessions of each store while the site goes on, into a folder of the store's "
        "alias in FOLDER. A copy is there as a whole or not at all."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("folder", help="A folder that is empty, or not there yet.")
        action = parser.add_mutually_exclusive_group()
        action.add_argument(
            "--verify",
            action="store_true",
            help="Also open each copy that was made, and read every session in it.",
        )
        action.add_argument(
            "--restore",
            action="store_true",
            help=(
                "Make no copy: put the sessions of the copies in FOLDER back that their stores "
                "do not have, while the site goes on. It brings those back too that were ended "
                "since the copy was made."
            ),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self.folder: str = os.path.abspath(options["folder"])
        self.only: str | None = options["store"]
        self.verify: bool = options["verify"]
        if options["restore"]:
            self.on_each_store(self.only, self.restore)
            return
        if os.path.lexists(self.folder) and not is_empty_folder(self.folder):
            raise CommandError(
                f"{self.folder} is there already and is not an empty folder: name a new one, such "
                "as one of today's date."
            )
        is_new = not os.path.lexists(self.folder)
        try:
            self.on_each_store(self.only, self.copy)
        finally:
            # Where nothing came of it, nothing is to look like a backup.
            if is_new:
                with suppress(OSError):
                    os.rmdir(self.folder)

    def copy(self, alias: str, store: Store) -> None:
        if self.is_left_out(alias, store):
            return
        place, started = os.path.join(self.folder, alias), time.monotonic()
        try:
            store.backup(place)
        except (NotImplementedError, ValueError) as error:
            raise CommandError(f"{alias!r}: {error}") from error
        self.stdout.write(f"Copied {alias!r} to {place} in {time.monotonic() - started:,.2f} s.")
        if self.verify:
            found = sum(1 for _ in store.scan_backup(place))
            self.stdout.write(f"Verified: {sessions(found)} in the copy of {alias!r}.")

    def restore(self, alias: str, store: Store) -> None:
        if self.is_left_out(alias, store):
            return
        place, restored, present = os.path.join(self.folder, alias), 0, 0
        try:
            copied = iter(store.scan_backup(place))
            first = list(islice(copied, 1))
            # Not before it is known that there is a copy.
            store.setup()
            for key, record in chain(first, copied):
                if store.create(key, record):
                    restored += 1
                else:
                    present += 1
        except (NotImplementedError, ValueError) as error:
            raise CommandError(f"{alias!r}: {error}") from error
        self.stdout.write(
            f"Put {sessions(restored)} back into {alias!r}; {present:,} of the copy were there."
        )

    def is_left_out(self, alias: str, store: Store) -> bool:
        """Whether it keeps nothing itself; who names it is told so by the store."""
        left_out = self.only is None and isinstance(store, LayeredStore | MemoryStore)
        if left_out:
            self.stdout.write(f"{alias!r} ({type(store).__name__}) keeps nothing to be copied.")
        return left_out


def is_empty_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.listdir(path)


def sessions(count: int) -> str:
    return f"{count:,} session{'' if count == 1 else 's'}"
