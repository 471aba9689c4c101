"""The engine on each embedded store, through Django's own API, in sync and async."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.utils import timezone
from freezegun import freeze_time

from django_kvsessions import codec, reports
from django_kvsessions.engine import SessionStore
from django_kvsessions.saved import new_revision
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, StoreUnavailable
from django_kvsessions.stores.memory import MemoryStore

DAY = 24 * 3600


@pytest.fixture(params=["default", "memory"])
def alias(request: pytest.FixtureRequest, settings: LazySettings, tmp_path: Path) -> str:
    settings.SESSION_STORES = {
        "default": {"LOCATION": tmp_path / "sessions"},
        "memory": {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"},
    }
    settings.SESSION_STORE_ALIAS = request.param
    return str(request.param)


@pytest.fixture(autouse=True)
def _use(alias: str) -> None:
    """Every test here runs on each store."""


class Calls:
    """The session's methods, all sync or all async, so that one test covers both."""

    def __init__(self, session: SessionStore, is_async: bool) -> None:
        self.session = session
        self.is_async = is_async

    def __getattr__(self, name: str) -> Any:
        if not self.is_async:
            return getattr(self.session, name)
        method = getattr(self.session, "a" + name)
        return lambda *args, **kwargs: asyncio.run(method(*args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Calls]:
    return lambda key=None: Calls(SessionStore(key), request.param == "async")


def saved(**data: Any) -> str:
    session = SessionStore()
    session.update(data)
    session.save()
    assert session.session_key
    return session.session_key


def stored(session_key: str | None) -> dict[str, Any]:
    return dict(SessionStore(session_key).items())


def key_of(session_key: str | None) -> bytes:
    assert session_key
    return codec.storage_key(session_key)


def record_of(session_key: str | None) -> Record:
    record = SessionStore().store.load(key_of(session_key))
    assert record is not None
    return record


# Ids


def test_an_id_has_160_random_bits_in_32_characters() -> None:
    keys = {SessionStore()._get_new_session_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert {len(key) for key in keys} == {32}
    assert set("".join(keys)) == set("abcdefghijklmnopqrstuvwxyz234567")


@pytest.mark.parametrize(
    "key",
    ["", "short", "unknown-but-long-enough", "\x00" * 40, "\ud800" * 10, "ключ-сессии", "x" * 5000],
)
def test_an_id_that_was_never_given_out_is_a_fresh_session(
    key: str, opened: Callable[..., Calls]
) -> None:
    session = opened(key)
    assert session.get("anything") is None
    assert session.session.session_key is None
    session.session["a"] = 1
    session.save()
    assert session.session.session_key not in (None, key)
    assert not session.exists(key)


def test_the_store_holds_no_usable_id() -> None:
    key = saved(a=1)
    for name, record in SessionStore().store.scan():
        assert key.encode() not in name + record.data


def test_a_new_session_never_overwrites_another(
    opened: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = saved(owner="first")
    ids = iter([taken, taken, "b" * 32])
    monkeypatch.setattr(codec, "new_session_key", lambda: next(ids))
    session = opened()
    session.create()
    assert session.session.session_key == "b" * 32
    assert stored(taken) == {"owner": "first"}


def test_must_create_never_overwrites(opened: Callable[..., Calls]) -> None:
    key = saved(a=1)
    with pytest.raises(CreateError):
        opened(key).save(must_create=True)
    assert stored(key) == {"a": 1}


def test_threads_that_create_at_once_get_sessions_of_their_own() -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda number: saved(number=number), range(200)))
    assert len(set(keys)) == 200
    assert [stored(key)["number"] for key in keys] == list(range(200))


# Laziness and isolation


def test_nothing_is_loaded_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    key = saved(a=1)
    loads = []
    store = SessionStore().store
    real_load = store.load

    def load(key: bytes) -> Record | None:
        loads.append(key)
        return real_load(key)

    monkeypatch.setattr(store, "load", load)
    session = SessionStore(key)
    assert not session.accessed
    assert not loads
    assert session["a"] == 1
    assert session["a"] == 1
    assert session.accessed
    assert len(loads) == 1


def test_a_loaded_dict_is_never_shared_between_requests() -> None:
    key = saved(cart=["apple"])
    one, other = SessionStore(key), SessionStore(key)
    one["cart"].append("pear")
    assert other["cart"] == ["apple"]
    assert stored(key) == {"cart": ["apple"]}


def test_every_type_comes_back_as_it_was() -> None:
    now = timezone.now()
    data = {"bytes": b"\x00\xff", "when": now, "set": {1, 2}, "big": 2**80, "tuple": (1, 2)}
    loaded = stored(saved(**data))
    assert loaded == data
    assert [type(value) for value in loaded.values()] == [type(value) for value in data.values()]


def test_the_serializer_of_the_project_is_used(settings: LazySettings) -> None:
    settings.SESSION_SERIALIZER = "django.contrib.sessions.serializers.JSONSerializer"
    assert stored(saved(a=(1, 2))) == {"a": [1, 2]}


# Never somebody else's session


@pytest.fixture
def security_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], int]]:
    # A line for each of them, and not one a minute.
    monkeypatch.setattr(reports, "INTERVAL", 0.0)
    with caplog.at_level(logging.WARNING, "django.security.SuspiciousSession"):
        yield lambda: sum(r.name == "django.security.SuspiciousSession" for r in caplog.records)


