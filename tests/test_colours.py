"""A coroutine that is given its colour behaves as any other, and gives the same in both."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from django_kvsessions.colours import Colour, awaiting, blocking, run

pytestmark = pytest.mark.same

T = TypeVar("T")


class Shelf:
    """Something that is asked in both colours, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def take(self, name: str, *, times: int = 1) -> str:
        self.asked.append(name)
        if name == "gone":
            raise LookupError(name)
        return name * times

    async def atake(self, name: str, *, times: int = 1) -> str:
        await asyncio.sleep(0)
        return self.take(name, times=times)


def pause(seconds: float) -> None:
    time.sleep(seconds)


async def apause(seconds: float) -> None:
    await asyncio.sleep(seconds)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


async def take_two(call: Colour, shelf: Shelf, first: str, second: str) -> str:
    try:
        return await call(shelf.take, shelf.atake, first) + await call(
            shelf.take, shelf.atake, second, times=2
        )
    finally:
        shelf.asked.append("finally")


@pytest.fixture(params=["sync", "async"])
def carry_out(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Run ``take_two`` in one colour, then in the other."""
    if request.param == "sync":
        return lambda *args: run(take_two(blocking, *args))
    return lambda *args: asyncio.run(take_two(awaiting, *args))


def test_both_colours_give_the_same(carry_out: Callable[..., str], shelf: Shelf) -> None:
    assert carry_out(shelf, "a", "b") == "abb"
    assert shelf.asked == ["a", "b", "finally"]


def test_an_exception_comes_out_as_of_any_coroutine(
    carry_out: Callable[..., str], shelf: Shelf
) -> None:
    with pytest.raises(LookupError, match="gone") as raised:
        carry_out(shelf, "a", "gone")
    assert shelf.asked == ["a", "gone", "finally"]
    # The place where it was asked is in the traceback, for whoever reads the log.
    assert "take_two" in [entry.name for entry in raised.traceback]


async def fall_back(call: Colour, shelf: Shelf) -> tuple[str, str]:
    try:
        return await call(shelf.take, shelf.atake, "gone"), "nothing"
    except LookupError:
        try:
            await call(shelf.take, shelf.atake, "gone")
        except LookupError as second:
            chained = type(second.__context__).__name__
            return await call(shelf.take, shelf.atake, "there"), chained
    raise AssertionError


def test_an_exception_is_caught_where_it_was_asked_and_chained(shelf: Shelf) -> None:
    assert run(fall_back(blocking, shelf)) == ("there", "LookupError")
    assert asyncio.run(fall_back(awaiting, shelf)) == ("there", "LookupError")
    assert shelf.asked == ["gone", "gone", "there"] * 2


async def within_a_context(call: Colour, shelf: Shelf, name: str) -> str:
    @asynccontextmanager
    async def noted() -> AsyncIterator[None]:
        shelf.asked.append("enter")
        try:
            yield
        finally:
            shelf.asked.append("exit")

    async with noted():
        return await call(shelf.take, shelf.atake, name)


@pytest.mark.parametrize("name", ["there", "gone"])
def test_contexts_are_left_in_both_colours(shelf: Shelf, name: str) -> None:
    for start in (
        lambda: run(within_a_context(blocking, shelf, name)),
        lambda: asyncio.run(within_a_context(awaiting, shelf, name)),
    ):
        shelf.asked.clear()
        try:
            assert start() == "there"
        except LookupError:
            assert name == "gone"
        assert shelf.asked == ["enter", name, "exit"]


def test_a_cancelled_task_stops_where_it_waits_and_runs_its_finally(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    async def never(name: str, *, times: int = 1) -> str:
        shelf.asked.append(name)
        waiting.set()
        await asyncio.sleep(60)
        return name

    monkeypatch.setattr(shelf, "atake", never)

    async def main() -> None:
        task = asyncio.create_task(take_two(awaiting, shelf, "a", "b"))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    assert shelf.asked == ["a", "finally"]


def test_a_cancelled_task_lets_go_of_its_lock(shelf: Shelf) -> None:
    async def locked(call: Colour, lock: asyncio.Lock, started: asyncio.Event) -> None:
        async with lock:
            started.set()
            await call(pause, apause, 60)

    async def main() -> bool:
        lock, started = asyncio.Lock(), asyncio.Event()
        task = asyncio.create_task(locked(awaiting, lock, started))
        await started.wait()
        assert lock.locked()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return lock.locked()

    assert asyncio.run(main()) is False


def test_a_timeout_comes_out_in_the_middle(shelf: Shelf) -> None:
    async def slowly(call: Colour) -> None:
        try:
            await call(pause, apause, 60)
        finally:
            shelf.asked.append("finally")

    async def main() -> None:
        await asyncio.wait_for(slowly(awaiting), 0.01)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())
    assert shelf.asked == ["finally"]


def test_blocking_stays_in_its_thread_and_needs_no_event_loop(shelf: Shelf) -> None:
    async def where(call: Colour) -> int:
        async def unused() -> int:
            raise AssertionError

        return await call(threading.get_ident, unused)

    assert run(where(blocking)) == threading.get_ident()

    async def within_a_loop() -> int:
        # As sync code is called by async code: from inside a running loop.
        return run(where(blocking))

    assert asyncio.run(within_a_loop()) == threading.get_ident()


def test_run_refuses_a_coroutine_that_is_suspended(shelf: Shelf) -> None:
    async def muddled(call: Colour) -> str:
        try:
            await asyncio.sleep(0)
            return await call(shelf.take, shelf.atake, "a")
        finally:
            shelf.asked.append("finally")

    coroutine = muddled(blocking)
    with pytest.raises(RuntimeError, match="muddled.*awaits something without its colour"):
        run(coroutine)
    # It ends there, not when it is collected: nothing was asked, what had begun was undone.
    assert shelf.asked == ["finally"]


def test_run_refuses_the_colour_of_the_loop(shelf: Shelf) -> None:
    with pytest.raises(RuntimeError, match="suspended"):
        run(take_two(awaiting, shelf, "a", "b"))
    assert shelf.asked == ["finally"]
