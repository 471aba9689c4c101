"""Answers and requests that get lost on their way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from django_kvsessions.stores.base import Record, Store, StoreUnavailable
from django_kvsessions.testing.cuts import Cut
from django_kvsessions.testing.histories import UNKNOWN, Call, Step, ask, is_possible
from django_kvsessions.testing.kit import Kit, requires
from django_kvsessions.testing.proxy import Proxy
from django_kvsessions.testing.records import ALICE, BOB, LONG, MakeStore, make_key, opened
from django_kvsessions.testing.workers import wait_until

__all__ = ["CutAnswers", "Cutting"]

#: What the fixture ``cutting`` gives.
Cutting = tuple[Callable[[], Store], Proxy]

TOMORROW = time.time() // 1 + 24 * LONG
FIRST = Record(b"first " * 5, TOMORROW, 1, ALICE)
MINE = Record(b"mine " * 5, TOMORROW + LONG, 2, ALICE)
THEIRS = Record(b"theirs " * 5, TOMORROW + 2 * LONG, 3, BOB)


class Operation(NamedTuple):
    """A call on one key, and what is there before."""

    before: Record | None
    call: Callable[[bytes, Store], object]


CHANGES = {
    "create": Operation(None, lambda key, store: store.create(key, MINE)),
    "replace": Operation(FIRST, lambda key, store: store.replace(key, MINE)),
    "replace, expected": Operation(
        FIRST, lambda key, store: store.replace(key, MINE, expected=FIRST.revision)
    ),
    "touch": Operation(FIRST, lambda key, store: store.touch(key, MINE.expires)),
    "touch, expected": Operation(
        FIRST, lambda key, store: store.touch(key, MINE.expires, expected=FIRST.revision)
    ),
    "delete": Operation(FIRST, lambda key, store: store.delete(key)),
}
OPERATIONS = {
    **CHANGES,
    "load": Operation(FIRST, lambda key, store: store.load(key)),
    "load, absent": Operation(None, lambda key, store: store.load(key)),
    "create, taken": CHANGES["create"]._replace(before=FIRST),
    "replace, absent": CHANGES["replace"]._replace(before=None),
    "replace, moved on": CHANGES["replace, expected"]._replace(before=THEIRS),
    "touch, absent": CHANGES["touch"]._replace(before=None),
    "touch, moved on": CHANGES["touch, expected"]._replace(before=THEIRS),
    "delete, absent": CHANGES["delete"]._replace(before=None),
}
#: What somebody else does while an answer is on its way: each looks first.
OTHERS: dict[str, Callable[[bytes, Store], object]] = {
    "loads": lambda key, store: store.load(key),
    "creates": lambda key, store: [store.load(key), store.create(key, THEIRS)],
    "replaces": lambda key, store: [store.load(key), store.replace(key, THEIRS)],
    "touches": lambda key, store: [store.load(key), store.touch(key, THEIRS.expires)],
    "deletes": lambda key, store: [store.load(key), store.delete(key)],
    "puts theirs in its place": lambda key, store: [
        store.load(key),
        store.delete(key),
        store.create(key, THEIRS),
    ],
}


class CutAnswers(Kit):
    """An unknown outcome is never a definite answer, and nothing is done twice.

    Each call gives the right answer or raises ``StoreUnavailable``. The answer,
    what somebody else saw meanwhile and what the store holds afterwards must fit
    one order of the calls, each carried out once; only what was not answered may
    not have been carried out at all.
    """

    @pytest.fixture(params=["sync", "async"])
    def through(
        self, request: pytest.FixtureRequest, cutting: Cutting, store: Store
    ) -> Iterator[Store]:
        """The store through the proxy, in both colours; ``store`` goes around it."""
        with opened(cutting[0]) as through, self.in_colour(through, request.param) as coloured:
            yield coloured

    @pytest.fixture
    def somebody(self, store: Store, make_store: MakeStore) -> Iterator[ThreadPoolExecutor]:
        """A thread for what is done in the middle of a cut: drivers may keep one for each."""
        with ThreadPoolExecutor(1) as executor:
            yield executor
            executor.submit(store.close).result(self.patience)

    @requires(cutting=True)
    @pytest.mark.parametrize("name", OPERATIONS)
    def test_a_lost_answer_is_no_wrong_one(
        self, cutting: Cutting, through: Store, store: Store, name: str
    ) -> None:
        self.assert_all_possible(cutting[1], through, store, name, self.cut_points)

    @requires(cutting=True)
    @pytest.mark.parametrize("name", CHANGES)
    @pytest.mark.parametrize("other", OTHERS)
    def test_nothing_is_done_again_over_what_somebody_else_did(
        self,
        cutting: Cutting,
        through: Store,
        store: Store,
        somebody: ThreadPoolExecutor,
        name: str,
        other: str,
    ) -> None:
        def meanwhile(call: Call) -> Step:
            return somebody.submit(ask, store, call).result(self.patience)

        self.assert_all_possible(cutting[1], through, store, name, 2, meanwhile, other)

    @requires(cutting=True)
    @pytest.mark.parametrize("name", ["scan", "scan_owner"])
    def test_a_scan_whose_answer_is_lost_leaves_nothing_out(
        self, cutting: Cutting, through: Store, store: Store, name: str
    ) -> None:
        there = {make_key(number): FIRST for number in range(self.expired_records)}
        for key, record in there.items():
            assert store.create(key, record)

        def scan(store: Store) -> list[bytes]:
            found = store.scan() if name == "scan" else store.scan_owner(ALICE)
            return sorted(key for key, _ in found)

        wrong = []
        for text, cut in self.cuts(cutting[1], through, scan, self.cut_points):
            with cutting[1].arm(cut):
                _, answer = ask(through, scan)
            if answer not in (UNKNOWN, sorted(there)):
                wrong.append(f"{text}: found {answer}")
        assert not wrong, "\n".join(wrong)
        assert store.stats().live in (len(there), None)

    @requires(cutting=True)
    def test_stats_whose_answer_is_lost_are_right_or_unavailable(
        self, cutting: Cutting, through: Store, store: Store
    ) -> None:
        for number in range(5):
            assert store.create(make_key(number), FIRST)

        def count(store: Store) -> object:
            return store.stats()._replace(size=None, hits=None, misses=None)

        right = count(store)
        wrong = []
        for text, cut in self.cuts(cutting[1], through, count, self.cut_points):
            with cutting[1].arm(cut):
                _, answer = ask(through, count)
            if answer not in (UNKNOWN, right):
                wrong.append(f"{text}: {answer}, not {right}")
        assert not wrong, "\n".join(wrong)

    @requires(cutting=True)
    def test_a_clean_up_whose_answer_is_lost_counts_right_or_is_unavailable(
        self, cutting: Cutting, through: Store, store: Store
    ) -> None:
        alive = make_key("alive")
        assert store.create(alive, FIRST)
        past = FIRST._replace(expires=time.time() - 10)

        def clean_up(store: Store) -> list[int]:
            return list(store.delete_expired(batch_size=2))

        def fill() -> None:
            for number in range(5):
                assert store.create(make_key(number), past)

        wrong = []
        for text, cut in self.cuts(cutting[1], through, clean_up, self.cut_points, fill):
            removed: list[int] = []
            try:
                with cutting[1].arm(cut):
                    # Has what came before an exception too.
                    removed.extend(through.delete_expired(batch_size=2))
                finished = True
            except StoreUnavailable:
                finished = False
            left = sum(store.delete_expired())
            if sum(removed) + left > 5 or (
                finished and not self.removes_expired_itself and (sum(removed), left) != (5, 0)
            ):
                wrong.append(f"{text}: removed {removed} of 5, {finished=}, {left} were left")
        assert not wrong, "\n".join(wrong)
        self.assert_same(store.load(alive), FIRST)

    def assert_all_possible(
        self,
        proxy: Proxy,
        through: Store,
        store: Store,
        name: str,
        points: int,
        meanwhile: Callable[[Call], Step] | None = None,
        other: str = "",
    ) -> None:
        operation = OPERATIONS[name]
        keys = [make_key((name, other, number)) for number in range(2 * points + 20)]
        key = b""

        def prepare() -> None:
            nonlocal key
            key = keys.pop()
            if operation.before is not None:
                assert store.create(key, operation.before)

        def mine(store: Store) -> object:
            return operation.call(key, store)

        def theirs(store: Store) -> object:
            return OTHERS[other](key, store)

        def look(store: Store) -> Record | None:
            return store.load(key)

        others: list[Step] = []
        wrong = []
        for text, cut in self.cuts(proxy, through, mine, points, prepare):
            if meanwhile is not None:
                cut.then = lambda: others.append(meanwhile(theirs))
            with proxy.arm(cut):
                asked = ask(through, mine)
            others.append(ask(store, look))
            before = {} if operation.before is None else {key: operation.before}
            if not is_possible(before, asked, others, self.expiry_resolution):
                saw = ", then ".join(repr(step.answer) for step in others)
                wrong.append(f"{text}: answered {asked.answer!r}, others were answered {saw}")
            others.clear()
        assert not wrong, "\n".join(wrong)

    def cuts(
        self,
        proxy: Proxy,
        through: Store,
        call: Call,
        points: int,
        prepare: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[str, Cut]]:
        """Ways to cut what is asked and answered in a call, which is to be made with each."""

        def reconnect() -> None:
            # By the same call, so that whatever it needs is there again.
            prepare()
            wait_until(lambda: ask(through, call).answer is not UNKNOWN, self.patience)
            prepare()

        reconnect()
        with proxy.measure() as whole:
            call(through)
        assert proxy.connections, "the store does not go through the proxy"
        cuts = proxy.cuts
        for text, cut in ways(whole, points):
            reconnect()
            yield text, cut
        # Some answers may be shorter by some bytes than the one before.
        if whole.answered:
            assert proxy.cuts - cuts >= points * 3 // 4, "the answers could not be cut"


def ways(whole: Cut, points: int) -> Iterator[tuple[str, Cut]]:
    for point in range(points):
        after = whole.answered * point // points
        # Some drivers take an end for an answer, some a reset for a reason to ask again.
        reset = point % 2 == 1
        what = "reset" if reset else "ended"
        text = f"{what} after {after} of {whole.answered} bytes of the answer"
        yield text, Cut(answer=after, reset=reset)
    yield "reset before the request", Cut(request=0)
    # What takes several requests must not end between two of them.
    for part in range(1, 5):
        after = whole.requested * part // 5
        text = f"reset after {after} of {whole.requested} bytes of the request"
        yield text, Cut(request=after)
    yield "reset after the request", Cut(answer=0)
