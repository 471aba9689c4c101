"""A user's sessions, while requests of them go on: what the tests of owners do on each store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from django.contrib.sessions.backends.base import UpdateError

from django_kvsessions.colours import Colour, awaiting, blocking, run
from django_kvsessions.engine import SessionStore
from django_kvsessions.owners import aend_sessions, asessions_of, end_sessions, sessions_of

__all__ = ["CHROME", "assert_none_comes_back", "logged_in"]

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/130.0.0.0 Safari/537.36"
)


def logged_in(user_id: str, **data: Any) -> SessionStore:
    session = SessionStore()
    session["_auth_user_id"] = user_id
    session.update(data)
    session.record_visitor({"HTTP_USER_AGENT": CHROME, "REMOTE_ADDR": "192.0.2.77"})
    session.save()
    return session


#: What a request does with a session that it has loaded.
REQUESTS: list[Callable[[Colour, SessionStore], Coroutine[Any, Any, object]]] = []


def request(
    function: Callable[[Colour, SessionStore], Coroutine[Any, Any, object]],
) -> Callable[[Colour, SessionStore], Coroutine[Any, Any, object]]:
    REQUESTS.append(function)
    return function


@request
async def change(call: Colour, session: SessionStore) -> None:
    session["n"] = session.get("n", 0) + 1
    await call(session.save, session.asave)


@request
async def touch(call: Colour, session: SessionStore) -> None:
    await call(session.touch, session.atouch)


@request
async def mutate(call: Colour, session: SessionStore) -> None:
    await call(session.mutate, session.amutate, add_one)


@request
async def cycle(call: Colour, session: SessionStore) -> None:
    await call(session.cycle_key, session.acycle_key)


def add_one(data: dict[str, Any]) -> None:
    data["m"] = data.get("m", 0) + 1


async def keep_asking(
    call: Colour, key: str, action: Any, stop: threading.Event, ready: Callable[[], object]
) -> None:
    """One request after the other, until one of them is told that the session was ended."""
    asked = 0
    with suppress(UpdateError):
        while not stop.is_set():
            session = SessionStore(key)
            if await call(session.get, session.aget, "_auth_user_id") is None:
                break
            await action(call, session)
            key = session.session_key or key
            asked += 1
            if asked == 1:
                ready()
            if call is awaiting:
                await asyncio.sleep(0)
    if not asked:
        ready()


def assert_none_comes_back(*, asynchronous: bool, within: Callable[..., Any] | None = None) -> None:
    """End the sessions of a user while eight of their requests go on, and those of another's."""
    theirs = [logged_in("7") for _ in REQUESTS]
    others = [logged_in("8") for _ in REQUESTS]
    pairs = list(zip(theirs, REQUESTS, strict=True)) + list(zip(others, REQUESTS, strict=True))
    known = {session.public_id for session in others}
    stop = threading.Event()
    ended, left, strangers = [], [], []

    if asynchronous:

        async def everything() -> None:
            begun = asyncio.Semaphore(0)
            tasks = [
                asyncio.create_task(
                    keep_asking(awaiting, str(session.session_key), action, stop, begun.release)
                )
                for session, action in pairs
            ]
            for _ in pairs:
                await begun.acquire()
            ended.append(await aend_sessions("7"))
            left.append(await asessions_of("7"))
            stop.set()
            await asyncio.gather(*tasks)
            left.append(await asessions_of("7"))
            strangers.extend(await asessions_of("8"))

        asyncio.run(everything())
    else:
        begun = threading.Semaphore(0)

        def ask(pair: Any) -> None:
            session, action = pair
            coroutine = keep_asking(blocking, str(session.session_key), action, stop, begun.release)
            within(lambda: run(coroutine)) if within else run(coroutine)

        with ThreadPoolExecutor(len(pairs)) as threads:
            done = [threads.submit(ask, pair) for pair in pairs]
            try:
                for _ in pairs:
                    assert begun.acquire(timeout=60)
                ended.append(end_sessions("7"))
                left.append(sessions_of("7"))
            finally:
                stop.set()
            for future in done:
                future.result(60)
        left.append(sessions_of("7"))
        strangers.extend(sessions_of("8"))
    # One under a new id whose cookie was not sent yet may be there until its request hears of it.
    assert len(left[0]) <= 1
    assert left[1] == []
    # That which gets new ids is at times in no place, and at times in two.
    assert abs(ended[0] - len(theirs)) <= 1
    # Those of the other user are all there, but for the ids of those that were moved.
    assert len(strangers) == len(others)
    assert len(known & {session.public_id for session in strangers}) == len(others) - 1
    assert not {session.public_id for session in theirs} & {s.public_id for s in strangers}
