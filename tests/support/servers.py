"""The rule for real servers: skipped with the install line by hand, failed on CI."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NoReturn

import pytest

from testservers import Missing, Server

__all__ = ["missing", "require_driver", "serve", "until"]


def missing(reason: object) -> NoReturn:
    """End the test: skipped, or failed where CI is set, because nothing is skipped there."""
    if os.environ.get("CI"):
        pytest.fail(str(reason))
    pytest.skip(str(reason))


def require_driver(name: str) -> Any:
    """A driver's module, by the same rule."""
    try:
        return import_module(name)
    except ImportError:
        missing(f"{name} is not installed: pip install {name}")


def serve(make: Callable[[], Server]) -> Iterator[Server]:
    """The body of a server fixture: ``yield from serve(redis_server)``."""
    try:
        server = make()
    except Missing as reason:
        missing(reason)
    with server:
        yield server


def until(condition: Callable[[], object]) -> None:
    """Wait for it, for as long as a server on a busy machine may need."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
