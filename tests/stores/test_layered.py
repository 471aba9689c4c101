from __future__ import annotations

import asyncio
import logging
import multiprocessing
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import coroutine
from typing import Any

import freezegun
import pytest
from django.conf import LazySettings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_kvsessions.engine import SessionStore
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store, StoreUnavailable
from django_kvsessions.stores.layered import LayeredStore
from django_kvsessions.stores.lmdb import LMDBStore
from django_kvsessions.stores.memory import MemoryStore
from django_kvsessions.testing import MakeStore, StoreConformance

KEY = b"k" * 32
MAX_AGE = 5.0


def record(data: bytes, revision: int = 1, life: float = 3600.0) -> Record:
    return Record(data, time.time() + life, revision, b"o" * 16)


def over_memory(folder: Path) -> LayeredStore:
    return LayeredStore(cache=MemoryStore(), store=LMDBStore(folder, durability="process"))


def over_lmdb(folder: Path) -> LayeredStore:
    return LayeredStore(
        cache=LMDBStore(folder / "cache", durability="process", max_record_size=2 * 1024 * 1024),
        store=LMDBStore(folder / "store", durability="process"),
    )


class TestWithACacheInEachProcess(StoreConformance):
    makes_backups = True
    # Another process sees a change after max_age at the latest, not at once.
    shared_between_processes = False

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return partial(over_memory, tmp_path / "sessions")


class TestWithASharedCache(StoreConformance):
    """Processes that share the cache see each other's changes at once, killed ones too."""

    makes_backups = True

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return partial(over_lmdb, tmp_path / "sessions")


# The windows one by one: something happens in the middle of a call.


