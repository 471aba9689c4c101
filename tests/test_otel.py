"""Metrics and spans, with OpenTelemetry's SDK in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import missing
from testservers import free_port

# Its SDK is only installed where the servers are.
pytestmark = pytest.mark.servers

ROOT = Path(__file__).parent.parent

PRELUDE = """
import asyncio, json
from django.conf import settings
settings.configure(
    SECRET_KEY="for this test",
    SESSION_ENGINE="django_kvsessions.engine",
    SESSION_STORES=STORES,
)
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from django_kvsessions import counts, otel
from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import stores
reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))

def trace_all():
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

def figures():
    found = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    where = ".".join(map(str, point.attributes.values()))
                    value = getattr(point, "value", None)
                    found[f"{metric.name} {where}"] = point.count if value is None else value
    return found
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    if find_spec("opentelemetry.sdk") is None:
        missing("opentelemetry is not installed: pip install opentelemetry-sdk")

    def run(code: str, **stores: Any) -> dict[str, Any]:
        stores = {"default": {"LOCATION": f"{tmp_path}/sessions"}, **stores}
        result = subprocess.run(
            [sys.executable, "-c", f"STORES = {stores!r}\n{PRELUDE}{code}"],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    return run


Run = Callable[..., dict[str, Any]]
SAVE = """
def save():
    session = SessionStore()
    session["a"] = 1
    session.save()
    again = SessionStore(session.session_key)
    again["a"] = 2
    again.save()
    return again
"""


def test_what_the_stores_do_is_counted_by_alias_and_operation(run: Run) -> None:
    found = run(
        SAVE
        + """
otel.instrument()
otel.instrument()
for _ in range(140): save()
session = save()
store = stores["default"]
assert not store.replace(session._key, store.load(session._key), expected=5)
session.flush()
print(json.dumps(figures()))
"""
    )
    count = "kvsessions.store.operations default."
    assert found[f"{count}create"] == 141
    assert found[f"{count}load"] == 142
    assert found["kvsessions.store.conflicts default.replace"] == 1
    assert found["kvsessions.store.failures default.load"] == 0
    assert found[f"{count}delete"] == 1
    # The first and each 128th of them are timed.
    assert found["kvsessions.store.operation.duration default.load"] == 2
    assert not [name for name in found if "memory" in name]


@pytest.mark.parametrize("backend", ["semidbm.SemidbmStore", "memory.MemoryStore"])
def test_async_calls_are_counted_once(run: Run, backend: str, tmp_path: Path) -> None:
    found = run(
        """
otel.instrument()
async def main():
    session = SessionStore()
    await session.aset("a", 1)
    await session.asave()
    await SessionStore(session.session_key).aget("a")
asyncio.run(main())
print(json.dumps(figures()))
""",
        default={
            "BACKEND": f"django_kvsessions.stores.{backend}",
            "LOCATION": f"{tmp_path}/sessions" if "semidbm" in backend else None,
        },
    )
    assert found["kvsessions.store.operations default.create"] == 1
    assert found["kvsessions.store.operations default.load"] == 1


def test_failures_rejections_and_clean_ups_are_counted(run: Run) -> None:
    found = run(
        """
import logging
from django_kvsessions import reports
logging.disable()
otel.instrument()
try: stores["down"].stats()
except Exception: pass
for _ in range(3): reports.rejected("its tag does not match")
counts.add("cleaned", 7)
print(json.dumps(figures()))
""",
        down={"BACKEND": "tests.support.odd_stores.DownStore"},
    )
    assert found["kvsessions.store.failures down.stats"] == 1
    assert found["kvsessions.session.rejected default"] == 3
    assert found["kvsessions.cleanup.removed default"] == 7


def test_calls_are_spans_where_tracing_is_on_and_name_no_key(run: Run) -> None:
    found = run(
        SAVE
        + """
trace_all()
otel.instrument()
save()
with trace.get_tracer("site").start_as_current_span("request"):
    save()
spans = exporter.get_finished_spans()
print(json.dumps({"names": [s.name for s in spans], "attributes": dict(spans[0].attributes)}))
"""
    )
    assert found["names"] == [
        "kvsessions.create",
        "kvsessions.load",
        "kvsessions.replace",
        "request",
    ]
    assert found["attributes"] == {"kvsessions.store": "default", "kvsessions.operation": "create"}


def test_nothing_is_in_the_way_where_nobody_asks_for_it(run: Run) -> None:
    found = run('print(json.dumps({"patched": "load" in vars(stores["default"])}))')
    assert found == {"patched": False}


def test_the_example_publishes_for_prometheus() -> None:
    if find_spec("prometheus_client") is None or find_spec("opentelemetry.sdk") is None:
        missing("the exporter is missing: pip install opentelemetry-exporter-prometheus")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "metrics" / "prometheus.py"), str(port), "240"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    try:
        deadline = time.monotonic() + 240
        text = ""
        while "kvsessions_store_operations" not in text:
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as page:
                    text = page.read().decode()
            except urllib.error.URLError:
                continue
        assert 'kvsessions_operation="load"' in text
        assert 'kvsessions_store="default"' in text
    finally:
        process.kill()
        process.wait()
