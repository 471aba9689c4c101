"""What the commands on stores share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    SystemCheckError,
)

from django_kvsessions import conf
from django_kvsessions.checks import TAG, check_store
from django_kvsessions.checks.settings import attempt
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Store, StoreError

__all__ = ["StoreCommand"]

logger = logging.getLogger("django_kvsessions")


class StoreCommand(BaseCommand):
    # Not every check: a cron job need not import the whole site.
    requires_system_checks = [TAG]

    #: What the checks said, and the aliases that are not to be used because of it.
    check_error: SystemCheckError | None = None
    refused: frozenset[str] = frozenset()

    def check(self, *args: Any, **kwargs: Any) -> None:
        """An alias that is configured wrongly does not keep the command from the others."""
        try:
            super().check(*args, **kwargs)
        except SystemCheckError as error:
            aliases = attempt(conf.aliases) or []
            self.refused = frozenset(filter(_is_wrong, aliases))
            if not self.refused or self.refused.issuperset(aliases):
                raise
            self.check_error = error

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--store",
            metavar="ALIAS",
            help="Only this store of SESSION_STORES. Default: every one of them.",
        )

    def aliases(self, only: str | None) -> list[str]:
        try:
            if only:
                conf.store(only)
            return [only] if only else list(stores)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

    def on_each_store(self, only: str | None, action: Callable[[str, Store], object]) -> None:
        """Act on the one store, or on all: what fails on one does not keep it from the others.

        ``CommandError`` in the end where any of them failed, or was configured wrongly.
        """
        failures = []
        for alias in self.aliases(only):
            if alias in self.refused:
                continue
            try:
                action(alias, stores[alias])
            except StoreError as error:
                failures.append(f"{alias!r}: {error}")
            except ImproperlyConfigured as error:
                failures.append(str(error))  # It names the alias.
            except Exception as error:
                logger.exception("%s failed on %r", type(self).__module__.rpartition(".")[2], alias)
                failures.append(f"{alias!r}: {type(error).__name__}: {error}")
        refusal = self.check_error if only is None or only in self.refused else None
        if failures:
            raise CommandError("\n".join([*failures, *([str(refusal)] if refusal else [])]))
        if refusal:
            raise refusal


def _is_wrong(alias: str) -> bool:
    return any(message.is_serious() and not message.is_silenced() for message in check_store(alias))
