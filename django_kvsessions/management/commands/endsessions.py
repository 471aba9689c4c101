from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from django_kvsessions import conf
from django_kvsessions.colours import run
from django_kvsessions.management.base import StoreCommand
from django_kvsessions.owned import Entry, entries, opened
from django_kvsessions.owners import end, owner_digests, user_id
from django_kvsessions.signals import blocking
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Store, StoreError

#: One that gets a new id just then may be in neither place when it is looked for.
PASSES = 3


class Command(StoreCommand):
    help = (
        "Ends sessions while the site serves, for the day of an incident: those of a user, those "
        "with a label, or all of them. No request that is under way brings one back."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--store",
            metavar="ALIAS",
            help="A store of SESSION_STORES. Default: that of SESSION_STORE_ALIAS.",
        )
        parser.add_argument("--user", metavar="ID", help="The primary key of a user.")
        parser.add_argument(
            "--all", action="store_true", help="Everybody's sessions, also of visitors unknown."
        )
        parser.add_argument(
            "--label",
            metavar="NAME=VALUE",
            help="Sessions with this label in their card, such as sid=...",
        )
        parser.add_argument(
            "--older-than",
            type=float,
            metavar="SECONDS",
            help="Of these, only those whose life, which a login begins, began before that.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="End nothing; say how many there are."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self.options = options
        if options["all"] == bool(options["user"] is not None or options["label"]):
            raise CommandError("Say whose: --user ID, --label NAME=VALUE, or both; or --all.")
        age = options["older_than"]
        if age is not None and not age >= 0:
            raise CommandError("--older-than must be a number of seconds from 0.")
        self.before = None if age is None else time.time() - age
        self.name = None if options["user"] is None else user_id(options["user"])
        self.wanted = None
        if options["label"]:
            label, equals, value = options["label"].partition("=")
            if not (label and equals and value):
                raise CommandError("--label is NAME=VALUE, such as sid=08a5019c.")
            self.wanted = label, value
        alias = options["store"] or conf.store_alias()
        try:
            self.end_those_of(alias, stores[alias])
        except (StoreError, ImproperlyConfigured) as error:
            raise CommandError(f"{alias!r}: {error}") from error

    def end_those_of(self, alias: str, store: Store) -> None:
        if self.options["dry_run"]:
            self.say(f"Would end {sessions(sum(1 for _ in self.chosen(store)))} in {alias!r}.")
            return
        ended = 0
        try:
            for _ in range(PASSES):
                ended += sum(self.end(store, entry) for entry in self.chosen(store))
        finally:
            self.say(f"Ended {sessions(ended)} in {alias!r}.")

    def chosen(self, store: Store) -> Iterator[Entry]:
        if self.name is not None:
            found = iter(run(entries(blocking, store, owner_digests(self.name))))
        else:
            found = (entry for key, record in store.scan() if (entry := opened(key, record)))
        for entry in found:
            session = entry.session
            if self.wanted and session.labels.get(self.wanted[0]) != self.wanted[1]:
                continue
            if self.before is None or session.created.timestamp() < self.before:
                yield entry

    def end(self, store: Store, entry: Entry) -> bool:
        owners, key, revision = [entry.owner], entry.key, entry.revision
        return run(end(blocking, store, owners, key, revision, self.name, "command"))

    def say(self, message: str) -> None:
        if self.options["verbosity"]:
            self.stdout.write(message)


def sessions(count: int) -> str:
    return f"{count:,} session{'' if count == 1 else 's'}"
