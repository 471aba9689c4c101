"""The rule for real servers: skipped with the install line by hand, failed on CI."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from testservers import Missing, Server

__all__ = ["missing", "serve"]


def missing(reason: object) -> NoReturn:
    """End the test: skipped, or failed where CI is set, because nothing is skipped there."""
    if os.environ.get("CI"):
        pytest.fail(str(reason))
    pytest.skip(str(reason))


def serve(make: Callable[[], Server]) -> Iterator[Server]:
    """The body of a server fixture: ``yield from serve(redis_server)``."""
    try:
        server = make()
    except Missing as reason:
        missing(reason)
    with server:
        yield server
