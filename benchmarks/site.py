"""The benchmarked site in one process, whose settings come by the environment."""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

import django
from django.conf import settings

SETTINGS = "BENCHMARK_SETTINGS"


def configure() -> None:
    # A server may ask for its application more than once.
    if not settings.configured:
        settings.configure(**json.loads(os.environ[SETTINGS]))
        django.setup()


def __getattr__(name: str) -> Any:
    """``wsgi`` and ``asgi``, for gunicorn and uvicorn."""
    if name not in ("wsgi", "asgi"):
        raise AttributeError(name)
    configure()
    return getattr(import_module(f"django.core.{name}"), f"get_{name}_application")()
