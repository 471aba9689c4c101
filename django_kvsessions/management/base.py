"""What the commands on stores share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_kvsessions.checks import TAG
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Store, StoreError

__all__ = ["StoreCommand"]


class StoreCommand(BaseCommand):
    # Not every check: a cron job need not import the whole site.
    requires_system_checks = [TAG]

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--store",
            metavar="ALIAS",
            help="Only this store of SESSION_STORES. Default: every one of them.",
        )

    def aliases(self, only: str | None) -> list[str]:
        try:
            return [only] if only else list(stores)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

    def on_each_store(self, only: str | None, action: Callable[[str, Store], Any]) -> None:
        """Act on the one store, or on all: an outage of one does not keep it from the others.

        ``CommandError`` in the end where any of them failed.
        """
        failures = []
        for alias in self.aliases(only):
            try:
                action(alias, stores[alias])
            except StoreError as error:
                failures.append(f"{alias!r}: {error}")
            except ImproperlyConfigured as error:
                failures.append(str(error))  # It names the alias.
        if failures:
            raise CommandError("\n".join(failures))
