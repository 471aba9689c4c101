"""Two sets of changes to one session become one: a three-way merge of dicts.

Two values are the same here if they have the same structure and exactly the
same types: 1 and True, or one moment in two time zones, are equal and yet not
the same, and NaN, which is not even equal to itself, is the same as NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

__all__ = ["merge", "merge_sessions", "same", "take_over"]

Data = dict[Any, Any]

#: What Django's login writes. Half of one login and half of another is neither.
_LOGIN = "_auth_user_"

_MISSING = object()
# Values of one of these types that are equal are the same.
_EXACT = frozenset((str, int, bool, type(None), bytes))
# Equal values of these may differ: in a time zone, or in the number of digits.
_BY_REPR = frozenset((datetime, date, time, timedelta, Decimal, UUID, complex))


def merge_sessions(
    base: Data, mine: Data, theirs: Data, starts: Mapping[str, Any], stored: Callable[[Data], Data]
) -> Data:
    """As ``merge``, with what a login writes taken as one value.

    ``starts`` has, for keys that ``base`` may lack, what both sides have begun
    with. ``stored`` gives data as it comes out of the store: what ``mine`` was
    given there looks changed otherwise where a serializer makes lists of tuples.
    """
    begun = {key: value for key, value in starts.items() if key in mine and key in theirs}
    merged, changed = _merge({**begun, **base}, mine, theirs, stored)
    if any(map(_is_login, changed)):
        for key in [key for key in merged if _is_login(key)]:
            del merged[key]
        merged.update({key: value for key, value in mine.items() if _is_login(key)})
    return merged


def _is_login(key: object) -> bool:
    return isinstance(key, str) and key.startswith(_LOGIN)


def merge(base: Data, mine: Data, theirs: Data) -> Data:
    """What ``mine`` and ``theirs`` have become since ``base``, key by key.

    A change by one side alone, a deletion as well, is kept. Where both changed
    a value, dicts are merged in the same way, and of anything else mine counts.
    """
    return _merge(base, mine, theirs, dict)[0]


def _merge(
    base: Data, mine: Data, theirs: Data, stored: Callable[[Data], Data]
) -> tuple[Data, list[Hashable]]:
    """And which keys ``mine`` has changed."""
    if _is_plain(base) and _is_plain(mine) and _is_plain(theirs):
        changes = dict.fromkeys(_changed(base, mine), _MISSING)
        changes |= stored({key: mine[key] for key in changes if key in mine})
        merged = _apply(changes, base, theirs)
        return merged, list(changes)
    names = {_exact(key): key for side in (base, theirs, mine) for key in side}
    before, ours = _by_exact(base), _by_exact(mine)
    changes = dict.fromkeys(_changed(before, ours), _MISSING)
    written = stored({names[key]: ours[key] for key in changes if key in ours})
    names |= {_exact(key): key for key in written}
    merged = _apply(changes | _by_exact(written), before, _by_exact(theirs))
    return {names[key]: value for key, value in merged.items()}, [names[key] for key in changes]


def _apply(changes: Data, base: Data, theirs: Data) -> Data:
    merged = dict(theirs)
    for key, ours in changes.items():
        before, there = base.get(key, _MISSING), theirs.get(key, _MISSING)
        if same(ours, before):
            continue
        if isinstance(ours, dict) and isinstance(there, dict) and not same(there, before):
            merged[key] = merge(before if isinstance(before, dict) else {}, ours, there)
        elif ours is _MISSING:
            merged.pop(key, None)
        else:
            merged[key] = ours
    return merged


def _changed(base: Data, mine: Data) -> list[Hashable]:
    """The keys of which the two do not say the same."""
    before = base.get
    # Nothing is called for the values of which most sessions consist.
    keys = [
        key
        for key, value in mine.items()
        if (there := before(key, _MISSING)) is not value
        and not (type(there) is (kind := type(value)) and kind in _EXACT and there == value)
        and not same(there, value)
    ]
    return keys + [key for key in base if key not in mine]


def take_over(data: Data, merged: Data) -> None:
    """Make ``data`` say what ``merged`` says.

    What is the same already stays the same object, and dicts and lists are
    changed in place, since a view may hold any of them.
    """
    if _is_plain(data) and _is_plain(merged):
        names, there, wanted = None, data, merged
    else:
        names = {_exact(key): key for key in (*merged, *data)}
        there, wanted = _by_exact(data), _by_exact(merged)
    for key in _changed(there, wanted):
        name = key if names is None else names[key]
        if key not in wanted:
            del data[name]
            continue
        held, value = there.get(key), wanted[key]
        if type(held) is dict and type(value) is dict:
            take_over(held, value)
        elif type(held) is list and type(value) is list:
            held[:] = value
        else:
            data[name] = value


def same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other) or one is _MISSING or other is _MISSING:
        return False
    if kind in _EXACT:
        return bool(one == other)
    if issubclass(kind, dict):
        if not (_is_plain(one) and _is_plain(other)):
            one, other = _by_exact(one), _by_exact(other)
        return len(one) == len(other) and not _changed(one, other)
    if issubclass(kind, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if issubclass(kind, (set, frozenset)):
        return len(one) == len(other) and set(map(_exact, one)) == set(map(_exact, other))
    if kind is float or kind in _BY_REPR:
        return _exact(one) == _exact(other)
    return _same_objects(one, other)


def _same_objects(one: object, other: object) -> bool:
    """Of any other class: as the class has it, or by what would be pickled of them."""
    try:
        if any("__eq__" in base.__dict__ for base in type(one).__mro__[:-1]):
            return bool(one == other)
        return same(one.__reduce_ex__(4), other.__reduce_ex__(4))
    except Exception:
        # Whatever a class of the project raises, it does not say that they are the same.
        return False


def _is_plain(values: Data) -> bool:
    """Whether all keys are texts, which are the same where they are equal."""
    return set(map(type, values)) <= {str}


def _by_exact(values: Data) -> Data:
    return {_exact(key): value for key, value in values.items()}


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
