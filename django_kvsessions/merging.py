"""Two sets of changes to one session become one: a three-way merge of dicts.

Two values are the same here if they have the same structure and exactly the
same types: 1 and True, or one moment in two time zones, are equal and yet not
the same, and NaN, which is not even equal to itself, is the same as NaN.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

__all__ = ["merge", "merge_sessions", "same", "take_over"]

#: What Django's login writes. Half of one login and half of another is neither.
_LOGIN = "_auth_user_"

_MISSING = object()
# Values of one of these types that are equal are the same.
_EXACT = (str, int, bool, type(None), bytes)
# Equal values of these may differ: in a time zone, or in the number of digits.
_BY_REPR = (datetime, date, time, timedelta, Decimal, UUID, complex)


def merge_sessions(
    base: Mapping[Any, Any],
    mine: Mapping[Any, Any],
    theirs: Mapping[Any, Any],
    starts: Mapping[str, Any],
) -> dict[Any, Any]:
    """As ``merge``, with what a login writes taken as one value.

    ``starts`` has, for keys that ``base`` may lack, what both sides have begun with.
    """
    begun = {
        key: value
        for key, value in starts.items()
        if key not in base and key in mine and key in theirs
    }
    merged = merge({**base, **begun}, mine, theirs)
    before, ours = _login(base), _login(mine)
    for key in [key for key in merged if _is_login(key)]:
        del merged[key]
    merged.update(_login(theirs) if same(ours, before) else ours)
    return merged


def _is_login(key: object) -> bool:
    return isinstance(key, str) and key.startswith(_LOGIN)


def _login(data: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in data.items() if _is_login(key)}


def merge(
    base: Mapping[Any, Any], mine: Mapping[Any, Any], theirs: Mapping[Any, Any]
) -> dict[Any, Any]:
    """What ``mine`` and ``theirs`` have become since ``base``, key by key.

    A change by one side alone, a deletion as well, is kept. Where both changed
    a value, dicts are merged in the same way, and of anything else mine counts.
    """
    bases, mines, others = _by_key(base), _by_key(mine), _by_key(theirs)
    merged = {}
    for exact in {**others, **mines}:
        key, b = bases.get(exact, (None, _MISSING))
        key, t = others.get(exact, (key, _MISSING))
        key, m = mines.get(exact, (key, _MISSING))
        value = _merge_value(b, m, t)
        if value is not _MISSING:
            merged[key] = value
    return merged


def _merge_value(base: Any, mine: Any, theirs: Any) -> Any:
    if same(mine, base):
        return theirs
    if same(theirs, base):
        return mine
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return merge(base if isinstance(base, dict) else {}, mine, theirs)
    return mine


def take_over(data: dict[Any, Any], merged: Mapping[Any, Any]) -> None:
    """Make ``data`` say what ``merged`` says.

    What is the same already stays the same object, and dicts and lists are
    changed in place, since a view may hold any of them.
    """
    there, wanted = _by_key(data), _by_key(merged)
    for exact, (key, _) in there.items():
        if exact not in wanted:
            del data[key]
    for exact, (new_key, value) in wanted.items():
        key, held = there.get(exact, (new_key, _MISSING))
        if held is _MISSING:
            data[key] = value
        elif not same(held, value):
            if type(held) is dict and type(value) is dict:
                take_over(held, value)
            elif type(held) is list and type(value) is list:
                held[:] = value
            else:
                data[key] = value


def same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other) or one is _MISSING or other is _MISSING:
        return False
    if kind in _EXACT:
        return bool(one == other)
    if issubclass(kind, dict):
        return len(one) == len(other) and _same_items(_by_key(one), _by_key(other))
    if issubclass(kind, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if issubclass(kind, (set, frozenset)):
        return len(one) == len(other) and set(map(_exact, one)) == set(map(_exact, other))
    if kind is float or kind in _BY_REPR:
        return _exact(one) == _exact(other)
    return _same_objects(one, other)


def _same_items(one: dict[Any, tuple[Any, Any]], other: dict[Any, tuple[Any, Any]]) -> bool:
    for exact, (_, value) in one.items():
        pair = other.get(exact)
        if pair is None or not same(value, pair[1]):
            return False
    return True


def _same_objects(one: Any, other: Any) -> bool:
    """Of any other class: as the class has it, or by what would be pickled of them."""
    try:
        if any("__eq__" in base.__dict__ for base in type(one).__mro__[:-1]):
            return bool(one == other)
        return same(one.__reduce_ex__(4), other.__reduce_ex__(4))
    except Exception:
        # Whatever a class of the project raises, it does not say that they are the same.
        return False


def _by_key(values: Mapping[Any, Any]) -> dict[Any, tuple[Any, Any]]:
    return {key if type(key) is str else _exact(key): (key, value) for key, value in values.items()}


def _exact(value: Any) -> Hashable:
    """What is equal for hashable values that are the same, and for no others."""
    kind = type(value)
    if kind is str:
        # A text stands for itself; nothing below is equal to one.
        return str(value)
    if kind is float:
        return kind, value.hex()
    if kind is tuple:
        return kind, tuple(map(_exact, value))
    if kind is frozenset:
        return kind, frozenset(map(_exact, value))
    return kind, repr(value) if kind in _BY_REPR else value
