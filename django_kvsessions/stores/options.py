"""Checking LOCATION and OPTIONS, in one wording for every store.

Each function returns the value, or raises ``ImproperlyConfigured`` that names
the option, what it takes and what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import inf, isfinite
from typing import NoReturn, TypeVar

from django.core.exceptions import ImproperlyConfigured

__all__ = ["boolean", "choice", "driver", "folder", "refuse", "seconds", "text", "whole_number"]

T = TypeVar("T")


def refuse(name: str, wanted: str, value: object) -> NoReturn:
    raise ImproperlyConfigured(f"OPTIONS[{name!r}] must be {wanted}, not {value!r}.")


def seconds(name: str, value: object, *, at_most: float = inf) -> float:
    """A number of seconds above 0."""
    # True is an int to Python, and no number of seconds to anybody.
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (isfinite(value) and 0 < value <= at_most)
    ):
        limit = "" if at_most == inf else f" and up to {at_most:g}"
        refuse(name, f"a number of seconds above 0{limit}", value)
    return value


def whole_number(name: str, value: object, *, at_least: int, at_most: int | None = None) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < at_least
        or (at_most is not None and value > at_most)
    ):
        limit = "up" if at_most is None else f"to {at_most}"
        refuse(name, f"a whole number from {at_least} {limit}", value)
    return value


def boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        refuse(name, "True or False", value)
    return value


def choice(name: str, value: T, choices: Collection[T]) -> T:
    # What cannot be hashed is no choice either.
    if not any(value is one or (type(value) is type(one) and value == one) for one in choices):
        refuse(name, "one of " + ", ".join(map(repr, choices)), value)
    return value


def text(name: str, value: object) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        refuse(name, "a text", value)
    return value


def folder(location: object) -> str:
    """LOCATION, where it has to name a folder."""
    if not isinstance(location, (str, os.PathLike)) or not location:
        raise ImproperlyConfigured(f"LOCATION must name a folder, not {location!r}.")
    return os.fspath(location)


@contextmanager
def driver(extra: str, need: str) -> Iterator[None]:
    """Where an import in here fails, ``ImproperlyConfigured`` says what to install."""
    try:
        yield
    except ImportError as error:
        message = f"{need}: pip install django-kvsessions[{extra}]"
        raise ImproperlyConfigured(message) from error
