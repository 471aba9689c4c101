"""Whatever happens between two steps of a move, and wherever it ends, nothing is lost or revived.

One request is stopped after each of its steps in turn. There another one does all that it
wants, or the first one ends for good, as killed processes do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.sessions.backends.base import UpdateError
from pytest_django.fixtures import Settings as DjangoSettings

from django_kvsessions.engine import SessionStore
from django_kvsessions.moving.formers import make_former
from django_kvsessions.moving.formers.base import Former
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Store

BEFORE = {"cart": ["pear"], "_auth_user_id": "7"}
#: More steps than any of these requests takes: the test says so if that is not true.
STEPS = 12


class Killed(BaseException):
    """The process of a request is no more."""


class Steps:
    """Lets something happen after one of the steps that are taken in the two houses."""

    def __init__(self, at: int, happens: Callable[[], None]) -> None:
        self.left = at
        self.happens = happens
        self.happened = False

    def take(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.happened = True
            self.happens()

    def after(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self.take()
            return result

        return stepping


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch, path: str) -> Callable[[int, Callable[[], None]], Steps]:
    def stop(at: int, happens: Callable[[], None]) -> Steps:
        steps = Steps(at, happens)
        former: type[Former] = type(make_former(path))
        store: type[Store] = type(stores["default"])
        for name in ("load", "take", "delete"):
            monkeypatch.setattr(former, name, steps.after(getattr(former, name)))
        for name in ("load", "create", "replace"):
            monkeypatch.setattr(store, name, steps.after(getattr(store, name)))
        return steps

    return stop


def there(former: Callable[..., Any]) -> str:
    session = former()
    session.update(BEFORE)
    session.save()
    key: str = session.session_key
    return key


def read(session: SessionStore, *, asynchronously: bool) -> dict[str, Any]:
    if asynchronously:
        return dict(async_to_sync(session.aitems)())
    return dict(session.items())


def found(key: str) -> dict[str, Any]:
    return dict(SessionStore(key).items())


def is_left(former: Callable[..., Any], key: str) -> bool:
    return bool(former(key).exists(key))


@pytest.fixture(autouse=True)
def _fast_store(settings: DjangoSettings) -> None:
    settings.SESSION_STORES = {"default": settings.SESSION_STORES["memory"]}


# One that can tell whether a session has changed as it is removed, and one that cannot. In async
# not the first, since what happens meanwhile would be on another connection to it.
@pytest.fixture(params=["db", "cache", "cache async", "cache encrypted"])
def path(request: pytest.FixtureRequest, settings: DjangoSettings) -> str:
    settings.SESSION_ENCRYPTION = "encrypted" in request.param
    name = f"django.contrib.sessions.backends.{request.param.partition(' ')[0]}"
    settings.SESSION_FALLBACK_ENGINES = [name]
    return name


@pytest.fixture
def asynchronously(request: pytest.FixtureRequest, path: str) -> bool:
    return "async" in request.node.callspec.params["path"]


@pytest.fixture(params=range(1, STEPS))
def step(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class TestEachStep:
    def test_what_another_request_changes_meanwhile_is_kept(
        self,
        step: int,
        former: Callable[..., Any],
        stop: Callable[..., Steps],
        asynchronously: bool,
    ) -> None:
        key = there(former)

        def change() -> None:
            other = SessionStore(key)
            other["other"] = 1
            other.save()

        session = SessionStore(key)
        steps = stop(step, change)
        assert read(session, asynchronously=asynchronously)["cart"] == ["pear"]
        session["one"] = 1
        session.save()
        steps.left = 0
        expected = {**BEFORE, "one": 1}
        assert found(key) == ({**expected, "other": 1} if steps.happened else expected)
        assert not is_left(former, key)

    def test_a_logout_meanwhile_holds(
        self,
        step: int,
        former: Callable[..., Any],
        stop: Callable[..., Steps],
        asynchronously: bool,
    ) -> None:
        key = there(former)
        session = SessionStore(key)
        steps = stop(step, lambda: SessionStore(key).flush())
        read(session, asynchronously=asynchronously)
        session["one"] = 1
        try:
            session.save()
        except UpdateError:
            assert steps.happened
        steps.left = 0
        if steps.happened:
            assert found(key) == {}
            assert not is_left(former, key)

    def test_a_move_and_a_logout_meanwhile_hold_even_if_this_one_is_killed_later(
        self,
        step: int,
        former: Callable[..., Any],
        stop: Callable[..., Steps],
        asynchronously: bool,
    ) -> None:
        for killed_at in range(1, STEPS - step + 1):
            key = there(former)

            session = SessionStore(key)
            steps = stop(step, die)

            def end(key: str = key, killed_at: int = killed_at, steps: Steps = steps) -> None:
                other = SessionStore(key)
                assert other["cart"] == ["pear"]
                other.flush()
                steps.happens, steps.left = die, killed_at

            steps.happens = end
            was_killed = False
            try:
                read(session, asynchronously=asynchronously)
            except Killed:
                was_killed = True
            steps.left = 0
            if steps.happened:
                assert found(key) == {}, killed_at
                assert not is_left(former, key)
            if not was_killed:
                break

    def test_who_is_killed_on_the_way_loses_nothing_and_leaves_nothing(
        self,
        step: int,
        former: Callable[..., Any],
        stop: Callable[..., Steps],
        asynchronously: bool,
    ) -> None:
        key = there(former)
        steps = stop(step, die)
        try:
            read(SessionStore(key), asynchronously=asynchronously)
        except Killed:
            assert steps.happened
        steps.left = 0
        session = SessionStore(key)
        assert dict(session.items()) == BEFORE
        assert not is_left(former, key)
        session.flush()
        assert found(key) == {}

    def test_what_the_former_engine_still_saves_is_kept(
        self,
        step: int,
        former: Callable[..., Any],
        stop: Callable[..., Steps],
        asynchronously: bool,
    ) -> None:
        """As of a worker from before the switch. It is told if it comes too late."""
        key = there(former)
        old = former(key)
        assert old["cart"] == ["pear"]
        told = []

        def save() -> None:
            old["cart"] = ["pear", "plum"]
            try:
                old.save()
            except UpdateError:
                told.append(True)

        steps = stop(step, save)
        read(SessionStore(key), asynchronously=asynchronously)
        steps.left = 0
        kept = steps.happened and not told
        assert found(key)["cart"] == (["pear", "plum"] if kept else ["pear"])
        assert not is_left(former, key)

    def test_a_logout_by_the_former_engine_before_the_move_holds(
        self,
        step: int,
        former: Callable[..., Any],
        stop: Callable[..., Steps],
    ) -> None:
        key = there(former)
        steps = stop(step, lambda: former(key).delete(key))
        session = SessionStore(key)
        data = dict(session.items())
        steps.left = 0
        # Either it was moved before, or it is nowhere; and it stays so.
        assert data in ({}, BEFORE)
        assert found(key) == data


def die() -> None:
    raise Killed
