"""What becomes of a session's changes when others change it too, at the edges."""

from __future__ import annotations

import asyncio
import pickle
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from freezegun import freeze_time

from django_kvsessions.engine import SessionStore
from django_kvsessions.merging import merge_sessions
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.typed import Bucket
from tests.test_engine import Calls, key_of, record_of, saved, stored


@pytest.fixture(autouse=True)
def _site(settings: LazySettings, tmp_path: Path) -> None:
    settings.SESSION_STORES = {"default": {"LOCATION": tmp_path / "sessions"}}


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Calls]:
    return lambda key=None: Calls(SessionStore(key), request.param == "async")


def change_elsewhere(key: str, **data: Any) -> None:
    session = SessionStore(key)
    session.update(data)
    session.save()


# A touch


def test_a_touch_leaves_an_expiry_alone_that_another_request_has_set(
    opened: Callable[..., Calls], settings: LazySettings
) -> None:
    settings.SESSION_TOUCH_INTERVAL = 0
    with freeze_time() as clock:
        key = saved(a=1)
        slow = opened(key)
        assert slow.get("a") == 1
        other = SessionStore(key)
        other.set_expiry(60)
        other.save()
        clock.tick(1)
        slow.save()
        assert slow.touch() is False
        clock.tick(59)
        assert not slow.exists(key)


def test_touch_loads_what_it_touches(opened: Callable[..., Calls], settings: LazySettings) -> None:
    settings.SESSION_TOUCH_INTERVAL = 0
    with freeze_time() as clock:
        key = saved(a=1)
        before = record_of(key).expires
        clock.tick(5)
        assert opened(key).touch() is True
        assert record_of(key).expires == pytest.approx(before + 5)
        session = opened(key)
        session.load()
        clock.tick(5)
        assert session.touch() is True
        assert opened("unknown-session-id").touch() is False
        assert opened().touch() is False


# Objects that a view holds


def test_what_a_view_holds_stays_the_sessions_own_after_a_mutation(
    opened: Callable[..., Calls],
) -> None:
    key = saved(cart={"pear": 1}, lines=[1], count=0)
    session = opened(key)
    cart, lines = session.get("cart"), session.get("lines")
    change_elsewhere(key, cart={"pear": 1, "plum": 1}, lines=[1, 2])
    session.mutate(lambda data: data.update(count=1))
    cart["item"] = 5
    lines.append(3)
    session.session.modified = True
    session.save()
    assert stored(key) == {
        "cart": {"pear": 1, "plum": 1, "item": 5},
        "lines": [1, 2, 3],
        "count": 1,
    }


def test_what_a_view_holds_stays_the_sessions_own_after_a_save_that_merged(
    opened: Callable[..., Calls],
) -> None:
    key = saved(cart={"pear": {"n": 1}})
    session = opened(key)
    cart = session.get("cart")
    pear = cart["pear"]
    change_elsewhere(key, other=1)
    session.session["mine"] = 1
    session.save()
    pear["n"] = 2
    cart["plum"] = {"n": 1}
    session.save()
    assert stored(key) == {"cart": {"pear": {"n": 2}, "plum": {"n": 1}}, "other": 1, "mine": 1}


# Serializers of any kind


class Encrypting:
    """Its output is never the same twice."""

    def dumps(self, obj: Any) -> bytes:
        return secrets.token_bytes(8) + pickle.dumps(obj)

    def loads(self, data: bytes) -> Any:
        return pickle.loads(data[8:])


class DictsOnly:
    """Takes sessions, and nothing else."""

    def dumps(self, obj: Any) -> bytes:
        obj.keys()
        return pickle.dumps(obj)

    def loads(self, data: bytes) -> Any:
        return pickle.loads(data)


class Pickling(DictsOnly):
    def dumps(self, obj: Any) -> bytes:
        return pickle.dumps(obj)


@pytest.mark.parametrize("serializer", ["Encrypting", "DictsOnly", "Pickling"])
def test_merging_trusts_no_serializer(
    serializer: str, opened: Callable[..., Calls], settings: LazySettings
) -> None:
    settings.SESSION_SERIALIZER = f"{__name__}.{serializer}"
    words = {f"word {number}" for number in range(50)}
    key = saved(words=words, kept={"a": {1, 2}}, count=1)
    one, other = opened(key), opened(key)
    assert one.get("words") == other.get("words") == words
    one.session["kept"]["a"].add(3)
    one.session["count"] = 2
    one.save()
    other.session["mine"] = 1
    other.save()
    assert stored(key) == {"words": words, "kept": {"a": {1, 2, 3}}, "count": 2, "mine": 1}


