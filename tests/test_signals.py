"""What is told of sessions: what happened, no ids, and nothing breaks a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.sessions.backends.base import UpdateError
from django.dispatch import Signal

from django_kvsessions import codec, signals
from django_kvsessions.engine import SessionStore
from django_kvsessions.owners import end_sessions, sessions_of
from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.memory import MemoryStore
from tests.support.owning import CHROME, logged_in
from tests.test_engine import Calls

MEMORY = {"BACKEND": "django_kvsessions.stores.memory.MemoryStore"}
ALL = {name: getattr(signals, name) for name in signals.__all__ if "_" in name}

Heard = list[tuple[str, dict[str, Any]]]


@pytest.fixture(autouse=True)
def _site(settings: LazySettings) -> None:
    settings.SESSION_STORES = {"default": MEMORY}


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Calls]:
    return lambda key=None: Calls(SessionStore(key), request.param == "async")


@pytest.fixture(params=["sync receiver", "async receiver"])
def heard(request: pytest.FixtureRequest) -> Iterator[Heard]:
    told: Heard = []
    receivers: list[tuple[Signal, Any]] = []
    for name, signal in ALL.items():

        def receive(sender: Any, signal: Signal, name: str = name, **named: Any) -> None:
            assert sender is MemoryStore
            told.append((name, named))

        async def areceive(sender: Any, signal: Signal, name: str = name, **named: Any) -> None:
            assert sender is MemoryStore
            told.append((name, named))

        receiver = receive if request.param == "sync receiver" else areceive
        signal.connect(receiver)
        receivers.append((signal, receiver))
    yield told
    for signal, receiver in receivers:
        signal.disconnect(receiver)


def names(heard: Heard) -> list[str]:
    return [name + ":" + named.get("reason", "") for name, named in heard]


def test_a_visit_is_told_from_its_begin_to_its_end(
    opened: Callable[..., Calls], heard: Heard
) -> None:
    visit = opened()
    visit.session["a"] = 1
    visit.save()
    assert heard == [("session_started", {"user_id": None, "user_agent": None, "ip": None})]
    heard.clear()
    visit.session["a"] = 2
    visit.save()
    assert heard == []
    visit.cycle_key()
    visit.session["_auth_user_id"] = "7"
    visit.session.record_visitor({"HTTP_USER_AGENT": CHROME, "REMOTE_ADDR": "192.0.2.77"})
    visit.save()
    assert heard == [
        ("session_ended", {"reason": "login", "user_id": None}),
        ("session_started", {"user_id": "7", "user_agent": CHROME, "ip": None}),
    ]
    heard.clear()
    again = opened(visit.session.session_key)
    assert again.get("a") == 2
    again.session["_auth_user_id"] = "7"
    again.save()
    assert names(heard) == ["session_ended:login", "session_started:"]
    assert heard[0][1]["user_id"] == "7"
    heard.clear()
    again.flush()
    assert heard == [("session_ended", {"reason": "logout", "user_id": "7"})]
    heard.clear()
    again.flush()
    assert heard == []


def test_sessions_that_others_end_are_told_with_the_reason(
    heard: Heard, settings: LazySettings
) -> None:
    logged_in("7")
    heard.clear()
    end_sessions("7")
    assert heard == [("session_ended", {"reason": "elsewhere", "user_id": "7"})]
    settings.SESSION_MAX_PER_USER = 1
    logged_in("7")
    heard.clear()
    logged_in("7")
    assert names(heard) == ["session_ended:limit", "session_started:"]


def test_a_conflict_and_a_record_that_does_not_verify_are_told(
    opened: Callable[..., Calls], heard: Heard
) -> None:
    key = logged_in("7").session_key
    one, other = opened(key), opened(key)
    assert one.get("a") is other.get("a") is None
    one.session["a"] = other.session["b"] = 1
    one.save()
    heard.clear()
    other.save()
    assert heard == [("session_conflict", {})]
    heard.clear()
    place = codec.storage_key(str(key))
    record = other.session.store.load(place)
    assert record
    other.session.store.replace(place, record._replace(data=b"x" * 100))
    assert opened(key).get("a") is None
    assert names(heard) == ["session_rejected:its tag does not match"]


def test_a_store_that_fails_is_told_of_with_what_it_was_asked(
    opened: Callable[..., Calls], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit = opened(logged_in("7").session_key)
    assert visit.get("a") is None
    heard.clear()

    def load(self: object, key: bytes) -> Any:
        raise StoreUnavailable("away")

    def replace(self: object, key: bytes, record: Any, **kwargs: Any) -> Any:
        raise StoreUnavailable("away")

    for function in (load, replace):
        monkeypatch.setattr(MemoryStore, function.__name__, function)
    visit.session["a"] = 1
    with pytest.raises(StoreUnavailable):
        visit.save()
    with pytest.raises(StoreUnavailable):
        opened(visit.session.session_key).get("a")
    assert [named["operation"].removeprefix("a") for _, named in heard] == ["replace", "load"]
    assert str(heard[0][1]["error"]) == "away"


def test_no_signal_has_an_id(heard: Heard, settings: LazySettings) -> None:
    settings.SESSION_MAX_PER_USER = 1
    ids = []
    for _ in range(3):
        session = logged_in("7")
        session.label("sid", "x")
        session.save()
        session.cycle_key()
        ids += [str(session.session_key), str(session.public_id)]
        ids.append(codec.storage_key(str(session.session_key)).hex())
    session.flush()
    assert {name for name, _ in heard} == {"session_started", "session_ended"}
    assert not [each for each in ids if each in repr(heard)]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_receiver_that_raises_is_logged_and_breaks_nothing(
    opened: Callable[..., Calls], is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**kwargs: Any) -> None:
        raise ZeroDivisionError("a receiver")

    async def afail(**kwargs: Any) -> None:
        raise ZeroDivisionError("a receiver")

    receiver = afail if is_async else fail
    for signal in ALL.values():
        signal.connect(receiver)
    try:
        with caplog.at_level(logging.ERROR, "django.dispatch"):
            visit = opened()
            visit.session._session["_auth_user_id"] = "7"
            visit.save()
            slow = opened(visit.session.session_key)
            assert slow.get("_auth_user_id") == "7"
            visit.flush()
        assert caplog.text.count("ZeroDivisionError: a receiver") == 2
        with pytest.raises(UpdateError):
            slow.cycle_key()
        assert sessions_of("7") == []
    finally:
        for signal in ALL.values():
            signal.disconnect(receiver)


def test_nothing_is_sent_where_nobody_listens(
    opened: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    with monkeypatch.context() as patch:
        for name in ("send_robust", "asend_robust"):
            patch.setattr(Signal, name, fail)
        visit = opened()
        visit.session._session["_auth_user_id"] = "7"
        visit.save()
        visit.cycle_key()
        visit.flush()
