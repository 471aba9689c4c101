"""What is in a bucket has the bucket's type, or the error says which field has not, and why."""

from __future__ import annotations

import asyncio
import enum
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieSession
from django.contrib.sessions.serializers import JSONSerializer
from django.core.exceptions import ImproperlyConfigured
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from django_kvsessions.engine import SessionStore
from django_kvsessions.serializers import MessagePackSerializer
from django_kvsessions.typed import Bucket, BucketError

BERLIN = ZoneInfo("Europe/Berlin")


class Size(enum.Enum):
    SMALL = "small"


class Line(NamedTuple):
    sku: str
    quantity: int


@dataclass
class Address:
    street: str
    since: date | None = None


@dataclass
class Guest:
    pageviews: int = 0
    first_seen: datetime | None = None
    tags: set[str] = field(default_factory=set)
    address: Address | None = None
    extra: Any = None


@dataclass
class Everything:
    moment: datetime
    naive: datetime
    day: date
    hour: time
    age: timedelta
    price: Decimal
    id: UUID
    raw: bytes
    big: int
    size: Size
    names: frozenset[str]
    groups: set[frozenset[str]]
    lines: list[Line]
    pair: tuple[int, str]
    by_number: dict[int, set[int]]
    by_id: dict[UUID, date]
    homes: dict[str, Address]


EVERYTHING = Everything(
    moment=datetime(2026, 10, 25, 2, 30, tzinfo=timezone.utc),
    naive=datetime(2026, 1, 2, 3, 4, 5, 6),
    day=date(2026, 1, 2),
    hour=time(1, 2, 3),
    age=timedelta(days=1, microseconds=1),
    price=Decimal("19.90"),
    id=UUID(int=7),
    raw=b"\x00\xff",
    big=2**70,
    size=Size.SMALL,
    names=frozenset({"a", "b"}),
    groups={frozenset({"a"}), frozenset({"b", "c"})},
    lines=[Line("x", 1)],
    pair=(1, "one"),
    by_number={1: {2, 3}},
    by_id={UUID(int=7): date(2026, 1, 2)},
    homes={"b": Address("B"), "a": Address("A", date(2026, 1, 2))},
)


class Options(TypedDict, total=False):
    colour: str
    count: int


class Profile(msgspec.Struct, tag="profile", rename="camel"):
    first_name: str = ""
    seen_pages: set[int] = msgspec.field(default_factory=set)


class Compact(msgspec.Struct, array_like=True):
    numbers: set[int]
    name: str = ""


guest = Bucket(Guest, key="guest", default=Guest)
counter = Bucket(int, key="counter", default=0)


def engine_session() -> SessionBase:
    return SessionStore()


def cookie_session(serializer: Any = MessagePackSerializer) -> SessionBase:
    session = CookieSession()
    session.serializer = serializer
    return session


def json_session() -> SessionBase:
    return cookie_session(JSONSerializer)


def reloaded(session: SessionBase) -> SessionBase:
    """The session as the next request has it."""
    session.save()
    again = type(session)(session.session_key)
    again.serializer = session.serializer
    return again


@pytest.fixture(params=[engine_session, cookie_session, json_session])
def session(request: pytest.FixtureRequest) -> SessionBase:
    make: Callable[[], SessionBase] = request.param
    return make()


def stored_is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if type(value) in (list, tuple, set, frozenset):
        return all(map(stored_is_plain, value))
    return type(value).__module__ in ("builtins", "datetime", "decimal", "uuid")


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Everything, EVERYTHING),
        (Guest, Guest(3, datetime(2026, 1, 2, tzinfo=timezone.utc), {"a"}, Address("x"))),
        (Options, {"colour": "red"}),
        (Profile, Profile("Ada", {1, 2})),
        (Compact, Compact({1, 2}, "x")),
        (list[Guest], [Guest(1), Guest(tags={"a"})]),
        (dict[str, Profile], {"a": Profile("Ada", {1})}),
        (int | None, None),
        (int, 2**70),
        (set[str], {"a", "b"}),
        (Size, Size.SMALL),
        (Line, Line("x", 2)),
    ],
    # The text of a set differs from process to process.
    ids=lambda each: getattr(each, "__name__", type(each).__name__),
)
def test_value_comes_back_as_its_own_type(session: SessionBase, type_: Any, value: Any) -> None:
    bucket: Bucket[Any] = Bucket(type_, key="it")
    bucket.set(session, value)
    assert stored_is_plain(session["it"])
    again = reloaded(session)
    assert bucket.get(again) == value
    assert type(bucket.get(again)) is type(value)


