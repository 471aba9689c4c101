"""Django's clearsessions, where this app stands before django.contrib.sessions."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.sessions.management.commands import clearsessions
from django.core.management.base import CommandError, CommandParser
from django.db import close_old_connections
from tqdm import tqdm

from django_kvsessions.checks import uses_engine
from django_kvsessions.management.base import StopSignals, StoreCommand
from django_kvsessions.stores.base import Store

logger = logging.getLogger("django_kvsessions")

#: Seconds between two lines about one long clean-up, where there is no terminal.
REPORT_INTERVAL = 10.0


class Command(StoreCommand):
    help = (
        "Removes expired sessions while the site serves: from every store of SESSION_STORES, "
        "or as Django's own command does where SESSION_ENGINE is another engine."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--batch-size",
            type=int,
            default=1000,
            metavar="N",
            help="How many sessions to remove in one step. Default: %(default)s.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Remove nothing; say how many sessions have expired.",
        )
        parser.add_argument(
            "--every",
            type=float,
            metavar="SECONDS",
            help=(
                "Go on for ever, with a pause of so many seconds after each clean-up. Errors are "
                "logged; SIGTERM and SIGINT end it after the batch under way, with exit code 0."
            ),
        )

    def handle(self, *args: object, **options: Any) -> None:
        only, every = options["store"], options["every"]
        self.batch_size: int = options["batch_size"]
        self.verbosity: int = options["verbosity"]
        self.removed = 0
        self.signals: StopSignals | None = None
        if self.batch_size < 1:
            raise CommandError("--batch-size must be at least 1.")
        if every is not None and not 0 < every < threading.TIMEOUT_MAX:
            raise CommandError("--every must be a number of seconds above 0.")
        if every is not None and options["dry_run"]:
            raise CommandError("--dry-run and --every do not go together.")
        clear: Callable[[], None]
        if only is not None or uses_engine():
            action = self.count if options["dry_run"] else self.clear
            clear = partial(self.on_each_store, only, action)
        elif options["dry_run"]:
            raise CommandError(f"SESSION_ENGINE {settings.SESSION_ENGINE!r} has no --dry-run.")
        else:
            clear = self.clear_engine
        if every is None:
            clear()
        else:
            self.aliases(only)  # A name that is not there would be none in the next round either.
            self.repeat(clear, every)

    def repeat(self, clear: Callable[[], None], every: float) -> None:
        started = time.monotonic()
        self.signals = StopSignals()
        with self.signals:
            while True:
                with self.going_on_after_errors("a store"):
                    clear()
                # As each request does: a connection may have died during the pause.
                close_old_connections()
                if self.signals.wait(every):
                    break
        self.say(f"Stopped. Removed {sessions(self.removed)} in {since(started)}.")

    def clear(self, alias: str, store: Store) -> None:
        if self.is_stopping:
            return
        started = time.monotonic()
        removed = 0
        with self.going_on_after_errors(alias):
            try:
                for count in self.with_progress(alias, store):
                    removed += count
                    if self.is_stopping:
                        break
            finally:
                self.removed += removed
                if removed:
                    self.say_removed(removed, alias, started)
            # A line a minute that says nothing was to be done would only fill a log.
            if not removed and (self.signals is None or self.verbosity > 1):
                self.say_removed(0, alias, started)
                if (cleaner := store.cleaned_elsewhere()) is not None:
                    self.say(f"{alias!r} needs no clean-up: {cleaner}")

    def say_removed(self, count: int, alias: str, started: float) -> None:
        self.say(f"Removed {sessions(count)} from {alias!r} in {since(started)}.")

    def clear_engine(self) -> None:
        """What Django's command does, for an engine that is not ours."""
        started = time.monotonic()
        with self.going_on_after_errors(settings.SESSION_ENGINE):
            clearsessions.Command().handle()
            self.say(f"Cleared {settings.SESSION_ENGINE!r} in {since(started)}.")
        if self.check_error:
            raise self.check_error

    def count(self, alias: str, store: Store) -> None:
        expired = store.stats().expired
        if expired is None:
            self.say(f"{alias!r} cannot tell how many sessions have expired.")
        else:
            self.say(f"Would remove {sessions(expired)} from {alias!r}.")

    @property
    def is_stopping(self) -> bool:
        return self.signals is not None and self.signals.received

    @contextmanager
    def going_on_after_errors(self, what: str) -> Iterator[None]:
        """With --every, an error is logged, and the next round tries again."""
        try:
            yield
        except Exception:
            if self.signals is None:
                raise
            logger.exception("clearsessions failed on %r and will try again", what)

    def with_progress(self, alias: str, store: Store) -> Iterator[int]:
        batches = store.delete_expired(batch_size=self.batch_size)
        if self.verbosity and self.stderr.isatty():
            with tqdm(
                total=store.stats().expired, desc=alias, unit=" sessions", leave=False
            ) as bar:
                for count in batches:
                    bar.update(count)
                    yield count
            return
        removed, interval = 0, REPORT_INTERVAL if self.verbosity < 2 else 0
        reported = time.monotonic()
        for count in batches:
            removed += count
            if time.monotonic() - reported >= interval:
                reported = time.monotonic()
                self.say(f"{removed:,} removed from {alias!r} so far.")
            yield count

    def say(self, line: str) -> None:
        if self.verbosity:
            self.stdout.write(line)
            # A pipe to a journal would otherwise show it hours later.
            self.stdout.flush()


def sessions(count: int) -> str:
    return f"{count:,} expired session{'' if count == 1 else 's'}"


def since(started: float) -> str:
    return f"{time.monotonic() - started:,.2f} s"