class Interrupted(MemoryStore):
    """Lets something happen right after the next call of a method."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.interruptions: dict[str, Callable[[], Any]] = {}

    def after(self, method: str, interruption: Callable[[], Any]) -> None:
        self.interruptions[method] = interruption

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name not in ("load", "create", "replace", "touch", "delete"):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            result = attribute(*args, **kwargs)
            self.interruptions.pop(name, lambda: None)()
            return result

        return call


@pytest.fixture
def cache() -> Interrupted:
    return Interrupted()


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


@pytest.fixture
def layered(cache: Interrupted, store: Interrupted) -> LayeredStore:
    return LayeredStore(cache=cache, store=store, max_age=MAX_AGE)


class TestWindows:
    def test_what_is_young_enough_comes_from_the_cache(
        self, layered: LayeredStore, store: Interrupted
    ) -> None:
        with freezegun.freeze_time() as clock:
            written = record(b"data")
            layered.create(KEY, written)
            store.calls.clear()
            clock.tick(MAX_AGE - 0.001)
            assert layered.load(KEY) == written
            assert store.calls == []
            clock.tick(0.001)
            assert layered.load(KEY) == written
            assert layered.load(KEY) == written
            assert store.calls == ["load"]

    def test_a_copy_is_as_old_as_the_question_to_the_store(
        self, layered: LayeredStore, store: Interrupted
    ) -> None:
        with freezegun.freeze_time() as clock:
            store.create(KEY, record(b"old"))
            store.after("load", lambda: clock.tick(MAX_AGE - 1))
            layered.load(KEY)
            # Another process, whose cache is another one, ends the session.
            store.delete(KEY)
            assert layered.load(KEY) is not None
            clock.tick(1)
            assert layered.load(KEY) is None

    def test_a_copy_does_not_outlive_its_record(self, layered: LayeredStore) -> None:
        with freezegun.freeze_time() as clock:
            layered.create(KEY, record(b"data", life=2.0))
            assert layered.load(KEY) is not None
            clock.tick(2)
            assert layered.load(KEY) is None

    def test_a_load_that_a_logout_overtakes_does_not_fill_the_cache(
        self, layered: LayeredStore, cache: Interrupted, store: Interrupted
    ) -> None:
        store.create(KEY, record(b"old"))
        store.after("load", lambda: layered.delete(KEY))
        layered.load(KEY)
        assert layered.load(KEY) is None

    def test_not_even_when_the_tombstone_is_pushed_out(
        self, layered: LayeredStore, cache: Interrupted, store: Interrupted
    ) -> None:
        def log_out() -> None:
            layered.delete(KEY)
            cache.delete(KEY)

        store.create(KEY, record(b"old"))
        store.after("load", log_out)
        layered.load(KEY)
        assert layered.load(KEY) is None

    def test_a_save_that_a_logout_overtakes_does_not_fill_the_cache(
        self, layered: LayeredStore, store: Interrupted
    ) -> None:
        layered.create(KEY, record(b"old"))
        store.after("replace", lambda: layered.delete(KEY))
        assert layered.replace(KEY, record(b"new", 2)) is True
        assert layered.load(KEY) is None

    def test_a_load_that_a_save_overtakes_does_not_bring_the_old_back(
        self, layered: LayeredStore, store: Interrupted
    ) -> None:
        store.create(KEY, record(b"old"))
        new = record(b"new", 2)
        store.after("load", lambda: layered.replace(KEY, new))
        layered.load(KEY)
        assert layered.load(KEY) == new

    def test_a_delete_leaves_a_tombstone_that_nothing_fills(
        self, layered: LayeredStore, cache: Interrupted, store: Interrupted
    ) -> None:
        with freezegun.freeze_time() as clock:
            layered.create(KEY, record(b"old"))
            layered.delete(KEY)
            clock.tick(MAX_AGE - 0.001)
            assert cache.stats().live == 1
            # It is no answer of its own: only the store knows who lives.
            new = record(b"new")
            store.create(KEY, new)
            assert layered.load(KEY) == new
            assert layered.load(KEY) == new
            assert store.calls.count("load") == 2
            clock.tick(0.001)
            assert cache.stats().live == 0

    def test_compare_and_swap_is_the_stores(
        self, layered: LayeredStore, cache: Interrupted, store: Interrupted
    ) -> None:
        layered.create(KEY, record(b"first", 1))
        # Another process, whose cache is another one, saves meanwhile.
        store.replace(KEY, record(b"second", 2))
        assert layered.replace(KEY, record(b"third", 3), expected=1) is False
        # After a conflict the cache must not offer the same old copy again.
        loaded = layered.load(KEY)
        assert loaded is not None
        assert (loaded.data, loaded.revision) == (b"second", 2)
        assert layered.replace(KEY, record(b"third", 3), expected=2) is True

    def test_an_outage_of_the_store_is_never_hidden_on_writes(
        self, layered: LayeredStore, store: Interrupted
    ) -> None:
        def fail() -> None:
            raise StoreUnavailable("down")

        layered.create(KEY, record(b"old"))
        for method, call in (
            ("replace", lambda: layered.replace(KEY, record(b"new", 2))),
            ("touch", lambda: layered.touch(KEY, time.time() + 7200)),
            ("delete", lambda: layered.delete(KEY)),
            ("load", lambda: layered.load(KEY)),
        ):
            # The store has done it, but the answer is lost.
            store.after(method, fail)
            with pytest.raises(StoreUnavailable):
                call()
            assert layered.load(KEY) == store.load(KEY)

    def test_a_copy_too_large_for_the_cache_is_not_kept(self, store: Interrupted) -> None:
        layered = LayeredStore(cache=MemoryStore(max_record_size=100), store=store)
        layered.create(KEY, record(b"small"))
        large = record(b"x" * 90, 2)
        assert layered.replace(KEY, large) is True
        assert layered.load(KEY) == large
        assert layered.load(KEY) == large

    def test_clean_up_reaches_both(
        self, layered: LayeredStore, cache: Interrupted, store: Interrupted
    ) -> None:
        with freezegun.freeze_time() as clock:
            for number in range(5):
                layered.create(bytes([number]) * 32, record(b"data", life=10.0))
            clock.tick(10)
            assert sum(layered.delete_expired(batch_size=2)) == 5
            assert (cache.stats().expired, store.stats().expired) == (0, 0)
            assert asyncio.run(removed(layered)) == 0


def test_a_store_that_is_away_does_not_keep_the_cache_from_its_clean_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*, batch_size: int) -> Iterator[int]:
        raise StoreUnavailable("the store is away")

    cache, store = MemoryStore(), MemoryStore()
    layered = LayeredStore(cache=cache, store=store)
    monkeypatch.setattr(store, "delete_expired", away)
    for clear in (lambda: sum(layered.delete_expired()), lambda: asyncio.run(removed(layered))):
        cache.create(KEY, record(b"copy", life=-1))
        assert cache.stats().expired == 1
        with pytest.raises(StoreUnavailable, match="the store is away"):
            clear()
        assert cache.stats().expired == 0


async def removed(layered: LayeredStore) -> int:
    return sum([count async for count in layered.adelete_expired()])


# All the windows: two calls, in every order in which their steps may fall.


@coroutine
def turn() -> Generator[None, None, None]:
    yield


class Stepped(MemoryStore):
    """Its async methods wait for their turn before each step, and after it if asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_after = False
        self.fails: Callable[[], int] = lambda: 0

    async def call_async(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        await turn()
        failure = self.fails()
        if failure == 1:
            raise ConnectionError("before it did anything")
        result = function(*args, **kwargs)
        if failure == 2:
            raise ConnectionError("after it did it")
        if self.waits_after:
            await turn()
        return result


Choose = Callable[[int], int]


def every_choice(run: Callable[[Choose], None]) -> int:
    """Call ``run`` once for each sequence of choices that it may be given; how often that was."""
    prefix: list[int] = []
    made: list[tuple[int, int]] = []

    def choose(number: int) -> int:
        chosen = prefix[len(made)] if len(made) < len(prefix) else 0
        made.append((chosen, number))
        return chosen

    runs = 0
    while True:
        made.clear()
        run(choose)
        runs += 1
        while made and made[-1][0] + 1 == made[-1][1]:
            made.pop()
        if not made:
            return runs
        prefix[:] = [chosen for chosen, _ in made[:-1]] + [made[-1][0] + 1]


class Scene:
    """A cache and a store that two processes share, with a session in them."""

    def __init__(self, warm: bool) -> None:
        self.cache = Stepped()
        self.store = Stepped()
        self.processes = [
            LayeredStore(cache=self.cache, store=self.store, max_age=MAX_AGE) for _ in range(2)
        ]
        self.store.create(KEY, record(b"old"))
        if warm:
            self.processes[0].load(KEY)

    def evicts(self) -> Coroutine[Any, Any, Any]:
        return self.cache.adelete(KEY)

    def play(self, calls: list[Coroutine[Any, Any, Any]], choose: Choose) -> Iterator[int]:
        """Advance the calls step by step; yields the number of each one that has ended."""
        running = dict(enumerate(calls))
        while running:
            numbers = list(running)
            number = numbers[choose(len(numbers))] if len(numbers) > 1 else numbers[0]
            try:
                running[number].send(None)
            except StopIteration:
                del running[number]
                yield number

    def cached(self) -> bytes | None:
        """The end of what the cache would answer."""
        copy = self.cache.load(KEY)
        return copy.data[-3:] if copy is not None and copy.data else None


def loads(layered: LayeredStore) -> Coroutine[Any, Any, Any]:
    return layered.aload(KEY)


def saves(layered: LayeredStore, data: bytes = b"new") -> Coroutine[Any, Any, Any]:
    return layered.areplace(KEY, record(data, 2))


def swaps(layered: LayeredStore) -> Coroutine[Any, Any, Any]:
    return layered.areplace(KEY, record(b"new", 2), expected=1)


def touches(layered: LayeredStore) -> Coroutine[Any, Any, Any]:
    return layered.atouch(KEY, time.time() + 7200)


def deletes(layered: LayeredStore) -> Coroutine[Any, Any, Any]:
    return layered.adelete(KEY)


def creates(layered: LayeredStore) -> Coroutine[Any, Any, Any]:
    return layered.acreate(KEY, record(b"new", 2))


CALLS = [loads, saves, swaps, touches, deletes, creates]
WRITES = CALLS[1:]


def name(call: Any) -> str:
    return str(call.__name__)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
class TestEveryInterleaving:
    @pytest.mark.parametrize("first", WRITES, ids=name)
    @pytest.mark.parametrize("second", CALLS, ids=name)
    def test_what_is_loaded_afterwards_is_what_the_store_holds(
        self, first: Any, second: Any, warm: bool
    ) -> None:
        def run(choose: Choose) -> None:
            scene = Scene(warm)
            calls = [first(scene.processes[0]), second(scene.processes[1])]
            assert sorted(scene.play(calls, choose)) == [0, 1]
            for process in scene.processes:
                assert process.load(KEY) == scene.store.load(KEY)

        assert every_choice(run) >= 10

    @pytest.mark.parametrize(
        ("write", "other"), [(deletes, loads), (deletes, saves), (saves, loads)], ids=name
    )
    def test_what_a_finished_write_ended_never_shows_again(
        self, write: Any, other: Any, warm: bool
    ) -> None:
        dead = {b"old", b"new"} if write is deletes else {b"old"}

        def run(choose: Choose) -> None:
            scene = Scene(warm)
            # The cache forgets the key at any moment, as a full one does.
            calls = [write(scene.processes[0]), other(scene.processes[1]), scene.evicts()]
            over = False
            for ended in scene.play(calls, choose):
                over = over or ended == 0
                assert not over or scene.cached() not in dead
            assert scene.processes[1].load(KEY) == scene.store.load(KEY)

        assert every_choice(run) >= 100


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
class TestACacheThatFails:
    @pytest.mark.parametrize("write", WRITES, ids=name)
    def test_at_any_step_costs_a_line_in_the_log_and_nothing_else(
        self, write: Any, warm: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        def run(choose: Choose) -> None:
            caplog.clear()
            with freezegun.freeze_time() as clock:
                scene = Scene(warm)
                process, other = scene.processes
                failed: list[int] = []

                def fails() -> int:
                    failed.append(choose(3) if len(failed) - failed.count(0) < 2 else 0)
                    return failed[-1]

                scene.cache.fails = fails
                calls = [write(process), loads(process)]
                assert sorted(scene.play(calls, lambda number: 0)) == [0, 1]
                lines = [line for line in caplog.records if line.levelno == logging.WARNING]
                assert len(lines) == len(failed) - failed.count(0)
                # The process that wrote never serves what it has ended or replaced ...
                assert process.load(KEY) == scene.store.load(KEY)
                # ... and the others not for longer than max_age.
                clock.tick(MAX_AGE)
                assert other.load(KEY) == scene.store.load(KEY)

        assert every_choice(run) >= 9

    @pytest.mark.parametrize("write", WRITES, ids=name)
    def test_while_another_reads_leaves_nothing_dead_behind(self, write: Any, warm: bool) -> None:
        def run(choose: Choose) -> None:
            scene = Scene(warm)
            process = scene.processes[0]
            failures: list[int] = []

            def fails() -> int:
                failures.append(choose(3) if not any(failures) else 0)
                return failures[-1]

            scene.cache.fails = fails
            assert len(list(scene.play([write(process), loads(process)], choose))) == 2
            scene.cache.fails = lambda: 0
            assert process.load(KEY) == scene.store.load(KEY)

        every_choice(run)

    def test_for_good_leaves_the_store_in_charge(self, warm: bool) -> None:
        scene = Scene(warm)
        process = scene.processes[0]
        scene.cache.fails = lambda: 1

        async def main() -> None:
            new = record(b"new", 2)
            assert await process.areplace(KEY, new, expected=1) is True
            assert await process.aload(KEY) == new
            assert await process.adelete(KEY) is True
            assert await process.aload(KEY) is None
            assert await process.acreate(KEY, new) is True
            assert await process.atouch(KEY, new.expires + 1) is True
            assert [count async for count in process.adelete_expired()] == []
            await process.asetup()
            await process.aclose()

        asyncio.run(main())


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("call", CALLS, ids=name)
def test_a_call_cancelled_at_any_step_leaves_nothing_dead_behind(call: Any, warm: bool) -> None:
    for steps in range(1, 30):
        scene = Scene(warm)
        scene.cache.waits_after = scene.store.waits_after = True
        running = call(scene.processes[0])
        try:
            for _ in range(steps):
                running.send(None)
        except StopIteration:
            break
        with pytest.raises(asyncio.CancelledError):
            running.throw(asyncio.CancelledError())
        for process in scene.processes:
            assert process.load(KEY) == scene.store.load(KEY)
    assert 1 < steps < 29


# Two real processes, each with a cache of its own.

RACE_KEYS = [b"%032d" % number for number in range(20)]
RACE_AGE = 0.4


@contextmanager
def raced(folder: Path) -> Iterator[LayeredStore]:
    layered = LayeredStore(
        cache=MemoryStore(),
        store=LMDBStore(folder / "sessions", durability="process"),
        max_age=RACE_AGE,
    )
    yield layered
    layered.close()


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def read_until_all_are_gone(folder: Path) -> tuple[dict[bytes, float], int]:
    """When each session was last served: the moment at which that load began."""
    with raced(folder) as layered:
        assert all(layered.load(key) is not None for key in RACE_KEYS)
        (folder / "reading").touch()
        last_served: dict[bytes, float] = {}
        gone: set[bytes] = set()
        deadline = time.monotonic() + 60
        while len(gone) < len(RACE_KEYS):
            assert time.monotonic() < deadline
            for key in RACE_KEYS:
                moment = time.time()
                if layered.load(key) is None:
                    gone.add(key)
                else:
                    assert key not in gone, "a session came back"
                    last_served[key] = moment
        return last_served, layered.cache.stats().hits or 0


def log_out_all(folder: Path) -> dict[bytes, float]:
    """When each session had been ended."""
    with raced(folder) as layered:
        for key in RACE_KEYS:
            assert layered.create(key, record(b"session"))
        (folder / "created").touch()
        wait_for(folder / "reading")
        ended = {}
        for key in RACE_KEYS:
            time.sleep(0.02)
            assert layered.load(key) is not None
            assert layered.delete(key) is True
            ended[key] = time.time()
            assert layered.load(key) is None
        for _ in range(1000):
            assert not any(layered.load(key) for key in RACE_KEYS)
        return ended


def test_a_logout_reaches_the_reads_of_another_process_within_max_age(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        logging_out = pool.apply_async(log_out_all, [tmp_path])
        wait_for(tmp_path / "created")
        reading = pool.apply_async(read_until_all_are_gone, [tmp_path])
        ended = logging_out.get(120)
        last_served, hits = reading.get(120)
    assert hits > len(RACE_KEYS)
    late = {key: last_served[key] - ended[key] for key in RACE_KEYS}
    assert max(late.values()) < RACE_AGE


# Settings


def layered_settings(**options: Any) -> dict[str, Any]:
    memory = {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"}
    return {
        "default": {
            "BACKEND": "django_kvsessions.stores.layered.LayeredStore",
            "OPTIONS": {"cache": "fast", "store": "slow", **options},
        },
        "fast": memory,
        "slow": memory,
    }


class TestSettings:
    def test_the_engine_runs_on_it(self) -> None:
        with override_settings(SESSION_STORES=layered_settings()):
            session = SessionStore()
            session["visits"] = 1
            session.save()
            again = SessionStore(session.session_key)
            assert again["visits"] == 1
            again["visits"] = 2
            again.save()
            assert SessionStore(session.session_key)["visits"] == 2
            assert stores["slow"].stats().live == 1
            assert stores["fast"].stats().live == 1
            stores["default"].close()
            session.flush()
            assert SessionStore(again.session_key).get("visits") is None
            assert stores["slow"].stats().live == 0

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"cache": "quick"}, r"\['cache'\].*no alias 'quick'; it has 'default', 'fast'"),
            ({"store": "quick"}, r"\['store'\].*no alias 'quick'"),
            ({"cache": None}, r"OPTIONS\['cache'\]"),
            ({"store": ["slow"]}, r"OPTIONS\['store'\]"),
            ({"cache": "slow"}, "both 'slow'"),
            ({"store": "default"}, "circle: 'default' -> 'default'"),
            ({"max_age": 0}, "max_age"),
            ({"max_age": -1}, "max_age"),
            ({"max_age": float("inf")}, "max_age"),
            ({"max_age": "5"}, "max_age"),
            ({"max_age": True}, "max_age"),
            ({"maximum_age": 5}, "maximum_age"),
        ],
    )
    def test_a_wrong_option_is_named(self, options: dict[str, Any], named: str) -> None:
        with override_settings(SESSION_STORES=layered_settings(**options)):
            with pytest.raises(ImproperlyConfigured, match=named):
                stores["default"]
            messages = [message for message in run_checks() if message.id == "kvsessions.E003"]
            assert len(messages) == 1
            assert "SESSION_STORES['default']" in messages[0].msg

    def test_a_circle_through_other_layers_is_named(self) -> None:
        settings = layered_settings(store="middle")
        settings["middle"] = {
            "BACKEND": "django_kvsessions.stores.layered.LayeredStore",
            "OPTIONS": {"cache": "slow", "store": "default"},
        }
        with (
            override_settings(SESSION_STORES=settings),
            pytest.raises(ImproperlyConfigured, match="'middle' -> 'default' -> 'middle'"),
        ):
            stores["default"]

    def test_layers_may_lie_on_layers(self) -> None:
        settings = layered_settings(store="middle")
        settings["slowest"] = settings["slow"]
        settings["middle"] = {
            "BACKEND": "django_kvsessions.stores.layered.LayeredStore",
            "OPTIONS": {"cache": "slow", "store": "slowest"},
        }
        with override_settings(SESSION_STORES=settings):
            written = record(b"data")
            assert stores["default"].create(KEY, written)
            assert stores["default"].load(KEY) == written
            assert stores["slowest"].load(KEY) == written

    def test_a_location_is_refused(self) -> None:
        settings = layered_settings()
        settings["default"]["LOCATION"] = "/sessions"
        with (
            override_settings(SESSION_STORES=settings),
            pytest.raises(ImproperlyConfigured, match="LOCATION"),
        ):
            stores["default"]

    def test_two_aliases_of_one_place_are_refused(self, tmp_path: Path) -> None:
        settings = layered_settings()
        settings["fast"] = settings["slow"] = {
            "BACKEND": "django_kvsessions.stores.lmdb.LMDBStore",
            "LOCATION": tmp_path / "sessions",
        }
        with (
            override_settings(SESSION_STORES=settings),
            pytest.raises(ImproperlyConfigured, match="one place"),
        ):
            stores["default"]

    def test_one_cache_for_two_stores_is_an_error(self) -> None:
        settings = layered_settings()
        settings["slow2"] = settings["slow"]
        settings["other"] = {
            "BACKEND": "django_kvsessions.stores.layered.LayeredStore",
            "OPTIONS": {"cache": "fast", "store": "slow2"},
        }
        with override_settings(SESSION_STORES=settings):
            messages = [message for message in run_checks() if message.id == "kvsessions.E120"]
        assert ["'fast'" in message.msg for message in messages] == [True, True]
        with override_settings(SESSION_STORES=layered_settings()):
            assert not [message for message in run_checks() if message.id == "kvsessions.E120"]

    def test_a_wrong_alias_is_never_taken_for_a_cache_that_fails(self) -> None:
        class Misconfigured(MemoryStore):
            def load(self, key: bytes) -> Record | None:
                raise ImproperlyConfigured("SESSION_STORES['fast']: no driver")

        layered = LayeredStore(cache=Misconfigured(), store=MemoryStore())
        with pytest.raises(ImproperlyConfigured, match="no driver"):
            layered.load(KEY)


