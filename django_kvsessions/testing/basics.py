"""load, create, replace, touch and delete of live records."""

from __future__ import annotations

import time

from django_kvsessions.stores.base import KEY_SIZE, Record, Store
from django_kvsessions.testing.kit import Kit, requires
from django_kvsessions.testing.records import ALICE, BOB, LONG, MakeStore, make_key, opened

__all__ = ["Basics"]


class Basics(Kit):
    """load, create, replace, touch and delete of live records."""

    def test_a_key_that_was_never_written_is_absent(self, both: Store) -> None:
        key = make_key("never")
        assert both.load(key) is None
        assert both.touch(key, time.time() + LONG) is False
        assert both.delete(key) is False
        assert both.replace(key, self.make_record()) is False
        assert both.replace(key, self.make_record(), expected=1) is False
        self.assert_absent(both, key)

    def test_what_was_created_is_loaded(self, both: Store) -> None:
        record = self.make_record(b"payload", owner=ALICE)
        assert both.create(make_key(1), record) is True
        loaded = both.load(make_key(1))
        self.assert_same(loaded, record)
        assert loaded is not None
        assert [type(loaded)] + [type(field) for field in loaded] == [
            Record,
            bytes,
            float,
            int,
            bytes,
        ]

    def test_create_leaves_a_live_record_alone(self, both: Store) -> None:
        first, second = self.make_record(b"first"), self.make_record(b"second", revision=2)
        assert both.create(make_key(1), first) is True
        assert both.create(make_key(1), second) is False
        self.assert_same(both.load(make_key(1)), first)

    def test_replace_changes_the_whole_record(self, both: Store) -> None:
        both.create(make_key(1), self.make_record(b"a longer first", owner=ALICE))
        second = self.make_record(b"second", time.time() + 2 * LONG, revision=2, owner=BOB)
        assert both.replace(make_key(1), second) is True
        self.assert_same(both.load(make_key(1)), second)

    def test_replace_goes_by_the_expected_revision(self, both: Store) -> None:
        first, second = self.make_record(b"1", revision=7), self.make_record(b"2", revision=0)
        both.create(make_key(1), first)
        assert both.replace(make_key(1), second, expected=8) is False
        assert both.replace(make_key(1), second, expected=0) is False
        self.assert_same(both.load(make_key(1)), first)
        assert both.replace(make_key(1), second, expected=7) is True
        # Zero is a revision like any other, not "none given".
        assert both.replace(make_key(1), first, expected=7) is False
        self.assert_same(both.load(make_key(1)), second)
        assert both.replace(make_key(1), first, expected=0) is True
        self.assert_same(both.load(make_key(1)), first)

    def test_touch_moves_the_expiry_and_nothing_else(self, both: Store) -> None:
        record = self.make_record(b"touched", revision=5, owner=ALICE)
        both.create(make_key(1), record)
        for expires in (record.expires + LONG, record.expires - LONG / 2):
            assert both.touch(make_key(1), expires) is True
            self.assert_same(both.load(make_key(1)), record._replace(expires=expires))
        assert both.replace(make_key(1), record, expected=5) is True

    def test_touch_goes_by_the_expected_revision(self, both: Store) -> None:
        record = self.make_record(b"touched", revision=0, owner=ALICE)
        both.create(make_key(1), record)
        assert both.touch(make_key(1), record.expires + LONG, expected=1) is False
        self.assert_same(both.load(make_key(1)), record)
        assert both.touch(make_key(1), record.expires + LONG, expected=0) is True
        self.assert_same(both.load(make_key(1)), record._replace(expires=record.expires + LONG))
        # A touch is no new revision, so the next one may expect the same.
        assert both.touch(make_key(1), record.expires, expected=0) is True
        assert both.replace(make_key(1), record._replace(revision=3), expected=0) is True
        assert both.touch(make_key(1), record.expires + LONG, expected=0) is False
        self.assert_same(both.load(make_key(1)), record._replace(revision=3))
        assert both.touch(make_key(2), record.expires, expected=0) is False
        self.assert_absent(both, make_key(2))

    def test_delete_is_true_only_for_a_live_record(self, both: Store) -> None:
        both.create(make_key(1), self.make_record(owner=ALICE))
        assert both.delete(make_key(1)) is True
        assert both.delete(make_key(1)) is False
        self.assert_absent(both, make_key(1))
        assert list(both.scan_owner(ALICE)) == []

    def test_nothing_but_create_brings_a_deleted_record_back(self, both: Store) -> None:
        record = self.make_record()
        both.create(make_key(1), record)
        both.delete(make_key(1))
        assert both.replace(make_key(1), record) is False
        assert both.replace(make_key(1), record, expected=record.revision) is False
        assert both.touch(make_key(1), time.time() + LONG) is False
        self.assert_absent(both, make_key(1))
        assert both.create(make_key(1), record) is True
        self.assert_same(both.load(make_key(1)), record)

    def test_keys_that_differ_in_one_bit_do_not_mix(self, both: Store) -> None:
        keys = [b"\x00" * KEY_SIZE, b"\xff" * KEY_SIZE, bytes(range(KEY_SIZE))]
        keys += [b"\x00" * 31 + b"\x01", b"\x01" + b"\x00" * 31, b"\n" * KEY_SIZE, b"%" * KEY_SIZE]
        for number, key in enumerate(keys):
            assert both.create(key, self.make_record(key, revision=number)) is True
        for number, key in enumerate(keys):
            self.assert_same(both.load(key), self.make_record(key, revision=number))
        assert both.delete(keys[0]) is True
        assert {key for key, _ in both.scan()} == set(keys[1:])

    def test_setup_may_run_again(self, both: Store) -> None:
        record = self.make_record()
        both.create(make_key(1), record)
        both.setup()
        both.setup()
        self.assert_same(both.load(make_key(1)), record)

    def test_a_closed_store_reopens_at_the_next_use(self, both: Store) -> None:
        both.create(make_key(1), self.make_record())
        both.close()
        both.close()
        assert both.create(make_key(2), self.make_record()) is True
        assert both.load(make_key(2)) is not None

    @requires(persistent=True)
    def test_what_was_acknowledged_outlives_the_store(
        self, both: Store, make_store: MakeStore
    ) -> None:
        record = self.make_record(owner=ALICE)
        both.create(make_key(1), record)
        both.create(make_key(2), record)
        both.delete(make_key(2))
        both.close()
        with opened(make_store) as again:
            self.assert_same(again.load(make_key(1)), record)
            assert again.load(make_key(2)) is None

    @requires(shared_between_processes=True)
    def test_two_stores_on_the_same_data_see_each_other(
        self, both: Store, make_store: MakeStore
    ) -> None:
        with opened(make_store) as other:
            record = self.make_record(owner=ALICE)
            assert both.create(make_key(1), record) is True
            assert other.create(make_key(1), record) is False
            self.assert_same(other.load(make_key(1)), record)
            assert other.replace(make_key(1), record._replace(data=b"", revision=2), expected=1)
            self.assert_same(both.load(make_key(1)), record._replace(data=b"", revision=2))
            assert both.replace(make_key(1), record, expected=1) is False
            assert [key for key, _ in both.scan_owner(ALICE)] == [make_key(1)]
            assert other.delete(make_key(1)) is True
            self.assert_absent(both, make_key(1))
            assert both.touch(make_key(1), time.time() + LONG) is False
