"""What encryption and metrics add to a load and to a save."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import django
from django.conf import settings
from django.test.utils import override_settings

from benchmarks import report
from benchmarks.arena import progress
from benchmarks.command import Command, add_rounds
from benchmarks.measure import Result, put
from benchmarks.report import Target
from benchmarks.sample import session_data
from django_kvsessions.stores.base import Store

__all__ = ["Costs"]

SESSIONS = 500
ARMS = ("bare", "encrypted", "metrics", "again")


class Costs(Command):
    """What encryption and metrics add to a load and to a save.

    Processor time on the default store, 600 bytes, in turns in one process. "again" is the plain
    arm once more: how far it is from 1 is what the machine adds.
    """

    targets = (
        Target("times a plain load, an encrypted one", 1.5, "load/encrypted", "load/bare"),
        Target("times a plain save, an encrypted one", 1.5, "save/encrypted", "save/bare"),
        Target("times a plain load, one with metrics", 1.05, "load/metrics", "load/bare"),
        Target("times a plain save, one with metrics", 1.05, "save/metrics", "save/bare"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_rounds(parser, 30)
        parser.add_argument("--sessions", type=int, default=SESSIONS, help=f"default {SESSIONS}")

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        settings.configure(
            SECRET_KEY="for this run, and as long as a key of Django's is by default",
            INSTALLED_APPS=["django_kvsessions"],
            SESSION_ENGINE="django_kvsessions.engine",
            SESSION_STORES={"default": {"LOCATION": str(folder / "sessions")}},
        )
        django.setup()
        from django_kvsessions.engine import SessionStore
        from django_kvsessions.stores import stores

        store = stores["default"]
        wrappers = observers(store)

        def arm(name: str) -> AbstractContextManager[object]:
            if name == "encrypted":
                return override_settings(SESSION_ENCRYPTION=True)
            return observed(store, wrappers) if name == "metrics" else nullcontext()

        ids: dict[str, list[str]] = {}
        for name in ARMS:
            with arm(name):
                for number in range(options.sessions):
                    session = SessionStore()
                    session.update(session_data(number))
                    session.save()
                    assert session.session_key is not None
                    ids.setdefault(name, []).append(session.session_key)
        for round_ in progress(range(options.rounds), "rounds"):
            for name in random.sample(ARMS, len(ARMS)):
                with arm(name):
                    order = random.sample(ids[name], options.sessions)
                    loaded = [SessionStore(session_id) for session_id in order]
                    put(results, each(loaded, SessionStore.load), "load", name)
                    for session in loaded:
                        session["visits"] = round_
                    put(results, each(loaded, SessionStore.save), "save", name)
        store.close()

    def render(self, results: Result) -> Iterator[str]:
        rows: dict[str, Result] = {
            name: results[name] for name in ("load", "save") if name in results
        }
        yield report.grid("microseconds of processor time", rows, ARMS)


def observers(store: Store) -> dict[str, object]:
    """What ``instrument()`` puts before a store's methods, with OpenTelemetry's SDK."""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from django_kvsessions import otel

    metrics.set_meter_provider(MeterProvider(metric_readers=[InMemoryMetricReader()]))
    before = set(vars(store))
    otel.instrument()
    return {name: vars(store).pop(name) for name in set(vars(store)) - before}


@contextmanager
def observed(store: Store, wrappers: dict[str, object]) -> Iterator[None]:
    for name, wrapper in wrappers.items():
        setattr(store, name, wrapper)
    try:
        yield
    finally:
        for name in wrappers:
            delattr(store, name)


def each(sessions: Sequence[object], work: Callable[..., object]) -> float:
    """Microseconds of one of them."""
    started = time.process_time_ns()
    for session in sessions:
        work(session)
    return (time.process_time_ns() - started) / len(sessions) / 1000
