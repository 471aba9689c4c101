"""Two sets of changes to one session become one: a three-way merge of dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["merge"]

Dumps = Callable[[Any], Any]

_MISSING = object()
# Values of one of these types that are equal are the same.
_EXACT = (str, int, bool, type(None), bytes)


def merge(
    base: dict[Any, Any], mine: dict[Any, Any], theirs: dict[Any, Any], dumps: Dumps
) -> dict[Any, Any]:
    """What ``mine`` and ``theirs`` have become since ``base``, key by key.

    A change by one side alone, a deletion as well, is kept. Where both changed
    a value, dicts are merged in the same way, and of anything else mine counts.

    Two values are the same if ``dumps`` says the same of both: 1 and True, or
    one moment in two time zones, are equal and yet not the same, and NaN is not
    even equal to itself.
    """
    bases, mines, theirs_ = (_by_dump(side, dumps) for side in (base, mine, theirs))
    merged = {}
    for dumped in {**theirs_, **mines}:
        key, b = bases.get(dumped, (None, _MISSING))
        key, t = theirs_.get(dumped, (key, _MISSING))
        key, m = mines.get(dumped, (key, _MISSING))
        value = _merge_value(b, m, t, dumps)
        if value is not _MISSING:
            merged[key] = value
    return merged


def _by_dump(values: dict[Any, Any], dumps: Dumps) -> dict[Any, tuple[Any, Any]]:
    # A text stands for itself; no dump, being bytes, is equal to one.
    return {key if type(key) is str else dumps(key): (key, value) for key, value in values.items()}


def _merge_value(base: Any, mine: Any, theirs: Any, dumps: Dumps) -> Any:
    if _same(mine, base, dumps):
        return theirs
    if _same(theirs, base, dumps):
        return mine
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return merge(base if isinstance(base, dict) else {}, mine, theirs, dumps)
    return mine


def _same(one: Any, other: Any, dumps: Dumps) -> bool:
    if one is _MISSING or other is _MISSING:
        return one is other
    if type(one) in _EXACT and type(one) is type(other):
        return bool(one == other)
    return bool(dumps(one) == dumps(other))