def test_a_record_under_another_key_reads_as_no_session(
    opened: Callable[..., Calls], security_log: Callable[[], int]
) -> None:
    alice, mallory = saved(user="alice"), saved(user="mallory")
    assert SessionStore().store.replace(key_of(mallory), record_of(alice))
    session = opened(mallory)
    assert session.get("user") is None
    assert session.session.session_key is None
    assert security_log() == 1
    # The reader leaves it to be looked into.
    assert record_of(mallory).data == record_of(alice).data


def test_a_record_with_another_owner_reads_as_no_session(security_log: Callable[[], int]) -> None:
    key = saved(_auth_user_id="1")
    record = record_of(key)
    assert SessionStore().store.replace(key_of(key), record._replace(owner=b"x" * 16))
    assert stored(key) == {}
    assert security_log() == 1


def test_a_record_changed_anywhere_reads_as_no_session(security_log: Callable[[], int]) -> None:
    key = saved(a=1, b="text")
    store, record = SessionStore().store, record_of(key)
    for position in range(len(record.data)):
        for bit in (1, 128):
            data = bytearray(record.data)
            data[position] ^= bit
            assert store.replace(key_of(key), record._replace(data=bytes(data)))
            assert stored(key) == {}
    for size in range(len(record.data)):
        assert store.replace(key_of(key), record._replace(data=record.data[:size]))
        assert stored(key) == {}
    assert security_log() == 3 * len(record.data)


def test_what_decodes_to_no_dict_reads_as_no_session(security_log: Callable[[], int]) -> None:
    key = saved(a=1)
    record = record_of(key)
    for payload in (b"", b"\x01", b"\xc1", b"\x91" * 5000):
        data = codec.seal(key_of(key), b"", 0.0, payload)
        assert SessionStore().store.replace(key_of(key), record._replace(data=data))
        assert stored(key) == {}
    assert security_log() == 4


def test_a_former_secret_key_still_opens_and_is_replaced_at_the_next_save(
    settings: LazySettings,
) -> None:
    former = settings.SECRET_KEY
    key = saved(_auth_user_id="1", a=1)
    settings.SECRET_KEY = "the next secret key"
    assert stored(key) == {}
    settings.SECRET_KEY_FALLBACKS = [former]
    session = SessionStore(key)
    assert session["a"] == 1
    session.save()  # unchanged, and written all the same
    settings.SECRET_KEY_FALLBACKS = []
    assert stored(key) == {"_auth_user_id": "1", "a": 1}
    assert record_of(key).owner == codec.owner_digest("1")


def test_long_data_is_compressed_where_it_shrinks() -> None:
    key = saved(text="lorem ipsum " * 1000)
    assert len(record_of(key).data) < 1000
    assert stored(key) == {"text": "lorem ipsum " * 1000}


# Logout holds


def test_a_save_never_brings_a_session_back(opened: Callable[..., Calls]) -> None:
    key = saved(a=1)
    slow = opened(key)
    assert slow.get("a") == 1
    SessionStore(key).flush()
    slow.session["a"] = 2
    with pytest.raises(UpdateError):
        slow.save()
    assert not slow.exists(key)


def test_a_save_that_changes_nothing_tells_of_a_logout_too(opened: Callable[..., Calls]) -> None:
    key = saved(a=1)
    slow = opened(key)
    assert slow.get("a") == 1
    SessionStore(key).flush()
    slow.session["a"] = 1
    with pytest.raises(UpdateError):
        slow.save()


