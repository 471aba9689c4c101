"""A backend that fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from django_kvsessions.stores.base import Store, StoreUnavailable
from django_kvsessions.testing.kit import Kit, requires
from django_kvsessions.testing.records import ALICE, LONG, make_key
from django_kvsessions.testing.workers import wait_until

__all__ = ["Outages"]


class Outages(Kit):
    """A backend that fails says so, and loses nothing that it acknowledged."""

    @requires(outage=True)
    def test_every_method_says_that_the_store_is_unavailable(
        self, both: Store, outage: Callable[[], AbstractContextManager[object]]
    ) -> None:
        records = {make_key(number): self.make_record(b"%d" % number) for number in range(5)}
        for key, record in records.items():
            assert both.create(key, record)
        new = make_key("new")
        with outage():
            for call in (
                lambda: both.load(make_key(1)),
                lambda: both.create(new, self.make_record()),
                lambda: both.replace(make_key(1), self.make_record(b"lost", revision=2)),
                lambda: both.replace(make_key(1), self.make_record(b"lost"), expected=1),
                lambda: both.touch(make_key(1), time.time() + 2 * LONG),
                lambda: both.delete(make_key(1)),
                lambda: list(both.delete_expired()),
                lambda: list(both.scan()),
                lambda: list(both.scan_owner(ALICE)),
                both.stats,
            ):
                with pytest.raises(StoreUnavailable) as raised:
                    call()
                assert raised.value.__cause__ is not None, "the driver's own error is not chained"
        assert dict(both.scan()).keys() == records.keys()
        for key, record in records.items():
            self.assert_same(both.load(key), record)
        assert both.create(new, self.make_record()) is True

    @requires(outage=True)
    def test_an_outage_in_the_middle_of_writing_loses_nothing(
        self, store: Store, outage: Callable[[], AbstractContextManager[object]]
    ) -> None:
        acknowledged: list[int] = []
        failures: list[Exception] = []

        def write() -> None:
            for number in range(1_000_000):
                try:
                    assert store.create(make_key(number), self.make_record(b"%d" % number))
                except Exception as error:
                    failures.append(error)
                    return
                acknowledged.append(number)

        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: len(acknowledged) >= 5 or bool(failures), self.patience)
        with outage():
            writer.join(self.patience)
        assert [type(error) for error in failures] == [StoreUnavailable]
        assert len(acknowledged) >= 5
        for number in acknowledged:
            self.assert_same(store.load(make_key(number)), self.make_record(b"%d" % number))