def test_time_zones_and_the_order_of_dicts_are_kept() -> None:
    session = engine_session()
    moments: Bucket[dict[str, datetime]] = Bucket(dict[str, datetime], key="it")
    moment = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)
    moments.set(session, {"b": moment, "a": moment})
    got = moments.get(reloaded(session))
    assert list(got) == ["b", "a"]
    assert got["b"].tzinfo is BERLIN
    assert got["b"].fold == 1


def test_sets_are_stored_as_sets_where_the_serializer_keeps_them() -> None:
    session = engine_session()
    bucket: Bucket[Any] = Bucket(Everything, key="it")
    bucket.set(session, EVERYTHING)
    assert session["it"]["names"] == {"a", "b"}
    assert session["it"]["groups"] == EVERYTHING.groups
    assert session["it"]["by_number"] == {1: {2, 3}}
    profile = Bucket(Profile, key="profile")
    profile.set(session, Profile(seen_pages={1, 2}))
    assert session["profile"] == {"type": "profile", "firstName": "", "seenPages": {1, 2}}


def test_same_value_gives_the_same_bytes_in_every_process() -> None:
    program = (
        "import django; django.setup()\n"
        "from tests.test_typed import Guest, engine_session, guest\n"
        "session = engine_session()\n"
        "guest.set(session, Guest(tags={str(number) for number in range(50)}))\n"
        "print(session.serializer().dumps(session['guest']).hex())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[1],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "DJANGO_SETTINGS_MODULE": "tests.settings",
            },
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_changing_marks_the_session_modified_and_reading_does_not(session: SessionBase) -> None:
    assert guest.get(session).pageviews == 0
    assert not session.modified
    assert "guest" not in session
    with guest.change(session) as value:
        value.pageviews += 1
    assert session.modified
    again = reloaded(session)
    assert guest.get(again).pageviews == 1
    guest.get(again).pageviews = 5
    guest.get(again).tags.add("lost")
    assert not again.modified
    assert guest.get(again) == Guest(1)


def test_what_was_read_shares_nothing_with_the_session() -> None:
    session = engine_session()
    value = Guest(extra={"list": [1]})
    guest.set(session, value)
    value.extra["list"].append(2)
    guest.get(session).extra["list"].append(3)
    assert session["guest"]["extra"] == {"list": [1]}