def test_clear_and_save_do_not_bring_a_session_back(opened: Callable[..., Calls]) -> None:
    key = saved(a=1)
    slow = opened(key)
    slow.session.clear()
    slow.session["b"] = 1
    SessionStore(key).delete()
    with pytest.raises(UpdateError):
        slow.save()
    assert not slow.exists(key)


def test_cycle_key_and_flush_leave_the_old_id_dead(opened: Callable[..., Calls]) -> None:
    key = saved(a=1)
    session = opened(key)
    session.cycle_key()
    cycled = session.session.session_key
    assert cycled not in (None, key)
    assert not session.exists(key)
    assert stored(cycled) == {"a": 1}
    session.flush()
    assert session.session.session_key is None
    assert not session.exists(cycled)


def test_cycle_key_does_not_bring_back_who_was_logged_out(opened: Callable[..., Calls]) -> None:
    key = saved(_auth_user_id="1")
    slow = opened(key)
    assert slow.get("_auth_user_id") == "1"
    SessionStore(key).flush()
    with pytest.raises(UpdateError):
        slow.cycle_key()
    assert list(SessionStore().store.scan_owner(codec.owner_digest("1"))) == []


def test_a_visitor_may_log_in_twice_at_once(opened: Callable[..., Calls]) -> None:
    key = saved(cart=[1])
    one, other = opened(key), opened(key)
    for session in (one, other):
        assert session.get("cart") == [1]
    one.cycle_key()
    other.cycle_key()
    assert stored(other.session.session_key) == {"cart": [1]}


def test_every_digest_of_the_owner_is_kept_current(opened: Callable[..., Calls]) -> None:
    session = opened(saved(a=1))
    assert record_of(session.session.session_key).owner == b""
    assert session.get("a") == 1
    session.session["_auth_user_id"] = "7"
    session.save()
    assert record_of(session.session.session_key).owner == codec.owner_digest("7")


# No lost update


def test_changes_to_different_keys_both_stick(opened: Callable[..., Calls]) -> None:
    key = saved(kept=0, dropped=0, nested={"x": 1, "y": 1})
    one, other = opened(key), opened(key)
    assert one.get("kept") == other.get("kept") == 0
    one.session["one"] = 1
    one.session["nested"]["x"] = 2
    del one.session["dropped"]
    other.session["other"] = 1
    other.session["nested"]["y"] = 2
    one.save()
    other.save()
    merged = {"kept": 0, "one": 1, "other": 1, "nested": {"x": 2, "y": 2}}
    assert stored(key) == merged
    assert dict(other.session.items()) == merged


def test_a_save_after_a_merge_goes_on_from_there(opened: Callable[..., Calls]) -> None:
    key = saved(a=1)
    one, other = opened(key), opened(key)
    assert one.get("a") == other.get("a")
    one.session["one"] = 1
    one.save()
    other.session["other"] = 1
    other.save()
    one.session["one"] = 2
    one.save()
    other.session["other"] = 2
    other.save()
    assert stored(key) == {"a": 1, "one": 2, "other": 2}


def test_clear_replaces_everything(opened: Callable[..., Calls]) -> None:
    key = saved(a=1)
    session = opened(key)
    assert session.get("a") == 1
    other = SessionStore(key)
    other["b"] = 1
    other.save()
    session.session.clear()
    session.session["a"] = 1
    session.save()
    assert stored(key) == {"a": 1}


def test_a_session_written_without_being_loaded_replaces_everything(
    opened: Callable[..., Calls],
) -> None:
    key = saved(a=1, b=2)
    session = opened(key)
    session.session.clear()
    session.session["c"] = 3
    session.save()
    assert stored(key) == {"c": 3}


def test_parallel_saves_of_many_threads_lose_nothing() -> None:
    key = saved(start=True)

    def add(number: int) -> None:
        for step in range(10):
            session = SessionStore(key)
            session[f"{number}-{step}"] = step
            session.save()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(8)))
    assert len(stored(key)) == 81


def test_parallel_saves_of_many_tasks_lose_nothing() -> None:
    key = saved(start=True)

    async def add(number: int) -> None:
        for step in range(5):
            session = SessionStore(key)
            await session.aset(f"{number}-{step}", step)
            await asyncio.sleep(0)
            await session.asave()

    async def main() -> None:
        await asyncio.gather(*(add(number) for number in range(20)))

    asyncio.run(main())
    assert len(stored(key)) == 101


