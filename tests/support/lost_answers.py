"""A store behind a proxy that loses answers: each outcome is right, or ``StoreUnavailable``."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_kvsessions.stores.base import Record, Store, StoreUnavailable
from django_kvsessions.testing.calls import AsyncCalls
from django_kvsessions.testing.proxy import Proxy

__all__ = ["LostAnswers"]

ALICE = b"a" * 16
UNKNOWN = object()


def new_key() -> bytes:
    return os.urandom(32)


def record(data: bytes = b"data", seconds: float = 600) -> Record:
    # Whole seconds are what every store keeps exactly.
    revision = int.from_bytes(os.urandom(8), "big") >> 1
    return Record(data, time.time() // 1 + seconds, revision, ALICE)


class LostAnswers:
    """Tests for a subclass with the fixtures ``proxy``, ``direct`` (a store that does not go
    through it, set up) and ``behind`` (one on the same data that does)."""

    #: At how many of an answer's bytes it is cut.
    points = 20
    #: Compare-and-swap increments of a counter, with a share of the answers cut.
    increments = 60
    #: Whether a connection may be reset without the store asking again by itself.
    rate = 0.2

    @pytest.fixture(params=["sync", "async"])
    def both(self, request: pytest.FixtureRequest, behind: Store) -> Iterator[Store]:
        if request.param == "sync":
            yield behind
            return
        loop = asyncio.new_event_loop()
        try:
            yield AsyncCalls(behind, loop)
            loop.run_until_complete(behind.aclose())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    def test_whatever_is_lost_no_outcome_is_wrong(
        self, both: Store, direct: Store, proxy: Proxy
    ) -> None:
        old, new = record(b"old"), record(b"new")
        later = old._replace(expires=old.expires + 100)
        stale = random.randrange(2**62)
        # What is asked, and what the record is before, what comes back and what it is then.
        questions: list[tuple[Callable[[bytes], object], Record | None, object, Record | None]] = [
            (both.load, old, old, old),
            (both.load, None, None, None),
            (lambda key: both.create(key, new), None, True, new),
            (lambda key: both.create(key, new), old, False, old),
            (lambda key: both.replace(key, new), old, True, new),
            (lambda key: both.replace(key, new), None, False, None),
            (lambda key: both.replace(key, new, expected=old.revision), old, True, new),
            (lambda key: both.replace(key, new, expected=stale), old, False, old),
            (lambda key: both.touch(key, later.expires), old, True, later),
            (
                lambda key: both.touch(key, later.expires, expected=old.revision),
                old,
                True,
                later,
            ),
            (both.delete, old, True, None),
            (both.delete, None, False, None),
            (lambda key: dict(both.scan()).get(key), old, old, old),
            (lambda key: dict(both.scan_owner(ALICE)).get(key), old, old, old),
        ]
        for number, (ask, before, answer, after) in enumerate(questions):

            def tried(arm: Any, ask: Any = ask, before: Any = before) -> tuple[object, Any, Any]:
                key = new_key()
                if before is not None:
                    assert direct.create(key, before)
                # A connection is there, of which only the question is counted.
                both.load(key)
                with arm as cut:
                    try:
                        outcome = ask(key)
                    except StoreUnavailable:
                        outcome = UNKNOWN
                there = direct.load(key)
                direct.delete(key)
                return outcome, there, cut

            outcome, there, cut = tried(proxy.measure())
            assert (number, outcome, there) == (number, answer, after)
            sizes = {"after": cut.answered}
            arms = [
                proxy.cut_answer(after=sizes["after"] * point // self.points, reset=point % 2 == 0)
                for point in range(self.points)
            ]
            arms += [proxy.cut_request(after=cut.requested * part // 3) for part in range(3)]
            for at, arm in enumerate(arms):
                outcome, there, _ = tried(arm)
                if outcome is UNKNOWN:
                    assert there in (before, after), (number, at)
                else:
                    assert (number, at, outcome, there) == (number, at, answer, after)

    @pytest.mark.parametrize("expecting", [True, False])
    def test_a_write_sent_again_never_takes_the_place_of_anothers(
        self, both: Store, direct: Store, proxy: Proxy, expecting: bool
    ) -> None:
        """The answer is lost, and before anything else another request writes."""
        key, first, mine, theirs = new_key(), record(b"1"), record(b"mine"), record(b"theirs")
        both.create(key, first)
        expected = first.revision if expecting else None
        outcome: object = UNKNOWN
        with proxy.cut_answer(then=lambda: direct.replace(key, theirs)):
            try:
                outcome = both.replace(key, mine, expected=expected)
            except StoreUnavailable:
                outcome = UNKNOWN
        # It was done, but then it was theirs: nothing proves it.
        assert outcome in (UNKNOWN, True)
        assert direct.load(key) == theirs

    def test_a_delete_whose_answer_was_lost_does_not_say_that_there_was_nothing(
        self, both: Store, direct: Store, proxy: Proxy
    ) -> None:
        key = new_key()
        both.create(key, record())
        with proxy.cut_answer():
            try:
                assert both.delete(key) is True
            except StoreUnavailable:
                pass
        with proxy.measure():
            assert both.load(key) is None

    def test_a_delete_sent_again_does_not_end_what_came_after_it(
        self, both: Store, direct: Store, proxy: Proxy
    ) -> None:
        key, theirs = new_key(), record(b"theirs")
        both.create(key, record())
        outcome: object
        with proxy.cut_answer(then=lambda: direct.create(key, theirs)):
            try:
                outcome = both.delete(key)
            except StoreUnavailable:
                outcome = UNKNOWN
        assert outcome in (UNKNOWN, True)
        assert direct.load(key) == theirs

    def test_a_create_sent_again_does_not_bring_back_what_was_ended(
        self, both: Store, direct: Store, proxy: Proxy
    ) -> None:
        key = new_key()
        both.load(key)
        with proxy.cut_answer(then=lambda: direct.delete(key)):
            try:
                assert both.create(key, record()) is True
            except StoreUnavailable:
                pass
        assert direct.load(key) is None

    def test_a_create_that_was_done_and_touched_since_was_done(
        self, both: Store, direct: Store, proxy: Proxy
    ) -> None:
        key, mine = new_key(), record()
        both.load(key)
        with proxy.cut_answer(then=lambda: direct.touch(key, mine.expires + 50)):
            try:
                assert both.create(key, mine) is True
            except StoreUnavailable:
                pass
        assert direct.load(key) == mine._replace(expires=mine.expires + 50)

    def test_a_touch_sent_again_does_not_undo_anothers(
        self, both: Store, direct: Store, proxy: Proxy
    ) -> None:
        key, mine = new_key(), record()
        both.create(key, mine)
        with proxy.cut_answer(then=lambda: direct.touch(key, mine.expires + 50)):
            try:
                assert both.touch(key, mine.expires + 20, expected=mine.revision) is True
            except StoreUnavailable:
                pass
        assert direct.load(key) == mine._replace(expires=mine.expires + 50)

    def test_counting_with_lost_answers_counts_nothing_twice(
        self, behind: Store, direct: Store, proxy: Proxy
    ) -> None:
        key = new_key()
        direct.create(key, record(b"0"))
        counts = {"acknowledged": 0, "unknown": 0}
        wrong: list[object] = []

        def count() -> None:
            for _ in range(self.increments // 3):
                try:
                    loaded = behind.load(key)
                    if loaded is None:
                        wrong.append("logged out")
                        return
                    new = record(b"%d" % (int(loaded.data) + 1))
                    if behind.replace(key, new, expected=loaded.revision):
                        counts["acknowledged"] += 1
                except StoreUnavailable:
                    counts["unknown"] += 1
                except Exception as error:
                    wrong.append(error)
                    raise

        with proxy.cut_at_random(self.rate):
            threads = [threading.Thread(target=count) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
                assert not thread.is_alive()
        assert wrong == []
        loaded = direct.load(key)
        assert loaded is not None
        there = int(loaded.data)
        assert counts["acknowledged"] <= there <= counts["acknowledged"] + counts["unknown"]
        assert counts["acknowledged"] > 0
        assert proxy.cuts > 0
