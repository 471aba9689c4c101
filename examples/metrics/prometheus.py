"""Publishes the metrics of a site's sessions for Prometheus, and makes some."""

from __future__ import annotations

import sys
import tempfile
import time

from django.conf import settings
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server


def main(port: int = 9464, seconds: float = 3600) -> None:
    metrics.set_meter_provider(MeterProvider(metric_readers=[PrometheusMetricReader()]))
    start_http_server(port, addr="127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        settings.configure(
            SECRET_KEY="for this example",
            SESSION_ENGINE="django_kvsessions.engine",
            SESSION_STORES={"default": {"LOCATION": f"{folder}/sessions"}},
        )
        from django_kvsessions.engine import SessionStore
        from django_kvsessions.otel import instrument
        from django_kvsessions.stores import stores

        instrument()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            session = SessionStore()
            session["visits"] = 1
            session.save()
            SessionStore(session.session_key).get("visits")
            time.sleep(0.1)
        stores.close_all()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