def test_a_thousand_parallel_increments_make_a_thousand() -> None:
    key = saved(count=0)

    def increment(data: dict[str, Any]) -> int:
        data["count"] += 1
        return int(data["count"])

    def work(number: int) -> list[int]:
        return [SessionStore(key).mutate(increment) for _ in range(125)]

    with ThreadPoolExecutor(8) as threads:
        seen = [count for counts in threads.map(work, range(8)) for count in counts]
    assert stored(key) == {"count": 1000}
    assert sorted(seen) == list(range(1, 1001))


def test_parallel_increments_of_many_tasks_lose_nothing() -> None:
    key = saved(count=0)

    def increment(data: dict[str, Any]) -> None:
        data["count"] += 1

    async def main() -> None:
        await asyncio.gather(*(SessionStore(key).amutate(increment) for _ in range(100)))

    asyncio.run(main())
    assert stored(key) == {"count": 100}


def test_mutate_keeps_the_changes_of_this_request(opened: Callable[..., Calls]) -> None:
    key = saved(count=0)
    session = opened(key)
    assert session.get("count") == 0
    session.session["mine"] = 1
    other = SessionStore(key)
    other["theirs"] = 1
    other.save()
    assert session.mutate(lambda data: data.update(count=data["count"] + 1)) is None
    assert dict(session.session.items()) == {"count": 1, "mine": 1, "theirs": 1}
    assert stored(key) == {"count": 1, "theirs": 1}
    session.save()
    assert stored(key) == {"count": 1, "mine": 1, "theirs": 1}


def test_a_mutation_that_raises_changes_nothing(opened: Callable[..., Calls]) -> None:
    key = saved(a=1)
    session = opened(key)

    def fail(data: dict[str, Any]) -> None:
        data["a"] = 2
        raise LookupError("no")

    with pytest.raises(LookupError):
        session.mutate(fail)
    assert stored(key) == dict(session.session.items()) == {"a": 1}


def test_a_mutation_of_an_ended_session_is_an_update_error(opened: Callable[..., Calls]) -> None:
    key = saved(a=1)
    session = opened(key)
    assert session.get("a") == 1
    SessionStore(key).flush()
    with pytest.raises(UpdateError):
        session.mutate(lambda data: data.update(a=2))


def test_a_mutation_of_a_new_session_creates_it(opened: Callable[..., Calls]) -> None:
    session = opened()
    session.mutate(lambda data: data.update(a=1))
    assert stored(session.session.session_key) == {"a": 1}


