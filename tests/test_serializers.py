"""Each value comes back as its own type; any bytes decode or raise ValueError."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, namedtuple
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.core import signing
from django.db.models import TextChoices
from django.http import QueryDict
from django.utils.functional import lazy
from django.utils.safestring import SafeString, mark_safe
from django.utils.timezone import get_fixed_timezone
from django.utils.translation import gettext_lazy, override
from hypothesis import example, given
from hypothesis import strategies as st
from msgpack import ExtType, packb

from django_kvsessions.serializers import MessagePackSerializer

pytestmark = pytest.mark.same

BERLIN = ZoneInfo("Europe/Berlin")
NAN = float("nan")

Point = namedtuple("Point", "x y")  # noqa: PYI024  a plain one, as found in the wild


class Colour(TextChoices):
    RED = "red", "Red"


class Level(enum.IntEnum):
    HIGH = 2**70
    LOW = 1


class Word(str, enum.Enum):  # its str() is "Word.YES", unlike a StrEnum's
    YES = "yes"


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Real(float):
    __slots__ = ()


class Moment(datetime):
    pass


class Words(list[Any]):
    pass


class HourAhead(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, when: datetime | None) -> None:
        return None

    def tzname(self, when: datetime | None) -> str:
        return "one ahead"


def dumps(value: Any) -> bytes:
    return MessagePackSerializer().dumps(value)


def loads(data: bytes) -> Any:
    return MessagePackSerializer().loads(data)


def round_trip(value: Any) -> Any:
    return loads(dumps(value))


def same(one: Any, two: Any) -> bool:
    """Equal, and of the same type all the way down; NaN is the same as NaN."""
    if type(one) is not type(two):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(two) and all(any(same(a, b) for b in two) for a in one)
    if isinstance(one, (datetime, time)):
        if one.tzinfo is not None and (one.tzname(), one.utcoffset()) != (
            two.tzname(),
            two.utcoffset(),
        ):
            return False
        fields = one.replace(tzinfo=None), one.fold, type(one.tzinfo), str(one.tzinfo)
        return fields == (two.replace(tzinfo=None), two.fold, type(two.tzinfo), str(two.tzinfo))
    if isinstance(one, (float, Decimal)):
        return str(one) == str(two)
    return bool(one == two)


def nested(value: Any, levels: int, wrap: Any) -> Any:
    for _ in range(levels):
        value = wrap(value)
    return value


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    # Lone surrogates too.
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.decimals(),
    st.uuids(),
    st.dates(),
    st.timedeltas(),
    st.times(timezones=st.one_of(st.none(), st.timezones())),
    st.datetimes(timezones=st.one_of(st.none(), st.timezones()), allow_imaginary=False),
    st.datetimes(timezones=st.timedeltas(-timedelta(hours=23), timedelta(hours=23)).map(timezone)),
)
keys = st.recursive(
    # A signalling NaN cannot be hashed.
    scalars.filter(lambda value: not (isinstance(value, Decimal) and value.is_snan())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)
    ),
    max_leaves=5,
)
values = st.recursive(
    st.one_of(scalars, keys, st.sets(keys, max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=20,
)


@given(values)
def test_any_nesting_comes_back_with_every_type_as_it_was(value: Any) -> None:
    assert same(round_trip(value), value)


@pytest.mark.parametrize(
    "value",
    [
        {1: "int", None: "none", 2.5: "float", b"b": "bytes", (1, "a"): "tuple"},
        {True: "bool", 0: "zero", UUID(int=1): "uuid", date(2026, 1, 2): "date"},
        {datetime(2026, 1, 2, tzinfo=BERLIN): 1, frozenset({1, (2,)}): 2, 2**100: 3},
        [(), [], set(), frozenset(), {}, "", b""],
        [((),), [()], (([],),), {"a": ((1, 2), [(3,)])}],
        [1.0, -0.0, float("inf"), -float("inf"), NAN],
        [
            Decimal("-0"),
            Decimal("1E+500"),
            Decimal("1.10"),
            Decimal("sNaN12"),
            Decimal("-Infinity"),
        ],
        [timedelta.min, timedelta.max, timedelta.resolution, -timedelta.resolution],
        [datetime.min, datetime.max, date.min, date.max, time.min, time.max],
        [2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 2**127, -(2**127)],
        ["\ud800", {"\udfff": ("\ud83d", "é")}, {"\ud800", "a"}],
        # What the start of a tuple looks like, as plain bytes.
        [b"\xd4\x00t", "\x00", {b"\xd4\x00": 1}],
        [True, 1, 1.0, False, 0],
    ],
)
def test_value_comes_back_as_its_own_type(value: Any) -> None:
    assert same(round_trip(value), value)


@pytest.mark.parametrize(
    "zone",
    [
        timezone.utc,
        BERLIN,
        ZoneInfo("UTC"),
        timezone(timedelta(hours=5, minutes=30)),
        timezone(-timedelta(seconds=1, microseconds=1)),
        timezone(timedelta(0), "GMT"),
        get_fixed_timezone(-90),
    ],
)
def test_time_zone_comes_back_as_itself(zone: tzinfo) -> None:
    moment = datetime(2026, 10, 25, 2, 30, tzinfo=zone)
    for value in (moment, moment.replace(fold=1), moment.timetz(), moment.timetz().replace(fold=1)):
        got = round_trip(value)
        assert same(got, value)
        assert repr(got) == repr(value)


def test_utc_and_zones_with_a_key_are_the_one_object_of_the_process() -> None:
    moment = datetime(2026, 10, 25, tzinfo=timezone.utc)
    assert round_trip(moment).tzinfo is timezone.utc
    assert round_trip(moment.replace(tzinfo=BERLIN)).tzinfo is BERLIN


def test_other_time_zone_becomes_a_fixed_offset_at_the_same_instant() -> None:
    moment = datetime(2026, 10, 25, 12, tzinfo=HourAhead())
    assert same(
        round_trip(moment), moment.replace(tzinfo=timezone(timedelta(hours=1), "one ahead"))
    )


def test_integers_of_any_size_in_linear_time() -> None:
    for bits in (64, 65, 1000, 8 * 100_000):
        for value in (2**bits, -(2**bits), 2**bits - 1, -(2**bits) - 1):
            assert round_trip(value) == value
    assert len(dumps(2 ** (8 * 100_000))) < 100_010


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (mark_safe("<b>"), "<b>"),
        (SafeString("x"), "x"),
        (Colour.RED, "red"),
        (Word.YES, "yes"),
        (Text("as it is"), "as it is"),
        (Level.LOW, 1),
        (Level.HIGH, 2**70),
        (Real(1.5), 1.5),
        (Words([1, (2,)]), [1, (2,)]),
        (Point(1, [2]), (1, [2])),
        (OrderedDict([("b", 1), ("a", 2)]), {"b": 1, "a": 2}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (QueryDict("a=1&a=2&b=3"), {"a": "2", "b": "3"}),
        (Moment(2026, 1, 2, tzinfo=BERLIN), datetime(2026, 1, 2, tzinfo=BERLIN)),
        (bytearray(b"ab"), b"ab"),
        (lazy(lambda: "late", str)(), "late"),
    ],
)
def test_subclass_comes_back_as_the_plain_type(value: Any, plain: Any) -> None:
    assert same(round_trip(value), plain)
    assert same(round_trip({"deep": [(value,)]}), {"deep": [(plain,)]})


def test_subclass_as_key_comes_back_as_the_plain_type() -> None:
    value = {Colour.RED: 1, Level.HIGH: 2, Point(1, 2): 3, gettext_lazy("Monday"): 4}
    assert same(round_trip(value), {"red": 1, 2**70: 2, (1, 2): 3, "Monday": 4})


def test_lazy_string_is_stored_in_the_language_of_the_moment() -> None:
    with override("de"):
        data = dumps({"day": gettext_lazy("Monday")})
    assert loads(data) == {"day": "Montag"}


def test_works_with_signing() -> None:
    value = {"when": datetime(2026, 1, 2, tzinfo=BERLIN), 1: (2, {3})}
    signed = signing.dumps(value, serializer=MessagePackSerializer, compress=True)
    assert same(signing.loads(signed, serializer=MessagePackSerializer), value)


@given(st.lists(keys, max_size=6), st.randoms())
def test_equal_sets_give_equal_bytes(items: list[Any], random: Any) -> None:
    # Of equal items of two types, as 1 and True, a set keeps the first it met.
    items = list(dict.fromkeys(items))
    shuffled = random.sample(items, len(items))
    assert dumps(set(items)) == dumps(set(shuffled))
    assert dumps(frozenset(items)) == dumps(frozenset(shuffled))


def test_bytes_do_not_depend_on_the_process() -> None:
    program = (
        "from django_kvsessions.serializers import MessagePackSerializer\n"
        "words = {str(number) for number in range(50)}\n"
        "value = {'words': words, 'nested': {frozenset({word, 1, ()}) for word in words}}\n"
        "print(MessagePackSerializer().dumps(value).hex())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1


def test_nested_frozensets_do_not_take_exponential_time() -> None:
    value = nested(frozenset(), 100, lambda inner: frozenset({inner, 1}))
    # 2**100 steps would never end.
    assert same(round_trip(value), value)


class Unknown:
    def __repr__(self) -> str:
        return "a secret"


@pytest.mark.parametrize("value", [Unknown(), object, len, 1j, range(3), memoryview, iter([])])
def test_unserialisable_value_is_a_type_error_that_says_where(value: Any) -> None:
    with pytest.raises(TypeError, match=r"is not serializable$"):
        dumps(value)
    with pytest.raises(TypeError, match=r"is not serializable at \['cart'\]\[1\]\[2\]$"):
        dumps({"a": 1, "cart": [{"b": 2}, (1, 2, value)]})
    with pytest.raises(TypeError, match="is not serializable at") as caught:
        dumps({"cart": {"items": [{("key", value): 1}]}})
    assert "a secret" not in str(caught.value)


def test_time_zone_without_a_fixed_offset_is_a_type_error_for_a_time() -> None:
    class NoOffset(HourAhead):
        def utcoffset(self, when: datetime | None) -> timedelta:
            return None  # type: ignore[return-value]  # tzinfo's own allows it

    with pytest.raises(TypeError, match="time zone"):
        dumps({"at": time(12, tzinfo=NoOffset())})


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [
        (lambda inner: [inner], 500),
        (lambda inner: (inner,), 500),
        (lambda inner: {"a": inner}, 500),
        (lambda inner: frozenset({inner}), 100),
        (lambda inner: (1, frozenset({(inner, 2)})), 100),
    ],
    ids=["list", "tuple", "dict", "frozenset", "mixed"],
)
def test_deep_nesting_round_trips_or_is_refused_at_dumps(wrap: Any, taken: int) -> None:
    value = nested(0, 100, wrap)
    assert same(round_trip(value), value)
    for levels in (taken, taken + 1, 511, 512, 513, 514):
        value = nested(0, levels, wrap)
        try:
            data = dumps(value)
        except ValueError:
            assert levels > taken
        else:
            loads(data)
    with pytest.raises(ValueError, match="nested too deep"):
        dumps(nested(0, 5000, wrap))


def test_data_that_holds_itself_is_refused() -> None:
    in_list: list[Any] = []
    in_list.append(in_list)
    in_tuple: Any = ([],)
    in_tuple[0].append(in_tuple)
    in_dict: dict[str, Any] = {}
    in_dict["self"] = {"deep": [in_dict]}
    for value in (in_list, in_tuple, in_dict):
        with pytest.raises(ValueError, match="holding itself"):
            dumps({"a": value})


def test_data_that_holds_itself_and_something_unserialisable_is_refused() -> None:
    value: dict[str, Any] = {"bad": [Unknown()]}
    value["self"] = value
    with pytest.raises(TypeError, match=r"at \['bad'\]\[0\]$"):
        dumps(value)


def decodes_or_value_error(data: bytes) -> None:
    try:
        value = loads(data)
    except ValueError as error:
        assert len(str(error)) < 500  # noqa: PT017  no secrets, no megabytes
        return
    # Nothing of the format's own leaks into what is decoded.
    check_plain(value)


def check_plain(value: Any) -> None:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        assert not isinstance(value, (type, ExtType))
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xd4\x00t")
@example(b"\x92\xd4\x00t")
@example(b"\x91\xd4\x00x")
@example(b"\x92\xd4\x00s\x90")
@example(b"\x92\xc0\xd4\x00t")
@example(b"\x92\xd4\x00t\xd4\x00t")
@example(b"\x81\xd4\x00t\x01")
@example(b"\x81\x01\xd4\x00f")
@example(b"\x81\x90\xd4\x00f")
@example(b"\x82\x90\x01\x01\x02")
@example(b"\xd4\x7ft")
@example(b"\xd4\xfft")
@example(b"\xc1")
@example(b"\xa1\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xdd\xff\xff\xff\xff" * 50)
def test_any_bytes_decode_or_raise_value_error(data: bytes) -> None:
    decodes_or_value_error(data)


@given(st.integers(0, 127), st.one_of(st.binary(max_size=40), values.map(dumps)))
def test_any_extension_decodes_or_raises_value_error(code: int, data: bytes) -> None:
    decodes_or_value_error(packb(ExtType(code, data)))
    decodes_or_value_error(packb([ExtType(0, b"t"), {1: ExtType(code, data)}]))


@given(values, st.data())
def test_damaged_bytes_decode_or_raise_value_error(value: Any, data: st.DataObject) -> None:
    damaged = bytearray(dumps(value))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    decodes_or_value_error(bytes(damaged))
    decodes_or_value_error(bytes(damaged[:position]))
    decodes_or_value_error(bytes(damaged) + b"\xc0")


@pytest.mark.parametrize(
    "level",
    [b"\x91", b"\x92\xd4\x00t", b"\x92\xd4\x00s", b"\x81\xc0", b"\x81", b"\xdd\x00\x00\x00\x01"],
)
def test_deep_nesting_in_the_bytes_raises_value_error(level: bytes) -> None:
    for levels in (1_000, 1_023, 1_024, 1_025, 100_000):
        decodes_or_value_error(level * levels + b"\xc0")


@pytest.mark.parametrize("code", range(1, 128))
def test_extensions_within_extensions_do_not_recurse(code: int) -> None:
    data = b"\xc0"
    for _ in range(300):
        data = packb(ExtType(code, data))
    decodes_or_value_error(data)


def test_unknown_extension_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="unknown extension 100"):
        loads(packb({"a": ExtType(100, b"")}))


def test_error_does_not_quote_the_data() -> None:
    for code in range(10):
        extension = ExtType(code, b"another secret \xff")
        with pytest.raises(ValueError, match="Not session data") as caught:
            loads(packb(["a secret", [ExtType(0, b"t")], extension]) + b"\xa6secret")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "zone", ["", "../../etc/passwd", "/etc/passwd", "America", "No/Such", "\x00", "é" * 300]
)
def test_unknown_time_zone_is_a_value_error(zone: str) -> None:
    with pytest.raises(ValueError, match="Not session data"):
        loads(packb(ExtType(6, packb([2026, 1, 2, 3, 4, 5, 6, 0, zone]))))


def test_a_short_message_does_not_claim_much_memory() -> None:
    import tracemalloc

    size = 2**16
    claim = b"\xdd" + size.to_bytes(4, "big")
    data = claim * 1000
    data += b"\xc0" * (size - len(data))
    tracemalloc.start()
    try:
        decodes_or_value_error(data)
        assert tracemalloc.get_traced_memory()[1] < 2**30
    finally:
        tracemalloc.stop()
