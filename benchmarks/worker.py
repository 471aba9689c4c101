"""One process under the settings of one contender, told on its stdin what to measure.

``python -m benchmarks.worker NAME``: each line in and out is JSON.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import random
import re
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks import filling, site
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.sample import session_data, session_key

WARM_UP = 10  # one untimed call for so many timed ones
LONGEST_BATCH = 0.1  # seconds; fsyncs on a slow disk would take all of the run otherwise


class Worker:
    """What one process can be asked to do; every public method is a command."""

    def __init__(self, contender: Contender) -> None:
        from django.conf import settings

        site.configure()
        self._contender = contender
        self._session: Any = import_module(settings.SESSION_ENGINE).SessionStore
        self._random = random.Random()
        self._size = 0
        self._fresh = 10**12  # numbers of sessions that come and go
        self._cookies: list[str] = []
        self._handler: Any = None
        self._clock = time.perf_counter_ns
        self._loop = asyncio.new_event_loop()

    # What is stored.

    def fill(self, count: int, expired: int = 0) -> None:
        """Store the sessions 0 to count - 1, and as many more that have expired."""
        filling.put(self._contender, self._session, range(count))
        if expired:
            self.fill_expired(expired)

    def use(self, count: int) -> None:
        """Measure on the sessions 0 to count - 1, which are there."""
        self._size = count
        if self._contender.stateless:
            # The key is the data: nothing to look up among others.
            numbers = range(min(count, 2000))
            self._cookies = [self._saved(session_data(number)) for number in numbers]
        if self._contender.in_process:
            filling.put_in_process(self._contender, self._session, range(count))
        gc.freeze()

    def fill_expired(self, count: int) -> None:
        """As many sessions more, last saved a hundred days ago."""
        numbers = range(self._fresh, self._fresh + count)
        self._fresh += count
        filling.put_expired(self._contender, self._session, numbers)

    def stored(self) -> int:
        """How many sessions there are, expired ones included."""
        return filling.stored(self._contender, self._session)

    def use_processor_time(self) -> None:
        """Time batches by what this thread computes, whatever else the machine does."""
        self._clock = time.thread_time_ns

    def package(self) -> str:
        """The folder that django_kvsessions was imported from."""
        import django_kvsessions

        return str(Path(django_kvsessions.__file__).parent)

    def _saved(self, data: dict[str, Any]) -> str:
        session = self._session()
        session.update(data)
        session.save()
        return str(session.session_key)

    # Timed batches.

    def batch(self, operation: str, count: int) -> float:
        """Microseconds for one operation, the mean of ``count`` in a row, fewer if slow."""
        timed: Callable[[list[str]], int] = getattr(self, f"_{operation}")
        warm = max(1, count // WARM_UP)
        keys = self._keys(count + warm)
        expected = timed(keys[:warm]) / warm / 1e9
        count = max(warm, min(count, int(LONGEST_BATCH / expected)))
        gc.collect()
        gc.disable()
        try:
            return timed(keys[warm : warm + count]) / count / 1000
        finally:
            gc.enable()

    def _keys(self, count: int) -> list[str]:
        """Different ones in random order."""
        if self._contender.stateless:
            return self._random.sample(self._cookies, count)
        return [session_key(number) for number in self._random.sample(range(self._size), count)]

    def _load(self, keys: list[str]) -> int:
        session = self._session
        start = self._clock()
        loaded = [session(key).load() for key in keys]
        spent = self._clock() - start
        if not all("cart" in data for data in loaded):
            raise RuntimeError("A session that was stored was not found.")
        return spent

    def _save(self, keys: list[str]) -> int:
        """The save alone, of sessions loaded and changed before."""
        sessions = self._changed(keys)
        start = self._clock()
        for session in sessions:
            session.save()
        return self._clock() - start

    def _aload(self, keys: list[str]) -> int:
        return self._awaited("aload", [self._session(key) for key in keys])

    def _asave(self, keys: list[str]) -> int:
        return self._awaited("asave", self._changed(keys))

    def _awaited(self, method: str, sessions: list[Any]) -> int:
        async def each() -> int:
            start = self._clock()
            for session in sessions:
                await getattr(session, method)()
            return self._clock() - start

        return self._loop.run_until_complete(each())

    def _changed(self, keys: list[str]) -> list[Any]:
        sessions = [self._session(key) for key in keys]
        for session in sessions:
            session["visits"] += 1
        return sessions

    def _create(self, keys: list[str]) -> int:
        """The save of new sessions that have data, with the drawing of their ids."""
        sessions = [self._session() for _ in keys]
        for session in sessions:
            self._fresh += 1
            session.update(session_data(self._fresh))
        start = self._clock()
        for session in sessions:
            session.save()
        spent = self._clock() - start
        for session in sessions:
            session.delete()
        return spent

    def _delete(self, keys: list[str]) -> int:
        created = [self._saved(session_data(number)) for number in range(len(keys))]
        self._random.shuffle(created)
        session = self._session
        start = self._clock()
        for key in created:
            session(key).delete()
        return self._clock() - start

    def _plain(self, keys: list[str]) -> int:
        return self._request("/plain", keys)

    def _read(self, keys: list[str]) -> int:
        return self._request("/read", keys)

    def _write(self, keys: list[str]) -> int:
        return self._request("/write", keys)

    def _request(self, path: str, keys: list[str]) -> int:
        """Whole requests through the WSGI handler."""
        from django.core.handlers.wsgi import WSGIHandler

        handler = self._handler = self._handler or WSGIHandler()
        statuses: list[str] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
            statuses.append(status)

        environs = [environ(path, key) for key in keys]
        start = self._clock()
        for one in environs:
            response = handler(one, start_response)
            b"".join(response)
            response.close()
        spent = self._clock() - start
        if set(statuses) != {"200 OK"}:
            raise RuntimeError(f"{path} answered {set(statuses)}.")
        return spent

    # The rest.

    def clear(self) -> float:
        """Seconds that clear_expired() takes."""
        # The first call opens what the process has not used yet.
        self._session().exists(session_key(0))
        start = time.perf_counter()
        self._session.clear_expired()
        return time.perf_counter() - start

    def open(self, count: int) -> dict[str, float]:
        """The first load of a fresh process, and the private memory it then holds."""
        if self._contender.is_ours:
            # Importing the driver is not opening, and takes memory at any size.
            _ = self._session().store
        before = private_bytes()
        start = time.perf_counter()
        self._session(session_key(0)).load()
        seconds = time.perf_counter() - start
        if self._contender.in_process:
            filling.put_in_process(self._contender, self._session, range(count))
        for number in self._random.choices(range(max(1, count)), k=200):
            self._session(session_key(number)).load()
        gc.collect()
        return {"seconds": seconds, "bytes": private_bytes() - before}

    def mix(self, seconds: float, count: int) -> int:
        """Operations in that time: every session is loaded, changed and saved."""
        keys = [session_key(number) for number in range(count)]
        self._random.shuffle(keys)
        deadline = time.perf_counter() + seconds
        for operations, key in enumerate(cycle(keys)):
            if time.perf_counter() >= deadline:
                return 2 * operations
            self._changed([key])[0].save()
        raise AssertionError("unreachable")

    def save_waits(self, until: str, count: int) -> dict[str, float]:
        """Milliseconds of the saves made until that file appears."""
        waits = []
        # Python would look through all that was imported, once, in the middle of a save.
        gc.collect()
        gc.freeze()
        while not os.path.exists(until):
            (session,) = self._changed([session_key(self._random.randrange(count))])
            start = time.perf_counter()
            session.save()
            waits.append((time.perf_counter() - start) * 1000)
        waits.sort()
        return {
            "count": len(waits),
            "median": waits[len(waits) // 2],
            "p999": waits[len(waits) * 999 // 1000],
            "longest": waits[-1],
        }

    def compact(self) -> None:
        self._session().store.compact()


def environ(path: str, key: str) -> dict[str, Any]:
    from wsgiref.util import setup_testing_defaults

    made: dict[str, Any] = {"PATH_INFO": path, "HTTP_COOKIE": f"sessionid={key}"}
    setup_testing_defaults(made)
    return made | {"wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr}


def private_bytes() -> int:
    """Memory that this process alone needs (Linux); pages of mapped files are the system's."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"^Private_Dirty: *(\d+)", rollup, re.MULTILINE)))


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr
    worker = Worker(CONTENDERS[sys.argv[1]])
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"result": getattr(worker, command.pop("do"))(**command)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
