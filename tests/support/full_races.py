"""The conformance kit, its races at the size at which every store has to show them."""

from __future__ import annotations

from django_kvsessions.stores.base import Store
from django_kvsessions.testing import StoreConformance

__all__ = ["FullRaces", "SlowRaces"]


class FullRaces(StoreConformance):
    """8 threads race for each of 200 new keys; 4 processes raise one counter, 25 times
    each.

    What else the kit does goes by the sizes of each subclass.
    """

    racers = 8
    processes = 4
    process_increments = 25

    def test_one_thread_wins_each_create(self, store: Store, eager_switches: None) -> None:
        # Of this test alone: pytest makes an instance for each.
        self.race_keys = 200
        super().test_one_thread_wins_each_create(store, eager_switches)


class SlowRaces(FullRaces):
    """For a server to which each call takes milliseconds: the rest is smaller."""

    race_keys = 5
    increments = 5
    scans = 2
    process_keys = 15
    kill_threads = 1
    kills = 1
