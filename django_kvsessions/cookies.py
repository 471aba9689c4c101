"""``Partitioned`` on a cookie (CHIPS), also on a Python whose cookies do not know it."""

from __future__ import annotations

from http.cookies import Morsel

from django.http import HttpResponseBase

__all__ = ["partition"]

FLAG = "partitioned"


class PartitionedMorsel(Morsel[str]):
    """A cookie of a Python before 3.14, with one attribute more."""

    _reserved = {**Morsel._reserved, FLAG: "Partitioned"}  # type: ignore[attr-defined]  # private
    _flags = {*Morsel._flags, FLAG}  # type: ignore[attr-defined]  # private


def partition(response: HttpResponseBase, name: str) -> None:
    """Have a browser keep that cookie of the response apart for each site that embeds this one.

    It takes no such cookie without ``Secure``, nor a deletion of one.
    """
    cookie = response.cookies[name]
    if not cookie.isReservedKey(FLAG):
        known = PartitionedMorsel()
        known.set(cookie.key, cookie.value, cookie.coded_value)
        known.update(cookie)
        # SimpleCookie would make a Morsel of its own of it.
        dict.__setitem__(response.cookies, name, known)
        cookie = known
    cookie[FLAG] = cookie["secure"] = True
