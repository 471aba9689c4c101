"""backup and scan_backup."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from django_kvsessions.stores.base import Store
from django_kvsessions.testing.kit import Kit, requires
from django_kvsessions.testing.records import ALICE, make_key
from django_kvsessions.testing.workers import wait_until

__all__ = ["Backups"]

#: Records that the writer writes in turns, and before how many of its writes a copy is made.
WRITTEN = 20


def has_more_than(items: list[None], count: int) -> bool:
    return len(items) > count


class Backups(Kit):
    """backup and scan_backup."""

    @requires(makes_backups=True)
    def test_a_copy_holds_what_the_store_held(self, both: Store, tmp_path: Path) -> None:
        record = self.make_record(b"copied", revision=2**62, owner=ALICE)
        both.create(make_key(1), record)
        both.create(make_key(2), record)
        both.delete(make_key(2))
        both.backup(tmp_path / "new" / "copy")
        both.delete(make_key(1))
        copied = dict(both.scan_backup(tmp_path / "new" / "copy"))
        assert copied.keys() == {make_key(1)}
        self.assert_same(copied[make_key(1)], record)
        assert list(both.scan()) == []
        assert os.listdir(tmp_path / "new") == ["copy"]

    @requires(makes_backups=True)
    def test_a_copy_made_under_a_writer_holds_all_that_was_acknowledged_before(
        self, store: Store, tmp_path: Path
    ) -> None:
        with self.writing(store) as written:
            for turn in range(self.backups):
                enough = (turn + 1) * WRITTEN
                wait_until(partial(has_more_than, written, enough), self.patience)
                before = len(written)
                store.backup(tmp_path / f"copy-{turn}")
                copied = dict(store.scan_backup(tmp_path / f"copy-{turn}"))
                for number in range(WRITTEN):
                    last = max(n for n in range(before) if n % WRITTEN == number)
                    assert int(copied[make_key(number)].data) >= last, "a write is missing"

    @contextmanager
    def writing(self, store: Store) -> Iterator[list[None]]:
        """Write to a few records all the time; one item for each write that was acknowledged."""
        written: list[None] = []
        ending = threading.Event()
        errors: list[BaseException] = []

        def write() -> None:
            try:
                while not ending.is_set():
                    number = len(written)
                    key, record = make_key(number % WRITTEN), self.make_record(b"%d" % number)
                    assert store.create(key, record) or store.replace(key, record)
                    written.append(None)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            yield written
        finally:
            ending.set()
            thread.join(self.patience)
        for error in errors:
            raise error

    @requires(makes_backups=True)
    def test_a_copy_is_made_in_no_folder_that_holds_something(
        self, both: Store, tmp_path: Path
    ) -> None:
        both.create(make_key(1), self.make_record())
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").write_text("mine")
        (tmp_path / "a file").write_text("mine")
        for name in ("full", "a file"):
            with pytest.raises(ValueError, match=name):
                both.backup(tmp_path / name)
        assert os.listdir(tmp_path / "full") == ["file"]
        (tmp_path / "empty").mkdir()
        both.backup(tmp_path / "empty")
        assert [key for key, _ in both.scan_backup(tmp_path / "empty")] == [make_key(1)]

    @requires(makes_backups=True)
    def test_a_folder_without_a_copy_is_not_taken_for_an_empty_one(
        self, both: Store, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        for name in ("empty", "missing"):
            with pytest.raises(ValueError, match=name):
                list(both.scan_backup(tmp_path / name))
        assert os.listdir(tmp_path / "empty") == []
        assert not (tmp_path / "missing").exists()

    @requires(makes_backups=False)
    def test_a_store_that_makes_no_copies_says_what_does(
        self, store: Store, tmp_path: Path
    ) -> None:
        with pytest.raises(NotImplementedError, match=re.escape(store.backed_up_by)):
            store.backup(tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
