"""Counting up in a store behind a proxy that loses answers."""

from __future__ import annotations

import os
import threading
import time

from django_kvsessions.stores.base import Record, Store, StoreUnavailable
from django_kvsessions.testing.proxy import Proxy

__all__ = ["assert_nothing_counts_twice"]


def assert_nothing_counts_twice(
    through: Store, direct: Store, proxy: Proxy, *, times: int = 60, rate: float = 0.1
) -> None:
    """Three threads raise one counter by compare-and-swap, while a share of the answers is lost.

    What was acknowledged was counted once, nobody is told that the record is gone, and
    only what was unavailable may be counted or not.
    """
    key = os.urandom(32)
    wrong: list[object] = []
    acknowledged: list[int] = []
    unknown: list[StoreUnavailable] = []

    def numbered(number: int) -> Record:
        revision = int.from_bytes(os.urandom(8), "big") >> 1
        return Record(b"%d" % number, time.time() + 600, revision)

    def count() -> None:
        for _ in range(times // 3):
            try:
                loaded = through.load(key)
                if loaded is None:
                    wrong.append("logged out")
                    return
                number = int(loaded.data) + 1
                if through.replace(key, numbered(number), expected=loaded.revision):
                    acknowledged.append(number)
            except StoreUnavailable as error:
                unknown.append(error)
            except Exception as error:
                wrong.append(error)

    assert direct.create(key, numbered(0))
    with proxy.cut_at_random(rate, seed=1):
        threads = [threading.Thread(target=count, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
    assert wrong == []
    assert proxy.cuts > 0
    assert len(set(acknowledged)) == len(acknowledged) > 0
    loaded = direct.load(key)
    assert loaded is not None
    assert len(acknowledged) <= int(loaded.data) <= len(acknowledged) + len(unknown)
