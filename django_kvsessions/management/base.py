"""What the commands on stores share."""

from __future__ import annotations

import logging
import select
import signal
import socket
import time
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

__all__ = ["StopSignals", "StoreCommand"]

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
            except (ImproperlyConfigured, CommandError) as error:
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


class StopSignals:
    """Takes SIGTERM and SIGINT as a wish to stop: a wait ends at once, work goes on."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> None:
        # Python calls a handler between two of its steps: of a signal that comes just before it
        # begins to wait, nobody would hear. The bell is rung by the system's own handler.
        self._bell, self._clapper = socket.socketpair()
        self._clapper.setblocking(False)
        self._former = {
            number: signal.signal(number, self._receive)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        self._former_bell = signal.set_wakeup_fd(self._clapper.fileno(), warn_on_full_buffer=False)

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(self._former_bell)
        for number, handler in self._former.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._bell.close()
        self._clapper.close()

    def _receive(self, number: int, frame: object) -> None:
        self.received = True

    def wait(self, seconds: float) -> bool:
        """Whether a signal came, within so many seconds or before."""
        end = time.monotonic() + seconds
        while not self.received:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._bell], [], [], left)[0]:
                break
            # It may have been a signal that others handle.
            self._bell.recv(1)
        return self.received