# Touch instead of rewrite


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the store's writing methods as they are called."""
    calls: list[str] = []
    store = SessionStore().store

    def count(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return real(*args, **kwargs)

        return counted

    # The async methods of these stores call the sync ones.
    for name in ("create", "replace", "touch"):
        monkeypatch.setattr(store, name, count(name, getattr(store, name)))
    return calls


def test_an_unchanged_session_is_not_written(
    opened: Callable[..., Calls], writes: list[str]
) -> None:
    key = saved(a=1)
    writes.clear()
    session = opened(key)
    for _ in range(3):
        session.session.modified = True
        session.save()
    assert writes == []


def test_an_unchanged_session_is_touched_when_it_is_due(
    opened: Callable[..., Calls], writes: list[str], settings: LazySettings
) -> None:
    settings.SESSION_COOKIE_AGE = 1000
    with freeze_time() as clock:
        key = saved(a=1)
        before = record_of(key)
        writes.clear()
        clock.tick(9)
        opened(key).save()
        assert writes == []
        clock.tick(1)
        opened(key).save()
        assert writes == ["touch"]
        after = record_of(key)
        assert after.expires == pytest.approx(before.expires + 10)
        assert after._replace(expires=0) == before._replace(expires=0)


def test_a_touch_interval_of_zero_touches_every_time(
    opened: Callable[..., Calls], writes: list[str], settings: LazySettings
) -> None:
    settings.SESSION_TOUCH_INTERVAL = 0
    key = saved(a=1)
    writes.clear()
    opened(key).save()
    opened(key).save()
    assert writes == ["touch", "touch"]


def test_a_session_shorter_than_the_touch_interval_slides_all_the_same(
    opened: Callable[..., Calls], settings: LazySettings
) -> None:
    settings.SESSION_TOUCH_INTERVAL = 3600
    with freeze_time() as clock:
        session = opened()
        session.set_expiry(60)
        session.save()
        key = session.session.session_key
        for _ in range(5):
            clock.tick(40)
            opened(key).save()
            assert session.exists(key)


def test_a_nested_change_is_a_change(opened: Callable[..., Calls]) -> None:
    key = saved(cart={"apple": 1})
    session = opened(key)
    session.get("cart")["apple"] = 2
    assert not session.session.modified
    session.save()
    assert stored(key) == {"cart": {"apple": 2}}


@pytest.mark.parametrize("interval", [0, 1000])
def test_a_session_that_ended_is_an_update_error_only_to_who_changed_it(
    interval: int, opened: Callable[..., Calls], settings: LazySettings
) -> None:
    settings.SESSION_TOUCH_INTERVAL = interval
    key = saved(a=1)
    reader, writer = opened(key), opened(key)
    assert reader.get("a") == writer.get("a") == 1
    SessionStore(key).flush()
    reader.save()
    assert reader.touch() is False
    writer.session["a"] = 1
    with pytest.raises(UpdateError):
        writer.save()
    assert not reader.exists(key)


# Expiry


@pytest.mark.parametrize("expiry", [300, timedelta(seconds=300), "datetime"])
def test_a_session_lives_as_long_as_it_was_given(expiry: Any, opened: Callable[..., Calls]) -> None:
    with freeze_time(timezone.now().replace(microsecond=0)) as clock:
        session = opened()
        if expiry == "datetime":
            expiry = timezone.now() + timedelta(seconds=300)
        session.set_expiry(expiry)
        session.save()
        key = session.session.session_key
        clock.tick(299)
        assert session.exists(key)
        clock.tick(1)
        assert not session.exists(key)
        late = opened(key)
        assert late.get("_session_expiry") is None
        assert late.session.session_key is None


def test_a_session_that_ends_with_the_browser_is_kept_for_the_cookie_age(
    opened: Callable[..., Calls], settings: LazySettings
) -> None:
    settings.SESSION_COOKIE_AGE = 100
    with freeze_time() as clock:
        session = opened()
        session.set_expiry(0)
        session.save()
        assert session.get_expire_at_browser_close() is True
        assert session.get_expiry_age() == 100
        clock.tick(99)
        assert session.exists(session.session.session_key)
        clock.tick(1.1)
        assert not session.exists(session.session.session_key)


def test_set_expiry_none_goes_back_to_the_cookie_age(opened: Callable[..., Calls]) -> None:
    session = opened()
    session.set_expiry(5)
    assert session.get_expiry_age() == 5
    session.set_expiry(None)
    assert session.get_expiry_age() == 14 * DAY


def test_the_cookie_age_may_be_overridden() -> None:
    class Short(SessionStore):
        def get_session_cookie_age(self) -> int:
            return 7

    with freeze_time() as clock:
        session = Short()
        session.create()
        clock.tick(6)
        assert session.exists(session.session_key)
        clock.tick(1)
        assert not session.exists(session.session_key)


def test_clear_expired_removes_what_has_expired(opened: Callable[..., Calls]) -> None:
    with freeze_time() as clock:
        short = opened()
        short.set_expiry(10)
        short.save()
        long = saved(a=1)
        clock.tick(11)
        short.clear_expired()
        assert [key for key, _ in SessionStore().store.scan()] == [key_of(long)]
        assert SessionStore().store.stats().expired == 0


# The absolute limit


@pytest.fixture
def _absolute(settings: LazySettings) -> None:
    settings.SESSION_COOKIE_AGE = 600
    settings.SESSION_ABSOLUTE_AGE = timedelta(seconds=1000)
    settings.SESSION_TOUCH_INTERVAL = 0


@pytest.mark.usefixtures("_absolute")
@pytest.mark.parametrize("change", [True, False])
@pytest.mark.parametrize("expiry", [None, 5000, timedelta(days=1), 0])
def test_nothing_gets_past_the_absolute_age(
    expiry: Any, change: bool, opened: Callable[..., Calls]
) -> None:
    with freeze_time(timezone.now().replace(microsecond=0)) as clock:
        key = saved(a=0)
        for step in range(1, 4):
            clock.tick(250)
            session = opened(key)
            assert session.get("a") == (step - 1 if change else 0)
            if change:
                session.session["a"] = step
            session.set_expiry(expiry)
            session.save()
        assert session.get_expiry_age() == 250
        clock.tick(249)
        assert opened(key).get_expiry_age() == 1
        assert opened(key).get_expiry_date() == timezone.now() + timedelta(seconds=1)
        assert opened(key).exists(key)
        clock.tick(1)
        assert not opened(key).exists(key)
        assert stored(key) == {}


@pytest.mark.usefixtures("_absolute")
def test_writing_without_loading_does_not_start_a_new_life(opened: Callable[..., Calls]) -> None:
    with freeze_time() as clock:
        key = saved(a=1)
        clock.tick(550)
        session = opened(key)
        session.session.clear()
        session.session["b"] = 1
        session.save()
        clock.tick(451)
        assert not session.exists(key)


@pytest.mark.usefixtures("_absolute")
def test_cycle_key_carries_the_age_on_and_a_login_starts_a_new_life(
    opened: Callable[..., Calls],
) -> None:
    with freeze_time() as clock:
        session = opened(saved(a=1))
        clock.tick(550)
        session.cycle_key()
        assert session.get_expiry_age() == 450
        session.session["_auth_user_id"] = "1"
        session.save()
        assert session.get_expiry_age() == 600
        clock.tick(500)
        again = opened(session.session.session_key)
        again.cycle_key()  # as after a change of the password
        assert again.get_expiry_age() == 500


def test_a_shorter_absolute_age_ends_sessions_that_are_older(
    opened: Callable[..., Calls], settings: LazySettings
) -> None:
    with freeze_time() as clock:
        key = saved(a=1)
        clock.tick(DAY)
        settings.SESSION_ABSOLUTE_AGE = DAY - 1
        assert not opened(key).exists(key)
        session = opened(key)
        assert session.get("a") is None
        assert session.session.session_key is None


@pytest.mark.usefixtures("_absolute")
def test_a_clock_that_steps_back_harms_nothing(opened: Callable[..., Calls]) -> None:
    start = timezone.now()
    with freeze_time(start) as clock:
        key = saved(a=1)
        clock.move_to(start - timedelta(days=2))
        session = opened(key)
        assert session.get("a") == 1
        session.session["a"] = 2
        session.save()
        assert session.get_expiry_age() <= 600
        assert stored(key) == {"a": 2}


# Outages and bad input


class Dead(MemoryStore):
    """Like a server that has gone away."""

    def fail(self, *args: Any, **kwargs: Any) -> Any:
        raise StoreUnavailable("gone")

    load = create = replace = touch = delete = fail


@pytest.fixture
def outage(alias: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setitem(stores._stores, alias, Dead())


def test_an_outage_is_not_a_logout(
    opened: Callable[..., Calls], outage: Callable[[], None]
) -> None:
    key = saved(a=1)
    loaded = opened(key)
    assert loaded.get("a") == 1
    outage()
    session = opened(key)
    for call in (
        lambda: session.get("a"),
        lambda: session.exists(key),
        session.delete,
        session.cycle_key,
        session.save,
        loaded.cycle_key,
        lambda: loaded.mutate(dict.clear),
        lambda: opened().create(),
    ):
        with pytest.raises(StoreUnavailable):
            call()
        assert session.session.session_key == key
        assert loaded.session.session_key == key
        assert not session.session.is_empty()


def test_data_that_cannot_be_serialized_names_its_key_and_loses_nothing(
    opened: Callable[..., Calls],
) -> None:
    key = saved(a=1)
    session = opened(key)
    assert session.get("a") == 1
    session.session["good"] = 2
    session.session["the file"] = open
    with pytest.raises(TypeError, match="the file"):
        session.save()
    assert stored(key) == {"a": 1}


def test_a_session_over_the_limit_is_refused_before_anything_is_written(
    opened: Callable[..., Calls],
) -> None:
    key = saved(a=1)
    session = opened(key)
    assert session.get("a") == 1
    session.session["huge"] = os.urandom(1024 * 1024)
    with pytest.raises(ValueError, match="1048576 bytes"):
        session.save()
    assert stored(key) == {"a": 1}


def test_an_async_session_stays_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    key = saved(a=1)
    assert stored(key)

    def no_thread(*args: Any) -> None:
        raise AssertionError("this hops to a thread")

    async def main() -> None:
        session = SessionStore(key)
        assert await session.aget("a") == 1
        await session.aset("a", 2)
        await session.asave()
        await session.acycle_key()
        await session.amutate(lambda data: data.update(b=1))
        await session.aexists(key)
        await session.aflush()
        await SessionStore().acreate()

    monkeypatch.setattr(asyncio, "to_thread", no_thread)
    asyncio.run(main())


def test_a_forked_process_chooses_other_revisions() -> None:
    """Two that chose the same would take each other's write for their own."""
    here = new_revision()
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, str(new_revision()).encode())
        os._exit(0)
    os.wait()
    there = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    assert len({here, there, new_revision()}) == 3
