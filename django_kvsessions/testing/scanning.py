"""scan and scan_owner."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import tracemalloc

import pytest

from django_kvsessions.stores.base import OWNER_SIZE, Store
from django_kvsessions.testing.kit import Kit
from django_kvsessions.testing.records import ALICE, BOB, LONG, make_key

__all__ = ["Scanning"]


class Scanning(Kit):
    """scan and scan_owner."""

    def test_scan_finds_every_record_once(self, both: Store) -> None:
        assert list(both.scan()) == []
        records = {
            make_key(number): self.make_record(b"%d" % number, revision=number)
            for number in range(150)
        }
        for key, record in records.items():
            both.create(key, record)
        found = list(both.scan())
        assert len(found) == len(records)
        for key, record in found:
            self.assert_same(record, records[key])

    def test_scan_goes_on_while_others_write(self, both: Store) -> None:
        for number in range(150):
            both.create(make_key(number), self.make_record(b"%d" % number))
        found = []
        for count, (key, record) in enumerate(both.scan()):
            found.append(key)
            assert key == make_key(record.data.decode())
            if count < 20:
                # The first hundred stay, some of them renewed; the others go under the scan.
                both.replace(make_key(count), self.make_record(b"%d" % count, revision=2))
                both.touch(make_key(20 + count), time.time() + 2 * LONG)
                both.delete(make_key(100 + count))
                both.create(make_key(1000 + count), self.make_record(b"%d" % (1000 + count)))
        assert len(found) == len(set(found))
        assert set(found) >= {make_key(number) for number in range(100)}

    def test_scan_may_stop_half_way(self, both: Store) -> None:
        for number in range(20):
            both.create(make_key(number), self.make_record())
        records = both.scan()
        next(records)
        del records
        assert both.create(make_key("new"), self.make_record()) is True
        assert len(list(both.scan())) == 21

    def test_scan_owner_finds_what_is_theirs_now(self, both: Store) -> None:
        for number in range(6):
            both.create(make_key(number), self.make_record(owner=[b"", ALICE, BOB][number % 3]))
        both.replace(make_key(0), self.make_record(b"login", owner=ALICE))
        both.replace(make_key(1), self.make_record(b"logout", owner=b""))
        both.touch(make_key(4), time.time() + 2 * LONG)
        found = dict(both.scan_owner(ALICE))
        assert found.keys() == {make_key(0), make_key(4)}
        self.assert_same(found[make_key(0)], self.make_record(b"login", owner=ALICE))
        assert {key for key, _ in both.scan_owner(BOB)} == {make_key(2), make_key(5)}
        assert list(both.scan_owner(b"nobody".ljust(OWNER_SIZE, b"\x00"))) == []

    def test_scan_owner_goes_on_while_owners_change(self, both: Store) -> None:
        for number in range(150):
            both.create(make_key(number), self.make_record(owner=ALICE))
        for count, (_, record) in enumerate(both.scan_owner(ALICE)):
            assert record.owner == ALICE
            if count == 0:
                for number in range(150):
                    both.replace(make_key(number), self.make_record(owner=BOB))
        assert len(list(both.scan_owner(BOB))) == 150

    @pytest.mark.parametrize("owner", [b"", b"short", b"o" * 17], ids=len)
    def test_scan_owner_refuses_what_is_no_owner(self, both: Store, owner: bytes) -> None:
        both.create(make_key(1), self.make_record())
        with pytest.raises(ValueError, match="owner"):
            list(both.scan_owner(owner))

    def test_scan_runs_in_bounded_memory(self, store: Store) -> None:
        total = self.scan_records * self.scan_record_size
        for number in range(self.scan_records):
            store.create(make_key(number), self.make_record(os.urandom(self.scan_record_size)))

        async def ascan() -> int:
            count = 0
            async for _, record in store.ascan():
                count += len(record.data) == self.scan_record_size
            await store.aclose()
            return count

        def scan() -> int:
            return sum(len(record.data) == self.scan_record_size for _, record in store.scan())

        # Lest what earlier tests left be freed, and warned of, meanwhile.
        gc.collect()
        tracemalloc.start()
        try:
            for count in (scan, lambda: asyncio.run(ascan())):
                before = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
                assert count() == self.scan_records
                used = tracemalloc.get_traced_memory()[1] - before
                assert used < total / 2, f"scanning {total} bytes took {used} bytes of memory"
        finally:
            tracemalloc.stop()
