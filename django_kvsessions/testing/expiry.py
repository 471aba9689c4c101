"""When a record ceases to exist."""

from __future__ import annotations

from django_kvsessions.stores.base import Store
from django_kvsessions.testing.clocks import Clock
from django_kvsessions.testing.kit import Kit, requires
from django_kvsessions.testing.records import ALICE, BOB, LONG, make_key

__all__ = ["Expiry"]


class Expiry(Kit):
    """At or past its expiry a record does not exist for anyone."""

    @requires(uses_local_clock=True)
    def test_a_record_lives_until_its_very_second(self, both: Store, clock: Clock) -> None:
        record = self.make_record(expires=clock.now() + 100)
        both.create(make_key(1), record)
        clock.advance(99)
        self.assert_same(both.load(make_key(1)), record)
        clock.advance(1)
        assert both.load(make_key(1)) is None

    @requires(uses_local_clock=True)
    def test_touch_decides_the_very_second(self, both: Store, clock: Clock) -> None:
        both.create(make_key(1), self.make_record(expires=clock.now() + 100))
        both.create(make_key(2), self.make_record(expires=clock.now() + 100))
        assert both.touch(make_key(1), clock.now() + 200)
        assert both.touch(make_key(2), clock.now() + 50)
        clock.advance(49)
        assert both.load(make_key(2)) is not None
        clock.advance(1)
        assert both.load(make_key(2)) is None
        clock.advance(149)
        assert both.load(make_key(1)) is not None
        clock.advance(1)
        assert both.load(make_key(1)) is None

    def test_an_expired_record_is_absent_for_everyone(self, both: Store, clock: Clock) -> None:
        record = self.make_record(expires=clock.soon(), owner=ALICE)
        alive = self.make_record(expires=clock.now() + LONG, owner=ALICE)
        for number in range(6):
            both.create(make_key(number), record)
        both.create(make_key("alive"), alive)
        clock.outlive()
        assert both.load(make_key(0)) is None
        assert both.touch(make_key(1), clock.now() + LONG) is False
        assert both.replace(make_key(2), alive) is False
        assert both.replace(make_key(3), alive, expected=record.revision) is False
        assert both.delete(make_key(4)) is False
        assert [key for key, _ in both.scan()] == [make_key("alive")]
        assert [key for key, _ in both.scan_owner(ALICE)] == [make_key("alive")]
        for number in range(6):
            assert both.load(make_key(number)) is None

    def test_create_takes_the_place_of_an_expired_record(self, both: Store, clock: Clock) -> None:
        both.create(make_key(1), self.make_record(b"old", clock.soon(), 1, ALICE))
        clock.outlive()
        new = self.make_record(b"new", clock.now() + LONG, 2, BOB)
        assert both.create(make_key(1), new) is True
        self.assert_same(both.load(make_key(1)), new)
        assert [key for key, _ in both.scan()] == [make_key(1)]
        assert list(both.scan_owner(ALICE)) == []
        # Clearing what was there before must not take the new one along.
        for _ in both.delete_expired():
            pass
        self.assert_same(both.load(make_key(1)), new)

    def test_replace_moves_the_expiry(self, both: Store, clock: Clock) -> None:
        both.create(make_key(1), self.make_record(expires=clock.soon()))
        both.replace(make_key(1), self.make_record(expires=clock.now() + LONG, revision=2))
        both.create(make_key(2), self.make_record(expires=clock.now() + LONG))
        both.replace(make_key(2), self.make_record(expires=clock.soon(), revision=2))
        clock.outlive()
        assert both.load(make_key(1)) is not None
        assert both.load(make_key(2)) is None

    def test_an_expiry_in_the_past_ends_a_record(self, both: Store, clock: Clock) -> None:
        past = clock.now() - 10
        assert both.create(make_key(1), self.make_record(expires=past)) is True
        for number in (2, 3):
            both.create(make_key(number), self.make_record(expires=clock.now() + LONG))
        assert both.replace(make_key(2), self.make_record(expires=past, revision=2)) is True
        assert both.touch(make_key(3), past) is True
        for number in (1, 2, 3):
            self.assert_absent(both, make_key(number))
            assert both.create(make_key(number), self.make_record(expires=clock.now() + LONG))