def test_no_parallel_update_of_pickled_sets_is_lost(settings: LazySettings) -> None:
    settings.SESSION_SERIALIZER = f"{__name__}.Pickling"
    key = saved(words={f"word {number}" for number in range(20)})

    def change(number: int) -> None:
        for step in range(10):
            session = SessionStore(key)
            session["words"].add(f"{number} {step}")
            session[f"{number} {step}"] = {"a set", "of", "texts", str(number)}
            session.save()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(change, range(6)))
    found = stored(key)
    assert len(found) == 61
    assert all(
        found[f"{n} {s}"] == {"a set", "of", "texts", str(n)} for n in range(6) for s in range(10)
    )


# Loading, clearing, mutating


def test_asking_for_what_is_stored_drops_no_change_of_others(
    opened: Callable[..., Calls],
) -> None:
    key = saved(a=1)
    session = opened(key)
    assert session.get("a") == 1
    change_elsewhere(key, theirs=1)
    assert session.load() == {"a": 1, "theirs": 1}
    session.session["mine"] = 1
    session.save()
    assert stored(key) == {"a": 1, "theirs": 1, "mine": 1}


def test_a_mutation_after_a_clear_is_kept(opened: Callable[..., Calls]) -> None:
    for is_loaded in (False, True):
        key = saved(a=1, count=1)
        session = opened(key)
        if is_loaded:
            assert session.get("a") == 1
        session.session.clear()
        session.mutate(lambda data: data.update(count=data["count"] + 1))
        assert stored(key) == {"a": 1, "count": 2}
        assert dict(session.session.items()) == {"count": 2}
        session.save()
        assert stored(key) == {"count": 2}


def test_a_mutation_counts_where_this_request_has_changed_the_same(
    opened: Callable[..., Calls],
) -> None:
    key = saved(count=1)
    session = opened(key)
    session.session["count"] = 100
    session.mutate(lambda data: data.update(count=data["count"] + 1))
    session.save()
    assert stored(key) == {"count": 2}


def test_a_mutation_of_a_new_session_that_raises_leaves_no_record(
    opened: Callable[..., Calls],
) -> None:
    session = opened()
    session.session["before"] = {"n": 1}

    def fail(data: dict[str, Any]) -> None:
        data["before"]["n"] = 2
        raise LookupError("no")

    with pytest.raises(LookupError):
        session.mutate(fail)
    assert session.session.session_key is None
    assert dict(session.session.items()) == {"before": {"n": 1}}
    assert stores["default"].stats().live == 0


def test_a_mutation_by_an_async_function_is_refused(opened: Callable[..., Calls]) -> None:
    async def change(data: dict[str, Any]) -> None:
        data["a"] = 2

    key = saved(a=1)
    for session in (opened(key), opened()):
        with pytest.raises(TypeError, match="plain function"):
            session.mutate(change)
    assert stored(key) == {"a": 1}


def test_no_id_deletes_no_session(opened: Callable[..., Calls]) -> None:
    key = saved(a=1)
    session = opened(key)
    assert session.get("a") == 1
    session.delete("")
    assert session.exists(key)
    session.delete()
    assert not session.exists(key)


# What a login writes


