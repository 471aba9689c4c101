"""One process under the settings of one contender, told on its stdin what to measure.

``python -m benchmarks.worker NAME FOLDER``: each line in and out is JSON.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.engines import CONTENDERS, Contender, django_settings
from benchmarks.sample import session_data, session_key

LONG_AGO = timedelta(days=100)
WARM_UP = 10  # one untimed call for so many timed ones
LONGEST_BATCH = 0.1  # seconds; fsyncs on a slow disk would take all of the run otherwise


class Worker:
    """What one process can be asked to do; every public method is a command."""

    def __init__(self, contender: Contender, folder: Path) -> None:
        import django
        from django.conf import settings

        folder.mkdir(parents=True, exist_ok=True)
        settings.configure(**django_settings(contender, folder))
        django.setup()
        self._contender = contender
        self._folder = folder
        self._engine = import_module(settings.SESSION_ENGINE)
        self._session: Any = self._engine.SessionStore
        self._random = random.Random()
        self._size = 0
        self._fresh = 10**12  # numbers of sessions that come and go
        self._cookies: list[str] = []
        self._handler: Any = None

    # What is stored.

    def fill(self, count: int) -> None:
        """Store the sessions 0 to count - 1."""
        self._put(range(count))

    def use(self, count: int) -> None:
        """Measure on the sessions 0 to count - 1, which are there."""
        self._size = count
        if self._contender.stateless:
            # The key is the data: nothing to look up among others.
            numbers = range(min(count, 2000))
            self._cookies = [self._saved(session_data(number)) for number in numbers]
        if self._contender.in_process:
            self._put_in_process(range(count))
        gc.freeze()

    def fill_expired(self, count: int) -> None:
        """As many sessions more, last saved a hundred days ago."""
        numbers = range(self._fresh, self._fresh + count)
        self._fresh += count
        with long_ago():
            self._put(numbers)
        if self._contender.name == "file":
            stamp = time.time() - LONG_AGO.total_seconds()
            for number in numbers:
                os.utime(self._session(session_key(number))._key_to_file(), (stamp, stamp))

    def _put(self, numbers: Sequence[int]) -> None:
        if self._contender.rows:
            self._put_rows(numbers)
        else:
            for number in numbers:
                self._new(number).save(must_create=True)

    def _put_rows(self, numbers: Sequence[int]) -> None:
        """The rows that save() would write, many in one transaction."""
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        for first in range(0, len(numbers), 1000):
            sessions = [self._new(number) for number in numbers[first : first + 1000]]
            rows = [session.create_model_instance(session._session_cache) for session in sessions]
            sessions[0].model.objects.bulk_create(rows, batch_size=300)

    def _put_in_process(self, numbers: Sequence[int]) -> None:
        """What save() would leave in a cache that each process has for itself."""
        if self._contender.rows:
            for number in numbers:
                session = self._new(number)
                age = session.get_expiry_age()
                session._cache.set(session.cache_key, session._session_cache, age)
        else:
            self._put(numbers)

    def _new(self, number: int) -> Any:
        session = self._session(session_key(number))
        # Assigned, because update() would look the session up first.
        session._session_cache = session_data(number)
        return session

    def _saved(self, data: dict[str, Any]) -> str:
        session = self._session()
        session.update(data)
        session.save()
        return str(session.session_key)

    def stored(self) -> int:
        """How many sessions there are, expired ones included."""
        if self._contender.name == "file":
            return len(os.listdir(self._session._get_storage_path()))
        if hasattr(self._session, "get_model_class"):
            return int(self._session.get_model_class().objects.count())
        stats = self._session().store.stats()
        return int(stats.live + stats.expired)

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
        start = time.perf_counter_ns()
        loaded = [session(key).load() for key in keys]
        spent = time.perf_counter_ns() - start
        if not all("cart" in data for data in loaded):
            raise RuntimeError("A session that was stored was not found.")
        return spent

    def _save(self, keys: list[str]) -> int:
        """The save alone, of sessions loaded and changed before."""
        sessions = [self._session(key) for key in keys]
        for session in sessions:
            session["visits"] += 1
        start = time.perf_counter_ns()
        for session in sessions:
            session.save()
        return time.perf_counter_ns() - start

    def _create(self, keys: list[str]) -> int:
        """The save of new sessions that have data, with the drawing of their ids."""
        sessions = [self._session() for _ in keys]
        for session in sessions:
            self._fresh += 1
            session.update(session_data(self._fresh))
        start = time.perf_counter_ns()
        for session in sessions:
            session.save()
        spent = time.perf_counter_ns() - start
        for session in sessions:
            session.delete()
        return spent

    def _delete(self, keys: list[str]) -> int:
        created = [self._saved(session_data(number)) for number in range(len(keys))]
        self._random.shuffle(created)
        session = self._session
        start = time.perf_counter_ns()
        for key in created:
            session(key).delete()
        return time.perf_counter_ns() - start

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
        start = time.perf_counter_ns()
        for one in environs:
            response = handler(one, start_response)
            b"".join(response)
            response.close()
        spent = time.perf_counter_ns() - start
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
        before = private_bytes()
        start = time.perf_counter()
        self._session(session_key(0)).load()
        seconds = time.perf_counter() - start
        if self._contender.in_process:
            self._put_in_process(range(count))
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
            session = self._session(key)
            session["visits"] += 1
            session.save()
        raise AssertionError("unreachable")

    def save_waits(self, until: str, count: int) -> dict[str, float]:
        """Milliseconds of the saves made until that file appears."""
        waits = []
        # Python would look through all that was imported, once, in the middle of a save.
        gc.collect()
        gc.freeze()
        while not os.path.exists(until):
            session = self._session(session_key(self._random.randrange(count)))
            session["visits"] += 1
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
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "testserver",
        "HTTP_COOKIE": f"sessionid={key}",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.version": (1, 0),
    }


@contextmanager
def long_ago() -> Iterator[None]:
    """What is written meanwhile is written as if it were a hundred days ago."""
    from django.utils import timezone

    clock, now = time.time, timezone.now

    def old_clock() -> float:
        return clock() - LONG_AGO.total_seconds()

    def old_now() -> datetime:
        return now() - LONG_AGO

    with mock.patch("time.time", old_clock), mock.patch.object(timezone, "now", old_now):
        yield


def private_bytes() -> int:
    """Memory of this process that it shares with no other (Linux)."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    lines = (line.split() for line in rollup.splitlines())
    return sum(1024 * int(line[1]) for line in lines if line[0].startswith("Private_"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--package", help="import django_kvsessions from this folder")
    options = parser.parse_args()
    if options.package:
        sys.path.insert(0, options.package)
    answers = sys.stdout
    sys.stdout = sys.stderr
    worker = Worker(CONTENDERS[options.name], options.folder)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"result": getattr(worker, command.pop("do"))(**command)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
