"""What encryption and metrics add to a load and to a save."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import django
from django.conf import settings
from django.test.utils import override_settings

from benchmarks import report
from benchmarks.arena import progress
from benchmarks.command import Command, add_rounds
from benchmarks.measure import Result, put
from benchmarks.report import Target
from benchmarks.sample import session_data

__all__ = ["Costs"]

SESSIONS = 500
ARMS = ("plain", "encrypted", "metrics", "again")


class Costs(Command):
    """What encryption and metrics add to a load and to a save.

    Processor time on the default store, 600 bytes, in turns in one process. "again" is the plain
    arm once more: how far it is from 1 is what the machine adds.
    """

    targets = (
        Target("times a plain load, an encrypted one", 1.5, "load/encrypted", "load/plain"),
        Target("times a plain save, an encrypted one", 1.5, "save/encrypted", "save/plain"),
        Target("times a plain load, one with metrics", 1.05, "load/metrics", "load/plain"),
        Target("times a plain save, one with metrics", 1.05, "save/metrics", "save/plain"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_rounds(parser, 30)
        parser.add_argument("--sessions", type=int, default=SESSIONS, help=f"default {SESSIONS}")

    def measure(self, options: argparse.Namespace, folder: Path, results: Result) -> None:
        settings.configure(
            SECRET_KEY="for this run, and as long as a key of Django's is by default",
            SESSION_ENGINE="django_kvsessions.engine",
            SESSION_STORES={"default": {"LOCATION": str(folder / "sessions")}},
        )
        django.setup()
        from django_kvsessions.engine import SessionStore
        from django_kvsessions.stores import make_store, stores

        plain = stores["default"]
        # Another object on the same folder, so that one of the two is as without metrics.
        watched = make_store("default")
        observe(watched)

        def arm(name: str) -> AbstractContextManager[object]:
            if name == "encrypted":
                return override_settings(SESSION_ENCRYPTION=True)
            if name == "metrics":
                return patch.dict(stores._stores, default=watched)
            return nullcontext()

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
        watched.close()
        plain.close()

    def render(self, results: Result) -> Iterator[str]:
        rows = {name: results[name] for name in ("load", "save") if name in results}
        yield report.grid("microseconds of processor time", rows, ARMS)


def observe(store: object) -> None:
    """As in a site with OpenTelemetry's SDK and a reader."""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from django_kvsessions import otel
    from django_kvsessions.stores import stores

    metrics.set_meter_provider(MeterProvider(metric_readers=[InMemoryMetricReader()]))
    with patch.dict(stores._stores, {"default": store}, clear=True):
        otel.instrument()


def each(sessions: list[object], work: Callable[..., object]) -> float:
    """Microseconds of one of them."""
    started = time.process_time_ns()
    for session in sessions:
        work(session)
    return (time.process_time_ns() - started) / len(sessions) / 1000