def test_a_login_is_merged_as_one(opened: Callable[..., Calls]) -> None:
    alice = {"_auth_user_id": "1", "_auth_user_backend": "a", "_auth_user_hash": "x"}
    bob = {"_auth_user_id": "2", "_auth_user_backend": "b", "_auth_user_hash": "x"}

    def merge(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
        return merge_sessions(base, mine, theirs, {}, dict)

    assert merge({}, {**alice, "m": 1}, {**bob, "t": 1}) == {**alice, "m": 1, "t": 1}
    assert merge(alice, {**alice, "m": 1}, bob) == {**bob, "m": 1}
    assert merge(alice, {"m": 1}, {**alice, "_auth_user_hash": "y"}) == {"m": 1}


# Buckets


@dataclass
class Guest:
    views: int = 0
    name: str = ""


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_two_changes_of_a_bucket_from_its_default_both_stick(colour: str) -> None:
    guest = Bucket(Guest, key="guest", default=Guest)
    key = saved(a=1)
    one, other = SessionStore(key), SessionStore(key)
    assert one.get("a") == other.get("a") == 1

    async def change(session: SessionStore, **fields: Any) -> None:
        async with guest.achange(session) as value:
            for name, field in fields.items():
                setattr(value, name, field)
        await session.asave()

    if colour == "async":
        asyncio.run(change(one, views=1))
        asyncio.run(change(other, name="Bob"))
    else:
        with guest.change(one) as value:
            value.views = 1
        one.save()
        with guest.change(other) as value:
            value.name = "Bob"
        other.save()
    assert guest.get(SessionStore(key)) == Guest(1, "Bob")


# Large sessions


def test_a_large_session_does_not_hold_up_the_event_loop() -> None:
    large = {f"key {number}": number for number in range(20_000)}
    key = saved(**large)
    elsewhere: set[int] = set()

    class Watching(SessionStore):
        def _merge(self, *args: Any) -> None:
            elsewhere.add(threading.get_ident())
            super()._merge(*args)

        def _dumps(self, data: dict[str, Any]) -> bytes:
            elsewhere.add(threading.get_ident())
            return super()._dumps(data)

    async def main() -> None:
        session = Watching(key)
        await session.aset("mine", 1)
        await asyncio.to_thread(change_elsewhere, key, other=1)
        await session.asave()
        await session.amutate(lambda data: data.update(mine=2))

    asyncio.run(main())
    assert elsewhere
    assert threading.get_ident() not in elsewhere
    assert stored(key) == {**large, "mine": 2, "other": 1}


def test_a_session_that_opens_to_too_much_is_refused_both_ways(
    opened: Callable[..., Calls], settings: LazySettings, tmp_path: Path
) -> None:
    settings.SESSION_STORES = {
        "default": {"LOCATION": tmp_path / "small", "OPTIONS": {"max_record_size": 10_000}}
    }
    key = saved(a=1)
    session = opened(key)
    session.session["zeros"] = "0" * 150_000
    session.save()
    session.session["zeros"] = "0" * 170_000
    with pytest.raises(ValueError, match=r"160000 bytes, 16 times OPTIONS\['max_record_size'\]"):
        session.save()
    assert len(stored(key)["zeros"]) == 150_000
    settings.SESSION_STORES = {
        "default": {"LOCATION": tmp_path / "small", "OPTIONS": {"max_record_size": 9_000}}
    }
    assert opened(key).get("zeros") is None
    assert stores["default"].load(key_of(key)) is not None


# Cancelled in the middle


@pytest.mark.parametrize("method", ["asave", "acreate", "amutate", "acycle_key", "aflush"])
def test_a_cancelled_call_leaves_nothing_half_done_and_no_lock_held(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = saved(a=1)
    session = SessionStore(key)
    assert session["a"] == 1
    session["a"] = 2
    store = stores["default"]
    arguments = [lambda data: data.update(a=3)] if method == "amutate" else []
    waiting = asyncio.Event()
    for name in ("load", "create", "replace", "delete"):

        async def wait(*args: Any, **kwargs: Any) -> Any:
            waiting.set()
            await asyncio.sleep(60)

        monkeypatch.setattr(store, "a" + name, wait)

    async def main() -> None:
        task = asyncio.create_task(getattr(session, method)(*arguments))
        await asyncio.wait_for(waiting.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    monkeypatch.undo()
    assert stored(key) == {"a": 1}
    assert store.stats().live == 1
    # Nothing keeps the next one from its turn, nor has this object lost its place.
    session["b"] = 1
    session.save()
    assert stored(str(session.session_key))["b"] == 1
    change_elsewhere(str(session.session_key), c=1)


def test_a_store_that_fails_while_many_save_is_unavailable_to_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = saved(a=1)

    def fail(*args: Any, **kwargs: Any) -> bool:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(stores["default"], "replace", fail)
    for change in (lambda s: s.save(), lambda s: s.mutate(dict.clear)):
        session = SessionStore(key)
        session["b"] = 1
        with pytest.raises(StoreUnavailable):
            change(session)
    assert stored(key) == {"a": 1}
