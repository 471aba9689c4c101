"""What a record may hold, and what is refused."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from django_kvsessions.stores.base import MAX_REVISION, Store
from django_kvsessions.testing.kit import Kit
from django_kvsessions.testing.records import ALICE, LONG, make_key

__all__ = ["Values"]


class Values(Kit):
    """What a record may hold, and what is refused before anything is written."""

    @pytest.mark.parametrize("revision", [0, 1, 2**31, 2**53 + 1, MAX_REVISION])
    def test_a_revision_comes_back_exactly(self, both: Store, revision: int) -> None:
        record = self.make_record(revision=revision)
        both.create(make_key(1), record)
        self.assert_same(both.load(make_key(1)), record)
        assert both.replace(make_key(1), record, expected=(revision + 1) % 2**63) is False
        assert both.replace(make_key(1), record, expected=revision) is True

    @pytest.mark.parametrize("owner", [b"", ALICE, b"\x00" * 16, b"\xff" * 16, bytes(range(16))])
    def test_an_owner_comes_back_exactly(self, both: Store, owner: bytes) -> None:
        record = self.make_record(owner=owner)
        both.create(make_key(1), record)
        self.assert_same(both.load(make_key(1)), record)

    @pytest.mark.parametrize(
        "data",
        [b"", b"\x00", bytes(range(256)) * 3, b"\r\n\x1a' \x00\xff\xfe", "\u2028".encode()],
        ids=["empty", "NUL", "every byte", "awkward", "text"],
    )
    def test_data_comes_back_byte_for_byte(self, both: Store, data: bytes) -> None:
        both.create(make_key(1), self.make_record(data))
        self.assert_same(both.load(make_key(1)), self.make_record(data))
        both.replace(make_key(1), self.make_record(data[::-1], revision=2))
        self.assert_same(both.load(make_key(1)), self.make_record(data[::-1], revision=2))

    def test_a_record_at_the_limit_fits_and_one_over_it_is_refused(self, both: Store) -> None:
        limit = both.max_record_size
        largest = self.make_record(os.urandom(limit), revision=MAX_REVISION, owner=ALICE)
        too_large = self.make_record(b"x" * (limit + 1), revision=2)
        assert both.create(make_key(1), largest) is True
        with pytest.raises(ValueError, match=str(limit)):
            both.create(make_key(2), too_large)
        with pytest.raises(ValueError, match=str(limit)):
            both.replace(make_key(1), too_large)
        self.assert_same(both.load(make_key(1)), largest)
        self.assert_absent(both, make_key(2))

    @pytest.mark.parametrize("key", [b"", b"k", b"k" * 31, b"k" * 33], ids=len)
    def test_a_key_of_the_wrong_length_is_refused(self, both: Store, key: bytes) -> None:
        for call in (
            lambda: both.load(key),
            lambda: both.create(key, self.make_record()),
            lambda: both.replace(key, self.make_record()),
            lambda: both.touch(key, time.time() + LONG),
            lambda: both.delete(key),
        ):
            with pytest.raises(ValueError, match="32"):
                call()
        assert list(both.scan()) == []

    @pytest.mark.parametrize(
        ("field", "value", "named"),
        [
            ("revision", -1, "revision"),
            ("revision", 2**63, "revision"),
            ("owner", b"short", "owner"),
            ("owner", b"o" * 17, "owner"),
            ("expires", float("inf"), "expiry"),
            ("expires", float("nan"), "expiry"),
        ],
    )
    def test_a_wrong_record_is_refused(
        self, both: Store, field: str, value: Any, named: str
    ) -> None:
        good = self.make_record()
        wrong = good._replace(**{field: value})
        both.create(make_key(1), good)
        with pytest.raises(ValueError, match=named):
            both.create(make_key(2), wrong)
        with pytest.raises(ValueError, match=named):
            both.replace(make_key(1), wrong)
        self.assert_absent(both, make_key(2))
        self.assert_same(both.load(make_key(1)), good)

    @pytest.mark.parametrize("expires", [float("inf"), float("nan")])
    def test_a_touch_to_no_time_is_refused(self, both: Store, expires: float) -> None:
        record = self.make_record()
        both.create(make_key(1), record)
        with pytest.raises(ValueError, match="expiry"):
            both.touch(make_key(1), expires)
        self.assert_same(both.load(make_key(1)), record)

    def test_what_was_loaded_stays_as_it_is(self, both: Store) -> None:
        # Some engines lend a view of their own memory.
        record = self.make_record(b"first" * 100)
        both.create(make_key(1), record)
        loaded = both.load(make_key(1))
        scanned = dict(both.scan())[make_key(1)]
        both.replace(make_key(1), self.make_record(b"other" * 100, revision=2))
        both.delete(make_key(1))
        both.close()
        self.assert_same(loaded, record)
        self.assert_same(scanned, record)
