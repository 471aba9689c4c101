from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_kvsessions.merging import merge as merge_dicts
from django_kvsessions.serializers import MessagePackSerializer

pytestmark = pytest.mark.same

dumps = MessagePackSerializer().dumps
loads = MessagePackSerializer().loads

Data = dict[Any, Any]

# NaN on purpose: it is not equal to itself, as a value and as a key.
scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(width=16) | st.text("ab")
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["cart", "visits", "user", 1, 2.5, None, float("nan")])
sessions = st.dictionaries(names, values, max_size=5)


def merge(base: Data, mine: Data, theirs: Data) -> Data:
    # As in the engine, each side comes out of the store on its own.
    return merge_dicts(loads(dumps(base)), loads(dumps(mine)), loads(dumps(theirs)))


def canonical(value: Any) -> Any:
    """The same for values that are the same, whatever the order of their dicts."""
    if isinstance(value, dict):
        return frozenset((dumps(key), canonical(item)) for key, item in value.items())
    if isinstance(value, list):
        return tuple(map(canonical, value))
    return dumps(value)


def by_name(data: Data) -> dict[bytes, Any]:
    return {dumps(name): canonical(value) for name, value in data.items()}


@given(sessions, sessions)
def test_merging_with_an_unchanged_side_is_the_identity(base: Data, changed: Data) -> None:
    assert canonical(merge(base, changed, base)) == canonical(changed)
    assert canonical(merge(base, base, changed)) == canonical(changed)


@given(sessions, sessions, sessions)
def test_no_change_by_one_side_alone_is_dropped(base: Data, mine: Data, theirs: Data) -> None:
    before, m, t = by_name(base), by_name(mine), by_name(theirs)
    merged = by_name(merge(base, mine, theirs))
    for name in {*before, *m, *t}:
        if m.get(name) == before.get(name):
            assert merged.get(name) == t.get(name)
        elif t.get(name) == before.get(name):
            assert merged.get(name) == m.get(name)


@given(sessions, sessions, sessions)
def test_nothing_is_made_up_or_doubled(base: Data, mine: Data, theirs: Data) -> None:
    merged = merge(base, mine, theirs)
    assert set(by_name(merged)) <= {*by_name(mine), *by_name(theirs)}
    assert len(by_name(merged)) == len(merged)


@given(sessions, sessions, sessions, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(
    base: Data, mine: Data, theirs: Data, shuffler: random.Random
) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = [(key, shuffled(item)) for key, item in value.items()]
        shuffler.shuffle(items)
        return dict(items)

    merged = merge(base, mine, theirs)
    again = merge(shuffled(base), shuffled(mine), shuffled(theirs))
    assert canonical(again) == canonical(merged)


def test_nested_dicts_merge_key_by_key() -> None:
    base = {"cart": {"apple": 1, "pear": 1}}
    mine = {"cart": {"apple": 2, "pear": 1}}
    theirs = {"cart": {"apple": 1, "plum": 5}}
    assert merge(base, mine, theirs) == {"cart": {"apple": 2, "plum": 5}}


def test_dicts_that_both_sides_added_merge_too() -> None:
    assert merge({}, {"cart": {"apple": 1}}, {"cart": {"pear": 1}}) == {
        "cart": {"apple": 1, "pear": 1}
    }


def test_where_both_sides_changed_a_value_mine_counts() -> None:
    assert merge({"a": 1}, {"a": 2}, {"a": 3}) == {"a": 2}
    assert merge({"a": [1]}, {"a": [1, 2]}, {"a": [1, 3]}) == {"a": [1, 2]}
    assert merge({"a": 1}, {}, {"a": 3}) == {}
    assert merge({"a": 1}, {"a": 2}, {}) == {"a": 2}


def test_what_is_equal_and_yet_not_the_same_is_a_change() -> None:
    assert merge({"a": 1}, {"a": True}, {"a": 1})["a"] is True
    assert type(merge({"a": 1}, {"a": 1}, {"a": 1.0})["a"]) is float
    utc = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    berlin = utc.astimezone(timezone(timedelta(hours=1)))
    assert utc == berlin
    merged = merge({"at": utc}, {"at": berlin}, {"at": utc, "b": 1})
    assert merged["at"].utcoffset() == timedelta(hours=1)
    assert merged["b"] == 1


def test_nan_does_not_count_as_changed() -> None:
    nan = float("nan")
    assert merge({"a": nan}, {"a": nan}, {"a": 5}) == {"a": 5}
    assert len(merge({nan: 1}, {nan: 1}, {nan: 1})) == 1
