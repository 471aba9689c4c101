"""MessagePack for session data, with Python's own types kept.

What MessagePack has no type for becomes an extension: a scalar carries its
value in the extension's bytes; a tuple, set or frozenset is an array whose
first item is an extension that says which. Nested data thus stays one flat
message, read without recursion however deep it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from django.utils.functional import Promise
from msgpack import ExtType, Packer, unpackb

__all__ = ["MessagePackSerializer", "Serializer", "SessionData"]

#: What a session holds: whatever its serializer takes.
SessionData = dict[str, Any]


class Serializer(Protocol):
    """What SESSION_SERIALIZER names."""

    def dumps(self, obj: SessionData, /) -> bytes: ...
    def loads(self, data: bytes, /) -> SessionData: ...


# Extension codes: they are in stored sessions, so a number is never used anew.
_CONTAINER = 0
_INTEGER = 1
_DECIMAL = 2
_UUID = 3
_DATE = 4
_TIME = 5
_DATETIME = 6
_TIMEDELTA = 7

_TUPLE = ExtType(_CONTAINER, b"t")
_SET = ExtType(_CONTAINER, b"s")
_FROZENSET = ExtType(_CONTAINER, b"f")
_CONTAINERS: dict[bytes, type] = {b"t": tuple, b"s": set, b"f": frozenset}
# The first byte of such a mark. A number is found six times as fast in bytes as one byte is.
_CONTAINER_START = 0xD4

_MICROSECOND = timedelta(microseconds=1)


class MessagePackSerializer:
    """Sessions <-> MessagePack, each value back as its own type.

    Takes str, int of any size, float, bool, None, bytes, list, tuple, dict with
    any hashable keys, set, frozenset, datetime and time (time zones too), date,
    timedelta, Decimal and UUID. Subclasses come back as the plain type, so do
    lazy strings; a bytearray comes back as bytes. Nothing else is taken, and
    nothing in the data is ever executed.

    A time zone is kept by its key where it is a ``ZoneInfo``, as a fixed offset
    otherwise. Equal sets, and dicts with equal items in the same order, give
    equal bytes.
    """

    __slots__ = ()

    def dumps(self, obj: object) -> bytes:
        """``TypeError`` for a type that is not taken, ``ValueError`` for too deep nesting.

        500 levels are taken, of frozensets in one another 100.
        """
        try:
            try:
                return _pack(obj)
            except UnicodeEncodeError:
                # Lone surrogates, as JSON takes them too; always allowing them is slow.
                return _pack(obj, unicode_errors="surrogatepass")
        except TypeError as error:
            raise TypeError(f"{error}{_where(obj)}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"perhaps nested too deep, or holding itself: {error}") from error

    def loads(self, data: bytes) -> Any:
        """``ValueError`` for bytes that do not decode, whatever they are."""
        load = _load_containers if _CONTAINER_START in data else _load
        try:
            try:
                return load(data)
            except UnicodeDecodeError:
                return load(data, unicode_errors="surrogatepass")
        except MemoryError:
            # It says nothing about the data.
            raise
        except Exception as error:
            raise ValueError(f"Not session data in MessagePack: {error}") from error


# Writing


def _encode(value: object) -> object:
    """What to pack in place of a value that MessagePack has no type for."""
    for base in type(value).__mro__:
        if encoder := _ENCODERS.get(base):
            return encoder(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} is not serializable")


def _encode_integer(value: int) -> int | ExtType:
    plain = int.__int__(value)
    if -(2**63) <= plain < 2**64:
        return plain
    # Bytes, because decimal digits take quadratic time and are limited by Python.
    return ExtType(_INTEGER, plain.to_bytes(plain.bit_length() // 8 + 1, "big", signed=True))


def _encode_time(value: time) -> ExtType:
    zone = _encode_zone(value.tzinfo, value)
    fields = value.hour, value.minute, value.second, value.microsecond
    return ExtType(_TIME, _pack([*fields, value.fold, zone]))


def _encode_datetime(value: datetime) -> ExtType:
    zone = _encode_zone(value.tzinfo, value)
    day = value.year, value.month, value.day
    fields = value.hour, value.minute, value.second, value.microsecond
    return ExtType(_DATETIME, _pack([*day, *fields, value.fold, zone]))


def _encode_zone(zone: tzinfo | None, value: time | datetime) -> str | list[int | str] | None:
    if zone is None:
        return None
    if isinstance(zone, ZoneInfo) and zone.key:
        return zone.key
    offset = value.utcoffset()
    if offset is None:
        raise TypeError(f"A {type(value).__name__} with the time zone {zone!r} is not serializable")
    return [offset // _MICROSECOND, value.tzname() or ""]


def _encode_set(mark: ExtType, value: Iterable[object]) -> list[object]:
    # Python's own order of a set differs from process to process.
    return [mark, *sorted(value, key=_pack_to_sort)]


def _encode_to_sort(value: object) -> object:
    # Sorted once on the way up: were each level to sort its items by ``_encode``,
    # the work would double with every level of nested frozensets.
    if isinstance(value, frozenset):
        return ExtType(_CONTAINER, b"".join(sorted(map(_pack_to_sort, value))))
    return _encode(value)


def _pack_to_sort(value: object) -> bytes:
    return _pack(value, _encode_to_sort, unicode_errors="surrogatepass")


def _pack(
    value: object, encode: Callable[[Any], object] = _encode, *, unicode_errors: str | None = None
) -> bytes:
    # A packer of its own is as fast as a shared one, which threads would mix up.
    # With buffers of the default size, 256 KiB, two at a time take ten times as long.
    packer = Packer(default=encode, strict_types=True, unicode_errors=unicode_errors, buf_size=4096)
    return packer.pack(value)  # type: ignore[no-any-return]  # msgpack has no types.


# The methods are called on the class, since an enum has its own __str__.
_ENCODERS: dict[type, Callable[[Any], object]] = {
    str: str.__str__,
    Promise: str,
    int: _encode_integer,
    float: float.__float__,
    bytes: bytes,
    bytearray: bytes,
    # As the JSON encoder does: a QueryDict gives the last value of each key.
    dict: lambda value: dict(value.items()),
    list: list,
    tuple: lambda value: [_TUPLE, *value],
    set: partial(_encode_set, _SET),
    frozenset: partial(_encode_set, _FROZENSET),
    Decimal: lambda value: ExtType(_DECIMAL, Decimal.__str__(value).encode("ascii")),
    uuid.UUID: lambda value: ExtType(_UUID, value.bytes),
    date: lambda value: ExtType(_DATE, _pack([value.year, value.month, value.day])),
    time: _encode_time,
    datetime: _encode_datetime,
    timedelta: lambda value: ExtType(
        _TIMEDELTA, _pack([value.days, value.seconds, value.microseconds])
    ),
}


def _where(obj: object) -> str:
    """The path to the value that cannot be packed, as `` at ['cart'][2]``."""
    path = ""
    while isinstance(obj, (dict, list, tuple)):
        items = obj.items() if isinstance(obj, dict) else enumerate(obj)
        for key, item in items:
            try:
                _pack(item, unicode_errors="surrogatepass")
            except TypeError:
                path += f"[{key!r}]"
                obj = item
                break
            except (ValueError, RecursionError):
                pass
        else:
            break
    return f" at {path}" if path else ""


# Reading


def _load(data: bytes, unicode_errors: str | None = None) -> Any:
    return unpackb(data, ext_hook=_decode, strict_map_key=False, unicode_errors=unicode_errors)


def _load_containers(data: bytes, unicode_errors: str | None = None) -> Any:
    marks = 0

    def decode(code: int, data: bytes) -> object:
        nonlocal marks
        if code != _CONTAINER or data not in _CONTAINERS:
            return _decode(code, data)
        marks += 1
        return _CONTAINERS[data]

    def decode_array(items: list[object]) -> object:
        nonlocal marks
        if items and isinstance(items[0], type):
            marks -= 1
            return items[0](items[1:])
        return items

    value = unpackb(
        data,
        ext_hook=decode,
        list_hook=decode_array,
        strict_map_key=False,
        unicode_errors=unicode_errors,
    )
    if marks:
        raise ValueError("a mark of a tuple or set is not at the start of an array")
    return value


def _decode(code: int, data: bytes) -> object:
    decoder = _DECODERS.get(code)
    if decoder is None:
        raise ValueError(f"unknown extension {code}")
    return decoder(data)


def _decode_time(data: bytes) -> time:
    hour, minute, second, microsecond, fold, zone = unpackb(data)
    return time(hour, minute, second, microsecond, _decode_zone(zone), fold=fold)


def _decode_datetime(data: bytes) -> datetime:
    year, month, day, hour, minute, second, microsecond, fold, zone = unpackb(data)
    tz = _decode_zone(zone)
    return datetime(year, month, day, hour, minute, second, microsecond, tz, fold=fold)


def _decode_zone(zone: str | tuple[int, str] | None) -> tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        return ZoneInfo(zone)
    offset, name = zone
    fixed = timezone(offset * _MICROSECOND)
    return fixed if name in ("", fixed.tzname(None)) else timezone(fixed.utcoffset(None), name)


_DECODERS: dict[int, Callable[[bytes], object]] = {
    _INTEGER: lambda data: int.from_bytes(data, "big", signed=True),
    _DECIMAL: lambda data: Decimal(data.decode("ascii")),
    _UUID: lambda data: uuid.UUID(bytes=data),
    _DATE: lambda data: date(*unpackb(data)),
    _TIME: _decode_time,
    _DATETIME: _decode_datetime,
    _TIMEDELTA: lambda data: timedelta(*unpackb(data)),
}
