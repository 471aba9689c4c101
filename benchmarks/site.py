"""The benchmarked site as a server starts it, its contender named by the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

from benchmarks.engines import CONTENDERS, django_settings


def configure() -> None:
    contender = CONTENDERS[os.environ["BENCHMARK_CONTENDER"]]
    folder = Path(os.environ["BENCHMARK_FOLDER"])
    middleware = os.environ["BENCHMARK_MIDDLEWARE"]
    settings.configure(**django_settings(contender, folder, middleware=middleware))
    django.setup()


configure()


def __getattr__(name: str) -> Any:
    if name == "wsgi":
        return get_wsgi_application()
    if name == "asgi":
        return get_asgi_application()
    raise AttributeError(name)
