"""What happens seldom enough to be counted always, for whoever wants to publish it."""

from __future__ import annotations

from collections import defaultdict

from django_kvsessions import conf

__all__ = ["add", "counted"]

#: By the alias of the store and what happened. Two threads at once may lose one.
counted: defaultdict[tuple[str, str], float] = defaultdict(float)


def add(what: str, number: float = 1, alias: str | None = None) -> None:
    """``what``: "retries", "rejected", "cleanups", "cleaned" or "cleaning" (seconds)."""
    counted[conf.store_alias() if alias is None else alias, what] += number
