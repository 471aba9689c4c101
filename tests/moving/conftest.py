"""Each of Django's engines, as the one that a site had before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.contrib.sessions.backends import file
from django.contrib.sessions.backends.base import SessionBase
from django.core.cache import cache
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions.moving.arrivals import unknown
from django_kvsessions.moving.counts import counts

ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]
#: Those that keep sessions on the server.
KEEPING = ENGINES[:-1]


@pytest.fixture(autouse=True)
def _site(
    settings: DjangoSettings, tmp_path: Path, db: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    # Django's engine asks the setting once.
    monkeypatch.setattr(file.SessionStore, "_storage_path", str(tmp_path), raising=False)
    settings.SESSION_FILE_PATH = str(tmp_path)
    unknown.clear()
    counts.forget()
    yield
    cache.clear()


@pytest.fixture(params=KEEPING)
def path(request: pytest.FixtureRequest, settings: DjangoSettings) -> str:
    """The dotted path of a former engine, from which sessions are moved."""
    name = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FALLBACK_ENGINES = [name]
    return name


@pytest.fixture
def former(path: str) -> Callable[..., Any]:
    """Its SessionStore."""
    engine: type[SessionBase] = import_module(path).SessionStore
    return engine
