"""Moves all sessions of an engine, or of a store, while the site serves."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from tqdm import tqdm

from django_kvsessions import conf
from django_kvsessions.checks import TAG
from django_kvsessions.moving.bulk import EXPIRED, FAILED, MOVED, Mover
from django_kvsessions.moving.copying import Copier
from django_kvsessions.moving.counts import counts
from django_kvsessions.moving.formers import Former, make_former
from django_kvsessions.moving.parallel import in_processes
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreError

logger = logging.getLogger("django_kvsessions")


class Command(BaseCommand):
    help = (
        "Moves the sessions of another engine into the store, or copies those of one store to "
        "another, while the site serves. It can be ended at any time, and be run again."
    )
    requires_system_checks = [TAG]

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--from", dest="engine", metavar="ENGINE", help="An engine's module.")
        add("--from-store", metavar="ALIAS", help="A store of SESSION_STORES to copy from.")
        add("--to-store", metavar="ALIAS", help="The store to move to. Default: the site's.")
        add("--dry-run", action="store_true", help="Write nothing; say what would be done.")
        add(
            "--batch-size",
            type=int,
            default=1000,
            metavar="N",
            help="How many sessions to move in one step. Default: %(default)s.",
        )
        add(
            "--delete",
            action="store_true",
            help="Remove what was moved, and what has expired, where it was.",
        )
        add("--verify", action="store_true", help="Read back what was written, and compare.")
        add(
            "--processes",
            type=int,
            default=1,
            metavar="N",
            help="How many processes are to move the sessions of an engine. Default: %(default)s.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if (options["engine"] is None) == (options["from_store"] is None):
            raise CommandError("Say where from: --from ENGINE, or --from-store ALIAS.")
        if options["batch_size"] < 1 or options["processes"] < 1:
            raise CommandError("--batch-size and --processes must be at least 1.")
        self.started = time.monotonic()
        self.tally: Counter[str] = Counter()
        try:
            alias = options["to_store"] or conf.store_alias()
            conf.store(alias)
            if options["engine"]:
                self.move(options, alias)
            else:
                self.copy(options, alias)
        except (ImproperlyConfigured, StoreError) as error:
            raise CommandError(f"{error}\n{self.summary(options)}") from error
        self.stdout.write(self.summary(options))
        if self.tally[FAILED]:
            raise CommandError("Not all sessions could be moved: see the log.")

    def move(self, options: dict[str, Any], alias: str) -> None:
        former = make_former(options["engine"], "--from")
        if why := former.cannot_be_listed():
            raise CommandError(
                f"{why}, so they can only be moved on their first use: by SESSION_FALLBACK_ENGINES."
            )
        mover = Mover(
            former,
            stores[alias],
            delete=options["delete"],
            verify=options["verify"],
            dry_run=options["dry_run"],
        )
        size, processes = options["batch_size"], options["processes"]
        batches = (
            mover.batches(size)
            if processes == 1
            else in_processes(processes, lambda part: mover.batches(size, part, processes))
        )
        self.follow(batches, self.total(former, options), former.path)
        if not options["dry_run"]:
            counts.add_all(stores[alias], former.path, self.tally[MOVED])

    def copy(self, options: dict[str, Any], alias: str) -> None:
        source = options["from_store"]
        if source == alias:
            raise CommandError(f"--from-store and --to-store are both {alias!r}.")
        conf.store(source)
        copier = Copier(
            stores[source],
            stores[alias],
            delete=options["delete"],
            verify=options["verify"],
            dry_run=options["dry_run"],
        )
        total = stores[source].stats().live
        self.follow(copier.batches(options["batch_size"]), total, f"{source} to {alias}")

    def total(self, former: Former, options: dict[str, Any]) -> int | None:
        return former.count() if self.is_shown(options["verbosity"]) else None

    def is_shown(self, verbosity: int = 1) -> bool:
        return bool(verbosity) and os.isatty(2)

    def follow(self, batches: Iterator[Counter[str]], total: int | None, what: str) -> None:
        with tqdm(
            total=total, desc=what, unit=" sessions", leave=False, disable=not self.is_shown()
        ) as bar:
            for batch in batches:
                self.tally += batch
                bar.update(batch.total())

    def summary(self, options: dict[str, Any]) -> str:
        tally = self.tally.copy()
        moved, expired, failed = tally.pop(MOVED, 0), tally.pop(EXPIRED, 0), tally.pop(FAILED, 0)
        seconds = time.monotonic() - self.started
        skipped = ", ".join(f"{count:,} {why}" for why, count in sorted(tally.items()))
        would = "Would be moved" if options["dry_run"] else "Moved"
        return (
            f"{would}: {moved:,}; skipped: {tally.total():,}{f' ({skipped})' if skipped else ''}; "
            f"expired: {expired:,}; failed: {failed:,}; {seconds:,.1f} s"
            f" ({(moved + tally.total() + expired) / max(seconds, 1e-9):,.0f} a second)"
        )