def test_stores_are_asked_in_the_colour_of_the_call() -> None:
    class Asynchronous(MemoryStore):
        """A store with an async driver, which must not be used in a thread or inline."""

        async def call_async(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            self.was_awaited = True
            return function(*args, **kwargs)

    cache, store = Asynchronous(), Asynchronous()
    layered: Store = LayeredStore(cache=cache, store=store)
    asyncio.run(layered.acreate(KEY, record(b"data")))
    assert cache.was_awaited
    assert store.was_awaited


@pytest.mark.each_django
@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_write_is_not_served_from_the_cache(settings: LazySettings) -> None:
    from django.db import transaction

    settings.SESSION_STORES = {
        "cache": {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"},
        "store": {
            "BACKEND": "django_kvsessions.stores.database.DatabaseStore",
            "LOCATION": "default",
        },
        "default": {
            "BACKEND": "django_kvsessions.stores.layered.LayeredStore",
            "OPTIONS": {"cache": "cache", "store": "store", "max_age": 60},
        },
    }
    layered, key = stores["default"], b"k" * 32
    layered.setup()
    before = Record(b"before", time.time() + 600, 1)
    assert layered.create(key, before)
    for change in (
        lambda: layered.replace(key, before._replace(data=b"after", revision=2)),
        lambda: layered.touch(key, before.expires + 60),
        lambda: layered.delete(key),
    ):
        assert layered.load(key) == before
        with transaction.atomic():
            assert change()
            seen = layered.load(key)
            assert seen != before
            transaction.set_rollback(True)
        assert layered.load(key) == before
