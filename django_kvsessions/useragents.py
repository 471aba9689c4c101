"""What a user agent says of its browser, by ua-parser, which the extra ``[devices]`` brings."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

__all__ = ["Device", "describe"]


class Device(NamedTuple):
    """``None`` for what the user agent does not tell."""

    browser: str | None
    os: str | None
    #: "desktop", "phone", "tablet" or "robot".
    kind: str | None


@lru_cache(maxsize=1000)
def describe(user_agent: str | None) -> Device | None:
    """``None`` without a user agent, or without ua-parser."""
    if not user_agent:
        return None
    try:
        from ua_parser import parse
    except ImportError:
        return None
    found = parse(user_agent)
    os = found.os.family if found.os else None
    return Device(
        found.user_agent.family if found.user_agent else None,
        os,
        _kind(os, found.device.family if found.device else "", user_agent),
    )


def _kind(os: str | None, device: str, user_agent: str) -> str | None:
    if device == "Spider":
        return "robot"
    if os == "iOS":
        return "tablet" if device.startswith("iPad") else "phone"
    if os == "Android":
        # As Android's own documentation has it, for browsers; others name the device at most.
        return "phone" if "Mobile" in user_agent else "tablet"
    if os and (os in ("Windows", "Mac OS X", "Linux", "Chrome OS", "Ubuntu", "Fedora", "FreeBSD")):
        return "desktop"
    return None
