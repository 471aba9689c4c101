"""Whether what was answered can have come about: each call carried out once, or never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from django_kvsessions.stores.base import Record, Store, StoreUnavailable
from django_kvsessions.stores.memory import MemoryStore

__all__ = ["UNKNOWN", "Call", "Step", "ask", "is_possible", "same"]

#: What is asked of a store.
Call = Callable[[Store], object]
#: The answer of a call that raised ``StoreUnavailable``.
UNKNOWN: Final = "unknown"


class Step(NamedTuple):
    """What somebody asked of a store, and the answer."""

    call: Call
    answer: object


def ask(store: Store, call: Call) -> Step:
    try:
        return Step(call, call(store))
    except StoreUnavailable:
        return Step(call, UNKNOWN)


def is_possible(
    before: dict[bytes, Record], mine: Step, others: Sequence[Step], resolution: float
) -> bool:
    """Whether some order of the calls gives these answers on a store that keeps the contract.

    The others came one after the other; mine was under way meanwhile, and over
    before the last of them. If its answer is unknown, it may never have come.
    """
    *meanwhile, last = others
    orders = [[*meanwhile[:place], mine, *meanwhile[place:], last] for place in range(len(others))]
    if mine.answer is UNKNOWN:
        orders.append([*others])
    return any(_gives(before, order, resolution) for order in orders)


def _gives(before: dict[bytes, Record], order: Sequence[Step], resolution: float) -> bool:
    model = MemoryStore()
    for key, record in before.items():
        model.create(key, record)
    return all(same(step.call(model), step.answer, resolution) for step in order)


def same(one: object, other: object, resolution: float) -> bool:
    """Whether two answers are equal, with expiries as exact as the store keeps them."""
    if other is UNKNOWN:
        return True
    if isinstance(one, Record) and isinstance(other, Record):
        return abs(one.expires - other.expires) <= resolution and one._replace(
            expires=0.0
        ) == other._replace(expires=0.0)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(
            same(mine, theirs, resolution) for mine, theirs in zip(one, other, strict=True)
        )
    # A bool is an int, and no answer is as good as another.
    return type(one) is type(other) and one == other
