"""delete_expired and stats."""

from __future__ import annotations

from django_kvsessions.stores.base import Store
from django_kvsessions.testing.clocks import Clock
from django_kvsessions.testing.kit import Kit, requires
from django_kvsessions.testing.records import ALICE, LONG, MakeStore, make_key, opened

__all__ = ["CleanUp"]


class CleanUp(Kit):
    """delete_expired and stats."""

    def fill(self, store: Store, clock: Clock) -> None:
        """``expired_records`` that have expired, and three live ones, two of them renewed."""
        alive = self.make_record(expires=clock.now() + LONG)
        store.create(make_key("touched"), self.make_record(expires=clock.soon()))
        assert store.touch(make_key("touched"), alive.expires)
        store.create(make_key("replaced"), self.make_record(expires=clock.soon()))
        assert store.replace(make_key("replaced"), alive)
        for number in range(self.expired_records):
            store.create(make_key(number), self.make_record(expires=clock.soon(), owner=ALICE))
        store.create(make_key("alive"), alive._replace(owner=ALICE))
        clock.outlive()

    def assert_only_live_ones_left(self, store: Store) -> None:
        alive = {make_key("touched"), make_key("replaced"), make_key("alive")}
        assert {key for key, _ in store.scan()} == alive
        assert all(store.load(key) is not None for key in alive)
        assert [key for key, _ in store.scan_owner(ALICE)] == [make_key("alive")]

    def test_clean_up_leaves_the_living_alone(self, both: Store, clock: Clock) -> None:
        self.fill(both, clock)
        for _ in both.delete_expired(batch_size=10):
            pass
        self.assert_only_live_ones_left(both)
        assert both.stats().expired in (0, None)

    @requires(removes_expired_itself=False)
    def test_clean_up_removes_each_expired_record_once(self, both: Store, clock: Clock) -> None:
        self.fill(both, clock)
        assert sum(both.delete_expired(batch_size=10)) == self.expired_records
        assert sum(both.delete_expired(batch_size=10)) == 0
        self.assert_only_live_ones_left(both)

    @requires(removes_expired_itself=False)
    def test_clean_up_keeps_to_its_batch_size(self, both: Store, clock: Clock) -> None:
        self.fill(both, clock)
        batches = list(both.delete_expired(batch_size=10))
        assert max(batches) <= 10
        assert sum(batches) == self.expired_records

    @requires(removes_expired_itself=False)
    def test_clean_up_may_stop_half_way(self, both: Store, clock: Clock) -> None:
        self.fill(both, clock)
        batches = both.delete_expired(batch_size=5)
        first = next(batches)
        del batches
        assert 0 <= first <= 5
        assert both.create(make_key("new"), self.make_record(expires=clock.now() + LONG))
        assert both.delete(make_key("new"))
        assert first + sum(both.delete_expired(batch_size=5)) == self.expired_records

    @requires(removes_expired_itself=False)
    def test_the_store_stays_usable_between_batches(self, store: Store, clock: Clock) -> None:
        self.fill(store, clock)
        renewed = [make_key(number) for number in range(self.expired_records)]
        alive = self.make_record(expires=clock.now() + LONG)

        def use() -> None:
            assert store.load(make_key("alive")) is not None
            assert store.create(make_key("new"), alive)
            assert store.replace(make_key("new"), alive)
            assert store.touch(make_key("new"), alive.expires)
            assert store.delete(make_key("new"))

        for count in store.delete_expired(batch_size=5):
            # From another thread, which a lock held over a yield would stop.
            self.race(use)
            while renewed:
                # Whatever takes an expired record's place meanwhile must stay.
                assert store.create(renewed.pop(), alive)
            assert count <= 5
        for number in range(self.expired_records):
            assert store.load(make_key(number)) is not None
        assert store.load(make_key("alive")) is not None

    @requires(removes_expired_itself=False)
    def test_two_clean_ups_at_once_remove_each_record_once(
        self, store: Store, clock: Clock, eager_switches: None
    ) -> None:
        self.fill(store, clock)
        removed = self.race(*[lambda: sum(store.delete_expired(batch_size=3))] * 2)
        assert sum(removed) == self.expired_records
        self.assert_only_live_ones_left(store)

    @requires(shared_between_processes=True, removes_expired_itself=False)
    def test_two_stores_that_clean_up_at_once_remove_each_record_once(
        self, store: Store, make_store: MakeStore, clock: Clock
    ) -> None:
        self.fill(store, clock)
        with opened(make_store) as other:
            removed = self.race(
                lambda: sum(store.delete_expired(batch_size=3)),
                lambda: sum(other.delete_expired(batch_size=3)),
            )
        assert sum(removed) == self.expired_records
        self.assert_only_live_ones_left(store)

    def test_stats_count_the_living_and_the_expired(self, both: Store, clock: Clock) -> None:
        assert both.stats().live in (0, None)
        self.fill(both, clock)
        stats = both.stats()
        assert stats.live in (3, None)
        assert stats.size is None or stats.size > 0
        if not self.removes_expired_itself:
            assert stats.expired in (self.expired_records, None)