def test_exception_within_a_change_leaves_the_session_as_it_was(session: SessionBase) -> None:
    guest.set(session, Guest(1, extra=[1]))
    session.modified = False

    def fail() -> None:
        with guest.change(session) as value:
            value.pageviews = 2
            value.extra.append(2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert guest.get(session) == Guest(1, extra=[1])
    assert not session.modified


def test_change_that_does_not_fit_leaves_the_session_as_it_was(session: SessionBase) -> None:
    guest.set(session, Guest(1))
    session.modified = False

    def spoil() -> None:
        with guest.change(session) as value:
            value.pageviews = "two"  # type: ignore[assignment]  # does not fit

    with pytest.raises(BucketError, match=r"session\['guest'\].*`\$\.pageviews`"):
        spoil()
    with pytest.raises(BucketError, match=r"`\$\.pageviews`"):
        guest.set(session, Guest("three"))  # type: ignore[arg-type]  # does not fit
    assert guest.get(session) == Guest(1)
    assert not session.modified


@pytest.mark.parametrize("value", [object(), Guest(extra=object()), Guest(extra={1: len})])
def test_value_that_cannot_be_stored_is_refused(session: SessionBase, value: Any) -> None:
    bucket: Bucket[Any] = Bucket(Any, key="it")
    with pytest.raises(BucketError, match=r"session\['it'\].*cannot be stored"):
        bucket.set(session, value)
    assert "it" not in session


def test_keys_that_json_cannot_take_are_refused_under_json_alone() -> None:
    bucket: Bucket[dict[tuple[int, int], int]] = Bucket(dict[tuple[int, int], int], key="it")
    session = engine_session()
    bucket.set(session, {(1, 2): 3})
    assert bucket.get(reloaded(session)) == {(1, 2): 3}
    with pytest.raises(BucketError, match=r"session\['it'\].*keys"):
        bucket.set(json_session(), {(1, 2): 3})


def test_value_that_holds_itself_is_refused(session: SessionBase) -> None:
    value = Guest()
    value.extra = [value]
    with pytest.raises(BucketError, match=r"session\['guest'\]"):
        guest.set(session, value)


def test_subclasses_and_lazy_strings_are_stored_plain(session: SessionBase) -> None:
    guest.set(session, Guest(extra=[mark_safe("<b>"), gettext_lazy("Monday"), True]))
    assert [type(item) for item in session["guest"]["extra"]] == [str, str, bool]
    assert guest.get(reloaded(session)).extra == ["<b>", "Monday", True]


def test_stored_value_that_no_longer_fits_names_the_key_the_field_and_why() -> None:
    session = engine_session()
    session["guest"] = {"pageviews": 1, "address": {"street": 5}}
    with pytest.raises(BucketError) as caught:
        guest.get(session)
    assert str(caught.value) == (
        "session['guest'] does not fit Guest: Expected `str`, got `int` - at `$.address.street`"
    )
    assert isinstance(caught.value, ValueError)
    with pytest.raises(BucketError), guest.change(session):
        raise AssertionError("the view must not run")
    assert session["guest"] == {"pageviews": 1, "address": {"street": 5}}


def test_stored_value_that_no_longer_fits_gives_the_default_where_asked() -> None:
    lenient = Bucket(Guest, key="guest", default=lambda: Guest(7), on_invalid="default")
    session = engine_session()
    session["guest"] = "what an older release wrote"
    assert lenient.get(session) == Guest(7)
    assert lenient.get(session, None) is None
    assert session["guest"] == "what an older release wrote"
    with lenient.change(session) as value:
        value.pageviews += 1
    assert guest.get(session) == Guest(8)


def test_missing_value_without_a_default_is_an_error_unless_the_call_gives_one() -> None:
    bucket = Bucket(Guest, key="guest")
    session = engine_session()
    with pytest.raises(BucketError, match=r"session\['guest'\] is not set"):
        bucket.get(session)
    assert bucket.get(session, None) is None
    bucket.set(session, Guest(1))
    assert bucket.get(session, None) == Guest(1)


def test_none_is_a_value_like_any_other(session: SessionBase) -> None:
    bucket: Bucket[int | None] = Bucket(int | None, key="it", default=5)
    assert bucket.get(session) == 5
    bucket.set(session, None)
    assert bucket.get(reloaded(session)) is None


def test_defaults_are_never_shared() -> None:
    one = Bucket(Guest, key="one", default=Guest(extra=[]))
    many: Bucket[list[int]] = Bucket(list[int], key="many", default=[1])
    first, second = engine_session(), engine_session()
    one.get(first).extra.append(1)
    many.get(first).append(2)
    with many.change(first) as value:
        value.append(3)
    assert one.get(second).extra == []
    assert many.get(second) == [1]
    assert many.get(first) == [1, 3]


def test_buckets_in_one_session_do_not_disturb_each_other(session: SessionBase) -> None:
    other = Bucket(Guest, key="other guest", default=Guest)
    with guest.change(session) as one, other.change(session) as two:
        one.pageviews, two.pageviews = 1, 2
    counter.set(session, 3)
    session["plain"] = "untouched"
    again = reloaded(session)
    guest.delete(again)
    assert "guest" not in again
    assert other.get(again).pageviews == 2
    assert counter.get(again) == 3
    assert again["plain"] == "untouched"


def test_deleting_marks_the_session_modified_only_where_there_was_a_value() -> None:
    session = engine_session()
    guest.delete(session)
    assert not session.modified
    guest.set(session, Guest())
    again = reloaded(session)
    guest.delete(again)
    assert again.modified
    assert "guest" not in reloaded(again)


def test_value_that_cannot_change_in_place_is_refused_by_change() -> None:
    session = engine_session()
    with pytest.raises(TypeError, match="int, which cannot be changed"), counter.change(session):
        pass
    assert "counter" not in session


def test_async_variants_do_the_same(session: SessionBase) -> None:
    async def fail() -> None:
        async with guest.achange(session) as value:
            value.pageviews += 1
            raise KeyError

    async def use() -> None:
        assert await guest.aget(session) == Guest()
        assert not session.modified
        async with guest.achange(session) as value:
            value.pageviews += 1
        assert session.modified
        with pytest.raises(KeyError):
            await fail()
        assert await guest.aget(session) == Guest(1)
        with pytest.raises(BucketError, match="pageviews"):
            await guest.aset(session, Guest("x"))
        await guest.aset(session, Guest(5))
        assert await guest.aget(session, None) == Guest(5)
        await guest.adelete(session)
        assert await guest.aget(session, None) is None

    asyncio.run(use())


def test_mutate_changes_the_freshest_value_and_returns_it() -> None:
    session = engine_session()
    guest.set(session, Guest(1))
    session.save()
    other = SessionStore(session.session_key)
    assert guest.get(other).pageviews == 1
    with guest.change(session) as value:
        value.pageviews = 10
    session.save()

    def visit(value: Guest) -> None:
        value.pageviews += 1

    assert guest.mutate(other, visit) == Guest(11)
    assert counter.mutate(other, lambda value: value + 1) == 1
    assert asyncio.run(counter.amutate(other, lambda value: value + 1)) == 2
    again = SessionStore(session.session_key)
    assert guest.get(again) == Guest(11)
    assert counter.get(again) == 2


def test_mutate_that_fails_or_does_not_fit_changes_nothing() -> None:
    session = engine_session()
    guest.set(session, Guest(1))
    session.save()

    def fail(value: Guest) -> None:
        value.pageviews += 1
        raise KeyError

    def spoil(value: Guest) -> None:
        value.pageviews = "two"  # type: ignore[assignment]  # does not fit

    with pytest.raises(KeyError):
        guest.mutate(session, fail)
    with pytest.raises(BucketError, match="pageviews"):
        guest.mutate(session, spoil)
    assert guest.get(SessionStore(session.session_key)) == Guest(1)
    assert guest.get(session) == Guest(1)


def test_two_requests_that_change_different_fields_both_stick() -> None:
    session = engine_session()
    guest.set(session, Guest(tags={"a", "b"}))
    session.save()
    one, two = SessionStore(session.session_key), SessionStore(session.session_key)
    with guest.change(one) as first, guest.change(two) as second:
        first.tags.add("c")
        second.pageviews = 3
    one.save()
    two.save()
    assert guest.get(SessionStore(session.session_key)) == Guest(3, tags={"a", "b", "c"})


def test_missing_msgspec_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install django-kvsessions\[typed\]"):
        Bucket(Guest, key="guest")


def test_wrong_use_of_on_invalid_is_refused() -> None:
    with pytest.raises(ValueError, match="on_invalid"):
        Bucket(Guest, key="guest", on_invalid="ignore")  # type: ignore[call-overload]  # refused
    with pytest.raises(ValueError, match="needs a default"):
        Bucket(Guest, key="guest", on_invalid="default")


def test_type_checkers_know_what_get_returns() -> None:
    # mypy checks this file: a wrong type here is an error of the lint run.
    session = engine_session()
    views: int = guest.get(session).pageviews
    perhaps: Guest | None = Bucket(Guest, key="other").get(session, None)
    number: int = counter.get(session)
    assert (views, perhaps, number) == (0, None, 0)
